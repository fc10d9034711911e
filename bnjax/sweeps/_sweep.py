"""`bnjax.sweep`: a function in every cell of a very large grid, kept on disk as it goes."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from .._check import check_key
from .._cores import num_workers
from .._devices import mesh
from ..learning._memory_limit import available_memory
from ._axes import Axes, check_arguments, read_axes
from ._chunks import cut
from ._configuration import about, configuration_of, read_labels
from ._others import Others, appeared, sees_others, wait_for_others
from ._program import Cell, CellStatus, Program, compile_tile, default_block, trace
from ._status import one_failure, place
from ._store import Layout, Log, Store, create, differences
from ._work import CHUNK_BYTES, Work

if TYPE_CHECKING:
    import xarray as xr

_CHUNK_SECONDS = 10.0
_SHORT_SECONDS = 0.1
_FEWEST_CHUNKS = 32  # of a process, as long as each is worth the trouble


def sweep(
    function: Callable[..., Any],
    axes: Mapping[str, Any],
    *,
    store: str | Path,
    key: Array | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
    may_be_nan: Sequence[str] = (),
    chunk: int | None = None,
    rerun_failed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Compute a function in every cell of a grid, into a store that survives interruptions.

    The results go to disk chunk by chunk, each as a whole or not at all. The same call on the same
    store computes what is missing and nothing else, whatever stopped the one before. What a cell
    gives depends on its arguments and on its number alone: not on chunks, cores, devices,
    processes, interruptions or order (for one kind of device and one version of JAX).

    All cores of a CPU, or all other local devices, share the work. Where ``jax.distributed`` is
    initialised, every process makes the same call, all on the same file system, and each computes
    chunks of its own.

    Parameters
    ----------
    function : pure function of scalars, called as ``function(**arguments)``, that `jax.jit` and
        `jax.vmap` can trace. It returns a pytree of arrays of any shape; an output is named after
        its place in the pytree (``"belief.mean"``; ``"result"`` if it is all there is).
    axes : for each dimension, in the order of the store, the values [N] of the argument of that
        name: an array of floats, whole numbers or truth values, or ``"low:high:n"``. A mapping of
        names to values instead lets several arguments vary together along one dimension.
    store : directory of the Zarr store: made if it is not there, continued if it is.
    key : a JAX key, from which each cell's ``key`` is folded by the number of the cell (the last
        axis runs fastest).
    dims : names of the dimensions of outputs besides the axes, by name of the output.
        Default: ``"<output>_0"`` and so on.
    coords : labels along such dimensions: numbers or names.
    attrs : attributes, such as ``units``, of outputs, axes and coordinates, by name.
    may_be_nan : outputs in which NaN or infinity means something other than failure.
    chunk : about how many cells are computed, written and, after a mishap, repeated as one; the
        store records what became of it. With fewer than are computed at once (up to 1,024 on a
        core and 65,536 on a GPU) these are idle in part. Default: as many as fit in 64 MiB, a
        sixteenth of the free memory and ten seconds, but not so many that there are fewer than 32
        chunks. A store that exists keeps the chunks it has.
    rerun_failed : compute the failed cells of a store again, and nothing but these and what is
        missing.
    progress : called with (cells done, cells in all) after every chunk; of a process among
        several, of its own cells.

    Returns
    -------
    xarray.Dataset
        What ``xarray.open_zarr(store)`` gives, lazily: the outputs, with the axes as dimensions in
        the order given, and ``status`` (codes of `bnjax.sweeps.CellStatus`): MISSING, OK,
        NONFINITE where an output holds NaN or infinity, NOT_CONVERGED where an output whose name
        ends in ``converged`` is False. A store can be opened while it is being written: what is
        missing is NaN, False, or the number of its type furthest from 0.

    Raises
    ------
    ValueError
        Before anything is computed, if the function and the axes do not fit each other, the
        function cannot be traced, the store cannot be written, is being written by another sweep,
        is something else, or belongs to another sweep; the differences are spelled out.
    OSError
        If a chunk could not be written. What was written before is whole.
    RuntimeError
        If another process ended before its chunks were done. (JAX's coordinator may come first:
        it ends all processes at once when the first is gone, and otherwise when one has been
        silent for 100 seconds.) Also after SIGTERM, if the caller handles it and lives on.

    Notes
    -----
    Whatever ends a process costs at most one chunk that was computed and not yet on disk, and what
    had been done of the next. When the power fails, chunks of the last half minute may be lost as
    well: checksums tell, and the next call computes them again.

    SIGTERM, which schedulers send before they preempt, ends the sweep after the chunk that is
    being written, and then the process. Failed cells raise a ``RuntimeWarning`` at the end;
    `bnjax.sweeps.failed` lists them.

    Cells are computed in blocks of one shape, on which rounding depends. It follows from the
    function, the grid and the platform alone, unless so many cells do not fit in half of the free
    memory; a store keeps the shape that it was begun with.

    Examples
    --------
    >>> import bnjax as bn, tempfile
    >>> def outcome(p_sycophantic, p_honest):
    ...     problem = bn.scenarios.sycophancy(p_sycophantic, p_honest)
    ...     return {"phase": bn.phase(problem)}
    >>> axes = {"p_sycophantic": "0.2:0.8:2", "p_honest": [0.2, 0.6]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = bn.sweep(outcome, axes, store=f"{folder}/phases").load()
    >>> [[bn.Phase(int(code)).name for code in row] for row in done.phase]
    [['OSCILLATORY', 'SAFE'], ['UNSAFE', 'MULTISTABLE']]
    """
    return run(
        function,
        axes,
        store=store,
        key=key,
        dims=dims,
        coords=coords,
        attrs=attrs,
        may_be_nan=may_be_nan,
        chunk=chunk,
        rerun_failed=rerun_failed,
        progress=progress,
        extra={},
        again="the same call",
        say=_to_stderr,
    )


