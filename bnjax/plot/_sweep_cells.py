"""What a picture of a sweep shows: cells along one or two axes, read block by block."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .._check import suggestion
from ..sweeps import CellStatus

MOST = 600  # cells along an axis: as many as a column has dots in print
_BLOCK = 2**24  # cells that are read at once, where chunks allow
_NUMBERS = ("mean", "min", "max")
_MODE = "mode"
_STATUS = "status"


@dataclasses.dataclass(frozen=True)
class Side:
    """What runs along a side of the picture.

    Parameters
    ----------
    dim, name : the dimension, and which of its arguments labels it.
    shown : which positions along the dimension.
    values : numbers [N] there, or positions where the argument has none that a side can be made of.
    labels : names [N] there, if the argument has names.
    """

    dim: str
    name: str
    shown: slice
    values: np.ndarray
    labels: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Picture:
    """Values along one or two sides.

    Parameters
    ----------
    values : [Y, X], or [1, X] if there is one side; NaN where there is none.
    missing, failed : which have not been computed, and which went wrong, so that there is none.
    categories : names of codes, if the values are codes.
    label : what the values are, with their unit.
    notes : what was selected, reduced or left out.
    """

    values: np.ndarray
    missing: np.ndarray
    failed: np.ndarray
    x: Side
    y: Side | None
    categories: Mapping[int, str] | None
    label: str
    notes: tuple[str, ...]


def picture_of(
    dataset: xr.Dataset,
    variable: str | None,
    x: str | None,
    y: str | None,
    select: Mapping[str, Any],
    reduce: str | None,
) -> Picture:
    """Read what is to be shown, or say what is wrong with what was asked for."""
    if not isinstance(dataset, xr.Dataset) or _STATUS not in dataset:
        raise ValueError(
            "`dataset` must be what `bnjax.sweep` returns, or xarray.open_zarr of its store; it "
            f"has a variable `{_STATUS}`."
        )
    data = dataset[_variable(dataset, variable)]
    chosen, notes = _selected(dataset, data, select)
    sides = _sides(dataset, data, x, y, chosen)
    others = [
        str(dim)
        for dim in data.dims
        if dim not in chosen and dim not in [side.dim for side in sides]
    ]
    chosen |= {dim: 0 for dim in others if data.sizes[dim] == 1}
    others = [dim for dim in others if dim not in chosen]
    categories = _categories(data)
    way = _way(reduce, others, categories, data.dtype.kind)
    if others:
        notes.append(f"{_said(way, categories)} over {' and '.join(others)}")
    strides: dict[str, list[str]] = {}
    for side in sides:
        stride = f"one in {side.shown.step:,} of {data.sizes[side.dim]:,} values"
        if side.shown.step > 1:
            strides.setdefault(stride, []).append(side.name)
    notes += [f"{stride} along {' and '.join(names)}" for stride, names in strides.items()]
    *reduced, left_out = _read(dataset, data, sides, others, chosen, way)
    values, missing, failed = (np.atleast_2d(part) for part in reduced)
    if others and left_out:
        notes.append(f"without {left_out:,} cells that failed or are missing")
    name = str(data.attrs.get("long_name", data.name)).replace("_", " ")
    units = data.attrs.get("units")
    label = f"{name} ({units})" if units else name
    if isinstance(way, int) and categories is not None:
        label = f"share of cells that are {categories[way].lower().replace('_', ' ')}"
    elif way == "mean" and data.dtype.kind == "b":
        label = f"share of cells: {name}"
    keeps_codes = way in (None, _MODE, "min", "max") and categories is not None
    return Picture(
        values,
        missing,
        failed,
        sides[-1],
        sides[0] if len(sides) == 2 else None,
        categories if keeps_codes else None,
        label,
        tuple(notes),
    )


# What is asked for.


def _variable(dataset: xr.Dataset, name: str | None) -> str:
    outputs = _outputs(dataset)
    if name is None:
        telling = [each for each in outputs if not each.endswith("converged")] or outputs
        return "phase" if "phase" in telling else telling[0]
    if name not in [*outputs, _STATUS]:
        raise ValueError(
            f"`variable` must be one of {', '.join([*outputs, _STATUS])}; got {name!r}"
            f"{suggestion(name, outputs)}"
        )
    return name


def _arguments(dataset: xr.Dataset) -> list[str]:
    """Arguments of the function that was swept."""
    manifest = dataset.attrs.get("sweep", {})
    return [name for name in manifest.get("arguments", dataset.coords) if name in dataset]


def _outputs(dataset: xr.Dataset) -> list[str]:
    manifest = dataset.attrs.get("sweep", {})
    known = manifest.get("variables", [name for name in dataset.data_vars if name != _STATUS])
    outputs = [str(name) for name in known if name in dataset]
    if not outputs:
        raise ValueError("`dataset` must hold an output of the sweep; it has none.")
    return outputs


def _columns(dataset: xr.Dataset, dim: str) -> list[str]:
    """Names that a dimension goes by: its own, and those of arguments that vary along it."""
    names = [name for name in _arguments(dataset) if dataset[name].dims == (dim,)]
    return names if dim in names else [dim, *names]


def _dim_of(dataset: xr.Dataset, data: xr.DataArray, argument: str, name: str) -> str:
    known: dict[str, str] = {}
    for dim in map(str, data.dims):
        known |= dict.fromkeys(_columns(dataset, dim), dim)
    if name not in known:
        raise ValueError(
            f"`{argument}` must name what `{data.name}` varies with: {', '.join(known) or 'none'}; "
            f"got {name!r}{suggestion(name, known)}"
        )
    return known[name]


def _values(dataset: xr.Dataset, dim: str, name: str) -> np.ndarray:
    """Values along a dimension; numbers of positions where there are none."""
    return dataset[name].values if name in dataset.variables else np.arange(dataset.sizes[dim])


def _selected(
    dataset: xr.Dataset, data: xr.DataArray, select: Mapping[str, Any]
) -> tuple[dict[str, int], list[str]]:
    """Position along each dimension of which one value is wanted: that of the nearest."""
    chosen, notes = {}, []
    for name, wanted in select.items():
        dim = _dim_of(dataset, data, "select", name)
        if dim in chosen:
            raise ValueError(f"`select` must name each dimension once; got `{dim}` twice.")
        values = _values(dataset, dim, name)
        if values.dtype.kind in "OUT":
            names = [str(value) for value in values]
            if wanted not in names:
                raise ValueError(
                    f"`select` must be one of {', '.join(names)} for {name}; got {wanted!r}"
                    f"{suggestion(str(wanted), names)}"
                )
            chosen[dim] = names.index(str(wanted))
            notes.append(f"{name} = {wanted}")
            continue
        try:
            number = float(wanted)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"`select` must be a number for {name}; got {wanted!r}.")
        chosen[dim] = int(np.abs(values.astype(float) - number).argmin())
        notes.append(f"{name} = {values[chosen[dim]]:g}")
    return chosen, notes


def _sides(
    dataset: xr.Dataset,
    data: xr.DataArray,
    x: str | None,
    y: str | None,
    chosen: Mapping[str, int],
) -> list[Side]:
    """Sides of the picture, y before x."""
    named = {}
    for argument, name in (("x", x), ("y", y)):
        if name is not None:
            dim = _dim_of(dataset, data, argument, name)
            if dim in chosen:
                raise ValueError(f"`{argument}` must not be selected too; got {name!r}.")
            named[argument] = dim, name
    if len(named) == 2 and named["x"][0] == named["y"][0]:
        raise ValueError(f"`x` and `y` must be different dimensions; got {x!r} and {y!r}.")
    if "x" not in named:
        taken = [dim for dim, _ in named.values()]
        free = [
            str(dim)
            for dim in dataset[_STATUS].dims
            if dim in data.dims and dim not in chosen and dim not in taken
        ]
        long = [dim for dim in free if data.sizes[dim] > 1] or free
        if not long:
            raise ValueError("`select` must leave something to show; all is selected.")
        wanted = long[:1] if y is not None else long[:2]
        for argument, dim in zip(("x", "y"), wanted, strict=False):
            named.setdefault(argument, (dim, _columns(dataset, dim)[0]))
    return [_side(dataset, *named[argument]) for argument in ("y", "x") if argument in named]


def _side(dataset: xr.Dataset, dim: str, name: str) -> Side:
    values = _values(dataset, dim, name)
    shown = slice(0, len(values), -(-len(values) // MOST))
    places = np.arange(len(values), dtype=float)[shown]
    if values.dtype.kind in "OUT":
        return Side(dim, name, shown, places, tuple(str(value) for value in values[shown]))
    numbers = values.astype(float)
    steps = np.diff(numbers)
    if (steps > 0).all() or (steps < 0).all():
        return Side(dim, name, shown, numbers[shown], None)
    return Side(dim, f"{name}, by position", shown, places, None)


def _categories(data: xr.DataArray) -> dict[int, str] | None:
    """Names of codes, from the attributes that the CF conventions give for that."""
    if data.dtype.kind == "b":
        return {0: "no", 1: "yes"}
    if "flag_values" not in data.attrs or "flag_meanings" not in data.attrs:
        return None
    codes = np.atleast_1d(data.attrs["flag_values"]).tolist()
    return dict(zip(codes, str(data.attrs["flag_meanings"]).split(), strict=False))


def _way(
    reduce: str | None,
    others: Sequence[str],
    categories: Mapping[int, str] | None,
    kind: str,
) -> str | int | None:
    """How to reduce: by name, or to the share of a code."""
    if not others:
        if reduce is not None:
            raise ValueError(
                f"`reduce` must be left out: nothing is left to reduce; got {reduce!r}."
            )
        return None
    ways: list[str] = list(_NUMBERS)
    if categories is not None and kind != "b":
        ways = [_MODE, *categories.values()]
    elif categories is not None:
        ways = [*_NUMBERS, _MODE]
    if reduce is None:
        raise ValueError(
            f"`select` must name a value of {', '.join(others)}, or `reduce` say how to reduce "
            f"{'it' if len(others) == 1 else 'them'}: {', '.join(ways)}."
        )
    if reduce not in ways:
        raise ValueError(f"`reduce` must be one of {', '.join(ways)}; got {reduce!r}.")
    if reduce in (*_NUMBERS, _MODE) or categories is None:
        return reduce
    return next(code for code, name in categories.items() if name == reduce)


def _said(way: str | int | None, categories: Mapping[int, str] | None) -> str:
    if isinstance(way, int) and categories is not None:
        return f"share of {categories[way].lower()}"
    return "most frequent" if way == _MODE else str(way)


# Reading.


def _read(
    dataset: xr.Dataset,
    data: xr.DataArray,
    sides: Sequence[Side],
    others: Sequence[str],
    chosen: Mapping[str, int],
    way: str | int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Values, what is missing, what failed, and how many cells do not count.

    Memory depends on the picture and the chunks alone.
    """
    status = dataset[_STATUS]
    shown = {side.dim: side.shown for side in sides} | {dim: slice(0, None, 1) for dim in others}
    order = [side.dim for side in sides]
    shape = tuple(len(side.values) for side in sides)
    total = _Total(shape, way, data)
    failed = np.zeros(shape, bool)
    # Along one dimension after the other in the order of the store, chunks as they lie there.
    dims = [str(dim) for dim in data.dims if dim in shown]
    for part in _blocks(dims, shown, data):
        place = tuple(part[dim][0] for dim in order)
        cells = {dim: piece for dim, (_, piece) in part.items()} | dict(chosen)
        axes = tuple(range(len(order), len(dims)))
        # First: what is not missing has its values, also while somebody is writing.
        known = {dim: piece for dim, piece in cells.items() if dim in status.dims}
        codes = _load(status.isel(known))
        codes = codes.expand_dims([dim for dim in dims if dim not in codes.dims])
        codes = codes.transpose(*order, *others).values
        fine = codes == CellStatus.OK
        # A solver that could not tell says so by a code of its own, which the picture shows.
        if data.name == _STATUS:
            fine = codes != CellStatus.MISSING
        elif way in (None, _MODE) or isinstance(way, int):
            fine |= (codes == CellStatus.NOT_CONVERGED) & (data.dtype.kind in "iu")
        values = _load(data.isel(cells)).transpose(*order, *others).values
        fine = np.broadcast_to(fine, values.shape)
        total.add(place, values, fine, axes)
        failed[place] |= (codes > CellStatus.OK).any(axes)
    values, none = total.result()
    failed &= none
    return values, none & ~failed, failed, total.seen - int(total.count.sum())


