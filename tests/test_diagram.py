"""Phase diagrams: labels, one compilation, independence of tiling and devices, errors."""

import json
import math
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import bnjax as bn
from bnjax import _cores
from bnjax._cores import num_workers
from bnjax.diagram import _exact
from bnjax.diagram._arguments import axis as axis_of

ROOT = Path(__file__).parent.parent
_TILE = _exact.Exact(1).share(jax.default_backend() == "cpu")


def plain_line(share=0.7, other=0.6, bonus=0.0):
    """Sycophancy with five models on its axis."""
    rates = jnp.linspace(0.0, 1.0, 7)[1:-1]
    believed = jnp.stack([rates, 1 - rates], -1)
    truth = jnp.stack([jnp.asarray(share), jnp.asarray(other)])
    return bn.Problem(
        probs=jnp.stack([1 - truth, truth], -1),
        model_probs=jnp.stack([1 - believed, believed], -1),
        payoff=jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
        + jnp.stack([jnp.asarray(bonus), 0.0])[:, None],
        theta=rates,
        safe=[False, True],
        action_names=("flatter", "tell"),
    )


# At most two traces a compilation: one for its shapes, one for its results. The tests of this
# file that vary `share` and `other` all use one compilation, whatever they do besides.
line = chex.assert_max_traces(plain_line, n=2)

SHARES = np.linspace(0.05, 0.95, 7)
OTHERS = np.linspace(0.1, 0.9, 4)
AXES = {"share": SHARES, "other": OTHERS}


@pytest.fixture(scope="module")
def diagram():
    return bn.phase_diagram(line, AXES)


def cellwise(axes, exploration=0.0):
    """The same phases by a Python loop over the cells."""
    phases = np.empty([len(values) for values in axes.values()], int)
    for index in np.ndindex(*phases.shape):
        point = {name: float(axes[name][i]) for name, i in zip(axes, index, strict=True)}
        phases[index] = bn.phase(plain_line(**point), exploration)
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
        problem = plain_line(float(SHARES[i]), float(OTHERS[j]))
        found = bn.equilibria(problem)
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


def test_variables_describe_themselves(diagram):
    flags = diagram.phase.attrs
    names = dict(zip(flags["flag_meanings"].split(), flags["flag_values"].tolist(), strict=True))
    assert names == {code.name: int(code) for code in bn.Phase}
    assert diagram.mixed_strategy.attrs["units"] == "probability"
    assert diagram.attrs["scenario"] == "plain_line"
    assert json.loads(diagram.attrs["fixed"]) == {"bonus": 0.0}
    assert diagram.attrs["exploration"] == 0
    assert diagram.attrs["tol_fit"] == 2e-6
    assert diagram.attrs["jax_version"] == jax.__version__
    assert diagram.attrs["bnjax_version"] == bn.__version__
    assert diagram.attrs["platform"] == jax.default_backend()
    small = {"phase", "pure", "certainty", "rationalizable", "mixed_stability", "complete"}
    assert all(diagram[name].dtype.itemsize == 1 for name in small)


def test_an_axis_may_be_a_range_in_words():
    np.testing.assert_array_equal(axis_of("share", "0.1:0.9:5"), np.linspace(0.1, 0.9, 5))


def test_exploration(diagram):
    axes = {"other": OTHERS[:3], "share": SHARES}
    result = bn.phase_diagram(line, axes, exploration=0.3)
    assert result.attrs["exploration"] == pytest.approx(0.3)
    np.testing.assert_array_equal(result.phase, cellwise(axes, 0.3))


