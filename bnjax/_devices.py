"""The devices that share the work."""

import contextlib
import functools
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._check import is_typed_key

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("devices")
_ALIGNMENT = 64  # bytes, of XLA's buffers on CPUs
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_FEW = 2**16  # numbers that are copied in less time than it takes to pass an array


def usable_cores() -> int:
    """How many this process may use: those that it may run on, if a container grants no less."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(known or 1, _granted())))


@functools.cache
def _granted() -> float:
    """Cores' worth of time that the control group of this process may take (Linux, version 2)."""
    if not _QUOTA.exists():
        return math.inf
    time, period = _QUOTA.read_text().split()  # microseconds, the first of which may be "max"
    return math.inf if time == "max" else int(time) / int(period)


@functools.cache
def tile_options() -> dict[str, int | str]:
    """Options of compilation for loops over tiles, one a core, that stay in the core's own cache.

    Vectors as wide as the processor's: by itself, XLA's CPU backend stops at 256 bits. And no
    kernel is divided among the cores: that moves half of a tile to a core that is busy with
    another, thousands of times a second. A version of XLA is asked for nothing that it does not
    know.
    """
    if jax.default_backend() != "cpu":
        return {}
    known: dict[str, int | str] = {}
    for name, value in (
        ("xla_cpu_prefer_vector_width", 512),
        ("xla_disable_hlo_passes", "cpu-parallel-task-assigner"),
    ):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda x: x, compiler_options={name: value})(0)
            known[name] = value
    return known


def host_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array, so aligned that `jax.device_put` to a CPU takes it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


class _Whole(NamedTuple):
    """An array that travels by itself: its place."""

    place: int


class _Bytes(NamedTuple):
    """An array whose bytes travel with those of others; of keys, their words do."""

    dtype: np.dtype
    shape: tuple[int, ...]
    kind: Any  # of keys, or None


def packed(tree: Any) -> tuple[Any, list[Any]]:
    """A hashable layout and some arrays, of which `unpacked` makes the pytree again.

    A compiled call takes some time for each array that it has to copy to several devices. So on a
    CPU the bytes of all small ones go in one vector, but for those that are bound to a device;
    other backends leave them where they are.
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
            layout.append(_Bytes(dtype, values.shape, kind))
            pieces.append(np.frombuffer(values.tobytes(), np.uint8))
        else:
            layout.append(_Whole(len(arrays)))
            arrays.append(leaf)
    return (structure, tuple(layout)), arrays + ([np.concatenate(pieces)] if pieces else [])


def unpacked(layout: Any, arrays: list[Any]) -> Any:
    """The inverse of `packed`."""
    structure, leaves = layout
    start = 0

    def array(what: _Bytes) -> Any:
        nonlocal start
        size = what.dtype.itemsize
        stop = start + math.prod(what.shape) * size
        values = arrays[-1][start:stop].reshape(*what.shape, *([size] if size > 1 else []))
        start = stop
        # Bytes are not bits: a truth value has one of them.
        if what.dtype == np.dtype(bool):
            return values != 0
        values = lax.bitcast_convert_type(values, what.dtype)
        return values if what.kind is None else jax.random.wrap_key_data(values, impl=what.kind)

    def leaf(what: Any) -> Any:
        if isinstance(what, _Whole):
            return arrays[what.place]
        return array(what) if isinstance(what, _Bytes) else what

    return jax.tree.unflatten(structure, [leaf(what) for what in leaves])


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
