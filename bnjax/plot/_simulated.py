"""Simulated diagrams: what populations play in every cell, under the outlines of the phases."""

from __future__ import annotations

import textwrap

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..equilibrium import Phase
from ._cells import (
    borders,
    cell_edges,
    coordinate,
    oriented,
    phase_codes,
)
from ._page import canvas, fit_height, frame_cells
from ._regions import name_regions
from ._style import COLUMN, FONT


def simulated_diagram(
    dataset: xr.Dataset,
    *,
    action: str | None = None,
    x: str | None = None,
    y: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how often simulated learners play an action, and lay the exact phases over it.

    Parameters
    ----------
    dataset : what ``bnjax.phase_diagram(..., method="simulate")`` returns, over one or two
        dimensions.
    action : which action's frequency, in the second half of the runs, is shown. Default: the
        first one.
    x, y : which dimension goes along which axis. Default: the first along x.
    title : above the diagram.
    ax : axes to draw into. Default: a new figure, one column wide.

    Returns
    -------
    matplotlib.figure.Figure
        Colours are frequencies, trembles included; cells where nothing could be simulated are
        white. Outlines and names are those of the exact phases.

    Raises
    ------
    ValueError
        If the dataset holds no simulated frequencies, no phases, another number of dimensions, or
        no such action.
    """
    codes, x, y = oriented(dataset, x, y)
    if "frequency" not in dataset:
        raise ValueError(
            "`dataset` must hold simulated frequencies: make it by `bnjax.phase_diagram(..., "
            'method="simulate")`.'
        )
    names = [str(name) for name in dataset["action"].values]
    action = names[0] if action is None else action
    if action not in names:
        raise ValueError(f"`action` must be one of {names}; got {action!r}.")
    axis_x = coordinate(codes, x)
    axis_y = coordinate(codes, y) if y else np.zeros(1)
    phases = phase_codes(codes)
    order = (y, x) if y else (x,)
    frequency = np.atleast_2d(dataset["frequency"].sel(action=action).transpose(*order).values)

    above = textwrap.wrap(title or "", 48)
    figure, ax, own = canvas(ax, COLUMN, (COLUMN if y else 1.45) + 0.18 * len(above))
    edges_x, edges_y = cell_edges(axis_x), cell_edges(axis_y)
    mesh = ax.pcolormesh(
        edges_x, edges_y, frequency, cmap="cividis", vmin=0.0, vmax=1.0, rasterized=True
    )
    sides = borders(edges_x, edges_y, phases)
    outline = LineCollection(
        list(sides),
        colors="black",
        linewidths=0.8,
        zorder=2,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
    )
    ax.add_collection(outline, autolim=False)
    frame_cells(ax, x, axis_x, y, axis_y, above)
    # Exactly as high as the diagram, whatever its aspect.
    bar = figure.colorbar(mesh, cax=ax.inset_axes((1.03, 0, 0.05 if y else 0.03, 1)))
    label = f"simulated frequency of {action}"
    bar.set_label(textwrap.fill(label, 40 if y else 14), fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT, length=2.5, width=0.6)
    if own and y is not None:
        fit_height(figure)
    present = [code for code in Phase if (phases == code).any()]
    name_regions(figure, ax, edges_x, edges_y, phases, present)
    return figure
