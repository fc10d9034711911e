"""Smooth equilibria of two actions: the rest points of a flow on a line, many problems at once.

Play is s = sigma[0], and the unknown is x = logit(s), in which a pair of actions reads
``x = D(s) / temperature`` with D the payoff that the belief expects of action 0 over action 1. As
the temperature falls, solutions come exponentially close to s = 0 and s = 1; x is as precise
there as anywhere. The flow ``ds/dt = f(s) - s`` moves where ``h(x) = D / temperature - x`` points.
D lies between its smallest and its largest value in any model, and so do the solutions, which
makes the two outermost brackets.
"""

from __future__ import annotations

import math
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

INTERVALS = 24
"""Intervals of s, from 0 to 1, in each of which at most one change of direction is looked for.

They end where ``logit(s) = 2.5 logit(i / 24)``: 0.0004 wide next to pure play, where solutions
crowd, and 0.1 in the middle. Two solutions within one interval are looked for only where the flow
is slowest on its way. Of 2,012 solutions of 1,500 random problems with memories of 300 to 5,000 and
temperatures of 0.001 to 0.05, 20 shared an interval with another; of 1,598 with memories of 2 to
200 and temperatures of 0.02 to 1, 2.
"""

_MAX_TRIPS = 96  # far more than the bisections that any bracket needs
_DIP_TRIPS = 24


class _Terms(NamedTuple):
    """What the belief depends on, models first: log-weights at s = 1 and s = 0, and gains.

    ``first``, ``second``, ``gain`` [M, lanes]: log-weights are ``s first + (1 - s) second``, and
    ``prior`` before any evidence.
    ``prior_gain`` [lanes] the gain before any evidence; ``temperature`` [1 or lanes].
    """

    first: Array
    second: Array
    gain: Array
    prior: Array
    prior_gain: Array
    temperature: Array


class PairMeasures(NamedTuple):
    """What is known of a candidate, as `Verdict`; ``slope`` is that of the flow, ``1 - f'(s)``."""

    residual: Array
    slope: Array


class PairFacts(NamedTuple):
    """What derivatives of a solution depend on.

    ``belief`` [M]; ``lever`` [M] belief times gain (of action 0 over action 1) less its mean;
    ``turn`` and ``fit`` the sum of the lever times ``K[:, 1] - K[:, 0]`` and ``K @ sigma``.
    """

    belief: Array
    lever: Array
    turn: Array
    fit: Array


def select_pair(
    problem: AbstractFiniteProblem,
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    exploration: Float[Array, ""],
    start: Float[Array, ""] | None,
) -> tuple[Float[Array, ""], PairMeasures, PairFacts, Bool[Array, ""]]:
    """Where the flow goes: logit of action 0 at the solution that it reaches from a start.

    Exact, but for solutions that come and go within one of the `INTERVALS`.

    Parameters
    ----------
    problem, memory, temperature, exploration : as for `smooth_equilibrium`.
    start : logit of action 0, infinite if pure; None for the prior's own play.

    Returns
    -------
    the solution, what is known of it, and whether the problem makes sense.
    """

    def block(given, memory, temperature, exploration, start):
        terms, valid = _terms(given, memory, temperature, exploration)
        low, high = _bounds(terms)
        origin = terms.prior_gain / terms.temperature if start is None else start
        origin = jnp.clip(origin, low, high)
        pull = _pull(terms, origin)
        # A start that only rounding moves is at rest.
        moves = jnp.abs(pull) > _rounding(terms, origin)
        upwards = pull > 0
        grid = jnp.asarray(_GRID, low.dtype)

        def look(i, state):
            below, above, watch = state
            # What lies behind the start counts as the start.
            x = jnp.where(upwards, jnp.maximum(grid[i], origin), jnp.minimum(grid[i], origin))
            pull = _pull(terms, x)
            on = pull > 0
            # Upwards: the first point that pushes back, and the one before it.
            ahead = upwards & (x > origin) & (above == high)
            # Downwards: the last that pushes back, and the one after it.
            back = ~upwards & (x < origin) & on
            first_after = ~upwards & ~on & (above == origin)
            watch = watch.seen(x, pull, upwards, ~upwards | (above == high), back)
            new_below = jnp.where(ahead & on | back, x, below)
            above = jnp.where(ahead & ~on | first_after, x, jnp.where(back, origin, above))
            return new_below, above, watch

        begin = jnp.where(upwards, origin, low), jnp.where(upwards, high, origin)
        state = *begin, _Watch.begin(origin, pull)
        below, above, watch = lax.fori_loop(0, INTERVALS - 1, look, state)
        # Two solutions between two points, of which the flow reaches the nearer one.
        point, crosses = _search_dip(terms, watch, upwards)
        below = jnp.where(crosses, jnp.where(upwards, watch.left, point), below)
        above = jnp.where(crosses, jnp.where(upwards, point, watch.right), above)
        below, above = jnp.where(moves, below, origin), jnp.where(moves, above, origin)
        x = _polish(terms, below, above, jnp.ones(below.shape, bool))
        facts = _facts(terms, memory, x)
        return x, _measure(terms, x), facts, jnp.broadcast_to(valid, x.shape)

    given = problem.consequence, problem.models, problem.log_prior
    args = given, memory, temperature, exploration, start
    return in_lanes(block, args, _numbers(problem))


