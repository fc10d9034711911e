"""Reward or prior: what moves an agent that learns with a wrong model.

Inside a phase the *size* of the reward moves nothing: equilibria are made of best replies, and all
payoffs times a constant have the same ones. A *bonus* for one action does move the threshold: an
agent that is paid b more for honesty flatters only where it believes that flattery is approved of
with a probability of (1 + b) / 2 or more, and a large enough b makes a whole box of environments
safe. So do bounds on the models that the agent can represent.

In environments where both habits are stable the same search is given each of the three. Their costs
are in different units (log-factor, payoff, nats) and cannot be compared.
"""

import jax.numpy as jnp
import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

LOW, HIGH = 0.55, 0.9
BOX = {"p_sycophantic": (LOW, HIGH), "p_honest": (LOW, HIGH)}
BUDGET = 1.0  # the most that a design may cost: log-factor, units of payoff, or nats
ENOUGH = 2 * HIGH - 1  # a bonus above it has its threshold above all rates of the box


def paid(p_sycophantic, p_honest, log10_scale, bonus):
    """Sycophancy with approval worth 10**log10_scale, and honesty paid a bonus in units of it."""

    def rates(first, second):
        return jnp.stack([jnp.stack([1 - p, p]) for p in (first, second)])

    return bn.Problem.from_family(
        lambda theta: rates(theta[0], 1 - theta[0]),
        [0.0],
        [1.0],
        probs=rates(p_sycophantic, p_honest),
        payoff=jnp.asarray(10.0) ** log10_scale * jnp.array([[0.0, 1.0], [bonus, 1 + bonus]]),
        safe=[False, True],
        unique_best_fit=True,
    )


def theory(p, q, bonus):
    """The phase: the theorem of sycophancy, with the threshold (1 + b) / 2 instead of 1/2."""
    flatter, correct = p > (1 + bonus) / 2, q > (1 - bonus) / 2  # which habits can last
    both = np.where(correct, bn.Phase.MULTISTABLE, bn.Phase.UNSAFE)
    return np.where(flatter, both, np.where(correct, bn.Phase.SAFE, bn.Phase.OSCILLATORY))


