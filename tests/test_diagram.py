"""Phase diagrams: labels, one compilation, independence of tiling and devices, errors."""

import json
import math
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax.equilibrium import _diagram


def line(share=0.7, other=0.6, bonus=0.0):
    """Sycophancy with five models on its axis: the same phases, and quick to compile."""
    rates = jnp.linspace(0.0, 1.0, 7)[1:-1]
    believed = jnp.stack([rates, 1 - rates], -1)
    truth = jnp.stack([jnp.asarray(share), jnp.asarray(other)])
    return bn.Problem(
        probs=jnp.stack([1 - truth, truth], -1),
        model_probs=jnp.stack([1 - believed, believed], -1),
        payoff=jnp.asarray([[0.0, 1.0], [0.0, 1.0]]) + jnp.asarray([[bonus], [0.0]]),
        theta=rates,
        safe=[False, True],
        action_names=("flatter", "tell"),
    )


SHARES = np.linspace(0.05, 0.95, 7)
OTHERS = np.linspace(0.1, 0.9, 4)
AXES = {"share": SHARES, "other": OTHERS}


@pytest.fixture(scope="module")
def diagram():
    return bn.phase_diagram(line, AXES)


def cellwise(axes, exploration=0.0, **fixed):
    """The same phases by a Python loop over the cells."""
    names, shape = list(axes), [len(values) for values in axes.values()]
    phases = np.empty(shape, int)
    solve = jax.jit(lambda point, eps: bn.phase(line(**point, **fixed), eps))
    for index in np.ndindex(*shape):
        point = {name: float(axes[name][i]) for name, i in zip(names, index, strict=True)}
        eps = point.pop("exploration", exploration)
        phases[index] = solve(point, eps)
    return phases


# What comes back.


@pytest.mark.parametrize("order", [("share", "other"), ("other", "share")])
def test_dimensions_are_the_axes_in_their_order(order):
    result = bn.phase_diagram(line, {name: AXES[name] for name in order})
    assert result.phase.dims == order
    assert result.phase.shape == tuple(len(AXES[name]) for name in order)
    assert result.pure.dims == (*order, "action")
    assert result.mixed_best_fit.dims == (*order, "parameter")
    assert result.pure_best_fit.dims == (*order, "action", "parameter")
    np.testing.assert_array_equal(result.share, SHARES)
    np.testing.assert_array_equal(result.other, OTHERS)
    assert result.action.values.tolist() == ["flatter", "tell"]
    # By name and by value the answer is the same, whatever the order.
    corners = {(0.95, 0.1): "UNSAFE", (0.05, 0.9): "SAFE", (0.95, 0.9): "MULTISTABLE"}
    for (share, other), name in corners.items():
        code = result.phase.sel(share=share, other=other, method="nearest")
        assert bn.Phase(int(code)).name == name


def test_equal_to_a_loop_over_cells(diagram):
    np.testing.assert_array_equal(diagram.phase, cellwise(AXES))


def test_equal_to_equilibria_of_a_cell(diagram):
    for i, j in [(0, 0), (6, 3), (6, 0), (2, 1)]:
        problem = line(SHARES[i], OTHERS[j])
        found = bn.equilibria(problem, max_equilibria=4)
        possible = bn.rationalizable(problem)
        cell = diagram.isel(share=i, other=j)
        np.testing.assert_array_equal(cell.pure, found.pure)
        np.testing.assert_array_equal(cell.certainty, possible.certainty)
        np.testing.assert_array_equal(cell.rationalizable, possible.mask)
        assert int(cell.num_equilibria) == int(found.valid.sum())
        assert bool(cell.complete) == bool(found.complete)
        mixed = np.flatnonzero(found.valid & ~found.is_pure)
        if mixed.size:
            row = mixed[0]
            np.testing.assert_allclose(cell.mixed_strategy, found.strategy[row], atol=1e-6)
            np.testing.assert_allclose(cell.mixed_strategy_end, found.strategy_end[row], atol=1e-6)
            np.testing.assert_allclose(cell.mixed_best_fit, found.best_fit[row], atol=1e-6)
            assert int(cell.mixed_stability) == int(found.stability[row])
        else:
            assert np.isnan(cell.mixed_strategy).all()
            assert int(cell.mixed_stability) == -1
        for action in range(2):
            rows = np.flatnonzero(found.valid & found.is_pure & (found.strategy[:, action] == 1))
            fit = cell.pure_best_fit[action]
            assert bool(np.isnan(fit).all()) == (rows.size == 0)
            for row in rows:
                np.testing.assert_allclose(fit, found.best_fit[row], atol=1e-6)


