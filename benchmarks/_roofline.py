"""What this machine can do at best, of what a simulator is made of: rates of all cores.

Each is measured on arrays that stay in the cache, but for memory itself.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from bnjax._cores import tile_options
from bnjax._numerics import fast_exp
from bnjax.learning._random import threefry

_LENGTH = 2**14  # numbers of an array in the cache
_REPEATS = 200  # operations of a call
_MODELS, _LANES = 64, 256
_ROWS, _COLUMNS = 34, 512  # moments of 512 agents


def measure(seconds: float, threads: int) -> dict[str, float]:
    """Operations a second, each measured for about so many seconds.

    Parameters
    ----------
    seconds : how long each is repeated; the fastest call counts.
    threads : for NumPy.
    """
    x = jnp.linspace(0.0, 1.0, _LENGTH, dtype=jnp.float32)
    counter = jnp.arange(_LENGTH, dtype=jnp.uint32)

    def ours(pair: Any) -> Any:
        return threefry((pair[1], pair[0]), pair)

    def theirs(state: Any) -> Any:
        bits, key = state
        key = jax.random.wrap_key_data(key)
        more = jax.random.bits(key, (_LENGTH,), jnp.uint32)
        return bits ^ more, jax.random.key_data(jax.random.split(key, 1)[0])

    key = jax.random.key_data(jax.random.key(0))
    rng_state = jnp.zeros(_LENGTH, jnp.uint32), key
    rates = {
        "exponentials_per_second": _LENGTH * _jax_rate(lambda x: fast_exp(-x), x, seconds),
        "words_per_second": 2 * _LENGTH * _jax_rate(ours, (counter, counter), seconds),
        "jax_random_bits_per_second": _LENGTH * _jax_rate(theirs, rng_state, seconds),
        "weight_updates_per_second": _MODELS * _LANES * _jax_rate(*_update(), seconds),
        "multiply_adds_per_second": _ROWS * _MODELS * _COLUMNS * _jax_rate(*_product(), seconds),
    }
    array = np.linspace(-1, 0, _LENGTH, dtype=np.float32)
    rates["numpy_exponentials_per_second"] = _LENGTH * _numpy_rate(
        lambda: _exponential(array), seconds, threads
    )
    for kind in (np.random.SFC64, np.random.PCG64):
        rates[f"numpy_{kind.__name__.lower()}_per_second"] = _LENGTH * _numpy_rate(
            lambda kind=kind: _uniform(kind), seconds, threads
        )
    rates["bytes_per_second"] = _bandwidth(seconds, threads)
    if importlib.util.find_spec("numba") is not None:
        rates["numba_weight_updates_per_second"] = _numba_updates(seconds, threads)
    return rates


def _fastest(call: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of the calls that fit."""
    call()
    best, end = np.inf, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return float(best)


def _jax_rate(function: Callable[[Any], Any], carry: Any, seconds: float) -> float:
    """How often a second, on all devices together, a function is applied to its own result."""
    mesh = Mesh(np.asarray(jax.local_devices()), ("devices",))

    def repeat(carry: Any) -> Any:
        return lax.fori_loop(0, _REPEATS, lambda _, x: function(x), carry)

    everywhere = PartitionSpec()
    sharded = jax.jit(
        jax.shard_map(
            repeat, mesh=mesh, in_specs=(everywhere,), out_specs=everywhere, check_vma=False
        ),
        compiler_options=tile_options(),
    )
    best = _fastest(lambda: jax.block_until_ready(sharded(carry)), seconds)
    return _REPEATS * mesh.size / best


def _update() -> tuple[Callable[[Any], Any], Any]:
    """The inner loop: select a likelihood, multiply, and two sums over models."""
    factors = jnp.linspace(0.999, 1.0, 4 * _MODELS, dtype=jnp.float32).reshape(4, _MODELS, 1)
    signs = jnp.where(jnp.arange(_MODELS) % 3 == 0, 1.0, -1.0)
    features = jnp.stack([signs, jnp.ones(_MODELS)]).astype(jnp.float32)

    def step(carry: Any) -> Any:
        weight, code = carry
        odd, upper = (code & 1) == 1, (code & 2) == 2
        first = jnp.where(odd, factors[1], factors[0])
        second = jnp.where(odd, factors[3], factors[2])
        weight = weight * jnp.where(upper, second, first)
        means = jnp.dot(features, weight, precision=lax.Precision.HIGHEST)
        return weight, (code + (means[0] > 0)) & 3

    weight = jnp.ones((_MODELS, _LANES), jnp.float32)
    return step, (weight, jnp.arange(_LANES, dtype=jnp.int32) % 4)


def _product() -> tuple[Callable[[Any], Any], Any]:
    """A matrix product that makes moments of weights, and what it takes to repeat it."""
    rows = jnp.linspace(0.0, 1e-3, _ROWS * _MODELS, dtype=jnp.float32).reshape(_ROWS, _MODELS)

    def step(weight: Any) -> Any:
        moments = jnp.dot(rows, weight, precision=lax.Precision.HIGHEST)
        return weight.at[0].set(moments[0])

    return step, jnp.ones((_MODELS, _COLUMNS), jnp.float32)


def _numpy_rate(make: Callable[[], Callable[[], Any]], seconds: float, threads: int) -> float:
    """How often a second, on all threads together, calls are made."""
    calls = [make() for _ in range(threads)]

    def repeat(call: Callable[[], Any]) -> None:
        for _ in range(_REPEATS):
            call()

    with ThreadPoolExecutor(threads) as pool:
        best = _fastest(lambda: list(pool.map(repeat, calls)), seconds)
    return _REPEATS * threads / best


def _exponential(array: np.ndarray) -> Callable[[], Any]:
    out = np.empty_like(array)
    return lambda: np.exp(array, out=out)


def _uniform(kind: Any) -> Callable[[], Any]:
    rng, out = np.random.Generator(kind(0)), np.empty(_LENGTH, np.float32)
    return lambda: rng.random(out=out, dtype=np.float32)


def _bandwidth(seconds: float, threads: int) -> float:
    """Bytes read and written a second in copies of what does not fit in a cache of a core."""
    size = 2**23
    pairs = [(np.ones(size, np.float32), np.empty(size, np.float32)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        best = _fastest(lambda: list(pool.map(lambda p: np.copyto(p[1], p[0]), pairs)), seconds)
    return 2 * 4 * size * threads / best


def _numba_updates(seconds: float, threads: int) -> float:
    from ._numba_peer import update_rate_kernel

    factors = np.linspace(0.999, 1, 4 * _MODELS, dtype=np.float32).reshape(4, _MODELS)
    code = (np.arange(_LANES) % 4).astype(np.int32)

    def repeat(_: int) -> None:
        weight, total = np.ones((_MODELS, _LANES), np.float32), np.zeros(_LANES, np.float32)
        update_rate_kernel(weight, code, factors, total, 10 * _REPEATS)

    with ThreadPoolExecutor(threads) as pool:
        best = _fastest(lambda: list(pool.map(repeat, range(threads))), seconds)
    return 10 * _REPEATS * _MODELS * _LANES * threads / best
