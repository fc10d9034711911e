"""Choices inside `bnjax.simulate`, each in the place of the one that was made.

Nothing here is a way to use bnjax: what a choice stands for is exchanged in its modules while it
runs, and its name is part of what its programs are compiled for, so that none takes another's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import bnjax as bn
from bnjax.learning import _blocked, _mixed, _moments, _plain, _simulate
from bnjax.learning._population import Plan

Simulator = Callable[[int], Any]
Exchange = tuple[Any, str, Any]  # a module, a name in it, and what it shall be


@dataclasses.dataclass(frozen=True)
class _Named(Plan):
    choice: str = ""


@contextlib.contextmanager
def _exchanged(*exchanges: Exchange) -> Iterator[None]:
    kept = [(module, name, getattr(module, name)) for module, name, _ in exchanges]
    try:
        for module, name, value in exchanges:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def by(engine: str, simulate: Simulator) -> Simulator:
    """By one of the simulators of bnjax, also where another would be chosen."""

    def run(seed: int) -> Any:
        with _exchanged((_simulate, "_engine", lambda *_: engine)):
            return simulate(seed)

    return run


def _with(choice: str, simulate: Simulator, *exchanges: Exchange) -> Simulator:
    """With something else in its place."""
    made = _simulate._plan

    def plan(*args: Any) -> Any:
        plain, *rest = made(*args)
        return _Named(**vars(plain), choice=choice), *rest

    def run(seed: int) -> Any:
        with _exchanged((_simulate, "_plan", plan), *exchanges):
            return simulate(seed)

    return run


def _at_most(steps: int) -> Callable[..., Any]:
    """Weights made anew that often at least."""
    between = _blocked.steps_between_refreshes

    def shorter(*args: Any) -> Any:
        longest, top = between(*args)
        return jnp.minimum(longest, steps), top

    return shorter


def _words_of_jax(key: jax.Array, start: jax.Array, num: int) -> jax.Array:
    """As `bnjax.learning._random.words`, by `jax.random.fold_in` and `jax.random.bits`."""
    keys = jax.random.wrap_key_data(key.T, impl="threefry2x32")

    def one(step: jax.Array) -> jax.Array:
        mine = jax.vmap(lambda k: jax.random.fold_in(k, step))(keys)
        return jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32), out_axes=1)(mine)

    return jax.vmap(one)(start + jnp.arange(num, dtype=jnp.int32))


def _words_of_xla(key: jax.Array, start: jax.Array, num: int) -> jax.Array:
    """By XLA's own generator (Philox), one stream for a tile: an agent has none of its own."""
    zero = jnp.uint32(0)  # a counter, which the words of a block go through from the start
    state = jnp.stack([key[0, 0], key[1, 0] + start.astype(jnp.uint32), zero, zero])
    return lax.rng_bit_generator(state, (num, *key.shape), jnp.uint32)[1]


class _Unrolled:
    """`jax.lax`, of which `scan` takes several steps at a time."""

    def __init__(self, unroll: int):
        self.unroll = unroll

    def __getattr__(self, name: str) -> Any:
        return getattr(lax, name)

    def scan(self, *args: Any) -> Any:
        return lax.scan(*args, unroll=self.unroll)


def choices(arguments: dict[str, Any]) -> dict[str, Simulator]:
    """All alternatives by name; each takes a seed.

    Simulators and with them layouts: ``plain`` has agents first and makes beliefs anew at each
    step, the others have them last. Widths of tiles are also the batches of `lax.map` over agents.

    Parameters
    ----------
    arguments : those of `bnjax.simulate` but for the key; two actions with two consequences.
    """

    def with_tile(tile: int | None) -> Simulator:
        return lambda seed: jax.block_until_ready(
            bn.simulate(key=jax.random.key(seed), tile=tile, **arguments)
        )

    default = with_tile(None)
    plain, blocked, moments = (by(name, default) for name in ("plain", "blocked", "moments"))
    found = {"default": default, "plain": plain, "blocked": blocked, "moments": moments}
    for width in (64, 128, 256, 512, 1024, 2048):
        if width <= arguments["num_agents"]:
            found[f"tile {width}"] = with_tile(width)
    for width in (64, 2048):
        if width <= arguments["num_agents"]:
            found[f"plain, tile {width}"] = by("plain", with_tile(width))
    name = "plain, unroll 4"
    found[name] = _with(name, plain, (_plain, "lax", _Unrolled(4)))
    for steps in (1, 2, 4, 8, 16):
        name = f"blocked, refreshed every {steps}"
        found[name] = _with(name, blocked, (_blocked, "steps_between_refreshes", _at_most(steps)))
    name = "moments, 8 steps a block"
    degree = [(module, "DEGREE", 8) for module in (_moments, _mixed)]
    found[name] = _with(name, moments, *degree)
    generators = {"jax.random": _words_of_jax, "lax.rng_bit_generator": _words_of_xla}
    for name, words in generators.items():
        name = f"blocked, words by {name}"
        found[name] = _with(name, blocked, (_blocked, "words", words))
    return found