def test_sycophancy_has_its_four_regimes():
    values = np.linspace(0.0, 1.0, 12)  # 1/2 is not among them
    result = bn.phase_diagram(
        bn.scenarios.sycophancy,
        {"p_sycophantic": values, "p_honest": values[:-1]},
        fixed={"width": 0},
    )
    s, h = np.meshgrid(values, values[:-1], indexing="ij")
    regimes = [(s > 0.5) & (h < 0.5), (s < 0.5) & (h > 0.5), (s > 0.5) & (h > 0.5)]
    codes = [bn.Phase.UNSAFE, bn.Phase.SAFE, bn.Phase.MULTISTABLE]
    np.testing.assert_array_equal(
        result.phase, np.select(regimes, list(map(int, codes)), int(bn.Phase.OSCILLATORY))
    )
    # A Python scalar stays one, so that width 0 leaves a single parameter.
    assert result.parameter.values.tolist() == ["theta_sycophantic"]
    mixture = (0.5 - h) / np.where(s + h == 1, np.nan, 1 - s - h)
    inside = (s > 0.5) == (h > 0.5)
    np.testing.assert_allclose(
        result.mixed_strategy[..., 0].values[inside], mixture[inside], atol=1e-3
    )
    np.testing.assert_allclose(result.pure_best_fit[:, 0, 0, 0][6:], values[6:], atol=1e-3)


def test_variables_describe_themselves(diagram):
    flags = diagram.phase.attrs
    names = dict(zip(flags["flag_meanings"].split(), flags["flag_values"].tolist(), strict=True))
    assert names == {code.name: int(code) for code in bn.Phase}
    assert diagram.mixed_strategy.attrs["units"] == "probability"
    assert diagram.attrs["scenario"] == "line"
    assert json.loads(diagram.attrs["fixed"]) == {"bonus": 0.0}
    assert diagram.attrs["exploration"] == 0
    assert diagram.attrs["tol_fit"] == 2e-6
    assert diagram.attrs["jax_version"] == jax.__version__
    assert diagram.attrs["bnjax_version"] == bn.__version__
    assert diagram.attrs["platform"] == jax.default_backend()
    small = {"phase", "pure", "certainty", "rationalizable", "mixed_stability", "complete"}
    assert all(diagram[name].dtype.itemsize == 1 for name in small)


def test_exploration_as_an_axis():
    axes = {"exploration": np.asarray([0.0, 0.3, 1.0]), "share": SHARES}
    result = bn.phase_diagram(line, axes, fixed={"other": 0.4})
    assert result.phase.dims == ("exploration", "share")
    np.testing.assert_array_equal(result.phase, cellwise(axes, other=0.4))
    assert "exploration" not in result.attrs
    one = bn.phase_diagram(line, {"share": SHARES}, fixed={"other": 0.4}, exploration=0.3)
    np.testing.assert_array_equal(one.phase, result.phase[1])


def test_three_axes():
    axes = {"bonus": np.asarray([-0.2, 0.0]), "other": OTHERS, "share": SHARES[:3]}
    result = bn.phase_diagram(line, axes)
    assert result.phase.dims == ("bonus", "other", "share")
    assert result.phase.shape == (2, 4, 3)
    np.testing.assert_array_equal(result.phase, cellwise(axes))


def test_without_a_safe_mask_there_is_no_phase(diagram):
    def unjudged(share):
        problem = line(share)
        return bn.Problem(
            problem.consequence.probs, problem.model_probs, problem.consequence.payoff
        )

    result = bn.phase_diagram(unjudged, {"share": SHARES})
    assert "phase" not in result
    assert set(result.data_vars) == set(diagram.data_vars) - {"phase"}


def test_a_cell_that_makes_no_sense_is_invalid():
    result = bn.phase_diagram(line, {"share": [0.7, 1.7]})
    assert int(result.phase[1]) == bn.Phase.INVALID
    assert int(result.phase[0]) != bn.Phase.INVALID


def test_float64(x64):
    result = bn.phase_diagram(line, {"share": SHARES[:3]}, fixed={"other": 0.3})
    assert result.mixed_strategy.dtype == np.float64
    assert result.attrs["precision"] == "float64"
    assert result.attrs["tol_fit"] == 1e-12


# How it is computed.


def counted(scenario):
    """Count how often a scenario is called, that is, traced."""

    def counting(share, other):
        counting.calls += 1
        return scenario(share, other)

    counting.calls = 0
    return counting


def test_one_compilation_for_all_tiles_and_calls(monkeypatch):
    monkeypatch.setattr(_diagram, "_SHARE_CPU", 256)
    scenario = counted(line)
    # Twice in one compilation: once for its shapes, once for its results.
    limited = chex.assert_max_traces(scenario, n=2)
    for shape in [(31, 29), (5, 3), (40, 40)]:
        axes = {"share": np.linspace(0, 1, shape[0]), "other": np.linspace(0, 1, shape[1])}
        for exploration in (0.0, 0.1):
            result = bn.phase_diagram(limited, axes, exploration=exploration, tol_fit=1e-6)
            assert result.phase.shape == shape
    assert scenario.calls == 2


