"""The page: figures and axes, their labels and their legends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from ._cells import is_probability, limits
from ._style import FONT


def canvas(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes, bool]:
    """Figure and axes to draw into, and whether they are our own."""
    if ax is not None:
        return figure_of(ax), ax, False
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot(), True


def figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("`ax` must belong to a figure; it was removed from its own.")
    return figure


def dress(ax: Axes, label_x: str, label_y: str, room: int = 27) -> None:
    """Label the axes; fold the upright label where it has more letters than the axes have room.

    Sizes are set on the artists, whatever the user's style sheet says.
    """
    ax.set_xlabel(label_x, fontsize=FONT + 1)
    ax.set_ylabel(textwrap.fill(label_y, room), fontsize=FONT + 1)
    ax.tick_params(labelsize=FONT, length=2.5, width=0.6)
    for spine in ax.spines.values():
        spine.set_linewidth(0.6)


def frame_cells(
    ax: Axes, x: str, axis_x: np.ndarray, y: str | None, axis_y: np.ndarray, title: Sequence[str]
) -> None:
    """Limits, labels, aspect and title of axes that show cells over two parameters, or one."""
    limits_x, limits_y = limits(x, axis_x), limits(y, axis_y)
    ax.set_xlim(*limits_x)
    ax.set_ylim(*limits_y)
    dress(ax, x, y or "")
    if y is None:
        ax.set_yticks([])
    elif is_probability(x, axis_x) and is_probability(y, axis_y):
        spans = np.ptp(limits_x) / np.ptp(limits_y)
        if 0.8 <= spans <= 1.25:  # a sliver of one of them would make a sliver of a figure
            ax.set_aspect("equal")
    if title:
        ax.set_title("\n".join(title), fontsize=FONT)


def legend_below(ax: Axes, handles: Sequence[Artist], columns: int) -> None:
    """A legend under the tick labels and the label of the x axis, wherever the axes are."""
    figure = figure_of(ax)
    # Ticks, tick labels, axis label: all of known size. In points, so that it holds for axes of
    # any height; a legend that constrained layout sees is never clipped.
    drop = 2.5 + 3.5 + 1.25 * FONT + 4 + 1.25 * (FONT + 1) + 3
    below = ax.transAxes + ScaledTranslation(0, -drop / 72, figure.dpi_scale_trans)
    ax.legend(
        handles=list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
        ncols=columns,
        fontsize=FONT,
        frameon=False,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=2.4,
        handleheight=0.9,
        columnspacing=1.4,
        labelspacing=0.35,
    )


def fit_height(figure: Figure) -> None:
    """Take away the height that an equal aspect leaves empty."""
    figure.draw_without_rendering()
    figure.set_figheight(figure.get_tightbbox().height + 0.1)
