"""Minimise a smooth function over a box from a grid of starts, to the last digits.

The value of a function is flat at its minimum and tells only half the digits of where that
is; the first-order condition tells all of them. Whether a search arrived is part of the answer,
by what Newton's decrement says of how much lower the function may still be. Derivatives come from
the implicit function theorem and see nothing of the search.

A divergence often has a pole where a model rules out what happens, and its slope changes by
orders of magnitude on the way to a best fit beside that pole. The slope times the distances
to the bounds has the same zeros inside the box and no such pole (between two Bernoulli
distributions it is a straight line), so that Newton steps are taken on both in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._numerics import sum_last
from ._tolerance import rounding_of

Function = Callable[[Array], tuple[Array, Array]]

# In double and single precision: fixed, so that under `vmap` no element waits for another.
_TRIPS = (12, 8)
# In more dimensions a valley may be long and curved: as many as it takes, and then two more in
# which nothing but the first-order condition tells points apart.
_MOST_TRIPS, _LEVEL_TRIPS = 200, 2


class Minimum(NamedTuple):
    """A minimiser, and how far from one it may still be.

    ``point`` [D]; ``following`` [D] the point to which one more step would go, which is at
    the same place up to rounding where the search has converged; ``value`` at the point, inf
    where it is infinite; ``converged`` whether one more step could gain no more than rounding.
    """

    point: Float[Array, " parameters"]
    following: Float[Array, " parameters"]
    value: Float[Array, ""]
    converged: Bool[Array, ""]


def minimise(
    function: Function,
    nodes: Float[Array, "nodes parameters"],
    lower: Float[Array, " parameters"],
    upper: Float[Array, " parameters"],
    values: Float[Array, " nodes"] | None = None,
) -> Minimum:
    """Return the minimiser in the box that is nearest to the best node.

    Parameters
    ----------
    function : point [D] -> (value, whether the value is infinite).
    nodes : [G, D] starts; for D = 1 evenly spaced from bound to bound.
    lower, upper : [D] bounds.
    values : [G] the function at the nodes (``inf`` allowed), where they are known already.
    """
    if values is None:
        values = values_of(function, nodes)
    search = search_in_box(function, nodes, lower, upper)
    return search.settle(search.from_node(jnp.argmin(values)))


def values_of(
    function: Function, points: Float[Array, "points parameters"]
) -> Float[Array, " points"]:
    """Values at points [n, D], inf where they are infinite."""
    finite, infinite = jax.vmap(function)(points)
    return jnp.where(infinite, jnp.inf, finite)


def search_in_box(
    function: Function,
    nodes: Float[Array, "nodes parameters"],
    lower: Float[Array, " parameters"],
    upper: Float[Array, " parameters"],
) -> Search:
    """Local searches for minima of a function over a box, each from a node; see `minimise`.

    ``from_node`` finds a local minimum, in coordinates of its own and without derivatives;
    ``value`` is the function there, ``at`` the point of the box, and ``settle`` the same with its
    derivatives and how far it may still be from a minimum.
    """
    if nodes.shape[1] == 1:
        return _OneDimension(function, nodes.shape[0], lower[0], upper[0])
    return _ProjectedNewton(function, nodes, lower, upper)


class _OneDimension:
    """Find where the slope changes sign between the neighbours of a node."""

    def __init__(self, function: Function, num_nodes: int, lower: Array, upper: Array):
        self.function, self.lower, self.upper = function, lower, upper
        self.num_nodes = num_nodes

        def slope(x):
            return jax.jvp(lambda y: function(y[None])[0], (x,), (jnp.ones_like(x),))[1]

        @jax.jit  # traced once
        def slope_and_curvature(x):
            return jax.jvp(slope, (x,), (jnp.ones_like(x),))

        self.slope, self.slope_and_curvature = slope, slope_and_curvature

    def node(self, k: Array) -> Array:
        inside = self.lower + k.astype(self.lower.dtype) / (self.num_nodes - 1) * (
            self.upper - self.lower
        )
        end = jnp.where(k <= 0, self.lower, self.upper)
        return jnp.where((k <= 0) | (k >= self.num_nodes - 1), end, inside)

    def at(self, z: Float[Array, "1"]) -> Float[Array, "1"]:
        return z

    def value(self, z: Float[Array, "1"]) -> Float[Array, ""]:
        finite, infinite = self.function(z)
        return jnp.where(infinite, jnp.inf, finite)

    def from_node(self, start: Int[Array, ""]) -> Float[Array, "1"]:
        lower, upper = self.lower, self.upper

        def trip(k, state):
            x, lo, hi = state
            g, h = self.slope_and_curvature(x)
            lo, hi = jnp.where(g <= 0, x, lo), jnp.where(g >= 0, x, hi)
            # Newton's step on g, or on g times the distances to the bounds.
            room = (x - lower) * (upper - x)
            turn = h * room + g * (lower + upper - 2 * x)
            even = k % 2 == 0
            rise, run = jnp.where(even, g * room, g), jnp.where(even, turn, h)
            newton = x - rise / jnp.where(run > 0, run, 1.0)
            inside = (run > 0) & (newton >= lo) & (newton <= hi) & ((room > 0) | ~even)
            # On a bound with the slope outwards, both ends are at the bound and so is x.
            return jnp.where(inside, newton, 0.5 * (lo + hi)), lo, hi

        bracket = self.node(start), self.node(start - 1), self.node(start + 1)
        trips = _TRIPS[0 if jnp.finfo(lower.dtype).eps < 1e-10 else 1]
        return lax.stop_gradient(lax.fori_loop(0, trips, trip, bracket)[0][None])

    def settle(self, point: Float[Array, "1"]) -> Minimum:
        lower, upper = self.lower, self.upper

        def divide(linear, y):
            h = linear(jnp.ones_like(y))
            return jnp.where(h > 0, y / jnp.where(h > 0, h, 1.0), 0.0)

        x = lax.custom_root(self.slope, point[0], lambda _, start: start, divide)
        # Here it moves with the bound, and not as the slope would have it.
        x = jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))
        g, h = lax.stop_gradient(self.slope_and_curvature(x))
        step = jnp.where(h > 0, -g / jnp.where(h > 0, h, 1.0), -jnp.sign(g) * (upper - lower))
        following = jnp.clip(x + step, lower, upper)
        value = self.value(x[None])
        gain = 0.5 * jnp.abs(g * (following - x))
        rest = (following[None], value, gain <= rounding_of(value))
        return Minimum(x[None], *lax.stop_gradient(rest))


class _ProjectedNewton:
    """Newton steps on the coordinates that are not held at a bound."""

    def __init__(self, function: Function, nodes: Array, lower: Array, upper: Array):
        self.function, self.nodes, self.lower, self.upper = function, nodes, lower, upper
        self.width = upper - lower
        self.top = jnp.where(self.width > 0, 1.0, 0.0)
        # From inside: on a bound that is a kink of a chart, the slope is not that of this side.
        inside = 8 * float(jnp.finfo(nodes.dtype).eps)

        def slope(z):
            inwards = lax.stop_gradient(jnp.clip(z, inside, 1 - inside) - z)
            return jax.grad(lambda z: function(self.at(z))[0])(z + inwards)

        @jax.jit  # traced once
        def slope_and_curvature(z):
            along = jax.vmap(lambda e: jax.jvp(slope, (z,), (e,)), out_axes=(None, 0))
            return along(jnp.eye(z.shape[0], dtype=z.dtype))

        self.slope_and_curvature = slope_and_curvature

    def at(self, z: Array) -> Array:
        """A point, from units of the box, so that no unit matters; both bounds exactly."""
        return (1 - z) * self.lower + z * self.upper

    def value(self, z: Array) -> Array:
        finite, infinite = self.function(self.at(z))
        return jnp.where(infinite, jnp.inf, finite)

    def free_of(self, z: Array, g: Array) -> Array:
        """Coordinates that are not held at a bound."""
        held = ((z <= 0) & (g > 0)) | ((z >= self.top) & (g < 0)) | (self.width <= 0)
        return ~held

    def newton(self, g: Array, h: Array, free: Array) -> Array:
        """Newton's step on the free coordinates, or down each slope where it leads uphill."""
        step = -_solve_free(h, g, free)
        curvature = jnp.abs(jnp.diagonal(h))
        steep = jnp.clip(-g / jnp.where(curvature > 0, curvature, 1.0), -1.0, 1.0)
        steep = jnp.where(free, jnp.where(curvature > 0, steep, -jnp.sign(g)), 0.0)
        downhill = (jnp.sum(jnp.where(free, step * g, 0.0)) < 0) & jnp.all(jnp.isfinite(step))
        return jnp.where(downhill, step, steep)

    def bent(self, z: Array, g: Array, h: Array, free: Array, step: Array, share=0.0) -> Array:
        """Where the step leads when what it drives to a bound stays there and the rest adjusts.

        A share of the distance to the bounds can be kept, for the bound may be a pole.
        """
        target = jnp.clip(z + step, share * z, self.top - share * (self.top - z))
        stopped = target != z + step
        shift = jnp.where(stopped, target - z, 0.0)
        rest = self.newton(g + jnp.sum(h * shift, -1), h, free & ~stopped)
        return jnp.clip(jnp.where(stopped, target, z + rest), 0.0, self.top)

    def from_node(self, start: Int[Array, ""]) -> Float[Array, " parameters"]:
        top = self.top

        def trip(state):
            k, z, level, share = state
            g, h = self.slope_and_curvature(z)
            free = self.free_of(z, g)
            plain = self.newton(g, h, free)
            room = z * (1 - z)
            tilt = jnp.where(room > 0, g * (1 - 2 * z) / jnp.where(room > 0, room, 1.0), 0.0)
            poles = self.newton(g, h + jnp.diag(tilt), free)
            # Each coordinate for itself: beside a pole all of them together may be no good.
            alone = jnp.abs(jnp.diagonal(h) + tilt)
            alone = jnp.where(free & (alone > 0), -g / jnp.where(alone > 0, alone, 1.0), 0.0)
            step = jnp.where(k % 2 == 0, poles, plain)
            # Along a valley and no longer than the box, hence not clipped before it is shortened.
            ahead = share * step / jnp.maximum(1.0, jnp.max(jnp.abs(step)))
            trials = jnp.stack(
                [
                    z,
                    self.bent(z, g, h, free, step),
                    self.bent(z, g, h, free, step, 0.01),
                    jnp.clip(z + jnp.where(k % 2 == 0, plain, poles), 0.0, top),
                    jnp.clip(z + 2 * ahead, 0.0, top),
                    jnp.clip(z + 0.5 * ahead, 0.0, top),
                    jnp.clip(z + alone, 0.01 * z, top - 0.01 * (top - z)),
                ]
            )
            values = jax.vmap(self.value)(trials)
            noise = rounding_of(values[0])
            best = jnp.argmin(values)
            # Where values no longer tell points apart, the first-order condition still does.
            flat = (values[best] >= values[0] - noise) & (values[1] <= values[0] + noise)
            # As far as the curve of a valley allows, which is much the same from trip to trip.
            longer, shorter = values[4] < values[0], values[5] < values[0]
            factor = jnp.where(longer, 2.0, jnp.where(shorter, 1.0, 0.5))
            share = jnp.clip(factor * share, 1e-4, 0.25)
            level = jnp.where(flat, level + 1, 0)
            return k + 1, trials[jnp.where(flat, 1, best)], level, share

        def goes_on(state):
            return (state[0] < _MOST_TRIPS) & (state[2] < _LEVEL_TRIPS)

        begin = (self.nodes[start] - self.lower) / jnp.where(self.width > 0, self.width, 1.0)
        none = jnp.zeros((), jnp.int32)
        share = jnp.asarray(0.1, begin.dtype)
        end = lax.while_loop(goes_on, trip, (none, jnp.clip(begin, 0.0, top), none, share))
        return lax.stop_gradient(end[1])

    def settle(self, z: Float[Array, " parameters"]) -> Minimum:
        # How z moves is a matter of the first-order condition, not of the search for it.
        g, h = self.slope_and_curvature(z)
        now, h = lax.stop_gradient((g, h))
        free = self.free_of(z, now)
        drift = _solve_free(h, g - now, free)
        step = self.newton(now, h, free)
        following = self.bent(z, now, h, free, step)
        gain = 0.5 * jnp.abs(sum_last(jnp.where(free, now * step, 0.0)))
        z = z - jnp.where(jnp.isfinite(drift).all(), drift, 0.0)
        point = jnp.clip(self.at(z), self.lower, self.upper)
        value = self.value(z)
        rest = (self.at(following), value, gain <= rounding_of(value))
        return Minimum(point, *lax.stop_gradient(rest))


