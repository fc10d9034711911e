"""Refuse, before it starts, what would not fit in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax

_COPIES = 2  # of the results: as they are gathered, and as they are returned


def check_fits(tile: Any, num_agents: int) -> None:
    """Raise if the results of all agents, each like those of one tile, would not fit.

    Parameters
    ----------
    tile : shapes of the results of a tile; the first dimension is the agents.
    num_agents : how many agents there are in all.
    """
    available = available_memory()
    size = num_agents * sum(
        math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tile)
    )
    if available is not None and _COPIES * size > available:
        raise ValueError(
            f"the results of {num_agents:,} agents would take {_readable(size)}, and twice that "
            f"while they are gathered; {_readable(available)} of memory are free. Record fewer "
            "snapshots (`record.every`), leave out `beliefs`, or simulate fewer agents."
        )


def available_memory() -> int | None:
    """Bytes that this machine can still give, None if it does not say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    lines = [x for x in info.read_text().splitlines() if x.startswith("MemAvailable")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def _readable(size: int | float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