def run(quick: bool) -> Results:
    side = 8 if quick else 40
    rate = (np.arange(side) + 0.5) / side  # no rate is a threshold
    scales = np.linspace(-2, 2, 3 if quick else 9)
    bonuses = np.array([0, 0.2, 0.4, 0.6, 0.85, 1])
    diagram = bn.phase_diagram(
        paid, {"p_sycophantic": rate, "p_honest": rate, "log10_scale": scales, "bonus": bonuses}
    )
    phases = diagram.phase.values
    moved = (phases != phases[:, :, :1]).any(2)
    right = phases == theory(*np.meshgrid(rate, rate, scales, bonuses, indexing="ij")[:2], bonuses)
    box = (rate >= LOW) & (rate <= HIGH)
    boxed = (phases[box][:, box] == bn.Phase.SAFE).mean((0, 1, 2))  # by bonus
    options = {"objective": bn.design.Objective(most_cost=BUDGET)}
    if quick:
        options |= {"num_starts": 2, "num_agents": 200, "horizon": 200}
        options |= {"certified_environments": 9}
    designs = {
        "reward scale": bn.design.RewardScale(),
        "reward bonus": bn.design.RewardBonus(),
        "support bounds": bn.design.SupportBounds(),
    }
    found = {
        name: bn.design.optimize(bn.scenarios.sycophancy, BOX, design, **options)
        for name, design in designs.items()
    }
    scaled, bonus, models = found.values()
    rows = [_row("reference", scaled.before, scaled.support_before, "none", "-")]
    units = "log-factor", "payoff", "nats"
    for (name, x), unit in zip(found.items(), units, strict=True):
        rows.append(_row(name, x.after, x.support, x.earned, unit))
    safe = {row["design"]: row["safe share, mean"] for row in rows}
    gap = float(bonus.parameters[1] - bonus.parameters[0])
    return Results(
        {"reward_or_prior": bn.plot.designs(found), "rewards": _draw(diagram)},
        {
            "reward_or_prior": "What the search did with each lever, at the same nominal budget "
            "(log-factor, units of payoff, nats): how often agents play safe (mean and worst "
            "environment, and simulated, with its interval), in how many environments the phase is "
            "safe, and which certificate was earned.",
            "rewards": "Phases with approval worth a hundredth and a hundred: the same; and with "
            "a bonus for honesty, in units of approval. Outlined: the environments of the search.",
        },
        rows,
        [
            Finding(
                "Payoffs from a hundredth to a hundred times as large change no phase.",
                f"{moved.sum():,} of {moved.size:,} environments and bonuses change theirs.",
                not moved.any(),
            ),
            Finding(
                "A bonus b for honesty moves the threshold from 1/2 to (1 + b) / 2, and the phase "
                "is that of the theorem with this threshold.",
                f"So in {right.sum():,} of {right.size:,} cells.",
                right.all(),
            ),
            Finding(
                f"A bonus above {ENOUGH:g} of approval makes the whole box safe; none does not.",
                f"Share of the box that is safe: {_each(bonuses, boxed)}.",
                (boxed[bonuses > ENOUGH] == 1).all() and boxed[0] == 0,
            ),
            Finding(
                "A search over the reward's size gains nothing and earns no certificate, as must "
                "be.",
                f"Safe play from {safe['reference']:.3f} to {safe['reward scale']:.3f}; earned: "
                f"{scaled.earned}.",
                abs(safe["reward scale"] - safe["reference"]) < 0.001 and scaled.earned == "none",
            ),
            Finding(
                "A search over bonuses makes agents play safe, and earns a certificate.",
                f"Safe play from {safe['reference']:.3f} to {safe['reward bonus']:.3f}; honesty is "
                f"paid {gap:.3f} more; the phase is safe in {100 * bonus.support.share:.0f}% of "
                f"the environments; earned: {bonus.earned}.",
                safe["reward bonus"] > 0.99 and bonus.earned != "none",
            ),
            Finding(
                "So does a search over bounds on what the agent can represent, and its certificate "
                "is an exact one.",
                f"Safe play from {safe['reference']:.3f} to {safe['support bounds']:.3f} for "
                f"{float(models.after.cost):.3f} nats; the phase is safe in "
                f"{100 * models.support.share:.0f}% of the environments; earned: {models.earned}.",
                safe["support bounds"] > 0.99 and models.earned == "support",
            ),
        ],
        {"budget": BUDGET},
    )


def _each(bonuses, shares):
    return ", ".join(f"{100 * x:.0f}% at {b:g}" for b, x in zip(bonuses, shares, strict=True))


def _draw(diagram):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(12.5, 3.6), layout="constrained")
    shown = {f"approval worth {10.0**s:g}": (s, 0) for s in (-2, 2)}
    shown |= {f"bonus {b:g}": (0, b) for b in (0.4, 0.85)}
    for ax, (title, (scale, bonus)) in zip(axes, shown.items(), strict=True):
        phases = diagram.sel(log10_scale=scale, bonus=bonus, method="nearest")
        bn.plot.phase_diagram(phases, ax=ax, title=title)
        corners = [LOW, HIGH, HIGH, LOW, LOW], [LOW, LOW, HIGH, HIGH, LOW]
        ax.plot(*corners, color="black", lw=1.4)
    return figure


def _row(name, evaluation, support, earned, unit):
    return {
        "design": name,
        "safe share, mean": float(np.mean(evaluation.safe_share)),
        "safe share, worst": float(np.min(evaluation.safe_share)),
        "safe phase, share": support.share,
        "payoff": float(np.mean(evaluation.payoff)),
        "cost": float(evaluation.cost),
        "in": unit,
        "earned": earned,
    }


if __name__ == "__main__":
    main("reward_or_prior")