def list_pair(
    problem: AbstractFiniteProblem,
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    exploration: Float[Array, ""],
    rows: int,
) -> tuple[Float[Array, " rows"], PairMeasures, Bool[Array, " rows"]]:
    """Logit of action 0 at every solution that the grid shows, in descending order.

    Parameters
    ----------
    problem, memory, temperature, exploration : as for `select_pair`.
    rows : how many at most.

    Returns
    -------
    the solutions, their measures, and which rows hold one.
    """

    def block(given, memory, temperature, exploration):
        terms, _ = _terms(given, memory, temperature, exploration)
        low, high = _bounds(terms)
        grid = jnp.asarray(_GRID, low.dtype)
        slot = jnp.arange(rows, dtype=jnp.int32)[:, None]

        def add(state, changes, left, right, falling):
            below, above, falls, num = state
            here = changes & (slot == num)
            below = jnp.where(here, jnp.clip(left, low, high), below)
            above = jnp.where(here, jnp.clip(right, low, high), above)
            return below, above, jnp.where(here, falling, falls), num + changes.astype(num.dtype)

        def look(i, state):
            state, watch = state
            x = jnp.broadcast_to(grid[i], low.shape)
            pull = _pull(terms, x)
            on, was_on = pull > 0, watch.pulls[1] > 0
            state = add(state, on != was_on, watch.points[1], x, was_on)
            return state, watch.seen(
                x, pull, on, jnp.ones(on.shape, bool), ~jnp.ones(on.shape, bool)
            )

        empty = jnp.broadcast_to(low, (rows, *low.shape))
        num = jnp.zeros(low.shape, jnp.int32)
        state = empty, empty, jnp.ones(empty.shape, bool), num
        watch = _Watch.begin(low, jnp.full_like(low, jnp.inf))
        state, watch = lax.fori_loop(0, INTERVALS - 1, look, (state, watch))
        last_on = watch.pulls[1] > 0
        state = add(state, last_on, watch.points[1], high, last_on)
        point, crosses = _search_dip(terms, watch, watch.on)
        state = add(state, crosses, watch.left, point, watch.on)
        below, above, falling, num = add(state, crosses, point, watch.right, ~watch.on)
        x = _polish(terms, below, above, falling)
        return x, _measure(terms, x), slot < num

    given = problem.consequence, problem.models, problem.log_prior
    found = in_lanes(block, (given, memory, temperature, exploration), rows * _numbers(problem))
    return jax.tree.map(lambda x: x[::-1], found)


def _numbers(problem: AbstractFiniteProblem) -> int:
    """How many numbers, of 4 bytes, a look at a problem goes through in memory."""
    return problem.num_models * problem.log_prior.dtype.itemsize // 4


_GRID = 2.5 * np.log(np.arange(1, INTERVALS) / np.arange(INTERVALS - 1, 0, -1))


