"""Overconfidence: who overrates itself blames the world.

Heidhues, Koszegi and Strack (2018): an agent that overrates its ability by delta cannot explain
its output but by a worse world. It settles where believed and true output agree, and there it
underrates the fundamental by 1 - sqrt(1 - 2 delta), and works too little for its own good.

Effort is one of a grid of step h, and a reply misses the fundamental that is believed in by some d
of at most h / 2. Believed and true output then agree where effort falls short by
1 - sqrt(1 - 2 (delta + d - d^2 / 2)), so that each answer must lie in an interval round the root.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

EFFORTS = 101


def published(delta):
    """How much the fundamental is underrated in the long run."""
    return 1 - np.sqrt(1 - 2 * delta)


def run(quick: bool) -> Results:
    deltas = np.linspace(0.02, 0.48, 6 if quick else 24)

    def settle(delta):
        problem = bn.scenarios.overconfidence(delta, num_efforts=EFFORTS)
        found = bn.best_fit_dynamics(problem)
        efforts = problem.family.function.efforts
        at = found.cycle.argmax()
        return found.best_fit[at, 0], efforts[at], efforts[1] - efforts[0], found.period

    with jax.enable_x64(True):
        fit, effort, step, period = (np.asarray(x) for x in jax.jit(jax.vmap(settle))(deltas))
    underrated, expected = 1 - fit, published(deltas)
    least, most = (published(deltas + d - d**2 / 2) for d in (-step / 2, step / 2))
    short, rounding = 1 - effort, 1e-9
    inside = (least - rounding <= short) & (short <= most + rounding)
    rows = [
        {
            "delta": delta,
            "published": e,
            "fundamental underrated by": u,
            "effort short by": x,
            "least that the grid allows": low,
            "most that the grid allows": high,
        }
        for delta, e, u, x, low, high in zip(
            deltas, expected, underrated, short, least, most, strict=True
        )
    ]
    fine = np.linspace(0, 0.499, 400)
    return Results(
        {"overconfidence": _draw(fine, deltas, underrated)},
        {
            "overconfidence": "How much the fundamental is underrated in the long run, against how "
            f"much ability is overrated: published (line) and found among {EFFORTS} efforts (dots)."
        },
        rows,
        [
            Finding(
                "Best replies to best fits settle on one effort, near the root as a grid allows.",
                f"Periods {sorted(set(period.tolist()))}; {inside.sum()} of {len(deltas)} degrees "
                f"of overconfidence inside what the grid allows, at most "
                f"{(abs(short - expected) / step).max():.2f} steps off the published root.",
                (period == 1).all() and inside.all(),
            ),
            Finding(
                "Beliefs are off by more than ability is, and the more so the larger that is.",
                f"By {(underrated / deltas)[0]:.2f} times as much at delta = {deltas[0]:g}, by "
                f"{(underrated / deltas)[-1]:.2f} times at {deltas[-1]:g}.",
                (underrated > deltas).all() and (np.diff(underrated / deltas) > 0).all(),
            ),
            Finding(
                "The agent works too little for its own good.",
                f"Output falls short of the best by {short[0] ** 2 / 2:.4f} at delta = "
                f"{deltas[0]:g} and by {short[-1] ** 2 / 2:.3f} at {deltas[-1]:g}.",
                (short > 0).all() and (np.diff(short) > 0).all(),
            ),
        ],
    )


def _draw(fine, deltas, underrated):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    ax.plot(fine, published(fine), color="black", lw=1, label=r"published: $1-\sqrt{1-2\delta}$")
    ax.plot(deltas, underrated, "o", ms=4, color="#d55e00", label="found, among efforts of a grid")
    ax.plot(fine, fine, color="grey", lw=0.8, ls=":", label="as much as ability is overrated")
    ax.set(xlabel=r"overconfidence, $\delta$", ylabel="fundamental underrated by")
    ax.set(xlim=(0, 0.5), ylim=0)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("overconfidence")
