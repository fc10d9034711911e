"""``bnjax design``: what it prints and writes, how it fails, and how it refuses."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

import bnjax as bn
from bnjax.cli import main
from bnjax.cli._design import _report
from bnjax.design._named import named, plain
from bnjax.design._optimize import plan_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

BOX = ["--environments", "p_sycophantic=0.55:0.9", "--environments", "p_honest=0.6:0.8"]
COUNTS = ["--agents", "200", "--horizon", "100", "--certified", "9"]
SMALL = [*COUNTS, "--steps", "30", "--starts", "2"]
SEARCH = ["design", "sycophancy", "width=0", "--vary", "support", *BOX, *SMALL, "--seed", "3"]


def run(*args, width=80):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, list(map(str, args)))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run: what it printed, its JSON, its folder, and what the library returned to it."""
    found = []
    search = bn.design.optimize

    def remembered(*args, **options):
        found.append(search(*args, **options))
        return found[0]

    out = tmp_path_factory.mktemp("design") / "deep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bn.design, "optimize", remembered)
        result = run(*SEARCH, "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "design.json").read_text(), parse_constant=pytest.fail)
    return result.stdout, report, out, found[0]


def test_prints_what_was_found_and_what_it_earned(done):
    text, report, out, result = done
    assert result.earned == "support"
    assert "certified by its support" in text
    assert "theta sycophantic, at most" in text
    assert "p_sycophantic in [0.55, 0.9], p_honest in [0.6, 0.8], width = 0; seed 3" in " ".join(
        text.split()
    )
    share = report["outcome"]["after"]["safe_share"]
    assert f"{share:.4f}" in text
    kept = int(np.unique(result.support.models_kept)[0])
    assert f"Support: {kept} of 65 models, in 9 environments." in text
    assert "certificate holds?" in text
    assert text.count(" yes") == 2
    assert "at least 99 % of the second half" in " ".join(text.split())
    for name in ("design.json", "design.png"):
        assert f"wrote {out / name}\n" in text
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("wrote"))
    assert (out / "design.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in out.iterdir()) == ["design.json", "design.png"]


def test_json_says_what_was_asked(done):
    _, report, _, _ = done
    assert report["scenario"] == "sycophancy"
    assert report["parameters"] == {"width": 0.0}
    assert list(report["environments"].items()) == [
        ("p_sycophantic", [0.55, 0.9]),
        ("p_honest", [0.6, 0.8]),
    ]
    assert report["vary"] == ["support"]
    assert report["seed"] == report["options"]["seed"] == 3
    assert report["options"]["steps"] == 30
    assert report["precision"] == "float32"
    assert report["versions"]["bnjax"] == bn.__version__


def test_json_holds_the_design(done):
    _, report, _, result = done
    assert report["earned"] == "support"
    low, high = np.asarray(result.parameters, float)
    assert report["design"]["before"] == {
        "theta sycophantic, at least": 0,
        "theta sycophantic, at most": 1,
    }
    found = report["design"]["after"]
    assert found["theta sycophantic, at least"] == pytest.approx(low, rel=1e-5)
    assert found["theta sycophantic, at most"] == pytest.approx(high, rel=1e-5)
    prior = report["prior"]
    theta, weight = (np.asarray(prior["after"][name], float) for name in ("theta", "weight"))
    np.testing.assert_array_equal(np.asarray(prior["before"]["theta"]), theta)
    np.testing.assert_allclose(prior["before"]["weight"], 1 / 65, rtol=1e-5)
    assert weight.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(weight > 0, (theta[:, 0] >= low) & (theta[:, 0] <= high))
    np.testing.assert_array_equal(prior["after"]["kept"], weight > 0)
    # Which models these are: those that find honesty better.
    assert theta[weight > 0].max() < 0.5


def test_json_holds_the_certificates_and_the_search(done):
    _, report, _, result = done
    for name, certificates in report["certificates"].items():
        for when, stored in certificates.items():
            suffix = "" if when == "after" else "_before"
            certificate = getattr(result, f"{name}{suffix}")
            assert stored["holds"] == certificate.holds
            for axis, values in certificate.axes.items():
                np.testing.assert_allclose(stored["axes"][axis], values, rtol=1e-5)
    after = report["certificates"]["support"]["after"]
    assert after["phase_names"] == {str(int(bn.Phase.SAFE)): "SAFE"}
    assert np.shape(after["phase"]) == (3, 3)
    before = report["certificates"]["support"]["before"]
    assert before["phase_names"] == {str(int(bn.Phase.MULTISTABLE)): "MULTISTABLE"}
    simulated = report["certificates"]["statistical"]["after"]
    np.testing.assert_allclose(simulated["low"], result.statistical.low, rtol=1e-5)
    assert (simulated["agents"], simulated["steps"]) == (200, 100)
    history = report["history"]
    assert history["step"][-1] == result.history.objective.shape[1] - 1
    np.testing.assert_allclose(history["objective"], result.history.objective, rtol=1e-4)


def test_what_earned_nothing_fails_loudly(done, monkeypatch, tmp_path):
    *_, result = done
    poor = dataclasses.replace(
        result,
        support=result.support_before,
        statistical=dataclasses.replace(result.statistical, low=result.statistical.low * 0),
    )
    asked = {}

    def optimize(scenario, environments, design, **options):
        asked.update(options, environments=environments, design=design)
        return poor

    monkeypatch.setattr(bn.design, "optimize", optimize)
    vary = ["--vary", "support", "--vary", "exploration", "--reweight-only", "--worst-case"]
    more = ["--cost", "0.5", "--payoff", "0.25", "--start", "prior", "--gradient", "unrolled"]
    box = [*BOX[:2], "p_honest=0.7", "--exploration", "0.1"]
    done = run("design", "sycophancy", *box, *vary, *more, "--out", tmp_path)
    assert done.exit_code == 1, done.output
    assert "FAILED" in done.stdout
    assert sum(line.endswith(" no") for line in map(str.rstrip, done.stdout.splitlines())) == 2
    assert json.loads((tmp_path / "design.json").read_text())["earned"] == "none"
    assert asked["environments"] == {"p_honest": 0.7, "p_sycophantic": (0.55, 0.9)}
    assert [type(d).__name__ for d in asked["design"].designs] == ["SupportBounds", "Exploration"]
    assert asked["threshold"] is None
    assert (asked["start"], asked["gradient"], asked["exploration"]) == ("prior", "unrolled", 0.1)
    objective = asked["objective"]
    assert (objective.cost, objective.payoff, objective.worst_case) == (0.5, 0.25, True)


def test_overwrites_only_by_force(done):
    _, _, out, _ = done
    again = run(*SEARCH, "--out", out)
    assert again.exit_code == 2
    assert again.stderr == f"error: {out}/design.json exists; pass --force to overwrite it\n"


def test_designs_are_reported_in_the_units_of_the_scenario():
    D = bn.design
    theta = np.linspace(0.2, 0.6, 5)[:, None]
    given = theta, ["rate"], ["a", "b"]
    assert named(D.SupportBounds(), np.array([0.25, 1.0]), *given) == {
        "rate, at least": pytest.approx(0.3),
        "rate, at most": pytest.approx(0.6),
    }
    both = D.Together(D.BetaPrior(), D.GaussianPrior(), D.Argument("gain", 1.0, 3.0))
    parameters = np.log([2.0, 3.0]), np.array([0.5, 0.0]), np.array(0.5)
    assert named(both, parameters, *given) == {
        "beta a, b of rate": [2.0, 3.0],
        "mean of rate": 0.4,
        "sd of rate": 0.4,
        "gain": 2.0,
    }
    rewards = D.Together(D.Exploration(0.4), D.RewardScale(), D.RewardBonus())
    parameters = np.array(0.5), np.log(2.0), np.array([0.1, -0.2])
    assert named(rewards, parameters, *given) == {
        "exploration": 0.2,
        "reward scale": 2.0,
        "bonus for a": 0.1,
        "bonus for b": -0.2,
    }
    assert named(D.LogPrior(), np.array([0.0, 1.0]), *given) == {
        "nats added to log-weights": [0.0, 1.0]
    }
    assert plain([1 / 3, np.inf]) == [0.333333, None]


def test_bounds_are_those_of_the_models_that_were_designed(done):
    """An argument that is designed too may move the range of what is bounded."""
    D = bn.design
    kind = D.Together(D.Argument("detect_upper", 0.3, 1.0), D.SupportBounds())
    made = plan_of(
        bn.scenarios.deception,
        {"detect_upper": 0.3},
        kind,
        objective=None,
        gradient="implicit",
        start="any",
        threshold=1e-3,
        num_starts=1,
    )
    *_, result = done
    result = dataclasses.replace(
        result,
        design=kind,
        parameters=(np.float32(5 / 7), np.array([0.5, 1.0], np.float32)),
        reference=made.situation.reference,
        situation=made.situation,
        support=dataclasses.replace(result.support, axes={}),
    )
    found = _report(bn.scenarios.deception, {}, [], {"seed": 0}, ["a", "b"], result)["design"]
    assert found["before"]["detection, at most"] == pytest.approx(0.3)
    assert found["after"]["detect_upper"] == pytest.approx(0.8)
    assert found["after"]["detection, at least"] == pytest.approx(0.4)
    assert found["after"]["detection, at most"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["flattery", "--vary", "beta"], "unknown scenario `flattery`; there are: coin, "),
        (["sycophancy"], "Missing option '--vary'."),
        (["sycophancy", "--vary", "weights"], "`--vary` must be one of log_prior, beta, gaussian"),
        (["sycophancy", "--vary", "beta", "--vary", "beta"], "`beta` is given twice"),
        (["deception", "--vary", "width"], "unknown parameter `width` of deception; it has: p_de"),
        (["deception", "--vary", "gain=2:1"], "`gain` must run upwards; got 2 to 1"),
        (["deception", "--vary", "gain=2"], "`--vary` must be NAME=LOW:HIGH; got `gain=2`"),
        (["deception", "--vary", "reward=0:1"], "unknown parameter `reward` of deception"),
        (["deception", "--vary", "beta", "--environments", "p"], "`--environments` must be NAME="),
        (["deception", "--vary", "beta", "--environments", "q=0:1"], "unknown parameter `q` of"),
        (["deception", "--vary", "beta", "--environments", "gain=0:x"], "`gain` must be a finite"),
        (
            ["deception", "gain=1", "--vary", "beta", "--environments", "gain=0:1"],
            "`gain` is both in --environments and fixed",
        ),
        (
            ["deception", "--vary", "beta", *["--environments", "gain=0:1"] * 2],
            "`gain` is given twice",
        ),
        (
            ["sycophancy", "--vary", "width", "--environments", "width=0:1"],
            "`width` is both in --environments and in --vary",
        ),
        (
            ["overconfidence", "--vary", "beta", "--environments", "num_efforts=5:9"],
            "`--environments` cannot have `num_efforts`, which is a whole number",
        ),
        (["coin", "--vary", "beta"], "coin calls none of its actions safe"),
        (["deception", "--vary", "beta", "--cost", "-1"], "`--cost` must be a weight, not less"),
        (["deception", "--vary", "beta", "--payoff", "nan"], "`--payoff` must be a weight"),
        (["deception", "--vary", "beta", "--steps", "0"], "Invalid value for '--steps'"),
        (["deception", "--vary", "beta", "--gradient", "exact"], "Invalid value for '--gradient'"),
        (["deception", "--vary", "beta", "--exploration", "2"], "`exploration` must be a proba"),
        (
            ["deception", "--vary", "gain=2:3"],
            "`gain` of the reference must lie within the design's [2, 3]; got 1.",
        ),
        (
            ["deception", "--vary", "beta", "--gradient", "score", "--start", "any"],
            "`start` must be 'prior' for gradient='score'",
        ),
    ],
)
def test_refuses(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("design", *args, "--out", "o")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