class _Watch(NamedTuple):
    """Where the flow is slowest on its way along the grid: a dip, which may hide two solutions.

    ``points``, ``pulls`` of the last two points looked at; ``left``, ``right`` the neighbours of
    the slowest point, ``least`` the size of the pull there, infinite if there is none, and ``on``
    whether it is upwards. All [lanes].
    """

    points: tuple[Array, Array]
    pulls: tuple[Array, Array]
    left: Array
    right: Array
    least: Array
    on: Array

    @classmethod
    def begin(cls, x: Array, pull: Array) -> _Watch:
        """Before the first point of the grid: only the place where it starts."""
        never = jnp.full_like(x, jnp.inf)
        return cls((x, x), (pull, pull), x, x, never, jnp.ones(x.shape, bool))

    def seen(self, x: Array, pull: Array, upwards: Array, counts: Array, forget: Array) -> _Watch:
        """After one more point; of dips, only those in the direction of the flow count."""
        sign = jnp.where(upwards, 1.0, -1.0).astype(x.dtype)
        before, middle, after = (sign * y for y in (*self.pulls, pull))
        dips = (middle <= before) & (middle <= after) & (middle > 0) & (x > self.points[0])
        least = jnp.where(forget, jnp.inf, self.least)
        slower = dips & counts & ~forget & (middle < least)
        return _Watch(
            (self.points[1], x),
            (self.pulls[1], pull),
            jnp.where(slower, self.points[0], self.left),
            jnp.where(slower, x, self.right),
            jnp.where(slower, middle, least),
            jnp.where(slower, upwards, self.on),
        )


def _search_dip(terms: _Terms, watch: _Watch, upwards: Array) -> tuple[Array, Array]:
    """Look for a point of a dip at which the flow is reversed.

    Bisected towards where the pull is least, until a point pushes back or, as long as the pull is
    convex there, none can.
    """
    sign = jnp.where(upwards, 1.0, -1.0).astype(watch.left.dtype)

    def going(state):
        trip, _, _, _, active, _ = state
        return (trip < _DIP_TRIPS) & jnp.any(active)

    def halve(state):
        trip, left, right, point, active, crosses = state
        middle = left + 0.5 * (right - left)
        pull, slope = (sign * y for y in _pull_and_slope(terms, middle))
        reverses = active & (pull <= 0)
        point, crosses = jnp.where(reverses, middle, point), crosses | reverses
        falls = slope < 0
        left, right = jnp.where(falls, middle, left), jnp.where(falls, right, middle)
        far = jnp.where(falls, right, left)
        active &= ~reverses & (pull + slope * (far - middle) <= 0)
        return trip + 1, left, right, point, active, crosses

    active = watch.least < jnp.inf
    state = 0, watch.left, watch.right, watch.left, active, jnp.zeros(active.shape, bool)
    _, _, _, point, _, crosses = lax.while_loop(going, halve, state)
    return point, crosses


def _terms(given, memory, temperature, exploration) -> tuple[_Terms, Bool[Array, " lanes"]]:
    """Columns of models, and whether they make sense.

    What is ruled out has a log-weight that vanishes beside any other. Only differences between
    models count, and they are small next to the divergences: these are relative, action by
    action, to the smallest.
    """
    kl, payoffs, support, valid = columns(given, exploration)
    log_prior = given[2]
    gain = payoffs[0] - payoffs[1]
    most = jnp.finfo(gain.dtype).max
    # Logit play gives every action a positive probability.
    usable = support & (jnp.maximum(*kl) < 0.125 * most)
    prior = jnp.where(usable, log_prior, 0.0)
    batches = [x.shape[1:] for x in (kl[0], payoffs[0], log_prior)]
    lanes = jnp.broadcast_shapes(*batches, memory.shape, temperature.shape)
    wide = (log_prior.shape[0], *lanes)

    def log_weight(kl):
        base = lowest(jnp.where(usable, kl, most))
        return jnp.broadcast_to(jnp.where(usable, prior - memory * (kl - base), -0.25 * most), wide)

    weight = jnp.where(support, jnp.exp(log_prior - log_prior.max(0)), 0.0)
    prior_gain = jnp.where(support, weight * gain, 0.0).sum(0) / weight.sum(0)
    # What is left out may expect any payoff: it must not matter for the bounds.
    gain = jnp.where(usable, gain, lowest(jnp.where(usable, gain, most)))
    first, second = map(log_weight, kl)
    terms = _Terms(
        first,
        second,
        jnp.broadcast_to(gain, wide),
        jnp.broadcast_to(prior, wide),
        jnp.broadcast_to(prior_gain, lanes),
        jnp.broadcast_to(temperature, lanes),
    )
    return terms, jnp.broadcast_to(valid & usable.any(0), lanes)


def _bounds(terms: _Terms) -> tuple[Array, Array]:
    """Between which x there is every solution."""
    most = 0.125 * jnp.finfo(terms.gain.dtype).max
    ends = (terms.gain.min(0), terms.gain.max(0))
    low, high = (jnp.clip(end / terms.temperature, -most, most) for end in ends)
    return low, high


