"""Diagrams with a population of learners in every cell."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

import bnjax as bn
from bnjax import _cores
from tests.test_plot import assert_readable

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXES = {"p_sycophantic": np.array([0.2, 0.8, 1.5]), "p_honest": np.array([0.3, 0.9])}
KEY = jax.random.key(5)
POPULATION = {"method": "simulate", "key": KEY, "num_agents": 200, "num_steps": 2000}


@pytest.fixture(scope="module")
def simulated():
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cores, "usable_cores", lambda: 1)
        diagram = bn.phase_diagram(
            bn.scenarios.sycophancy,
            AXES,
            exploration=0.02,
            progress=lambda *cells: done.append(cells),
            **POPULATION,
        )
    assert done == [(6, 6)]
    return diagram


def test_what_is_exact_stays_as_it_is(simulated):
    exact = bn.phase_diagram(bn.scenarios.sycophancy, AXES, exploration=0.02)
    more = {"frequency", "outcome_share", "outcome_interval"}
    assert set(simulated.data_vars) - set(exact.data_vars) == more
    for name in exact.data_vars:
        np.testing.assert_array_equal(simulated[name], exact[name])
    assert simulated.attrs["method"] == "simulate"
    assert simulated.attrs["num_agents"] == 200
    assert exact.attrs["method"] == "exact"
    assert "num_agents" not in exact.attrs


def test_a_cell_is_the_population_of_its_own_key(simulated):
    for i, j in [(0, 0), (1, 1)]:
        problem = bn.scenarios.sycophancy(
            *(float(AXES[name][k]) for name, k in zip(AXES, (i, j), strict=True))
        )
        alone = bn.simulate(
            problem,
            jax.random.fold_in(KEY, 2 * i + j),
            num_agents=200,
            num_steps=2000,
            exploration=0.02,
            tile=256,
        )
        cell = simulated.isel(p_sycophantic=i, p_honest=j)
        np.testing.assert_allclose(cell.frequency, alone.late_frequency.mean(0), atol=1e-3)
        shares = [share.share for share in alone.shares().values()]
        np.testing.assert_allclose(cell.outcome_share, shares, atol=0.0101)


def test_populations_do_what_theory_says(simulated):
    outcomes = ["locked on sycophantic", "locked on honest", "mixing", "undecided"]
    assert simulated.outcome.values.tolist() == outcomes
    cells = simulated.outcome_share.isel(p_sycophantic=slice(0, 2))
    np.testing.assert_allclose(cells.sum("outcome"), 1, atol=1e-6)
    # Oscillatory: they cycle, and play what the mixed equilibrium says, after trembling.
    cell = simulated.isel(p_sycophantic=0, p_honest=0)
    assert cell.outcome_share.sel(outcome="mixing") > 0.95
    s = float(cell.mixed_strategy.sel(action="sycophantic"))
    assert float(cell.frequency.sel(action="sycophantic")) == pytest.approx(
        0.98 * s + 0.01, abs=0.02
    )
    # Safe, unsafe, and one of both.
    safe = simulated.isel(p_sycophantic=0, p_honest=1)
    assert safe.phase == bn.Phase.SAFE
    assert safe.outcome_share.sel(outcome="locked on honest") > 0.99
    unsafe = simulated.isel(p_sycophantic=1, p_honest=0)
    assert unsafe.outcome_share.sel(outcome="locked on sycophantic") > 0.99
    both = simulated.isel(p_sycophantic=1, p_honest=1)
    assert both.phase == bn.Phase.MULTISTABLE
    assert (both.outcome_share.isel(outcome=slice(2)) > 0.05).all()
    assert both.outcome_share.isel(outcome=slice(2)).sum() > 0.99


def test_shares_have_confidence_intervals(simulated):
    shares = simulated.outcome_share.isel(p_sycophantic=slice(0, 2))
    assert float(shares.min()) == 0
    assert float(shares.max()) == 1
    for cell in shares.stack(cell=shares.dims).transpose("cell"):
        count = round(200 * float(cell))
        want = binomtest(count, 200).proportion_ci(0.99, method="exact")
        where = {name: cell[name].item() for name in shares.dims}
        got = simulated.outcome_interval.sel(where)
        np.testing.assert_allclose(got.sel(interval_bound=["low", "high"]), want, atol=1e-6)


def test_what_makes_no_sense_is_not_simulated_and_harms_no_neighbour(simulated):
    invalid = simulated.isel(p_sycophantic=2)
    assert (invalid.phase == bn.Phase.INVALID).all()
    assert invalid.frequency.isnull().all()
    assert invalid.outcome_share.isnull().all()
    assert invalid.outcome_interval.isnull().all()
    assert simulated.frequency.isel(p_sycophantic=slice(0, 2)).notnull().all()


def test_policies_memories_and_exploration_along_an_axis(tmp_path):
    def diagram(policy, memory, key):
        return bn.phase_diagram(
            bn.scenarios.coin,
            {"exploration": [0.0, 1.0]},
            method="simulate",
            key=key,
            num_agents=50,
            num_steps=200,
            policy=policy,
            memory=memory,
        )

    best = bn.BestResponse("uniform", tol_payoff=1e-4)
    first = diagram(bn.EpsilonGreedy(0.1, best), bn.WindowMemory(20), KEY)
    assert first.frequency.sizes == {"exploration": 2, "action": first.sizes["action"]}
    np.testing.assert_allclose(first.frequency.sum("action"), 1, atol=1e-5)
    # All that it takes to do it again is in the file.
    first.to_netcdf(tmp_path / "first.nc")
    with xr.open_dataset(tmp_path / "first.nc") as stored:
        about = stored.load().attrs
    assert about["memory"] == "WindowMemory(length=20)"
    assert about["policy"].startswith("EpsilonGreedy(epsilon=0.1, response=BestResponse(")
    policy, memory = (eval(about[name], vars(bn)) for name in ("policy", "memory"))
    key = jax.random.wrap_key_data(about["key"], impl=about["key_impl"])
    again = diagram(policy, memory, key)
    xr.testing.assert_identical(again, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, '`method` must be "exact" or "simulate"; got'),
        ({"method": "simulate"}, "`key` must be a JAX key"),
        ({"method": "simulate", "key": jax.random.split(KEY)}, r"got an array key<fry>\[2\]"),
        ({"num_agents": 5}, '`num_agents` is for `method="simulate"`'),
        ({"key": KEY}, '`key` is for `method="simulate"`'),
        ({**POPULATION, "num_steps": 0}, "`num_steps` must be a whole number of at least 1"),
    ],
    ids=["method", "no key", "keys", "agents alone", "key alone", "steps"],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        bn.phase_diagram(bn.scenarios.sycophancy, {"p_honest": [0.5]}, **options)


def test_a_scenario_that_needs_values_is_told_so():
    def curious(p_honest):
        return bn.scenarios.sycophancy(0.5, 0.5 if p_honest > 0.5 else 0.2)

    with pytest.raises(ValueError, match=r"must work for arguments that are traced \(here `p_ho"):
        bn.phase_diagram(curious, {"p_honest": [0.5]})
    # Without the checks of types that these tests run under.
    script = (
        'import bnjax as bn; bn.phase_diagram(bn.scenarios.overconfidence, {"num_efforts": [3]})'
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ValueError: `num_efforts` sets the shape of the problem" in run.stderr


# Pictures


def test_picture(simulated):
    figure = bn.plot.simulated_diagram(simulated, action="honest", title="learners")
    assert_readable(figure)
    (mesh,) = [x for x in figure.axes[0].collections if x.get_array() is not None]
    shown = np.ma.masked_invalid(mesh.get_array()).reshape(2, 3)
    np.testing.assert_allclose(shown[:, :2], simulated.frequency[:2, :, 1].T, rtol=1e-6)
    assert shown.mask[:, 2].all()
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"safe", "unsafe", "oscillatory"} & texts


def test_picture_of_a_strip(simulated):
    long = "sycophancy: p_sycophantic = 0.7, width = 0, exploration = 0; 100 learners in each cell"
    assert_readable(bn.plot.simulated_diagram(simulated.isel(p_honest=1), title=long))


def test_pictures_of_what_was_not_simulated(simulated):
    with pytest.raises(ValueError, match="must hold simulated frequencies"):
        bn.plot.simulated_diagram(simulated.drop_vars("frequency"))
    with pytest.raises(ValueError, match="`action` must be one of"):
        bn.plot.simulated_diagram(simulated, action="lie")
