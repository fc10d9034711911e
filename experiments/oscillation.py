"""Oscillation: where neither habit can last.

Where both answers are disapproved of more often than not, each habit destroys the belief that it
rests on: the map from a habit to the best reply to its best fit has a cycle of two, and no pure
strategy is an equilibrium. Agents follow no such cycle. With perfect memory the time average of
their play tends to the mixture s* = (1/2 - p_H) / (1 - p_S - p_H), which the mean field reaches
from any start, and beliefs come to rest at indifference; play does not: minds change at a rate of
2 s* (1 - 2 p_S) a step, for ever. (What tips the belief is a walk by one, whose stationary
distribution is geometric on both sides.) With a memory that fades or a window that moves, beliefs
do not come to rest, and play averages to something else.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main, mean_allowed

P_S, P_H = 0.3, 0.4
MIXTURE = (0.5 - P_H) / (1 - P_S - P_H)
CHANGES = 2 * MIXTURE * (1 - 2 * P_S)  # of mind, a step, with perfect memory
_SHARE = "late share of flattery"
_ALARM = 0.001  # how often chance alone may refuse a true mean
MEMORIES = {
    "perfect": bn.PerfectMemory,
    "fading by 2% a step": lambda: bn.DiscountedMemory(0.02),
    "window of 50": lambda: bn.WindowMemory(50),
}


def run(quick: bool) -> Results:
    agents, steps, models = (128, 2_000, 65) if quick else (1_024, 10_000, 129)
    problem = bn.scenarios.sycophancy(P_S, P_H)
    grid = problem.discretize(models)
    lives = {
        name: bn.simulate(
            grid,
            jax.random.key(SEED),
            num_agents=agents,
            num_steps=steps,
            memory=make(),
            record=bn.Trajectory(5),
        )
        for name, make in MEMORIES.items()
    }
    cycle = bn.best_fit_dynamics(problem)
    starts = np.linspace(0.02, 0.98, 7)
    field = jax.jit(
        jax.vmap(lambda s: bn.mean_field(problem, [s, 1 - s], duration=3.0, num_saved=601))
    )(starts)
    rows, drifts = [], []
    for name, done in lives.items():
        switches = np.asarray(done.switches, float) / (steps / 4)
        share, error = mean_allowed(done.late_frequency[:, 0], _ALARM)
        pace, near = mean_allowed(switches, _ALARM)
        drifts.append(mean_allowed(switches[:, 1] - switches[:, 0], _ALARM))
        theta = np.asarray(done.trajectory.mean_theta)[:, -1, 0]
        rows.append(
            {
                "memory": name,
                _SHARE: share,
                "allowed": error,
                "agents that locked in": np.mean(np.asarray(done.outcome) == bn.Outcome.LOCKED),
                "changes of mind a step, third quarter": pace[0],
                "fourth quarter": pace[1],
                "allowed, fourth": near[1],
                "belief at the end": float(theta.mean()),
                "its spread": float(theta.std()),
            }
        )
    first, means = rows[0], [((r[_SHARE], r["allowed"]), r["memory"]) for r in rows]
    changes, near = first["fourth quarter"], first["allowed, fourth"]
    off = [abs(x - MIXTURE) / e for (x, e), _ in means]
    rest = float(abs(np.asarray(field.final)[:, 0] - MIXTURE).max())
    locked = [row["agents that locked in"] for row in rows]
    spread = [row["its spread"] for row in rows]
    return Results(
        {"lives": _draw_lives(lives), "mean_field": _draw_field(field, starts)},
        {
            "lives": "Belief that flattery is approved of (top; one agent, and the middle 90% of "
            f"all) and the share of {agents:,} agents that flatter, over 50 observations (bottom; "
            f"band: 99.9% interval), at approval rates {P_S:g} and {P_H:g}. Dashed: s*, to which "
            "only perfect memory averages.",
            "mean_field": "Time-average play by the mean field, exactly, from seven starts; time "
            "is the logarithm of the number of observations, counted from the start.",
        },
        rows,
        [
            Finding(
                "The map from habits to best replies to their best fits has a cycle of two.",
                f"Period {int(cycle.period)}.",
                int(cycle.period) == 2,
            ),
            Finding(
                f"With perfect memory play averages to s* = {MIXTURE:.4f}, within an interval that "
                "chance leaves once in a thousand runs; with the other memories it does not.",
                "; ".join(f"{x:.4f} +- {e:.4f} ({name})" for (x, e), name in means) + ".",
                off[0] <= 1 < min(off[1:]),
            ),
            Finding(
                "The mean field reaches s* from every start.",
                f"At most {rest:.1e} off.",
                rest < 1e-6,
            ),
            Finding(
                f"With perfect memory minds change at the rate {CHANGES:.4f}, for ever.",
                f"{changes:.4f} +- {near:.4f} in the last quarter.",
                abs(changes - CHANGES) <= near,
            ),
            Finding(
                "Nobody settles: with no memory do minds change less often in the last quarter "
                "than in the one before, and hardly anybody locks in.",
                f"Locked in: {', '.join(f'{x:.3f}' for x in locked)}; fourth quarter less third: "
                f"{', '.join(f'{x:+.4f} (+- {e:.4f})' for x, e in drifts)}.",
                max(locked) < 0.02 and all(x >= -e for x, e in drifts),
            ),
            Finding(
                "Beliefs come to rest at indifference with perfect memory, and only then.",
                f"Theta at the end, with perfect memory: {first['belief at the end']:.4f} on "
                f"average over agents; its spread: {', '.join(f'{x:.4f}' for x in spread)}.",
                abs(first["belief at the end"] - 0.5) < 0.005 and 3 * spread[0] < min(spread[1:]),
            ),
        ],
        {"agents": agents, "steps": steps, "models": models},
    )


def _draw_lives(lives):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, 3, figsize=(9, 4.4), sharex=True, sharey="row", layout="constrained"
    )
    for (name, done), (top, bottom) in zip(lives.items(), axes.T, strict=True):
        theta = np.asarray(done.trajectory.mean_theta)[:, :200, 0]
        flattery = np.cumsum(np.asarray(done.trajectory.intended)[:, :200] == 0, 1) / 10
        share, error = mean_allowed(flattery[:, 10:] - flattery[:, :-10], _ALARM)
        at = 5 * np.arange(1, 201)
        top.fill_between(at, *np.quantile(theta, [0.05, 0.95], 0), color="#9fc3dd", lw=0)
        top.plot(at, theta[0], lw=0.9, color="#00517f")
        top.axhline(0.5, color="black", lw=0.7, ls=":")
        top.set(title=f"{name} memory" if name == "perfect" else name)
        bottom.fill_between(at[10:], share - error, share + error, color="#f5c3a0", lw=0)
        bottom.plot(at[10:], share, lw=0.9, color="#d55e00")
        bottom.axhline(MIXTURE, color="black", lw=0.8, ls="--", label="s*")
        bottom.set(xlabel="observations", ylim=(0, 0.8), xlim=(0, 1_000), xticks=(0, 250, 500, 750))
    axes[0, 0].set(ylabel="belief in flattery, theta")
    axes[1, 0].set(ylabel="share that flatters")
    axes[1, 0].legend(frameon=False)
    return figure


def _draw_field(field, starts):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for path in range(len(starts)):
        ax.plot(field.times[path], np.asarray(field.strategy)[path, :, 0], lw=1, color="#00517f")
    ax.axhline(MIXTURE, color="black", lw=0.8, ls="--", label="s*")
    ax.set(
        xlabel="log of observations", ylabel="share of flattery so far", ylim=(0, 1), xlim=(0, 3)
    )
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("oscillation")