def run(
    function: Callable[..., Any],
    axes: Mapping[str, Any],
    *,
    store: str | Path,
    key: Array | None,
    dims: Mapping[str, Sequence[str]] | None,
    coords: Mapping[str, Any] | None,
    attrs: Mapping[str, Mapping[str, Any]] | None,
    may_be_nan: Sequence[str],
    chunk: int | None,
    rerun_failed: bool,
    progress: Callable[[int, int], None] | None,
    extra: Mapping[str, Any],
    again: str,
    say: Callable[[str], None],
) -> xr.Dataset:
    """`sweep`, for callers whose users know it by another name.

    Parameters
    ----------
    extra : further attributes for the store.
    again : what goes on with an unfinished store, for messages.
    say : what to do with the line that tells of a termination.
    """
    import xarray as xr

    grid = read_axes(axes)
    if key is not None:
        _check_key(key)
    check_arguments(function, grid, key is not None)
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"`chunk` must be a positive number of cells or None; got {chunk!r}.")
    if progress is not None and not callable(progress):
        raise ValueError(f"`progress` must be a function or None; got {progress!r}.")
    path = _as_path(store)
    cell = trace(function, grid, key)
    labels = read_labels(grid, cell.outputs, dims, coords, attrs, may_be_nan)
    wanted = configuration_of(function, grid, cell, key, labels)
    compiled = functools.cache(functools.partial(compile_tile, cell, grid, key, labels.may_be_nan))
    others = Others()
    with others:
        existing = Store(path) if _is_there(path) else None
        if existing is not None:
            _check_same(existing, wanted, chunk)
        # Before a store is made, so that what cannot be compiled leaves none behind. One that is
        # there keeps the block it was begun with, and if it is complete nothing is compiled.
        block = _fitting(compiled, cell, grid).block if existing is None else existing.block

    def layout(box: tuple[int, ...]) -> Layout:
        return Layout(grid, cell.outputs, labels.dims, labels.coords, labels.attrs, box)

    def make() -> Store:
        cells = _default_chunk(compiled(block), cell, grid) if chunk is None else chunk
        told = {**about(function, key), **extra}
        return create(path, layout(cut(grid.shape, cells)), wanted, block, told)

    def mend(damaged: Store) -> None:
        damaged.mend(layout(damaged.chunks.box))

    with _opened(existing, make, mend, path, wanted, others) as (opened, log, done):
        seen = sees_others(opened)
        work = Work(opened, lambda: compiled(opened.block), log, progress, again, say)
        work.do(done, rerun_failed)
    wait_for_others(opened, seen, again)
    if jax.process_index() == 0:
        _warn_of_failures(opened)
    return xr.open_zarr(path)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_key(key: Any) -> None:
    check_key(key)
    try:
        jax.eval_shape(jax.random.fold_in, key, 0)
    except TypeError as error:  # a raw key of another kind than JAX's default
        raise ValueError(f"`key` must be one JAX key; {error}") from error


def _as_path(store: Any) -> Path:
    if not isinstance(store, (str, os.PathLike)) or "://" in str(store) or not str(store):
        raise ValueError(f"`store` must be a directory of this machine; got {store!r}.")
    # What a link points to can be renamed, and what is absolute stays where it is.
    return Path(store).resolve()


