"""Best fits as play moves from one of two actions to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._check import check_exploration
from ..equilibrium import Equilibria, Stability, equilibria
from ..equilibrium._continuum import Continuum
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem, check_problem
from ._names import probability_of, words
from ._page import dress, figure_of, legend_below
from ._runs import runs, with_half_steps
from ._style import ACTION_COLOURS, COLUMN, DOT

_REPLY_STYLES = {0: (ACTION_COLOURS[0], "solid"), 1: (ACTION_COLOURS[1], (0, (4, 1.5)))}
_REPLY_STYLES[-1] = ("0.5", (0, (1, 1)))


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
    check_problem(problem)
    if problem.num_actions != 2:
        raise ValueError(f"`problem` must have two actions; got {problem.num_actions}.")
    tremble = check_exploration(exploration)
    names = problem.parameter_names
    if not names:
        raise ValueError("`problem.theta` must be given to draw best fits; got models without.")
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
        figure, panels = figure_of(ax), [ax]
    used: set[str] = set()
    for dimension, panel in enumerate(panels):
        used |= _draw_best_fits(panel, curves, dimension)
        used |= _draw_equilibria(panel, found, dimension)
        panel.set_xlim(-0.03, 1.03)
        panel.margins(y=0.08)
        below = probability_of(problem, 0, tremble > 0) if panel is panels[-1] else ""
        dress(panel, below, f"best fit {names[dimension]}", 27 if len(names) == 1 else 18)
    legend_below(panels[-1], _best_fit_handles(problem, used), columns=2)
    return figure


class _Curves(NamedTuple):
    """Best fits along play: pieces to draw, and the sets that pure strategies leave open.

    ``play`` [G], ``theta`` [G, D], NaN between pieces; ``reply`` [G]: which action is better
    (-1 if neither); ``open_sets``: pairs of s (0 or 1) and tied parameters [k, D].
    """

    play: np.ndarray
    theta: np.ndarray
    reply: np.ndarray
    open_sets: list[tuple[float, np.ndarray]]


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
    for start, stop in runs(reply):
        if reply[start] < 0 and stop - start == 1 and start > 0:
            reply[start] = reply[start - 1]
    return _Curves(plays, np.asarray(theta), reply, open_sets)


@eqx.filter_jit
def _best_fits(problem: FamilyProblem, exploration: Any, plays: Any) -> tuple[Any, Any]:
    continuum = Continuum(problem, exploration)

    def at(s):
        point = continuum.fit_in_box(jnp.stack([s, 1 - s])).point
        payoffs = problem.payoffs(point)
        return problem.family.theta(point), payoffs[0] - payoffs[1]

    return jax.vmap(at)(plays)


def _unidentified(problem: FamilyProblem, action: int, known: Sequence[bool]) -> np.ndarray:
    """Parameters [k, D] of best fits to a pure strategy, over what it does not identify."""
    family = problem.family
    continuum = Continuum(problem, jnp.zeros_like(family.lower[0]))
    point = continuum.fit_alone(jnp.asarray(action)).point
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


def _better(gain: np.ndarray, scale: float) -> np.ndarray:
    return np.where(np.abs(gain) <= 1e-5 * scale, -1, np.where(gain > 0, 0, 1))


def _draw_best_fits(ax: Axes, curves: _Curves, dimension: int) -> set[str]:
    used = set()
    for s, tied in curves.open_sets:
        ends = [tied[:, dimension].min(), tied[:, dimension].max()]
        if np.ptp(tied, axis=0).any():
            used.add("set")
            ax.plot([s, s], ends, color="0.8", lw=5, solid_capstyle="butt", zorder=1)
    for start, stop in runs(curves.reply):
        reply = int(curves.reply[start])
        colour, dashes = _REPLY_STYLES[reply]
        used.add(f"reply {reply}")
        xs, ys = with_half_steps(curves.play, curves.theta[:, dimension], start, stop)
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
            style = {"marker": "o", "ms": DOT + 0.5, "mfc": face, "mec": "black", "mew": 1.0}
            ax.plot(ends[:1], [fit], ls="", zorder=5, **style)
        else:  # a whole segment: a long dot
            for width, colour in ((DOT + 1.5, "black"), (DOT - 0.5, face)):
                ax.plot(ends, [fit] * 2, color=colour, lw=width, solid_capstyle="round", zorder=5)
    return used


def _best_fit_handles(problem: AbstractProblem, used: set[str]) -> list[Artist]:
    handles: list[Artist] = []
    for reply, (colour, dashes) in _REPLY_STYLES.items():
        if f"reply {reply}" in used:
            name = f"{words(problem.action_names[reply])} better" if reply >= 0 else "indifferent"
            handles.append(Line2D([], [], color=colour, ls=dashes, lw=1.8, label=name))
    if "set" in used:
        handles.append(Line2D([], [], color="0.8", lw=5, label="set of best fits"))
    for name, face in (("stable", "black"), ("unstable", "white")):
        if name in used:
            style = {"marker": "o", "ms": DOT + 0.5, "mfc": face, "mec": "black", "mew": 1.0}
            handles.append(Line2D([], [], ls="", label=f"{name} equilibrium", **style))
    return handles
