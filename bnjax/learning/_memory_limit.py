"""Refuse, before it starts, what would not fit in memory."""

from __future__ import annotations

from pathlib import Path

_LITTLE = 2**26  # bytes that need no question, which takes longer than a small population


def check_fits(each: int, num_agents: int, work: int) -> None:
    """Raise if the results of all agents would not fit.

    Parameters
    ----------
    each : bytes of the results of an agent.
    num_agents : how many agents there are in all.
    work : bytes of those who are being worked on.
    """
    size = each * num_agents
    available = available_memory() if size + work > _LITTLE else None
    if available is not None and size + work > available:
        raise ValueError(
            f"the results of {num_agents:,} agents would take {_readable(size)}, and "
            f"{_readable(work)} more to work with; {_readable(available)} of memory are free. "
            "Simulate fewer agents at a time; fewer snapshots (`record`), or some without "
            "`beliefs`, take less, and so does a memory that keeps less."
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
