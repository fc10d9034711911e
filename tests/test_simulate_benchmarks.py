"""The peers of the simulator play as it does: a wrong peer is no yardstick.

Comparisons of means allow 5 standard errors, of closed forms 99.99 % intervals: for all of them
together, less than a chance in a thousand of a false alarm, and the seeds are fixed.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import binomtest

import bnjax as bn
from benchmarks import _alternatives as alternatives
from benchmarks import kernel
from benchmarks import numpy_baseline as baseline
from benchmarks import simulate as benchmark
from bnjax.learning import _blocked, _plain, _simulate
from tests.oracles import closed_forms

ROOT = Path(__file__).parent.parent
AGENTS = 4000


def two_models(p_sycophantic, p_honest, steps, q=0.6, dtype=np.float32):
    """Sycophancy with theta in {q, 1 - q}, and log-odds of so many steps in favour of q."""
    theta = np.array([q, 1 - q])
    models = np.stack([np.stack([1 - theta, theta], -1), np.stack([theta, 1 - theta], -1)], 1)
    success = np.array([p_sycophantic, p_honest])
    prior = np.array([steps * math.log(q / (1 - q)), 0.0])
    arrays = (
        np.stack([1 - success, success], -1),
        models,
        np.array([[0.0, 1.0], [0.0, 1.0]]),
        prior - np.logaddexp(*prior),
    )
    return baseline.Categorical(*(x.astype(dtype) for x in arrays))


def numba_peer():
    pytest.importorskip("numba")
    from benchmarks import _numba_peer

    return _numba_peer


def torch_peer():
    if not benchmark.installed("torch"):
        pytest.skip("PyTorch is not installed")
    from benchmarks import _torch_peer

    return _torch_peer


PEERS = {
    "naive": lambda *a, **k: baseline.simulate(*a, form="naive", **k),
    "counts": lambda *a, **k: baseline.simulate(*a, form="counts", **k),
    "blocked": lambda *a, **k: baseline.simulate(*a, form="blocked", chunk=1500, **k),
    "moments": lambda *a, **k: baseline.simulate(*a, form="moments", chunk=1500, **k),
    "numba lanes": lambda *a, **k: numba_peer().simulate(*a, layout="lanes", **k),
    "numba moments": lambda *a, **k: numba_peer().simulate(*a, layout="moments", **k),
    "numba rows": lambda *a, **k: numba_peer().simulate(*a, layout="rows", num_threads=2, **k),
    "torch": lambda *a, **k: torch_peer().simulate(*a, num_threads=2, **k),
}


def described(result):
    names = ("late_frequency", "mean_payoff", "outcome", "intended")
    return baseline.describe(*(np.asarray(getattr(result, name)) for name in names))


def by_bnjax(problem, seed=0, num_agents=AGENTS, num_steps=100, policy=None, memory=None):
    case = benchmark.Case("", "", problem, num_agents, num_steps, policy, memory)
    return bn.simulate(key=jax.random.key(seed), **benchmark.to_bnjax(case))


# Against closed forms


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("steps", [-2, 0, 3])
def test_lock_in_has_the_probability_of_the_closed_form(peer, steps):
    # After 150 steps fewer than 1e-4 of the agents are yet to cross over.
    problem = two_models(0.7, 0.6, steps)
    found = PEERS[peer](problem, 1, num_agents=AGENTS, num_steps=150)
    count = int((found.intended == 0).sum())
    want = closed_forms.lock_in_probability(0.7, 0.6, steps)
    interval = binomtest(count, AGENTS).proportion_ci(0.9999)
    assert interval.low - 1e-4 <= want <= interval.high + 1e-4


@pytest.mark.parametrize("peer", PEERS)
def test_play_mixes_as_in_equilibrium(peer):
    problem = benchmark.axis_problem(16, 0.4, 0.3)
    found = PEERS[peer](problem, 2, num_agents=500, num_steps=1000)
    late = found.late_frequency[:, 0]
    # Of 500 steps, the start is forgotten: what is left of it is below 0.005.
    error = 5 * late.std() / math.sqrt(len(late)) + 0.005
    assert abs(late.mean() - closed_forms.sycophancy_mixture(0.4, 0.3)) < error


# Against bnjax


@pytest.mark.parametrize(
    ("policy", "memory"),
    [
        (baseline.Logit(0.1), baseline.Perfect()),
        (baseline.Logit(0.1), baseline.Discounted(0.05)),
        (baseline.BestResponse(), baseline.Window(10)),
        (baseline.Thompson(), baseline.Perfect()),
        (baseline.BestResponse(epsilon=0.2), baseline.Perfect()),
        (baseline.BestResponse(ties="uniform"), baseline.Window(3)),
    ],
    ids=["logit", "discounted", "window", "Thompson", "epsilon", "ties"],
)
def test_policies_and_memories_are_those_of_bnjax(policy, memory):
    problem = benchmark.axis_problem(9, 0.4, 0.35)
    size = {"num_agents": AGENTS, "num_steps": 100}
    case = benchmark.Case("", "", problem, **size)
    arguments = benchmark.to_bnjax(case) | {"policy": of_bnjax(policy), "memory": of_bnjax(memory)}
    want = described(bn.simulate(key=jax.random.key(3), **arguments))
    forms = ("naive", "counts", "blocked")
    for form in forms if isinstance(memory, baseline.Perfect) else forms[:2]:
        found = baseline.simulate(problem, 4, form=form, policy=policy, memory=memory, **size)
        assert baseline.compare(want, described(found))["agrees"], form


def of_bnjax(choice):
    match choice:
        case baseline.Logit(temperature):
            return bn.Logit(temperature)
        case baseline.Thompson():
            return bn.ThompsonSampling()
        case baseline.BestResponse(ties=ties, epsilon=epsilon):
            response = bn.BestResponse(ties)
            return bn.EpsilonGreedy(epsilon, response) if epsilon else response
        case baseline.Discounted(rate):
            return bn.DiscountedMemory(rate)
        case baseline.Window(length):
            return bn.WindowMemory(length)
        case _:
            return bn.PerfectMemory()


def test_gaussian_problems_are_those_of_bnjax():
    problem = benchmark.monopolist_problem(5)
    size = {"num_agents": 1000, "num_steps": 60}
    want = described(by_bnjax(problem, 5, **size))
    assert baseline.compare(want, described(baseline.simulate(problem, 6, **size)))["agrees"]


def three_by_three(dtype=np.float32):
    return baseline.Categorical(
        *(np.asarray(x, dtype) for x in benchmark.general_problem(12, 3, 3))
    )


@pytest.mark.parametrize("peer", [x for x in PEERS if "moments" not in x and "lanes" not in x])
def test_more_actions_are_played_as_by_bnjax(peer):
    problem = three_by_three()
    want = described(by_bnjax(problem, 7))
    found = PEERS[peer](problem, 8, num_agents=AGENTS, num_steps=100)
    assert baseline.compare(want, described(found))["agrees"]


def certain_models(dtype=np.float32):
    """Two actions, of whose consequences some models rule out what can happen."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.05, 0.95, (10, 2))
    rates[[0, 3, 5], 0] = 0
    rates[[2, 5], 1] = 1
    models = np.stack([1 - rates, rates], -1)
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    payoff = np.array([[0.0, 1.0], [0.0, 0.3]])
    return baseline.Categorical(
        *(x.astype(dtype) for x in (probs, models, payoff, np.full(10, -math.log(10))))
    )


