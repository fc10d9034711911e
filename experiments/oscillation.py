"""Oscillation: where neither habit can last.

Where both answers are disapproved of more often than not, each habit destroys the belief that it
rests on: best replies to best fits run round a cycle of two, and no pure strategy is an
equilibrium. With perfect memory the time average of play tends to the mixture
s* = (1/2 - p_H) / (1 - p_S - p_H), which the mean field reaches from any start, and beliefs come to
rest at indifference; play does not: agents change their minds as often as ever. With a memory that
fades or a window that moves, beliefs do not come to rest either.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main

P_S, P_H = 0.3, 0.4
MIXTURE = (0.5 - P_H) / (1 - P_S - P_H)
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
    follow = jax.jit(
        jax.vmap(lambda s: bn.mean_field(problem, [s, 1 - s], duration=3.0, num_saved=601))
    )
    field = follow(starts)
    rows = []
    for name, done in lives.items():
        late = float(done.late_frequency[:, 0].mean())
        switches = np.asarray(done.switches, float).mean(0) / (steps / 4)
        theta = np.asarray(done.trajectory.mean_theta)[:, -1, 0]
        rows.append(
            {
                "memory": name,
                "late share of flattery": late,
                "equilibrium": MIXTURE,
                "agents that locked in": float(
                    np.mean(np.asarray(done.outcome) == bn.Outcome.LOCKED)
                ),
                "changes of mind a step, third quarter": switches[0],
                "fourth quarter": switches[1],
                "belief at the end": float(theta.mean()),
                "its spread": float(theta.std()),
            }
        )
    off = abs(rows[0]["late share of flattery"] - MIXTURE)
    rest = float(abs(np.asarray(field.final)[:, 0] - MIXTURE).max())
    locked = [row["agents that locked in"] for row in rows]
    spread = [row["its spread"] for row in rows]
    pace = [row["fourth quarter"] / row["changes of mind a step, third quarter"] for row in rows]
    return Results(
        {"lives": _draw_lives(lives), "mean_field": _draw_field(field, starts)},
        {
            "lives": "Belief that flattery is approved of, of one agent under each memory (top), "
            f"and the share of {agents} agents that flatter, over 50 observations (bottom), "
            f"at approval rates {P_S:g} and {P_H:g}.",
            "mean_field": "Time-average play by the mean field, exactly, from seven starts; time "
            "is the logarithm of the number of observations, counted from the start.",
        },
        rows,
        [
            Finding(
                "Best replies to best fits run round a cycle of two.",
                f"Period {int(cycle.period)}.",
                int(cycle.period) == 2,
            ),
            Finding(
                f"With perfect memory play averages to s* = {MIXTURE:.4f}.",
                f"{rows[0]['late share of flattery']:.4f}, {off:.4f} off.",
                off < (0.02 if quick else 0.01),
            ),
            Finding(
                "The mean field reaches s* from every start.",
                f"At most {rest:.1e} off.",
                rest < 1e-3,
            ),
            Finding(
                "Nobody settles: minds change as often in the last quarter as in the one before.",
                f"Locked in: {', '.join(f'{x:.3f}' for x in locked)}; fourth quarter against "
                f"third: {', '.join(f'{x:.2f}' for x in pace)}.",
                max(locked) < 0.02 and all(0.9 < x < 1.1 for x in pace),
            ),
            Finding(
                "Beliefs come to rest at indifference with perfect memory, and only then.",
                f"Theta at the end, with perfect memory: {rows[0]['belief at the end']:.4f} on "
                f"average over agents; its spread: {', '.join(f'{x:.4f}' for x in spread)}.",
                abs(rows[0]["belief at the end"] - 0.5) < 0.005 and 3 * spread[0] < min(spread[1:]),
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
        theta = np.asarray(done.trajectory.mean_theta)[0, :, 0]
        share = (np.asarray(done.trajectory.intended) == 0).mean(0)
        share = np.convolve(share, np.full(10, 0.1), mode="same")
        at = 5 * np.arange(1, len(theta) + 1)
        shown = (at > 25) & (at <= 1_000)  # where the running mean is whole
        top.plot(at[shown], theta[shown], lw=0.9, color="#00517f")
        top.axhline(0.5, color="black", lw=0.7, ls=":")
        top.set(title=f"{name} memory" if name == "perfect" else name)
        bottom.plot(at[shown], share[shown], lw=0.9, color="#d55e00")
        bottom.axhline(MIXTURE, color="black", lw=0.8, ls="--", label="s*")
        bottom.set(xlabel="observations", ylim=(0, 1), xlim=(0, 1_000), xticks=(0, 250, 500, 750))
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
