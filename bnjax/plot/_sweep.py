"""Pictures of sweeps: any output over one or two axes, the others selected or reduced."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..equilibrium import Phase
from ._cells import cell_edges
from ._diagram import draw_borders, draw_cells, phase_patch, share_text
from ._page import canvas, dress, fit_height, frame_cells, legend_below
from ._regions import name_regions
from ._style import ACTION_COLOURS, COLUMN, FONT, LINE
from ._sweep_cells import Picture, Side, picture_of

_MISSING = "#DADADA"
_FAILED = "#E0218A"  # in no colour map and no phase
_CATEGORIES = ("#56B4E9", "#E69F00", "#00517F", "#F0E442", "#009E73", "#7F3C00", "#000000")
_NO_YES = ("#F3EBD3", "#00517F")
_NAMES = 12  # of ticks


def sweep(
    dataset: xr.Dataset,
    variable: str | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    select: Mapping[str, Any] | None = None,
    reduce: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw an output of a sweep over one or two of its axes, also while it is being computed.

    Only the cells that can be seen are read, and block by block: of an axis with more than 600
    values, evenly spaced ones.

    Parameters
    ----------
    dataset : what `bnjax.sweep` returns, or ``xarray.open_zarr`` of its store.
    variable : which output. Default: ``phase`` if there is one, or else the first.
    x, y : what goes along which side: a dimension, or one of the arguments that vary along it.
        Default: the first two axes of more than one value that are not selected; with ``x`` alone,
        there is one side.
    select : value of each of the others, by name: the nearest cell is shown. A name where the
        dimension has names.
    reduce : what to do with all that is left: ``"mean"``, ``"min"`` or ``"max"`` of numbers and
        truth values; of codes (which have ``flag_meanings``) ``"mode"``, the most frequent one,
        or the name of one, for the share of cells that have it. Cells that are missing or
        failed do not count.
    title : above the figure, before what was selected, reduced or left out.
    ax : axes to draw into. Default: a new figure, one column wide.

    Returns
    -------
    matplotlib.figure.Figure
        Codes and truth values are drawn as categories (phases as in `phase_diagram`), numbers with
        a colour bar, or as a curve over one side (shares and probabilities from 0 on). What is
        missing is grey, what failed is pink; a phase that a solver could not tell is a category of
        its own.

    Raises
    ------
    ValueError
        If the dataset is not of a sweep, a name is unknown, or dimensions are left over.
    """
    picture = picture_of(dataset, variable, x, y, select or {}, reduce)
    codes = _phases(picture)
    # A legend says what phases are, a colour bar and a side what numbers are.
    named = picture.label if picture.categories is not None and codes is None else None
    text = "; ".join(filter(None, [title, named, ", ".join(picture.notes)]))
    # Above the axes, which are narrower where names stand beside them.
    above = textwrap.wrap(
        text.replace(" = ", "\xa0=\xa0"), 36 if picture.y and picture.y.labels else 46
    )
    curve = picture.y is None and picture.categories is None
    legend = 0.6 if picture.categories is not None else 0.2
    height = 2.4 if curve else COLUMN + legend if picture.y else 1.25
    figure, ax, own = canvas(ax, COLUMN, height + 0.18 * len(above))
    edges_x = cell_edges(picture.x.values)
    edges_y = cell_edges(picture.y.values if picture.y else np.zeros(1))
    ax.set_facecolor(_MISSING)
    phases = []
    if curve:
        handles = _draw_curve(ax, picture)
    elif codes is not None:
        phases = [code for code in Phase if (codes == code).any()]
        masked = np.ma.masked_less(codes, 0)
        draw_cells(ax, edges_x, edges_y, masked, phases)
        draw_borders(ax, edges_x, edges_y, codes)
        handles: list[Artist] = [
            phase_patch(code, f"{code.name.lower()} ({share_text(codes == code)})")
            for code in phases
        ]
    elif picture.categories is not None:
        handles = _draw_categories(ax, edges_x, edges_y, picture)
    else:
        handles = []
        _draw_numbers(figure, ax, edges_x, edges_y, picture)
    if not curve:
        _draw_failed(ax, edges_x, edges_y, picture.failed)
        _frame(ax, picture, above)
    else:
        dress(ax, picture.x.name, picture.label, 32)
        if _is_share(picture):  # small differences are to look small
            ax.set_ylim(0.0, max(1.15 * float(np.nanmax(picture.values, initial=0.0)), 0.05))
        ax.set_xlim(min(edges_x[0], edges_x[-1]), max(edges_x[0], edges_x[-1]))
        ax.set_title("\n".join(above), fontsize=FONT)
        _name_ticks(ax, picture.x, "x")
    for mask, name, colour in (
        (picture.missing, "missing", _MISSING),
        (picture.failed, "failed", _FAILED),
    ):
        if mask.any():
            handles.append(_patch(colour, f"{name} ({share_text(mask)})"))
    if handles:
        legend_below(ax, handles, columns=2)
    if own and not curve:
        fit_height(figure)
    if codes is not None:
        name_regions(figure, ax, edges_x, edges_y, codes, phases)
    return figure


