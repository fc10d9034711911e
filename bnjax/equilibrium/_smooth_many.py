"""Smooth equilibria of any number of actions: the flow of the mean field, then Newton's method.

The unknown of Newton's method is z [A], expected payoffs over temperature, in which strategies
next to pure ones are as precise as any: ``z = payoffs of belief(softmax(z)) / temperature``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ._smooth_map import SmoothMap

_FLOW, _SETTLE, _NEWTON = 96, 64, 8  # trips of each stage
_LONGEST = 0.5  # step of the flow, in its own time
_BEND = 0.01  # play that the bending of the reply may move a step by
_MAX_VERTICES, _MAX_INTERIOR = 8, 16


def select_many(smooth: SmoothMap, start: Float[Array, " actions"]) -> Float[Array, " actions"]:
    """Where the flow ``d sigma/dt = f(sigma) - sigma`` goes from a start, as z.

    Linearly implicit Euler steps, of which each is accepted if the reply bends little on it
    (0.01 of play). First they are short, so as to stay on the trajectory; then they lengthen as
    the flow slows down, and so turn into Newton's method. Where the reply is so steep that play
    chatters about a surface, ever shorter steps find the layer in which it can slide along it.
    """
    return newton(smooth, _flow(smooth, start), _NEWTON)


def _flow(smooth: SmoothMap, start: Float[Array, " actions"]) -> Float[Array, " actions"]:
    """Where the flow has come to, as z."""
    step = _Step(start, *smooth.reply(start), jnp.asarray(0.1, start.dtype))

    def trip(i, step):
        slow = jnp.max(jnp.abs(step.reply - step.play))
        settling = jnp.maximum(i - _FLOW, 0).astype(start.dtype)
        bend = _BEND * 0.75**settling
        longest = jnp.where(i < _FLOW, _LONGEST, _LONGEST / jnp.maximum(slow, 1e-9))
        return _advance(smooth, step, bend, longest)

    return smooth.scores(lax.fori_loop(0, _FLOW + _SETTLE, trip, step).play)


class _Step(NamedTuple):
    """Play, the reply to it, its Jacobian, and the length of the next step."""

    play: Array
    reply: Array
    jacobian: Array
    length: Array


def _advance(smooth: SmoothMap, step: _Step, bend: Array, longest: Array) -> _Step:
    length = jnp.minimum(step.length, longest)
    identity = jnp.eye(step.play.shape[0], dtype=step.play.dtype)
    matrix = (1 + 1 / length) * identity - step.jacobian
    change = solve(matrix, step.reply - step.play)
    play = jnp.maximum(step.play + change, 0)
    play = play / play.sum()
    reply, jacobian = smooth.reply(play)
    bent = jnp.abs(reply - step.reply - step.jacobian @ (play - step.play))
    bent = jnp.max(bent) * length / (1 + length)
    good = bent <= bend
    factor = 0.9 * jnp.sqrt(bend / jnp.maximum(bent, 1e-12))
    factor = jnp.where(good, jnp.clip(factor, 0.5, 4.0), jnp.clip(factor, 0.05, 0.5))
    new = _Step(play, reply, jacobian, length)
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, step)._replace(
        length=length * factor
    )


def newton(smooth: SmoothMap, scores: Float[Array, " actions"], trips: int) -> Array:
    """Newton's method for z, each step of which is shortened until it brings z nearer."""

    def miss(scores):
        target, jacobian = smooth.target(scores)
        return target - scores, jacobian

    def size(gap):
        return jnp.max(jnp.abs(gap))

    def trip(_, state):
        scores, (gap, jacobian), damping = state
        identity = jnp.eye(scores.shape[0], dtype=scores.dtype)
        new = scores + damping * solve(identity - jacobian, gap)
        there = miss(new)
        good = size(there[0]) < size(gap)
        kept = jax.tree.map(
            lambda a, b: jnp.where(good, a, b), (new, there), (scores, (gap, jacobian))
        )
        return *kept, jnp.where(good, jnp.minimum(1.0, 4 * damping), 0.25 * damping)

    state = scores, miss(scores), jnp.ones((), scores.dtype)
    return lax.fori_loop(0, trips, trip, state)[0]


def list_many(smooth: SmoothMap) -> Float[Array, "found actions"]:
    """What flow and Newton's method find from a fixed set of starts, as z.

    The flow from up to 8 pure strategies and from the centre; Newton's method, which also finds
    what the flow runs away from, from the middles of pairs of actions and from points spread
    over the simplex, 16 in all. Without a claim to be complete.
    """
    num = smooth.reduced.kl.shape[1]
    dtype = smooth.reduced.kl.dtype
    flows, interior = (jnp.asarray(x, dtype) for x in _starts(num))
    settled = jax.vmap(lambda start: _flow(smooth, start))(flows)
    starts = jnp.concatenate([settled, jnp.log(interior)])
    return jax.vmap(lambda scores: newton(smooth, scores, 4 * _NEWTON))(starts)


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


def solve(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solution of a small linear system."""
    if right.shape[0] == 1:
        return right / matrix[0]
    return jnp.linalg.solve(matrix, right)
