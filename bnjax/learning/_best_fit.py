"""Pure best-fit dynamics: play an action, believe what fits it best, play the best reply.

The state is an action, so that the whole map is a table with one entry an action. Its orbits,
cycles and fixed points are read off the table and owe nothing to a horizon.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._check import is_concrete
from .._summary import NO_SENSE, batch_of, check_one, is_one, theta_label
from ..equilibrium._continuum import Continuum
from ..equilibrium._solve import prepare
from ..equilibrium._tolerance import Tolerance
from ..equilibrium._verify import payoff_range
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem

Ties = Literal["stay", "first", "last"]


class BestFitDynamics(eqx.Module):
    """The map from an action to the best reply to what fits it best, and one orbit of it.

    Every field goes through `jax.jit` and `jax.vmap`.

    Parameters
    ----------
    next_action : [A] the action that follows each action.
    replies : [A, A] whether the second action is a best reply to *some* model that fits the
        first one best: all that the map might be.
    best_fit : [A, D] a best fit to each action that makes ``next_action`` optimal.
    ambiguous : [A] where there are several replies, so that the map is set-valued and
        ``next_action`` is the choice of a rule.
    fixed_points : [A] actions that follow themselves.
    orbit : [A + 1] the start and what follows: every action on the way, and once round the cycle.
    transient : steps before the cycle is reached.
    period : length of the cycle; 1 for a fixed point.
    cycle : [A] which actions are on it.
    met_tie : whether a rule decided anywhere on the orbit.
    valid : whether the numbers of the problem make sense.
    complete : whether ``replies`` provably lists every reply: always for finite Theta; for
        continuous Theta as far as the family promises that best fits are unique.
    tol_fit, tol_payoff : tolerances at which all of this holds.
    """

    next_action: Int[Array, " actions"]
    replies: Bool[Array, "actions actions"]
    best_fit: Float[Array, "actions parameters"]
    ambiguous: Bool[Array, " actions"]
    fixed_points: Bool[Array, " actions"]
    orbit: Int[Array, " steps"]
    transient: Int[Array, ""]
    period: Int[Array, ""]
    cycle: Bool[Array, " actions"]
    met_tie: Bool[Array, ""]
    valid: Bool[Array, ""]
    complete: Bool[Array, ""]
    tol_fit: Float[Array, ""]
    tol_payoff: Float[Array, ""]

    def __repr__(self) -> str:
        if not is_one(self.orbit, 1):
            batch, actions = batch_of(self.orbit, 1), self.orbit.shape[-1] - 1
            return f"BestFitDynamics(batch={batch}, actions={actions})"
        cycle = np.flatnonzero(np.asarray(self.cycle)).tolist()
        return (
            f"BestFitDynamics(start={int(self.orbit[0])}, transient={int(self.transient)}, "
            f"period={int(self.period)}, cycle={cycle}, met_tie={bool(self.met_tie)})"
        )

    def summary(self, problem: Any) -> str:
        """Say in words, with the names of the problem, where the orbit leads.

        Parameters
        ----------
        problem : the problem it was computed from.

        Returns
        -------
        str
        """
        check_one("BestFitDynamics", self.orbit, 1, problem, self.orbit.shape[-1] - 1)
        if not bool(self.valid):
            return NO_SENSE
        names = problem.action_names
        transient, period = int(self.transient), int(self.period)
        path = np.asarray(self.orbit[: transient + period + 1])
        kind = "fixed point" if period == 1 else f"cycle of {period}"
        after = f", after {transient} step{'s' if transient != 1 else ''}" if transient else ""
        lines = [" -> ".join(names[a] for a in path) + f" ({kind}{after})"]
        for a in path[:-1]:
            lines.append(self._describe(int(a), names))
        fixed = [name for name, flag in zip(names, self.fixed_points, strict=True) if flag]
        lines.append("fixed points: " + (", ".join(fixed) or "none"))
        return "\n".join(lines)

    def _describe(self, action: int, names: tuple[str, ...]) -> str:
        fit = self.best_fit[action]
        believed = f" believes {theta_label(fit)} and" if fit.shape[0] else ""
        text = f"{names[action]}:{believed} replies {names[int(self.next_action[action])]}"
        if not bool(self.ambiguous[action]):
            return text
        rivals = [name for name, flag in zip(names, self.replies[action], strict=True) if flag]
        return f"{text} (a tie: {' or '.join(rivals)})"


class Replies(NamedTuple):
    """Best replies to the models that fit one pure strategy best.

    ``possible`` [played, reply]; ``theta`` [played, reply, D] a best fit to what is played under
    which the reply does best; ``complete`` whether every reply is provably listed.
    """

    possible: Bool[Array, "actions actions"]
    theta: Float[Array, "actions actions parameters"]
    complete: Bool[Array, ""]


def pure_replies(
    problem: AbstractProblem, exploration: Float[Array, ""], tolerance: Tolerance
) -> Replies:
    """Find the best replies to each pure strategy, under every belief in one best fit.

    A belief that mixes best fits adds nothing where there is one reply: an action that is
    optimal, and alone, under each of two models is so under every mixture of them.

    Parameters
    ----------
    problem : any problem.
    exploration : tremble.
    tolerance : what counts as a tie.
    """
    if isinstance(problem, FamilyProblem):
        return _continuous_replies(problem, exploration, tolerance)
    assert isinstance(problem, AbstractFiniteProblem)
    reduced = problem.reduced_form().explored(exploration)
    usable = reduced.support[:, None] & ~reduced.ruled_out
    kl = jnp.where(usable, reduced.kl, jnp.inf)
    fits = kl <= kl.min(0) + tolerance.fit
    fits &= usable
    slack = tolerance.payoff * payoff_range(reduced)
    optimal = reduced.payoffs >= reduced.payoffs.max(1, keepdims=True) - slack

    def to(reply):
        """Which strategies it replies to, and the best-fitting model for which it does."""
        worse = jnp.where(fits & optimal[:, reply][:, None], kl, jnp.inf)
        return jnp.isfinite(worse.min(0)), problem.theta[worse.argmin(0)]

    possible, theta = lax.map(to, jnp.arange(problem.num_actions))
    return Replies(possible.T, jnp.swapaxes(theta, 0, 1), jnp.ones((), bool))


def _continuous_replies(
    problem: FamilyProblem, exploration: Float[Array, ""], tolerance: Tolerance
) -> Replies:
    """The same for a continuum: what play leaves unidentified is settled for each reply in turn."""
    continuum = Continuum(problem, exploration)
    family, num_actions = problem.family, problem.num_actions
    actions = jnp.arange(num_actions)
    slack = tolerance.payoff * continuum.payoff_range

    def favouring(point, unidentified, chart):
        """Lead [reply] where each reply does best, and theta [reply, D] there."""

        def lead(reply, payoffs):
            rivals = jnp.where(actions == reply, -jnp.inf, payoffs).max()
            return payoffs[reply] - jnp.where(num_actions > 1, rivals, payoffs[reply])

        def one(reply):
            _, most = continuum.extremes(point, unidentified, lambda u: lead(reply, u), chart)
            return lead(reply, problem.payoffs(most, chart)), family.theta(most, chart)

        return jax.vmap(one)(actions)

    trembling = jax.vmap(
        lambda play: favouring(continuum.fit_in_box(play).point, continuum.never_identified, 0)
    )(jnp.eye(num_actions, dtype=family.lower.dtype))
    leads, theta = trembling
    if family.has_charts or any(continuum.leaves_open):
        # Without exploration one action alone is observed, and may leave a set of best fits.
        alone = []
        for action in range(num_actions):
            unidentified = tuple(not known for known in family.identifies(action))
            alone.append(
                favouring(continuum.fit_alone(jnp.asarray(action)).point, unidentified, action)
            )
        alone = jax.tree.map(lambda *rows: jnp.stack(rows), *alone)
        explores = continuum.exploration > 0
        leads, theta = jax.tree.map(lambda a, b: jnp.where(explores, a, b), trembling, alone)
    return Replies(leads >= -slack, theta, jnp.asarray(family.unique_best_fit))


def best_fit_dynamics(
    problem: AbstractProblem,
    start: ArrayLike = 0,
    *,
    exploration: ArrayLike = 0.0,
    ties: Ties = "stay",
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> BestFitDynamics:
    """Follow the map from an action to the best reply to the model that fits it best.

    ``a -> F(theta*(a))``: an agent plays ``a`` long enough to believe what fits it best, replies
    to that belief, plays the reply long enough, and so on. There are finitely many actions, so
    that every orbit ends in a cycle; its period is exact. A 2-cycle between an unsafe and a safe
    action is the oscillation of Xu et al., "Epistemic Traps" (arXiv 2602.17676).

    Parameters
    ----------
    problem : any problem; its leaves may be traced, so that the call goes through `jax.vmap`.
    start : index of the first action; may be traced.
    exploration : probability with which play trembles to a uniform action.
    ties : what is played where several actions reply to some best fit, either because models
        tie or because actions do (``ambiguous`` says where). With "stay", what is played
        already if it is among them, and the first of them otherwise: then a pure equilibrium
        that rests on one best fit is a fixed point. With "first" and "last", the one with the
        lowest and the highest index.
    tol_fit, tol_payoff : as for `bnjax.equilibria`.

    Returns
    -------
    BestFitDynamics

    Raises
    ------
    ValueError
        If a concrete argument is out of range.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.3, p_honest=0.2)
    >>> print(bn.best_fit_dynamics(problem).summary(problem))
    sycophantic -> honest -> sycophantic (cycle of 2)
    sycophantic: believes 0.3 and replies honest
    honest: believes 0.8 and replies sycophantic
    fixed points: none
    """
    exploration, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    if ties not in get_args(Ties):
        raise ValueError(f"`ties` must be one of {', '.join(get_args(Ties))}; got {ties!r}.")
    return _solve(problem, _as_action(start, problem.num_actions), exploration, tolerance, ties)


def _as_action(start: ArrayLike, num_actions: int) -> Int[Array, ""]:
    """Return the index of an action as an integer; a concrete one must exist."""
    wanted = f"`start` must be the index of an action, an integer from 0 to {num_actions - 1}; got"
    array = start if isinstance(start, Array) else np.asarray(start)
    if array.ndim != 0 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{wanted} {start!r}.")
    if is_concrete(array) and not 0 <= int(array) < num_actions:
        raise ValueError(f"{wanted} {int(array)}.")
    return jnp.asarray(array, jnp.int32)


@eqx.filter_jit
def _solve(problem, start, exploration, tolerance, ties) -> BestFitDynamics:
    num_actions = problem.num_actions
    replies = pure_replies(problem, exploration, tolerance)
    following = _choose(replies.possible, ties)
    ambiguous = replies.possible.sum(1) > 1

    def step(action, _):
        return following[action], action

    # At most A - 1 steps lead to the cycle, and at most A go round it.
    settled, _ = lax.scan(step, start, length=num_actions)
    _, orbit = lax.scan(step, start, length=num_actions + 1)
    _, around = lax.scan(step, settled, length=num_actions)
    actions = jnp.arange(num_actions, dtype=jnp.int32)
    cycle = jnp.any(around[:, None] == actions, 0)
    theta = jnp.take_along_axis(replies.theta, following[:, None, None], axis=1)[:, 0]
    return BestFitDynamics(
        next_action=following,
        replies=replies.possible,
        best_fit=theta,
        ambiguous=ambiguous,
        fixed_points=following == actions,
        orbit=orbit,
        transient=jnp.argmax(cycle[orbit]).astype(jnp.int32),
        period=cycle.sum(dtype=jnp.int32),
        cycle=cycle,
        met_tie=jnp.any(ambiguous[orbit]),
        valid=problem.is_valid(),
        complete=replies.complete,
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )


def _choose(possible: Bool[Array, "actions actions"], ties: Ties) -> Int[Array, " actions"]:
    """One reply to each action, by a rule."""
    size = possible.shape[0]
    first = jnp.argmax(possible, 1).astype(jnp.int32)
    if ties == "first":
        return first
    if ties == "last":
        return (size - 1 - jnp.argmax(possible[:, ::-1], 1)).astype(jnp.int32)
    return jnp.where(jnp.diagonal(possible), jnp.arange(size, dtype=jnp.int32), first)
