"""Populations of learners over time: what they play, and what they believe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from .._check import check_exploration
from ..equilibrium import Equilibria, Stability, equilibria
from ..learning import Simulation
from ..learning._results import check_lived
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem, check_problem
from ._names import words
from ._page import dress, legend_below
from ._style import COLUMN, DASHES, FONT, LINE, action_style

_BELIEF = "#606060"  # of no action
PATHS = 40  # agents whose beliefs are drawn, one by one
_LINES = 8  # actions, or models, that have a line each; of more actions a map is drawn
_TICKS = 5  # actions of a map that are named
_ROW = 1.25 * FONT / 72  # height of a line of text, inches
_LABEL = 17  # letters that a panel has room for along its side
_PAGE = 55  # letters of a line across the figure
_STABILITY = {
    Stability.STABLE: ("stable equilibrium", "full"),
    Stability.UNSTABLE: ("unstable equilibrium", "none"),
    Stability.UNKNOWN: ("stability unknown", "bottom"),
}


def learning(
    simulation: Simulation,
    problem: AbstractProblem,
    *,
    exploration: ArrayLike = 0.0,
    title: str | None = None,
) -> Figure:
    """Draw what a population played and believed, between the snapshots of its trajectory.

    Parameters
    ----------
    simulation : one population, simulated with ``record=bn.Trajectory(every)``. Models that come
        as arrays without ``theta`` have no mean parameter: keep their probabilities, with
        ``record=bn.Trajectory(every, beliefs=True)``, or nothing of beliefs is drawn.
    problem : what it lived in; its equilibria are marked at the right edge. A continuum of models
        may be given as such, although the population knew the grid in its place.
    exploration : with which to find these.
    title : above the figure.

    Returns
    -------
    matplotlib.figure.Figure
        Above, the share of play of each action between snapshots, over all agents: a line each,
        or a map of more than eight actions. Below, a panel for each parameter: the mean that each
        of the first 40 agents believes, and the median of all with nine tenths of them around;
        without parameters, the probability of each model, on
        average over all agents (of the eight that are most probable at the end). At the right,
        each equilibrium has a column of marks: filled if it is stable, open if unstable, half
        filled if that is unknown. They are those of best response with perfect memory. A
        parameter has no mark where other values fit what is played as well.

    Raises
    ------
    ValueError
        If the simulation has no trajectory, is a batch of populations, or is of another problem.
    """
    check_problem(problem)
    _check_simulation(simulation, problem)
    shots: Any = simulation.trajectory
    counts = np.asarray(shots.action_counts)
    times = counts.sum(-1)[0]
    tremble = check_exploration(exploration)
    found = jax.tree.map(np.asarray, equilibria(problem, tremble))
    names = problem.parameter_names
    by_model = not names and shots.belief is not None
    many = problem.num_actions > _LINES
    heights = [1.6 if many else 1.25, *[1.2] * (len(names) + by_model)]
    figure = Figure(figsize=(COLUMN, 1.0), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    panels = panels[:, 0]
    if many:
        handles = _map_play(panels[0], times, counts, problem, int(found.valid.sum()))
    else:
        handles = _draw_play(panels[0], times, counts, problem)
    _mark_play(panels[0], found, float(tremble), many)
    settled = _settled(problem, found)
    for dimension, name in enumerate(names):
        panel = panels[1 + dimension]
        _draw_belief(panel, times, np.asarray(shots.mean_theta)[..., dimension])
        for column, row in enumerate(np.flatnonzero(found.valid)):
            if settled[row, dimension]:
                _mark(panel, column, [found.best_fit[row, dimension]], found.stability[row])
        dress(panel, "", f"mean {words(name)} believed", _LABEL)
    if names:
        shown = f"{min(PATHS, len(counts))} of {len(counts):,} agents"
        handles.append(Line2D([], [], color=_BELIEF, lw=0.8, label=shown))
        if len(counts) > 1:
            handles.append(Line2D([], [], color="black", lw=LINE, label="median and 90 %"))
    if by_model:
        handles += _draw_models(panels[1], times, np.asarray(shots.belief).mean(0), found)
        dress(panels[1], "", "mean probability", _LABEL)
    handles += _mark_handles(found)
    panels[-1].set_xlabel("step", fontsize=FONT + 1)
    panels[-1].set_xlim(0, simulation.num_steps)
    legend_below(panels[-1], handles, columns=2)
    above = textwrap.wrap(title or "", _PAGE)
    caption = _caption(simulation, problem, found)
    unmarked = ~settled if names else found.others_fit & by_model
    if unmarked[found.valid].any():
        caption += " No mark where several beliefs fit as well."
    below = textwrap.wrap(caption, _PAGE)
    if above:
        figure.suptitle("\n".join(above), fontsize=FONT)
    if below:
        figure.supxlabel("\n".join(below), fontsize=FONT)
    rows = len(above) + len(below) + -(-len(handles) // 2)
    figure.set_figheight(sum(heights) + 0.75 + rows * 1.1 * _ROW)
    return figure


def _check_simulation(simulation: Any, problem: AbstractProblem) -> None:
    if not isinstance(simulation, Simulation):
        raise ValueError(
            f"`simulation` must be what bn.simulate returns; got {type(simulation).__name__}."
        )
    if simulation.trajectory is None:
        raise ValueError("`simulation` must have a trajectory: simulate with `bn.Trajectory`.")
    if simulation.outcome.ndim != 1:
        raise ValueError(f"`simulation` must be one population; got {simulation.outcome.shape}.")
    check_lived(simulation, problem)


# Play


def _shares(times: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals between snapshots, and the share of each action in each [S, A]."""
    steps = np.diff(counts.sum(0), axis=0, prepend=0)
    return np.concatenate([[0.0], times]), steps / steps.sum(-1, keepdims=True)


