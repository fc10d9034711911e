"""Phase diagrams: the phase of every cell over two parameters, or over one."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import ArrayLike
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.patheffects import withStroke

from ..equilibrium import Phase
from ._cells import (
    about,
    borders,
    cell_edges,
    coordinate,
    oriented,
    phase_codes,
    union,
)
from ._page import canvas, fit_height, frame_cells, legend_below
from ._regions import name_regions
from ._style import COLUMN, PHASE_STYLES
from ._theory import boundary_lines


def phase_diagram(
    dataset: xr.Dataset,
    *,
    x: str | None = None,
    y: str | None = None,
    boundaries: bool | Iterable[Callable[..., Any] | ArrayLike] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the phases of a scenario over two of its parameters, or a strip over one.

    Parameters
    ----------
    dataset : what `bnjax.phase_diagram` returns: codes of `Phase` in the variable ``phase``,
        over one or two dimensions whose coordinates are the parameters' values (select the
        others first, with ``dataset.isel`` or ``dataset.sel``).
    x, y : which dimension goes along which axis. Default: the first along x.
    boundaries : True for the boundaries that theory gives for the scenario that
        ``dataset.attrs`` names: sycophancy and hallucination with width
        0 or 1, deception. Or lines of your own: functions from x [N] to y [N], or arrays
        [N, 2] of (x, y).
    title : above the diagram. Default: in a figure of its own, the scenario and what does not vary.
    ax : axes to draw into. Default: a new figure, one column wide.

    Returns
    -------
    matplotlib.figure.Figure
        Each cell is centred at its coordinates. The legend lists the phases that occur, with
        their share of the cells.

    Raises
    ------
    ValueError
        If the dataset has no variable ``phase`` of one or two dimensions, a code is unknown,
        coordinates are not increasing or decreasing numbers, or the boundaries asked for are
        not known.
    """
    codes, x, y = oriented(dataset, x, y)
    if title is None and ax is None:
        title = about(dataset, codes)
    axis_x = coordinate(codes, x)
    axis_y = coordinate(codes, y) if y else np.zeros(1)
    grid = phase_codes(codes)
    lines = boundary_lines(dataset, codes, x, y, boundaries)  # refuse before anything is drawn
    above = textwrap.wrap(title or "", 56)
    height = (COLUMN + 0.6 if y else 1.25) + 0.18 * len(above)
    figure, ax, own = canvas(ax, COLUMN, height)
    edges_x, edges_y = cell_edges(axis_x), cell_edges(axis_y)
    present = [code for code in Phase if (grid == code).any()]
    draw_cells(ax, edges_x, edges_y, grid, present)
    if not lines:  # two outlines, up to half a cell apart, would only compete
        draw_borders(ax, edges_x, edges_y, grid)
    halo = [withStroke(linewidth=2.0, foreground="white")]
    for line in lines:
        ax.plot(
            *line.T,
            color="black",
            linewidth=1.2,
            linestyle=(0, (4, 2)),
            path_effects=halo,
            zorder=3,
        )
    frame_cells(ax, x, axis_x, y, axis_y, above)
    handles: list[Artist] = [
        phase_patch(code, f"{code.name.lower()} ({share_text(grid == code)})") for code in present
    ]
    if lines:
        name = "theory" if boundaries is True else "boundary"
        handles.append(Line2D([], [], color="black", lw=1.2, ls=(0, (4, 2)), label=name))
    legend_below(ax, handles, columns=2)
    if own:
        fit_height(figure)
    name_regions(figure, ax, edges_x, edges_y, grid, present)
    return figure


def draw_cells(
    ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, grid: np.ndarray, present: Sequence[Phase]
) -> None:
    """Fill and hatch the cells of each phase."""
    colours = ListedColormap([PHASE_STYLES[code].fill for code in Phase])
    # In a vector file a picture, not a polygon a cell with hairlines between them.
    ax.pcolormesh(
        edges_x, edges_y, grid, cmap=colours, vmin=-0.5, vmax=len(Phase) - 0.5, rasterized=True
    )
    for code in present:
        style = PHASE_STYLES[code]
        if style.hatch:
            patch = PathPatch(
                union(edges_x, edges_y, grid == code),
                facecolor="none",
                edgecolor=style.ink,
                hatch=style.hatch,
                linewidth=0,
                zorder=1.5,
            )
            patch.set_hatch_linewidth(0.5)
            ax.add_patch(patch)


def draw_borders(ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, grid: np.ndarray) -> None:
    """Outline the regions of each phase."""
    sides = borders(edges_x, edges_y, grid)
    ax.add_collection(
        LineCollection(list(sides), colors="black", linewidths=0.5, zorder=2), autolim=False
    )


def share_text(mask: np.ndarray) -> str:
    """Percent, in which neither a few cells become none nor nearly all of them all."""
    percent = 100 * float(mask.mean())
    if 99 < percent < 100:
        return ">99%"
    return f"{percent:.2g}%" if percent < 1 else f"{percent:.0f}%"


def phase_patch(code: Phase, label: str) -> Patch:
    """How a legend shows a phase."""
    style = PHASE_STYLES[code]
    # Handles are small: hatch them more densely, so that they show at least two strokes.
    hatch = style.hatch * (3 if style.hatch in (".", "-") else 2)
    patch = Patch(facecolor=style.fill, hatch=hatch, edgecolor=style.ink, linewidth=0.5)
    patch.set_hatch_linewidth(0.5)
    patch.set_label(label)
    return patch
