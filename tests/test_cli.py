"""The command: what it prints and writes, and how it fails."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import bnjax as bn
from bnjax.cli import main
from bnjax.cli._common import new_console
from bnjax.cli._simulate import _every, _heading, _play_table
from bnjax.plot._learning import PATHS

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parent.parent
AXES = ["--x", "p_sycophantic=0.05:0.95:6", "--y", "p_honest=0.1:0.9:5"]


def run(*args, width=100):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, list(map(str, args)))


def succeed(*args, width=100):
    result = run(*args, width=width)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(*args):
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def start(*args, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bnjax", *map(str, args)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# bnjax scenarios


def test_scenarios_lists_every_parameter_with_its_meaning():
    text = " ".join(succeed("scenarios", width=200).split())
    for name in bn.scenarios.__all__:
        assert name in text
    assert "p_honest = 0.6 true probability of approval after an honest answer." in text
    assert "detect_lower = 0 bounds of the detection probabilities" in text
    assert "num_efforts = 101 number of efforts A (fixed: it sets the shape" in text
    assert "sycophantic, honest (safe: honest)" in text
    assert "price 2, price 10 (none called safe)" in text
    assert "and 91 more" in text


@pytest.mark.parametrize("width", [80, 120])
def test_scenarios_fits_its_terminal(width):
    assert max(map(len, succeed("scenarios", width=width).splitlines())) <= width


# bnjax solve

SOLVE = ["solve", "sycophancy", "p_honest=0.3", "p_sycophantic=0.4", "--exploration", "0.1"]


@pytest.fixture(scope="module")
def report():
    def refuse(name):
        raise AssertionError(f"not JSON: {name}")

    text = succeed(*SOLVE, "--json", "--certify", "--grid", "5")
    return json.loads(text, parse_constant=refuse)


def test_json_says_what_was_asked(report):
    assert report["scenario"] == "sycophancy"
    assert report["parameters"] == {"p_sycophantic": 0.4, "p_honest": 0.3, "width": 0.0}
    assert report["exploration"] == 0.1
    assert report["precision"] == "float64"
    assert report["actions"] == {"sycophantic": {"safe": False}, "honest": {"safe": True}}
    # Answer and certificate at one tolerance, so that no near-tie sets them at odds.
    for name in ("tol_fit", "tol_payoff"):
        assert report[name] == report["certificate"][name] == 1e-9


def test_json_holds_the_solution(report):
    assert report["phase"] == "OSCILLATORY"
    assert report["rationalizable"] == {"sycophantic": "IN", "honest": "IN"}
    assert report["complete"] is True
    (mixed,) = report["equilibria"]
    assert mixed["kind"] == "mixed"
    assert mixed["stability"] == "STABLE"
    assert mixed["absorbing"] is False
    # In the realised play 2/3 the best fit is 1/2; intended is what trembles to that.
    assert mixed["realised"]["sycophantic"] == pytest.approx(2 / 3, abs=1e-6)
    assert mixed["strategy"]["sycophantic"] == pytest.approx((2 / 3 - 0.05) / 0.9, abs=1e-6)
    assert mixed["best_fit"] == {"theta_sycophantic": pytest.approx(0.5, abs=1e-6)}
    assert sum(atom["weight"] for atom in mixed["belief"]) == pytest.approx(1)


def test_json_holds_the_certificate(report):
    certificate = report["certificate"]
    assert certificate["models"] == 5
    assert certificate["rationalizable"] == {"sycophantic": "IN", "honest": "IN"}
    assert set(certificate["witnesses"]) == {"sycophantic", "honest"}


def test_one_belief_of_several_says_so():
    text = " ".join(succeed("solve", "coin", "--certify").split())
    # Both models fit equally well, so that either may be the one that is named.
    assert any(f"pure 1 {theta} stable (or others)" in text for theta in (0.25, 0.75))
    assert "belief is in theta 0.25" in text
    assert "is safe" not in text  # the scenario calls nothing safe
    text = succeed("solve", "sycophancy", "--max-equilibria", "1")
    assert "there may be more than these 1: see --max-equilibria" in text


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_their_terminal(width):
    text = succeed(*SOLVE, "--certify", "--grid", "5", width=width)
    assert max(map(len, text.splitlines())) <= width
    for words in ("OSCILLATORY", "0.685185", "0.666667", "stable", "IN", "grid of 5 points"):
        assert words in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["solve", "flattery"], "unknown scenario `flattery`; there are: coin, deception, "),
        (["solve"], "Missing argument 'SCENARIO'."),
        (["solve", "coin", "q=1"], "unknown parameter `q` of coin; it has: p_heads"),
        (["solve", "coin", "exploration=1"], "for exploration use --exploration"),
        (["solve", "coin", "p_heads"], "a parameter must be NAME=VALUE; got `p_heads`"),
        (["solve", "coin", "p_heads=x"], "`p_heads` must be a finite number; got `x`"),
        (["solve", "coin", "p_heads=nan"], "`p_heads` must be a finite number; got `nan`"),
        (["solve", "coin", "p_heads=0", "p_heads=1"], "`p_heads` is given twice"),
        (["solve", "coin", "p_heads=2"], "`p_heads` must be a probability in [0, 1]; got 2."),
        (["solve", "overconfidence", "num_efforts=2.5"], "`num_efforts` must be a whole number"),
        (["solve", "coin", "--exploration", "x"], "Invalid value for '--exploration'"),
        (["solve", "sycophancy", "--exploration", "2"], "`exploration` must be a probability"),
        (["solve", "coin", "--grid", "5"], "`--grid` is for `--certify`"),
        (["solve", "coin", "--certify", "--grid", "1"], "Invalid value for '--grid'"),
        (["solve", "coin", "--nonsense"], "No such option"),
        (["nonsense"], "No such command 'nonsense'."),
    ],
)
def test_solve_refuses(args, message):
    assert message in fail(*args)


# bnjax phase-diagram


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "deep" / "folder"
    text = succeed("phase-diagram", "sycophancy", *AXES, "--out", out, width=80)
    return out, text


def test_data_is_what_the_library_returns(drawn):
    out, _ = drawn
    axes = {"p_sycophantic": np.linspace(0.05, 0.95, 6), "p_honest": np.linspace(0.1, 0.9, 5)}
    with xr.open_dataset(out / "phase_diagram.nc") as stored:
        expected = bn.phase_diagram(bn.scenarios.sycophancy, axes)
        xr.testing.assert_equal(stored.load(), expected)
        assert stored.phase.dims == ("p_sycophantic", "p_honest")
        assert stored.attrs.keys() == expected.attrs.keys()
        assert stored.pure.dtype == bool
        assert stored.phase.attrs["flag_meanings"].split() == [code.name for code in bn.Phase]


def test_populations_are_stored_drawn_and_tabled(tmp_path):
    args = ["--simulate", "--agents", 20, "--steps", 60, "--seed", 3, "--out", tmp_path]
    learners = ["--policy", "logit", "--temperature", 0.2, "--memory", "window", "--length", 20]
    text = succeed("phase-diagram", "sycophancy", *AXES, *args, *learners)
    axes = {"p_sycophantic": np.linspace(0.05, 0.95, 6), "p_honest": np.linspace(0.1, 0.9, 5)}
    with xr.open_dataset(tmp_path / "phase_diagram.nc") as stored:
        expected = bn.phase_diagram(
            bn.scenarios.sycophancy,
            axes,
            method="simulate",
            key=jax.random.key(3),
            num_agents=20,
            num_steps=60,
            policy=bn.Logit(0.2),
            memory=bn.WindowMemory(20),
        )
        xr.testing.assert_equal(stored.load(), expected)
    assert "20 learners in each cell, 60 steps" in text
    shares = expected.outcome_share.where(expected.phase == bn.Phase.SAFE).mean(expected.phase.dims)
    row = next(x for x in text.splitlines() if x.startswith("SAFE") and x.count("%") == 4)
    assert row.split()[1:] == [f"{share:.1%}" for share in shares.values]
    assert (tmp_path / "simulated_diagram.png").read_bytes()[:4] == b"\x89PNG"
    assert "simulated_diagram.png" in text


def test_diagram_has_the_four_regimes(drawn):
    with xr.open_dataset(drawn[0] / "phase_diagram.nc") as stored:
        phases = stored.load()
    p, q = xr.broadcast(phases.p_sycophantic, phases.p_honest)
    assert ((p > 0.5) | (p < 0.5)).all()
    both = xr.where(p > 0.5, bn.Phase.MULTISTABLE, bn.Phase.SAFE)
    neither = xr.where(p > 0.5, bn.Phase.UNSAFE, bn.Phase.OSCILLATORY)
    off = abs(q - 0.5) > 1e-6
    expected = xr.where(q > 0.5, both, neither)
    assert (phases.phase == expected).where(off, True).all()
    mixture = (0.5 - q) / (1 - p - q)
    inside = ((p > 0.5) == (q > 0.5)) & off
    close = abs(phases.mixed_strategy.sel(action="sycophantic") - mixture) < 1e-3
    assert close.where(inside, True).all()


def test_pictures_and_paths(drawn):
    out, text = drawn
    assert (out / "phase_diagram.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in out.iterdir()) == ["phase_diagram.nc", "phase_diagram.png"]
    for name in ("phase_diagram.nc", "phase_diagram.png"):
        assert f"wrote {out / name}\n" in text
    assert "p_sycophantic (6) x p_honest (5)" in text
    assert "30.0%" in text  # OSCILLATORY: 9 of 30
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("wrote"))


def test_overwrites_only_by_force(drawn):
    out, _ = drawn
    before = (out / "phase_diagram.nc").stat().st_mtime_ns
    message = fail("phase-diagram", "sycophancy", *AXES, "--out", out)
    assert message == f"error: {out}/phase_diagram.nc exists; pass --force to overwrite it\n"
    assert (out / "phase_diagram.nc").stat().st_mtime_ns == before
    succeed("phase-diagram", "sycophancy", *AXES, "--out", out, "--force", "--no-boundaries")
    assert (out / "phase_diagram.nc").stat().st_mtime_ns > before


@pytest.mark.slow
def test_one_axis_is_a_strip_and_nonsense_is_explained(tmp_path):
    args = ["--x", "detect_upper=0:1:5", "--out", tmp_path]
    text = " ".join(succeed("phase-diagram", "deception", *args, width=80).split())
    assert "deception over detect_upper (5); p_detect = 0.5, gain = 1," in text
    assert "INVALID 20.0% 1" in text
    assert "INVALID at detect_upper = 0, for example: `detect_upper` = 0 rules out" in text
    assert "more equilibria" not in text  # what makes no sense has none


def test_zarr(tmp_path):
    pytest.importorskip("zarr")
    for force in ([], ["--force"]):
        succeed("phase-diagram", "sycophancy", *AXES, "--out", tmp_path, "--format", "zarr", *force)
        with xr.open_zarr(tmp_path / "phase_diagram.zarr") as stored:
            assert stored.phase.shape == (6, 5)
            assert stored.action.values.tolist() == ["sycophantic", "honest"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["flattery", "--out", "o"], "unknown scenario `flattery`; there are: coin, deception, "),
        (["sycophancy"], "Missing option '--out'."),
        (["sycophancy", "--out", "o", "q=1"], "unknown parameter `q` of sycophancy; it has: p_"),
        (["sycophancy", "--out", "o", "--x", "q=0:1:5"], "unknown parameter `q` of sycophancy"),
        (["sycophancy", "--out", "o", "--x", "p_honest"], "an axis must be NAME=LOW:HIGH:N; got"),
        (["sycophancy", "--out", "o", "--x", "p_honest=0:1"], "an axis must be NAME=LOW:HIGH:N"),
        (["sycophancy", "--out", "o", "--x", "width=0:b:5"], "`width` must be a finite number"),
        (["sycophancy", "--out", "o", "--x", "width=1:0:5"], "must run upwards; got 1 to 0"),
        (["sycophancy", "--out", "o", "--x", "width=0:1:1"], "at least 2; got `1`"),
        (["sycophancy", "--out", "o", "--x", "width=0:1:2.5"], "at least 2; got `2.5`"),
        (["sycophancy", "--out", "o", "--agents", "5"], "`--agents` is for --simulate"),
        (["sycophancy", "--out", "o", "--policy", "logit"], "`--policy` is for --simulate"),
        (["sycophancy", "--out", "o", "--seed", 2**63], "is not in the range 0<=x<=4294967295"),
        (["sycophancy", "--out", "o", "--rate", "0.1"], "`--rate` is for --simulate"),
        (
            ["sycophancy", "--out", "o", "--simulate", "--policy", "logit"],
            "`--policy logit` needs `--temperature`",
        ),
        (
            ["sycophancy", "--out", "o", "--simulate", "--steps", "0"],
            "`--steps` must be at least 1",
        ),
        (
            ["sycophancy", "--out", "o", "--x", "p_honest=0:1:5", "--y", "p_honest=0:1:5"],
            "`p_honest` is on both axes",
        ),
        (
            ["sycophancy", "--out", "o", "--x", "width=0:1:5", "width=1"],
            "`width` is both an axis and fixed",
        ),
        (["monopolist", "--out", "o"], "monopolist needs an axis: --x NAME=LOW:HIGH:N"),
        (["monopolist", "--out", "o", "--x", "demand_low=1:2:3"], "monopolist has no phases"),
        (["sycophancy", "--out", "o", "--format", "csv"], "Invalid value for '--format'"),
        (
            ["sycophancy", "--out", "o", "--exploration", "0.1", "--x", "exploration=0:1:3"],
            "`exploration` must be given once",
        ),
    ],
)
def test_phase_diagram_refuses(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fail("phase-diagram", *args)
    assert list(tmp_path.iterdir()) == []


# The process.


def test_errors_are_one_line_with_status_2():
    done = start("solve", "coin", "p_tails=1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown parameter `p_tails` of coin; it has: p_heads\n"


def test_settings_are_made_in_the_process(tmp_path):
    code = """
