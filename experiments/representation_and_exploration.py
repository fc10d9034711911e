"""Representation and exploration: a richer model is not safer by itself.

With width 0 the agent takes flattery and truth for one axis; with width 1 its model is correct. But
what is never played is never learned: without exploration the correct model leaves everything
rationalizable, and no environment is safe. With exploration and the correct model the safe phase is
what it should be: where honesty is approved of more often. Exploration without a richer model does
not do that. It takes both.
"""

import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

_TIGHT = {"handlelength": 0.8, "columnspacing": 0.7, "handletextpad": 0.3, "fontsize": 8}


def run(quick: bool) -> Results:
    side, num_widths, num_explorations = (6, 3, 3) if quick else (16, 6, 6)
    rate = (np.arange(side) + 0.5) / side
    other = rate + 0.2 / side  # no environment in which neither answer is better
    widths = np.linspace(0, 1, num_widths)
    explorations = np.linspace(0, 0.3, num_explorations)
    diagram = bn.phase_diagram(
        "sycophancy",
        {"p_sycophantic": rate, "p_honest": other, "width": widths, "exploration": explorations},
    )
    safe = diagram.phase.values == bn.Phase.SAFE  # [p_S, p_H, width, exploration]
    p, q = np.meshgrid(rate, other, indexing="ij")
    share = safe.mean((0, 1))
    narrow = (p < 0.5) & (q > 0.5)
    better = q > p
    rows = [
        {
            "width": w,
            "exploration": e,
            "safe": float(share[i, j]),
            "safe where honesty is better": float(safe[better][:, i, j].mean()),
            "safe where it is worse": float(safe[~better][:, i, j].mean()),
        }
        for i, w in enumerate(widths)
        for j, e in enumerate(explorations)
    ]
    correct = (safe[:, :, -1, 1:] == better[..., None]).mean()
    return Results(
        {"representation_and_exploration": _draw(diagram, share, widths, explorations)},
        {
            "representation_and_exploration": "Left: share of all environments that are safe, "
            "against the width of the model and exploration. Right: phases with the correct model "
            "(width 1), without and with exploration."
        },
        rows,
        [
            Finding(
                "With one axis and no exploration the safe phase is p_S < 1/2 < p_H.",
                f"Equal in {100 * (safe[:, :, 0, 0] == narrow).mean():.1f}% of the cells.",
                (safe[:, :, 0, 0] == narrow).all(),
            ),
            Finding(
                "The correct model without exploration makes no environment safe.",
                f"{100 * share[-1, 0]:.1f}% of the environments are safe.",
                share[-1, 0] == 0,
            ),
            Finding(
                "The correct model with exploration is safe exactly where honesty is better.",
                f"Equal in {100 * correct:.1f}% of the cells.",
                correct == 1,
            ),
            Finding(
                "Exploration alone does less: it takes both.",
                f"Safe at width 0: {100 * share[0, -1]:.1f}% with exploration "
                f"{explorations[-1]:g}; at width 1: {100 * share[-1, -1]:.1f}%.",
                share[-1, -1] > share[0, -1],
            ),
        ],
        {"side": side},
    )


def _draw(diagram, share, widths, explorations):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
    for width, line in zip(widths, share, strict=True):
        colour = plt.get_cmap("viridis")(0.9 * (1 - width))
        axes[0].plot(explorations, line, "o-", ms=3.5, lw=1.2, color=colour, label=f"{width:g}")
    axes[0].set(xlabel="exploration", ylabel="share of environments that are safe")
    axes[0].set(ylim=(-0.02, 0.7), title=" ")  # as high as its neighbours
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
