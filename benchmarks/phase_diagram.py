"""Phase diagrams: how many cells a second, against NumPy and against plain JAX.

Run as ``python -m benchmarks.phase_diagram [--quick] [--out FILE] [--models 257] [--memory]``; also
``--only NAME``.

Cases: (i) the sycophancy scenario with Theta cut into M models, on a grid; (ii) two-action
problems that share nothing: probabilities, models and payoffs all differ between cells; (iii)
sycophancy with continuous Theta. Peers take turns in one process. "Grid vmap" is the plain JAX
program that evaluates the best fit at 33 mixtures, as `jax.jit(jax.vmap(...))` runs it; "tuned" it
gets the same devices and blocks as bnjax. It can miss what happens between two of its points. NumPy
runs the same exact algorithm, vectorised over cells, on one thread and on all cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import bnjax as bn
from bnjax.equilibrium._lanes import block_lanes

from . import _harness as harness
from . import numpy_phase

_RESULTS = Path(__file__).parent / "results" / "phase_diagram.json"
_GRID = 33  # mixtures that the plain program looks at
_CONTINUOUS_BLOCK = 1024  # as bn.phase_diagram does
_DTYPE = np.float32
_TARGETS = {"sycophancy": (500_000, 10.0), "general": (150_000, None)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch of cells, and the ways to find their phases.

    Parameters
    ----------
    name, about : short and long.
    arguments : arrays with a leading axis of cells.
    phase : arguments of one cell -> its phase, by bnjax.
    grid : the same by the plain program.
    numpy : arguments of many cells, number of threads -> phases, by the same algorithm as bnjax.
    all_pairs : arguments of many cells -> phases, by all pairs of lines. None: not possible.
    block : cells that are worked on together.
    all_pairs_cells : how many cells all pairs of lines are tried on.
    diagram : everything by `bnjax.phase_diagram`, if the cells are a grid. Returns the phases.
    """

    name: str
    about: str
    arguments: tuple[np.ndarray, ...]
    phase: Callable[..., jax.Array]
    grid: Callable[..., jax.Array]
    numpy: Callable[..., np.ndarray]
    all_pairs: Callable[..., np.ndarray] | None
    block: int
    all_pairs_cells: int
    diagram: Callable[[], np.ndarray] | None = None

    @property
    def cells(self) -> int:
        return len(self.arguments[0])


# Cases


def sycophancy_case(side: int, num_models: int, all_pairs_cells: int) -> Case:
    """A side x side grid over (0, 1)^2 of the sycophancy scenario cut into models."""
    axis, first, second = _square(side)
    theta = np.linspace(0, 1, num_models, dtype=_DTYPE)
    models = _rates(theta, 1 - theta)[None]
    payoff = np.array([[[0, 1], [0, 1]]], _DTYPE)

    def scenario(p_sycophantic: Any, p_honest: Any) -> bn.Problem:
        problem = bn.scenarios.sycophancy(p_sycophantic, p_honest).discretize(num_models)
        assert isinstance(problem, bn.Problem)
        return problem

    def solve(method: Callable[..., Any], p: np.ndarray, q: np.ndarray, **options: Any) -> Any:
        return method(_rates(p, q), models, payoff, **options).phase

    def diagram() -> np.ndarray:
        axes = {"p_sycophantic": axis, "p_honest": axis}
        return bn.phase_diagram(scenario, axes).phase.values.ravel()

    log_models, gain = _plain_models(models[0], payoff[0])
    return Case(
        "sycophancy",
        f"sycophancy, M = {num_models}, {side} x {side}",
        (first, second),
        lambda p, q: bn.phase(scenario(p, q)),
        lambda p, q: _plain_phase(jnp.stack([1 - p, p, 1 - q, q]).reshape(2, 2), log_models, gain),
        lambda p, q, threads: solve(numpy_phase.walk_phases, p, q, num_threads=threads),
        lambda p, q: solve(numpy_phase.all_pairs_phases, p, q),
        block_lanes(num_models),
        all_pairs_cells,
        diagram,
    )


