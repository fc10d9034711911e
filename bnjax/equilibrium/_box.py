"""Minimise a smooth function over a box from a grid of starts, to the last digits.

The value of a function is flat at its minimum and tells only half the digits of where that
is; the first-order condition tells all of them. Trips are fixed, so that under `vmap` no
element waits for another.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Function = Callable[[Array], tuple[Array, Array]]

_TRIPS_ONE_DIMENSION = 10
_TRIPS = 20
_STEP_LENGTHS = (1.0, 0.5, 0.2, 0.05, 0.005)


def minimise(
    function: Function,
    nodes: Float[Array, "nodes parameters"],
    lower: Float[Array, " parameters"],
    upper: Float[Array, " parameters"],
    values: Float[Array, " nodes"] | None = None,
) -> Float[Array, " parameters"]:
    """Return the minimiser in the box that is nearest to the best node.

    Parameters
    ----------
    function : point [D] -> (value, whether the value is infinite).
    nodes : [G, D] starts; for D = 1 in increasing order.
    lower, upper : [D] bounds.
    values : [G] the function at the nodes (``inf`` allowed), where they are known already.
    """
    if values is None:
        finite, infinite = jax.vmap(function)(nodes)
        values = jnp.where(infinite, jnp.inf, finite)
    best = jnp.argmin(values)
    if nodes.shape[1] == 1:
        left = nodes[jnp.maximum(best - 1, 0), 0]
        right = nodes[jnp.minimum(best + 1, nodes.shape[0] - 1), 0]
        return _one_dimension(function, nodes[best, 0], left, right, lower[0], upper[0])[None]
    return _projected_newton(function, nodes[best], lower, upper)


def _one_dimension(function: Function, start, left, right, lower, upper) -> Float[Array, ""]:
    """Find where the slope changes sign between two neighbours of the best node."""

    def slope(x):
        return jax.grad(lambda y: function(y[None])[0])(x)

    curvature = jax.grad(slope)

    def trip(_, state):
        x, lo, hi = state
        g, h = slope(x), curvature(x)
        lo, hi = jnp.where(g <= 0, x, lo), jnp.where(g >= 0, x, hi)
        newton = x - g / jnp.where(h > 0, h, 1.0)
        inside = (h > 0) & (newton >= lo) & (newton <= hi)
        return jnp.where(inside, newton, 0.5 * (lo + hi)), lo, hi

    # A start on the bound would spend its first trips there.
    inner = jnp.clip(start, left + 0.25 * (right - left), right - 0.25 * (right - left))
    x, _, _ = jax.lax.fori_loop(0, _TRIPS_ONE_DIMENSION, trip, (inner, left, right))
    for bound, sign in ((lower, 1.0), (upper, -1.0)):
        infinite = function(bound[None])[1]
        outwards = (sign * slope(bound) >= 0) & ~infinite
        touches = (left <= bound) & (bound <= right)
        x = jnp.where(touches & outwards & _no_better(function, x, bound), bound, x)
    return x


def _no_better(function: Function, x, bound):
    """Whether an interior point is no real improvement on a bound that passes the test too."""
    value, infinite = function(x[None])
    at_bound, _ = function(bound[None])
    slack = 8 * jnp.finfo(value.dtype).eps * (1 + jnp.abs(at_bound))
    return infinite | (value >= at_bound - slack)


def _projected_newton(function: Function, start, lower, upper) -> Float[Array, " parameters"]:
    """Newton steps on the coordinates that are not held at a bound."""
    dimension = start.shape[0]
    width = upper - lower
    scale = jnp.where(width > 0, width, 1.0)

    def value(x):
        finite, infinite = function(x)
        return jnp.where(infinite, jnp.inf, finite)

    def scaled(z):  # coordinates in units of the box, so that no unit matters
        return function(lower + z * scale)[0]

    gradient, hessian = jax.grad(scaled), jax.hessian(scaled)
    top = jnp.where(width > 0, 1.0, 0.0)

    def direction(z):
        g, h = gradient(z), hessian(z)
        held = ((z <= 0) & (g > 0)) | ((z >= top) & (g < 0)) | (width <= 0)
        free = ~held
        h = jnp.where(free[:, None] & free[None], h, jnp.where(jnp.eye(dimension) > 0, 1.0, 0.0))
        size = jnp.max(jnp.abs(jnp.where(jnp.eye(dimension) > 0, h, 0.0)))
        tiny = 16 * jnp.finfo(h.dtype).eps * jnp.maximum(size, 1e-30)
        g = jnp.where(free, g, 0.0)
        newton = -_solve_small(h + tiny * jnp.eye(dimension, dtype=h.dtype), g)
        steep = -g / jnp.maximum(jnp.max(jnp.abs(g)), 1e-30)
        downhill = (jnp.sum(newton * g) < 0) & jnp.all(jnp.isfinite(newton))
        return jnp.where(free, jnp.where(downhill, newton, steep), 0.0), jnp.max(jnp.abs(g))

    lengths = jnp.asarray(_STEP_LENGTHS, start.dtype)

    def trip(_, z):
        step, slope = direction(z)
        trials = jnp.clip(z + lengths[:, None] * step, 0.0, top)
        values = jax.vmap(lambda t: value(lower + t * scale))(trials)
        now = value(lower + z * scale)
        best = trials[jnp.argmin(values)]
        better = values.min() < now
        # Where values no longer tell points apart, the first-order condition still does.
        full = trials[0]
        noise = 32 * jnp.finfo(now.dtype).eps * (1 + jnp.abs(now))
        flatter = (direction(full)[1] < slope) & (values[0] <= now + noise)
        return jnp.where(flatter, full, jnp.where(better, best, z))

    z = jax.lax.fori_loop(0, _TRIPS, trip, (start - lower) / scale)
    return jnp.clip(lower + z * scale, lower, upper)


def _solve_small(matrix: Float[Array, "n n"], vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solve a small symmetric system; two by two in closed form, because LAPACK calls add up."""
    if vector.shape[0] == 2:
        (a, b), (c, d) = matrix
        det = a * d - b * c
        x = jnp.stack([d * vector[0] - b * vector[1], a * vector[1] - c * vector[0]])
        return x / jnp.where(det != 0, det, jnp.nan)
    return jnp.linalg.solve(matrix, vector)
