"""Work on many cells at once with cells along the fast dimension.

`jax.vmap` puts cells first, so that every reduction over models runs along the fast dimension,
and makes all cells wait for the slowest. With models first and a block of cells in the vector
lanes, the same work is several times faster on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Numbers in a block of lanes on a CPU: enough that starting a kernel costs nothing next to
# running it, few enough that they stay in the cache and that few lanes wait for the slowest.
_BLOCK_SIZE = 67_000


def in_lanes(function: Callable[..., Any], args: Any, num_models: int) -> Any:
    """Apply a function of arrays [..., lanes] to arrays without that last dimension.

    `vmap` of the call adds lanes, and nothing else. What `vmap` does not batch keeps one lane,
    which the function must broadcast.

    Parameters
    ----------
    function : pytrees of arrays [..., lanes or 1] -> pytree of arrays [..., lanes].
    args : what it is applied to, a tuple of pytrees of arrays.
    num_models : how many numbers of a lane a pass goes through; says how many lanes are best.

    Returns
    -------
    pytree
        Not differentiable.
    """
    leaves, structure = jax.tree.flatten(args)

    @jax.custom_batching.custom_vmap
    def call(*leaves):
        return function(*jax.tree.unflatten(structure, leaves))

    @call.def_vmap
    def rule(axis_size, in_batched, *leaves):
        lanes = max(leaf.shape[-1] for leaf in leaves)

        def cells_first(leaf, batched):
            if not batched and leaf.shape[-1] == 1:
                return None  # the same for all cells
            if not batched:
                leaf = jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            leaf = jnp.broadcast_to(leaf, (*leaf.shape[:-1], lanes))
            return jnp.moveaxis(leaf, -1, 1).reshape(axis_size * lanes, *leaf.shape[1:-1])

        def block(cells):
            both = zip(leaves, cells, strict=True)
            merged = [leaf if own is None else jnp.moveaxis(own, 0, -1) for leaf, own in both]
            large = [i for i, own in enumerate(cells) if own is not None and own.ndim > 2]
            for i, leaf in zip(large, kept(lambda *x: x, *(merged[i] for i in large)), strict=True):
                merged[i] = leaf
            return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), call(*merged))

        cells = [cells_first(*pair) for pair in zip(leaves, in_batched, strict=True)]
        result = _in_blocks(block, cells, axis_size * lanes, num_models)
        split = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(axis_size, lanes, *x.shape[1:]), 1, -1), result
        )
        return split, jax.tree.map(lambda _: True, split)

    result = call(*(lax.stop_gradient(leaf)[..., None] for leaf in leaves))
    return jax.tree.map(lambda x: x[..., 0], result)


def kept(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function once and keep its results in memory.

    XLA on a CPU would compute them anew in every kernel that reads them, logarithms included,
    and seldom in vectorised form. A loop that it cannot unroll keeps them apart (barriers are
    gone by the time that it forms its kernels).
    """
    if jax.default_backend() != "cpu":
        return function(*args)
    number = sum(leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(args))
    once = jnp.where(number == number, 1, 2)  # not known before the numbers are; twice if NaN
    shapes = jax.eval_shape(function, *args)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, once, lambda _, __: function(*args), start)


def block_lanes(numbers: int) -> int:
    """How many cells with this many numbers each are best worked on together on a CPU."""
    return max(16, min(1024, 1 << max(0, (_BLOCK_SIZE // numbers).bit_length() - 1)))


def _in_blocks(function: Callable[[Any], Any], cells: Any, num_cells: int, num_models: int) -> Any:
    """Apply a function of arrays [cells, ...] to one block after the other, on a CPU."""
    # What differs between cells is read once, and what is computed from it many times.
    given = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(cells))
    size = block_lanes(num_models + given // 2)
    if num_cells <= size or jax.default_backend() != "cpu":
        return function(cells)
    blocks = -(-num_cells // size)

    def split(leaf):
        padding = [(0, blocks * size - num_cells)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding, mode="edge").reshape(blocks, size, *leaf.shape[1:])

    result = lax.map(function, jax.tree.map(split, cells))
    return jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[:num_cells], result)
