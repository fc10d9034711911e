"""Names of phases, written into the regions of a phase diagram that have room for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..equilibrium import Phase
from ._cells import cell_of
from ._style import FONT, PHASE_STYLES

_TEXT_MARGIN = 6  # pixels that a name in a region keeps from its border, both sides together


def name_regions(
    figure: Figure,
    ax: Axes,
    edges_x: np.ndarray,
    edges_y: np.ndarray,
    grid: np.ndarray,
    present: Sequence[Phase],
) -> None:
    """Write the phase into every connected region that has room for its name."""
    from scipy import ndimage  # takes a third of a second to import

    figure.draw_without_rendering()
    box = ax.get_window_extent()
    # Work in pixels, where cells of any size and texts are commensurable.
    column, row = np.arange(0.5, box.width), np.arange(0.5, box.height)
    mesh = np.meshgrid(box.x0 + column, box.y0 + row)
    where = ax.transData.inverted().transform(np.stack(mesh, -1).reshape(-1, 2))
    cell_x, cell_y = cell_of(edges_x, where[:, 0]), cell_of(edges_y, where[:, 1])
    raster = grid[cell_y, cell_x].reshape(len(row), len(column))
    for code in present:
        regions, count = cast(tuple[np.ndarray, int], ndimage.label(raster == code))
        if not count:
            continue
        names = [_region_name(ax, code, rotation) for rotation in (0.0, 90.0)]
        sizes = [name.get_window_extent().size for name in names]
        for number, window in enumerate(ndimage.find_objects(regions), 1):
            for name, (width, height) in zip(names, sizes, strict=True):
                place = _roomiest(regions[window] == number, width, height)
                if place is not None:
                    row_at, column_at = place[0] + window[0].start, place[1] + window[1].start
                    spot = ax.transData.inverted().transform((box.x0 + column_at, box.y0 + row_at))
                    _region_name(ax, code, name.get_rotation()).set_position(tuple(spot))
                    break
        for name in names:
            name.remove()


def _region_name(ax: Axes, code: Phase, rotation: float) -> Text:
    """Name of a phase on its own ground, so that no hatching crosses the letters."""
    style = PHASE_STYLES[code]
    return ax.text(
        0,
        0,
        code.name.lower(),
        color=style.text,
        fontsize=FONT + 1,
        rotation=rotation,
        ha="center",
        va="center",
        zorder=4,
        bbox={"facecolor": style.fill, "edgecolor": "none", "pad": 1.5},
    )


def _roomiest(region: np.ndarray, width: float, height: float) -> tuple[float, float] | None:
    """Centre (row, column) of the box of this size that lies deepest inside a region."""
    size = int(height) + _TEXT_MARGIN, int(width) + _TEXT_MARGIN
    if size[0] > region.shape[0] or size[1] > region.shape[1]:
        return None
    from scipy import ndimage  # takes a third of a second to import

    padded = np.pad(region, 1)  # the frame is a border too
    fits = ndimage.minimum_filter(padded, size=size, mode="constant", cval=0)
    if not fits.any():
        return None
    depth = np.asarray(ndimage.distance_transform_cdt(fits, "chessboard"))
    deepest = np.argwhere(depth == depth.max())
    centre = deepest.mean(0)
    best = deepest[np.abs(deepest - centre).sum(1).argmin()]
    return best[0] - 0.5, best[1] - 0.5
