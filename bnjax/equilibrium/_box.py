"""Minimise a smooth function over a box from a grid of starts, to the last digits.

The value of a function is flat at its minimum and tells only half the digits of where that
is; the first-order condition tells all of them. Trips are fixed, so that under `vmap` no
element waits for another. Derivatives come from the implicit function theorem and see
nothing of the search.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Function = Callable[[Array], tuple[Array, Array]]

_TRIPS_ONE_DIMENSION = 11
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
    nodes : [G, D] starts; for D = 1 evenly spaced from bound to bound.
    lower, upper : [D] bounds.
    values : [G] the function at the nodes (``inf`` allowed), where they are known already.
    """
    if values is None:
        finite, infinite = jax.vmap(function)(nodes)
        values = jnp.where(infinite, jnp.inf, finite)
    best = jnp.argmin(values)
    if nodes.shape[1] == 1:
        return _one_dimension(function, best, nodes.shape[0], lower[0], upper[0])[None]
    return _projected_newton(function, nodes[best], lower, upper)


def _one_dimension(function: Function, best, num_nodes: int, lower, upper) -> Float[Array, ""]:
    """Find where the slope changes sign between the neighbours of the best node."""

    def slope(x):
        return jax.jvp(lambda y: function(y[None])[0], (x,), (jnp.ones_like(x),))[1]

    @jax.jit  # traced once
    def slope_and_curvature(x):
        return jax.jvp(slope, (x,), (jnp.ones_like(x),))

    def node(k):
        inside = lower + k.astype(lower.dtype) / (num_nodes - 1) * (upper - lower)
        return jnp.where(k <= 0, lower, jnp.where(k >= num_nodes - 1, upper, inside))

    def trip(_, state):
        x, lo, hi = state
        g, h = slope_and_curvature(x)
        lo, hi = jnp.where(g <= 0, x, lo), jnp.where(g >= 0, x, hi)
        newton = x - g / jnp.where(h > 0, h, 1.0)
        inside = (h > 0) & (newton >= lo) & (newton <= hi)
        # On a bound with the slope outwards, both ends are at the bound and so is x.
        return jnp.where(inside, newton, 0.5 * (lo + hi)), lo, hi

    def search(_, start):
        bracket = start, node(best - 1), node(best + 1)
        return lax.fori_loop(0, _TRIPS_ONE_DIMENSION, trip, bracket)[0]

    def divide(linear, y):
        h = linear(jnp.ones_like(y))
        return jnp.where(h > 0, y / jnp.where(h > 0, h, 1.0), 0.0)

    x = lax.custom_root(slope, node(best), search, divide)
    # Here it moves with the bound, and not as the slope would have it.
    return jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))


def _projected_newton(function: Function, start, lower, upper) -> Float[Array, " parameters"]:
    """Newton steps on the coordinates that are not held at a bound."""
    dimension = start.shape[0]
    width = upper - lower
    scale = jnp.where(width > 0, width, 1.0)
    identity = jnp.eye(dimension, dtype=start.dtype)

    def value(x):
        finite, infinite = function(x)
        return jnp.where(infinite, jnp.inf, finite)

    def scaled(z):  # coordinates in units of the box, so that no unit matters
        return function(lower + z * scale)[0]

    gradient, hessian = jax.grad(scaled), jax.hessian(scaled)
    top = jnp.where(width > 0, 1.0, 0.0)

    def free_part(z):
        """Slope and curvature along the coordinates that no bound holds, and which these are."""
        g, h = gradient(z), hessian(z)
        held = ((z <= 0) & (g > 0)) | ((z >= top) & (g < 0)) | (width <= 0)
        free = ~held
        h = jnp.where(free[:, None] & free[None], h, identity)
        size = jnp.max(jnp.abs(jnp.diagonal(h)))
        tiny = 16 * jnp.finfo(h.dtype).eps * jnp.maximum(size, 1e-30)
        return jnp.where(free, g, 0.0), h + tiny * identity, free

    def direction(z):
        g, h, free = free_part(z)
        newton = -_solve_small(h, g)
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

    z = lax.stop_gradient(lax.fori_loop(0, _TRIPS, trip, (start - lower) / scale))
    # How z moves is a matter of the first-order condition, not of the search for it.
    g, h, free = free_part(z)
    drift = _solve_small(lax.stop_gradient(h), g - lax.stop_gradient(g))
    z = z - jnp.where(free & jnp.all(jnp.isfinite(drift)), drift, 0.0)
    return jnp.clip(lower + z * scale, lower, upper)


def _solve_small(matrix: Float[Array, "n n"], vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solve a small symmetric system; two by two in closed form, because LAPACK calls add up."""
    if vector.shape[0] == 2:
        (a, b), (c, d) = matrix
        det = a * d - b * c
        x = jnp.stack([d * vector[0] - b * vector[1], a * vector[1] - c * vector[0]])
        return x / jnp.where(det != 0, det, jnp.nan)
    return jnp.linalg.solve(matrix, vector)
