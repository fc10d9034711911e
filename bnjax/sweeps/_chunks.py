"""The boxes of cells that are computed, written and, after a mishap, done again as one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Chunks:
    """A grid cut into boxes of equal shape, the last of each dimension perhaps shorter.

    Parameters
    ----------
    shape : of the grid.
    box : of a chunk.
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

    def numbers(self, chunk: int) -> NDArray[np.uint32]:
        """Numbers of a chunk's cells in the grid, in the order in which the chunk holds them."""
        total = np.zeros((), np.int64)
        for part, n in zip(self.slices(chunk), self.shape, strict=True):
            total = total[..., None] * n + np.arange(part.start, part.stop)
        return total.reshape(-1).astype(np.uint32)


def cut(shape: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """Shape of a chunk with at most so many cells: rows of the grid as far as they are whole.

    Dimensions that are cut are cut into pieces of nearly equal length, so that no chunk is a
    mere remainder.
    """
    box, room = [], max(1, cells)
    for n in reversed(shape):
        pieces = -(-n // min(n, room))
        box.append(-(-n // pieces))
        room = room // n if pieces == 1 else 1
        room = max(1, room)
    return tuple(reversed(box))