def test_tiles_and_padding_do_not_change_results(diagram, monkeypatch):
    # 9 cells in each row, and tiles that end in the middle of one.
    axes = {"share": np.linspace(0, 1, 67), "other": np.linspace(0, 1, 9)}
    whole = bn.phase_diagram(line, axes)
    monkeypatch.setattr(_diagram, "_SHARE_CPU", 256)
    done = []
    tiled = bn.phase_diagram(
        lambda share, other: line(share, other), axes, progress=lambda *args: done.append(args)
    )
    xarray_equal(whole, tiled)
    size = 256 * jax.local_device_count()
    assert done == [(min(end, 603), 603) for end in range(size, 603 + size, size)]


def xarray_equal(a, b):
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        assert a[name].dims == b[name].dims
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_devices_do_not_change_results(tmp_path):
    code = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np, bnjax as bn
sys.path.insert(0, sys.argv[2])
from tests.test_diagram import line
axes = {"share": np.linspace(0, 1, 67), "other": np.linspace(0, 1, 9)}
result = bn.phase_diagram(line, axes)
assert result.attrs["num_devices"] == int(sys.argv[1])
np.savez(sys.argv[3], **{name: result[name].values for name in result.data_vars})
"""
    root = str(_diagram.__file__).rpartition("/bnjax/")[0]
    results = []
    for devices in ("1", "3"):
        file = tmp_path / f"{devices}.npz"
        args = [sys.executable, "-c", code, devices, root, str(file)]
        done = subprocess.run(args, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results.append(np.load(file))
    for name in results[0].files:
        np.testing.assert_array_equal(results[0][name], results[1][name], err_msg=name)


def test_host_memory_is_what_the_results_need(diagram):
    cells = math.prod(diagram.phase.shape)
    assert sum(diagram[name].nbytes for name in diagram.data_vars) / cells < 100


# What is refused.


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({}, {}, "`axes` must name at least one axis; got none."),
        (
            {"nonsense": [0.0]},
            {},
            "`nonsense` is no parameter of line; it has: share, other, bonus.",
        ),
        ({"share": []}, {}, "axis `share` must be one-dimensional and not empty; got shape (0,)."),
        ({"share": 0.5}, {}, "axis `share` must be one-dimensional and not empty; got shape ()."),
        ({"share": [[0.5]]}, {}, "axis `share` must be one-dimensional"),
        ({"share": [0.5, np.nan]}, {}, "axis `share` must be finite; got nan at index 1."),
        ({"share": ["a"]}, {}, "axis `share` must be an array of numbers"),
        ({"phase": [0.5]}, {}, "`axes` must not use the name of a result; got 'phase'."),
        ({"share": [0.5]}, {"fixed": {"share": 1}}, "`share` must be given once"),
        ({"share": [0.5]}, {"fixed": {"nonsense": 1}}, "`nonsense` is no parameter of line"),
        (
            {"exploration": [0.5]},
            {"exploration": 0.1},
            "`exploration` must be given once: it is an axis, and `exploration=0.1` was given too.",
        ),
        (
            {"exploration": [0.0, 1.5]},
            {},
            "`exploration` must be a probability in [0, 1]; got 1.5.",
        ),
        ({"share": [0.5]}, {"exploration": -1.0}, "`exploration` must be a probability in [0, 1]"),
        ({"share": [0.5]}, {"tol_fit": -1.0}, "`tol_fit` must be a non-negative number; got -1."),
        ({"share": [0.5]}, {"max_equilibria": 0}, "`max_equilibria` must be a positive integer"),
    ],
)
def test_errors_say_what_is_wrong(axes, options, message):
    with pytest.raises(ValueError) as error:
        bn.phase_diagram(line, axes, **options)
    assert message in str(error.value)


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match="`other` must be given, as an axis or in `fixed`"):
        bn.phase_diagram(counted(line), {"share": [0.5]})


def test_keyword_arguments_of_any_name_are_accepted():
    result = bn.phase_diagram(lambda **rates: line(rates["a"], 0.3), {"a": [0.7]})
    assert int(result.phase[0]) == bn.Phase.UNSAFE


def test_what_is_no_problem_is_refused():
    with pytest.raises(ValueError, match="`problem` must be a bnjax problem; got"):
        bn.phase_diagram(lambda share: share, {"share": [0.5]})
    with pytest.raises(ValueError, match="`scenario` must be a function"):
        bn.phase_diagram(3, {"share": [0.5]})


def test_a_scenario_that_refuses_every_cell_says_why():
    with pytest.raises(ValueError, match="`probs` must hold probabilities"):
        bn.phase_diagram(line, {"share": [1.5, 1.7]})
