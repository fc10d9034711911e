"""Smooth equilibria and their gradients: how many a second, against plain JAX and SciPy.

Run as ``python -m benchmarks.design [--quick] [--out FILE] [--runs 5] [--only NAME]``.

Cases: sycophancy cut into M = 64 models, in float32 and float64, where environment, prior, memory
and temperature all differ between solves; and random problems of four actions. "Forward" is the
selected strategy; "with gradient" is that and its derivative with respect to the log-prior [M] in
reverse mode, and "with all gradients" with respect to the environment, memory and temperature as
well. The plain peers are what one writes without bnjax: `jax.vmap` of an optimistix Newton solve
(or bisection, with two actions) of the same equation from the same start, which differentiates by
the same theorem; and `scipy.optimize.root`, problem by problem, with gradients by finite
differences. Plain solves may end on another solution, or on none: "as bnjax" says how many agree.
Peers in JAX run on as many devices as bnjax; the target is set by Newton's method, as bisection
knows nothing of which solution is reached.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import bnjax as bn
from bnjax.design._evaluate import evaluate
from bnjax.design._optimize import plan_of

from . import _harness as harness

_RESULTS = Path(__file__).parent / "results" / "design.json"
_TARGETS = {"pair, float32": 700_000, "pair, float64": 300_000}
_GRADIENT, _TIMES_PLAIN = 1.5, 20


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch of problems, and the ways to solve one.

    Parameters
    ----------
    name, about : short and long.
    arguments : arrays with a leading axis of problems: log-prior, memory, temperature, the rest.
    shared : arrays that are the same for all problems, and follow their arguments.
    solve : arguments of one problem -> probability of the first action, by bnjax.
    reduced : arguments of one problem -> K [M, A] and U [M, A].
    """

    name: str
    about: str
    arguments: tuple[np.ndarray, ...]
    shared: tuple[np.ndarray, ...]
    solve: Callable[..., jax.Array]
    reduced: Callable[..., tuple[jax.Array, jax.Array]]

    @property
    def cells(self) -> int:
        return len(self.arguments[0])


# Cases


def _terms(rng: np.random.Generator, cells: int, num_models: int) -> tuple[np.ndarray, ...]:
    log_prior = np.log(rng.dirichlet(np.ones(num_models), cells) + 1e-9)
    memory = np.exp(rng.uniform(np.log(5), np.log(100), cells))
    return log_prior, memory, np.exp(rng.uniform(np.log(0.02), np.log(0.5), cells))


