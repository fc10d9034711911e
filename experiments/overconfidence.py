"""Overconfidence: who overrates itself blames the world.

Heidhues, Koszegi and Strack (2018): an agent that overrates its ability by delta cannot explain
its output but by a worse world. It settles where believed and true output agree, and there it
underrates the fundamental by 1 - sqrt(1 - 2 delta), and works too little for its own good.

Effort is one of a grid, so the root is met up to rounding: replies move by 1 - sqrt(1 - 2 delta)
as efforts move by 1, and whatever is off by half a step a round adds up to half a step over
sqrt(1 - 2 delta).
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
    off, allowed = abs(1 - effort - expected) / step, 0.5 / np.sqrt(1 - 2 * deltas)
    rows = [
        {
            "delta": delta,
            "published": e,
            "underrated": u,
            "effort": x,
            "steps_off": o,
            "allowed": a,
        }
        for delta, e, u, x, o, a in zip(
            deltas, expected, underrated, effort, off, allowed, strict=True
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
                f"Periods {sorted(set(period.tolist()))}; over {len(deltas)} degrees of "
                f"overconfidence at most {off.max():.2f} steps off, {(off / allowed).max():.2f} "
                "of what is allowed.",
                (period == 1).all() and (off <= 1.1 * allowed).all(),
            ),
            Finding(
                "Small overconfidence costs much: beliefs are off by more than ability is.",
                f"At delta = {deltas[-1]:g} the fundamental is underrated by {underrated[-1]:.3f}.",
                (underrated > deltas * 0.99).all(),
            ),
        ],
    )


def _draw(fine, deltas, underrated):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    ax.plot(fine, published(fine), color="black", lw=1, label="1 - sqrt(1 - 2 delta)")
    ax.plot(deltas, underrated, "o", ms=4, color="#d55e00", label="found")
    ax.plot(fine, fine, color="grey", lw=0.8, ls=":", label="as much as ability is overrated")
    ax.set(
        xlabel="overconfidence, delta", ylabel="fundamental underrated by", xlim=(0, 0.5), ylim=0
    )
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("overconfidence")
