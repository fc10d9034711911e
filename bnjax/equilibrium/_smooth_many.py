"""Smooth equilibria of any number of actions: the flow of the mean field, then Newton's method.

The unknown of Newton's method is z [A], expected payoffs over temperature, in which strategies
next to pure ones are as precise as any: ``z = payoffs of belief(softmax(z)) / temperature``.
Many problems at once, one in each lane.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .._numerics import lowest
from ..problem import AbstractFiniteProblem
from ._columns import columns
from ._lanes import in_lanes
from ._small_matrices import multiply, solve

_FLOW, _SETTLE, _NEWTON = 96, 64, 8  # trips of each stage
_LONGEST = 0.5  # step of the flow, in its own time
_BEND = 0.01  # play that the bending of the reply may move a step by
_MAX_VERTICES, _MAX_INTERIOR = 8, 16
_SQUARINGS = 20


class ManyMeasures(NamedTuple):
    """What is known of a candidate, as `Verdict`; ``growth`` is the largest rate of the flow."""

    residual: Array
    left: Array
    condition: Array
    growth: Array


def select_many(
    problem: AbstractFiniteProblem,
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    exploration: Float[Array, ""],
    start: Float[Array, " actions"] | None,
) -> tuple[Float[Array, " actions"], ManyMeasures, Bool[Array, ""]]:
    """Where the flow ``d sigma/dt = f(sigma) - sigma`` goes from a start, as z.

    Linearly implicit Euler steps, of which each is accepted if the reply bends little on it
    (0.01 of play). First they are short, so as to stay on the trajectory; then they lengthen as
    the flow slows down, and so turn into Newton's method. Where the reply is so steep that play
    chatters about a surface, ever shorter steps find the layer in which it can slide along it.

    Parameters
    ----------
    problem, memory, temperature, exploration : as for `smooth_equilibrium`.
    start : strategy; None for the prior's own play.

    Returns
    -------
    the solution, its measures, and whether the problem makes sense.
    """

    def block(given, memory, temperature, exploration, start):
        terms, valid = _terms(given, memory, temperature, exploration)
        start = jax.nn.softmax(terms.prior_scores, axis=0) if start is None else start
        play = jnp.broadcast_to(start, jnp.broadcast_shapes(start.shape, terms.prior_scores.shape))
        scores = _newton(terms, _flow(terms, play), _NEWTON)
        return scores, _measure(terms, scores), jnp.broadcast_to(valid, scores.shape[1:])

    given = problem.consequence, problem.models, problem.log_prior
    return in_lanes(block, (given, memory, temperature, exploration, start), _numbers(problem))


def list_many(
    problem: AbstractFiniteProblem,
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    exploration: Float[Array, ""],
) -> tuple[Float[Array, "found actions"], ManyMeasures]:
    """What flow and Newton's method find from a fixed set of starts, as z, and measures of it.

    The flow from up to 8 pure strategies and from the centre; Newton's method, which also finds
    what the flow runs away from, from the middles of pairs of actions and from points spread
    over the simplex, 16 in all. Without a claim to be complete.

    Parameters
    ----------
    problem, memory, temperature, exploration : as for `select_many`.
    """
    dtype = problem.log_prior.dtype
    flows, interior = (jnp.asarray(x, dtype) for x in _starts(problem.num_actions))
    given = problem.consequence, problem.models, problem.log_prior

    def from_flow(start):
        def block(given, memory, temperature, exploration, start):
            terms, _ = _terms(given, memory, temperature, exploration)
            lanes = terms.prior_scores.shape
            play = jnp.broadcast_to(start, jnp.broadcast_shapes(start.shape, lanes))
            return _flow(terms, play)

        args = given, memory, temperature, exploration, start
        return in_lanes(block, args, _numbers(problem))

    def from_scores(scores):
        def block(given, memory, temperature, exploration, scores):
            terms, _ = _terms(given, memory, temperature, exploration)
            lanes = terms.prior_scores.shape
            scores = jnp.broadcast_to(scores, jnp.broadcast_shapes(scores.shape, lanes))
            scores = _newton(terms, scores, 4 * _NEWTON)
            return scores, _measure(terms, scores)

        args = given, memory, temperature, exploration, scores
        return in_lanes(block, args, _numbers(problem))

    starts = jnp.concatenate([jax.vmap(from_flow)(flows), jnp.log(interior)])
    return jax.vmap(from_scores)(starts)


def _numbers(problem: AbstractFiniteProblem) -> int:
    """Says how many lanes are best: few, of which all wait for the slowest."""
    return 16 * problem.num_models * problem.num_actions


class _Terms(NamedTuple):
    """What the belief and the reply depend on.

    ``prior`` [M, lanes] log-weights; ``cost`` [A, M, lanes] what an action takes from them when
    it is always played; ``worth`` [A, M, lanes] payoffs over temperature; ``prior_scores``
    [A, lanes] those expected before any evidence.
    """

    prior: Array
    cost: Array
    worth: Array
    prior_scores: Array


def _terms(given, memory, temperature, exploration) -> tuple[_Terms, Bool[Array, " lanes"]]:
    """Columns of models, and whether they make sense; costs relative to the smallest."""
    kl, payoffs, support, valid = columns(given, exploration)
    log_prior = given[2]
    kl, payoffs = jnp.stack(kl), jnp.stack(payoffs)
    most = jnp.finfo(kl.dtype).max
    # Logit play gives every action a positive probability.
    usable = support & (kl.max(0) < 0.125 * most)
    lanes = jnp.broadcast_shapes(
        kl.shape[2:], payoffs.shape[2:], log_prior.shape[1:], memory.shape, temperature.shape
    )
    base = jnp.stack([lowest(jnp.where(usable, k, most)) for k in kl])
    cost = jnp.where(usable, memory * (kl - base[:, None]), 0.0)
    prior = jnp.where(usable, log_prior, -0.25 * most)
    weight = jnp.where(support, jnp.exp(log_prior - log_prior.max(0)), 0.0)
    worth = jnp.where(support, payoffs, 0.0) / temperature
    scores = (weight * worth).sum(1) / weight.sum(0)
    wide = jnp.broadcast_shapes(kl.shape, (*kl.shape[:2], *lanes))
    terms = _Terms(
        jnp.broadcast_to(prior, wide[1:]),
        jnp.broadcast_to(cost, wide),
        jnp.broadcast_to(worth, wide),
        jnp.broadcast_to(scores, (wide[0], *lanes)),
    )
    return terms, jnp.broadcast_to(valid & usable.any(0), lanes)


def _look(terms: _Terms, play: Array) -> tuple[Array, Array]:
    """Expected payoffs over temperature [A, lanes] once a strategy is learned from, and turn.

    The turn [A, A, lanes] is how they change with the probability of each action: minus the
    covariance under the belief of what actions are worth and of what they cost.
    """
    log = terms.prior - sum(terms.cost[a] * play[a] for a in range(play.shape[0]))
    weight = jnp.exp(log - log.max(0))
    belief = weight / weight.sum(0)
    scores = (belief * terms.worth).sum(1)
    worth = terms.worth - scores[:, None]
    cost = terms.cost - (belief * terms.cost).sum(1)[:, None]
    turn = -((belief * worth)[:, None] * cost).sum(2)
    return scores, turn


def _reply(terms: _Terms, play: Array) -> tuple[Array, Array, Array]:
    """Expected payoffs over temperature, logit reply to a strategy, and its Jacobian."""
    scores, turn = _look(terms, play)
    reply = jax.nn.softmax(scores, axis=0)
    mean = (reply[:, None] * turn).sum(0)
    return scores, reply, reply[:, None] * (turn - mean)


def _identity(like: Array) -> Array:
    """[A, A, 1]."""
    return jnp.eye(like.shape[0], dtype=like.dtype)[..., None]


class _Step(NamedTuple):
    """Play, the reply to it with its scores and Jacobian, and the length of the next step."""

    play: Array
    scores: Array
    reply: Array
    jacobian: Array
    length: Array


def _flow(terms: _Terms, start: Array) -> Array:
    """Where the flow has come to, as z."""
    at_rest = max(2 * float(jnp.finfo(start.dtype).eps), 1e-12)

    def going(state):
        i, step = state
        return (i < _FLOW + _SETTLE) & jnp.any(_misses(step) > at_rest)

    def trip(state):
        i, step = state
        settling = jnp.maximum(i - _FLOW, 0).astype(start.dtype)
        bend = _BEND * 0.75**settling
        longest = jnp.where(i < _FLOW, _LONGEST, _LONGEST / jnp.maximum(_misses(step), 1e-9))
        return i + 1, _advance(terms, step, bend, longest)

    step = _Step(start, *_reply(terms, start), jnp.full(start.shape[1:], 0.1, start.dtype))
    return lax.while_loop(going, trip, (0, step))[1].scores


def _misses(step: _Step) -> Array:
    return jnp.max(jnp.abs(step.reply - step.play), axis=0)


def _advance(terms: _Terms, step: _Step, bend: Array, longest: Array) -> _Step:
    length = jnp.minimum(step.length, longest)
    matrix = (1 + 1 / length) * _identity(step.play) - step.jacobian
    change = solve(matrix, (step.reply - step.play)[:, None])[:, 0]
    play = jnp.maximum(step.play + change, 0)
    play = play / play.sum(0)
    scores, reply, jacobian = _reply(terms, play)
    bent = jnp.abs(reply - step.reply - (step.jacobian * (play - step.play)).sum(1))
    bent = jnp.max(bent, axis=0) * length / (1 + length)
    good = bent <= bend
    factor = 0.9 * jnp.sqrt(bend / jnp.maximum(bent, 1e-12))
    factor = jnp.where(good, jnp.clip(factor, 0.5, 4.0), jnp.clip(factor, 0.05, 0.5))
    new = _Step(play, scores, reply, jacobian, length)
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, step)._replace(
        length=length * factor
    )


def _newton(terms: _Terms, scores: Array, trips: int) -> Array:
    """Newton's method for z, each step of which is shortened until it brings z nearer."""

    def miss(scores):
        play = jax.nn.softmax(scores, axis=0)
        target, turn = _look(terms, play)
        mean = (turn * play).sum(1)
        return target - scores, (turn - mean[:, None]) * play

    def size(gap):
        return jnp.max(jnp.abs(gap), axis=0)

    def trip(_, state):
        scores, (gap, jacobian), damping = state
        change = solve(_identity(scores) - jacobian, gap[:, None])[:, 0]
        new = scores + damping * change
        there = miss(new)
        good = size(there[0]) < size(gap)
        kept = jax.tree.map(
            lambda a, b: jnp.where(good, a, b), (new, there), (scores, (gap, jacobian))
        )
        return *kept, jnp.where(good, jnp.minimum(1.0, 4 * damping), 0.25 * damping)

    state = scores, miss(scores), jnp.ones(scores.shape[1:], scores.dtype)
    return lax.fori_loop(0, trips, trip, state)[0]


