"""Work on many cells at once with cells along the fast dimension.

`jax.vmap` puts cells first, so that every reduction over models runs along the fast dimension,
and makes all cells wait for the slowest. With models first and a block of cells in the vector
lanes, the same work is several times faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Numbers in a block of lanes on a CPU: enough lanes for the vector units, few enough that
# they stay in the cache, that few wait for the slowest, and that XLA does not split one
# pass over the models between threads, which costs more than the pass.
_BLOCK_SIZE = 16448


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
        return _in_blocks(
            lambda *block: function(*jax.tree.unflatten(structure, block)), leaves, num_models
        )

    @call.def_vmap
    def rule(axis_size, in_batched, *leaves):
        lanes = max(leaf.shape[-1] for leaf in leaves)

        def merge(leaf, batched):
            if not batched and leaf.shape[-1] == 1:
                return leaf
            if not batched:
                leaf = jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            leaf = jnp.broadcast_to(leaf, (*leaf.shape[:-1], lanes))
            return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], axis_size * lanes)

        merged = [merge(leaf, batched) for leaf, batched in zip(leaves, in_batched, strict=True)]
        large = [i for i, leaf in enumerate(merged) if leaf.shape[-1] > 1 and leaf.ndim > 2]
        for i, leaf in zip(large, kept(lambda *x: x, *(merged[i] for i in large)), strict=True):
            merged[i] = leaf
        result = call(*merged)
        if not any(in_batched):
            axis_size = 1
        split = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], axis_size, lanes), -2, 0), result
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
    number = sum(leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(args))
    once = jnp.where(number == number, 1, 2)  # not known before the numbers are; twice if NaN
    shapes = jax.eval_shape(function, *args)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, once, lambda _, __: function(*args), start)


def block_lanes(num_models: int) -> int:
    """How many cells with this many models are best worked on together on a CPU."""
    return max(16, min(256, 1 << (_BLOCK_SIZE // num_models).bit_length() - 1))


def _in_blocks(function: Callable[..., Any], leaves: tuple[Any, ...], num_models: int) -> Any:
    """Apply a function of [..., lanes] arrays to blocks of lanes, one after the other, on a CPU."""
    lanes = max(leaf.shape[-1] for leaf in leaves)
    size = block_lanes(num_models)
    if lanes <= size or jax.default_backend() != "cpu":
        return function(*leaves)
    blocks = -(-lanes // size)

    def split(leaf):
        if leaf.shape[-1] == 1:
            return None
        padding = [(0, 0)] * (leaf.ndim - 1) + [(0, blocks * size - lanes)]
        padded = jnp.pad(leaf, padding, mode="edge")
        return jnp.moveaxis(padded.reshape(*leaf.shape[:-1], blocks, size), -2, 0)

    mapped = [split(leaf) for leaf in leaves]

    def one(parts):
        return function(
            *(leaf if part is None else part for leaf, part in zip(leaves, parts, strict=True))
        )

    result = lax.map(one, mapped)
    return jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], blocks * size)[..., :lanes], result
    )