Search = _OneDimension | _ProjectedNewton


def _solve_free(
    matrix: Float[Array, "n n"], vector: Float[Array, " n"], free: Bool[Array, " n"]
) -> Float[Array, " n"]:
    """Solve a small symmetric system on the free coordinates; zero on the others.

    Scaled to a unit diagonal, so that it does not matter how much less the data tell of one
    coordinate than of another. Two by two in closed form, because LAPACK calls add up.
    """
    num = vector.shape[0]
    size = jnp.abs(jnp.diagonal(matrix))
    scale = lax.rsqrt(jnp.where(free & (size > 0), size, 1.0))
    both = free[:, None] & free[None]
    matrix = jnp.where(both, matrix * scale[:, None] * scale[None], 0.0)
    small = 16 * float(jnp.finfo(vector.dtype).eps)
    matrix = matrix + jnp.diag(jnp.where(free, small, 1.0))
    vector = jnp.where(free, vector * scale, 0.0)
    if num != 2:
        return scale * jnp.linalg.solve(matrix, vector)
    (a, b), (c, d) = matrix
    det = a * d - b * c
    x = jnp.stack([d * vector[0] - b * vector[1], a * vector[1] - c * vector[0]])
    return scale * x / jnp.where(det != 0, det, jnp.nan)