def _draw_play(
    ax: Axes, times: np.ndarray, counts: np.ndarray, problem: AbstractProblem
) -> list[Artist]:
    """A line for each action."""
    edges, share = _shares(times, counts)
    # Coarse snapshots are averages over intervals, and are drawn as such; a single one fills its.
    single = len(times) == 1
    at = edges if single else 0.5 * (edges[1:] + edges[:-1])
    handles: list[Artist] = []
    for action, name in enumerate(problem.action_names):
        colour, dashes = action_style(action, problem.num_actions)
        height = np.repeat(share[:, action], 1 + single)
        ax.plot(at, height, color=colour, ls=dashes, lw=LINE)
        handles.append(Line2D([], [], color=colour, ls=dashes, lw=LINE, label=words(name)))
    ax.set_ylim(-0.04, 1.04)
    dress(ax, "", "share of play", _LABEL)
    return handles


def _map_play(
    ax: Axes, times: np.ndarray, counts: np.ndarray, problem: AbstractProblem, columns: int
) -> list[Artist]:
    """A map of many actions over time, beside so many columns of marks."""
    edges, share = _shares(times, counts)
    num_actions = problem.num_actions
    # One moment at which all do the same must not leave the rest without colour.
    most = float(np.quantile(share.max(1), 0.95))
    mesh = ax.pcolormesh(
        edges,
        np.arange(num_actions + 1) - 0.5,
        share.T,
        cmap="Blues",
        vmin=0.0,
        vmax=most,
        rasterized=True,
    )
    ticks = np.unique(np.linspace(0, num_actions - 1, _TICKS).round().astype(int))
    ax.set_yticks(ticks, [words(problem.action_names[action]) for action in ticks])
    dress(ax, "", "")
    beyond = ax.transAxes + ScaledTranslation((8 + 6 * columns) / 72, 0, ax.figure.dpi_scale_trans)
    place = ax.inset_axes((1, 0, 0.04, 1), transform=beyond)
    extend = "max" if share.max() > most else "neither"
    bar = ax.figure.colorbar(mesh, cax=place, extend=extend)
    bar.set_label("share of play", fontsize=FONT + 1)
    bar.ax.tick_params(labelsize=FONT, length=2.5, width=0.6)
    return []


# Beliefs


def _draw_belief(ax: Axes, times: np.ndarray, theta: np.ndarray) -> None:
    """Paths of the first agents [N, S], for quantiles hide that some end here, others there."""
    dot = {"marker": ".", "ms": 5, "mew": 0, "clip_on": False} if len(times) == 1 else {}
    scale = float(np.abs(theta).max()) or 1.0
    theta = (theta / scale).round(
        5
    ) * scale  # what never moves must not fill the panel with rounding
    low, median, high = np.quantile(theta, (0.05, 0.5, 0.95), axis=0)
    if len(theta) > 1:
        ax.fill_between(times, low, high, color=_BELIEF, alpha=0.15, lw=0)
    for path in theta[:PATHS]:
        ax.plot(times, path, color=_BELIEF, lw=0.4, alpha=0.3, **dot)
    if len(theta) > 1:
        ax.plot(times, median, color="black", lw=LINE, **dot)
    ax.margins(y=0.08)


