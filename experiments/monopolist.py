"""The monopolist: a wrong demand curve, and prices that never settle.

Nyarko (1991), as in Esponda and Pouzo (2016): a seller chooses a price of 2 or of 10 and believes
in a line of demand that passes through neither of the true points. Neither price is an equilibrium:
what is seen at one makes the other look better. The only equilibrium mixes, with probability 35/36
on the low price, and believes in the line (a, b) = (40, 10/3).

Simulated sellers believe in a grid of lines, whose equilibrium the exact solver names; what they
play averages to it, as near to 35/36 as the grid is fine.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main

PUBLISHED, BELIEVED = 35 / 36, (40.0, 10 / 3)


def run(quick: bool) -> Results:
    with jax.enable_x64(True):
        problem = bn.scenarios.monopolist()
        found = bn.equilibria(problem)
        play = np.asarray(found.strategy)[np.asarray(found.valid)]
        fit = np.asarray(found.best_fit)[np.asarray(found.valid)]
        pure = np.asarray(found.is_pure)[np.asarray(found.valid)].any()
        cycle = bn.best_fit_dynamics(problem)
        fits = bn.plot.best_fit_curve(problem)
    agents, steps = (64, 2_000) if quick else (512, 20_000)
    lines = 7 if quick else 19
    grid = bn.scenarios.monopolist().discretize(lines)
    exact = bn.equilibria(grid)
    ends = np.concatenate(
        [np.asarray(x)[np.asarray(exact.valid)] for x in (exact.strategy, exact.strategy_end)]
    )
    low, high = ends[:, 0].min(), ends[:, 0].max()
    done = bn.simulate(
        grid,
        jax.random.key(SEED),
        num_agents=agents,
        num_steps=steps,
        record=bn.Trajectory(steps // 50),
    )
    share = np.asarray(done.late_frequency[:, 0], float)
    mean, error = share.mean(), 5 * share.std() / np.sqrt(agents)
    near = max(abs(low - PUBLISHED), abs(high - PUBLISHED))
    rows = [
        {"quantity": "probability of the low price", "published": PUBLISHED, "found": play[0, 0]},
        {"quantity": "intercept believed", "published": BELIEVED[0], "found": fit[0, 0]},
        {"quantity": "slope believed", "published": BELIEVED[1], "found": fit[0, 1]},
        {"quantity": "low price, simulated on a grid", "published": PUBLISHED, "found": mean},
        {"quantity": "least of the grid's equilibria", "published": PUBLISHED, "found": low},
        {"quantity": "greatest of the grid's equilibria", "published": PUBLISHED, "found": high},
    ]
    off = np.abs([play[0, 0] - PUBLISHED, *(fit[0] - BELIEVED)]).max()
    return Results(
        {"fits": fits, "prices": _draw(done, steps, low, high)},
        {
            "fits": "The line of demand a - b x price that fits best as play moves between the "
            "prices, and the one equilibrium.",
            "prices": f"Share of the low price so far, of {agents} simulated sellers (mean, and "
            f"the middle 90%), the equilibrium of their grid of {lines} x {lines} lines, and the "
            "published 35/36.",
        },
        rows,
        [
            Finding(
                "The one equilibrium is the published one: 35/36 on the low price, (40, 10/3).",
                f"One equilibrium, not pure, off by {off:.1e} at most; its list is provably "
                f"{'complete' if bool(found.complete) else 'INCOMPLETE'}.",
                len(play) == 1 and not pure and off < 1e-5 and bool(found.complete),
            ),
            Finding(
                "Best replies to best fits run in circles: no price settles.",
                f"A cycle of period {int(cycle.period)}.",
                int(cycle.period) == 2,
            ),
            Finding(
                "Simulated sellers average to the equilibrium of the grid, within 0.01 of 35/36.",
                f"{mean:.4f} against {_interval(low, high)}, and 35/36 = {PUBLISHED:.4f}.",
                low - error - 0.002 <= mean <= high + error + 0.002 and near < 0.01,
            ),
        ],
        {"agents": agents, "steps": steps, "lines": lines**2},
    )


def _interval(low, high):
    return f"{low:.4f}" if high - low < 1e-4 else f"{low:.4f} to {high:.4f}"


def _draw(done, steps, low, high):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    counts = np.asarray(done.trajectory.action_counts, float)  # [N, S, A]
    share = counts[..., 0] / counts.sum(-1)
    at = np.linspace(steps / share.shape[1], steps, share.shape[1])
    ax.fill_between(at, *np.quantile(share, [0.05, 0.95], axis=0), alpha=0.25, lw=0)
    ax.plot(at, share.mean(0), label="simulated")
    ax.axhspan(low, high, color="#d55e00", lw=1.2, label="equilibrium of the grid")
    ax.axhline(PUBLISHED, color="black", lw=0.8, ls="--", label="published, 35/36")
    ax.set(xlabel="observations", ylabel="share of the low price so far", xlim=(0, steps))
    ax.legend(frameon=False, loc="lower right")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("monopolist")
