"""The one compiled program of a sweep: the function in a tile of cells, on all devices or cores.

A cell is known by its number in the grid (the last axis runs fastest). The program looks up for
itself what the arguments of a number are and which key is the cell's, so that what is computed
together with what can make no difference. Where numbers are consecutive, as they are in a chunk,
it is told the first and how many, so that the host has nothing to do for each cell. Cells go
through the devices in blocks of fixed shape, because the shape of a block is all that rounding can
depend on.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, UInt
from numpy.typing import NDArray

from .._check import is_typed_key
from .._cores import num_workers, tile_options
from .._devices import EVERYWHERE, SPLIT, everywhere, mesh, split
from ._axes import KEY, STATUS, Axes

# What a block may hold of the largest array that the function makes: enough to fill vector lanes
# and hide what a loop costs, little enough for a core's own cache.
_CPU_BLOCK = 2**18
_CPU_CELLS = 1024
_CPU_LANES = 32  # fewer would leave vector lanes idle and make the loop count
_CPU_BLOCKS = 128  # of a grid, lest few slow cells are one block: one device, done or not
# A GPU wants every lane that its memory can feed.
_GPU_BLOCK = 2**28
_GPU_CELLS = 2**16
_SHARE_CELLS = 2**12  # of a device in a tile on a CPU, if blocks are smaller than that
_SHARE_BYTES = 2**26  # of the results of a share


class CellStatus(enum.IntEnum):
    """What became of a cell.

    Attributes
    ----------
    MISSING
        Not computed yet.
    OK
        Computed.
    NONFINITE
        An output holds NaN or infinity, and it is not among ``may_be_nan``.
    NOT_CONVERGED
        An output called ``converged``, or ``<...>.converged``, is False.
    """

    MISSING = 0
    OK = 1
    NONFINITE = 2
    NOT_CONVERGED = 3

    @property
    def is_failure(self) -> bool:
        """Whether a cell was computed and went wrong."""
        return self > CellStatus.OK


@dataclasses.dataclass(frozen=True)
class Output:
    """One array that a cell gives."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


