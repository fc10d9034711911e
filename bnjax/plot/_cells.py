"""Cells of a phase diagram: their coordinates, their phases, and the sides between them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import xarray as xr
from matplotlib.path import Path

from ..equilibrium import Phase


def oriented(
    dataset: xr.Dataset, x: str | None, y: str | None
) -> tuple[xr.DataArray, str, str | None]:
    """Phases with dimensions (y, x), or (x,), and what these are."""
    if not isinstance(dataset, xr.Dataset) or "phase" not in dataset:
        has = list(dataset.data_vars) if isinstance(dataset, xr.Dataset) else type(dataset).__name__
        raise ValueError(
            "`dataset` must be an xarray.Dataset with a variable `phase`, as "
            f"`bnjax.phase_diagram` returns it for problems that say which actions are safe; got "
            f"{has}."
        )
    codes = dataset["phase"]
    dims = [str(dim) for dim in codes.dims]
    if not 1 <= len(dims) <= 2:
        raise ValueError(
            f"`dataset` must have one or two dimensions to draw; got {tuple(dims)}: select one "
            "value of each of the others first, for example with `dataset.isel(...)`."
        )
    for argument, dim in (("x", x), ("y", y)):
        if dim is not None and dim not in dims:
            raise ValueError(f"`{argument}` must be one of the dimensions {dims}; got {dim!r}.")
    if len(dims) == 1:
        if y is not None:
            raise ValueError(f"`y` must be left out: the one dimension {dims[0]!r} goes along x.")
        return codes, dims[0], None
    if x is None:
        x = dims[0] if y != dims[0] else dims[1]
    if y is None:
        y = dims[1] if x != dims[1] else dims[0]
    if x == y:
        raise ValueError(f"`x` and `y` must be different dimensions; got {x!r} twice.")
    return codes.transpose(y, x), x, y


def about(dataset: xr.Dataset, codes: xr.DataArray) -> str:
    """Scenario and what does not vary, as far as the dataset knows them."""
    if "scenario" not in dataset.attrs or "fixed" not in dataset.attrs:
        return ""
    fixed = dataset.attrs["fixed"]
    # A netCDF file holds no mapping: there it is text.
    values = json.loads(fixed) if isinstance(fixed, str) else dict(fixed)
    if "exploration" in dataset.attrs:
        values["exploration"] = float(dataset.attrs["exploration"])
    values |= {str(name): at.item() for name, at in codes.coords.items() if at.ndim == 0}
    numbers = {k: f"{x:.6g}" if isinstance(x, (int, float)) else x for k, x in values.items()}
    named = ", ".join(f"{name}\xa0=\xa0{x}" for name, x in numbers.items())
    return f"{dataset.attrs['scenario']}{': ' if named else ''}{named}"


def coordinate(codes: xr.DataArray, dim: str) -> np.ndarray:
    values = codes[dim].values
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise ValueError(f"`dataset` must have finite numbers along {dim!r}; got {values!r}.")
    steps = np.diff(values.astype(float))
    if len(values) == 0 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"`dataset` must have increasing or decreasing values along {dim!r}; got {values!r}."
        )
    return values.astype(float)


def phase_codes(codes: xr.DataArray) -> np.ndarray:
    """Codes [y, x] (one row for a strip)."""
    values = np.atleast_2d(codes.values)
    known = np.isin(values, [int(code) for code in Phase])
    if not known.all():
        raise ValueError(
            f"`dataset` must hold codes of bnjax.Phase in `phase`; got {values[~known][0]}."
        )
    return values.astype(int)


def cell_edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells half-way between their centres, the outermost as far out as in."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def is_probability(name: str | None, values: np.ndarray) -> bool:
    named = name is not None and (
        name.startswith("p_") or name in ("detect_lower", "detect_upper", "width", "exploration")
    )
    return named and bool(values.min() >= 0 and values.max() <= 1)


def limits(name: str | None, centres: np.ndarray) -> tuple[float, float]:
    """All of the cells, except what would be a probability below 0 or above 1."""
    edges = cell_edges(np.sort(centres))
    low, high = float(edges[0]), float(edges[-1])
    return (max(low, 0.0), min(high, 1.0)) if is_probability(name, centres) else (low, high)


def cell_of(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number of the cell that each value lies in; edges may run either way."""
    sign = 1 if edges[-1] > edges[0] else -1
    cells = np.searchsorted(sign * edges, sign * values) - 1
    return np.clip(cells, 0, len(edges) - 2)


