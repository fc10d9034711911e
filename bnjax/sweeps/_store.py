"""The Zarr store of a sweep, which is its own manifest.

A chunk of cells is one file for each variable. A file is written beside its place and renamed, and
ends in a checksum of what it holds; the file of ``status`` comes last. So a chunk is done if and
only if all its files are there and whole, whatever stopped the sweep that wrote them, and nobody
has to keep a list. What must be equal for a sweep to be the same sweep is in the attributes of the
store, which appears under its name when it is complete.

Nobody waits until chunks have reached the disk itself. When the power fails, those of the last
half minute or so may be gone or torn; their checksums tell. The empty store, which nobody could
compute again, is flushed to the disk before it appears.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._axes import STATUS, Axes
from ._chunks import Chunks
from ._program import STATUS_OUTPUT, CellStatus, Output

if TYPE_CHECKING:
    import zarr

_FORMAT = 1
_SUM_BYTES = 4  # of the CRC-32C at the end of a file
_PIECE_BYTES = 2**20  # of a file that is being checked
_PATIENCE = 0.5  # seconds: whoever asks if a lease is held holds it for a moment


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a store holds besides the numbers, and how it is cut."""

    axes: Axes
    outputs: tuple[Output, ...]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, NDArray[Any]]
    attrs: Mapping[str, Mapping[str, Any]]
    box: tuple[int, ...]

    @property
    def labels(self) -> dict[str, tuple[str, NDArray[Any]]]:
        """Dimension and values of everything that labels the cells."""
        along = {
            name: (dim, values)
            for dim, columns in self.axes.columns.items()
            for name, values in columns.items()
        }
        return along | {dim: (dim, values) for dim, values in self.coords.items()}


