"""Where a function of one variable may be least, by its values and slopes at even nodes.

Between two nodes where the slope turns from down to up there is a local minimum. It lies no lower
than where the two tangents meet: that is certain where the function is convex between the nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Basins(NamedTuple):
    """Whether a local minimum lies between two neighbouring nodes, and how low it may lie."""

    real: Bool[Array, " intervals"]
    bound: Float[Array, " intervals"]


def basins_between(
    values: Float[Array, " nodes"],
    slopes: Float[Array, " nodes"],
    infinite: Bool[Array, " nodes"],
    spacing: Float[Array, ""],
) -> Basins:
    """Find the local minima between nodes.

    Parameters
    ----------
    values, slopes : of the function at the nodes.
    infinite : where it is infinite, whatever its value.
    spacing : between neighbouring nodes.
    """
    wall_left, wall_right = infinite[:-1], infinite[1:]
    low, high = values[:-1], values[1:]
    left, right = jnp.minimum(slopes[:-1], 0.0), jnp.maximum(slopes[1:], 0.0)
    real = ((slopes[:-1] <= 0) | wall_left) & ((slopes[1:] >= 0) | wall_right)
    turn = right - left
    safe = jnp.where(turn > 0, turn, 1.0)
    meet = jnp.clip((low - high + right * spacing) / safe, 0.0, spacing)
    bound = jnp.where(turn > 0, low + left * meet, jnp.minimum(low, high))
    # Beside a wall only one tangent is left, and what it says.
    from_left, from_right = low + left * spacing, high - right * spacing
    bound = jnp.where(wall_right, from_left, jnp.where(wall_left, from_right, bound))
    return Basins(real & ~(wall_left & wall_right), bound)


def deepest(values: Float[Array, " nodes"], basins: Basins) -> Int[Array, "2"]:
    """Nodes beside the two basins that may be deepest; the best node where there are not two."""
    bounds = jnp.where(basins.real, basins.bound, jnp.inf)
    first = jnp.argmin(bounds)
    second = jnp.argmin(bounds.at[first].set(jnp.inf))
    k = jnp.stack([first, second])
    beside = k + (values[k + 1] < values[k]).astype(k.dtype)
    return jnp.where(basins.real[k], beside, jnp.argmin(values))
