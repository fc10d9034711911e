"""The devices that share the work."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("devices")


@functools.cache
def wide_vectors() -> dict[str, int]:
    """Options of compilation for loops that gain by vectors as wide as the processor's.

    By itself, XLA's CPU backend stops at 256 bits. Nothing is asked of a version of XLA that does
    not know the option.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_cpu_prefer_vector_width": 512}
    try:
        jax.jit(lambda x: x, compiler_options=options)(0)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


@functools.cache
def mesh() -> Mesh:
    """All devices of this process, in a row."""
    return Mesh(np.asarray(jax.local_devices()), ("devices",))


def everywhere() -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh(), EVERYWHERE)


def split() -> NamedSharding:
    """Equal shares, one a device, of the leading axis."""
    return NamedSharding(mesh(), SPLIT)


def put(room: Any, new: Any, place: Array) -> Any:
    """Arrays with others put at a place along their leading axis, for use inside a shard."""

    def one(room: Array, new: Array) -> Array:
        # An update of nothing (of problems without parameters) crashes the partitioner of XLA in
        # JAX 0.11.
        return room.at[place].set(new) if new.size else room

    return jax.tree.map(one, room, new)
