"""Refuse, before it starts, what would not fit in memory."""

from __future__ import annotations

from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of control groups, version 2 and 1: limit, use, details, and what of these is no real use.
_FILES = {
    "": ("memory.max", "memory.current", "memory.stat", "active_file", "inactive_file"),
    "memory": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "memory.stat",
        "total_active_file",
        "total_inactive_file",
    ),
}
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
            "Simulate fewer agents at a time, in all or in a `tile`; fewer snapshots (`record`), "
            "or some without `beliefs`, take less, and so does a memory that keeps less."
        )


def available_memory() -> int | None:
    """Bytes that this process can still get, None if nothing says.

    From the machine, from the control group (a container, a job of Slurm), and below the limit of
    its address space, if it has one: the least of these.
    """
    known = [x for x in (_of_machine(), _of_group(), _of_process()) if x is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    lines = [x for x in info.read_text().splitlines() if x.startswith("MemAvailable")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def _of_group() -> int | None:
    """The least that this process's group, or one around it, has left."""
    own = dict.fromkeys(_FILES, "")
    lines = _OWN_GROUPS.read_text().splitlines() if _OWN_GROUPS.exists() else []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        own |= {kind: path for kind in kinds.split(",") if kind in own}
    known = []
    for kind, path in own.items():
        top = _GROUPS / kind
        group = top / path.lstrip("/")
        around = [x for x in (group, *group.parents) if x == top or top in x.parents]
        known += [_left(x, *_FILES[kind]) for x in around or [top]]
    return min((x for x in known if x is not None), default=None)


def _left(group: Path, most: str, used: str, details: str, *files: str) -> int | None:
    """The limit of a group less what is used, but for files that are merely remembered."""
    try:
        limit = (group / most).read_text().strip()
        taken = int((group / used).read_text())
        lines = (group / details).read_text().splitlines()
    except OSError:
        return None
    if limit == "max":  # there is none
        return None
    cached = sum(int(x.split()[1]) for x in lines if x.split()[0] in files)
    return max(0, int(limit) - taken + cached)


def _of_process() -> int | None:
    size = Path("/proc/self/statm")
    if resource is None or not size.exists():
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - int(size.read_text().split()[0]) * resource.getpagesize())


def _readable(size: int | float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
