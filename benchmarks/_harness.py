"""Timing, the machine, and tables: what every benchmark shares.

All peers of a benchmark run in one process and take turns, so that a neighbour on the same
machine slows all of them alike: ratios mean more than rates. Compilation is timed apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bnjax._cores import usable_cores


def use_all_cores() -> str:
    """Give JAX one CPU device a core, and say so; before JAX does anything else.

    XLA's CPU backend runs a loop over small blocks almost serially: devices are how peers in JAX
    use all cores, as the library does by threads of its own. It never sets this itself.

    Returns
    -------
    str
        What was done, for the report.
    """
    cores = usable_cores()
    jax.config.update("jax_num_cpu_devices", cores)
    return f"this process set jax_num_cpu_devices={cores}, one CPU device a usable core"


def machine() -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    devices = jax.local_devices()
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike `getrusage`, it forgets whoever started this process
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclasses.dataclass(frozen=True)
class Peer:
    """One way of doing the work.

    Parameters
    ----------
    name : for the table.
    run : does the work once and returns the answer as a NumPy array (so it has waited).
    cells : how many cells that is.
    exact : whether it claims exact answers.
    compile_seconds : what compilation took, None if there is none.
    """

    name: str
    run: Callable[[], np.ndarray]
    cells: int
    exact: bool
    compile_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one peer, and its answer."""

    seconds: tuple[float, ...]
    answer: np.ndarray

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return float(np.median(self.seconds))


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Callable[[], np.ndarray], float]:
    """Compile ahead of time; return a call that waits for its answer, and the seconds it took.

    Parameters
    ----------
    function : a jitted function that returns one array.
    args : what it is called with; on its device already, so that transfers are not timed.
    """
    start = time.perf_counter()
    program = function.lower(*args).compile()  # pyright: ignore[reportFunctionMemberAccess]
    seconds = time.perf_counter() - start
    return lambda: np.asarray(jax.block_until_ready(program(*args))), seconds


def take_turns(peers: Sequence[Peer], runs: int = 5, settle: float = 0.0) -> list[Timing]:
    """Time all peers round after round, after one call each that is not counted.

    Parameters
    ----------
    peers, runs : who takes turns, and how often.
    settle : seconds of calls at the start of each turn that are not counted either; as many calls
        as then fit into a fifth of that (one at least) make the time of the turn, their mean.
        Calls of milliseconds feel for about a tenth of a second what the peer before has left:
        caches full of its arrays, threads that still wait for more (OpenMP's keep a core busy), and
        a scheduler that puts all threads of the next one on the other core.
    """
    answers = [peer.run() for peer in peers]
    seconds: list[list[float]] = [[] for _ in peers]
    for _ in range(runs):
        for peer, times in zip(peers, seconds, strict=True):
            if settle > 0:
                _seconds_a_call(peer, settle)
            times.append(_seconds_a_call(peer, settle / 5))
    return [Timing(tuple(t), answer) for t, answer in zip(seconds, answers, strict=True)]


def _seconds_a_call(peer: Peer, least: float) -> float:
    """Mean of as many calls as take some seconds."""
    start, calls = time.perf_counter(), 0
    while True:
        peer.run()
        calls += 1
        spent = time.perf_counter() - start
        if spent >= least:
            return spent / calls


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells)

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report, and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
