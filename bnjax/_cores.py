"""The cores of a CPU, and threads that share work among them.

XLA's CPU backend runs a loop over small blocks almost serially, but one device has a stream of
execution for each thread that calls it. So threads that call one compiled program use all cores,
however many CPU devices JAX was told to make.
"""

import contextlib
import functools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MOST_PROGRAMS = 32


def usable_cores() -> int:
    """How many this process may use: those that it may run on, if a container grants no less."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(known or 1, _granted())))


@functools.cache
def _granted() -> float:
    """Cores' worth of time that the control group of this process may take (Linux, version 2)."""
    if not _QUOTA.exists():
        return math.inf
    time, period = _QUOTA.read_text().split()  # microseconds, the first of which may be "max"
    return math.inf if time == "max" else int(time) / int(period)


def num_workers() -> int:
    """How many shares of some work are done at a time: one a core, or a device that is no CPU."""
    return usable_cores() if jax.default_backend() == "cpu" else jax.local_device_count()


@functools.cache
def tile_options() -> dict[str, int | str]:
    """Options of compilation for loops over tiles, one a core, that stay in the core's own cache.

    Vectors as wide as the processor's: by itself, XLA's CPU backend stops at 256 bits. And no
    kernel is divided among the cores: that moves half of a tile to a core that is busy with
    another, thousands of times a second. A version of XLA is asked for nothing that it does not
    know.
    """
    if jax.default_backend() != "cpu":
        return {}
    known: dict[str, int | str] = {}
    for name, value in (
        ("xla_cpu_prefer_vector_width", 512),
        ("xla_disable_hlo_passes", "cpu-parallel-task-assigner"),
    ):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda x: x, compiler_options={name: value})(0)
            known[name] = value
    return known


_programs: OrderedDict[Any, Any] = OrderedDict()


def as_before(compiled: Any) -> Any:
    """What JAX gave for the same program before, where it did so lately.

    It makes a new `jax.stages.Compiled` whenever it is asked, of which the first call is slow: it
    goes through Python.
    """
    program = _programs.setdefault(compiled.runtime_executable(), compiled)
    while len(_programs) > _MOST_PROGRAMS:
        _programs.popitem(last=False)
    return program


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    """Threads that wait for work: to start some takes as long as to serve dozens of agents."""
    return ThreadPoolExecutor(number, "bnjax")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of them


def on_cores(
    work: Callable[[range], None],
    total: int,
    most: int,
    progress: Callable[[int, int], None] | None = None,
    unit: int = 1,
) -> None:
    """Do some work on ``total`` things: threads take equal shares of up to ``most`` of them.

    All shares but the last are multiples of ``unit``. The first is the caller's own, who also tells
    of the progress. Threads know no settings of JAX's but its precision: programs are to be
    compiled before.
    """
    workers = num_workers()
    rounds = -(-total // (most * workers))
    each = -(-total // (rounds * workers * unit)) * unit
    pending = iter([range(i, min(i + each, total)) for i in range(0, total, each)])
    first, others = next(pending), min(workers, -(-total // each)) - 1
    x64 = bool(jnp.result_type(float) == jnp.float64)
    lock, stopped, done = threading.Lock(), threading.Event(), 0

    def go_on(share: range | None, progress: Callable[[int, int], None] | None = None) -> None:
        nonlocal done
        try:
            with jax.enable_x64(x64):
                while share is not None and not stopped.is_set():
                    work(share)
                    with lock:
                        done += len(share)
                    if progress is not None and done < total:
                        progress(done, total)
                    share = next(pending, None)
        except BaseException:  # then nobody goes on
            stopped.set()
            raise

    futures = [
        _threads(workers - 1).submit(lambda: go_on(next(pending, None))) for _ in range(others)
    ]
    try:
        go_on(first, progress)
    except BaseException:
        stopped.set()
        raise
    finally:
        # Whoever did not even begin, as other calls keep the threads busy, has nothing to do now.
        begun = [future for future in futures if not future.cancel()]
        wait(begun)
    for future in begun:
        future.result()
    if progress is not None:
        progress(total, total)
