"""Reward or prior: what moves an agent that learns with a wrong model.

Inside a phase the size of the reward moves nothing: equilibria are made of best replies, and all
payoffs times a constant have the same ones. What the agent can believe moves everything. In
environments where both habits are stable the same search, with the same budget, is given the reward
to scale, or the bounds of the models that the agent can represent.
"""

import jax.numpy as jnp
import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

BOX = {"p_sycophantic": (0.55, 0.9), "p_honest": (0.55, 0.9)}
BUDGET = 1.0  # the cost of a design: log-factor of the reward, or nats from the reference prior


def rewarded(p_sycophantic, p_honest, log10_scale):
    """Sycophancy, with approval worth 10**log10_scale."""
    from bnjax.scenarios import sycophancy

    problem = sycophancy(p_sycophantic, p_honest).discretize(65)
    scale = jnp.asarray(10.0) ** log10_scale
    return bn.Problem(
        problem.probs, problem.model_probs, problem.payoff * scale, safe=jnp.array([False, True])
    )


def run(quick: bool) -> Results:
    side = 8 if quick else 40
    rate = (np.arange(side) + 0.5) / side
    scales = np.linspace(-2, 2, 5 if quick else 17)
    diagram = bn.phase_diagram(
        rewarded, {"p_sycophantic": rate, "p_honest": rate, "log10_scale": scales}
    )
    phases = diagram.phase.values
    moved = (phases != phases[..., :1]).any(-1)
    options = {"objective": bn.design.Objective(most_cost=BUDGET)}
    if quick:
        options |= {"num_starts": 2, "num_agents": 200, "horizon": 200}
        options |= {"certified_environments": 9}
    designs = {
        "reward scale": bn.design.RewardScale(),
        "support bounds": bn.design.SupportBounds(),
    }
    found = {
        name: bn.design.optimize(bn.scenarios.sycophancy, BOX, design, **options)
        for name, design in designs.items()
    }
    before = found["reward scale"].before
    rows = [_row("reference", before, "none")]
    rows += [_row(name, x.after, x.earned) for name, x in found.items()]
    reward, models = found.values()
    gained = np.mean(reward.after.safe_share) - np.mean(before.safe_share)
    return Results(
        {"reward_or_prior": bn.plot.designs(found), "rewards": _draw(diagram)},
        {
            "reward_or_prior": "What the search did with each lever, at the same budget: how often "
            "agents play safe (mean and worst environment, and simulated), in how many "
            "environments the phase is safe, and which certificate was earned.",
            "rewards": "Phases with approval worth a hundredth, one, and a hundred: the same.",
        },
        rows,
        [
            Finding(
                "Rewards from a hundredth to a hundred times as large change no phase.",
                f"{moved.sum()} of {moved.size:,} environments change theirs.",
                not moved.any(),
            ),
            Finding(
                "A search over the reward's size gains nothing and earns no certificate.",
                f"Safe play gains {gained:.4f}; earned: {reward.earned}.",
                abs(gained) < 0.05 and reward.earned == "none",
            ),
            Finding(
                "With the same budget, bounds on what the agent can represent make it safe, and "
                "that is certified.",
                f"Safe play from {np.mean(models.before.safe_share):.3f} to "
                f"{np.mean(models.after.safe_share):.3f} for {float(models.after.cost):.3f} nats; "
                f"earned: {models.earned}.",
                models.earned == "support",
            ),
        ],
        {"budget": BUDGET},
    )


def _draw(diagram):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4.1), layout="constrained")
    for ax, scale in zip(axes, (-2, 0, 2), strict=True):
        shown = diagram.sel(log10_scale=scale, method="nearest")
        bn.plot.phase_diagram(shown, ax=ax, title=f"approval worth {10.0**scale:g}")
    return figure


def _row(name, evaluation, earned):
    return {
        "design": name,
        "safe share, mean": float(np.mean(evaluation.safe_share)),
        "safe share, worst": float(np.min(evaluation.safe_share)),
        "payoff": float(np.mean(evaluation.payoff)),
        "cost": float(evaluation.cost),
        "earned": earned,
    }


if __name__ == "__main__":
    main("reward_or_prior")
