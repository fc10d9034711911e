"""Divergences: how badly each model fits each action."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..equilibrium._continuum import Continuum
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem, check_problem
from ._names import words
from ._page import canvas, dress, legend_below
from ._style import ACTION_COLOURS, COLUMN, DOT, LINE, action_style, is_named

_FEW_MODELS = 12  # so many can be told apart as dots


def divergences(problem: AbstractProblem, *, ax: Axes | None = None) -> Figure:
    """Draw how badly each model fits each action, with the best fit marked.

    Parameters
    ----------
    problem : models along one parameter: finitely many (those in the support of the prior), or
        a family. Finitely many without a theta are drawn by number.
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
    check_problem(problem)
    theta, kl, best = _divergence_curves(problem)
    figure, ax, _ = canvas(ax, COLUMN, 2.7)
    listed = not isinstance(problem, FamilyProblem)
    numbered = not problem.parameter_names
    many = problem.num_actions > len(ACTION_COLOURS)
    used: set[str] = set()
    handles: list[Artist] = []
    for action, label in enumerate(problem.action_names):
        colour, dashes = action_style(action, problem.num_actions)
        finite = np.isfinite(kl[:, action])
        curve = np.where(finite, kl[:, action], np.nan)
        style: dict[str, Any] = {"color": colour, "ls": dashes, "lw": 0.6 if many else LINE}
        if listed and len(theta) <= _FEW_MODELS:
            style |= {"marker": "s", "ms": 2.5}
        if numbered:  # nothing lies between one and the next
            style |= {"marker": "s", "ms": 3.5, "ls": ""}
        (line,) = ax.plot(theta, curve, label=words(label), **style)
        if is_named(action, problem.num_actions):
            handles.append(line)
        where, least = best[action]
        if len(where) > (_FEW_MODELS if listed else 1):
            used.add("set")
            ax.plot(where, least, color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
        else:
            used.add("point")
            dot = {"ms": 2.0, "mew": 0} if many else {"ms": DOT + 1, "mec": "white", "mew": 0.6}
            ax.plot(where, least, color=colour, ls="", marker="o", zorder=4, clip_on=False, **dot)
        if not finite.all():
            used.add("infinite")
            top = np.ones((~finite).sum())
            above = {"transform": ax.get_xaxis_transform(), "clip_on": False}
            ax.plot(theta[~finite], top, color=colour, ls="", marker="^", ms=DOT, **above)
    dot = {"color": "0.3", "ls": "", "marker": "o", "ms": DOT + 1}
    if "point" in used:
        handles.append(Line2D([], [], label="best fit", **dot))
    if "set" in used:
        handles.append(Line2D([], [], color="0.3", lw=5, alpha=0.35, label="set of best fits"))
    if "infinite" in used:
        handles.append(Line2D([], [], label="infinite", **(dot | {"marker": "^", "ms": DOT})))
    pad = 0.04 * (theta[-1] - theta[0]) if listed else 0.0
    ax.set_xlim(theta[0] - pad, theta[-1] + pad)
    top = kl[np.isfinite(kl)].max()
    ax.set_ylim(*((-0.04 * top, 1.05 * top) if top > 0 else (-0.04, 1.0)))
    if numbered:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(
        ax, "number of the model" if numbered else problem.parameter_names[0], "divergence K (nats)"
    )
    legend_below(ax, handles, columns=2)
    return figure


def _divergence_curves(
    problem: AbstractProblem,
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Parameter [G], increasing, divergence [G, A], and each action's best fits and their K."""
    if len(problem.parameter_names) > 1:
        raise ValueError(
            "`problem` must have a theta of at most one dimension for its divergences to be "
            f"curves; got {problem.parameter_names}."
        )
    polished = None
    if isinstance(problem, FamilyProblem):
        theta, kl, *polished = map(np.asarray, _family_divergences(problem))
    else:
        assert isinstance(problem, AbstractFiniteProblem)
        support = np.asarray(problem.support)
        # Models without parameters are told apart by their number.
        listed = np.asarray(problem.theta) if problem.parameter_names else np.arange(len(support))
        theta = listed.reshape(len(support))[support].astype(float)
        kl = np.asarray(problem.kl_matrix())[support]
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
    fits = jax.vmap(Continuum(problem, zero).fit_in_box)(
        jnp.eye(problem.num_actions, dtype=nodes.dtype)
    )
    best = fits.point
    least, _ = jax.vmap(problem.divergence)(best)
    theta = jax.vmap(problem.family.theta)
    return theta(nodes)[:, 0], jnp.where(ruled_out, jnp.inf, kl), theta(best)[:, 0], jnp.diag(least)