def _phases(picture: Picture) -> np.ndarray | None:
    """Codes of phases, -1 where there is none; None if the values are something else."""
    names = picture.categories
    if names is None or not set(names.values()) <= set(Phase.__members__):
        return None
    phases = np.full(picture.values.shape, -1)
    for code, name in names.items():
        phases[picture.values == code] = Phase[name]
    return phases


def _patch(colour: Any, label: str) -> Patch:
    return Patch(facecolor=colour, edgecolor="black", linewidth=0.5, label=label)


def _draw_categories(
    ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, picture: Picture
) -> list[Artist]:
    """Fill the cells of each category that there is, and say which is which."""
    assert picture.categories is not None
    names = picture.categories
    present = [int(code) for code in np.unique(picture.values[np.isfinite(picture.values)])]
    known = list(dict.fromkeys([*names, *present]))
    colours = dict(zip(known, _colours(known, names), strict=True))
    index = np.full(picture.values.shape, -1)
    for i, code in enumerate(known):
        index[picture.values == code] = i
    ax.pcolormesh(
        edges_x,
        edges_y,
        np.ma.masked_less(index, 0),
        cmap=ListedColormap(list(colours.values())),
        vmin=-0.5,
        vmax=len(known) - 0.5,
        rasterized=True,
    )
    draw_borders(ax, edges_x, edges_y, index)
    return [
        _patch(
            colours[code],
            f"{names.get(code, str(code)).lower().replace('_', ' ')} "
            f"({share_text(picture.values == code)})",
        )
        for code in present
    ]


def _colours(known: Sequence[int], names: Mapping[int, str]) -> Sequence[Any]:
    if list(names.values()) == ["no", "yes"]:
        return [*_NO_YES, *_CATEGORIES][: len(known)]
    if len(known) <= len(_CATEGORIES):
        return _CATEGORIES[: len(known)]
    return [colormaps["cividis"](i / (len(known) - 1)) for i in range(len(known))]


def _is_share(picture: Picture) -> bool:
    return picture.label.endswith("(probability)") or picture.label.startswith("share")


def _draw_numbers(
    figure: Figure, ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, picture: Picture
) -> None:
    shares = _is_share(picture)
    mesh = ax.pcolormesh(
        edges_x,
        edges_y,
        np.ma.masked_invalid(picture.values),
        cmap="cividis",
        vmin=0.0 if shares else None,
        vmax=1.0 if shares else None,
        rasterized=True,
    )
    # Exactly as high as the cells, whatever their aspect.
    tall = picture.y is not None
    bar = figure.colorbar(mesh, cax=ax.inset_axes((1.03, 0, 0.05 if tall else 0.03, 1)))
    bar.set_label(textwrap.fill(picture.label, 40 if tall else 14), fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT, length=2.5, width=0.6)


def _draw_curve(ax: Axes, picture: Picture) -> list[Artist]:
    """A curve with gaps where there is nothing, and marks where cells failed."""
    ax.set_facecolor("white")
    values = picture.values[0]
    marker = "o" if len(values) <= 50 or np.isfinite(values).sum() <= 2 else None
    ax.plot(
        picture.x.values, values, color=ACTION_COLOURS[1], lw=LINE, marker=marker, ms=2.5, zorder=3
    )
    edges = cell_edges(picture.x.values)
    for mask, colour in ((picture.missing[0], _MISSING), (picture.failed[0], _FAILED)):
        padded = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
        starts, stops = np.flatnonzero(padded == 1), np.flatnonzero(padded == -1)
        for start, stop in zip(starts, stops, strict=True):
            ax.axvspan(edges[start], edges[stop], color=colour, lw=0, zorder=1)
    return []


def _draw_failed(ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, failed: np.ndarray) -> None:
    if failed.any():
        ax.pcolormesh(
            edges_x,
            edges_y,
            np.ma.masked_equal(failed.astype(int), 0),
            cmap=ListedColormap([_FAILED]),
            rasterized=True,
            zorder=2.5,
        )


def _frame(ax: Axes, picture: Picture, above: Sequence[str]) -> None:
    axis_y = picture.y.values if picture.y else np.zeros(1)
    frame_cells(ax, picture.x.name, picture.x.values, picture.y and picture.y.name, axis_y, above)
    _name_ticks(ax, picture.x, "x")
    if picture.y:
        _name_ticks(ax, picture.y, "y")


def _name_ticks(ax: Axes, side: Side, which: str) -> None:
    if side.labels is not None:
        some = slice(None, None, -(-len(side.labels) // _NAMES))
        axis = ax.xaxis if which == "x" else ax.yaxis
        axis.set_ticks(
            list(side.values[some]), [name.replace("_", " ") for name in side.labels[some]]
        )
