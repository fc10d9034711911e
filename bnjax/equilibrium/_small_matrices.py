"""Small linear systems, many at once: [n, n, lanes]."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def multiply(
    left: Float[Array, "n k *lanes"], right: Float[Array, "k m *lanes"]
) -> Float[Array, "n m *lanes"]:
    """Product of matrices."""
    return (left[:, :, None] * right).sum(1)


def solve(
    matrix: Float[Array, "n n *lanes"], right: Float[Array, "n k *lanes"]
) -> Float[Array, "n k *lanes"]:
    """Solutions of linear systems, by elimination with partial pivoting."""
    num = matrix.shape[0]
    both = jnp.concatenate([matrix, right], axis=1)
    index = jnp.arange(num).reshape(num, *(1,) * (both.ndim - 2))

    def eliminate(k, both):
        size = jnp.where(index >= k, jnp.abs(both[:, k]), -1.0)
        chosen = jnp.argmax(size, axis=0)
        row = jnp.where((index == chosen)[:, None], both, 0.0).sum(0)
        row = row / row[k]
        rest = jnp.where((index == chosen)[:, None], both[k], both)
        rest = rest - rest[:, k, None] * row
        return jnp.where((index == k)[:, None], row, rest)

    return lax.fori_loop(0, num, eliminate, both)[:, num:]
