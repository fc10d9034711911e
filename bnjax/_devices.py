"""The devices that share the work."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._check import is_typed_key

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("devices")
_ALIGNMENT = 64  # bytes, of XLA's buffers on CPUs
_FEW = 2**16  # numbers that are copied in less time than it takes to pass an array


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


def packed(tree: Any) -> tuple[Any, list[Any]]:
    """A hashable layout and some arrays, of which `unpacked` makes the pytree again.

    A compiled call takes some time for each array that it has to copy to several devices. So on a
    CPU all small ones of a type go in one vector, but for those that are bound to a device; other
    backends leave them where they are.
    """
    leaves, structure = jax.tree.flatten(tree)
    on_host = jax.default_backend() == "cpu"

    def goes_along(leaf: Any) -> bool:
        bound = is_typed_key(leaf) or getattr(leaf, "committed", False)
        return on_host and not bound and leaf.size <= _FEW

    layout, arrays, pieces = [], [], {}
    for leaf in leaves:
        if not eqx.is_array(leaf):
            layout.append((None, leaf))
        elif goes_along(leaf):
            layout.append((leaf.dtype, leaf.shape))
            pieces.setdefault(leaf.dtype, []).append(np.asarray(leaf).ravel())
        else:
            layout.append((len(arrays), None))
            arrays.append(leaf)
    vectors = [np.concatenate(x) for x in pieces.values()]
    return (structure, tuple(layout), tuple(pieces)), arrays + vectors


def unpacked(layout: Any, arrays: list[Any]) -> Any:
    """The inverse of `packed`."""
    structure, leaves, kinds = layout
    rest = dict(zip(kinds, arrays[len(arrays) - len(kinds) :], strict=True))

    def leaf(kind: Any, what: Any) -> Any:
        if kind is None:
            return what
        if isinstance(kind, int):
            return arrays[kind]
        taken, rest[kind] = jnp.split(rest[kind], [math.prod(what)])
        return taken.reshape(what)

    return jax.tree.unflatten(structure, [leaf(*x) for x in leaves])


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
