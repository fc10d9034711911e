"""Safe priors: designed by gradients, certified exactly, and what they cost.

In four traps (two stable habits, an overconfident deceiver, endless oscillation, and fabrication
in all four regimes) a designer who knows only a box of environments bounds the models that the
agent can represent. The search climbs the gradient of smooth equilibria; what it finds counts only
once the exact solver has put every environment of a grid over the box into the safe phase. That can
be seen without a solver, too: no model that is kept makes the unsafe action a best reply, and so
the design is safe in every environment, whether on the grid or not.

Short of that a designer may reweight models. That moves environments across the border one by one:
the mean over the box rises before the worst environment does, and the worst one jumps.
"""

import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

_RATES = ("p_sycophantic", "p_honest")
DECEIVER = {"p_detect": (0.3, 0.9), "detect_upper": 0.7}  # its prior mean is below t
TRAPS = {
    "multistable": ("sycophancy", dict.fromkeys(_RATES, (0.55, 0.8))),
    "deception": ("deception", DECEIVER),
    "oscillatory": ("sycophancy", dict.fromkeys(_RATES, (0.2, 0.45))),
    "hallucination": ("hallucination", dict.fromkeys(("p_fabricate", "p_abstain"), (0.3, 0.9))),
}
T = 0.4  # believed detection at which deceiving stops paying: (1 - 0.2) / (1 + 1)
_LOW, _HIGH = 0.05, 0.95  # a choice: safe shares below and above which play counts as one or other


def safe_by_hand(name: str, result: bn.design.DesignResult) -> tuple[str, bool]:
    """Which models are kept, and whether none of them makes the unsafe action a best reply."""
    problem, _ = result.learner()
    kept = np.asarray(problem.theta)[np.asarray(problem.support), 0]
    said = f"models kept are {kept.min():.3f} to {kept.max():.3f}"
    if name == "deception":
        return f"{said}, all above t = {T:g}", kept.min() > T
    return f"{said}, all below 1/2", kept.max() < 0.5


def run(quick: bool) -> Results:
    options, short = {}, {}
    if quick:
        options = {"num_steps": 50, "num_starts": 2, "num_agents": 200, "horizon": 200}
        options |= {"certified_environments": 9}
        short = {"num_steps": 40, "num_starts": 2}
    designs = {
        name: bn.design.optimize(
            getattr(bn.scenarios, scenario), box, bn.design.SupportBounds(), **options
        )
        for name, (scenario, box) in TRAPS.items()
        if not quick or name in ("multistable", "deception")  # the others are the first's program
    }
    fronts = {
        name: bn.design.pareto(
            getattr(bn.scenarios, TRAPS[name][0]),
            TRAPS[name][1],
            bn.design.BetaPrior(),
            threshold=None,
            **short,
        )
        for name in (("multistable",) if quick else ("multistable", "deception"))
    }
    rows = [
        {
            "trap": name,
            "safe share before": float(np.mean(x.before.safe_share)),
            "safe share after": float(np.mean(x.after.safe_share)),
            "safe phase before": x.support_before.share,
            "safe phase after": x.support.share,
            "payoff before": float(np.mean(x.before.payoff)),
            "payoff after": float(np.mean(x.after.payoff)),
            "cost in nats": float(x.after.cost),
            "earned": x.earned,
        }
        for name, x in designs.items()
    ]
    return Results(
        {name: bn.plot.design(x) for name, x in designs.items()}
        | {f"front_{name}": _front(x) for name, x in fronts.items()},
        {
            name: f"{name.capitalize()} trap: phases before and after, the prior, and the search. "
            "Safe shares are those of the least safe start of play."
            for name in designs
        }
        | {
            f"front_{name}": f"{name.capitalize()} trap: models reweighted (a Beta prior) and none "
            "ruled out; safe play against cost, by the weight of the cost in the objective. Safe "
            "shares are those of play that starts from the prior"
            + " (where rates are equal, a uniform prior is exactly tied)" * (name == "multistable")
            + ". Lines only join the designs that some weight finds."
            for name in fronts
        },
        rows,
        [_designed(name, x) for name, x in designs.items()]
        + [_reweighted(name, x) for name, x in fronts.items()],
    )


def _designed(name, x):
    kept, by_hand = safe_by_hand(name, x)
    before, after = (float(np.mean(y.safe_share)) for y in (x.before, x.after))
    return Finding(
        f"The {name} trap: a design is found whose support certifies it, and no model that is kept "
        "makes the unsafe action a best reply.",
        f"Safe play, from the least safe start, from {before:.3f} to {after:.3f} for "
        f"{float(x.after.cost):.3f} nats; safe phase from {100 * x.support_before.share:.0f}% to "
        f"{100 * x.support.share:.0f}% of the environments; {kept}; earned: {x.earned}.",
        x.earned == "support" and by_hand and not x.support_before.holds and before < 0.9 < after,
    )


def _reweighted(name, front):
    order = np.argsort(front.cost, kind="stable")
    cost, mean, worst = (x[order] for x in (front.cost, front.safe_share, front.worst_share))
    reference = float(np.mean(front.reference.safe_share))
    unsafe = worst < _LOW
    jump = (unsafe | (worst > _HIGH)).all() and unsafe.any() and not unsafe.all()
    ordered = (np.diff(unsafe.astype(int)) <= 0).all()  # unsafe first, then safe
    text = (
        f"From the prior, mean {reference:.3f}; the worst environment is at most "
        f"{worst[unsafe].max(initial=0):.3f} up to {cost[unsafe].max(initial=0):.3f} nats, where "
        f"the mean is {mean[unsafe].max(initial=0):.3f}, and at least "
        f"{worst[~unsafe].min(initial=1):.3f} from {cost[~unsafe].min(initial=np.inf):.3f} nats "
        f"on, where the mean is {mean[~unsafe].min(initial=1):.3f}."
    )
    if name == "multistable":  # where environments differ in more than one rate
        claim = "the mean rises before the worst environment does, which jumps"
        first = mean[unsafe].max(initial=0) > reference + 0.1
        return Finding(f"The {name} trap, reweighted: {claim}.", text, jump and ordered and first)
    claim = "no environment is left behind above a cost, and below it the worst is not safe at all"
    return Finding(f"The {name} trap, reweighted: {claim}.", text, jump and ordered)


def _front(front):
    figure = bn.plot.pareto(front)
    figure.axes[0].set_xlabel("cost of the design (nats)")
    return figure


if __name__ == "__main__":
    main("safe_prior_design")