import os, jax
from bnjax.cli._common import settings
with settings(x64=True):
    assert jax.numpy.ones(()).dtype == "float64"
    cache = os.path.join(os.environ["XDG_CACHE_HOME"], "bnjax", "jax")
    assert jax.config.jax_compilation_cache_dir == cache
assert jax.config.jax_compilation_cache_dir is None
assert jax.numpy.ones(()).dtype == "float32"
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_help():
    assert "scenarios" in succeed("--help")
    assert "Usage" in succeed()
    text = " ".join(succeed("phase-diagram", "--help").split())
    assert "JAX_COMPILATION_CACHE_DIR" in text
    assert "All processor cores" in text
    assert "which of several to play. [default: first]" in text
    assert bn.__version__ in succeed("--version")


# bnjax simulate


FEW = ["coin", "--agents", 300, "--steps", 40]


def test_simulate_writes_what_it_prints(tmp_path):
    out = tmp_path / "out"
    text = succeed("simulate", "deception", "p_detect=0.9", "--grid", 9, *FEW[1:], "--out", out)
    report = json.loads((out / "simulation.json").read_text())
    assert report["scenario"] == "deception"
    assert report["parameters"]["p_detect"] == 0.9
    assert report["models"] == 9
    note = "Simulated on a grid of 9 models; equilibria are those of the continuum."
    assert report["notes"] == [note]
    assert note in text
    heading = "deception: p_detect = 0.9; 300 agents, 40 steps, 9 models, seed 0, best response, "
    assert text.startswith(heading)
    assert {row["stability"] for row in report["equilibria"]} == {"STABLE"}
    assert "(stable)" in text
    outcomes = report["outcomes"]
    assert sum(row["agents"] for row in outcomes.values()) == 300
    for name, row in outcomes.items():
        assert row["low"] <= row["share"] <= row["high"]
        assert (f"{row['share']:.4f}" in text and name in text) == (row["agents"] > 0)
    # Who complies learns nothing, and everybody has found out by then that deceiving is detected.
    assert outcomes["locked on comply"]["share"] > 0.9
    counts = report["trajectory"]["action_counts"]
    steps = np.asarray(report["trajectory"]["step"])
    np.testing.assert_array_equal(np.add(counts["deceive"], counts["comply"]), 300 * steps)
    # All that the figure shows of beliefs.
    believed = report["trajectory"]["mean_theta"]["detection"]
    assert np.shape(believed["agents"]) == (PATHS, len(steps))
    last = [path[-1] for path in believed["agents"]]
    assert min(last) <= believed["quantiles"]["0.5"][-1] <= max(last)
    assert believed["mean"][-1] == pytest.approx(report["mean_theta"]["detection"], rel=1e-5)
    assert (out / "simulation.png").read_bytes().startswith(b"\x89PNG")
    again = fail("simulate", "deception", "p_detect=0.9", "--out", out)
    assert "exists; pass --force" in again