STATUS_OUTPUT = Output(STATUS, (), np.dtype(np.uint8))
"""What every cell gives besides: a code of `CellStatus`."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """The function of a sweep as JAX sees it, traced once."""

    jaxpr: ClosedJaxpr
    outputs: tuple[Output, ...]
    arguments: tuple[str, ...]
    fingerprint: str
    """Of the whole computation, with what the function closes over: equal for equal programs."""
    largest: int
    """Elements of the largest array that it makes on the way."""

    @property
    def nbytes(self) -> int:
        """Bytes of the results of a cell, its status included."""
        return sum(output.nbytes for output in (*self.outputs, STATUS_OUTPUT))


def trace(function: Callable[..., Any], axes: Axes, key: Array | None) -> Cell:
    """Trace the function for scalar arguments."""
    arguments = argument_types(axes)
    given: dict[str, Any] = dict(arguments)
    if key is not None:
        given[KEY] = jax.eval_shape(lambda k: k, key)

    def call(given: dict[str, Any]) -> Any:
        return jax.tree.map(_as_output, function(**given))

    try:
        jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(given)
    except _NotNumbers as error:
        raise ValueError(f"`function` must return a pytree of arrays; {error}") from None
    except (TypeError, IndexError, ValueError) as error:
        # JAX says in many ways that it wanted a value and got a tracer.
        traced = isinstance(error, (jax.errors.JAXTypeError, jax.errors.JAXIndexError))
        said = str(error).partition("\n")[0]
        if not traced and "Tracer(" not in said:
            raise
        raise ValueError(
            "`function` must work for arguments that are traced, and give arrays of the same shape "
            "in every cell: no `if`, `float` or `int` on an argument, and no shape that depends on "
            f"one. JAX says: {said}"
        ) from error
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    if not leaves:
        raise ValueError("`function` must return at least one array; got none.")
    outputs = tuple(_output(path, leaf) for path, leaf in leaves)
    for output in outputs:
        if [other.name for other in outputs].count(output.name) > 1:
            raise ValueError(f"`function` must name its outputs apart; two are `{output.name}`.")
    return Cell(jaxpr, outputs, tuple(arguments), _fingerprint(jaxpr), _largest(jaxpr.jaxpr))


class _NotNumbers(Exception):
    """An output is not what a store can hold."""


def _as_output(leaf: Any) -> Array:
    kind = np.asarray(leaf).dtype.kind if not hasattr(leaf, "dtype") else None
    if kind is not None and kind not in "biufc":
        raise _NotNumbers(f"got {leaf!r} in it.")
    return jnp.asarray(leaf)


def as_argument(values: NDArray[Any]) -> NDArray[Any]:
    """Values of an axis in the precision that JAX computes with."""
    if values.dtype.kind == "b":
        return values
    return values.astype(jnp.result_type(float if values.dtype.kind == "f" else int))


def argument_types(axes: Axes) -> dict[str, jax.ShapeDtypeStruct]:
    """What a cell gets of each argument."""
    types = {name: as_argument(values).dtype for name, values in axes.values.items()}
    return {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in types.items()}


def _output(path: Sequence[Any], leaf: Any) -> Output:
    name = jax.tree_util.keystr(tuple(path), simple=True, separator=".") or "result"
    if is_typed_key(leaf):
        raise ValueError(f"`function` must return numbers; its output `{name}` is a key of JAX.")
    dtype = np.dtype(leaf.dtype)
    if dtype.kind not in "biufc":
        raise ValueError(
            f"`function` must return types that NumPy has of its own; its output `{name}` is "
            f"{leaf.dtype}. Convert it, for example to float32."
        )
    return Output(name, tuple(leaf.shape), dtype)


def _fingerprint(closed: ClosedJaxpr) -> str:
    """SHA-256 of what is computed, constants included."""
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(closed.jaxpr)).encode())
    for inner in _closed(closed):
        for constant in inner.consts:
            array = np.asarray(
                jax.random.key_data(constant) if is_typed_key(constant) else constant
            )
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _closed(closed: ClosedJaxpr) -> list[ClosedJaxpr]:
    """A program and all that it calls, as far as they have constants of their own."""
    found = [closed]
    for jaxpr in _programs(closed.jaxpr):
        for equation in jaxpr.eqns:
            found += [x for x in _inside(equation) if isinstance(x, ClosedJaxpr)]
    return found


def _programs(jaxpr: Any) -> list[Any]:
    """A program and all that it calls."""
    found, waiting = [], [jaxpr]
    while waiting:
        found.append(waiting.pop())
        for equation in found[-1].eqns:
            waiting += [getattr(x, "jaxpr", x) for x in _inside(equation)]
    return found


def _inside(equation: Any) -> list[Any]:
    """Programs among the parameters of an equation."""
    leaves = jax.tree.leaves(
        dict(equation.params), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
    )
    return [x for x in leaves if hasattr(x, "eqns")]


def _largest(jaxpr: Any) -> int:
    sizes = [
        math.prod(variable.aval.shape)
        for program in _programs(jaxpr)
        for equation in program.eqns
        for variable in equation.outvars
        if hasattr(variable.aval, "shape")
    ]
    return max(sizes, default=1)


def default_block(cell: Cell, cells: int, on_cpu: bool) -> int:
    """Cells of a grid of so many that are worked on together: a power of two.

    The number of cores or devices has no say, because results depend on the block.
    """
    room, most = (_CPU_BLOCK, _CPU_CELLS) if on_cpu else (_GPU_BLOCK, _GPU_CELLS)
    if on_cpu:
        most = min(most, max(_CPU_LANES, cells // _CPU_BLOCKS))
    fits = max(1, min(room // max(cell.largest, 1), _SHARE_BYTES // cell.nbytes, most))
    return min(1 << (fits.bit_length() - 1), 1 << (cells - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class Tile:
    """Cells whose results are on their way to the host."""

    parts: tuple[Sequence[Array] | Future[Sequence[Array]], ...]
    """The results of each share, of which the rest after its cells means nothing."""
    counts: tuple[int, ...]
    """Cells of each share."""

    def cancel(self) -> None:
        """Do not begin what no thread has begun."""
        for part in self.parts:
            if isinstance(part, Future):
                part.cancel()


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled tile: a share for each device, or for each core of a CPU."""

    block: int
    share: int
    """Cells of a share: whole blocks."""
    results: tuple[Output, ...]
    """Outputs, and the status."""
    run: Callable[..., Any]
    inputs: tuple[Any, ...]
    steps: Array
    """0, 1, ... of each share of a call: consecutive numbers less the first."""
    memory: int | None
    """Bytes that XLA says a share needs, if it says so."""
    threads: ThreadPoolExecutor | None
    """Of a CPU, whose cores take a share each, those of several tiles in turn; devices take theirs
    by themselves."""
    num_shares: int

    @property
    def tile(self) -> int:
        return self.share * self.num_shares

    @property
    def nbytes(self) -> int:
        """Bytes of the results of a tile."""
        return self.tile * sum(result.nbytes for result in self.results)

    def start(self, cells: range | NDArray[np.uint32]) -> Tile:
        """Start computing up to a tile of cells: consecutive numbers, or any."""
        shares = np.arange(self.num_shares)
        # Whole blocks: lanes that are left over take as long as others.
        each = -(-len(cells) // (self.num_shares * self.block)) * self.block
        counts = np.clip(len(cells) - shares * each, 0, each)
        if isinstance(cells, range):
            firsts, steps = cells.start + np.minimum(shares * each, len(cells) - 1), None
        else:
            firsts, steps = 0 * shares, np.zeros((self.num_shares, self.share), np.uint32)
            for own, i in zip(steps, shares, strict=True):
                own[: counts[i]] = cells[i * each : i * each + counts[i]]
        place = np.stack([firsts, counts], 1).astype(np.uint32)
        start = self._run if self.threads is None else self._submit
        return Tile(start(steps, place), tuple(counts.tolist()))

    def _submit(self, steps: NDArray[np.uint32] | None, place: NDArray[np.uint32]) -> Any:
        assert self.threads is not None

        def run(i: int) -> Sequence[Array]:
            own = self.steps if steps is None else steps[i]
            return jax.block_until_ready(self.run(*self.inputs, own, place[i : i + 1]))

        return tuple(self.threads.submit(run, i) for i in np.flatnonzero(place[:, 1]).tolist())

    def _run(self, steps: NDArray[np.uint32] | None, place: NDArray[np.uint32]) -> Any:
        given = self.steps if steps is None else jax.device_put(steps.reshape(-1), split())
        results = [x.addressable_shards for x in self.run(*self.inputs, given, place)]
        order = np.argsort([shard.index[0].start or 0 for shard in results[0]])
        parts = tuple(tuple(shards[i].data for shards in results) for i in order)
        for part in parts:
            for x in part:
                x.copy_to_host_async()  # all at once: a GPU takes longer to answer than to send
        return parts

    def fetch(self, tile: Tile, into: Mapping[str, NDArray[Any]]) -> None:
        """Wait for a tile, and put its results into arrays [cells, ...] by name."""
        begin = 0
        for part, count in zip(tile.parts, tile.counts, strict=False):  # the last may be empty
            arrays = part.result() if isinstance(part, Future) else part
            for result, values in zip(self.results, arrays, strict=True):
                into[result.name][begin : begin + count] = np.asarray(values)[:count]
            begin += count

    def room(self, cells: int) -> dict[str, NDArray[Any]]:
        """Arrays [cells, ...] for what so many cells give, by name."""
        return {x.name: np.empty((cells, *x.shape), x.dtype) for x in self.results}


def compile_tile(
    cell: Cell, axes: Axes, key: Array | None, may_be_nan: Sequence[str], block: int
) -> Program:
    """Compile the function for a tile: the only compilation of a sweep."""
    on_cpu = mesh().devices.flat[0].platform == "cpu"
    fits = max(1, min(_SHARE_CELLS if on_cpu else 4 * block, _SHARE_BYTES // cell.nbytes) // block)
    num_shares = num_workers()
    fits = min(fits, -(-axes.size // (block * num_shares)))  # the grid may be small
    share = block * fits
    shape, arguments = axes.shape, cell.arguments
    along = [axes.dims.index(axes.dim_of(name)) for name in arguments]
    order = sorted([*arguments, KEY] if key is not None else arguments)  # as JAX flattens a dict
    compute = jaxpr_as_fun(cell.jaxpr)
    given_back = (*cell.outputs, STATUS_OUTPUT)

    def one(
        values: list[Array], key: Array | None, number: UInt[Array, ""]
    ) -> tuple[list[Array], UInt[Array, ""]]:
        where = jnp.unravel_index(number.astype(_index_type(shape)), shape)
        given = {name: x[where[i]] for name, x, i in zip(arguments, values, along, strict=True)}
        if key is not None:
            given[KEY] = jax.random.fold_in(key, number)
        results = [jnp.asarray(x) for x in compute(*(given[name] for name in order))]
        return results, _status(cell.outputs, results, may_be_nan)

    many = jax.vmap(one, in_axes=(None, None, 0))

    def work(values: list[Array], key: Array | None, steps: Array, place: Array) -> list[Array]:
        first, count = place[0]
        whole = [jnp.zeros((fits, block, *x.shape), x.dtype) for x in given_back]

        # Not `lax.map`: the last tile of a chunk is seldom full.
        def step(i: Array, whole: list[Array]) -> list[Array]:
            lanes = i * block + jnp.arange(block, dtype=np.uint32)
            # Lanes that are left over repeat the last cell, which is no slower than itself.
            numbers = first + jnp.where(
                lanes < count, steps.reshape(fits, block)[i], steps[count - 1]
            )
            results, status = many(values, key, numbers)
            return [x.at[i].set(part) for x, part in zip(whole, [*results, status], strict=True)]

        needed = (count + block - 1) // block
        whole = jax.lax.fori_loop(np.uint32(0), needed, step, whole)
        return [x.reshape(share, *x.shape[2:]) for x in whole]

    # Devices have nothing to say to each other: each goes through its blocks at its own pace. (Of a
    # CPU there is one, and threads call this for a share each.)
    tile = jax.shard_map(
        work,
        mesh=mesh(),
        in_specs=(EVERYWHERE, EVERYWHERE, SPLIT, SPLIT),
        out_specs=SPLIT,
        check_vma=False,
    )
    inputs = jax.device_put(([as_argument(axes.values[n]) for n in arguments], key), everywhere())
    steps = jax.device_put(np.tile(np.arange(share, dtype=np.uint32), mesh().size), split())
    place = jax.ShapeDtypeStruct((mesh().size, 2), np.uint32, sharding=split())
    jitted = jax.jit(tile, compiler_options=tile_options())
    compiled = jitted.lower(*inputs, steps, place).compile()
    threads = ThreadPoolExecutor(num_shares) if on_cpu else None
    memory = _memory(compiled)
    return Program(block, share, given_back, compiled, inputs, steps, memory, threads, num_shares)


def _index_type(shape: tuple[int, ...]) -> Any:
    """Unsigned where numbers of cells need it; signed divisions are what XLA does best."""
    return np.int32 if math.prod(shape) < 2**31 else np.uint32


def _status(
    outputs: Sequence[Output], results: Sequence[Array], may_be_nan: Sequence[str]
) -> UInt[Array, ""]:
    """The code of `CellStatus` of a cell."""
    finite = converged = jnp.asarray(True)
    for output, result in zip(outputs, results, strict=True):
        if jnp.issubdtype(result.dtype, jnp.inexact) and output.name not in may_be_nan:
            finite &= jnp.isfinite(result).all()
        if output.name.rpartition(".")[2] == "converged" and result.dtype == bool:
            converged &= result.all()
    code = jnp.where(converged, CellStatus.OK.value, CellStatus.NOT_CONVERGED.value)
    return jnp.where(finite, code, CellStatus.NONFINITE.value).astype(jnp.uint8)


def _memory(compiled: Any) -> int | None:
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
    )