class Store:
    """A sweep on disk."""

    def __init__(self, path: Path):
        import zarr

        self.path = path
        self._arrays: dict[str, Any] = {}
        self._writable: dict[str, Any] = {}
        try:
            self._group = zarr.open_group(path, mode="r", use_consolidated=True)
            manifest: Any = self._group.attrs["sweep"]
            self.configuration: dict[str, Any] = manifest["configuration"]
            self.block: int = manifest["block"]
            self.chunks = Chunks(tuple(manifest["shape"]), tuple(manifest["chunk"]))
            self.variables: tuple[str, ...] = tuple(manifest["variables"])
            self.arguments: tuple[str, ...] = tuple(manifest["arguments"])
            readable = manifest["format"] == _FORMAT
            self.labels: tuple[str, ...] = tuple(manifest["labels"])
            # An output with a dimension of length 0 has nothing to keep.
            filled = [name for name in (STATUS, *self.variables) if self.array(name).size]
            self._filled: tuple[str, ...] = tuple(filled)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _something_else(path) from error
        if not readable:
            raise ValueError(
                f"`store` {path} was written in format {manifest['format']}; this version of bnjax "
                f"reads format {_FORMAT}."
            )

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self._group.attrs)

    # Chunks.

    def file(self, variable: str, chunk: int) -> Path:
        """Where a variable's part of a chunk is, once it is there."""
        where = self.chunks.where(chunk)
        return self._file(variable, where + (0,) * (self.array(variable).ndim - len(where)))

    def _file(self, variable: str, where: tuple[int, ...]) -> Path:
        return self.path / variable / self.array(variable).metadata.encode_chunk_key(where)

    def array(self, variable: str) -> zarr.Array[Any]:
        if variable not in self._arrays:
            self._arrays[variable] = self._group[variable]
        return self._arrays[variable]

    def done(self, which: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Which chunks, among some or all, are there and whole: every byte is read."""

        def whole(chunk: int) -> bool:
            if which is not None and not which[chunk]:
                return False
            return all(_is_whole(self.file(name, chunk)) for name in self._filled)

        def parts(some: NDArray[np.intp]) -> list[bool]:
            return [whole(int(chunk)) for chunk in some]

        number = self.chunks.number
        with ThreadPoolExecutor() as pool:
            several = np.array_split(np.arange(number), min(number, 1024))
            return np.concatenate([np.asarray(x, bool) for x in pool.map(parts, several)])

    def torn_labels(self) -> tuple[str, ...]:
        """Labels that are not there or not whole."""
        return tuple(name for name in self.labels if not _is_whole(self._file(name, (0,))))

    def begun(self, which: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Which chunks, among some or all, have their last file, on the word of the directory."""
        begun = np.zeros(self.chunks.number, bool)
        for chunk in range(begun.size) if which is None else np.flatnonzero(which):
            begun[chunk] = self.file(STATUS, int(chunk)).exists()
        return begun

    def touched(self) -> NDArray[np.bool_]:
        """Which chunks have any file."""
        names, chunks = self._filled, range(self.chunks.number)
        there = (any(self.file(name, chunk).exists() for name in names) for chunk in chunks)
        return np.fromiter(there, bool)

    def count(self, done: NDArray[np.bool_]) -> dict[CellStatus, int]:
        """Cells in each state, where those of chunks that are not done are missing."""
        counts = np.zeros(len(CellStatus), np.int64)
        for chunk in np.flatnonzero(done):
            codes = self.read(int(chunk), (STATUS,))[STATUS]
            # Not `np.bincount`, which makes integers of eight bytes first.
            counts += [np.count_nonzero(codes == code) for code in CellStatus]
        counts[CellStatus.MISSING] += int(np.prod(self.chunks.shape)) - counts.sum()
        return {code: int(counts[code]) for code in CellStatus}

    def discard(self, chunk: int) -> None:
        """Remove what there is of a chunk that is not whole: Zarr might want to read it."""
        for name in self._filled:
            self.file(name, chunk).unlink(missing_ok=True)

    def sweep_out(self) -> None:
        """Remove what writers left behind who did not live to rename it."""
        for name in (STATUS, *self.variables, *self.labels):
            for file in (self.path / name).rglob("*.partial"):
                file.unlink(missing_ok=True)
        shutil.rmtree(_workshop(self.path), ignore_errors=True)

    def mend(self, layout: Layout) -> None:
        """Write labels again that are not whole."""
        for name in self.torn_labels():
            self._file(name, (0,)).unlink(missing_ok=True)
            _fill(self._to_write(name), layout.labels[name][1])

    def write(self, chunk: int, results: Mapping[str, NDArray[Any]]) -> None:
        """Write the cells [cells, ...] of a chunk, and then that they are there."""
        where, extent = self.chunks.slices(chunk), self.chunks.extent(chunk)
        for name in (*self.variables, STATUS):
            if name in self._filled:
                values = results[name]
                self._to_write(name)[where] = values.reshape(*extent, *values.shape[1:])

    def _to_write(self, name: str) -> Any:
        import zarr

        if name not in self._writable:
            group: Any = zarr.open_group(self.path, mode="r+", use_consolidated=True)
            # Also a chunk of nothing but fill values is a file, which Zarr would leave out.
            self._writable[name] = group[name].with_config({"write_empty_chunks": True})
        return self._writable[name]

    def read(self, chunk: int, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The cells [cells, ...] of a chunk, by variable."""
        where, size = self.chunks.slices(chunk), int(np.prod(self.chunks.extent(chunk)))
        result = {}
        for name in (*self.variables, STATUS) if names is None else names:
            values = np.asarray(self.array(name)[where])
            result[name] = values.reshape(size, *values.shape[len(where) :])
        return result

    # Who writes.

    @contextlib.contextmanager
    def lease(self, process: int) -> Iterator[Log]:
        """Be the only writer with this number, until the process ends, however it does."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._lease(process), timeout=_PATIENCE)
        log = self._log(process)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
                log.start()
            except Timeout:
                raise ValueError(
                    f"`store` {self.path} is being written by another sweep ({log.writer()}). Wait "
                    "for it, or stop it."
                ) from None
            except (OSError, NotImplementedError) as error:
                raise _unwritable(self.path, error) from error
            yield log

    def writers(self, but: int | None = None) -> list[int]:
        """Numbers of the processes that are writing now, one perhaps left out."""
        from filelock import FileLock, Timeout

        alive = []
        for file in sorted((self.path / STATUS).glob("process-*.lock")):
            number = int(file.stem.removeprefix("process-"))
            if number == but:
                continue
            lock = FileLock(file, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                alive.append(number)
            except (OSError, NotImplementedError):  # cannot be locked, hence not by others
                continue
            else:
                lock.release()
        return alive

    def logs(self) -> list[Log]:
        """Of the processes of the last run."""
        logs = [self._log(0)]
        return logs + [self._log(i) for i in range(1, logs[0].last_run()[0].get("processes", 1))]

    def _log(self, process: int) -> Log:
        return Log(self.path / STATUS / f"process-{process}.log")

    def _lease(self, process: int) -> Path:
        return self.path / STATUS / f"process-{process}.lock"


@dataclasses.dataclass(frozen=True)
class Log:
    """What a process says of its own work: lines of JSON for the start and for each chunk."""

    path: Path

    def start(self) -> None:
        self._add({"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()})

    def about(self, **about: Any) -> None:
        """Say more of the start."""
        self._add(about)

    def chunk(self, chunk: int, cells: int, seconds: float) -> None:
        self._add({"chunk": chunk, "cells": cells, "seconds": round(seconds, 6)})

    def last_run(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What was said at the last start, and of the chunks since."""
        start: dict[str, Any] = {}
        chunks: list[dict[str, Any]] = []
        if self.path.exists():
            for line in self.path.read_text(errors="replace").splitlines():
                try:
                    said = json.loads(line)
                except ValueError:  # a line that was cut off
                    continue
                if "pid" in said:
                    start, chunks = said, []
                elif "chunk" in said:
                    chunks.append(said)
                else:
                    start |= said
        return start, chunks

    def writer(self) -> str:
        start, _ = self.last_run()
        if not start:
            return "which has not said more"
        return f"process {start['pid']} on {start['host']}"

    def _add(self, what: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(f"\n{json.dumps(what)}\n")  # a cut-off line before must not spoil this one


def create(
    path: Path,
    layout: Layout,
    configuration: Mapping[str, Any],
    block: int,
    about: Mapping[str, Any],
) -> Store:
    """Make an empty store, which is there as a whole or not at all."""
    from filelock import FileLock, Timeout

    workshop = _workshop(path)
    try:
        workshop.mkdir(parents=True, exist_ok=True)
        with FileLock(workshop / "lock", timeout=0):
            try:
                if path.exists() and (not path.is_dir() or any(path.iterdir())):
                    raise _made_by_another(path)
                shutil.rmtree(workshop / "store", ignore_errors=True)  # of one who was killed here
                _build(workshop / "store", layout, configuration, block, about)
                _flush(workshop / "store")
                if path.exists():
                    path.rmdir()
                (workshop / "store").rename(path)
                _flush_directory(path.parent)
            finally:
                shutil.rmtree(workshop, ignore_errors=True)
    except Timeout:
        raise _made_by_another(path) from None
    except (OSError, NotImplementedError) as error:
        raise _unwritable(path, error) from error
    return Store(path)


def _workshop(path: Path) -> Path:
    """Where a store is made: beside its place, so that it can be moved there."""
    return path.with_name(f".{path.name}.making")


def _something_else(path: Path) -> ValueError:
    if not path.exists():  # of those who only look
        return ValueError(f"`store` must be a sweep; there is nothing at {path}.")
    return ValueError(f"`store` must be a sweep, or not exist; {path} is something else.")


def _made_by_another(path: Path) -> ValueError:
    return ValueError(
        f"`store` {path} is being made by another sweep at this moment. Wait for it, or stop it."
    )


def _unwritable(path: Path, error: OSError | NotImplementedError) -> ValueError:
    why = error.strerror if isinstance(error, OSError) else None
    return ValueError(f"`store` must be writable; {path}: {why or error}.")


def _build(
    path: Path,
    layout: Layout,
    configuration: Mapping[str, Any],
    block: int,
    about: Mapping[str, Any],
) -> None:
    import zarr

    path.mkdir()
    manifest = {
        "format": _FORMAT,
        "hash": hashed(configuration),
        "configuration": configuration,
        "shape": layout.axes.shape,
        "chunk": layout.box,
        "block": block,
        "variables": [output.name for output in layout.outputs],
        "arguments": list(layout.axes.values),
        "labels": list(layout.labels),
    }
    # The convention by which xarray knows the arguments of a zipped axis from results.
    labels = {"coordinates": " ".join(layout.labels)}
    group = zarr.create_group(path, attributes={**about, **labels, "sweep": manifest})
    for name, (dim, values) in layout.labels.items():
        _label(group, name, dim, values, layout.attrs.get(name, {}))
    for output in layout.outputs:
        dims, attrs = layout.dims[output.name], layout.attrs.get(output.name, {})
        _variable(group, layout, output, dims, attrs)
    _variable(group, layout, STATUS_OUTPUT, (), _status_attributes())
    with warnings.catch_warnings():
        # So that opening does not list a directory with all its chunks.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(path)


def _flush(path: Path) -> None:
    """Put what is in a directory on the disk, so that not even a failure of power can tear it."""
    for folder, _, files in os.walk(path):
        for file in files:
            with open(Path(folder, file), "rb+") as opened:
                os.fsync(opened.fileno())
        _flush_directory(Path(folder))


def _flush_directory(path: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # not on Windows, where it needs no flushing
        return
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def hashed(configuration: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What is not the same in two configurations, in words."""
    a, b = _flat(stored), _flat(given)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    told = []
    for name in names:
        of, _, last = name.rpartition(".")
        if last == "values":  # checksums, which are told only if nothing else tells
            if not any(other != name and other.startswith(f"{of}.") for other in names):
                told.append(f"{of} has other values, between the same ends")
        elif name == "function.program":
            told.append(
                f"{name} is another: what the function computes has changed, in itself, in what it "
                "holds, or in a library that it calls"
            )
        else:
            told.append(f"{name} is {a.get(name, 'absent')} there and {b.get(name, 'absent')} here")
    return told


def _flat(nested: Any, name: str = "") -> dict[str, Any]:
    if isinstance(nested, Mapping):
        flat: dict[str, Any] = {}
        for key, value in nested.items():
            flat |= _flat(value, f"{name}.{key}" if name else key)
        return flat
    return {name: json.loads(json.dumps(nested))}


def _label(group: Any, name: str, dim: str, values: NDArray[Any], attrs: Mapping[str, Any]) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    text = values.dtype.kind in "OUT"
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(max(1, values.size),),
        dtype=str if text else values.dtype,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=(dim,),
        attributes=dict(attrs),
        config={"write_empty_chunks": True},
    )
    _fill(array, values)


def _fill(array: Any, values: NDArray[Any]) -> None:
    array[:] = values.astype(object) if values.dtype.kind in "OUT" else values


def _variable(
    group: Any, layout: Layout, output: Output, dims: tuple[str, ...], attrs: Mapping[str, Any]
) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group.create_array(
        output.name,
        shape=(*layout.axes.shape, *output.shape),
        chunks=(*layout.box, *(max(1, n) for n in output.shape)),
        dtype=output.dtype,
        fill_value=_missing(output),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=(*layout.axes.dims, *dims),
        attributes=dict(attrs),
    )


def _missing(output: Output) -> Any:
    """What stands where nothing has been computed: NaN, or a number that no code is."""
    kind = output.dtype.kind
    if output.name == STATUS or kind == "b":
        return output.dtype.type(0)
    if kind in "fc":
        return output.dtype.type(np.nan)
    limits = np.iinfo(output.dtype)
    return output.dtype.type(limits.min if kind == "i" else limits.max)


def _status_attributes() -> dict[str, Any]:
    return {
        "long_name": "what became of the cell",
        "flag_values": [code.value for code in CellStatus],
        "flag_meanings": " ".join(code.name for code in CellStatus),
    }


def _is_whole(file: Path) -> bool:
    """Whether a file is there and ends in its checksum."""
    import google_crc32c

    try:
        with file.open("rb") as opened:
            left = os.fstat(opened.fileno()).st_size - _SUM_BYTES
            if left <= 0:
                return False
            checksum = 0
            while left > 0 and (piece := opened.read(min(left, _PIECE_BYTES))):
                checksum = google_crc32c.extend(checksum, piece)
                left -= len(piece)
            return opened.read() == checksum.to_bytes(_SUM_BYTES, "little")
    except OSError:
        return False