def test_simulate_prints_json_and_takes_a_seed():
    options = ["--policy", "thompson", "--memory", "window", "--length", 3, "--exploration", 0.1]
    found = [
        json.loads(succeed("simulate", *FEW, *options, "--seed", seed, "--json"))
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1]
    assert found[0]["mean_payoff"] != found[2]["mean_payoff"]
    assert found[0]["options"]["length"] == 3
    assert found[0]["notes"] == ["Equilibria are those of best response with perfect memory."]


def test_headings_take_two_lines():
    learner = {"policy": "logit", "temperature": 0.05, "memory": "window", "length": 50}
    options = dict.fromkeys(["ties", "epsilon", "rate"]) | learner | {"seed": 7, "exploration": 0.0}
    given = {"p_sycophantic": 0.3, "p_honest": 0.4, "width": 1.0}
    numbers = "5 steps, seed 7, logit (temperature 0.05), window memory (length 50)"
    heading = _heading("sycophancy", {}, options, ["5 steps"], 55)
    assert heading.replace("\xa0", " ") == f"sycophancy: {numbers}"
    heading = _heading("sycophancy", given, options, ["5 steps"], 80)
    assert "width\xa0=\xa01; 5 steps, seed 7, logit" in heading
    heading = _heading("sycophancy", given, options, ["5 steps"], 55)
    assert "and 1 more; 5 steps, seed 7, logit 0.05, window memory 50" in heading
    assert len(textwrap.wrap(heading, 55)) == 2