def _load(part: xr.DataArray) -> xr.DataArray:
    try:
        return part.load()
    except (OSError, RuntimeError, ValueError) as error:  # whatever a codec raises
        raise ValueError(
            f"a chunk of `{part.name}` cannot be read ({error}). `bnjax.sweeps.status` says which "
            "chunks are torn, and going on with the sweep computes them again."
        ) from error


class _Total:
    """What is known of the cells that have been read, by place in the picture."""

    def __init__(self, shape: tuple[int, ...], way: str | int | None, data: xr.DataArray):
        self.way = way
        self.seen = 0
        self.count = np.zeros(shape, np.int64)
        fill = {"min": np.inf, "max": -np.inf}.get(str(way), 0.0)
        self.value = np.full(shape, fill)
        self.codes = list(_categories(data) or {}) if way == _MODE else []
        self.votes = np.zeros((len(self.codes), *shape), np.int64)

    def add(
        self,
        place: tuple[slice, ...],
        values: np.ndarray,
        fine: np.ndarray,
        axes: tuple[int, ...],
    ) -> None:
        if values.dtype.kind in "fc":
            fine = fine & ~np.isnan(values)
        self.seen += values.size
        self.count[place] += fine.sum(axes)
        if self.way == _MODE:
            for i, code in enumerate(self.codes):
                self.votes[i][place] += (fine & (values == code)).sum(axes)
        elif self.way == "min":
            low = np.min(np.where(fine, values, np.inf), axes)
            self.value[place] = np.minimum(self.value[place], low)
        elif self.way == "max":
            high = np.max(np.where(fine, values, -np.inf), axes)
            self.value[place] = np.maximum(self.value[place], high)
        else:
            part = values == self.way if isinstance(self.way, int) else values
            self.value[place] += np.where(fine, part, 0).sum(axes, dtype=float)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Values, NaN where there are none, and where that is."""
        none = self.count == 0
        if self.way == _MODE:
            value = np.asarray(self.codes, float)[self.votes.argmax(0)]
        elif self.way in ("min", "max"):
            value = self.value
        else:
            value = self.value / np.maximum(self.count, 1)
        return np.where(none, np.nan, value), none


def _blocks(
    dims: Sequence[str], shown: Mapping[str, slice], data: xr.DataArray
) -> Iterator[dict[str, tuple[slice, slice]]]:
    """For each block and dimension, where it is among what is shown, and where in the store.

    Blocks are whole chunks, as many as a block may have cells, so that none is read twice.
    """
    chunks = data.encoding.get("preferred_chunks", {})
    pieces: list[list[tuple[slice, slice]]] = []
    room = _BLOCK
    for dim in reversed(dims):
        size, step = data.sizes[dim], shown[dim].step
        chunk = chunks.get(dim, size)
        most = -(-chunk // step)
        together = max(1, room // most)  # chunks along this dimension
        room = max(1, room // min(most * together, -(-size // step)))
        length, found = chunk * together, []
        for start in range(0, size, length):
            first, last = -(-start // step), -(-min(start + length, size) // step)
            if first < last:
                found.append(
                    (slice(first, last), slice(first * step, min(start + length, size), step))
                )
        pieces.append(found)
    for part in itertools.product(*reversed(pieces)):
        yield dict(zip(dims, part, strict=True))