def general_case(cells: int, num_models: int, all_pairs_cells: int) -> Case:
    """Random two-action problems with two consequences; no two cells share anything."""
    rng = np.random.default_rng(0)
    probs = _rates(*rng.random((2, cells), _DTYPE))
    model_probs = _rates(*(0.002 + 0.996 * rng.random((2, cells, num_models), _DTYPE)))
    payoff = rng.normal(size=(cells, 2, 2)).astype(_DTYPE)

    def plain(probs: jax.Array, model_probs: jax.Array, payoff: jax.Array) -> jax.Array:
        payoffs = jnp.sum(model_probs * payoff, axis=-1)
        return _plain_phase(probs, jnp.log(model_probs), payoffs[:, 0] - payoffs[:, 1])

    return Case(
        "general",
        f"finite problems that share nothing, M = {num_models}, {cells} cells",
        (probs, model_probs, payoff),
        lambda p, m, u: bn.phase(bn.Problem(p, m, u, safe=jnp.array([False, True]))),
        plain,
        lambda p, m, u, threads: numpy_phase.walk_phases(p, m, u, num_threads=threads).phase,
        lambda p, m, u: numpy_phase.all_pairs_phases(p, m, u).phase,
        block_lanes(num_models),
        all_pairs_cells,
    )


def continuous_case(side: int, num_models: int) -> Case:
    """A side x side grid of the sycophancy scenario with theta anywhere in [0, 1]."""
    axis, first, second = _square(side)
    theta = np.linspace(0, 1, num_models, dtype=_DTYPE)
    log_models, gain = _plain_models(_rates(theta, 1 - theta), np.array([[0, 1], [0, 1]], _DTYPE))

    def solve(p: np.ndarray, q: np.ndarray, threads: int) -> np.ndarray:
        if threads == 1:
            return numpy_phase.continuous_sycophancy_phases(p, q).phase
        return numpy_phase.in_threads(
            lambda *part: numpy_phase.continuous_sycophancy_phases(*part).phase, (p, q), threads
        )

    def diagram() -> np.ndarray:
        axes = {"p_sycophantic": axis, "p_honest": axis}
        return bn.phase_diagram(bn.scenarios.sycophancy, axes).phase.values.ravel()

    return Case(
        "continuous",
        f"sycophancy, continuous Theta, {side} x {side} (grid vmap: {num_models} models)",
        (first, second),
        lambda p, q: bn.phase(bn.scenarios.sycophancy(p, q)),
        lambda p, q: _plain_phase(jnp.stack([1 - p, p, 1 - q, q]).reshape(2, 2), log_models, gain),
        solve,
        None,
        _CONTINUOUS_BLOCK,
        0,
        diagram,
    )


