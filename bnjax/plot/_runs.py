"""Curves in pieces: runs of equal neighbours, each with half of the way to the next."""

from __future__ import annotations

import itertools

import numpy as np


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Slices of equal neighbours."""
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = [0, *cuts.tolist(), len(values)]
    return list(itertools.pairwise(edges))


def with_half_steps(
    at: np.ndarray, height: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """A run of a branch, and half of the way to the runs next to it."""
    lead = [start - 0.5] if start > 0 else []
    tail = [stop - 0.5] if stop < len(at) else []
    where = np.array([*lead, *range(start, stop), *tail])
    number = np.arange(len(at))
    return np.interp(where, number, at), np.interp(where, number, height)
