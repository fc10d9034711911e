"""The monopolist: a wrong demand curve, and prices that never settle.

Nyarko (1991), as in Esponda and Pouzo (2016): a seller chooses a price of 2 or of 10 and believes
in a line of demand; no line that it can believe in passes through both of the true points. Neither
price is an equilibrium: what is seen at one makes the other look better. The only equilibrium
mixes, with probability 35/36 on the low price, and believes in the line (a, b) = (40, 10/3).

Simulated sellers believe in finitely many lines, a grid, which is another problem, with an
equilibrium of its own: near 35/36, but not always nearer where the grid is finer. What they play
averages to the equilibrium of their own grid.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main, mean_allowed

PUBLISHED, BELIEVED = 35 / 36, (40.0, 10 / 3)
PRICES, DEMAND = (2, 10), (34, 2)
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
_ALARM = 0.001  # how often chance alone may refuse a true claim, all grids together


def of_lines(a, b) -> float:
    """Probability of the low price at which the best of some lines changes its reply."""
    low, high = (a - b * price for price in PRICES)  # demand that is expected

    def replies_low(s):
        off = s * (low - DEMAND[0]) ** 2 + (1 - s) * (high - DEMAND[1]) ** 2
        best = off.argmin()
        return PRICES[0] * low[best] > PRICES[1] * high[best]

    least, most = 0.0, 1.0  # after the high price alone the low one is better, and vice versa
    for _ in range(50):
        middle = (least + most) / 2
        least, most = (middle, most) if replies_low(middle) else (least, middle)
    return least


def run(quick: bool) -> Results:
    with jax.enable_x64(True):
        problem = bn.scenarios.monopolist()
        found = bn.equilibria(problem)
        play = np.asarray(found.strategy)[np.asarray(found.valid)]
        fit = np.asarray(found.best_fit)[np.asarray(found.valid)]
        pure = np.asarray(found.is_pure)[np.asarray(found.valid)].any()
        cycle = bn.best_fit_dynamics(problem)
        fits = bn.plot.best_fit_curve(problem)
    agents, steps = (64, 2_000) if quick else (256, 20_000)
    rows, lives = [], {}
    for points in (8,) if quick else (8, 16, 20):  # along each of two coordinates
        grid = bn.scenarios.monopolist().discretize(points)
        theta = np.asarray(grid.theta, float)
        lines = len(np.unique(theta.round(4), axis=0))  # some of the points are one line
        exact = bn.equilibria(grid)
        valid = np.asarray(exact.valid)
        ends = (np.asarray(x)[valid, 0] for x in (exact.strategy, exact.strategy_end))
        lives[lines] = bn.simulate(
            grid,
            jax.random.key(SEED),
            num_agents=agents,
            num_steps=steps,
            record=bn.Trajectory(steps // 50),
        )
        share, error = mean_allowed(lives[lines].late_frequency[:, 0], _ALARM / 3)
        rows.append(
            {
                "lines": lines,
                "equilibrium by bisection": of_lines(*theta.T),
                "by the solver, least": next(ends).min(),
                "greatest": next(ends).max(),
                "simulated": share,
                "allowed": error,
            }
        )
    own, least, most, mean, allowed = np.array([list(row.values())[1:] for row in rows]).T
    solver = max(abs(least - own).max(), abs(most - own).max())
    off = np.abs([play[0, 0] - PUBLISHED, *(fit[0] - BELIEVED)]).max()
    return Results(
        {"fits": fits, "prices": _draw(lives, steps, own)},
        {
            "fits": "The line of demand a - b x price that fits best as play moves between the "
            "prices, and the one equilibrium.",
            "prices": f"Share of the low price so far, of {agents} simulated sellers with each "
            "grid of lines (mean, and the middle 90%); dashed, the equilibrium of the grid; black, "
            "the published 35/36.",
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
                "The equilibrium of a grid is where the reply to its best line changes.",
                f"Solver and bisection differ by {solver:.1e} at most.",
                solver < 1e-5,
            ),
            Finding(
                "Simulated sellers average to the equilibrium of their own grid, and not to 35/36 "
                "where that is another number, within intervals that chance leaves once in a "
                "thousand runs.",
                "; ".join(
                    f"{lines} lines: {m:.5f} +- {e:.5f} against {x:.5f}"
                    for lines, m, e, x in zip(lives, mean, allowed, own, strict=True)
                )
                + f"; 35/36 = {PUBLISHED:.5f}.",
                (abs(mean - own) <= allowed).all() and (abs(mean - PUBLISHED) > allowed).all(),
            ),
        ],
        {"agents": agents, "steps": steps},
    )


def _draw(lives, steps, own):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for (lines, done), equilibrium, colour in zip(lives.items(), own, _COLOURS, strict=False):
        counts = np.asarray(done.trajectory.action_counts, float)  # [N, S, A]
        share = counts[..., 0] / counts.sum(-1)
        at = np.linspace(steps / share.shape[1], steps, share.shape[1])
        band = np.quantile(share, [0.05, 0.95], axis=0)
        ax.fill_between(at, *band, color=colour, alpha=0.2, lw=0)
        ax.plot(at, share.mean(0), color=colour, lw=1.4, label=f"{lines} lines")
        ax.axhline(equilibrium, color=colour, lw=1, ls=(0, (5, 3)))
    ax.axhline(PUBLISHED, color="black", lw=1, label="published, 35/36")
    ax.set(xlabel="observations", ylabel="share of the low price so far")
    ax.set(xscale="log", xlim=(steps / 50, steps))
    ax.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("monopolist")