def pair_case(cells: int, dtype: Any, num_models: int = 64) -> Case:
    """Sycophancy cut into models: they are shared, and nothing else is."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.05, 0.95, (cells, 2))
    arguments = tuple(x.astype(dtype) for x in (*_terms(rng, cells, num_models), rates))
    theta = np.linspace(0, 1, num_models + 2)[1:-1]
    models = np.stack([theta, 1 - theta], -1)
    models = np.stack([1 - models, models], -1).astype(dtype)  # [M, A, Y]
    payoff = np.array([[0, 1], [0, 1]], dtype)

    def solve(log_prior, memory, temperature, rates, models):
        problem = bn.Problem(jnp.stack([1 - rates, rates], -1), models, payoff, log_prior)
        return bn.smooth_equilibrium(problem, memory, temperature).strategy[0]

    def reduced(log_prior, memory, temperature, rates, models):
        probs = jnp.stack([1 - rates, rates], -1)
        return -jnp.sum(probs * jnp.log(models), -1), models[..., 1]

    name = f"pair, {np.dtype(dtype).name}"
    return Case(name, f"{name}: sycophancy, M = {num_models}", arguments, (models,), solve, reduced)


def many_case(cells: int, dtype: Any, num_actions: int = 4, num_models: int = 16) -> Case:
    """Random problems of several actions that share nothing."""
    rng = np.random.default_rng(1)
    shape = cells, num_models, num_actions
    probs = 0.98 * rng.dirichlet(np.ones(3), (cells, num_actions)) + 0.02 / 3
    models = 0.98 * rng.dirichlet(np.ones(3), shape) + 0.02 / 3
    payoff = rng.normal(size=(cells, num_actions, 3))
    arguments = (*_terms(rng, cells, num_models), probs, models, payoff)
    arguments = tuple(x.astype(dtype) for x in arguments)

    def solve(log_prior, memory, temperature, probs, models, payoff):
        # Sums to one to the last digit, whatever the precision.
        probs, models = probs / probs.sum(-1, keepdims=True), models / models.sum(-1, keepdims=True)
        problem = bn.Problem(probs, models, payoff, log_prior)
        return bn.smooth_equilibrium(problem, memory, temperature).strategy[0]

    def reduced(log_prior, memory, temperature, probs, models, payoff):
        return -jnp.sum(probs * jnp.log(models), -1), jnp.sum(models * payoff, -1)

    name = f"four actions, {np.dtype(dtype).name}"
    return Case(name, f"{name}: random, M = {num_models}", arguments, (), solve, reduced)


# Plain JAX: what one writes without knowing better


def _plain(case: Case, bisect: bool) -> Callable[..., jax.Array]:
    """The same equation, in the logits of play, by optimistix."""
    import optimistix as optx

    def scores(belief, payoffs, temperature):
        expected = jnp.matmul(belief, payoffs, precision=jax.lax.Precision.HIGHEST) / temperature
        return expected[..., 0] - expected[..., 1] if bisect else expected

    def play(x):
        return jnp.stack([jax.nn.sigmoid(x), jax.nn.sigmoid(-x)]) if bisect else jax.nn.softmax(x)

    def solve(log_prior, memory, temperature, *rest):
        kl, payoffs = case.reduced(log_prior, memory, temperature, *rest)

        def gap(x, args):
            log_prior, memory, temperature, kl, payoffs = args
            fit = jnp.matmul(kl, play(x), precision=jax.lax.Precision.HIGHEST)
            belief = jax.nn.softmax(log_prior - memory * fit)
            return scores(belief, payoffs, temperature) - x

        args = log_prior, memory, temperature, kl, payoffs
        start = scores(jax.nn.softmax(log_prior), payoffs, temperature)
        tol = 1e-5 if log_prior.dtype == jnp.float32 else 1e-10
        if bisect:
            solver = optx.Bisection(rtol=tol, atol=tol, flip="detect")
            gain = (payoffs[:, 0] - payoffs[:, 1]) / temperature
            options = {"lower": gain.min() - 1, "upper": gain.max() + 1}
        else:
            solver, options = optx.Newton(rtol=tol, atol=tol), {}
        found = optx.root_find(
            gap, solver, start, args=args, options=options, max_steps=64, throw=False
        )
        return play(found.value)[0]

    return solve


def _scipy(case: Case, cells: int, gradient: bool) -> Callable[[], np.ndarray]:
    """`scipy.optimize.root` on some of the problems, in float64."""
    from scipy.optimize import root
    from scipy.special import softmax

    few = [np.asarray(x[:cells], float) for x in case.arguments]
    axes = (0,) * len(few) + (None,) * len(case.shared)
    reduce = jax.jit(jax.vmap(case.reduced, axes))
    both = reduce(*(x[:cells] for x in case.arguments), *case.shared)
    kls, payoffs = (np.asarray(x, float) for x in both)

    def solve(log_prior, memory, temperature, kl, payoff):
        def gap(x):
            return softmax(log_prior - memory * kl @ softmax(x)) @ payoff / temperature - x

        return softmax(root(gap, softmax(log_prior) @ payoff / temperature).x)[0]

    def run():
        answers = []
        for log_prior, memory, temperature, kl, payoff in zip(*few[:3], kls, payoffs, strict=True):
            answers.append(solve(log_prior, memory, temperature, kl, payoff))
            if gradient:
                for m in range(len(log_prior)):
                    moved = log_prior.copy()
                    moved[m] += 1e-6
                    solve(moved, memory, temperature, kl, payoff)
        return np.array(answers)

    return run


# Running them


def _with_gradient(solve: Callable[..., jax.Array], everything: bool) -> Callable[..., Any]:
    """Solution, and its gradient."""

    def run(*arguments):
        wanted = tuple(range(4 if everything else 1))
        value, gradient = jax.value_and_grad(solve, argnums=wanted)(*arguments)
        return value, gradient

    return run


def _peer(
    name: str, case: Case, function: Callable[..., Any], devices: int, cells: int
) -> harness.Peer:
    own, shared = len(case.arguments), len(case.shared)
    program = jax.vmap(function, (0,) * own + (None,) * shared)
    where = everywhere = jax.local_devices()[0]
    if devices > 1:
        split = PartitionSpec("cells")
        mesh = Mesh(np.asarray(jax.local_devices()[:devices]), ("cells",))
        specs = (split,) * own + (PartitionSpec(),) * shared
        program = jax.shard_map(
            program, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False
        )
        where, everywhere = (NamedSharding(mesh, spec) for spec in (split, PartitionSpec()))
    arguments = [jax.device_put(x[:cells], where) for x in case.arguments]
    arguments += [jax.device_put(x, everywhere) for x in case.shared]
    run, seconds = _compiled(jax.jit(program), *arguments)
    return harness.Peer(name, run, cells, False, seconds)


def _threads(
    name: str, case: Case, function: Callable[..., Any], devices: int, cells: int
) -> harness.Peer:
    """A peer that `shard_map` does not take: a part of the problems, and a thread, a device."""
    own, shared = len(case.arguments), len(case.shared)
    program = jax.jit(jax.vmap(function, (0,) * own + (None,) * shared))
    used = jax.local_devices()[:devices]
    x64 = bool(jax.config.read("jax_enable_x64"))
    parts = [np.array_split(x[:cells], devices) for x in case.arguments]

    def prepare(i: int) -> tuple[Callable[[], np.ndarray], float]:
        own_arguments = (part[i] for part in parts)
        arguments = [jax.device_put(x, used[i]) for x in (*own_arguments, *case.shared)]
        return _compiled(program, *arguments)

    runs, seconds = zip(*map(prepare, range(devices)), strict=True)
    pool = ThreadPoolExecutor(devices)

    def one(run: Callable[[], np.ndarray]) -> np.ndarray:
        with jax.enable_x64(x64):
            return run()

    def run() -> np.ndarray:
        return np.concatenate(list(pool.map(one, runs)))

    return harness.Peer(name, run, cells, False, sum(seconds))


def _compiled(function: Any, *args: Any) -> tuple[Callable[[], np.ndarray], float]:
    """As `harness.compiled`, for programs that return the solution first and perhaps more."""
    start = time.perf_counter()
    program = function.lower(*args).compile()
    seconds = time.perf_counter() - start

    def run() -> np.ndarray:
        answer = jax.block_until_ready(program(*args))
        return np.asarray(answer[0] if isinstance(answer, tuple) else answer)

    return run, seconds


def _peers(case: Case, few: int, fewer: int) -> list[harness.Peer]:
    devices = len(jax.local_devices())
    cells = case.cells
    first, every = _with_gradient(case.solve, False), _with_gradient(case.solve, True)
    newton = _plain(case, bisect=False)
    peers = [_peer("bnjax", case, case.solve, devices, cells)]
    if devices > 1:
        peers.append(_peer("bnjax, 1 device", case, case.solve, 1, cells))
    peers += [
        _peer("bnjax with gradient", case, first, devices, cells),
        _peer("bnjax with all gradients", case, every, devices, cells),
        _threads("optimistix Newton, plain", case, newton, devices, few),
        _threads(
            "optimistix Newton, plain, with gradient",
            case,
            _with_gradient(newton, False),
            devices,
            few,
        ),
    ]
    if case.name.startswith("pair"):
        bisection = _plain(case, bisect=True)
        peers.append(_threads("optimistix bisection, plain", case, bisection, devices, few))
    for gradient in (False, True):
        name = "SciPy root" + ", finite differences" * gradient
        count = fewer if not gradient else max(1, fewer // 16)
        peers.append(harness.Peer(name, _scipy(case, count, gradient), count, False))
    return peers


def measure(case: Case, runs: int, few: int, fewer: int) -> dict[str, Any]:
    """Time every peer of a case, and compare its solutions with those of bnjax."""
    peers = _peers(case, few, fewer)
    timings = harness.take_turns(peers, runs)
    ours = timings[0].answer
    rates = {p.name: p.cells / t.median for p, t in zip(peers, timings, strict=True)}
    entries = [
        {
            "peer": peer.name,
            "cells": peer.cells,
            "solves_per_second": rates[peer.name],
            "solves_per_second_slowest": peer.cells / max(timing.seconds),
            "solves_per_second_fastest": peer.cells / min(timing.seconds),
            "compile_seconds": peer.compile_seconds,
            "agreement": float(np.mean(np.abs(timing.answer - ours[: peer.cells]) < 1e-3)),
        }
        for peer, timing in zip(peers, timings, strict=True)
    ]
    result = {
        "case": case.name,
        "about": case.about,
        "cells": case.cells,
        "runs": runs,
        "peers": entries,
        "times_plain": rates["bnjax"] / rates["optimistix Newton, plain"],
        "gradient_over_forward": rates["bnjax"] / rates["bnjax with gradient"],
        "all_gradients_over_forward": rates["bnjax"] / rates["bnjax with all gradients"],
    }
    return result | {"target": _target(case.name, result, rates["bnjax"])}


def _target(name: str, result: dict[str, Any], rate: float) -> dict[str, Any] | None:
    if name not in _TARGETS:
        return None
    met = {
        "solves_per_second": rate >= _TARGETS[name],
        "times_plain": result["times_plain"] >= _TIMES_PLAIN,
        "gradient_over_forward": result["gradient_over_forward"] <= _GRADIENT,
    }
    wanted = _TARGETS[name], _TIMES_PLAIN, _GRADIENT
    return {"wanted": dict(zip(met, wanted, strict=True)), "met": met}


def _print(result: dict[str, Any]) -> None:
    ours = result["peers"][0]["solves_per_second"]
    rows = [
        [
            entry["peer"],
            f"{entry['solves_per_second']:,.0f}",
            f"{entry['solves_per_second_slowest']:,.0f}-{entry['solves_per_second_fastest']:,.0f}",
            f"{ours / entry['solves_per_second']:.2f}",
            "-" if entry["compile_seconds"] is None else f"{entry['compile_seconds']:.1f}",
            f"{100 * entry['agreement']:.1f} %",
        ]
        for entry in result["peers"]
    ]
    print(f"\n{result['about']}; {result['cells']} problems")
    print(harness.table(["", "solves/s", "range", "times bnjax", "compile s", "as bnjax"], rows))
    if result["target"] is not None:
        for what, met in result["target"]["met"].items():
            wanted = result["target"]["wanted"][what]
            print(f"target on 2 idle cores: {what} {wanted:,}: {'met' if met else 'NOT met'}")


# Searches


def searches(quick: bool) -> list[dict[str, Any]]:
    """Seconds to a certified design, and what a gradient of a whole objective costs."""
    steps = {"num_steps": 30, "num_starts": 2, "certified_environments": 9} if quick else {}
    both = {"p_sycophantic": (0.55, 0.8), "p_honest": (0.55, 0.8)}
    bounds, sycophancy = bn.design.SupportBounds(), bn.scenarios.sycophancy
    cases: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
        ("multistable sycophancy, support", sycophancy, both, bounds, {}),
        (
            "oscillatory sycophancy, support",
            sycophancy,
            {"p_sycophantic": (0.2, 0.45), "p_honest": (0.2, 0.45)},
            bounds,
            {},
        ),
        (
            "overconfident deception, support",
            bn.scenarios.deception,
            {"p_detect": (0.3, 0.9)},
            bounds,
            {},
        ),
        (
            "multistable sycophancy, weights only, score",
            sycophancy,
            both,
            bn.design.BetaPrior(),
            {
                "threshold": None,
                "gradient": "score",
                "objective": bn.design.Objective(cost=0.001),
                "num_starts": 1,
                "num_environments": 4,
                "num_steps": 100,
            },
        ),
    ]
    found = []
    for name, scenario, environments, design, options in cases[:1] if quick else cases:

        def search(case: tuple[Any, ...] = (scenario, environments, design, options)) -> Any:
            *given, options = case
            start = time.perf_counter()
            done = bn.design.optimize(*given, **{**steps, **options})
            return done, time.perf_counter() - start

        _, first = search()
        result, second = search()  # finds everything compiled
        found.append(
            {
                "case": name,
                "seconds_with_compilation": first,
                "seconds": second,
                "earned": result.earned,
                "safe_share": float(np.mean(result.after.safe_share)),
                "cost": float(result.after.cost),
            }
        )
    return found


def objective_gradient(runs: int) -> dict[str, float]:
    """Seconds of the objective of a search, and of it with its gradient, vmapped over starts."""
    plan = plan_of(
        bn.scenarios.sycophancy,
        {"p_sycophantic": (0.55, 0.8), "p_honest": (0.55, 0.8)},
        bn.design.LogPrior(),
        objective=None,
        gradient="implicit",
        start="any",
        threshold=1e-3,
        num_starts=64,
    )
    sharp = jax.tree.map(lambda x: x[-1], plan.schedule)

    def value(parameters: jax.Array) -> jax.Array:
        return plan.objective(evaluate(plan.situation, parameters, sharp, plan.key))

    forward = jax.jit(jax.vmap(value))
    both = jax.jit(jax.vmap(lambda p: jnp.append(*jax.value_and_grad(value)(p)[::-1])))
    peers = []
    for name, function in (("forward", forward), ("with gradient", both)):
        run, seconds = harness.compiled(function, plan.starts)
        peers.append(harness.Peer(name, run, 64, True, seconds))
    one, two = (timing.median for timing in harness.take_turns(peers, runs))
    return {"forward_seconds": one, "with_gradient_seconds": two, "ratio": two / one}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few problems and runs: a smoke test")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="where the JSON goes")
    parser.add_argument("--runs", type=int, default=None, help="runs of every peer (5)")
    parser.add_argument("--only", default="", help="only cases whose name starts with this")
    options = parser.parse_args(arguments)
    note = harness.use_all_cores()
    machine = harness.machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average_at_start']}")
    print(f"{machine['platform']}; JAX {machine['jax']}; {note}")
    pairs, many, few, fewer = (512, 64, 64, 16) if options.quick else (65_536, 2_048, 4_096, 64)
    runs = options.runs or (1 if options.quick else 5)
    results = []
    for make, cells in ((pair_case, pairs), (many_case, many)):
        for dtype in (np.float32, np.float64):
            with jax.enable_x64(dtype == np.float64):
                case = make(cells, dtype)
                if case.name.startswith(options.only):
                    results.append(measure(case, runs, min(few, cells), fewer))
                    _print(results[-1])
    report = {"machine": machine, "note": note, "smooth_equilibria": results}
    if not options.only:
        report["objective_gradient"] = cost = objective_gradient(runs)
        print(
            f"\nobjective of a search with its gradient: {cost['ratio']:.2f} x without (target 4)"
        )
        report["searches"] = searches(options.quick)
        header = ["search", "s, compiling", "s", "earned", "safe", "cost"]
        rows = [
            [
                x["case"],
                f"{x['seconds_with_compilation']:.1f}",
                f"{x['seconds']:.1f}",
                x["earned"],
                f"{x['safe_share']:.3f}",
                f"{x['cost']:.3f}",
            ]
            for x in report["searches"]
        ]
        print(harness.table(header, rows))
    harness.write_json(options.out, report)
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