def union(edges_x: np.ndarray, edges_y: np.ndarray, mask: np.ndarray) -> Path:
    """One path of the rectangles that make up a region: a row of cells is cut into runs."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(int)
    row, start = np.nonzero(np.diff(padded, axis=1) == 1)
    _, stop = np.nonzero(np.diff(padded, axis=1) == -1)
    left, right, low, high = edges_x[start], edges_x[stop], edges_y[row], edges_y[row + 1]
    corners = np.stack(
        [
            np.stack([left, low], -1),
            np.stack([right, low], -1),
            np.stack([right, high], -1),
            np.stack([left, high], -1),
            np.stack([left, low], -1),
        ],
        axis=1,
    )
    codes = np.tile(
        [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(row)
    ).astype(Path.code_type)
    return Path(corners.reshape(-1, 2), codes)


def _is_thick(grid: np.ndarray) -> np.ndarray:
    """Which cells lie in a 2 x 2 block of one phase, or side by side in a strip of one row."""
    rows, columns = grid.shape
    grid = np.tile(grid, (1 + (rows == 1), 1 + (columns == 1)))
    corner = grid[1:, 1:]
    block = (corner == grid[:-1, :-1]) & (corner == grid[1:, :-1]) & (corner == grid[:-1, 1:])
    block = np.pad(block, 1)
    thick = block[1:, 1:] | block[1:, :-1] | block[:-1, 1:] | block[:-1, :-1]
    return thick[:rows, :columns]


def _is_lone(grid: np.ndarray, thick: np.ndarray) -> np.ndarray:
    """Which cells are a region of their own: at most corners touch others of their phase.

    A chain of cells that touch at corners is a line again, unless it is the corner of a region
    with some breadth.
    """
    rows, columns = grid.shape
    phases, breadth = np.pad(grid, 1, constant_values=-1), np.pad(thick, 1)
    lone = np.ones(grid.shape, bool)
    for i, j in itertools.product((0, 1, 2), repeat=2):
        if (i, j) != (1, 1):
            place = slice(i, i + rows), slice(j, j + columns)
            corner = i != 1 and j != 1
            lone &= (phases[place] != grid) | (breadth[place] & corner)
    return lone


def borders(edges_x: np.ndarray, edges_y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sides [N, 2, 2] that cells of different phases share, both in regions with some breadth.

    A line of single cells, such as a tie makes along a boundary, is itself an outline: one more
    around each of its cells would cover it in black. A cell all by itself is a region.
    """
    thick = _is_thick(grid)
    thick |= _is_lone(grid, thick)
    i, j = np.nonzero((grid[:, 1:] != grid[:, :-1]) & thick[:, 1:] & thick[:, :-1])
    upright = np.stack(
        [
            np.stack([edges_x[j + 1], edges_y[i]], -1),
            np.stack([edges_x[j + 1], edges_y[i + 1]], -1),
        ],
        axis=1,
    )
    i, j = np.nonzero((grid[1:] != grid[:-1]) & thick[1:] & thick[:-1])
    level = np.stack(
        [
            np.stack([edges_x[j], edges_y[i + 1]], -1),
            np.stack([edges_x[j + 1], edges_y[i + 1]], -1),
        ],
        axis=1,
    )
    return np.concatenate([upright, level])
