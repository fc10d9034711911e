"""The chunks of a process, computed and written until they are done or it is told to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from ._axes import STATUS
from ._program import CellStatus, Program, Tile
from ._store import Log, Store

CHUNK_BYTES = 2**26
"""Of the results of a chunk, at most, if nobody asks for more."""
_AHEAD = 4  # tiles that are begun before results are awaited, if these are not large


class Work:
    """The chunks of one process, computed one after the other while the last is written."""

    def __init__(
        self,
        store: Store,
        program: Callable[[], Program],
        log: Log,
        progress: Callable[[int, int], None] | None,
        again: str,
        say: Callable[[str], None],
    ):
        self.store, self.program, self.log, self.progress = store, program, log, progress
        self.again, self.say = again, say
        self.cells = 0
        self.total = 0

    def do(self, done: NDArray[np.bool_], rerun_failed: bool) -> None:
        """Compute what is missing, and what failed if asked."""
        missing = self._mine(np.flatnonzero(~done))
        finished = self._mine(np.flatnonzero(done))
        self.total = sum(self._size(chunk) for chunk in [*missing, *finished])
        self.cells = sum(self._size(chunk) for chunk in finished)
        repeats = finished if rerun_failed else []
        with _terminable(self._how_to_go_on, self.say) as stopped, ThreadPoolExecutor(1) as writer:
            for chunk in repeats:
                if not stopped.is_set():
                    self._repeat(chunk)
            if missing:
                self._compute(missing, self.program(), stopped, writer)

    def _how_to_go_on(self) -> str:
        return (
            f"terminated; {self.cells:,} of {self.total:,} cells are done in {self.store.path}. "
            f"{self.again[0].upper()}{self.again[1:]} goes on"
        )

    def _mine(self, chunks: NDArray[np.intp]) -> list[int]:
        return [int(chunk) for chunk in chunks[jax.process_index() :: jax.process_count()]]

    def _size(self, chunk: int) -> int:
        return int(np.prod(self.store.chunks.extent(chunk)))

    def _compute(
        self,
        chunks: Sequence[int],
        program: Program,
        stopped: threading.Event,
        writer: ThreadPoolExecutor,
    ) -> None:
        """Compute chunks, and write each while the next is computed.

        A few tiles are begun ahead of the one whose results are awaited, also across the border
        between two chunks, so that nobody waits for the host.
        """
        ahead = max(1, min(_AHEAD, CHUNK_BYTES // program.nbytes))
        unsafe: deque[_Unsafe] = deque()
        began = time.monotonic()

        def fetch(chunk: _Unsafe) -> None:
            where, tile = chunk.tiles[0]
            program.fetch(tile, {name: x[where] for name, x in chunk.results.items()})
            chunk.tiles.popleft()
            if where.stop == self._size(chunk.number):
                chunk.writing = writer.submit(self._write, chunk.number, chunk.results)

        def finish(chunk: _Unsafe) -> None:
            nonlocal began
            while chunk.tiles and not stopped.is_set():
                fetch(chunk)
            chunk.cancel()
            if chunk.writing is not None:
                chunk.writing.result()
                began = self._written(chunk.number, began)

        try:
            for number in chunks:
                # No more than one is ever computed and not safe while another is being computed.
                if len(unsafe) == 2:
                    finish(unsafe[0])
                    unsafe.popleft()
                if stopped.is_set():
                    break
                cells = self.store.chunks.cells(number)
                unsafe.append(_Unsafe(number, program.room(len(cells))))
                for begin in range(0, len(cells), program.tile):
                    if stopped.is_set():
                        break
                    where = slice(begin, min(begin + program.tile, len(cells)))
                    unsafe[-1].tiles.append((where, program.start(cells[where])))
                    if sum(len(chunk.tiles) for chunk in unsafe) > ahead:
                        fetch(next(chunk for chunk in unsafe if chunk.tiles))
            while unsafe:
                finish(unsafe[0])
                unsafe.popleft()
        finally:  # also of one that is interrupted
            for chunk in unsafe:
                chunk.cancel()

    def _write(self, chunk: int, results: Mapping[str, NDArray[Any]]) -> None:
        with self._told():
            self.store.write(chunk, results)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say what a disk that refuses means."""
        try:
            yield
        except OSError as error:
            said = f"{self.cells:,} of {self.total:,} cells are done and safe"
            raise OSError(
                error.errno,
                f"a chunk of {self.store.path} could not be written: {error.strerror or error}; "
                f"{said}. When that is mended, {self.again} goes on",
            ) from error

    def _written(self, chunk: int, began: float) -> float:
        size, now = self._size(chunk), time.monotonic()
        self.cells += size
        with self._told():
            self.log.chunk(chunk, size, now - began)
        if self.progress is not None:
            self.progress(self.cells, self.total)
        return now

    def _repeat(self, chunk: int) -> None:
        """Compute the failed cells of a chunk again."""
        status = self.store.read(chunk, (STATUS,))[STATUS]
        failed = np.flatnonzero(status != CellStatus.OK)
        if failed.size:
            old, program = self.store.read(chunk), self.program()
            numbers = (self.store.chunks.cells(chunk).start + failed).astype(np.uint32)
            new = program.room(failed.size)
            for begin in range(0, failed.size, program.tile):
                some = slice(begin, begin + program.tile)
                started = program.start(numbers[some])
                program.fetch(started, {name: x[some] for name, x in new.items()})
            for name, values in new.items():
                old[name][failed] = values
            self._write(chunk, old)


@dataclasses.dataclass
class _Unsafe:
    """A chunk that has been begun and is not on the disk."""

    number: int
    results: dict[str, NDArray[Any]]
    tiles: deque[tuple[slice, Tile]] = dataclasses.field(default_factory=deque)
    """Those that have been begun and not fetched, and where their results belong."""
    writing: Future[None] | None = None

    def cancel(self) -> None:
        """Do not begin what nobody is to wait for."""
        for _, tile in self.tiles:
            tile.cancel()


@contextlib.contextmanager
def _terminable(
    message: Callable[[], str], say: Callable[[str], None]
) -> Iterator[threading.Event]:
    """Let SIGTERM say when to stop; afterwards it does what it would have done."""
    stopped = threading.Event()
    before = signal.getsignal(signal.SIGTERM)
    only_main = threading.current_thread() is threading.main_thread()  # may ask for signals
    if not only_main or before is signal.SIG_IGN:
        yield stopped
        return
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if stopped.is_set():
            say(f"bnjax: {message()}.")
            signal.raise_signal(signal.SIGTERM)
    if stopped.is_set():  # and the caller's own way with signals is to live on
        raise RuntimeError(f"{message()}.")