@pytest.mark.parametrize("peer", PEERS)
def test_models_that_are_ruled_out_stay_so(peer):
    problem = certain_models()
    want = by_bnjax(problem, 9)
    found = PEERS[peer](problem, 10, num_agents=AGENTS, num_steps=100)
    assert baseline.compare(described(want), described(found))["agrees"]
    dead = [np.mean(np.asarray(x.log_belief) == -np.inf, axis=0) for x in (want, found)]
    error = 5 * math.sqrt(0.5 / AGENTS)  # of a difference of two shares
    np.testing.assert_allclose(dead[0], dead[1], atol=error)
    total = np.exp(np.asarray(found.log_belief, np.float64)).sum(1)
    np.testing.assert_allclose(total, 1, rtol=1e-4)


# The three forms against each other


@pytest.mark.parametrize("make", [three_by_three, certain_models], ids=["three", "certain"])
@pytest.mark.parametrize(
    "policy", [baseline.BestResponse(epsilon=0.1), baseline.Logit(0.2)], ids=["best", "logit"]
)
def test_the_forms_play_alike_with_the_same_numbers(make, policy):
    # In double precision a tie by rounding is out of the question.
    problem = make(np.float64)
    size = {"num_agents": 300, "num_steps": 400, "policy": policy, "keep_actions": True}
    naive, counts, blocked = (
        baseline.simulate(problem, 11, form=form, **size) for form in ("naive", "counts", "blocked")
    )
    for other in (counts, blocked):
        assert np.mean(naive.actions != other.actions) < 1e-4
        alike = (naive.actions == other.actions).all(0)
        assert alike.mean() > 0.99
        got, want = np.exp(other.log_belief[alike]), np.exp(naive.log_belief[alike])
        np.testing.assert_allclose(got, want, atol=1e-9)