def test_many_actions_are_summed_up(capsys):
    played = {f"effort {i}": {"mean": 1 / 101} for i in range(101)}
    realised = {name: float(name == "effort 100") for name in played}
    report = {"late_frequency": played, "equilibria": [{"stability": "UNKNOWN"}]}
    report["equilibria"][0]["realised"] = realised
    new_console().print(_play_table(report))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["and", "91", "more", "0.9010", "0.0000"]
    assert any(line.split() == ["effort", "100", "0.0099", "1.0000"] for line in lines)


def test_snapshots_reach_the_end():
    assert [_every(steps) for steps in (1, 200, 500, 1000, 997)] == [1, 1, 4, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agents", 0], "`--agents` must be at least 1; got 0"),
        (["--seed", 2**32], "4294967296 is not in the range 0<=x<=4294967295"),
        (["--seed", -1], "-1 is not in the range"),
        (["--steps", -1], "`--steps` must be at least 1; got -1"),
        (["--policy", "logit"], "`--policy logit` needs `--temperature`"),
        (["--policy", "logit", "--temperature", 0], "`temperature` must be a positive number"),
        (["--temperature", 1], "`--temperature` is for --policy logit"),
        (["--memory", "window"], "`--memory window` needs `--length`"),
        (["--memory", "window", "--length", 0], "`length` must be a whole number of at least 1"),
        (["--memory", "discounted", "--rate", 1], "`rate` must lie inside (0, 1)"),
        (["--epsilon", 0.1], "`--epsilon` is for --policy epsilon-greedy"),
        (["--grid", 5], "`--grid` is for a continuum"),
        (["--policy", "greedy"], "'greedy' is not one of"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_simulate_refuses(arguments, message):
    assert message in fail("simulate", *FEW, *arguments)
