"""The benchmark runs, and its NumPy peers are right: a wrong peer is no yardstick."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bnjax as bn
from benchmarks import numpy_phase
from tests.oracles import closed_forms, exact, random_problems
from tests.oracles.random_problems import KINDS, random_problem

ROOT = Path(__file__).parent.parent


def exact_answer(arrays):
    reduced = random_problems.reduced_form(arrays)
    return exact.exact_problem(**reduced, tol_fit=1e-12, tol_payoff=1e-10)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"unsupported"}))  # peers know no prior
@pytest.mark.parametrize(
    "method",
    [
        numpy_phase.walk_phases,
        numpy_phase.all_pairs_phases,
        lambda *args, **options: numpy_phase.walk_phases(*args, max_ties=4, **options),
    ],
    ids=["walk", "all pairs", "walk with ties"],
)
def test_numpy_agrees_with_rational_arithmetic(method, kind):
    for seed in range(15):
        arrays = random_problem(seed, kind, num_actions=2)
        arrays["log_prior"] = np.zeros_like(arrays["log_prior"])
        problem = exact_answer(arrays)
        names = ("probs", "model_probs", "payoff")
        found = method(*(arrays[name][None] for name in names), safe=tuple(arrays["safe"]))
        np.testing.assert_array_equal(found.rationalizable[0], exact.rationalizable(problem))
        for action in range(2):
            assert found.pure[0, action] == (action in exact.justified(problem, (action,)))


def test_numpy_finds_the_regimes_of_the_theorem():
    axis = np.linspace(0.02, 0.98, 9)
    p, q = (x.ravel() for x in np.meshgrid(axis, axis, indexing="ij"))
    off = (abs(p - 0.5) > 1e-6) & (abs(q - 0.5) > 1e-6)
    found = numpy_phase.continuous_sycophancy_phases(p, q)
    for at in np.flatnonzero(off):
        want = closed_forms.sycophancy(p[at], q[at])
        assert bn.Phase(int(found.phase[at])).name == want.phase


def test_numpy_uses_the_codes_of_the_library():
    for name in bn.Phase.__members__:
        assert getattr(numpy_phase, name) == bn.Phase[name]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--only", "sycophancy"], {"sycophancy"}),
        pytest.param(["--memory"], {"sycophancy", "general", "continuous"}, marks=pytest.mark.slow),
    ],
)
def test_the_benchmark_runs_and_its_peers_agree(options, names, tmp_path):
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.phase_diagram", "--quick", *options]
    done = subprocess.run(
        [*command, "--models", "17", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert {case["case"] for case in report["cases"]} == names
    for case in report["cases"]:
        for peer in case["peers"]:
            assert peer["cells_per_second"] > 0
            # The grid of 33 mixtures may miss what lies between them; the others may not.
            assert peer["agreement"] == 1 if peer["exact"] else peer["agreement"] > 0.5
    if "memory" in report:
        assert report["memory"]["peak_bytes"] > report["memory"]["peak_bytes_before"]
    assert report["machine"]["cpu"]


@pytest.mark.parametrize(
    ("options", "cases"),
    [(["--only", "pair, float32"], 1), ([], 4)],
)
@pytest.mark.slow
def test_the_benchmark_of_designs_runs_and_its_peers_agree(options, cases, tmp_path):
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.design", "--quick", "--out", str(out)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert len(report["smooth_equilibria"]) == cases
    for case in report["smooth_equilibria"]:
        for peer in case["peers"]:
            assert peer["solves_per_second"] > 0
            # Plain peers may end on another solution, or on none.
            assert peer["agreement"] == 1 if "bnjax" in peer["peer"] else peer["agreement"] > 0.5
    if not options:
        assert report["objective_gradient"]["ratio"] > 1
        assert all(search["seconds"] > 0 for search in report["searches"])
    assert report["machine"]["cpu"]