def test_threads_do_not_change_the_numpy_baseline():
    problem = three_by_three()
    size = {"num_agents": 100, "num_steps": 40, "chunk": 30}
    one = baseline.simulate(problem, 12, **size)
    two = baseline.simulate(problem, 12, num_threads=2, **size)
    np.testing.assert_array_equal(one.log_belief, two.log_belief)


# The command


def test_help_names_the_cases(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ('"general, M = 8"', '"window"', '"Gaussian"', "results/simulate.json;"):
        assert name in text


def test_a_case_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--only", "axsi"])
    assert 'there is no case "axsi"; there are "general"' in capsys.readouterr().err


def test_the_kernel_is_timed_where_there_is_a_gpu(tmp_path, capsys):
    out = tmp_path / "kernel.json"
    kernel.main(["--interpret", "--runs", "1", "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    assert result["share_that_differs"] == 0
    if jax.default_backend() != "gpu":
        with pytest.raises(SystemExit):
            kernel.main([])
        assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_choices_are_exchanged_while_they_run_and_no_longer():
    case = benchmark.Case("", "", benchmark.general_problem(8), 64, 40)
    between, made, lax = _blocked.steps_between_refreshes, _simulate._plan, _plain.lax
    found = alternatives.choices(benchmark.to_bnjax(case))
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        words = alternatives._words_of_jax
        patch.setattr(
            alternatives, "_words_of_jax", lambda *args: (asked.append(args), words(*args))[1]
        )
        other = alternatives.choices(benchmark.to_bnjax(case))["blocked, words by jax.random"](3)
    assert asked
    often = found["blocked, refreshed every 4"](3)
    blocked = found["blocked"](3)
    # Weights made anew more often are the same lives, from the same words; others are not.
    np.testing.assert_array_equal(often.frequency, blocked.frequency)
    np.testing.assert_array_equal(often.since, blocked.since)
    assert (np.asarray(other.frequency) != np.asarray(blocked.frequency)).any()
    np.testing.assert_allclose(other.frequency.mean(0), blocked.frequency.mean(0), atol=0.2)
    kept = _blocked.steps_between_refreshes, _simulate._plan, _plain.lax
    assert kept == (between, made, lax)


@pytest.mark.slow  # its peers are compared with the library above
def test_the_benchmark_runs_and_its_peers_agree(tmp_path):
    out = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.simulate",
            "--quick",
            "--alternatives",
            "--out",
            str(out),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["agrees"]
    for case in report["cases"]:
        names = [entry["peer"] for entry in case["peers"]]
        assert names[0].startswith("bnjax")
        assert "NumPy, naive" in names
        assert all(entry["agent_steps_per_second"] > 0 for entry in case["peers"])
        assert case["bound"]["bound_by"] in case["bound"]["nanoseconds"]
    assert all(rate > 0 for rate in report["roofline"].values())
    assert [entry["case"] for entry in report["alternatives"]] == ["general"]
    for entry in report["alternatives"]:
        assert len(entry["choices"]) >= 15
        assert all(row["agrees"] for row in entry["choices"].values())
    assert out.with_suffix(".png").stat().st_size > 0
    assert out.with_name("report_roofline.png").stat().st_size > 0
