"""What a store and survival cost: sweeps against the bare compiled function.

Run as ``python -m benchmarks.sweep [--quick] [--out FILE] [--cells 10000000] [--runs 3]``.

The cell is an exact phase of the sycophancy scenario cut into M = 257 models: well under a
microsecond on a core, so that there is nothing for the store to hide behind. "Bare" is what one
writes without `bnjax.sweep`: the same function vmapped in blocks of the same size, over all
devices, a slab of cells at a time, with the results fetched and forgotten. Every figure is measured
in a process of its own, where bare and sweep take turns; compilation is timed apart. Two processes
are two sweeps over one store with half of the cores each, with `jax.distributed`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import bnjax as bn
from bnjax.sweeps._axes import read_axes
from bnjax.sweeps._program import default_block, trace

from . import _harness as harness

_RESULTS = Path(__file__).parent / "results" / "sweep.json"
_MODELS = 257
_SLAB = 2**20
_SHARE_OF_BARE, _FLAT = 0.85, 1.10


def phase_of_cell(p_sycophantic: Any, p_honest: Any) -> dict[str, jax.Array]:
    """Exact phase of one environment, as a code of `bnjax.Phase`."""
    problem = bn.scenarios.sycophancy(p_sycophantic, p_honest).discretize(_MODELS)
    return {"phase": bn.phase(problem).astype(jnp.int8)}


def axes_of(cells: int) -> dict[str, np.ndarray]:
    """A square grid over (0, 1)^2 with about so many cells."""
    side = round(cells**0.5)
    axis = (np.arange(side) + 0.5) / side
    return {"p_sycophantic": axis, "p_honest": axis}


def bare(axes: dict[str, np.ndarray]) -> tuple[Callable[[], np.ndarray], float]:
    """Compile the function for a slab of cells; return a run over all, and the seconds it took."""
    devices = jax.local_devices()
    mesh, split = Mesh(np.asarray(devices), ("devices",)), PartitionSpec("devices")
    on_cpu = devices[0].platform == "cpu"
    grid = read_axes(axes)
    block = default_block(trace(phase_of_cell, grid, None), grid.size, on_cpu)
    first, second = (np.asarray(x, jnp.result_type(float)) for x in axes.values())
    total, slab = len(first) * len(second), min(_SLAB, block * len(devices) * 64)

    def work(first: jax.Array, second: jax.Array) -> jax.Array:
        blocks = first.reshape(-1, block), second.reshape(-1, block)
        phases = jax.lax.map(lambda x: jax.vmap(phase_of_cell)(*x)["phase"], blocks)
        return phases.reshape(-1)

    program = jax.jit(
        jax.shard_map(work, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    )
    like = jax.ShapeDtypeStruct((slab,), first.dtype)
    began = time.perf_counter()
    compiled = program.lower(like, like).compile()
    seconds = time.perf_counter() - began

    def start(begin: int) -> jax.Array:
        numbers = np.minimum(np.arange(begin, begin + slab), total - 1)
        return compiled(first[numbers // len(second)], second[numbers % len(second)])

    def run() -> np.ndarray:
        phases = np.empty(total, np.int8)
        waiting = None
        for begin in [*range(0, total, slab), None]:
            started = None if begin is None else (begin, start(begin))
            if waiting is not None:
                at, result = waiting
                phases[at : at + slab] = np.asarray(result)[: total - at]
            waiting = started
        return phases

    return run, seconds


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Measure in this process, and say what was found."""
    # The bare program has a device a core; a sweep takes what cores there are.
    jax.config.update("jax_num_cpu_devices", options.cores)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        # Each of two processes gets cores of its own, as two hosts would have.
        first = options.process * options.cores % len(cores)
        os.sched_setaffinity(0, cores[first : first + options.cores])
    if options.port:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{options.port}", 2, options.process)
    axes = axes_of(options.cells)
    total = int(np.prod([len(axis) for axis in axes.values()]))
    seconds: dict[str, list[float]] = {"bare": [], "sweep": [], "call": []}
    found: dict[str, Any] = {"cells": total}
    run = expected = None
    if options.bare:
        run, found["bare_compile_seconds"] = bare(axes)
        expected = run()
    store, result = options.store, None
    for i in range(options.runs):
        if run is not None:
            began = time.perf_counter()
            run()
            seconds["bare"].append(time.perf_counter() - began)
        store = options.store.with_name(f"{options.store.name}-{i}")
        began = time.perf_counter()
        result = bn.sweep(phase_of_cell, axes, store=store)
        seconds["call"].append(time.perf_counter() - began)
        seconds["sweep"].append(_seconds_in_chunks(store, options.process))
        if expected is not None:
            np.testing.assert_array_equal(result.phase.values.ravel(), expected)
    assert result is not None
    found |= {
        "seconds": seconds,
        "peak_memory": harness.peak_memory(),
        "device": jax.local_devices()[0].device_kind,
        "num_devices": len(jax.local_devices()),
        "chunk": result.attrs["sweep"]["chunk"],
        "store_bytes": sum(file.stat().st_size for file in store.rglob("*") if file.is_file()),
    }
    return found


