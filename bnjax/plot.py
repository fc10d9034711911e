"""Figures, with matplotlib: phase diagrams, equilibrium branches, divergences, best fits.

Every function builds a `matplotlib.figure.Figure` of its own, at the width of a journal's
column, or draws into the axes it is given, and returns the figure; neither `pyplot` nor
`rcParams` is touched. Colours and hatching keep their meaning from figure to figure, and
survive colour blindness and grey printing.
"""

from __future__ import annotations

import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from contourpy import contour_generator
from jaxtyping import Array, ArrayLike
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from . import scenarios
from ._check import check_exploration
from .equilibrium import Certainty, Equilibria, Phase, Stability, equilibria, rationalizable
from .equilibrium._continuum import Continuum
from .problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem

COLUMN, PAGE = 3.5, 7.0  # widths of one and of two journal columns, inches
_FONT = 8.0  # points, at the size of the figure: the least that journals print
_LINE = 1.4
_DOT = 4.5
_TEXT_MARGIN = 6  # pixels that a name in a region keeps from its border, both sides together
_FEW_MODELS = 12  # so many can be told apart as dots


class PhaseStyle(NamedTuple):
    """How a phase is drawn: fill, hatching (sparse), colour of the hatching and of text."""

    fill: str
    hatch: str
    ink: str
    text: str


