"""Safe priors: designed by gradients, certified exactly, and what they cost.

In three traps (two stable habits, an overconfident deceiver, endless oscillation) a designer who
knows only a box of environments bounds the models that the agent can represent. The search climbs
the gradient of smooth equilibria; what it finds counts only once the exact solver has put every
environment of a grid over the box into the safe phase. Short of that, reweighting models buys
safety by degrees, at a price: the Pareto front.
"""

import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

TRAPS = {
    "multistable": ("sycophancy", {"p_sycophantic": (0.55, 0.8), "p_honest": (0.55, 0.8)}),
    "deception": ("deception", {"p_detect": (0.3, 0.9)}),
    "oscillatory": ("sycophancy", {"p_sycophantic": (0.2, 0.45), "p_honest": (0.2, 0.45)}),
}


def run(quick: bool) -> Results:
    options = {}
    if quick:
        options = {"num_steps": 50, "num_starts": 2, "num_agents": 200, "horizon": 200}
        options |= {"certified_environments": 9}
    found = {
        name: bn.design.optimize(
            getattr(bn.scenarios, scenario), box, bn.design.SupportBounds(), **options
        )
        for name, (scenario, box) in TRAPS.items()
        if not (quick and name == "oscillatory")  # the same program as the first
    }
    scenario, box = TRAPS["multistable"]
    short = {"num_steps": 40, "num_starts": 2} if quick else {}
    front = bn.design.pareto(
        getattr(bn.scenarios, scenario), box, bn.design.BetaPrior(), threshold=None, **short
    )
    order = np.argsort(-front.weights)  # from the greatest weight of the cost to the least
    safety, cost = front.safe_share[order], front.cost[order]
    before = float(np.mean(front.reference.safe_share))
    rows = [
        {
            "trap": name,
            "safe share before": float(np.mean(x.before.safe_share)),
            "safe share after": float(np.mean(x.after.safe_share)),
            "payoff before": float(np.mean(x.before.payoff)),
            "payoff after": float(np.mean(x.after.payoff)),
            "cost in nats": float(x.after.cost),
            "earned": x.earned,
        }
        for name, x in found.items()
    ]
    figures = {name: bn.plot.design(x) for name, x in found.items()}
    captions = {
        name: f"{name.capitalize()} trap: phases before and after, the prior, and the search."
        for name in found
    }
    return Results(
        figures | {"front": bn.plot.pareto(front)},
        captions
        | {"front": "Reweighting models instead (a Beta prior): safe play against cost in nats."},
        rows,
        [
            *(
                Finding(
                    f"The {name} trap: a design whose support certifies it is found.",
                    f"Safe play from {np.mean(x.before.safe_share):.3f} to "
                    f"{np.mean(x.after.safe_share):.3f}, {float(x.after.cost):.3f} nats; "
                    f"earned: {x.earned}.",
                    x.earned == "support" and not x.support_before.holds,
                )
                for name, x in found.items()
            ),
            Finding(
                "Reweighting buys safety by degrees: the less a nat weighs, the more of both.",
                f"From {safety[0]:.3f} at {cost[0]:.3f} nats to {safety[-1]:.3f} at "
                f"{cost[-1]:.3f}; {before:.3f} without.",
                (np.diff(safety) > -1e-3).all()
                and (np.diff(cost) > -1e-2).all()
                and safety[-1] > 0.99 > 0.9 > safety[0] > before,
            ),
        ],
    )


if __name__ == "__main__":
    main("safe_prior_design")
