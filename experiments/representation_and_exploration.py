"""Representation and exploration: a richer model is not safer by itself.

With width 0 the agent takes flattery and truth for one axis; with width 1 its model is correct. But
what is never played is never learned: without exploration fewer environments are safe the richer
the model is, and with the correct one none, since everything is rationalizable. With exploration,
however little, and the correct model the safe phase is what it should be: where honesty is approved
of more often. Exploration without a richer model reaches only a part of that. It takes both.

Phases speak of intended play. Exploration has its price: of two actions the unsafe one is still
played in half of all trembles, for ever.
"""

import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

_TIGHT = {"handlelength": 0.8, "columnspacing": 0.7, "handletextpad": 0.3, "fontsize": 8}
_NONE = -0.07  # where no exploration is drawn: a point of its own, not the end of a line


def one_axis_is_safe(p, q, e):
    """Whether flattery is never a best reply at width 0, trembles of probability e included.

    Of all play a share between e / 2 and 1 - e / 2 is flattery, and the best fit is linear in it.
    """
    return np.all([s * p + (1 - s) * (1 - q) < 0.5 for s in (e / 2, 1 - e / 2)], axis=0)


def run(quick: bool) -> Results:
    side, num_widths = (6, 3) if quick else (16, 6)
    rate = (np.arange(side) + 0.5) / side
    other = rate + 0.2 / side  # no environment in which neither answer is better
    widths = np.linspace(0, 1, num_widths)
    explorations = np.array([0, 0.001, 0.3] if quick else [0, 0.001, 0.06, 0.12, 0.18, 0.24, 0.3])
    diagram = bn.phase_diagram(
        "sycophancy",
        {"p_sycophantic": rate, "p_honest": other, "width": widths, "exploration": explorations},
    )
    safe = diagram.phase.values == bn.Phase.SAFE  # [p_S, p_H, width, exploration]
    p, q = np.meshgrid(rate, other, indexing="ij")
    share = safe.mean((0, 1))
    better = q > p
    rows = [
        {
            "width": w,
            "exploration": e,
            "safe": float(share[i, j]),
            "safe where honesty is better": float(safe[better][:, i, j].mean()),
            "safe where it is worse": float(safe[~better][:, i, j].mean()),
            "unsafe play by trembling": e / 2,
        }
        for i, w in enumerate(widths)
        for j, e in enumerate(explorations)
    ]
    axis = safe[:, :, 0] == one_axis_is_safe(p[..., None], q[..., None], explorations)
    correct = safe[:, :, -1, 1:] == better[..., None]
    poor, reached = safe[~better][:, 0], safe[better][:, 0].mean(0)
    falls = ", ".join(f"{100 * x:.1f}%" for x in share[:, 0])
    return Results(
        {"representation_and_exploration": _draw(diagram, share, widths, explorations)},
        {
            "representation_and_exploration": "Left: share of all environments that are safe in "
            "intended play, against exploration, by the width of the model; without exploration "
            f"(at the left, apart) and from {explorations[1]:g} on: any exploration at all makes "
            "the difference. The unsafe action is still played in half of the trembles, up to "
            f"{100 * explorations[-1] / 2:.0f}% of the time. Right: phases with the correct model "
            "(width 1), without and with exploration."
        },
        rows,
        [
            Finding(
                "With one axis the safe phase is where the best fit is below 1/2 whatever is "
                "intended; without exploration that is p_S < 1/2 < p_H.",
                f"Equal in {axis.sum():,} of {axis.size:,} cells.",
                axis.all() and (safe[:, :, 0, 0] == ((p < 0.5) & (q > 0.5))).all(),
            ),
            Finding(
                "Without exploration fewer environments are safe the richer the model, and with "
                "the correct model none.",
                f"From width 0 to 1: {falls}.",
                (np.diff(share[:, 0]) <= 0).all() and share[0, 0] > 0 and share[-1, 0] == 0,
            ),
            Finding(
                "The correct model with exploration is safe exactly where honesty is better.",
                f"Equal in {correct.sum():,} of {correct.size:,} cells, at explorations from "
                f"{explorations[1]:g} to {explorations[-1]:g}.",
                correct.all(),
            ),
            Finding(
                "Exploration alone does less: with one axis it makes only some of the environments "
                "safe in which honesty is better, and no other.",
                f"From {100 * reached[0]:.1f}% of them without to {100 * reached[-1]:.1f}% with "
                f"exploration {explorations[-1]:g}; {poor.sum()} others.",
                (reached < 0.9).all() and not poor.any(),
            ),
        ],
        {"side": side},
    )


def _draw(diagram, share, widths, explorations):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
    for width, line in zip(widths, share, strict=True):
        colour = plt.get_cmap("viridis")(0.9 * (1 - width))
        style = {"marker": "o", "ms": 3.5, "lw": 1.2, "color": colour}
        axes[0].plot(explorations[1:], line[1:], label=f"{width:g}", **style)
        axes[0].plot([_NONE], line[:1], **style | {"markerfacecolor": "white", "clip_on": False})
    axes[0].axvline(_NONE / 2, color="grey", lw=0.6, ls=":")
    axes[0].set(xlabel="exploration", ylabel="share of environments that are safe")
    axes[0].set(ylim=(-0.02, 0.7), title=" ")  # as high as its neighbours
    axes[0].set_xticks([_NONE, 0.001, 0.1, 0.2, 0.3], ["none", "0.001", "0.1", "0.2", "0.3"])
    axes[0].legend(title="width", frameon=False, ncols=6, loc="upper center", **_TIGHT)
    axes[0].set_box_aspect(1)
    for ax, e in zip(axes[1:], (0, -1), strict=True):
        correct = diagram.isel(width=-1, exploration=e)
        title = f"width 1, exploration {explorations[e]:g}"
        bn.plot.phase_diagram(correct, ax=ax, title=title, boundaries=False)
        ax.set(aspect="auto", box_aspect=1)
    return figure


if __name__ == "__main__":
    main("representation_and_exploration")