# Lightness (CIE L*) falls in steps of at least 8 from INVALID (100) to OSCILLATORY (26), so that
# grey printing keeps the phases apart; hues keep them apart for dichromats.
PHASE_STYLES: Mapping[Phase, PhaseStyle] = {
    Phase.SAFE: PhaseStyle("#8FD0F5", "", "#5FA8D3", "black"),
    Phase.UNSAFE: PhaseStyle("#B33C00", "//", "#D98A63", "white"),
    Phase.MULTISTABLE: PhaseStyle("#F5EA6B", ".", "#A89B1C", "black"),
    Phase.OSCILLATORY: PhaseStyle("#4B2A85", "\\\\", "#8E76BB", "white"),
    Phase.INDETERMINATE: PhaseStyle("#E0951A", "-", "#9C6200", "black"),
    Phase.UNDECIDED: PhaseStyle("#808080", "x", "#B5B5B5", "white"),
    Phase.INVALID: PhaseStyle("#FFFFFF", "xx", "#B0B0B0", "black"),
}
# Actions, in order: colours of Okabe and Ito (2008) or darker, and dashes for grey printing.
_ACTION_COLOURS = ("#D55E00", "#00517F", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_ACTION_DASHES: tuple[Any, ...] = (
    "solid",
    (0, (4, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (1, 1)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    "solid",
)
_POSSIBLE = {Certainty.IN: ("0.45", "rationalizable"), Certainty.UNDECIDED: ("0.82", "undecided")}


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
        ``dataset.attrs`` names (DESIGN section 1.7): sycophancy and hallucination with width
        0 or 1, deception. Or lines of your own: functions from x [N] to y [N], or arrays
        [N, 2] of (x, y).
    title : above the diagram.
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
    codes, x, y = _oriented(dataset, x, y)
    axis_x = _coordinate(codes, x)
    axis_y = _coordinate(codes, y) if y else np.zeros(1)
    grid = _phase_codes(codes)
    lines = _boundary_lines(dataset, codes, x, y, boundaries)  # refuse before anything is drawn
    height = COLUMN + 0.6 if y else 1.25
    figure, ax, own = _canvas(ax, COLUMN, height)
    edges_x, edges_y = _edges(axis_x), _edges(axis_y)
    present = [code for code in Phase if (grid == code).any()]
    _draw_cells(ax, edges_x, edges_y, grid, present)
    if not lines:  # two outlines, up to half a cell apart, would only compete
        _draw_borders(ax, edges_x, edges_y, grid)
    limits_x, limits_y = _limits(x, axis_x), _limits(y, axis_y)
    ax.set_xlim(*limits_x)
    ax.set_ylim(*limits_y)
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
    _dress(ax, _words(x), _words(y))
    if y is None:
        ax.set_yticks([])
    elif _is_probability(x, axis_x) and _is_probability(y, axis_y):
        spans = np.ptp(limits_x) / np.ptp(limits_y)
        if 0.5 <= spans <= 2:  # a sliver of one of them would make a sliver of a figure
            ax.set_aspect("equal")
    if title is not None:
        ax.set_title(title, fontsize=_FONT + 1)
    handles: list[Artist] = [_phase_patch(code, _share(grid == code)) for code in present]
    if lines:
        name = "theory" if boundaries is True else "boundary"
        handles.append(Line2D([], [], color="black", lw=1.2, ls=(0, (4, 2)), label=name))
    _legend_below(ax, handles, columns=2)
    if own:
        _fit_height(figure)
    _name_regions(figure, ax, edges_x, edges_y, grid, present)
    return figure


def bifurcation(
    scenario: Callable[..., AbstractProblem] | str,
    name: str,
    values: ArrayLike | Sequence[float],
    *,
    fixed: Mapping[str, Any] | None = None,
    exploration: ArrayLike = 0.0,
    action: int | str = 0,
    ax: Axes | None = None,
) -> Figure:
    """Draw every equilibrium along one parameter, and what is rationalizable below.

    Stable branches are solid, unstable ones dashed (dotted: stability unknown). Open circles
    mark equilibria that are unstable and yet absorbing: nothing is learned there, so that an
    agent that best responds may stay. Equilibria at neighbouring values belong to one branch
    if their strategies differ by at most 0.25; a change of stability is drawn half-way.

    Parameters
    ----------
    scenario : a function from parameters to a problem, or the name of one in
        `bnjax.scenarios`.
    name : the parameter that varies, or ``"exploration"``.
    values : [N] its values, N at least 2.
    fixed : values of other parameters.
    exploration : probability with which play trembles to a uniform action.
    action : number or name of the action whose (intended) probability is drawn.
    ax : axes to draw into; room is made for the strip below them. Default: a new figure, one
        column wide.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a parameter or action is unknown, or the values are not finite and increasing.
    """
    fixed = dict(fixed or {})
    scenario = _scenario(scenario)
    grid = _increasing("values", values)
    _check_parameters(scenario, name, fixed)
    tremble = check_exploration(exploration)
    build = _along(scenario, name, fixed, tremble)
    first, _ = build(jnp.asarray(grid[0]))
    chosen = _action_index(first, action)
    found, possible = jax.tree.map(
        np.asarray, jax.vmap(lambda value: _solutions(*build(value)))(jnp.asarray(grid))
    )
    figure, ax, _ = _canvas(ax, COLUMN, 3.3)
    used = {
        *_draw_continua(ax, grid, found, chosen),
        *_draw_branches(ax, grid, found, chosen),
    }
    ax.set_ylim(-0.04, 1.04)
    ax.set_xlim(grid[0], grid[-1])
    _dress(ax, "", _probability_of(first, chosen, name == "exploration" or tremble > 0))
    ax.tick_params(labelbottom=False)
    strip, certainties = _draw_strip(ax, grid, possible, first)
    _dress(strip, _words(name), "")
    strip.tick_params(left=False)
    patches = [Patch(facecolor=_POSSIBLE[c][0], label=_POSSIBLE[c][1]) for c in certainties]
    _legend_below(strip, [*_branch_handles(used), *patches], columns=2)
    return figure


def divergences(problem: AbstractProblem, *, ax: Axes | None = None) -> Figure:
    """Draw how badly each model fits each action, with the best fit marked.

    Parameters
    ----------
    problem : models along one parameter: finitely many (those in the support of the prior), or
        a family.
    ax : axes to draw into. Default: a new figure, one column wide.

    Returns
    -------
    matplotlib.figure.Figure
        One curve an action; a dot where it is least, a thick line where an action leaves a
        set of best fits, arrows at the top where a divergence is infinite.

    Raises
    ------
    ValueError
        If theta has more than one dimension.
    """
    theta, kl, best = _divergence_curves(problem)
    figure, ax, _ = _canvas(ax, COLUMN, 2.7)
    listed = not isinstance(problem, FamilyProblem)
    many = problem.num_actions > len(_ACTION_COLOURS)
    used: set[str] = set()
    handles: list[Artist] = []
    for action, label in enumerate(problem.action_names):
        colour, dashes = _action_style(action, problem.num_actions)
        finite = np.isfinite(kl[:, action])
        curve = np.where(finite, kl[:, action], np.nan)
        style: dict[str, Any] = {"color": colour, "ls": dashes, "lw": 0.6 if many else _LINE}
        if listed and len(theta) <= _FEW_MODELS:
            style |= {"marker": "s", "ms": 2.5}
        (line,) = ax.plot(theta, curve, label=_words(label), **style)
        if _is_named(action, problem.num_actions):
            handles.append(line)
        where, least = best[action]
        if len(where) > (_FEW_MODELS if listed else 1):
            used.add("set")
            ax.plot(where, least, color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
        else:
            used.add("point")
            dot = {"ms": 2.0, "mew": 0} if many else {"ms": _DOT + 1, "mec": "white", "mew": 0.6}
            ax.plot(where, least, color=colour, ls="", marker="o", zorder=4, clip_on=False, **dot)
        if not finite.all():
            used.add("infinite")
            top = np.ones((~finite).sum())
            above = {"transform": ax.get_xaxis_transform(), "clip_on": False}
            ax.plot(theta[~finite], top, color=colour, ls="", marker="^", ms=_DOT, **above)
    dot = {"color": "0.3", "ls": "", "marker": "o", "ms": _DOT + 1}
    if "point" in used:
        handles.append(Line2D([], [], label="best fit", **dot))
    if "set" in used:
        handles.append(Line2D([], [], color="0.3", lw=5, alpha=0.35, label="set of best fits"))
    if "infinite" in used:
        handles.append(Line2D([], [], label="infinite", **(dot | {"marker": "^", "ms": _DOT})))
    pad = 0.04 * (theta[-1] - theta[0]) if listed else 0.0
    ax.set_xlim(theta[0] - pad, theta[-1] + pad)
    top = kl[np.isfinite(kl)].max()
    ax.set_ylim(*((-0.04 * top, 1.05 * top) if top > 0 else (-0.04, 1.0)))
    _dress(ax, _parameter_names(problem)[0], "divergence K (nats)")
    _legend_below(ax, handles, columns=2)
    return figure


def best_fit_curve(
    problem: AbstractProblem, *, exploration: ArrayLike = 0.0, ax: Axes | None = None
) -> Figure:
    """Draw the best fit as play moves from one action to the other, and the equilibria on it.

    Parameters
    ----------
    problem : two actions.
    exploration : probability with which play trembles to a uniform action.
    ax : axes to draw into, if theta has one dimension. Default: a new figure, one column wide,
        with a panel for each dimension.

    Returns
    -------
    matplotlib.figure.Figure
        The best fit against the probability s of the first action, in the colour of the better
        reply to it. Filled dots are stable equilibria, open ones unstable. A grey bar spans the
        best fits that a pure strategy leaves open.

    Raises
    ------
    ValueError
        If there are not two actions, or ``ax`` is given and theta has several dimensions.
    """
    if problem.num_actions != 2:
        raise ValueError(f"`problem` must have two actions; got {problem.num_actions}.")
    tremble = check_exploration(exploration)
    names = _parameter_names(problem)
    if ax is not None and len(names) > 1:
        raise ValueError(
            f"`ax` must be left out for a theta of several dimensions, one panel each: {names}."
        )
    curves = _play_curve(problem, float(tremble))
    found = jax.tree.map(np.asarray, equilibria(problem, tremble))
    if ax is None:
        figure = Figure(figsize=(COLUMN, 1.2 + 1.5 * len(names)), layout="constrained")
        panels = list(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0])
    else:
        figure, panels = _figure_of(ax), [ax]
    used: set[str] = set()
    for dimension, panel in enumerate(panels):
        used |= _draw_best_fits(panel, curves, dimension)
        used |= _draw_equilibria(panel, found, dimension)
        panel.set_xlim(-0.03, 1.03)
        panel.margins(y=0.08)
        below = _probability_of(problem, 0, tremble > 0) if panel is panels[-1] else ""
        _dress(panel, below, f"best fit {names[dimension]}", 27 if len(names) == 1 else 18)
    _legend_below(panels[-1], _best_fit_handles(problem, used), columns=2)
    return figure


# The page.


def _canvas(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes, bool]:
    """Figure and axes to draw into, and whether they are our own."""
    if ax is not None:
        return _figure_of(ax), ax, False
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot(), True


def _figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("`ax` must belong to a figure; it was removed from its own.")
    return figure


def _dress(ax: Axes, label_x: str, label_y: str, room: int = 27) -> None:
    """Label the axes; fold the upright label where it has more letters than the axes have room.

    Sizes are set on the artists, whatever the user's style sheet says.
    """
    ax.set_xlabel(label_x, fontsize=_FONT + 1)
    ax.set_ylabel(textwrap.fill(label_y, room), fontsize=_FONT + 1)
    ax.tick_params(labelsize=_FONT, length=2.5, width=0.6)
    for spine in ax.spines.values():
        spine.set_linewidth(0.6)


def _legend_below(ax: Axes, handles: Sequence[Artist], columns: int) -> None:
    """A legend under the tick labels and the label of the x axis, wherever the axes are."""
    figure = _figure_of(ax)
    # Ticks, tick labels, axis label: all of known size. In points, so that it holds for axes of
    # any height; a legend that constrained layout sees is never clipped.
    drop = 2.5 + 3.5 + 1.25 * _FONT + 4 + 1.25 * (_FONT + 1) + 3
    below = ax.transAxes + ScaledTranslation(0, -drop / 72, figure.dpi_scale_trans)
    ax.legend(
        handles=list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
        ncols=columns,
        fontsize=_FONT,
        frameon=False,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=2.4,
        handleheight=0.9,
        columnspacing=1.4,
        labelspacing=0.35,
    )


def _fit_height(figure: Figure) -> None:
    """Take away the height that an equal aspect leaves empty."""
    figure.draw_without_rendering()
    figure.set_figheight(figure.get_tightbbox().height + 0.1)


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def _probability_of(problem: AbstractProblem, action: int, trembles: Any) -> str:
    """Label: what is drawn is intended play, which differs from play if that trembles."""
    return f"{'intended ' if trembles else ''}probability of {_words(problem.action_names[action])}"


def _action_style(action: int, num_actions: int) -> tuple[Any, Any]:
    if num_actions <= len(_ACTION_COLOURS):
        return _ACTION_COLOURS[action], _ACTION_DASHES[action]
    return colormaps["cividis"](action / (num_actions - 1)), "solid"


def _is_named(action: int, num_actions: int) -> bool:
    """Whether the legend names an action: with many, only the ends and the middle."""
    few = num_actions <= len(_ACTION_COLOURS)
    return few or action in (0, num_actions // 2, num_actions - 1)


# Phase diagrams.


def _oriented(
    dataset: xr.Dataset, x: str | None, y: str | None
) -> tuple[xr.DataArray, str, str | None]:
    """Phases with dimensions (y, x), or (x,), and what these are."""
    if not isinstance(dataset, xr.Dataset) or "phase" not in dataset:
        has = list(dataset.data_vars) if isinstance(dataset, xr.Dataset) else type(dataset).__name__
        raise ValueError(
            "`dataset` must be an xarray.Dataset with a variable `phase`, as "
            f"`bnjax.phase_diagram` returns it; got {has}."
        )
    codes = dataset["phase"]
    dims = [str(dim) for dim in codes.dims]
    if not 1 <= len(dims) <= 2:
        raise ValueError(
            f"`dataset` must have one or two dimensions to draw; got {tuple(dims)}: select one "
            "value of each of the others first, for example with `dataset.isel(...)`."
        )
    for argument, dim in (("x", x), ("y", y)):
        if dim is not None and dim not in dims:
            raise ValueError(f"`{argument}` must be one of the dimensions {dims}; got {dim!r}.")
    if len(dims) == 1:
        if y is not None:
            raise ValueError(f"`y` must be left out: the one dimension {dims[0]!r} goes along x.")
        return codes, dims[0], None
    if x is None:
        x = dims[0] if y != dims[0] else dims[1]
    if y is None:
        y = dims[1] if x != dims[1] else dims[0]
    if x == y:
        raise ValueError(f"`x` and `y` must be different dimensions; got {x!r} twice.")
    return codes.transpose(y, x), x, y


def _coordinate(codes: xr.DataArray, dim: str) -> np.ndarray:
    values = codes[dim].values
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise ValueError(f"`dataset` must have finite numbers along {dim!r}; got {values!r}.")
    steps = np.diff(values.astype(float))
    if len(values) == 0 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"`dataset` must have increasing or decreasing values along {dim!r}; got {values!r}."
        )
    return values.astype(float)


def _phase_codes(codes: xr.DataArray) -> np.ndarray:
    """Codes [y, x] (one row for a strip)."""
    values = np.atleast_2d(codes.values)
    known = np.isin(values, [int(code) for code in Phase])
    if not known.all():
        raise ValueError(
            f"`dataset` must hold codes of bnjax.Phase in `phase`; got {values[~known][0]}."
        )
    return values.astype(int)


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells half-way between their centres, the outermost as far out as in."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _is_probability(name: str | None, values: np.ndarray) -> bool:
    named = name is not None and (
        name.startswith("p_") or name in ("detect_lower", "detect_upper", "width", "exploration")
    )
    return named and bool(values.min() >= 0 and values.max() <= 1)


def _limits(name: str | None, centres: np.ndarray) -> tuple[float, float]:
    """All of the cells, except what would be a probability below 0 or above 1."""
    edges = _edges(np.sort(centres))
    low, high = float(edges[0]), float(edges[-1])
    return (max(low, 0.0), min(high, 1.0)) if _is_probability(name, centres) else (low, high)


def _draw_cells(
    ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, grid: np.ndarray, present: Sequence[Phase]
) -> None:
    colours = ListedColormap([PHASE_STYLES[code].fill for code in Phase])
    # In a vector file a picture, not a polygon a cell with hairlines between them.
    ax.pcolormesh(
        edges_x, edges_y, grid, cmap=colours, vmin=-0.5, vmax=len(Phase) - 0.5, rasterized=True
    )
    for code in present:
        style = PHASE_STYLES[code]
        if style.hatch:
            patch = PathPatch(
                _union(edges_x, edges_y, grid == code),
                facecolor="none",
                edgecolor=style.ink,
                hatch=style.hatch,
                linewidth=0,
                zorder=1.5,
            )
            patch.set_hatch_linewidth(0.5)
            ax.add_patch(patch)


def _draw_borders(ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, grid: np.ndarray) -> None:
    sides = _borders(edges_x, edges_y, grid)
    ax.add_collection(
        LineCollection(list(sides), colors="black", linewidths=0.5, zorder=2), autolim=False
    )


def _union(edges_x: np.ndarray, edges_y: np.ndarray, mask: np.ndarray) -> Path:
    """One path of the rectangles that make up a region: a row of cells is cut into runs."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(int)
    row, start = np.nonzero(np.diff(padded, axis=1) == 1)
    _, stop = np.nonzero(np.diff(padded, axis=1) == -1)
    left, right, low, high = edges_x[start], edges_x[stop], edges_y[row], edges_y[row + 1]
    corners = np.stack(
        [
            np.stack([left, low], -1),
            np.stack([right, low], -1),
            np.stack([right, high], -1),
            np.stack([left, high], -1),
            np.stack([left, low], -1),
        ],
        axis=1,
    )
    codes = np.tile(
        [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(row)
    ).astype(Path.code_type)
    return Path(corners.reshape(-1, 2), codes)


def _borders(edges_x: np.ndarray, edges_y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sides [N, 2, 2] that cells of different phases share."""
    i, j = np.nonzero(grid[:, 1:] != grid[:, :-1])
    upright = np.stack(
        [
            np.stack([edges_x[j + 1], edges_y[i]], -1),
            np.stack([edges_x[j + 1], edges_y[i + 1]], -1),
        ],
        axis=1,
    )
    i, j = np.nonzero(grid[1:] != grid[:-1])
    level = np.stack(
        [
            np.stack([edges_x[j], edges_y[i + 1]], -1),
            np.stack([edges_x[j + 1], edges_y[i + 1]], -1),
        ],
        axis=1,
    )
    return np.concatenate([upright, level])


def _share(mask: np.ndarray) -> str:
    """Percent, in which neither a few cells become none nor nearly all of them all."""
    percent = 100 * float(mask.mean())
    if 99 < percent < 100:
        return ">99%"
    return f"{percent:.2g}%" if percent < 1 else f"{percent:.0f}%"


def _phase_patch(code: Phase, share: str) -> Patch:
    style = PHASE_STYLES[code]
    # Handles are small: hatch them more densely, so that they show at least two strokes.
    hatch = style.hatch * (3 if style.hatch in (".", "-") else 2)
    patch = Patch(facecolor=style.fill, hatch=hatch, edgecolor=style.ink, linewidth=0.5)
    patch.set_hatch_linewidth(0.5)
    patch.set_label(f"{code.name.lower()} ({share})")
    return patch


def _name_regions(
    figure: Figure,
    ax: Axes,
    edges_x: np.ndarray,
    edges_y: np.ndarray,
    grid: np.ndarray,
    present: Sequence[Phase],
) -> None:
    """Write the phase into every connected region that has room for its name."""
    figure.draw_without_rendering()
    box = ax.get_window_extent()
    # Work in pixels, where cells of any size and texts are commensurable.
    column, row = np.arange(0.5, box.width), np.arange(0.5, box.height)
    mesh = np.meshgrid(box.x0 + column, box.y0 + row)
    where = ax.transData.inverted().transform(np.stack(mesh, -1).reshape(-1, 2))
    cell_x, cell_y = _cell_of(edges_x, where[:, 0]), _cell_of(edges_y, where[:, 1])
    raster = grid[cell_y, cell_x].reshape(len(row), len(column))
    for code in present:
        regions, count = cast(tuple[np.ndarray, int], ndimage.label(raster == code))
        if not count:
            continue
        names = [_region_name(ax, code, rotation) for rotation in (0.0, 90.0)]
        sizes = [name.get_window_extent().size for name in names]
        for number, window in enumerate(ndimage.find_objects(regions), 1):
            for name, (width, height) in zip(names, sizes, strict=True):
                place = _roomiest(regions[window] == number, width, height)
                if place is not None:
                    row_at, column_at = place[0] + window[0].start, place[1] + window[1].start
                    spot = ax.transData.inverted().transform((box.x0 + column_at, box.y0 + row_at))
                    _region_name(ax, code, name.get_rotation()).set_position(tuple(spot))
                    break
        for name in names:
            name.remove()


def _region_name(ax: Axes, code: Phase, rotation: float) -> Text:
    """Name of a phase on its own ground, so that no hatching crosses the letters."""
    style = PHASE_STYLES[code]
    return ax.text(
        0,
        0,
        code.name.lower(),
        color=style.text,
        fontsize=_FONT + 1,
        rotation=rotation,
        ha="center",
        va="center",
        zorder=4,
        bbox={"facecolor": style.fill, "edgecolor": "none", "pad": 1.5},
    )


def _cell_of(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number of the cell that each value lies in; edges may run either way."""
    sign = 1 if edges[-1] > edges[0] else -1
    cells = np.searchsorted(sign * edges, sign * values) - 1
    return np.clip(cells, 0, len(edges) - 2)


def _roomiest(region: np.ndarray, width: float, height: float) -> tuple[float, float] | None:
    """Centre (row, column) of the box of this size that lies deepest inside a region."""
    size = int(height) + _TEXT_MARGIN, int(width) + _TEXT_MARGIN
    if size[0] > region.shape[0] or size[1] > region.shape[1]:
        return None
    padded = np.pad(region, 1)  # the frame is a border too
    fits = ndimage.minimum_filter(padded, size=size, mode="constant", cval=0)
    if not fits.any():
        return None
    depth = np.asarray(ndimage.distance_transform_cdt(fits, "chessboard"))
    deepest = np.argwhere(depth == depth.max())
    centre = deepest.mean(0)
    best = deepest[np.abs(deepest - centre).sum(1).argmin()]
    return best[0] - 0.5, best[1] - 0.5


# What theory says about where phases end.


def _boundary_lines(
    dataset: xr.Dataset,
    codes: xr.DataArray,
    x: str,
    y: str | None,
    boundaries: bool | Iterable[Callable[..., Any] | ArrayLike] | None,
) -> list[np.ndarray]:
    """Lines [N, 2] to draw."""
    if boundaries is None or boundaries is False:
        return []
    low, high = _limits(x, _coordinate(codes, x))
    fine_x = np.linspace(low, high, 401)
    if boundaries is not True:
        return [_own_line(i, line, fine_x) for i, line in enumerate(_as_list(boundaries))]
    low, high = _limits(y, _coordinate(codes, y)) if y else (-0.5, 0.5)
    fine_y = np.linspace(low, high, 401)
    mesh_x, mesh_y = np.meshgrid(fine_x, fine_y)
    values = _parameters_of(dataset, codes) | {x: mesh_x} | ({y: mesh_y} if y else {})
    lines = []
    for field in _theory(str(dataset.attrs["scenario"]), values):
        field = np.ma.masked_invalid(np.broadcast_to(field, mesh_x.shape))
        lines += contour_generator(fine_x, fine_y, field).lines(0.0)
    return [np.asarray(line) for line in lines]


def _as_list(boundaries: Any) -> list[Any]:
    if callable(boundaries) or not isinstance(boundaries, Iterable):
        raise ValueError(f"`boundaries` must be None, True or a list of lines; got {boundaries!r}.")
    return list(boundaries)


def _own_line(number: int, line: Any, fine_x: np.ndarray) -> np.ndarray:
    if callable(line):
        values = np.broadcast_to(np.asarray(line(fine_x), float), fine_x.shape)
        return np.stack([fine_x, values], -1)
    array = np.asarray(line, float)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"`boundaries[{number}]` must be a function of x or an array [N, 2] of (x, y); got an "
            f"array of shape {array.shape}."
        )
    return array


def _parameters_of(dataset: xr.Dataset, codes: xr.DataArray) -> dict[str, Any]:
    """Every parameter that does not vary: defaults, what was fixed, what was selected."""
    if "scenario" not in dataset.attrs:
        raise ValueError(
            "`boundaries=True` needs the name of a scenario in `dataset.attrs['scenario']`; pass "
            "the lines instead."
        )
    scenario = _scenario(str(dataset.attrs["scenario"]))
    values: dict[str, Any] = {"exploration": dataset.attrs.get("exploration", 0.0)}
    for parameter in inspect.signature(scenario).parameters.values():
        values[parameter.name] = parameter.default
    fixed = dataset.attrs.get("fixed", {})
    # A netCDF file holds no mapping: there it is text.
    values |= json.loads(fixed) if isinstance(fixed, str) else dict(fixed)
    return values | {
        str(name): float(coord)
        for name, coord in codes.coords.items()
        if coord.ndim == 0 and np.issubdtype(coord.dtype, np.number)
    }


def _theory(scenario: str, values: Mapping[str, Any]) -> list[np.ndarray]:
    """Fields whose zeros are boundaries between phases; NaN where they separate nothing."""
    if scenario == "sycophancy":
        return _agreement_fields(values["p_sycophantic"], values["p_honest"], values)
    if scenario == "hallucination":
        return _agreement_fields(values["p_fabricate"], values["p_abstain"], values)
    if scenario == "deception":
        return _deception_fields(values)
    raise ValueError(
        f"`boundaries=True` knows sycophancy, hallucination and deception; got {scenario!r}."
    )


def _agreement_fields(unsafe: Any, safe: Any, values: Mapping[str, Any]) -> list[np.ndarray]:
    width, tremble = np.asarray(values["width"]), np.asarray(values["exploration"])
    if np.allclose(width, 0):
        # theta*(s) = s p_unsafe + (1 - s)(1 - p_safe) against 1/2 at both trembled vertices
        # (DESIGN section 1.7); without exploration these are p_unsafe = 1/2 and p_safe = 1/2.
        rare = tremble / 2
        return [
            (1 - rare) * unsafe - rare * safe - (0.5 - rare),
            (1 - rare) * safe - rare * unsafe - (0.5 - rare),
        ]
    if np.allclose(width, 1):
        # The correct model, which needs data on both actions to know better.
        return [np.where(tremble > 0, np.asarray(safe) - unsafe, np.nan)]
    raise ValueError(
        "`boundaries=True` needs width 0 or 1: in between no closed form is known; pass the lines "
        "instead."
    )


def _deception_fields(values: Mapping[str, Any]) -> list[np.ndarray]:
    names = ("p_detect", "gain", "penalty", "honest_payoff", "detect_lower", "detect_upper")
    risk, gain, penalty, honest, lower, upper = (np.asarray(values[name], float) for name in names)
    total = gain + penalty
    threshold = (gain - honest) / np.where(total != 0, total, np.nan)
    possible = lower <= upper
    tremble = np.asarray(values["exploration"])
    # Without exploration complying teaches nothing: what the agent can believe decides, and
    # the truth only where it can believe both.
    fields = [
        np.where(possible & (tremble == 0), upper - threshold, np.nan),
        np.where(possible & (tremble == 0), lower - threshold, np.nan),
        np.where(
            (tremble == 0) & (lower <= threshold) & (threshold <= upper), risk - threshold, np.nan
        ),
    ]
    # With it, deceiving is optimal iff the best fit is at most the threshold.
    believed = np.minimum(np.maximum(risk, lower), upper)
    return [*fields, np.where(possible & (tremble > 0), believed - threshold, np.nan)]


# Bifurcations.


def _scenario(scenario: Callable[..., AbstractProblem] | str) -> Callable[..., AbstractProblem]:
    if callable(scenario):
        return scenario
    if scenario not in scenarios.__all__:
        raise ValueError(
            f"`scenario` must be a function or one of {scenarios.__all__}; got {scenario!r}."
        )
    return getattr(scenarios, scenario)


def _increasing(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"`{name}` must hold at least two values; got shape {array.shape}.")
    if not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise ValueError(f"`{name}` must be finite and increasing; got {array}.")
    return array


def _check_parameters(scenario: Callable[..., Any], name: str, fixed: Mapping[str, Any]) -> None:
    parameters = inspect.signature(scenario).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = [*parameters, "exploration"]
    if name not in known:
        raise ValueError(f"`name` must be one of {known}; got {name!r}.")
    for other in fixed:
        if other not in parameters:
            raise ValueError(f"`fixed` must name some of {list(parameters)}; got {other!r}.")
    if name in fixed:
        raise ValueError(f"`fixed` must not hold {name!r}, which varies.")


def _along(
    scenario: Callable[..., AbstractProblem], name: str, fixed: Mapping[str, Any], tremble: Array
) -> Callable[[Any], tuple[AbstractProblem, Any]]:
    """Function from a value of the parameter to the problem and its exploration."""
    if name == "exploration":
        return lambda value: (scenario(**fixed), value)
    return lambda value: (scenario(**fixed, **{name: value}), tremble)


def _solutions(problem: AbstractProblem, exploration: Any) -> tuple[Equilibria, Any]:
    return equilibria(problem, exploration), rationalizable(problem, exploration).certainty


def _action_index(problem: AbstractProblem, action: int | str) -> int:
    names = problem.action_names
    if isinstance(action, str):
        if action not in names:
            raise ValueError(f"`action` must be one of {names}; got {action!r}.")
        return names.index(action)
    if not 0 <= action < len(names):
        raise ValueError(f"`action` must be in 0..{len(names) - 1}; got {action}.")
    return int(action)


_LINES = {
    Stability.STABLE: "solid",
    Stability.UNSTABLE: (0, (3.5, 1.8)),
    Stability.UNKNOWN: (0, (1, 1.5)),
}
# How far apart equilibria at neighbouring values may be on one branch, and where two branch.
_REACH, _FORK = 0.25, 0.1
_CURVE = "#00517F"
_BAND = "#9FB8CC"


def _is_segment(found: Equilibria) -> np.ndarray:
    """Which rows [N, E] are a whole segment of equilibria."""
    return np.asarray(found.valid & (found.strategy != found.strategy_end).any(-1))


def _draw_continua(ax: Axes, grid: np.ndarray, found: Equilibria, action: int) -> set[str]:
    segment = _is_segment(found)
    ends = np.stack([found.strategy[..., action], found.strategy_end[..., action]], -1)
    low, high = ends.min(-1), ends.max(-1)
    chains = _chain(
        [np.stack([low[i], high[i]], -1)[segment[i]] for i in range(len(grid))], reach=_REACH
    )
    for chain in chains:
        at = grid[[i for i, _ in chain]]
        bands = np.array([np.stack([low[i], high[i]], -1)[segment[i]][k] for i, k in chain])
        if len(chain) == 1:  # an area needs two values
            ax.plot([at[0]] * 2, bands[0], color=_BAND, lw=2.5, solid_capstyle="butt", zorder=2)
        else:
            ax.fill_between(at, *bands.T, color=_BAND, lw=0, zorder=1)
    return {"continuum"} if chains else set()


def _draw_branches(ax: Axes, grid: np.ndarray, found: Equilibria, action: int) -> set[str]:
    point = np.asarray(found.valid) & ~_is_segment(found)
    rows = [np.flatnonzero(point[i]) for i in range(len(grid))]
    points = [np.asarray(found.strategy[i][rows[i]]) for i in range(len(grid))]
    chains = _chain(points, _REACH)
    used: set[str] = set()
    for chain in chains:
        index = [(i, int(rows[i][k])) for i, k in chain]
        at = grid[[i for i, _ in index]]
        height = np.array([found.strategy[i, e, action] for i, e in index])
        kind = np.array([found.stability[i, e] for i, e in index])
        kept = np.array([found.absorbing[i, e] for i, e in index]) & (kind != Stability.STABLE)
        # A branch that forks from another starts where it does.
        for end, step in ((0, -1), (-1, 1)):
            if (root := _neighbour(found, rows, index[end], step)) is not None:
                slot = 0 if end == 0 else len(at)
                at = np.insert(at, slot, grid[root[0]])
                height = np.insert(height, slot, found.strategy[*root, action])
                kind = np.insert(kind, slot, kind[end])
                kept = np.insert(kept, slot, False)
        for start, stop in _runs(kind):
            stability = Stability(int(kind[start]))
            used.add(stability.name)
            xs, ys = _with_half_steps(at, height, start, stop)
            alone = {"marker": "o", "ms": 2.5} if len(xs) == 1 else {}
            ax.plot(xs, ys, color=_CURVE, lw=_LINE, ls=_LINES[stability], zorder=3, **alone)
        if kept.any():
            used.add("absorbing")
        for start, stop in _runs(kept):
            if kept[start]:
                ax.plot(
                    at[start:stop],
                    height[start:stop],
                    ls="",
                    marker="o",
                    ms=_DOT,
                    mfc="white",
                    mec=_CURVE,
                    mew=0.9,
                    markevery=(0.0, 0.06),  # as a share of the diagonal: apart at any spacing
                    clip_on=False,
                    zorder=4,
                )
    return used


def _neighbour(
    found: Equilibria, rows: Sequence[np.ndarray], end: tuple[int, int], step: int
) -> tuple[int, int] | None:
    """Equilibrium at the value next to the end of a branch, if one is close to it."""
    i = end[0] + step
    if not 0 <= i < len(rows) or len(rows[i]) == 0:
        return None
    gap = np.abs(found.strategy[i][rows[i]] - found.strategy[end]).max(-1)
    return (i, int(rows[i][gap.argmin()])) if gap.min() <= _FORK else None


def _chain(points: Sequence[np.ndarray], reach: float) -> list[list[tuple[int, int]]]:
    """Join points [k, C] of neighbouring values into branches of (value, point) pairs.

    The pairing has the least total distance; a pair further apart than ``reach`` is none.
    """
    open_chains: dict[int, list[tuple[int, int]]] = {}
    closed: list[list[tuple[int, int]]] = []
    for i, here in enumerate(points):
        joined: dict[int, list[tuple[int, int]]] = {}
        if open_chains and len(here):
            before = np.array(sorted(open_chains))
            gap = np.abs(points[i - 1][before][:, None] - here[None]).max(-1)
            # Out of reach costs the same everywhere, so that it never decides the pairing.
            for a, b in zip(*linear_sum_assignment(np.minimum(gap, 2 * reach)), strict=True):
                if gap[a, b] <= reach:
                    joined[int(b)] = open_chains.pop(int(before[a]))
        closed += open_chains.values()
        open_chains = {k: [*joined.get(k, []), (i, k)] for k in range(len(here))}
    return [*closed, *open_chains.values()]


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Slices of equal neighbours."""
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = [0, *cuts.tolist(), len(values)]
    return list(itertools.pairwise(edges))


def _with_half_steps(
    at: np.ndarray, height: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """A run of a branch, and half of the way to the runs next to it."""
    lead = [start - 0.5] if start > 0 else []
    tail = [stop - 0.5] if stop < len(at) else []
    where = np.array([*lead, *range(start, stop), *tail])
    number = np.arange(len(at))
    return np.interp(where, number, at), np.interp(where, number, height)


def _branch_handles(used: set[str]) -> list[Artist]:
    names = {"STABLE": "stable", "UNSTABLE": "unstable", "UNKNOWN": "stability unknown"}
    handles: list[Artist] = [
        Line2D([], [], color=_CURVE, lw=_LINE, ls=_LINES[stability], label=names[stability.name])
        for stability in (Stability.STABLE, Stability.UNSTABLE, Stability.UNKNOWN)
        if stability.name in used
    ]
    if "absorbing" in used:
        style = {"marker": "o", "ms": _DOT, "mfc": "white", "mec": _CURVE, "mew": 0.9}
        handles.append(Line2D([], [], ls="", label="absorbing, not stable", **style))
    if "continuum" in used:
        handles.append(Patch(facecolor=_BAND, label="continuum"))
    return handles


def _draw_strip(
    ax: Axes, grid: np.ndarray, certainty: np.ndarray, problem: AbstractProblem
) -> tuple[Axes, list[Certainty]]:
    """Below the axes, one row an action: filled where the action is rationalizable."""
    num = problem.num_actions
    share = min(0.07 * num, 0.3)
    strip = ax.inset_axes((0, -0.05 - share, 1, share), sharex=ax)
    colours = ListedColormap(
        ["white", _POSSIBLE[Certainty.IN][0], _POSSIBLE[Certainty.UNDECIDED][0]]
    )
    rows = np.arange(num + 1) - 0.5
    strip.pcolormesh(
        _edges(grid), rows, certainty.T, cmap=colours, vmin=-0.5, vmax=2.5, rasterized=True
    )
    strip.set_ylim(num - 0.5, -0.5)
    strip.set_xlim(grid[0], grid[-1])
    if num <= 6:
        strip.set_yticks(range(num), [_words(name) for name in problem.action_names])
        strip.hlines(rows[1:-1], grid[0], grid[-1], colors="black", linewidth=0.5)
    else:
        strip.set_yticks([0, num - 1], [problem.action_names[0], problem.action_names[-1]])
    return strip, [code for code in _POSSIBLE if (certainty == code).any()]


# Divergences and best fits.


def _parameter_names(problem: AbstractProblem) -> tuple[str, ...]:
    if isinstance(problem, FamilyProblem):
        return tuple(_words(name) for name in problem.family.parameter_names)
    assert isinstance(problem, AbstractFiniteProblem)
    size = problem.theta.shape[1]
    return ("theta",) if size == 1 else tuple(f"theta {i}" for i in range(size))


def _divergence_curves(
    problem: AbstractProblem,
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Parameter [G], increasing, divergence [G, A], and each action's best fits and their K."""
    if len(_parameter_names(problem)) != 1:
        raise ValueError(
            "`problem` must have a one-dimensional theta for its divergences to be curves; got "
            f"{_parameter_names(problem)}."
        )
    polished = None
    if isinstance(problem, FamilyProblem):
        theta, kl, *polished = map(np.asarray, _family_divergences(problem))
    else:
        assert isinstance(problem, AbstractFiniteProblem)
        support = np.asarray(problem.support)
        theta, kl = np.asarray(problem.theta)[support, 0], np.asarray(problem.kl_matrix())[support]
    order = np.argsort(theta, stable=True)
    theta, kl = theta[order], kl[order]
    best = []
    for action in range(problem.num_actions):
        if polished and isinstance(problem, FamilyProblem) and problem.family.identifies(action)[0]:
            best.append((polished[0][action, None], polished[1][action, None]))
        else:
            tied = kl[:, action] <= kl[:, action].min() + 1e-6
            best.append((theta[tied], kl[tied, action]))
    return theta, kl, best


@eqx.filter_jit
def _family_divergences(problem: FamilyProblem) -> tuple[Any, ...]:
    """Parameter [G] and divergences [G, A]; best fit to each action [A] and its divergence [A]."""
    nodes = problem.family.nodes(513)
    kl, ruled_out = jax.vmap(problem.divergence)(nodes)
    zero = jnp.zeros((), nodes.dtype)
    best = jax.vmap(Continuum(problem, zero).best_fit)(
        jnp.eye(problem.num_actions, dtype=nodes.dtype)
    )
    least, _ = jax.vmap(problem.divergence)(best)
    theta = jax.vmap(problem.family.theta)
    return theta(nodes)[:, 0], jnp.where(ruled_out, jnp.inf, kl), theta(best)[:, 0], jnp.diag(least)


class _Curves(NamedTuple):
    """Best fits along play: pieces to draw, and the sets that pure strategies leave open.

    ``play`` [G], ``theta`` [G, D], NaN between pieces; ``reply`` [G]: which action is better
    (-1 if neither); ``open_sets``: pairs of s (0 or 1) and tied parameters [k, D].
    """

    play: np.ndarray
    theta: np.ndarray
    reply: np.ndarray
    open_sets: list[tuple[float, np.ndarray]]


def _better(gain: np.ndarray, scale: float) -> np.ndarray:
    return np.where(np.abs(gain) <= 1e-5 * scale, -1, np.where(gain > 0, 0, 1))


@eqx.filter_jit
def _best_fits(problem: FamilyProblem, exploration: Any, plays: Any) -> tuple[Any, Any]:
    continuum = Continuum(problem, exploration)

    def at(s):
        point = continuum.best_fit(jnp.stack([s, 1 - s]))
        payoffs = problem.payoffs(point)
        return problem.family.theta(point), payoffs[0] - payoffs[1]

    return jax.vmap(at)(plays)


def _play_curve(problem: AbstractProblem, exploration: float) -> _Curves:
    if isinstance(problem, FamilyProblem):
        return _family_curve(problem, exploration)
    assert isinstance(problem, AbstractFiniteProblem)
    return _finite_curve(problem, exploration)


def _family_curve(problem: FamilyProblem, exploration: float) -> _Curves:
    family = problem.family
    dtype = family.lower.dtype
    # Close to the ends too, where the best fit may turn quickly.
    tail = np.array([1e-3, 2e-3])
    plays = np.sort(np.concatenate([np.linspace(0.0, 1.0, 257), tail, 1 - tail]))
    open_sets = []
    for action, s in ((1, 0.0), (0, 1.0)):
        known = family.identifies(action)
        if exploration == 0 and not all(known):
            # There the best fit is a set, and not what strictly mixed play tends to.
            plays = plays[plays != s]
            open_sets.append((s, _unidentified(problem, action, known)))
    theta, gain = _best_fits(problem, jnp.asarray(exploration, dtype), jnp.asarray(plays, dtype))
    payoffs = np.asarray(problem.subjective_payoffs())
    reply = _better(np.asarray(gain), float(np.ptp(payoffs)))
    # Indifference at one point is the equilibrium there; only an interval is a piece of curve.
    for start, stop in _runs(reply):
        if reply[start] < 0 and stop - start == 1 and start > 0:
            reply[start] = reply[start - 1]
    return _Curves(plays, np.asarray(theta), reply, open_sets)


def _unidentified(problem: FamilyProblem, action: int, known: Sequence[bool]) -> np.ndarray:
    """Parameters [k, D] of best fits to a pure strategy, over what it does not identify."""
    family = problem.family
    continuum = Continuum(problem, jnp.zeros_like(family.lower[0]))
    point = continuum.best_fit_alone(action)
    nodes = jnp.where(jnp.asarray(known), point, family.nodes())
    return np.asarray(jax.vmap(lambda node: family.theta(node, action))(nodes))


def _finite_curve(problem: AbstractFiniteProblem, exploration: float) -> _Curves:
    reduced = problem.reduced_form()
    reduced = reduced.explored(jnp.asarray(exploration, reduced.kl.dtype))
    kl, ruled_out, payoffs, support = (
        np.asarray(leaf)
        for leaf in (reduced.kl, reduced.ruled_out, reduced.payoffs, reduced.support)
    )
    theta = np.asarray(problem.theta)
    usable = support & ~ruled_out.any(1)
    level, slope = kl[:, 1].astype(float), (kl[:, 0] - kl[:, 1]).astype(float)
    reply = _better(payoffs[:, 0] - payoffs[:, 1], float(np.ptp(payoffs)))
    play, fits, replies = [], [], []
    for low, high, model in _lower_envelope(level, slope, usable):
        play += [low, high, high]
        fits += [theta[model], theta[model], np.full(theta.shape[1], np.nan)]
        replies += [reply[model]] * 3
    open_sets = []
    for action, s in ((1, 0.0), (0, 1.0)):
        cost = np.where(support & ~ruled_out[:, action], kl[:, action], np.inf)
        tied = cost <= cost.min() + 1e-6
        if tied.sum() > 1:
            open_sets.append((s, theta[tied]))
    return _Curves(np.array(play), np.array(fits), np.array(replies), open_sets)


def _lower_envelope(
    level: np.ndarray, slope: np.ndarray, usable: np.ndarray
) -> list[tuple[float, float, int]]:
    """Pieces (s from, s to, model) of the least of the lines level + s * slope on [0, 1]."""
    cost = np.where(usable, level, np.inf)
    # Of the models that tie at the start, the one that stays lowest.
    model = int(np.lexsort((slope, np.where(cost <= cost.min() + 1e-9, 0, 1)))[0])
    s, pieces = 0.0, []
    while True:
        steeper = usable & (slope < slope[model])
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = np.where(steeper, (level - level[model]) / (slope[model] - slope), np.inf)
        following = float(max(cross.min(), s))
        if following >= 1:
            return [*pieces, (s, 1.0, model)]
        pieces.append((s, following, model))
        # Where several cross at once, the one that is lowest beyond.
        at_once = np.flatnonzero(cross <= following + 1e-12)
        s, model = following, int(at_once[slope[at_once].argmin()])


_REPLY_STYLES = {0: (_ACTION_COLOURS[0], "solid"), 1: (_ACTION_COLOURS[1], (0, (4, 1.5)))}
_REPLY_STYLES[-1] = ("0.5", (0, (1, 1)))


def _draw_best_fits(ax: Axes, curves: _Curves, dimension: int) -> set[str]:
    used = set()
    for s, tied in curves.open_sets:
        ends = [tied[:, dimension].min(), tied[:, dimension].max()]
        if np.ptp(tied, axis=0).any():
            used.add("set")
            ax.plot([s, s], ends, color="0.8", lw=5, solid_capstyle="butt", zorder=1)
    for start, stop in _runs(curves.reply):
        reply = int(curves.reply[start])
        colour, dashes = _REPLY_STYLES[reply]
        used.add(f"reply {reply}")
        xs, ys = _with_half_steps(curves.play, curves.theta[:, dimension], start, stop)
        above = 6 if reply < 0 else 3  # indifference is seen inside the bar of a continuum
        ax.plot(xs, ys, color=colour, ls=dashes, lw=1.8, solid_capstyle="butt", zorder=above)
    return used


def _draw_equilibria(ax: Axes, found: Equilibria, dimension: int) -> set[str]:
    used = set()
    for e in np.flatnonzero(found.valid):
        ends = [found.strategy[e, 0], found.strategy_end[e, 0]]
        fit = found.best_fit[e, dimension]
        stable = found.stability[e] == Stability.STABLE
        used.add("stable" if stable else "unstable")
        face = "black" if stable else "white"
        if ends[0] == ends[1]:
            style = {"marker": "o", "ms": _DOT + 0.5, "mfc": face, "mec": "black", "mew": 1.0}
            ax.plot(ends[:1], [fit], ls="", zorder=5, **style)
        else:  # a whole segment: a long dot
            for width, colour in ((_DOT + 1.5, "black"), (_DOT - 0.5, face)):
                ax.plot(ends, [fit] * 2, color=colour, lw=width, solid_capstyle="round", zorder=5)
    return used


def _best_fit_handles(problem: AbstractProblem, used: set[str]) -> list[Artist]:
    handles: list[Artist] = []
    for reply, (colour, dashes) in _REPLY_STYLES.items():
        if f"reply {reply}" in used:
            name = f"{_words(problem.action_names[reply])} better" if reply >= 0 else "indifferent"
            handles.append(Line2D([], [], color=colour, ls=dashes, lw=1.8, label=name))
    if "set" in used:
        handles.append(Line2D([], [], color="0.8", lw=5, label="set of best fits"))
    for name, face in (("stable", "black"), ("unstable", "white")):
        if name in used:
            style = {"marker": "o", "ms": _DOT + 0.5, "mfc": face, "mec": "black", "mew": 1.0}
            handles.append(Line2D([], [], ls="", label=f"{name} equilibrium", **style))
    return handles