def _is_there(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _check_same(store: Store, wanted: Mapping[str, Any], chunk: int | None) -> None:
    told = differences(store.configuration, wanted)
    if told:
        raise ValueError(
            f"`store` {store.path} holds another sweep: {'; '.join(told)}. Make the same call as "
            "before to continue it, or choose another store."
        )
    if chunk is not None and cut(store.chunks.shape, chunk) != store.chunks.box:
        raise ValueError(
            f"`chunk` must be left out to continue {store.path}, which has chunks of "
            f"{'x'.join(map(str, store.chunks.box))} cells; got {chunk:,}."
        )


def _fitting(compiled: Callable[[int], Program], cell: Cell, axes: Axes) -> Program:
    """Compile a tile that fits in the memory of the device."""
    on_cpu = mesh().devices.flat[0].platform == "cpu"
    block = default_block(cell, axes.size, on_cpu)
    while True:
        program = compiled(block)
        free = _free_device_memory()
        if block == 1 or program.memory is None or free is None or program.memory <= free // 2:
            return program
        excess = -(-program.memory // max(1, free // 2))
        block = max(1, block >> (excess - 1).bit_length())


def _free_device_memory() -> int | None:
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        free = available_memory()
        return None if free is None else free // num_workers()
    stats = device.memory_stats()
    return None if not stats else stats["bytes_limit"] - stats["bytes_in_use"]


def _default_chunk(program: Program, cell: Cell, axes: Axes) -> int:
    """Cells of a chunk that memory holds easily and that nobody minds to repeat."""
    mine = -(-axes.size // jax.process_count())
    # Of whole blocks, or there would be idle lanes: one for each core or device, if there is room.
    blocks = max(1, min(program.num_shares, CHUNK_BYTES // (program.block * cell.nbytes)))
    few = min(mine, blocks * program.block)
    if mine <= 4 * few:  # a measurement would cost as much as a chunk
        return few
    each = _seconds(program, few)
    if few * each < _SHORT_SECONDS:  # of which most may be what the first time takes
        each = _seconds(program, few)
    free = [x for x in (available_memory(), _free_device_memory()) if x is not None]
    most = min([CHUNK_BYTES, *(x // 16 for x in free)]) // cell.nbytes
    most = min(most, int(_CHUNK_SECONDS / each))
    worthwhile = max(few, min(program.tile, most, mine))
    return max(worthwhile, min(most, -(-mine // _FEWEST_CHUNKS)))


def _seconds(program: Program, cells: int) -> float:
    """Time that a cell takes."""
    began = time.perf_counter()
    program.fetch(program.start(range(cells)), program.room(cells))
    return (time.perf_counter() - began) / cells


@contextlib.contextmanager
def _opened(
    existing: Store | None,
    make: Callable[[], Store],
    mend: Callable[[Store], None],
    path: Path,
    wanted: Mapping[str, Any],
    others: Others,
) -> Iterator[tuple[Store, Log, NDArray[np.bool_]]]:
    """The store, this process's right to write to it, and which of its chunks are done.

    The first process makes the store and says what is done, so that all deal alike.
    """
    process = jax.process_index()
    with contextlib.ExitStack() as stack:
        with others:
            if process == 0:
                store = make() if existing is None else existing
                log = stack.enter_context(store.lease(process))
                earlier = store.writers(but=process)
                if earlier:
                    raise ValueError(
                        f"`store` {path} is still being written by process {earlier[0]} of an "
                        "earlier sweep. Wait for it, or stop it."
                    )
                store.sweep_out()
                mend(store)
                done = store.done()
                for torn in np.flatnonzero(~done):
                    store.discard(int(torn))
                others.tell(done.tobytes())
            else:
                told = others.hear()
                if not told:
                    raise RuntimeError("the sweep's first process could not open the store.")
                store = appeared(path)
                _check_same(store, wanted, None)
                log = stack.enter_context(store.lease(process))
                done = np.frombuffer(told, bool)
        others.meet()
        log.about(
            processes=jax.process_count(),
            workers=num_workers(),
            device=jax.local_devices()[0].device_kind,
            chunks=int((~done).sum()),
        )
        yield store, log, done


def _warn_of_failures(store: Store) -> None:
    counts = store.count(store.begun())
    bad = {code: n for code, n in counts.items() if n and code.is_failure}
    if bad:
        told = ", ".join(f"{n:,} {CellStatus(code).name}" for code, n in bad.items())
        if found := one_failure(store):
            told += f"; at {place(found[0])}, for example, {found[1]}"
        warnings.warn(
            f"{sum(bad.values()):,} of {sum(counts.values()):,} cells of {store.path} failed "
            f"({told}); `bnjax.sweeps.failed` lists them.",
            RuntimeWarning,
            stacklevel=4,
        )