def _rounding(terms: _Terms, x: Array) -> Array:
    """By how much rounding may have changed the pull."""
    size = jnp.abs(terms.gain).max(0) / terms.temperature
    return 4 * jnp.finfo(x.dtype).eps * (size + jnp.abs(x))


def _weights(terms: _Terms, x: Array) -> tuple[Array, Array, Array]:
    """Weights [M, ...] at a play, unnormalised, and its two shares."""
    share, rest = jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    log = share * terms.first.reshape(_fit(terms, x)) + rest * terms.second.reshape(_fit(terms, x))
    return jnp.exp(log - log.max(0)), share, rest


def _fit(terms: _Terms, x: Array) -> tuple[int, ...]:
    models, *lanes = terms.gain.shape
    return (models, *(1,) * (x.ndim - len(lanes)), *lanes)


def _pull(terms: _Terms, x: Array) -> Array:
    """Where, and how strongly, the flow pushes: h(x)."""
    weight, _, _ = _weights(terms, x)
    gain = terms.gain.reshape(_fit(terms, x))
    return (weight * gain).sum(0) / (weight.sum(0) * terms.temperature) - x


def _pull_and_slope(terms: _Terms, x: Array) -> tuple[Array, Array]:
    """The pull h, and dh/dx."""
    weight, share, rest = _weights(terms, x)
    gain = terms.gain.reshape(_fit(terms, x))
    turn = (terms.first - terms.second).reshape(_fit(terms, x))
    total, up, side, both = (
        y.sum(0) for y in (weight, weight * gain, weight * turn, weight * gain * turn)
    )
    mean = up / total
    slope = (both / total - mean * (side / total)) * (share * rest) / terms.temperature - 1
    return mean / terms.temperature - x, slope


def _measure(terms: _Terms, x: Array) -> PairMeasures:
    """How good a candidate is."""
    pull, slope = _pull_and_slope(terms, x)
    share, rest = jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    reply, other = jax.nn.sigmoid(x + pull), jax.nn.sigmoid(-(x + pull))
    residual = jnp.maximum(jnp.abs(reply - share), jnp.abs(other - rest))
    return PairMeasures(residual, -slope)


def _facts(terms: _Terms, memory: Array, x: Array) -> PairFacts:
    """What derivatives of a solution depend on."""
    weight, share, rest = _weights(terms, x)
    belief = weight / weight.sum(0)
    lever = belief * (terms.gain - (belief * terms.gain).sum(0))
    log = share * terms.first + rest * terms.second
    turn = (lever * (terms.first - terms.second)).sum(0) / memory
    # Log-weights are those of the prior and of the evidence; what is ruled out has no lever.
    fit = (lever * jnp.where(lever != 0, terms.prior - log, 0.0)).sum(0) / memory
    return PairFacts(belief, lever, turn, fit)


def _polish(terms: _Terms, below: Array, above: Array, falling: Array) -> Array:
    """Root of h in a bracket, by Newton steps; bisected where they leave it or shrink slowly.

    Parameters
    ----------
    terms : the problems.
    below, above : the brackets.
    falling : whether h falls from positive to negative in them.
    """
    # The error that a Newton step leaves is quadratic in it: a small step was the last.
    small = 0.1 * math.sqrt(float(jnp.finfo(below.dtype).eps))
    tiny = 2 * float(jnp.finfo(below.dtype).eps)

    def going(state):
        trip, *_, done = state
        return (trip < _MAX_TRIPS) & ~jnp.all(done)

    def improve(state):
        trip, x, below, above, last, done = state
        pull, slope = _pull_and_slope(terms, x)
        inwards = jnp.where(falling, pull, -pull)
        below, above = jnp.where(inwards >= 0, x, below), jnp.where(inwards <= 0, x, above)
        newton = -pull / jnp.where(slope != 0, slope, 1.0)
        new = x + newton
        middle = below + 0.5 * (above - below)
        good = (new >= below) & (new <= above) & (2 * jnp.abs(newton) <= jnp.abs(last))
        new = jnp.where(good, new, middle)
        step = new - x
        # What is done waits for the others, and rounding moves it no more.
        x = jnp.where(done, x, new)
        done |= jnp.abs(step) <= jnp.where(good, small, tiny) * (1 + jnp.abs(x))
        return trip + 1, x, below, above, step, done

    middle, width = below + 0.5 * (above - below), above - below
    state = 0, middle, below, above, width, ~(width > 0)
    return lax.while_loop(going, improve, state)[1]
