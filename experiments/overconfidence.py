"""Overconfidence: who overrates itself blames the world.

Heidhues, Koszegi and Strack (2018): an agent that overrates its ability by delta cannot explain
its output but by a worse world. It settles where believed and true output agree, and with their
quadratic loss it there underrates the fundamental by 1 - sqrt(1 - 2 delta), and works too little
for its own good.

Effort is one of a grid of step h, and a reply misses the fundamental that is believed in by some d
of at most h / 2. Believed and true output then agree where effort falls short by
1 - sqrt(1 - 2 (delta + d - d^2 / 2)), so that each answer must lie in an interval round the root.
The interval can hold several efforts, and each may be an equilibrium: all starts are followed. The
library lays its grid around the root, so that the degrees of overconfidence are not so many
independent tests of where it is.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

EFFORTS = 101
_ROUNDING = 1e-9  # of answers of order 1 in double precision, with room


def closed_form(delta):
    """How much the fundamental is underrated in the long run, for quadratic loss."""
    return 1 - np.sqrt(1 - 2 * delta)


def run(quick: bool) -> Results:
    deltas = np.linspace(0.02, 0.48, 6 if quick else 24)

    def replies(delta):
        problem = bn.scenarios.overconfidence(delta, num_efforts=EFFORTS)
        found = bn.best_fit_dynamics(problem)
        return problem.family.function.efforts, found.best_fit[:, 0], found.next_action

    with jax.enable_x64(True):
        efforts, fits, following = (np.asarray(x) for x in jax.jit(jax.vmap(replies))(deltas))
    ends = np.broadcast_to(np.arange(EFFORTS), following.shape)
    for _ in range(EFFORTS):  # every start, for as long as any orbit can take
        ends = np.take_along_axis(following, ends, 1)
    settled = np.take_along_axis(following, ends, 1) == ends
    at = [np.unique(x) for x in ends]  # the efforts on which some start settles
    effort = [x[i] for x, i in zip(efforts, at, strict=True)]
    fit = [x[i] for x, i in zip(fits, at, strict=True)]
    step = efforts[:, 1] - efforts[:, 0]
    least, most = (closed_form(deltas + d - d**2 / 2) for d in (-step / 2, step / 2))
    rows, right, agree = [], [], []
    for i, delta in enumerate(deltas):
        short, missed = 1 - effort[i], effort[i] - fit[i]
        inside = (short >= least[i] - _ROUNDING) & (short <= most[i] + _ROUNDING)
        right.append(inside.all() and (abs(missed) <= step[i] / 2 + _ROUNDING).all())
        # Believed output less true output, where ability and fundamental are 1.
        agree.append(abs(delta + fit[i] - missed**2 / 2 - 1 + short**2 / 2).max())
        rows.append(
            {
                "delta": delta,
                "closed form": closed_form(delta),
                "pure equilibria": len(at[i]),
                "fundamental underrated by, least": (1 - fit[i]).min(),
                "most": (1 - fit[i]).max(),
                "effort short by, least": short.min(),
                "greatest": short.max(),
                "least that the grid allows": least[i],
                "most that the grid allows": most[i],
            }
        )
    number = np.array([len(x) for x in at])
    under = np.array([1 - x.mean() for x in fit])
    lost = np.array([np.mean((1 - x) ** 2 / 2) for x in effort])
    shift = [abs(1 - x - closed_form(d)).min() for x, d in zip(effort, deltas, strict=True)]
    return Results(
        {"overconfidence": _draw(deltas, fit)},
        {
            "overconfidence": "How much the fundamental is underrated in the long run, against how "
            f"much ability is overrated: closed form (line), and what is believed at each of the "
            f"efforts, out of {EFFORTS}, on which some start settles (dots)."
        },
        rows,
        [
            Finding(
                "From every effort best replies to best fits settle, and on efforts that are as "
                "near the closed form as the grid allows.",
                f"{settled.sum():,} of {settled.size:,} starts settle, on {number.min()} to "
                f"{number.max()} efforts for each of {len(deltas)} degrees of overconfidence, of "
                f"which all are inside for {sum(right)} degrees. The nearest effort is off by "
                f"{min(shift):.4f} to {max(shift):.4f}.",
                settled.all() and all(right),
            ),
            Finding(
                "There the world is underrated by so much that believed and true output agree.",
                f"They differ by {max(agree):.1e} at most.",
                max(agree) < _ROUNDING,
            ),
            Finding(
                "Beliefs are off by more than ability is, and the more so the larger that is.",
                f"By {(under / deltas)[0]:.2f} times as much at delta = {deltas[0]:g}, by "
                f"{(under / deltas)[-1]:.2f} times at {deltas[-1]:g}, on average over equilibria.",
                all((1 - x > d).all() for x, d in zip(fit, deltas, strict=True))
                and (np.diff(under / deltas) > 0).all(),
            ),
            Finding(
                "The agent works too little for its own good.",
                f"Output falls short of the best by {lost[0]:.4f} at delta = {deltas[0]:g} and by "
                f"{lost[-1]:.3f} at {deltas[-1]:g}, on average over equilibria.",
                all((x < 1).all() for x in effort) and (np.diff(lost) > 0).all(),
            ),
        ],
    )


def _draw(deltas, fit):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    fine = np.linspace(0, 0.499, 400)
    label = r"closed form: $1-\sqrt{1-2\delta}$"
    ax.plot(fine, closed_form(fine), color="black", lw=1, label=label)
    x = np.repeat(deltas, [len(values) for values in fit])
    label = "found, at each effort on which some start settles"
    ax.plot(x, 1 - np.concatenate(fit), "o", ms=3.5, mew=0, color="#d55e00", label=label)
    ax.plot(fine, fine, color="grey", lw=0.8, ls=":", label="as much as ability is overrated")
    ax.set(xlabel=r"overconfidence, $\delta$", ylabel="fundamental underrated by")
    ax.set(xlim=(0, 0.5), ylim=0)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("overconfidence")
