"""The devices that share the work, and what travels to them."""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._check import is_typed_key

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("devices")
_ALIGNMENT = 64  # bytes, of XLA's buffers on CPUs
_LITTLE = 2**22  # bytes that are copied in less time than it takes to pass some arrays
_FEW = 2**16  # numbers that are copied in less time than it takes to pass an array


def host_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array, so aligned that `jax.device_put` to a CPU takes it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def to_device(arrays: list[np.ndarray]) -> list[jax.Array]:
    """JAX arrays of arrays of the host that nobody else has, large ones without a copy."""
    few = sum(x.nbytes for x in arrays) <= _LITTLE
    return (_as_they_are if few else jax.device_put)(arrays)


@jax.jit
def _as_they_are(arrays: list[jax.Array]) -> list[jax.Array]:
    """A copy, in less time than `jax.device_put` takes to think."""
    return arrays


class _Whole(NamedTuple):
    """An array that travels by itself: its place."""

    place: int


class _Words(NamedTuple):
    """An array that travels with others, in words of 32 bits; of keys, their own words do."""

    dtype: np.dtype
    shape: tuple[int, ...]
    kind: Any  # of keys, or None


def packed(tree: Any) -> tuple[Any, list[Any]]:
    """A hashable layout and some arrays, of which `unpacked` makes the pytree again.

    A compiled call takes some time for each array. So on a CPU all small ones go in one vector of
    words, but for those that are bound to a device; other backends leave them where they are.
    """
    leaves, structure = jax.tree.flatten(tree)
    on_host = jax.default_backend() == "cpu"
    layout, arrays, pieces = [], [], []
    for leaf in leaves:
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            layout.append(leaf)
            continue
        kind = jax.random.key_impl(leaf) if is_typed_key(leaf) else None
        dtype = np.dtype(np.uint32)
        if kind is None:
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype.newbyteorder("="))
        bound = getattr(leaf, "committed", False)
        if on_host and not bound and leaf.size <= _FEW and dtype.kind in "biuf":
            values = np.asarray(leaf if kind is None else jax.random.key_data(leaf), dtype)
            layout.append(_Words(dtype, values.shape, kind))
            pieces.append(np.frombuffer(values.tobytes() + b"\0" * (-values.nbytes % 4), np.uint32))
        else:
            layout.append(_Whole(len(arrays)))
            arrays.append(leaf)
    return (structure, tuple(layout)), arrays + ([np.concatenate(pieces)] if pieces else [])


def unpacked(layout: Any, arrays: list[Any]) -> Any:
    """The inverse of `packed`."""
    structure, leaves = layout
    start = 0

    def array(what: _Words) -> Any:
        nonlocal start
        # A truth value has a byte, of which all bits but one are none.
        dtype = np.dtype(np.uint8) if what.dtype == np.dtype(bool) else what.dtype
        size, each = math.prod(what.shape), max(1, dtype.itemsize // 4)
        stop = start + -(-size * dtype.itemsize // 4)
        values = arrays[-1][start:stop].reshape(-1, *([each] if each > 1 else []))
        start = stop
        values = lax.bitcast_convert_type(values, dtype).ravel()[:size].reshape(what.shape)
        if what.dtype == np.dtype(bool):
            return values != 0
        return values if what.kind is None else jax.random.wrap_key_data(values, impl=what.kind)

    def leaf(what: Any) -> Any:
        if isinstance(what, _Whole):
            return arrays[what.place]
        return array(what) if isinstance(what, _Words) else what

    return jax.tree.unflatten(structure, [leaf(what) for what in leaves])


@functools.cache
def mesh() -> Mesh:
    """All devices of this process, in a row. One is enough of CPUs: threads share its cores."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices[:1] if devices[0].platform == "cpu" else devices), ("devices",))


def everywhere() -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh(), EVERYWHERE)


def split() -> NamedSharding:
    """Equal shares, one a device, of the leading axis."""
    return NamedSharding(mesh(), SPLIT)
