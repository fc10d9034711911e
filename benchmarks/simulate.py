"""Populations of learners: agent-steps a second, against NumPy, numba and PyTorch.

Run as ``python -m benchmarks.simulate [--quick] [--out FILE] [--runs 5]``; also ``--large``,
``--alternatives`` and ``--only NAME``.

All peers of a case run in one process and take turns, each of which begins with a quarter of a
second of calls that do not count; their outcomes must agree within sampling error. "NumPy, naive"
is the baseline as one first writes it: vectorised over agents, log-beliefs, an exponential a step.
"Tuned" it keeps clear of denormal numbers and uses all cores. The other peers run the algorithms of
bnjax: weights in blocks, or with NumPy and numba moments of them too. A roofline says what this
machine could do at best.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bnjax as bn
from bnjax.belief import largest_log_range, likelihood, steps_between_refreshes

from . import _harness as harness
from . import _roofline as roofline
from . import numpy_baseline as baseline

_RESULTS = Path(__file__).parent / "results" / "simulate.json"
_ROOT = Path(__file__).parent.parent
_TARGETS = {"naive": 30.0, "fastest": 2.5}  # of the reference case, on two cores
_SETTLE = 0.25  # seconds of calls at the start of each turn that do not count
_ERRORS = 5.0  # standard errors that peers may differ by
_SLOW = 2**25  # agent-steps of a run above which the slow peers do without (blocked NumPy: 4 x)


@dataclasses.dataclass(frozen=True)
class Case:
    """A population to simulate.

    Parameters
    ----------
    name, about : short and long.
    problem : arrays, for the peers.
    num_agents, num_steps : N and T.
    policy, memory : for NumPy; None is best response, and perfect.
    reference : whether the targets are meant for it.
    settles : whether agents come to keep to an action.
    """

    name: str
    about: str
    problem: baseline.Categorical | baseline.Gaussian
    num_agents: int
    num_steps: int
    policy: baseline.Policy | None = None
    memory: baseline.Memory | None = None
    reference: bool = False
    settles: bool = True

    @property
    def num_models(self) -> int:
        return len(self.problem.log_prior)

    @property
    def agent_steps(self) -> int:
        return self.num_agents * self.num_steps

    @property
    def is_plain(self) -> bool:
        """Whether it is what the numba and PyTorch peers know."""
        perfect = self.policy is None and self.memory is None
        return perfect and isinstance(self.problem, baseline.Categorical)


# Cases


def general_problem(num_models: int, num_actions: int = 2, num_consequences: int = 2) -> Any:
    """Random models that share nothing; the truth makes either action settle, or play mix."""
    rng = np.random.default_rng(7)
    shape = num_models, num_actions, num_consequences
    if num_consequences == 2:
        rates = rng.uniform(0.02, 0.98, shape[:2])
        models = np.stack([1 - rates, rates], axis=-1)
        success = 0.6 + 0.05 * np.arange(num_actions)
        probs = np.stack([1 - success, success], axis=-1)
        payoff = np.tile([0.0, 1.0], (num_actions, 1))
    else:
        models = 0.02 + rng.dirichlet(np.ones(num_consequences), shape[:2])
        models /= models.sum(-1, keepdims=True)
        probs = np.full((num_actions, num_consequences), 1 / num_consequences)
        payoff = np.tile(np.linspace(0, 1, num_consequences), (num_actions, 1))
    return _categorical(probs, models, payoff)


def axis_problem(num_models: int, p_sycophantic: float = 0.7, p_honest: float = 0.6) -> Any:
    """The sycophancy scenario on a grid: theta = (i + 1/2) / M."""
    theta = (np.arange(num_models) + 0.5) / num_models
    rates = np.stack([theta, 1 - theta], axis=-1)
    success = np.array([p_sycophantic, p_honest])
    return _categorical(
        np.stack([1 - success, success], axis=-1),
        np.stack([1 - rates, rates], axis=-1),
        np.array([[0.0, 1.0], [0.0, 1.0]]),
    )


def monopolist_problem(side: int = 8) -> baseline.Gaussian:
    """Prices 2 and 10, demand a - b x, (a, b) on a grid over its box (Esponda and Pouzo 2016)."""
    a, b = (x.ravel() for x in np.meshgrid(np.linspace(33, 40, side), np.linspace(3, 3.5, side)))
    price = np.array([2.0, 10.0])
    arrays = (
        np.array([34.0, 2.0]),
        np.ones(2),
        a[:, None] - b[:, None] * price,
        np.ones((side**2, 2)),
        np.zeros(2),
        price,
        np.full(side**2, -2 * math.log(side)),
    )
    return baseline.Gaussian(*(x.astype(np.float32) for x in arrays))


def _categorical(probs: Any, models: Any, payoff: Any) -> baseline.Categorical:
    prior = np.full(len(models), -math.log(len(models)))
    return baseline.Categorical(*(x.astype(np.float32) for x in (probs, models, payoff, prior)))


def cases(quick: bool, large: bool, on_gpu: bool) -> list[Case]:
    """The grid of cases."""
    agents, steps = (512, 100) if quick else (4096, 500)
    two = general_problem(64)
    few = min(steps, 200)
    gaussian = Case("Gaussian", "monopolist on a grid", monopolist_problem(), agents, few)
    found = [Case("general", "random models, A = Y = 2", two, agents, steps, reference=True)]
    if quick:
        return [*found, gaussian]
    found.append(Case("axis", "sycophancy axis", axis_problem(64), agents, steps))
    restless = axis_problem(64, 0.4, 0.35)  # no equilibrium in pure actions
    found.append(
        Case("restless", "axis, play never settles", restless, agents, steps, settles=False)
    )
    for models in (8, 512):
        name = f"general, M = {models}"
        found.append(Case(name, "random models", general_problem(models), agents, steps))
    sizes = [(512, 500), (65_536, 100), *([(1_000_000, 100)] if large else [])]
    if on_gpu:
        sizes += [(524_288, 500)]
    for number, length in sizes:
        found.append(Case(f"general, N = {number}", "random models", two, number, length))
    three = general_problem(64, 3, 3)
    found.append(Case("general, A = Y = 3", "random models", three, agents, steps))
    logit = baseline.Logit(0.1)
    for name, policy, memory in (
        ("logit", logit, None),
        ("discounted, logit", logit, baseline.Discounted(0.05)),
        ("window", None, baseline.Window(20)),
    ):
        found.append(Case(name, "sycophancy axis", restless, agents, few, policy, memory))
    return [*found, gaussian]


# Peers


def to_bnjax(case: Case) -> dict[str, Any]:
    """Arguments of `bnjax.simulate` for a case, without the key."""
    problem = case.problem
    if isinstance(problem, baseline.Gaussian):
        made: Any = bn.GaussianProblem(*problem[:6], log_prior=problem.log_prior)
    else:
        made = bn.Problem(*problem[:3], log_prior=problem.log_prior)
    policy: Any = bn.BestResponse()
    if isinstance(case.policy, baseline.Logit):
        policy = bn.Logit(case.policy.temperature)
    memory: Any = bn.PerfectMemory()
    if isinstance(case.memory, baseline.Discounted):
        memory = bn.DiscountedMemory(case.memory.rate)
    if isinstance(case.memory, baseline.Window):
        memory = bn.WindowMemory(case.memory.length)
    return {
        "problem": made,
        "policy": policy,
        "memory": memory,
        "num_agents": case.num_agents,
        "num_steps": case.num_steps,
    }


class Runner:
    """A peer of a case: every call uses another seed, and the last result is kept."""

    def __init__(self, function: Callable[[int], Any]):
        self.function, self.seed, self.result = function, 0, None

    def __call__(self) -> np.ndarray:
        self.seed += 1
        self.result = self.function(self.seed)
        return np.empty(0)

    def first(self) -> float:
        """Run once; return the seconds, compilation included."""
        start = time.perf_counter()
        self()
        return time.perf_counter() - start

    def described(self) -> dict[str, tuple[float, float]]:
        """Statistics of the last result."""
        result: Any = self.result
        names = ("late_frequency", "mean_payoff", "outcome", "intended")
        return baseline.describe(*(np.asarray(getattr(result, name)) for name in names))


def chunk_of(case: Case, threads: int) -> int:
    """Agents that NumPy takes at a time: weights that stay in the second-level cache."""
    fitting = max(256, 2**17 // case.num_models)
    return max(1, min(fitting, -(-case.num_agents // threads)))


def runners(case: Case, threads: int) -> dict[str, Runner]:
    """All peers that are installed and know the case; bnjax first."""
    arguments = to_bnjax(case)
    on_cpu = jax.default_backend() == "cpu"
    workers, kind = (threads, "core") if on_cpu else (jax.local_device_count(), "GPU")

    def library(seed: int) -> Any:
        return jax.block_until_ready(bn.simulate(key=jax.random.key(seed), **arguments))

    def numpy(form: baseline.Form, **options: Any) -> Runner:
        return Runner(
            lambda seed: baseline.simulate(
                case.problem,
                seed,
                num_agents=case.num_agents,
                num_steps=case.num_steps,
                form=form,
                policy=case.policy,
                memory=case.memory,
                **options,
            )
        )

    tuned = {"chunk": chunk_of(case, threads), "num_threads": threads}
    found = {f"bnjax, {workers} {kind}{'s' * (workers > 1)}": Runner(library)}
    if case.agent_steps <= _SLOW:
        found["NumPy, naive"] = numpy("naive", avoid_denormals=False)
        found["NumPy, naive, tuned"] = numpy("naive", **tuned)
        if isinstance(case.problem, baseline.Categorical):
            found["NumPy, counts, tuned"] = numpy("counts", **tuned)
    blocked = isinstance(case.problem, baseline.Categorical) and case.memory is None
    if blocked and case.agent_steps <= 4 * _SLOW:
        found["NumPy, blocked, tuned"] = numpy("blocked", **tuned)
        if baseline.serves_moments(case.problem, case.policy, case.memory):
            wide = {"chunk": max(tuned["chunk"], min(1024, -(-case.num_agents // threads)))}
            found["NumPy, moments, tuned"] = numpy("moments", **tuned | wide)
    if case.is_plain:
        if jax.default_backend() == "gpu":
            from ._alternatives import by

            found["bnjax, without the kernel"] = Runner(by("blocked", library))
        found |= _optional(case, threads)
    return found


def installed(name: str) -> bool:
    """Whether an optional peer can be imported."""
    if importlib.util.find_spec(name) is None:
        return False
    try:
        importlib.import_module(name)
    except (ImportError, OSError):  # PyTorch without the CUDA libraries that its wheel expects
        return False
    return True


def _optional(case: Case, threads: int) -> dict[str, Runner]:
    problem: Any = case.problem
    size: Any = {"num_agents": case.num_agents, "num_steps": case.num_steps}
    found: dict[str, Runner] = {}
    if installed("numba"):
        from . import _numba_peer as numba

        def fused(layout: numba.Layout) -> Runner:
            return Runner(
                lambda seed: numba.simulate(
                    problem, seed, layout=layout, num_threads=threads, **size
                )
            )

        if case.agent_steps <= _SLOW:
            found["numba, agent by agent"] = fused("agent")
        if numba.fits_lanes(problem):
            found["numba, agents as lanes"] = fused("lanes")
            found["numba, moments"] = fused("moments")
        found["numba, models as lanes"] = fused("rows")
    if installed("torch"):
        from . import _torch_peer as pytorch

        if case.agent_steps <= _SLOW:
            found["PyTorch, blocked"] = Runner(
                lambda seed: pytorch.simulate(problem, seed, num_threads=threads, **size)
            )
        if jax.default_backend() == "gpu":
            found["PyTorch on the GPU, blocked"] = Runner(
                lambda seed: pytorch.simulate(problem, seed, device="cuda", **size)
            )
    return found


# Measuring


def measure(case: Case, runs: int, threads: int, rates: dict[str, float]) -> dict[str, Any]:
    """Time every peer of a case, and compare their outcomes with those of bnjax."""
    found = runners(case, threads)
    firsts = [runner.first() for runner in found.values()]
    peers = [harness.Peer(name, runner, case.agent_steps, True) for name, runner in found.items()]
    timings = harness.take_turns(peers, runs, _SETTLE)
    names = list(found)
    speed = {n: case.agent_steps / t.median for n, t in zip(names, timings, strict=True)}
    others = {name: rate for name, rate in speed.items() if not name.startswith("bnjax")}
    fastest = max(others, key=lambda name: others[name])
    naive = speed.get("NumPy, naive")
    ours = found[names[0]].described()
    entries = []
    for name, timing, first in zip(names, timings, firsts, strict=True):
        compiles = name.startswith(("bnjax", "numba"))
        described = found[name].described()
        entries.append(
            {
                "peer": name,
                "agent_steps_per_second": speed[name],
                "agent_steps_per_second_slowest": case.agent_steps / max(timing.seconds),
                "agent_steps_per_second_fastest": case.agent_steps / min(timing.seconds),
                "times_naive": None if naive is None else speed[name] / naive,
                "times_fastest_peer": speed[name] / others[fastest],
                "compile_seconds": max(0.0, first - timing.median) if compiles else None,
                "outcomes": described,
                **baseline.compare(ours, described, _ERRORS),
            }
        )
    return {
        "case": case.name,
        "about": case.about,
        "agents": case.num_agents,
        "steps": case.num_steps,
        "models": case.num_models,
        "actions": case.problem.num_actions,
        "policy": repr(case.policy or baseline.BestResponse()),
        "memory": repr(case.memory or baseline.Perfect()),
        "runs": runs,
        "fastest_peer": fastest,
        "fused_peers": case.is_plain,
        "peers": entries,
        "bound": bound(case, speed[names[0]], rates) if rates else None,
        "peak_bytes_so_far": harness.peak_memory(),
        "target": _target(entries[0]) if case.reference else None,
    }


def _target(ours: dict[str, Any]) -> dict[str, Any]:
    return {
        "times_naive": _TARGETS["naive"],
        "times_fastest_peer": _TARGETS["fastest"],
        "met": bool(
            ours["times_naive"] >= _TARGETS["naive"]
            and ours["times_fastest_peer"] >= _TARGETS["fastest"]
        ),
    }


def bound(case: Case, speed: float, rates: dict[str, float]) -> dict[str, Any]:
    """Least nanoseconds that the parts of an agent-step of bnjax take on this machine.

    Each at the measured rate of all cores, as if it were all there is to do.
    """
    from bnjax.learning import _moments as moments
    from bnjax.learning import _simulate as inside

    arguments = to_bnjax(case)
    problem: Any = arguments["problem"]
    randomised = case.policy is not None and case.policy.randomised
    blocked = isinstance(case.problem, baseline.Categorical) and case.memory is None
    served = moments.can_run_moments(problem, arguments["policy"], arguments["memory"], None)
    by_moments = served and case.settles and case.num_steps > inside._FEW_STEPS
    block, updates, products = 1.0, 0, 0.0
    if by_moments:
        block = float(moments.DEGREE)
        products = 2 * (moments.DEGREE + 1) * case.num_models / block
    elif blocked:
        log_range = largest_log_range(likelihood(problem))
        # A block ends too where random words are made anew.
        block = float(min(steps_between_refreshes(log_range, case.num_models)[0], 32))
        updates = case.num_models
    # What comes back: the belief of each agent, written on the device and copied to the host.
    result = 2 * 4 * (case.num_models + 10) / case.num_steps
    parts = {
        "random words": (1 + randomised) / rates["words_per_second"],
        "exponentials": case.num_models / block / rates["exponentials_per_second"],
        "weight updates": updates / rates["weight_updates_per_second"],
        "matrix products": products / rates["multiply_adds_per_second"],
        "memory": result / rates["bytes_per_second"],
    }
    nanoseconds = {name: 1e9 * seconds for name, seconds in parts.items()}
    largest = max(nanoseconds, key=lambda name: nanoseconds[name])
    return {
        "nanoseconds": nanoseconds,
        "measured_nanoseconds": 1e9 / speed,
        "bound_by": largest,
        "share_of_bound": nanoseconds[largest] / (1e9 / speed),
        "share_of_sum": sum(nanoseconds.values()) / (1e9 / speed),
    }


def _print(result: dict[str, Any]) -> None:
    rows = []
    for entry in result["peers"]:
        compiled, naive = entry["compile_seconds"], entry["times_naive"]
        slow, fast = (entry[f"agent_steps_per_second_{x}"] for x in ("slowest", "fastest"))
        rows.append(
            [
                entry["peer"],
                f"{entry['agent_steps_per_second'] / 1e6:.2f}",
                f"{slow / 1e6:.2f}-{fast / 1e6:.2f}",
                "-" if naive is None else f"{naive:.1f}",
                f"{entry['times_fastest_peer']:.2f}",
                "-" if compiled is None else f"{compiled:.1f}",
                f"{entry['standard_errors']:.1f}",
                "yes" if entry["agrees"] else "NO",
            ]
        )
    header = ["", "M steps/s", "range", "x naive", "x fastest", "compile s", "s.e.", "agrees"]
    print(
        f"\n{result['case']} ({result['about']}): {result['agents']:,} agents x "
        f"{result['steps']} steps, M = {result['models']}, A = {result['actions']}"
    )
    print(harness.table(header, rows))
    if not result["fused_peers"]:
        print("peers: NumPy only; those of numba and PyTorch know best responses of perfect memory")
    limits = result["bound"]
    if limits is not None:
        parts = ", ".join(f"{name} {ns:.2f}" for name, ns in limits["nanoseconds"].items())
        print(
            f"ns an agent-step at best: {parts}; bnjax takes {limits['measured_nanoseconds']:.1f}; "
            f"bound by {limits['bound_by']}"
        )
    if result["target"] is not None:
        wanted = result["target"]
        print(
            f"target on 2 idle cores: {wanted['times_naive']:g} x naive and "
            f"{wanted['times_fastest_peer']:g} x the fastest peer: "
            f"{'met' if wanted['met'] else 'NOT met'}"
        )


# Alternatives inside bnjax


def alternatives(case: Case, runs: int) -> dict[str, Any]:
    """Choices of bnjax: simulators, widths of tiles, lengths of blocks, generators, unrolling."""
    from ._alternatives import choices

    found = {name: Runner(run) for name, run in choices(to_bnjax(case)).items()}
    firsts = {name: runner.first() for name, runner in found.items()}
    peers = [harness.Peer(name, run, case.agent_steps, True) for name, run in found.items()]
    timings = harness.take_turns(peers, runs, _SETTLE)
    default = found["default"].described()
    rows = {
        name: {
            "agent_steps_per_second": case.agent_steps / timing.median,
            "compile_seconds": max(0.0, firsts[name] - timing.median),
            **baseline.compare(default, found[name].described(), _ERRORS),
        }
        for name, timing in zip(found, timings, strict=True)
    }
    return {"case": case.name, "choices": rows}


def _print_choices(entry: dict[str, Any]) -> None:
    rows, default = entry["choices"], entry["choices"]["default"]["agent_steps_per_second"]
    lines = [
        [
            name,
            f"{row['agent_steps_per_second'] / 1e6:.2f}",
            f"{row['agent_steps_per_second'] / default:.2f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['standard_errors']:.1f}",
            "yes" if row["agrees"] else "NO",
        ]
        for name, row in rows.items()
    ]
    print(f"\nchoices inside bnjax, {entry['case']}:")
    header = ["", "M steps/s", "x default", "compile s", "s.e.", "agrees"]
    print(harness.table(header, lines))


# Memory


def _memory_of(num_agents: int, num_steps: int) -> None:
    """Print peak memory before and after one run, and seconds; in a process of its own."""
    case = Case("memory", "", general_problem(64), num_agents, num_steps)
    before = harness.peak_memory()
    start = time.perf_counter()
    result = bn.simulate(key=jax.random.key(0), **to_bnjax(case))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(result))
    print(before, harness.peak_memory(), size, time.perf_counter() - start)


def memory(num_agents: int, num_steps: int) -> dict[str, Any]:
    """Peak memory of `bnjax.simulate`, M = 64."""
    command = [sys.executable, "-m", "benchmarks.simulate", "--memory-of"]
    done = subprocess.run(
        [*command, str(num_agents), str(num_steps)],
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
    )
    before, after, result, seconds = done.stdout.split()[-4:]
    return {
        "agents": num_agents,
        "steps": num_steps,
        "peak_bytes": int(after),
        "peak_bytes_before": int(before),
        "result_bytes": int(result),
        "seconds": float(seconds),
    }


# The figure

_COLOURS = {  # Okabe and Ito (2008): told apart by the colour-blind; markers for grey printing
    "bnjax": ("#D55E00", "o", "-"),
    "NumPy, naive": ("#000000", "s", ":"),
    "NumPy, blocked, tuned": ("#0072B2", "^", "--"),
    "NumPy, moments, tuned": ("#999999", "<", "--"),
    "numba, agents as lanes": ("#009E73", "D", "-."),
    "numba, models as lanes": ("#CC79A7", "v", "-."),
    "numba, moments": ("#56B4E9", "X", "-."),
    "PyTorch, blocked": ("#E69F00", "P", "--"),
}


def draw(results: Sequence[dict[str, Any]], out: Path) -> None:
    """Throughput against the number of agents, and of models."""
    from matplotlib.figure import Figure

    best = [r for r in results if r["case"].startswith("general") and r["actions"] == 2]
    middle = next(r for r in results if r["target"] is not None)
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = [
        (left, "agents", [r for r in best if r["models"] == middle["models"]], "agents N"),
        (right, "models", [r for r in best if r["agents"] == middle["agents"]], "models M"),
    ]
    titles = f"M = {middle['models']} models", f"N = {middle['agents']:,} agents"
    for (axes, field, rows, label), letter, title in zip(panels, "ab", titles, strict=True):
        rows = sorted(rows, key=lambda r: r[field])
        for name, (colour, marker, dashes) in _COLOURS.items():
            points = [
                (row[field], entry["agent_steps_per_second"])
                for row in rows
                for entry in row["peers"]
                if entry["peer"] == name or (name == "bnjax" and entry["peer"].startswith(name))
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    marker=marker,
                    linestyle=dashes,
                    markersize=4.5,
                    linewidth=1.4,
                    label=name,
                )
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_title(f"({letter}) {title}", fontsize=9, loc="left")
        axes.grid(True, which="major", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    right.set_xticks(sorted({r["models"] for r in panels[1][2]}))
    right.set_xticks([], minor=True)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_ylabel("agent-steps per second")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=200)


_PARTS = {  # of an agent-step: Okabe and Ito again, and hatches for grey printing
    "random words": ("#0072B2", ""),
    "exponentials": ("#E69F00", "///"),
    "weight updates": ("#009E73", "..."),
    "matrix products": ("#CC79A7", "xxx"),
    "memory": ("#999999", ""),
}


def draw_bounds(results: Sequence[dict[str, Any]], out: Path) -> None:
    """The roofline: what the parts of an agent-step take at best, and what bnjax takes."""
    from matplotlib.figure import Figure

    rows = [result for result in results if result["bound"] is not None]
    figure = Figure(figsize=(7.0, 1.3 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(rows):
        start, limits = 0.0, result["bound"]
        for part, (colour, hatch) in _PARTS.items():
            width = limits["nanoseconds"][part]
            style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white"}
            axes.barh(place, width, left=start, height=0.6, linewidth=0, label=part, **style)
            start += width
        measured = limits["measured_nanoseconds"]
        axes.plot(measured, place, "kD", markersize=4, label="bnjax, all in all", linestyle="")
        note = f"  most: {limits['bound_by']}"
        axes.text(measured, place, note, fontsize=7, va="center", color="0.3")
    axes.set_yticks(range(len(rows)), [result["case"] for result in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * max(r["bound"]["measured_nanoseconds"] for r in rows))
    label = "nanoseconds of an agent-step, at the rates that this machine reaches alone"
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    handles = dict(zip(labels, handles, strict=True))
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    figure.savefig(out, dpi=200)


# The command


def _alone() -> None:
    """Keep NumPy's matrix products from starting threads of their own: start again if they may.

    They have to be told before NumPy is loaded, and would fight with the threads of the peers.
    """
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.simulate", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    names = ", ".join(f'"{case.name}"' for case in cases(False, True, True))
    where = "benchmarks/results/simulate.json; of --quick and --only, nowhere"
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"Cases: {names}; the largest only with --large, or on a GPU.",
    )
    parser.add_argument("--quick", action="store_true", help="few agents and runs: a smoke test")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"where the JSON goes (default: {where})"
    )
    parser.add_argument(
        "--runs", type=int, default=None, help="runs of every peer (default: 5; 1 with --quick)"
    )
    parser.add_argument("--large", action="store_true", help="also a million agents")
    parser.add_argument("--alternatives", action="store_true", help="also choices inside bnjax")
    parser.add_argument(
        "--only", default=None, help="only the case of this name, or those that start so; see below"
    )
    parser.add_argument("--memory-of", type=int, nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known = cases(options.quick, True, True)  # before JAX starts, and says if there is a GPU
    if not _chosen(known, options.only):
        there = ", ".join(f'"{case.name}"' for case in known)
        parser.error(f'there is no case "{options.only}"; there are {there}')
    whole = not options.quick and options.only is None
    out = options.out or (_RESULTS if whole else None)
    note = harness.use_all_cores()
    if options.memory_of is not None:
        _memory_of(*options.memory_of)
        return
    machine = {**harness.machine(), **_versions()}
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average_at_start']}")
    print(
        f"{machine['platform']}; Python {machine['python']}, JAX {machine['jax']}, "
        f"NumPy {machine['numpy']}, numba {machine['numba']}, PyTorch {machine['torch']}; "
        f"{machine['num_devices']} x {machine['device']}"
    )
    print(f"{note}; float32")
    threads, runs = machine["cores"], options.runs or (1 if options.quick else 5)
    rates: dict[str, float] = {}
    if jax.default_backend() == "cpu":  # on a GPU, XLA's loops are no bound for the kernel
        rates = roofline.measure(0.02 if options.quick else 0.3, threads)
        print("\nroofline, all cores: " + ", ".join(f"{k} {v:.3g}" for k, v in rates.items()))
    known = cases(options.quick, options.large, jax.default_backend() == "gpu")
    chosen, results = _chosen(known, options.only), []
    for case in chosen:
        results.append(measure(case, runs, threads, rates))
        _print(results[-1])
    report = {
        "machine": machine,
        "note": note,
        "dtype": "float32",
        "targets": _TARGETS,
        "roofline": rates,
        "cases": results,
        "agrees": all(entry["agrees"] for r in results for entry in r["peers"]),
    }
    if options.alternatives:
        two = [case for case in chosen if case.reference or case.name == "restless"]
        report["alternatives"] = [alternatives(case, runs) for case in two]
        for entry in report["alternatives"]:
            _print_choices(entry)
    if not options.quick:
        sizes = [(4096, 500), (4096, 5000), *([(1_000_000, 1000)] if options.large else [])]
        report["memory"] = [memory(*size) for size in sizes]
        for entry in report["memory"]:
            print(
                f"\n{entry['agents']:,} agents x {entry['steps']} steps, M = 64, with bnjax: "
                f"{entry['peak_bytes'] / 2**20:,.0f} MiB at peak, "
                f"{entry['peak_bytes_before'] / 2**20:,.0f} before; "
                f"result {entry['result_bytes'] / 2**20:,.0f}; {entry['seconds']:.1f} s"
            )
    print(f"\noutcomes agree: {report['agrees']}")
    if out is None:
        return
    harness.write_json(out, report)
    print(f"written to {out}")
    if any(result["target"] is not None for result in results):
        draw(results, out.with_suffix(".png"))
        print(f"figure in {out.with_suffix('.png')}")
    if rates:
        bounds = out.with_name(f"{out.stem}_roofline.png")
        draw_bounds(results, bounds)
        print(f"roofline in {bounds}")


def _chosen(known: Sequence[Case], name: str | None) -> list[Case]:
    """The case of this name, those that start so, or all."""
    same = [case for case in known if case.name == name]
    return same or [case for case in known if case.name.startswith(name or "")]


def _versions() -> dict[str, str | None]:
    """Versions of the optional peers; None: not installed, or cannot be imported."""
    return {
        name: importlib.import_module(name).__version__ if installed(name) else None
        for name in ("numba", "torch")
    }


if __name__ == "__main__":
    _alone()
    main()