def _square(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in the middle of each cell of the unit square, and so on no boundary."""
    axis = ((np.arange(side) + 0.5) / side).astype(_DTYPE)
    if side % 2:  # the middle of an odd grid is the boundary 1/2
        axis = (0.999 * axis + 0.0003).astype(_DTYPE)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    return axis, first.ravel(), second.ravel()


def _rates(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probabilities [..., 2, 2] of (bad, good) after each of two actions."""
    rates = np.stack([first, second], axis=-1)
    return np.stack([1 - rates, rates], axis=-1)


# Plain JAX: what one writes without knowing better


def _plain_models(models: np.ndarray, payoff: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities [M, 2, Y], with log 0 large and finite, and gain [M] of action 0."""
    payoffs = (models * payoff).sum(-1)
    log_models = np.log(np.maximum(models, np.finfo(_DTYPE).tiny))
    return jnp.asarray(log_models), jnp.asarray(payoffs[:, 0] - payoffs[:, 1])


def _plain_phase(probs: jax.Array, log_models: jax.Array, gain: jax.Array) -> jax.Array:
    """Phase of one cell from the best fits at `_GRID` mixtures, both pure strategies included."""
    # The entropy of the truth is the same for all models that are compared at one mixture only
    # if it is mixed alike: it is, so the cross-entropy is enough.
    cross = -jnp.sum(probs * log_models, axis=-1)  # [M, 2]
    s = jnp.linspace(0.0, 1.0, _GRID, dtype=cross.dtype)[:, None]
    best = jnp.argmin(s * cross[:, 0] + (1 - s) * cross[:, 1], axis=-1)
    first_is_better = gain[best] > 0  # [grid]
    pure_first, pure_second = first_is_better[-1], ~first_is_better[0]
    some, every = jnp.any(first_is_better), jnp.all(first_is_better)
    code = jnp.where(
        pure_first & pure_second,
        int(bn.Phase.MULTISTABLE),
        jnp.where(pure_first | pure_second, int(bn.Phase.INDETERMINATE), int(bn.Phase.OSCILLATORY)),
    )
    code = jnp.where(every, int(bn.Phase.UNSAFE), code)
    return jnp.where(some, code, int(bn.Phase.SAFE)).astype(jnp.int32)


# Running them


def _engine(function: Callable[..., jax.Array], num_devices: int, block: int) -> Any:
    """Jit: cells dealt out to devices, each of which goes through blocks of vmapped cells."""
    mesh = Mesh(np.asarray(jax.local_devices()[:num_devices]), ("cells",))
    split = PartitionSpec("cells")

    def share(*arguments: jax.Array) -> jax.Array:
        blocks = [x.reshape(-1, block, *x.shape[1:]) for x in arguments]
        return lax.map(lambda part: jax.vmap(function)(*part), blocks).reshape(-1)

    sharded = jax.shard_map(share, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    return jax.jit(sharded), NamedSharding(mesh, split)


def _jax_peer(
    name: str, case: Case, function: Callable[..., jax.Array], num_devices: int, exact: bool
) -> harness.Peer:
    # No larger than a device's share: padding is work.
    block = min(case.block, 1 << (-(-case.cells // num_devices) - 1).bit_length())
    engine, sharding = _engine(function, num_devices, block)
    multiple = num_devices * block
    padding = -case.cells % multiple
    padded = [
        np.concatenate([x, np.repeat(x[-1:], padding, axis=0)]) if padding else x
        for x in case.arguments
    ]
    run, seconds = harness.compiled(engine, *(jax.device_put(x, sharding) for x in padded))
    cells = case.cells
    return harness.Peer(name, lambda: run()[:cells], cells, exact, seconds)


def _peers(case: Case, threads: int) -> list[harness.Peer]:
    devices = len(jax.local_devices())
    peers = [_jax_peer(f"bnjax, {devices} devices", case, case.phase, devices, True)]
    if devices > 1:
        peers.append(_jax_peer("bnjax, 1 device", case, case.phase, 1, True))
    if case.diagram is not None:
        start = time.perf_counter()
        case.diagram()
        first = time.perf_counter() - start
        peers.append(
            harness.Peer("bn.phase_diagram, with all equilibria", case.diagram, case.cells, True)
        )
        start = time.perf_counter()
        case.diagram()
        seconds = max(0.0, first - (time.perf_counter() - start))
        peers[-1] = dataclasses.replace(peers[-1], compile_seconds=seconds)
    for number in (1, threads) if threads > 1 else (1,):
        peers.append(
            harness.Peer(
                f"NumPy, same algorithm, {number} thread{'s' * (number > 1)}",
                lambda number=number: case.numpy(*case.arguments, number),
                case.cells,
                True,
            )
        )
    if case.all_pairs is not None:
        # Spread over the case, so that its phases are all among them.
        chosen = np.linspace(0, case.cells - 1, case.all_pairs_cells).astype(int)
        few = [x[chosen] for x in case.arguments]
        all_pairs = case.all_pairs
        peers.append(harness.Peer("NumPy, all pairs", lambda: all_pairs(*few), len(chosen), True))
    plain = jax.jit(jax.vmap(case.grid))
    run, seconds = harness.compiled(plain, *(jax.device_put(x) for x in case.arguments))
    peers.append(harness.Peer("grid vmap, plain", run, case.cells, False, seconds))
    peers.append(_jax_peer(f"grid vmap, tuned, {devices} devices", case, case.grid, devices, False))
    return peers


def measure(case: Case, runs: int, threads: int) -> dict[str, Any]:
    """Time every peer of a case, and compare its answers with those of bnjax."""
    peers = _peers(case, threads)
    timings = harness.take_turns(peers, runs)
    ours = timings[0].answer
    rates = {p.name: p.cells / t.median for p, t in zip(peers, timings, strict=True)}
    by_numpy = max(rate for name, rate in rates.items() if name.startswith("NumPy, same"))
    by_grid = rates["grid vmap, plain"]
    entries = []
    for peer, timing in zip(peers, timings, strict=True):
        chosen = np.linspace(0, case.cells - 1, peer.cells).astype(int)
        entries.append(
            {
                "peer": peer.name,
                "cells": peer.cells,
                "cells_per_second": peer.cells / timing.median,
                "cells_per_second_slowest": peer.cells / max(timing.seconds),
                "cells_per_second_fastest": peer.cells / min(timing.seconds),
                "times_numpy": rates[peer.name] / by_numpy,
                "times_grid": rates[peer.name] / by_grid,
                "compile_seconds": peer.compile_seconds,
                "exact": peer.exact,
                "agreement": float(np.mean(timing.answer == ours[chosen])),
            }
        )
    counts = {phase.name: int((ours == phase).sum()) for phase in bn.Phase}
    return {
        "case": case.name,
        "about": case.about,
        "cells": case.cells,
        "block": case.block,
        "runs": runs,
        "phases": {name: count for name, count in counts.items() if count},
        "peers": entries,
        "target": _target(case.name, entries[0]),
    }


def _target(name: str, ours: dict[str, Any]) -> dict[str, Any] | None:
    if name not in _TARGETS:
        return None
    rate, times_grid = _TARGETS[name]
    met = ours["cells_per_second"] >= rate
    met = met and (times_grid is None or ours["times_grid"] >= times_grid)
    return {"cells_per_second": rate, "times_grid": times_grid, "met": bool(met)}


def _print(result: dict[str, Any]) -> None:
    rows = [
        [
            entry["peer"],
            f"{entry['cells_per_second']:,.0f}",
            f"{entry['cells_per_second_slowest']:,.0f}-{entry['cells_per_second_fastest']:,.0f}",
            f"{entry['times_numpy']:.2f}",
            f"{entry['times_grid']:.2f}",
            "-" if entry["compile_seconds"] is None else f"{entry['compile_seconds']:.1f}",
            "yes" if entry["exact"] else "no",
            f"{100 * entry['agreement']:.2f} %",
        ]
        for entry in result["peers"]
    ]
    header = ["", "cells/s", "range", "x NumPy", "x grid", "compile s", "exact", "as bnjax"]
    print(f"\n{result['about']}; blocks of {result['block']}; phases {result['phases']}")
    print(harness.table(header, rows))
    if result["target"] is not None:
        target = result["target"]
        wanted = f"{target['cells_per_second']:,} cells/s"
        if target["times_grid"] is not None:
            wanted += f" and {target['times_grid']:g} x the grid"
        print(f"target on 2 idle cores: {wanted}: {'met' if target['met'] else 'NOT met'}")


# Memory


def _memory_of_diagram(side: int) -> None:
    """Print peak memory before and after one large diagram; run in a process of its own."""
    before = harness.peak_memory()
    axis = np.linspace(0, 1, side)
    start = time.perf_counter()
    diagram = bn.phase_diagram(bn.scenarios.sycophancy, {"p_sycophantic": axis, "p_honest": axis})
    seconds = time.perf_counter() - start
    print(before, harness.peak_memory(), diagram.nbytes, seconds)


def memory(side: int) -> dict[str, Any]:
    """Peak memory of a side x side sycophancy diagram with `bnjax.phase_diagram`."""
    command = [sys.executable, "-m", "benchmarks.phase_diagram", "--memory-of", str(side)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    before, after, result, seconds = done.stdout.split()[-4:]
    return {
        "side": side,
        "peak_bytes": int(after),
        "peak_bytes_before": int(before),
        "dataset_bytes": int(result),
        "seconds": float(seconds),
        "cells_per_second": side**2 / float(seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cells and runs: a smoke test")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="where the JSON goes")
    parser.add_argument("--models", type=int, default=257, help="models in a finite problem")
    parser.add_argument("--runs", type=int, default=None, help="runs of every peer (5)")
    parser.add_argument("--memory", action="store_true", help="also a 2,000 x 2,000 diagram")
    parser.add_argument("--only", default="", help="only cases whose name starts with this")
    parser.add_argument("--memory-of", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    note = harness.use_all_cores()
    if options.memory_of is not None:
        _memory_of_diagram(options.memory_of)
        return
    machine = harness.machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average_at_start']}")
    print(
        f"{machine['platform']}; Python {machine['python']}, JAX {machine['jax']}, "
        f"NumPy {machine['numpy']}; {machine['num_devices']} x {machine['device']}"
    )
    print(f"{note}; {np.dtype(_DTYPE).name}")
    side, general, few = (21, 256, 16) if options.quick else (203, 16384, 128)
    runs = options.runs or (1 if options.quick else 5)
    cases = [
        sycophancy_case(side, options.models, few),
        general_case(general, options.models, few),
        continuous_case(side, options.models),
    ]
    results = []
    for case in cases:
        if not case.name.startswith(options.only):
            continue
        results.append(measure(case, runs, machine["cores"]))
        _print(results[-1])
    report = {"machine": machine, "note": note, "dtype": np.dtype(_DTYPE).name, "cases": results}
    if options.memory:
        report["memory"] = memory(200 if options.quick else 2000)
        peak = report["memory"]["peak_bytes"] / 2**20
        print(
            f"\n{report['memory']['side']} squared with bn.phase_diagram: {peak:,.0f} MiB at peak, "
            f"of which {report['memory']['dataset_bytes'] / 2**20:,.0f} MiB are the result; "
            f"{report['memory']['cells_per_second']:,.0f} cells/s"
        )
    harness.write_json(options.out, report)
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
