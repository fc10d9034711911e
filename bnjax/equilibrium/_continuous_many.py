"""A continuous family and any number of actions but two: verified equilibria and bounds.

Pure equilibria follow from polished best fits; where a pure strategy leaves a set of best fits,
from beliefs over the nodes of that set. With one parameter, an equilibrium on two actions sits
where the optimal action changes along theta, and the first-order condition of the best fit,
linear in play, gives its probabilities.

The rationalizable set is bounded by dominance, and nothing that is evaluated at nodes says what
happens between them. So an action is excluded only under what `Family.unique_best_fit` promises:
payoff differences are monotone between nodes, so that they are largest and smallest at nodes.
With one parameter and a unique best fit, theta* of any mixture then lies between the theta* of
the actions that it mixes: the set of plays with a given best fit is convex, so that theta* is
monotone along every segment, and a mixture lies on a segment from one of its actions to a mixture
of the others. So an interval is all that can be believed. Otherwise anything in the box can be.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._numerics import implicit_root
from ..problem import FamilyProblem
from ._codes import Stability
from ._continuum import Continuum, Fit
from ._relaxation import bounds, self_justified
from ._results import Equilibria, Rationalizable
from ._supporting_belief import supporting_belief
from ._tolerance import Tolerance

# Points along theta at which the optimal action is looked at, at least, and for each action.
_POINTS, _POINTS_PER_ACTION = 257, 8
_BISECTIONS = 60


def solve_continuous_many(
    problem: FamilyProblem,
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable]:
    """Verified equilibria on at most two actions, and bounds on the rationalizable set.

    Parameters
    ----------
    problem : continuous Theta.
    exploration : tremble.
    max_equilibria : rows of the answer.
    tolerance : what counts as a tie.
    """
    continuum = Continuum(problem, exploration)
    num_actions = problem.num_actions
    slack = tolerance.payoff * continuum.payoff_range
    eye = jnp.eye(num_actions, dtype=continuum.lower.dtype)
    fits = jax.vmap(continuum.fit)(eye)
    pure = _pure(continuum, fits, slack)
    strategy, atoms, weight = eye, pure.atoms, pure.weight
    expected, valid = pure.expected, pure.holds
    if problem.family.dimension == 1 and num_actions > 1 and not problem.family.has_charts:
        play, theta, payoffs, real = _mixed_on_pairs(continuum, slack, tolerance)
        strategy, valid = jnp.concatenate([eye, play]), jnp.concatenate([valid, real])
        expected = jnp.concatenate([expected, payoffs])
        same = jnp.repeat(theta[:, None], num_actions, axis=1)
        one = jnp.zeros(play.shape, weight.dtype).at[:, 0].set(1)
        atoms, weight = jnp.concatenate([atoms, same]), jnp.concatenate([weight, one])
    optimal = (expected >= expected.max(-1, keepdims=True) - slack) & valid[:, None]
    inside = self_justified(
        jnp.concatenate([eye > 0, strategy > 0]), jnp.concatenate([pure.teaches, optimal])
    )
    excluded = _excluded(continuum, fits.theta, slack) & jnp.all(fits.found & fits.unique)

    order = jnp.argsort(~valid, stable=True)[:max_equilibria]
    strategy, valid, atoms, weight = strategy[order], valid[order], atoms[order], weight[order]
    is_pure = valid & (strategy.max(-1) >= 1)
    action = strategy.argmax(-1)
    loss = expected[order].max(-1) - jnp.where(strategy > 0, expected[order], jnp.inf).min(-1)
    width = jnp.where(continuum.payoff_range > 0, continuum.payoff_range, 1.0)
    short = jax.vmap(continuum.shortfall)(strategy, atoms, weight)
    stability = jnp.where(pure.stable, int(Stability.STABLE), int(Stability.UNKNOWN))
    equilibria = Equilibria(
        strategy=strategy,
        strategy_end=strategy,
        realised=(1 - exploration) * strategy + exploration / num_actions,
        belief=None,
        atoms=atoms,
        atom_weight=weight,
        best_fit=jnp.sum(atoms * weight[..., None], 1),
        others_fit=valid & jax.vmap(continuum.others_fit)(strategy, is_pure),
        is_pure=is_pure,
        stability=jnp.where(is_pure, stability[action], int(Stability.UNKNOWN)),
        absorbing=is_pure,  # if it teaches nothing, see `solve`
        residual=jnp.where(valid, jnp.maximum(loss / width, short), 0.0),
        valid=valid,
        pure=pure.holds,
        complete=jnp.zeros((), bool),
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
        pure_undecided=~pure.holds & ~pure.fails,
    )
    return equilibria, bounds(inside, excluded, tolerance)


class _Pure(NamedTuple):
    """What is known of each pure strategy, [A, ...]."""

    atoms: Array  # [A, A, D] parameters believed
    weight: Array  # [A, A] and their probabilities
    expected: Array  # [A, A] payoffs under that belief
    teaches: Array  # [played, reply] what is optimal according to one of the best fits
    holds: Array  # [A] shown to be an equilibrium
    fails: Array  # [A] shown to be none
    stable: Array  # [A]


def _pure(continuum: Continuum, fits: Fit, slack: Array) -> _Pure:
    """Judge pure strategies by their best fits, which are sets where something is left open."""
    problem, family = continuum.problem, continuum.problem.family
    num_actions = problem.num_actions
    theta, _, found, unique = fits
    models = jax.vmap(family.function)(theta)
    payoffs = jax.vmap(problem.consequence.payoffs)(models)
    eye = jnp.eye(num_actions, dtype=bool)
    optimal = payoffs >= payoffs.max(-1, keepdims=True) - slack
    lead = payoffs - jnp.where(eye, -jnp.inf, payoffs).max(-1, keepdims=True)
    refuted = jax.vmap(problem.consequence.divergence)(models)[1].any(-1)  # by some tremble
    settled = unique & (not any(continuum.never_identified))
    identified = _Pure(
        atoms=jnp.repeat(theta[:, None], num_actions, axis=1),
        weight=jnp.zeros(payoffs.shape, payoffs.dtype).at[:, 0].set(1),
        expected=payoffs,
        teaches=optimal & found[:, None],
        holds=jnp.diagonal(optimal) & found,
        fails=~jnp.diagonal(optimal) & settled & found,
        stable=(jnp.diagonal(lead) > slack) & ~refuted & settled,
    )
    explores = continuum.exploration > 0

    def row(action: int) -> _Pure:
        alone = jax.tree.map(lambda x: x[action], identified)
        if not continuum.leaves_open[action]:
            return alone
        several = _open_ended(continuum, action, slack)
        return jax.tree.map(lambda one, many: jnp.where(explores, one, many), alone, several)

    return jax.tree.map(lambda *parts: jnp.stack(parts), *map(row, range(num_actions)))


def _open_ended(continuum: Continuum, action: int, slack: Array) -> _Pure:
    """One action, played alone, that leaves a set of best fits: beliefs may mix over it."""
    problem, family = continuum.problem, continuum.problem.family
    num_actions = problem.num_actions
    identified = family.identifies(action)
    known = np.asarray(identified)
    point, _, found, unique = continuum.fit_alone(jnp.asarray(action))

    def lead(payoffs):
        rivals = payoffs.at[action].set(-jnp.inf)
        return payoffs[action] - rivals.max() if num_actions > 1 else payoffs[0]

    # Where the action does best by comparison, and the nodes of the set.
    _, most = continuum.extremes(point, tuple(not x for x in identified), lead, action)
    _, which = np.unique(np.where(known, 0.0, family.unit_nodes()), axis=0, return_index=True)
    nodes = jnp.where(known, point, continuum.nodes[which])
    points = jnp.concatenate([most[None], nodes])
    payoffs = jax.vmap(lambda x: problem.payoffs(x, action))(points)
    belief, holds, _ = supporting_belief(payoffs, action, jnp.ones(len(points), bool), slack)
    weight, at = jax.lax.top_k(belief, min(num_actions, len(points)))
    pad = num_actions - len(at)
    atoms = jax.vmap(lambda x: family.theta(x, action))(points[at])
    fails = jnp.zeros((), bool)
    if _has_grid(family):
        turns = _turns_anywhere(lambda x: problem.payoffs(x, action), continuum)[action]
        rival = payoffs - payoffs[:, action : action + 1] > slack
        fails = found & unique & jnp.any(jnp.all(rival, 0) & ~turns)
    expected = jnp.matmul(belief, payoffs, precision=jax.lax.Precision.HIGHEST)
    return _Pure(
        atoms=jnp.pad(atoms, ((0, pad), (0, 0)), mode="edge"),
        weight=jnp.pad(weight, (0, pad)),
        expected=expected,
        teaches=found & jnp.any(payoffs >= payoffs.max(-1, keepdims=True) - slack, 0),
        holds=found & holds,
        fails=fails,
        stable=jnp.zeros((), bool),
    )


def _mixed_on_pairs(
    continuum: Continuum, slack: Array, tolerance: Tolerance
) -> tuple[Array, Array, Array, Array]:
    """Equilibria on two actions, one for each change of the optimal action along theta."""
    problem = continuum.problem
    num_actions = problem.num_actions
    num = max(_POINTS, _POINTS_PER_ACTION * num_actions)
    share = jnp.linspace(0.0, 1.0, num, dtype=continuum.lower.dtype)[:, None]
    points = continuum.lower + share * (continuum.upper - continuum.lower)
    best = jnp.argmax(jax.vmap(problem.payoffs)(points), -1)
    changes = best[:-1] != best[1:]
    at = jnp.argsort(~changes, stable=True)[: min(num - 1, 2 * num_actions)]

    def solve(at, real):
        first, second = best[at], best[at + 1]
        lead = jnp.zeros(num_actions, points.dtype).at[first].add(1.0).at[second].add(-1.0)

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            payoffs = problem.payoffs(middle)
            still = payoffs[first] >= payoffs[second]
            return jnp.where(still, middle, low), jnp.where(still, high, middle)

        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (points[at], points[at + 1]))
        middle = jax.lax.stop_gradient(0.5 * (low + high)[0])
        theta = implicit_root(lambda x: problem.payoffs(x[None]) @ lead, middle)[None]
        slope = jax.jacfwd(lambda x: problem.divergence(x)[0])(theta)[:, 0]
        explored = continuum.exploration * slope.mean()
        weight = 1 - continuum.exploration
        turn = weight * (slope[first] - slope[second])
        s = -(explored + weight * slope[second]) / jnp.where(turn != 0, turn, 1.0)
        real &= (turn != 0) & (s > 0) & (s < 1)
        play = jnp.zeros(num_actions, s.dtype).at[first].set(s).at[second].set(1 - s)
        play = jnp.where(real, play, jnp.zeros_like(play).at[0].set(1))
        # A stationary point is a best fit if nothing fits better.
        value, refuted = continuum.misfit(theta, continuum.realised(play))
        best_fit, _, found, _ = continuum.fit_in_box(play)
        rival, _ = continuum.misfit(best_fit, continuum.realised(play))
        real &= ~refuted & found & (value <= rival + tolerance.fit)
        payoffs = problem.payoffs(theta)
        played = jnp.where(play > 0, payoffs, jnp.inf).min()
        return play, theta, payoffs, real & (played >= payoffs.max() - slack)

    return jax.vmap(solve)(at, changes[at])


def _has_grid(family) -> bool:
    """Whether what `Family.unique_best_fit` promises about neighbouring nodes says anything."""
    return family.unique_best_fit and family.has_grid


def _excluded(continuum: Continuum, fit: Array, slack: Array) -> Array:
    """Actions that dominance removes."""
    problem, family = continuum.problem, continuum.problem.family
    if not _has_grid(family):
        return jnp.zeros(problem.num_actions, bool)
    if family.dimension == 1 and not (any(continuum.leaves_open) or family.has_charts):
        return _excluded_by_interval(continuum, fit, slack)
    lead = continuum.payoffs[:, None, :] - continuum.payoffs[:, :, None]  # other minus action
    everywhere = jnp.all(lead > slack, 0) & ~_turns_anywhere(problem.payoffs, continuum)
    return everywhere.any(-1)


def _excluded_by_interval(continuum: Continuum, fit: Array, slack: Array) -> Array:
    """One identified parameter: what can be believed is an interval."""
    problem = continuum.problem
    points = jnp.sort(jnp.concatenate([fit, continuum.nodes])[:, 0])
    payoffs = jax.vmap(problem.payoffs)(points[:, None])
    better = payoffs[:, None, :] - payoffs[:, :, None] > slack  # other better than action
    slope = jax.vmap(jax.jacfwd(problem.payoffs))(points[:, None])[..., 0]
    turns = _turns(slope[:-1], slope[1:])

    def round_(state):
        remaining, _ = state
        low = jnp.where(remaining, fit[:, 0], jnp.inf).min()
        high = jnp.where(remaining, fit[:, 0], -jnp.inf).max()
        believed = ((points >= low) & (points <= high))[:, None, None]
        wins = jnp.all(better | ~believed, axis=0)
        wins &= jnp.all(~turns | ~(believed[:-1] & believed[1:]), axis=0)
        smaller = remaining & ~jnp.any(wins, axis=-1)
        return smaller, jnp.any(smaller != remaining)

    start = jnp.ones(problem.num_actions, bool), jnp.ones((), bool)
    return ~jax.lax.while_loop(lambda state: state[1], round_, start)[0]


def _turns(before: Array, after: Array) -> Array:
    """Where payoff differences visibly turn between two points, so that no promise holds.

    ``before`` and ``after`` [..., A] are slopes of payoffs; the answer is [..., A, A].
    """
    ends = [slope[..., None, :] - slope[..., :, None] for slope in (before, after)]
    size = jnp.maximum(jnp.max(jnp.abs(before)), jnp.max(jnp.abs(after)))
    noise = 64 * jnp.finfo(before.dtype).eps * size
    return ((ends[0] > noise) & (ends[1] < -noise)) | ((ends[0] < -noise) & (ends[1] > noise))


def _turns_anywhere(payoffs, continuum: Continuum) -> Array:
    """Which payoff differences [A, A] visibly turn between neighbouring nodes of the grid."""
    dimension = continuum.nodes.shape[1]
    per_axis = round(len(continuum.nodes) ** (1 / dimension))
    slope = jax.vmap(jax.jacfwd(payoffs))(continuum.nodes)
    slope = slope.reshape(*[per_axis] * dimension, *slope.shape[1:])
    found = jnp.zeros((slope.shape[-2], slope.shape[-2]), bool)
    for axis in range(dimension):
        before = jax.lax.slice_in_dim(slope[..., axis], 0, per_axis - 1, axis=axis)
        after = jax.lax.slice_in_dim(slope[..., axis], 1, per_axis, axis=axis)
        found |= _turns(before, after).any(tuple(range(dimension)))
    return found
