"""Minimise a smooth function over a box from a grid of starts, to the last digits.

The value of a function is flat at its minimum and tells only half the digits of where that
is; the first-order condition tells all of them. Trips are fixed, so that under `vmap` no
element waits for another; how far they came is part of the answer. Derivatives come from the
implicit function theorem and see nothing of the search.

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

from ._tolerance import rounding_of

Function = Callable[[Array], tuple[Array, Array]]

# In double and single precision.
_TRIPS_ONE_DIMENSION = (12, 8)
_TRIPS = (10, 7)


class Minimum(NamedTuple):
    """A minimiser, and how far from one it may still be.

    ``point`` [D]; ``following`` [D] the point to which one more step would go, which is at
    the same place up to rounding where the search has converged; ``value`` at the point, inf
    where it is infinite.
    """

    point: Float[Array, " parameters"]
    following: Float[Array, " parameters"]
    value: Float[Array, ""]


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


def _trips(double_single: tuple[int, int], dtype) -> int:
    return double_single[0 if jnp.finfo(dtype).eps < 1e-10 else 1]


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
        trips = _trips(_TRIPS_ONE_DIMENSION, lower.dtype)
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
        following = lax.stop_gradient(jnp.clip(x + step, lower, upper))
        return Minimum(x[None], following[None], lax.stop_gradient(self.value(x[None])))


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

        def trip(k, z):
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
            straight = jnp.clip(z + step, 0.0, top)
            trials = jnp.stack(
                [
                    z,
                    self.bent(z, g, h, free, step),
                    self.bent(z, g, h, free, step, 0.01),
                    jnp.clip(z + jnp.where(k % 2 == 0, plain, poles), 0.0, top),
                    z + 0.3 * (straight - z),
                    z + 0.03 * (straight - z),
                    jnp.clip(z + alone, 0.01 * z, top - 0.01 * (top - z)),
                ]
            )
            values = jax.vmap(self.value)(trials)
            noise = rounding_of(values[0])
            best = jnp.argmin(values)
            # Where values no longer tell points apart, the first-order condition still does.
            level = (values[best] >= values[0] - noise) & (values[1] <= values[0] + noise)
            return trials[jnp.where(level, 1, best)]

        trips = _trips(_TRIPS, self.nodes.dtype)
        begin = (self.nodes[start] - self.lower) / jnp.where(self.width > 0, self.width, 1.0)
        z = lax.fori_loop(0, trips, trip, jnp.clip(begin, 0.0, top))
        return lax.stop_gradient(z)

    def settle(self, z: Float[Array, " parameters"]) -> Minimum:
        # How z moves is a matter of the first-order condition, not of the search for it.
        g, h = self.slope_and_curvature(z)
        now, h = lax.stop_gradient((g, h))
        free = self.free_of(z, now)
        drift = _solve_free(h, g - now, free)
        following = self.bent(z, now, h, free, self.newton(now, h, free))
        z = z - jnp.where(jnp.isfinite(drift).all(), drift, 0.0)
        point = jnp.clip(self.at(z), self.lower, self.upper)
        value = lax.stop_gradient(self.value(z))
        return Minimum(point, lax.stop_gradient(self.at(following)), value)


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
