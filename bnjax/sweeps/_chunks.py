"""The boxes of cells that are computed, written and, after a mishap, done again as one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chunks:
    """A grid cut into boxes of equal shape, the last of each dimension perhaps shorter.

    Parameters
    ----------
    shape : of the grid.
    box : of a chunk, as `cut` makes it: the cells of each chunk are consecutive.
    """

    shape: tuple[int, ...]
    box: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(-(-n // k) for n, k in zip(self.shape, self.box, strict=True))

    @property
    def number(self) -> int:
        return math.prod(self.counts)

    def where(self, chunk: int) -> tuple[int, ...]:
        """Place of a chunk among the chunks."""
        return tuple(int(i) for i in np.unravel_index(chunk, self.counts))

    def slices(self, chunk: int) -> tuple[slice, ...]:
        """What part of the grid a chunk is."""
        return tuple(
            slice(i * k, min((i + 1) * k, n))
            for i, k, n in zip(self.where(chunk), self.box, self.shape, strict=True)
        )

    def extent(self, chunk: int) -> tuple[int, ...]:
        return tuple(x.stop - x.start for x in self.slices(chunk))

    def cells(self, chunk: int) -> range:
        """Numbers of a chunk's cells in the grid, in the order in which the chunk holds them."""
        first = 0
        for part, n in zip(self.slices(chunk), self.shape, strict=True):
            first = first * n + part.start
        return range(first, first + math.prod(self.extent(chunk)))


def cut(shape: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """Shape of a chunk with at most so many cells: rows of the grid as far as they are whole.

    At most one dimension is cut into pieces of more than one: those after it are whole, so that a
    chunk is a run of consecutive cells. It is cut into pieces of nearly equal length, so that no
    chunk is a mere remainder.
    """
    box, room = [], max(1, cells)
    for n in reversed(shape):
        pieces = -(-n // min(n, room))
        box.append(-(-n // pieces))
        room = room // n if pieces == 1 else 1
        room = max(1, room)
    return tuple(reversed(box))