def _draw_models(ax: Axes, times: np.ndarray, mean: np.ndarray, found: Equilibria) -> list[Artist]:
    """Mean probability [S, M] of the models that are most probable at the end, these last."""
    shown = np.argsort(mean[-1], kind="stable")[-_LINES:]
    dot = {"marker": "o", "ms": 3, "clip_on": False} if len(times) == 1 else {}
    handles: list[Artist] = []
    for number, model in enumerate(shown):
        colour = colormaps["viridis"](0.85 * number / max(len(shown) - 1, 1))
        style = {"color": colour, "ls": DASHES[number % len(DASHES)], "lw": LINE}
        ax.plot(times, mean[:, model], **style, **dot)
        handles.append(Line2D([], [], **style, **dot, label=f"model {model}"))
        for column, row in enumerate(np.flatnonzero(found.valid)):
            believed = 0.0 if found.belief is None else found.belief[row, model]
            if believed > 0 and not found.others_fit[row]:
                _mark(ax, column, [believed], found.stability[row], colour)
    ax.set_ylim(-0.04, 1.04)
    return handles


def _settled(problem: AbstractProblem, found: Equilibria) -> np.ndarray:
    """Which parameters [E, D] have one value in all beliefs that fit what is played best."""
    settled = np.repeat(~found.others_fit[:, None], found.best_fit.shape[1], axis=1)
    if isinstance(problem, FamilyProblem):
        family = problem.family
        if family.has_charts or family.identified is None:
            return settled  # coordinates are not the parameters
        identified = np.asarray(family.identified)
        return settled | ((found.realised[:, :, None] > 0) & identified[None]).any(1)
    assert isinstance(problem, AbstractFiniteProblem)
    kl = np.asarray(problem.kl_matrix())
    theta, support = np.asarray(problem.theta), np.asarray(problem.support)
    for row in np.flatnonzero(found.valid & found.others_fit):
        played = found.realised[row] > 0
        misfit = np.where(support, kl[:, played] @ found.realised[row, played], np.inf)
        tied = theta[misfit <= misfit.min() + found.tol_fit]
        settled[row] = (tied == tied[0]).all(0)
    return settled


# Equilibria


def _mark_play(ax: Axes, found: Equilibria, tremble: float, many: bool) -> None:
    """The actions that each equilibrium intends: at how often they are played, or on the map."""
    num_actions = found.strategy.shape[1]
    for column, row in enumerate(np.flatnonzero(found.valid)):
        ends = found.strategy[row], found.strategy_end[row]
        for action in np.flatnonzero(ends[0] + ends[1] > 0).tolist():
            if many:
                _mark(ax, column, [action], found.stability[row])
            else:
                played = [(1 - tremble) * end[action] + tremble / num_actions for end in ends]
                colour = action_style(action, num_actions)[0]
                _mark(ax, column, played, found.stability[row], colour)


def _mark(
    ax: Axes, column: int, heights: Sequence[Any], stability: Any, colour: Any = "black"
) -> None:
    """A mark beside the right edge, or two with a line between the ends of a continuum."""
    beside = ScaledTranslation((4 + 6 * column) / 72, 0, ax.figure.dpi_scale_trans)
    ends = np.unique(np.asarray(heights, float))
    style = _mark_style(stability, colour) | {"ls": "-", "lw": 0.8, "color": colour}
    ax.plot(
        np.ones(len(ends)),
        ends,
        transform=ax.get_yaxis_transform() + beside,
        clip_on=False,
        zorder=5,
        **style,
    )
    ax.dataLim.update_from_data_y(ends, ignore=False)  # inside the limits, though beside the axes


def _mark_style(stability: Any, colour: Any = "black") -> dict[str, Any]:
    return {
        "marker": "<",
        "ms": 4.5,
        "mec": colour,
        "mfc": colour,
        "mew": 0.7,
        "markerfacecoloralt": "white",
        "fillstyle": _STABILITY[Stability(int(stability))][1],
    }


def _mark_handles(found: Equilibria) -> list[Artist]:
    """Of those kinds that there are."""
    return [
        Line2D([], [], ls="", label=name, **_mark_style(code))
        for code, (name, _) in _STABILITY.items()
        if (found.stability[found.valid] == code).any()
    ]


def _caption(simulation: Simulation, problem: AbstractProblem, found: Equilibria) -> str:
    """What the marks are marks of, which may not be what was simulated."""
    marks, grid = "", ""
    if found.valid.any():
        marks = "Marks, a column for each: equilibria of best response with perfect memory"
    if isinstance(problem, FamilyProblem):
        marks += ", on the continuum" if marks else ""
        models = simulation.log_belief.shape[-1]
        grid = f"{'; s' if marks else 'S'}imulated on a grid of {models:,} models"
    unstable = (found.stability[found.valid] == Stability.UNSTABLE).any()
    tremble = " From unstable ones, a little trembling leads away." if unstable else ""
    return f"{marks}{grid}.{tremble}" if marks or grid else ""
