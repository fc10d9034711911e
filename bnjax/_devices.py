"""The devices that share the work."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