def _measure(terms: _Terms, scores: Array) -> ManyMeasures:
    """How good a candidate is."""
    play = jax.nn.softmax(scores, axis=0)
    _, reply, jacobian = _reply(terms, play)
    identity = _identity(play)
    across = identity - 1 / play.shape[0]
    # The identity on what leaves the sum of play as it is, and harmless on the rest.
    matrix = identity - (jacobian - jacobian.mean(1, keepdims=True))
    flow = jacobian - identity
    # Two systems a lane, solved together.
    both = jnp.stack([matrix, identity - flow], 2)
    right = jnp.stack([jnp.broadcast_to(across, matrix.shape), identity + flow], 2)
    inverse, cayley = jnp.moveaxis(solve(both, right), 2, 0)
    gap = reply - play
    left = jnp.max(jnp.abs((inverse * gap).sum(1)), axis=0)
    size = jnp.sqrt(jnp.sum(inverse**2, axis=(0, 1)))
    condition = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1.0), 1.0)
    residual = jnp.max(jnp.abs(gap), axis=0)
    return ManyMeasures(residual, left, condition, _growth(cayley))


def _growth(power: Array) -> Array:
    """Negative if all eigenvalues of matrices [n, n, lanes] have negative real parts.

    Given their Cayley transforms, whose eigenvalues are then inside the unit circle, so that their
    powers vanish: they are squared often enough to tell (no eigenvalues, which not every device
    has).
    """

    def square(_, state):
        power, log = state
        size = jnp.maximum(jnp.max(jnp.abs(power), axis=(0, 1)), jnp.finfo(power.dtype).tiny)
        power = power / size
        return multiply(power, power), 2 * (log + jnp.log(size))

    start = power, jnp.zeros(power.shape[2:], power.dtype)
    power, log = lax.fori_loop(0, _SQUARINGS, square, start)
    return (log + jnp.log(jnp.sqrt(jnp.sum(power**2, axis=(0, 1))))) * 2.0**-_SQUARINGS


def _starts(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts [F, A] of the flow, and [N, A] of Newton's method."""
    chosen = np.unique(np.linspace(0, num - 1, min(num, _MAX_VERTICES)).astype(int))
    flows = np.concatenate([np.eye(num)[chosen], np.full((1, num), 1 / num)])
    pairs = [(i, j) for k, i in enumerate(chosen) for j in chosen[k + 1 :]][
        : _MAX_INTERIOR // 2 + 2
    ]
    middles = [0.5 * (np.eye(num)[i] + np.eye(num)[j]) for i, j in pairs]
    # Even draws from the simplex, the same ones always.
    rest = np.random.default_rng(0).dirichlet(np.ones(num), _MAX_INTERIOR - len(middles))
    interior = np.concatenate([np.reshape(middles, (-1, num)), rest])
    return flows, 0.98 * interior + 0.02 / num
