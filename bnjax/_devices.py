"""The devices that share the work."""

import functools
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("devices")
_ALIGNMENT = 64  # bytes, of XLA's buffers on CPUs


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


def host_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array, so aligned that `jax.device_put` to a CPU takes it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


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
