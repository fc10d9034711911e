"""Populations of learners over time: what they play, and what they believe."""

from __future__ import annotations

import textwrap
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._check import check_exploration
from ..equilibrium import Stability, equilibria
from ..learning import Simulation
from ..problem import AbstractProblem, check_problem
from ._names import words
from ._page import dress, legend_below
from ._style import COLUMN, FONT, LINE, action_style, is_named

_BELIEF = "#00517F"
_PATHS = 40  # agents whose beliefs are drawn, one by one


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
    simulation : one population, simulated with ``record=bn.Trajectory(every)``.
    problem : what it lived in; its equilibria are marked at the right edge.
    exploration : with which to find these.
    title : above the figure.

    Returns
    -------
    matplotlib.figure.Figure
        Above, the share of play of each action between snapshots, over all agents. Below, a panel
        for each parameter: the mean that each of the first 40 agents believes. Marks at the right
        are equilibria: filled where stable, open where not.

    Raises
    ------
    ValueError
        If the simulation has no trajectory, or is a batch of populations.
    """
    check_problem(problem)
    if not isinstance(simulation, Simulation):
        raise ValueError(
            f"`simulation` must be what bn.simulate returns; got {type(simulation).__name__}."
        )
    shots = simulation.trajectory
    if shots is None:
        raise ValueError("`simulation` must have a trajectory: simulate with `bn.Trajectory`.")
    if simulation.outcome.ndim != 1:
        raise ValueError(f"`simulation` must be one population; got {simulation.outcome.shape}.")
    counts = np.asarray(shots.action_counts)
    times = counts.sum(-1)[0]
    tremble = check_exploration(exploration)
    found = jax.tree.map(np.asarray, equilibria(problem, tremble))
    names = problem.parameter_names
    figure = Figure(figsize=(COLUMN, 2.0 + 1.35 * len(names)), layout="constrained")
    ratios = [1.15, *[1.0] * len(names)]
    panels = figure.subplots(1 + len(names), 1, sharex=True, squeeze=False, height_ratios=ratios)
    handles = _draw_play(panels[0, 0], times, counts, problem)
    _mark_equilibria(panels[0, 0], found, found.realised)
    for dimension, name in enumerate(names):
        panel = panels[1 + dimension, 0]
        _draw_belief(panel, times, np.asarray(shots.mean_theta)[..., dimension])
        _mark_equilibria(panel, found, found.best_fit[:, dimension, None])
        dress(panel, "", f"mean {words(name)} believed", 18)
    dress(panels[0, 0], "", "share of play", 18)
    panels[-1, 0].set_xlabel("step", fontsize=FONT + 1)
    panels[-1, 0].set_xlim(0, times[-1])
    if names:
        shown = min(_PATHS, len(counts))
        handles.append(Line2D([], [], color=_BELIEF, lw=0.8, label=f"{shown} of the agents"))
    for stable in (True, False):
        kind = found.valid & ((found.stability == Stability.STABLE) == stable)
        if kind.any():
            name = "stable equilibrium" if stable else "not stable"
            handles.append(Line2D([], [], label=name, **_mark(stable)))
    legend_below(panels[-1, 0], handles, columns=2)
    if title:
        panels[0, 0].set_title("\n".join(textwrap.wrap(title, 50)), fontsize=FONT)
    return figure


def _draw_play(
    ax: Axes, times: np.ndarray, counts: np.ndarray, problem: AbstractProblem
) -> list[Artist]:
    """Share of each action between one snapshot and the next."""
    total = counts.sum(0)
    steps = np.diff(total, axis=0, prepend=0)
    share = steps / steps.sum(-1, keepdims=True)
    edges = np.concatenate([[0.0], times])
    handles: list[Artist] = []
    for action, name in enumerate(problem.action_names):
        colour, dashes = action_style(action, problem.num_actions)
        # Coarse snapshots are averages over intervals, and are drawn as such.
        middle = 0.5 * (edges[1:] + edges[:-1])
        ax.plot(middle, share[:, action], color=colour, ls=dashes, lw=LINE)
        if is_named(action, problem.num_actions):
            handles.append(Line2D([], [], color=colour, ls=dashes, lw=LINE, label=words(name)))
    ax.set_ylim(-0.04, 1.04)
    return handles


def _draw_belief(ax: Axes, times: np.ndarray, theta: np.ndarray) -> None:
    """Paths of the first agents [N, S]: quantiles would hide that some end here, others there."""
    for path in theta[:_PATHS]:
        ax.plot(times, path, color=_BELIEF, lw=0.5, alpha=0.3)
    ax.margins(y=0.08)


def _mark_equilibria(ax: Axes, found: Any, heights: np.ndarray) -> None:
    """Marks at the right edge, at heights [E, K] of which several may be the same."""
    for row in np.flatnonzero(found.valid):
        mark = _mark(bool(found.stability[row] == Stability.STABLE))
        for height in np.unique(np.round(heights[row], 6)):
            ax.plot(
                [1.0],
                [height],
                transform=ax.get_yaxis_transform(),
                clip_on=False,
                zorder=5,
                **mark,
            )


def _mark(stable: bool) -> dict[str, Any]:
    fill = "black" if stable else "white"
    return {"marker": "<", "ms": 4, "mfc": fill, "mec": "black", "mew": 0.7, "ls": ""}
