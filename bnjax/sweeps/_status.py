"""How far a sweep has come, and which of its cells failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._axes import STATUS
from ._program import CellStatus
from ._store import Store

if TYPE_CHECKING:
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class SweepStatus:
    """How far a sweep has come.

    Attributes
    ----------
    cells : how many there are.
    counts : how many of them are in each state, by `CellStatus`.
    chunks : how many there are.
    done : how many of these are there and whole.
    torn : numbers of those that are there in part, or whose checksums are wrong. The next run
        computes them again.
    rate : cells a second in the last run of all processes together, NaN if nothing is known.
    writers : numbers of the processes that are writing now.
    torn_labels : names of axes and coordinates that are not there or not whole. The next run
        writes them again.
    """

    cells: int
    counts: dict[CellStatus, int]
    chunks: int
    done: int
    torn: tuple[int, ...]
    rate: float
    writers: tuple[int, ...]
    torn_labels: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Cells that were computed and went wrong."""
        return sum(number for code, number in self.counts.items() if code.is_failure)

    @property
    def complete(self) -> bool:
        """Whether every chunk and every label is there and whole."""
        return self.done == self.chunks and not self.torn_labels

    @property
    def seconds_left(self) -> float:
        """Time that what is missing will take at this rate, NaN if nothing is known of it."""
        left = self.counts[CellStatus.MISSING]
        return left / self.rate if left else 0.0

    def summary(self) -> str:
        """How far it is, and what is wrong with it, in words.

        Returns
        -------
        str
        """
        counts = ", ".join(
            f"{number:,} {code.name}"
            for code, number in self.counts.items()
            if number or code is CellStatus.OK
        )
        lines = [f"{self.cells:,} cells: {counts}", f"{self.done:,} of {self.chunks:,} chunks done"]
        if self.torn:
            lines.append(f"torn chunks, to be computed again: {', '.join(map(str, self.torn))}")
        if self.torn_labels:
            lines.append(f"torn labels, to be written again: {', '.join(self.torn_labels)}")
        if self.writers:
            lines.append(f"writing now: processes {', '.join(map(str, self.writers))}")
        if not np.isnan(self.rate):
            left = "" if self.complete else f", {self.seconds_left:,.0f} s left"
            rate = f"{self.rate:,.0f}" if self.rate >= 100 else f"{self.rate:.3g}"
            lines.append(f"{rate} cells a second{left}")
        lines.append("complete" if self.complete else "not complete")
        return "\n".join(lines)


def status(store: str | Path) -> SweepStatus:
    """Look at a sweep, also while it runs: every byte is read and every checksum tested.

    Parameters
    ----------
    store : directory of a sweep.

    Returns
    -------
    SweepStatus
        Numbers of cells and chunks, and their rate in cells a second.

    Raises
    ------
    ValueError
        If that is no sweep.

    Examples
    --------
    >>> import bnjax as bn
    >>> def square(x):
    ...     return {"y": x**2}
    >>> _ = bn.sweep(square, {"x": "0:1:11"}, store="squares.zarr")
    >>> print(bn.sweeps.status("squares.zarr").summary())
    11 cells: 11 OK
    1 of 1 chunks done
    ... cells a second
    complete
    """
    opened = Store(Path(store))
    # In this order: a chunk that is being written is missing rather than torn.
    done = opened.done()
    touched = opened.touched() & ~done
    if touched.any():
        done |= opened.done(touched)
    writers = opened.writers()
    torn = () if writers else tuple(int(chunk) for chunk in np.flatnonzero(touched & ~done))
    counts = opened.count(done)
    return SweepStatus(
        int(np.prod(opened.chunks.shape)),
        counts,
        opened.chunks.number,
        int(done.sum()),
        torn,
        rate_of(opened),
        tuple(writers),
        opened.torn_labels(),
    )


def rate_of(store: Store) -> float:
    """Cells a second in the last run of all processes together, NaN if nothing is known."""
    chunks = [log.last_run()[1] for log in store.logs()]
    seconds = [sum(chunk["seconds"] for chunk in run) for run in chunks]
    rates = [
        sum(chunk["cells"] for chunk in run) / time
        for run, time in zip(chunks, seconds, strict=True)
        if time
    ]
    return float(sum(rates)) if rates else float("nan")


def one_failure(store: Store) -> tuple[dict[str, Any], str] | None:
    """Arguments of one failed cell, and what is wrong with it in words."""
    import xarray as xr

    for chunk in map(int, np.flatnonzero(store.begun())):
        codes = store.read(chunk, (STATUS,))[STATUS]
        bad = np.flatnonzero(codes > CellStatus.OK)
        if not bad.size:
            continue
        cell = bad[bad.size // 2]  # the first is often a corner, with reasons of its own
        outputs = {name: values[cell] for name, values in store.read(chunk).items()}
        if codes[cell] == CellStatus.NONFINITE:
            silent = {STATUS, *store.configuration["may_be_nan"]}
            wrong = [
                f"`{name}`"
                for name, value in outputs.items()
                if name not in silent and value.dtype.kind in "fc" and not np.isfinite(value).all()
            ]
            what = f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not finite"
        else:
            wrong = [
                f"`{name}`"
                for name, value in outputs.items()
                if name.rpartition(".")[2] == "converged" and not np.all(value)
            ]
            what = f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} False"
        number = np.asarray(store.chunks.cells(chunk)[int(cell)])
        at = _arguments_at(xr.open_zarr(store.path), store, number)
        arguments = {name: x.values.item() for name, x in at.items()}
        return arguments, what
    return None


def place(arguments: Mapping[str, Any]) -> str:
    """A cell, in words."""
    return ", ".join(f"{name} = {value:g}" for name, value in arguments.items())


def failed(store: str | Path) -> xr.Dataset:
    """The failed cells of a sweep.

    Parameters
    ----------
    store : directory of a sweep.

    Returns
    -------
    xarray.Dataset
        Along ``cell``: ``status`` and the arguments of each failed cell, and its ``number``
        (the last axis runs fastest). ``axes={"cell": {name: table[name] for name in ...}}`` makes
        a sweep of these alone, with another function or other settings.

    Raises
    ------
    ValueError
        If that is no sweep.
    """
    import xarray as xr

    opened = Store(Path(store))
    numbers: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    codes: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
    for chunk in np.flatnonzero(opened.done()):
        status = opened.read(int(chunk), (STATUS,))[STATUS]
        bad = np.flatnonzero(status != CellStatus.OK)
        numbers.append(opened.chunks.cells(int(chunk)).start + bad)
        codes.append(status[bad])
    number, code = np.concatenate(numbers), np.concatenate(codes)
    dataset = xr.open_zarr(store)
    variables = {
        name: ("cell", x.values, x.attrs)
        for name, x in _arguments_at(dataset, opened, number).items()
    }
    return xr.Dataset(
        {STATUS: ("cell", code, dataset[STATUS].attrs), "number": ("cell", number), **variables}
    )


def _arguments_at(
    dataset: xr.Dataset, store: Store, numbers: NDArray[np.integer]
) -> dict[str, xr.DataArray]:
    """Arguments of cells, by their numbers in the grid."""
    import xarray as xr

    where = np.unravel_index(numbers, store.chunks.shape)
    index = dict(zip(dataset[STATUS].dims, where, strict=True))
    columns = {name: dataset[name] for name in store.arguments}
    return {
        name: xr.DataArray(x.values[index[x.dims[0]]], attrs=x.attrs) for name, x in columns.items()
    }
