"""Random numbers by counter: step t of agent i takes words of its own, whoever else there is.

An agent's stream is Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"; 20 rounds, as in JAX) under the agent's key, at the counters 0, 1, 2, ... Written out
here because `jax.random` hashes three times for what one hash gives, and in loops that XLA's CPU
backend does not vectorise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, UInt32

from .._check import is_typed_key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(
    key: tuple[UInt32[Array, "*#batch"], UInt32[Array, "*#batch"]],
    counter: tuple[UInt32[Array, "*#batch"], UInt32[Array, "*#batch"]],
) -> tuple[UInt32[Array, "*batch"], UInt32[Array, "*batch"]]:
    """Threefry-2x32 with 20 rounds: two words from two words of key and two of counter."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first = first + second
            second = (second << rotation) | (second >> (32 - rotation))
            second = second ^ first
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + (group + 1)
    return first, second


def key_words(key: Array) -> UInt32[Array, "2"]:
    """The two words of an agent's key: random bits of it, the same however JAX draws its own."""
    if not _is_threefry(key):
        return jax.random.bits(key, (2,), jnp.uint32)
    return _two_words(*_key_data(key))


def agent_keys(key: Array, agents: Int[Array, " agents"]) -> UInt32[Array, "2 agents"]:
    """Two words of key for each agent, from its number.

    `key_words` of `jax.random.fold_in`, for JAX's default keys, in a twentieth of its time on a
    CPU. Two words of a key of another kind are taken for one of these: what such kinds give to one
    agent might depend on the others who are asked about with it.
    """
    start = _key_data(key) if _is_threefry(key) else key_words(key)
    zero = jnp.zeros(agents.shape, jnp.uint32)
    folded = threefry((start[0], start[1]), (zero, agents.astype(jnp.uint32)))
    # Both in one kernel, 40 rounds, are more than the compiler of JAX 0.12 gets done with.
    return _two_words(*lax.optimization_barrier(folded))


def _is_threefry(key: Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _key_data(key: Array) -> UInt32[Array, "2"]:
    return jax.random.key_data(key) if is_typed_key(key) else key


def _two_words(
    first: UInt32[Array, "*batch"], second: UInt32[Array, "*batch"]
) -> UInt32[Array, "2 *batch"]:
    """What `jax.random.bits` draws from a key, if it is set to draw in parallel (the default)."""
    zero = jnp.zeros_like(first)
    pairs = (threefry((first, second), (zero, zero + word)) for word in range(2))
    return jnp.stack([a ^ b for a, b in pairs])


def words(
    key: UInt32[Array, "2 *batch"], start: Int[Array, "*#batch"], num: int
) -> UInt32[Array, "num 2 *batch"]:
    """Two words for each of the steps ``start``, ..., ``start + num - 1`` of a stream.

    Parameters
    ----------
    key : the two words of an agent's key; many agents along trailing dimensions.
    start : first step, of all or of each.
    num : how many steps.
    """
    steps = jnp.arange(num, dtype=jnp.uint32).reshape(-1, *(1,) * (key.ndim - 1))
    counters = start.astype(jnp.uint32) + steps
    pair = threefry((key[0], key[1]), (counters, jnp.zeros_like(counters)))
    return jnp.stack(jnp.broadcast_arrays(*pair), axis=1)
