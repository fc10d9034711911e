"""Bifurcations: branches of equilibria along one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .._check import as_float, check_exploration
from .._scenario import find_scenario
from ..equilibrium import Certainty, Equilibria, Stability, equilibria, rationalizable
from ..problem import AbstractProblem
from ._cells import cell_edges
from ._names import probability_of, words
from ._page import canvas, dress, legend_below
from ._runs import runs, with_half_steps
from ._style import COLUMN, DOT, LINE

_POSSIBLE = {Certainty.IN: ("0.45", "rationalizable"), Certainty.UNDECIDED: ("0.82", "undecided")}
_LINES = {
    Stability.STABLE: "solid",
    Stability.UNSTABLE: (0, (3.5, 1.8)),
    Stability.UNKNOWN: (0, (1, 1.5)),
}
# How far apart equilibria at neighbouring values may be on one branch, and where two branch.
_REACH, _FORK = 0.25, 0.1
_CURVE = "#00517F"
_BAND = "#9FB8CC"


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
    scenario = find_scenario(scenario)
    grid = _increasing("values", values)
    _check_parameters(scenario, name, fixed)
    tremble = check_exploration(exploration)
    build = _along(scenario, name, fixed, tremble)
    first, _ = build(jnp.asarray(grid[0]))
    chosen = _action_index(first, action)
    found, possible = jax.tree.map(
        np.asarray, jax.vmap(lambda value: _solutions(*build(value)))(jnp.asarray(grid))
    )
    figure, ax, own = canvas(ax, COLUMN, 3.3)
    used = {
        *_draw_continua(ax, grid, found, chosen),
        *_draw_branches(ax, grid, found, chosen),
    }
    ax.set_ylim(-0.04, 1.04)
    ax.set_xlim(grid[0], grid[-1])
    dress(ax, "", probability_of(first, chosen, name == "exploration" or tremble > 0))
    ax.tick_params(labelbottom=False)
    strip, certainties = _draw_strip(ax, grid, possible, first)
    dress(strip, name, "")
    strip.tick_params(left=False)
    patches = [Patch(facecolor=_POSSIBLE[c][0], label=_POSSIBLE[c][1]) for c in certainties]
    legend_below(strip, [*_branch_handles(used), *patches], columns=2)
    if own:  # the strip's share of the axes changes with them: one round of layout is not enough
        figure.draw_without_rendering()
    return figure


def _increasing(name: str, values: Any) -> np.ndarray:
    as_float(name, values)  # or an error that says so; what is drawn stays as it was given
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
        for start, stop in runs(kind):
            stability = Stability(int(kind[start]))
            used.add(stability.name)
            xs, ys = with_half_steps(at, height, start, stop)
            alone = {"marker": "o", "ms": 2.5} if len(xs) == 1 else {}
            ax.plot(xs, ys, color=_CURVE, lw=LINE, ls=_LINES[stability], zorder=3, **alone)
        if kept.any():
            used.add("absorbing")
        for start, stop in runs(kept):
            if kept[start]:
                ax.plot(
                    at[start:stop],
                    height[start:stop],
                    ls="",
                    marker="o",
                    ms=DOT,
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
    from scipy.optimize import linear_sum_assignment  # takes a third of a second to import

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


def _branch_handles(used: set[str]) -> list[Artist]:
    names = {"STABLE": "stable", "UNSTABLE": "unstable", "UNKNOWN": "stability unknown"}
    handles: list[Artist] = [
        Line2D([], [], color=_CURVE, lw=LINE, ls=_LINES[stability], label=names[stability.name])
        for stability in (Stability.STABLE, Stability.UNSTABLE, Stability.UNKNOWN)
        if stability.name in used
    ]
    if "absorbing" in used:
        style = {"marker": "o", "ms": DOT, "mfc": "white", "mec": _CURVE, "mew": 0.9}
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
        cell_edges(grid), rows, certainty.T, cmap=colours, vmin=-0.5, vmax=2.5, rasterized=True
    )
    strip.set_ylim(num - 0.5, -0.5)
    strip.set_xlim(grid[0], grid[-1])
    if num <= 6:
        strip.set_yticks(range(num), [words(name) for name in problem.action_names])
        strip.hlines(rows[1:-1], grid[0], grid[-1], colors="black", linewidth=0.5)
    else:
        strip.set_yticks([0, num - 1], [problem.action_names[0], problem.action_names[-1]])
    return strip, [code for code in _POSSIBLE if (certainty == code).any()]