def _seconds_in_chunks(store: Path, process: int) -> float:
    """Wall-clock seconds from the first chunk's start to the last one's end, by the store's log."""
    lines = (store / "status" / f"process-{process}.log").read_text().splitlines()
    return sum(json.loads(line)["seconds"] for line in lines if '"chunk"' in line)


def measure(folder: Path, name: str, cores: int, cells: int, runs: int, **more: Any) -> Any:
    """Measure in a process of its own, or in two at once."""
    processes = 2 if more.get("port") else 1
    started = []
    for i in range(processes):
        arguments = [
            *(sys.executable, "-m", "benchmarks.sweep", "--worker"),
            *("--cores", str(cores), "--cells", str(cells), "--runs", str(runs)),
            *("--store", str(folder / name), "--process", str(i)),
            *(f"--{key}={value}" for key, value in more.items()),
        ]
        started.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True))
    found = []
    for process in started:
        text, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name} failed with status {process.returncode}")
        found.append(json.loads(text.splitlines()[-1]))
    return found


def _rates(found: Sequence[dict[str, Any]], what: str) -> tuple[float, float, float]:
    """Cells a second: median, slowest and fastest run, of processes that work together."""
    together = np.max([x["seconds"][what] for x in found], axis=0)
    rates = found[0]["cells"] / together
    return float(np.median(rates)), float(rates.min()), float(rates.max())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cells: a smoke test")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="where the JSON goes")
    parser.add_argument("--cells", type=int, default=None, help="of a sweep (10,000,000)")
    parser.add_argument("--runs", type=int, default=None, help="runs of each (3)")
    for hidden, kind in (("store", Path), ("cores", int), ("process", int), ("port", int)):
        parser.add_argument(f"--{hidden}", type=kind, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(work(options)))
        return
    cells = options.cells or (40_000 if options.quick else 10_000_000)
    runs = options.runs or (1 if options.quick else 3)
    # Workers want the memory of the accelerator, of which this process only asks the name.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    machine = harness.machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average_at_start']}")
    print(f"{machine['platform']}; JAX {machine['jax']}; {machine['device']}")
    report: dict[str, Any] = {"machine": machine, "cells": cells, "runs": runs, "rates": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        plans: list[tuple[str, int, dict[str, Any]]] = [
            (f"{n} core{'s' * (n > 1)}", n, {"bare": 1}) for n in sorted({1, machine["cores"]})
        ]
        if machine["backend"] != "cpu":
            what = f"{machine['num_devices']} x {machine['device']}"
            plans = [(what, machine["cores"], {"bare": 1})]
        else:
            plans.append(("2 processes", max(1, machine["cores"] // 2), {"port": _free_port()}))
        for what, cores, more in plans:
            found = measure(folder, what.replace(" ", "-"), cores, cells, runs, **more)
            entry: dict[str, Any] = {"what": what, "found": found}
            entry["sweep"], *entry["sweep_range"] = _rates(found, "sweep")
            entry["call"] = _rates(found, "call")[0]
            if "bare" in more:
                entry["bare"], *entry["bare_range"] = _rates(found, "bare")
                ratios = np.divide(*(np.array(found[0]["seconds"][x]) for x in ("bare", "sweep")))
                entry["share_of_bare"] = float(np.median(ratios))
            report["rates"].append(entry)
            rows.append(
                [
                    what,
                    f"{entry['bare'] / 1e6:.2f}" if "bare" in entry else "-",
                    f"{entry['sweep'] / 1e6:.2f}",
                    "-".join(f"{x / 1e6:.2f}" for x in entry["sweep_range"]),
                    f"{100 * entry['share_of_bare']:.0f} %" if "bare" in entry else "-",
                    f"{entry['call'] / 1e6:.2f}",
                ]
            )
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        header = ["million cells/s", "bare", "sweep", "range", "of bare", "with tracing, compiling"]
        print(f"\n{report['rates'][0]['found'][0]['cells']:,} cells, median of {runs}")
        print(harness.table(header, rows))
        report["memory"] = []
        for size in sorted({max(10_000, cells // 100), max(10_000, cells // 10), cells}):
            (found,) = measure(folder, f"memory-{size}", machine["cores"], size, 1)
            report["memory"].append({x: found[x] for x in ("cells", "peak_memory", "store_bytes")})
        print()
        print(
            harness.table(
                ["cells", "peak MiB", "store MiB"],
                [
                    [
                        f"{x['cells']:,}",
                        f"{x['peak_memory'] / 2**20:.0f}",
                        f"{x['store_bytes'] / 2**20:.1f}",
                    ]
                    for x in report["memory"]
                ],
            )
        )
    peaks = [x["peak_memory"] for x in report["memory"]]
    usual = [x for x in report["rates"] if "bare" in x][-1]
    report["target"] = {
        "share_of_bare": usual["share_of_bare"] >= _SHARE_OF_BARE,
        "memory_flat": max(peaks) <= _FLAT * min(peaks),
    }
    for what, met in report["target"].items():
        print(f"target: {what}: {'met' if met else 'NOT met'}")
    harness.write_json(options.out, report)
    print(f"\nwritten to {options.out}")


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


if __name__ == "__main__":
    main()