def test_every_cell_is_where_its_coordinates_say(monkeypatch):
    monkeypatch.setattr(_exact, "solve", echo)
    shares = np.linspace(0, 1, _TILE // 20 + 51)
    axes = {"other": OTHERS, "exploration": np.linspace(0, 1, 5), "share": shares}
    result = bn.phase_diagram(echoed, axes, fixed={"bonus": 0.5})
    assert result.sizes["share"] * result.sizes["other"] * 5 > _TILE
    assert result.phase.dims == ("other", "exploration", "share")
    assert result.mixed_strategy.shape == (4, 5, len(shares), 2)
    assert "exploration" not in result.attrs
    for found, axis in [
        (result.mixed_strategy.sel(action="flatter"), result.share),
        (result.mixed_strategy.sel(action="tell"), result.other),
        (result.mixed_best_fit.isel(parameter=0), result.exploration),
    ]:
        np.testing.assert_allclose(*xr.broadcast(found, axis), atol=1e-6)


def echoed(share, other, bonus):
    return plain_line(share, other, bonus)


def echo(problem, exploration, max_equilibria, tolerance):
    """Give back the numbers that it was given, and compile in no time."""
    num = problem.num_actions
    rows = (max_equilibria, 1)
    strategy = jnp.tile(problem.consequence.probs[:, 1], rows)
    none = jnp.zeros(max_equilibria, bool)
    found = bn.Equilibria(
        strategy=strategy,
        strategy_end=strategy,
        realised=strategy,
        belief=None,
        atoms=None,
        atom_weight=None,
        best_fit=jnp.full((max_equilibria, len(problem.parameter_names)), exploration),
        others_fit=none,
        is_pure=none,
        stability=none.astype(jnp.int32),
        absorbing=none,
        residual=strategy[:, 0],
        valid=~none,
        pure=jnp.zeros(num, bool),
        complete=jnp.ones((), bool),
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )
    certainty = jnp.ones(num, jnp.int32)
    possible = bn.Rationalizable(certainty == 1, certainty, tolerance.fit, tolerance.payoff)
    return found, possible, problem.is_valid()


def unjudged(share):
    problem = plain_line(share)
    return bn.Problem(problem.consequence.probs, problem.model_probs, problem.consequence.payoff)


def test_without_a_safe_mask_there_is_no_phase(diagram, monkeypatch, x64):
    monkeypatch.setattr(_exact, "solve", echo)
    result = bn.phase_diagram(unjudged, {"share": SHARES})
    # Its models have no parameters either, hence no best fits to report.
    without = {"phase", "mixed_best_fit", "pure_best_fit"}
    assert set(result.data_vars) == set(diagram.data_vars) - without
    assert "parameter" not in result.dims
    assert result.mixed_strategy.dtype == np.float64
    assert result.attrs["precision"] == "float64"
    assert result.attrs["tol_fit"] == 1e-12


def test_fixed_zeros_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(_exact, "solve", echo)
    # Width 0 leaves a single parameter, but only where it is known to be 0.
    for width, num_parameters in [(0, 1), (0.0, 1), (np.float64(0), 1), (jnp.asarray(0.0), 2)]:
        result = bn.phase_diagram(
            bn.scenarios.sycophancy, {"p_honest": [0.2]}, fixed={"width": width}
        )
        assert result.sizes["parameter"] == num_parameters
        assert json.loads(result.attrs["fixed"]) == {"p_sycophantic": 0.7, "width": 0}


def test_fixed_floats_compile_once_whatever_their_values(monkeypatch):
    monkeypatch.setattr(_exact, "solve", echo)

    traced = []

    def shifted(share, bonus, num):
        assert type(num) is int  # a size stays one
        traced.append(isinstance(bonus, jax.core.Tracer))
        return plain_line(share, bonus=bonus)

    for bonus in (0.1, 0.2, np.float64(-0.3), np.float32(0.4), 1.5):
        result = bn.phase_diagram(shifted, {"share": [0.2]}, fixed={"bonus": bonus, "num": 3})
        assert json.loads(result.attrs["fixed"]) == {"bonus": pytest.approx(bonus), "num": 3}
    assert sum(traced) <= 2


def test_a_cell_that_makes_no_sense_is_invalid():
    result = bn.phase_diagram(line, {"share": [0.7, 1.7], "other": [0.5]})
    assert int(result.phase[1, 0]) == bn.Phase.INVALID
    assert int(result.phase[0, 0]) != bn.Phase.INVALID


# How it is computed.


def test_one_compilation_for_all_tiles_and_calls(diagram):
    for shape in [(31, 29), (5, 3), (61, 67)]:  # the last one takes several tiles
        axes = {"share": np.linspace(0, 1, shape[0]), "other": np.linspace(0, 1, shape[1])}
        for exploration in (0.0, 0.1):
            assert bn.phase_diagram(line, axes, exploration=exploration).phase.shape == shape


def test_tiles_and_padding_do_not_change_results(diagram, monkeypatch):
    # Of these cells, every second one of every third row, once more: in other tiles, or others
    # of a tile, and next to others.
    monkeypatch.setattr(_cores, "usable_cores", lambda: 1)
    tile = _TILE * num_workers()
    axes = {"share": np.linspace(0, 1, 61), "other": np.linspace(0, 1, 2 * tile // 61)}
    few = {"share": axes["share"][::3], "other": axes["other"][::2]}
    done = []
    whole = bn.phase_diagram(line, axes, progress=lambda *args: done.append(args))
    assert_same(whole.isel(share=slice(None, None, 3), other=slice(None, None, 2)), few)
    total = 61 * len(axes["other"])
    assert tile < total
    # A CPU's core takes equal shares; other devices take whole tiles.
    each = -(-total // -(-total // tile)) if jax.default_backend() == "cpu" else tile
    assert done == [(min(end, total), total) for end in range(each, total + each, each)]


def assert_same(result, axes):
    again = bn.phase_diagram(line, axes)
    assert set(result.data_vars) == set(again.data_vars)
    for name in again.data_vars:
        assert result[name].dims == again[name].dims
        np.testing.assert_array_equal(result[name], again[name], err_msg=name)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_cores_do_not_change_results(diagram, monkeypatch):
    axes = {"share": np.linspace(0, 1, 61), "other": np.linspace(0, 1, 101)}
    found, threads = [], set()

    def inner(*args):
        threads.add(threading.get_ident())
        time.sleep(0.02)  # for other threads to begin
        return unravel_index(*args)

    unravel_index = np.unravel_index
    monkeypatch.setattr(np, "unravel_index", inner)
    for cores in (1, 4):
        monkeypatch.setattr(_cores, "usable_cores", lambda cores=cores: cores)
        threads.clear()
        found.append(bn.phase_diagram(line, axes))
        assert (len(threads) > 1) == (cores > 1)
        assert found[-1].attrs["num_cores"] == cores
        del found[-1].attrs["num_cores"]
    xr.testing.assert_identical(*found)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_threads_take_over_the_precision_of_their_caller(x64, monkeypatch):
    monkeypatch.setattr(_cores, "usable_cores", lambda: 3)
    axes = {"share": np.linspace(0.05, 0.95, 31), "other": np.linspace(0.1, 0.9, 4)}
    result = bn.phase_diagram(plain_line, axes)
    assert result.mixed_strategy.dtype == np.float64
    np.testing.assert_array_equal(result.phase, cellwise(axes))


def test_devices_do_not_change_results(diagram, tmp_path):
    """Those of CPUs are dealt out as if they were others, which a test may not have."""
    code = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 3)
import numpy as np, bnjax as bn
from bnjax import _devices
from bnjax.diagram import _phase_diagram, _tiles
from tests.test_diagram import AXES, line
devices = jax.sharding.Mesh(np.asarray(jax.local_devices()), ("devices",))
_devices.mesh = _phase_diagram.mesh = lambda: devices
_tiles._to_cores = _tiles._to_devices
result = bn.phase_diagram(line, AXES)
assert jax.local_device_count() == 3
np.savez(sys.argv[1], **{name: result[name].values for name in result.data_vars})
"""
    file = tmp_path / "three.npz"
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, check=True)
    three = np.load(file)
    assert set(three.files) == set(diagram.data_vars)
    for name in three.files:
        np.testing.assert_array_equal(diagram[name], three[name], err_msg=name)


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
            "`nonsense` is no parameter of plain_line; it has: share, other, bonus.",
        ),
        ({"share": []}, {}, "axis `share` must be one-dimensional and not empty; got shape (0,)."),
        ({"share": 0.5}, {}, "axis `share` must be one-dimensional and not empty; got shape ()."),
        ({"share": [[0.5]]}, {}, "axis `share` must be one-dimensional"),
        ({"share": [0.5, np.nan]}, {}, "axis `share` must be finite; got nan at index 1."),
        ({"share": ["a"]}, {}, "axis `share` must be an array of numbers"),
        ({"share": "0:1"}, {}, 'axis `share` must be an array or a range "low:high:n"'),
        ({"phase": [0.5]}, {}, "`axes` must not use the name of a result; got 'phase'."),
        ({"share": [0.5]}, {"fixed": {"share": 1}}, "`share` must be given once"),
        ({"share": [0.5]}, {"fixed": {"nonsense": 1}}, "`nonsense` is no parameter of plain_line"),
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
        (
            {"share": [0.5]},
            {"tol_fit": -1.0},
            "`tol_fit` must be a finite number",
        ),
        (
            {"share": [0.5]},
            {"max_equilibria": 0},
            "`max_equilibria` must be a whole",
        ),
    ],
)
def test_errors_say_what_is_wrong(axes, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bn.phase_diagram(plain_line, axes, **options)


def test_a_scenario_of_the_library_may_be_named(monkeypatch):
    monkeypatch.setattr(_exact, "solve", echo)
    result = bn.phase_diagram("sycophancy", {"p_honest": [0.7]}, fixed={"width": 0})
    assert result.attrs["scenario"] == "sycophancy"
    with pytest.raises(ValueError, match=r"`scenario` must be a function or one of .*'syco'"):
        bn.phase_diagram("syco", {"p_honest": [0.7]})


def test_what_needs_values_is_said_in_a_line():
    def needy(share):
        return plain_line(share if share > 0.5 else 0.5)

    with pytest.raises(ValueError, match=r"must work for arguments that are traced.*`share`") as e:
        bn.phase_diagram(needy, {"share": [0.6]})
    assert "\n" not in str(e.value)


def test_a_missing_argument_is_named():
    def needy(share, other):
        return plain_line(share, other)

    with pytest.raises(ValueError, match="`other` must be given, as an axis or in `fixed`"):
        bn.phase_diagram(needy, {"share": [0.5]})


def test_keyword_arguments_of_any_name_are_accepted(monkeypatch):
    monkeypatch.setattr(_exact, "solve", echo)
    result = bn.phase_diagram(lambda **rates: plain_line(rates["a"], 0.3), {"a": [0.7]})
    assert result.phase.dims == ("a",)


def test_a_scenario_that_refuses_every_cell_says_why():
    with pytest.raises(ValueError, match="`probs` must hold probabilities"):
        bn.phase_diagram(line, {"share": [1.5, 1.7], "other": [0.5]})


def test_what_a_scenario_refuses_as_it_runs_can_be_read(monkeypatch):
    monkeypatch.setattr(_exact, "solve", echo)

    def strict(share):
        return plain_line(eqx.error_if(share, share > 0.8, "nobody shares so much"))

    with pytest.raises(eqx.EquinoxRuntimeError, match="nobody shares so much"):
        bn.phase_diagram(strict, {"share": np.linspace(0.1, 0.9, 9)})
