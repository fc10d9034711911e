"""Pure best-fit dynamics against answers that the map did not produce."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax.learning._best_fit import best_fit_dynamics
from tests.oracles.random_problems import KINDS, random_problem, reduced_form

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("p_sycophantic", "p_honest", "fixed", "period"),
    [(0.3, 0.2, [], 2), (0.7, 0.6, [0, 1], 1), (0.7, 0.3, [0], 1), (0.3, 0.7, [1], 1)],
)
def test_the_four_regimes_of_sycophancy(p_sycophantic, p_honest, fixed, period):
    problem = bn.scenarios.sycophancy(p_sycophantic, p_honest)
    for start in (0, 1):
        found = best_fit_dynamics(problem, start)
        assert np.flatnonzero(found.fixed_points).tolist() == fixed
        assert int(found.period) == period == int(found.cycle.sum())
        assert not bool(found.met_tie)
        np.testing.assert_allclose(found.best_fit[:, 0], [p_sycophantic, 1 - p_honest], atol=1e-6)


def test_oscillation_goes_from_flattery_to_honesty_and_back():
    found = best_fit_dynamics(bn.scenarios.sycophancy(0.3, 0.2))
    assert found.orbit.tolist() == [0, 1, 0]
    assert found.cycle.tolist() == [True, True]
    assert int(found.transient) == 0
    # A grid of models has the same cycle.
    grid = bn.scenarios.sycophancy(0.3, 0.2).discretize(16)
    assert best_fit_dynamics(grid).orbit.tolist() == [0, 1, 0]


def test_exploration_moves_the_fit_and_ends_the_oscillation(x64):
    # Sycophancy shows 0.3 and honesty 0.8; at full exploration all that is seen is 0.55.
    problem = bn.scenarios.sycophancy(0.3, 0.2)
    for tremble in (0.3, 0.7, 0.9, 1.0):
        found = best_fit_dynamics(problem, exploration=tremble)
        share = (1 - tremble) * np.array([1, 0]) + tremble / 2
        fit = share * 0.3 + (1 - share) * 0.8
        np.testing.assert_allclose(found.best_fit[:, 0], fit, atol=1e-9)
        assert found.next_action.tolist() == [0 if theta > 0.5 else 1 for theta in fit]


@pytest.mark.parametrize("p_detect", [0.2, 0.9])
def test_an_overconfident_deceiver_deceives(p_detect):
    found = best_fit_dynamics(bn.scenarios.deception(p_detect, detect_upper=0.3), 1)
    assert found.next_action.tolist() == [0, 0]
    assert found.orbit.tolist() == [1, 0, 0]
    assert (int(found.transient), int(found.period)) == (1, 1)
    assert not found.ambiguous.any()


def test_complying_teaches_nothing_so_that_a_rule_decides():
    for p_detect, after_deceiving in ((0.2, 0), (0.9, 1)):
        problem = bn.scenarios.deception(p_detect)
        stay = best_fit_dynamics(problem, 1)
        assert stay.next_action.tolist() == [after_deceiving, 1]
        assert stay.ambiguous.tolist() == [False, True]
        assert stay.replies.tolist()[1] == [True, True]
        assert bool(stay.met_tie)
        assert int(stay.cycle[1])
        assert float(stay.best_fit[1, 0]) >= 0.4  # believed detection at which complying pays
        first = best_fit_dynamics(problem, 1, ties="first")
        assert first.next_action.tolist() == [after_deceiving, 0]
        assert float(first.best_fit[1, 0]) <= 0.4
        last = best_fit_dynamics(problem, 1, ties="last")
        assert last.next_action.tolist() == [after_deceiving, 1]
        assert "a tie: deceive or comply" in stay.summary(problem)


@pytest.mark.slow  # so does its experiment
def test_the_monopolist_has_no_fixed_point():
    problem = bn.scenarios.monopolist()
    found = best_fit_dynamics(problem)
    assert found.orbit.tolist() == [0, 1, 0]
    assert not found.fixed_points.any()
    # What price 2 shows pins a - 2 b = 34, what price 10 shows pins a - 10 b = 2.
    a, b = np.asarray(found.best_fit).T
    np.testing.assert_allclose(a - b * np.array([2.0, 10.0]), [34, 2], atol=2e-3)


def test_overconfidence_settles_within_a_step_of_the_root(x64):
    problem = bn.scenarios.overconfidence(0.18, num_efforts=41)
    efforts = np.asarray(problem.family.function.efforts)
    step = efforts[1] - efforts[0]
    for start in (0, 40):
        found = best_fit_dynamics(problem, start)
        assert int(found.period) == 1
        settled = efforts[int(found.cycle.argmax())]
        assert abs(settled - (1 - 0.2)) <= step
        assert bool(found.complete)


@pytest.mark.parametrize("kind", KINDS)
def test_random_problems_against_a_plain_loop(kind, x64):
    for seed in range(4):
        arrays = random_problem(seed, kind, num_actions=4, num_models=6)
        # One shape for all of them.
        pad = 4 - arrays["probs"].shape[1]
        problem = bn.Problem(
            np.pad(arrays["probs"], ((0, 0), (0, pad))),
            np.pad(arrays["model_probs"], ((0, 0), (0, 0), (0, pad))),
            np.pad(arrays["payoff"], ((0, 0), (0, pad))),
            arrays["log_prior"],
        )
        reduced = reduced_form(arrays)
        kl = np.where(reduced["ruled_out"] | ~reduced["support"][:, None], np.inf, reduced["kl"])
        found = best_fit_dynamics(problem, 3, tol_fit=1e-9, tol_payoff=1e-9)
        for played in range(4):
            want = set()
            for m in np.flatnonzero(kl[:, played] <= kl[:, played].min() + 1e-9):
                payoffs = reduced["payoffs"][m]
                want |= set(np.flatnonzero(payoffs >= payoffs.max() - 1e-9).tolist())
            assert set(np.flatnonzero(found.replies[played]).tolist()) == want
            assert int(found.next_action[played]) in want
            assert bool(found.ambiguous[played]) == (len(want) > 1)
        following, path = np.asarray(found.next_action), [3]
        while following[path[-1]] not in path:
            path.append(int(following[path[-1]]))
        transient = path.index(following[path[-1]])
        assert int(found.transient) == transient
        assert int(found.period) == len(path) - transient
        assert np.flatnonzero(found.cycle).tolist() == sorted(path[transient:])
        assert found.orbit.tolist()[: len(path)] == path


def test_fixed_points_are_pure_equilibria():
    rng = np.random.default_rng(0)
    for _ in range(6):  # of one shape, so that they compile once
        payoff = rng.normal(size=(2, 3))
        probs, models = rng.dirichlet(np.ones(3), 2), rng.dirichlet(np.ones(3), (5, 2))
        problem = bn.Problem(probs, models, payoff)
        want = bn.equilibria(problem, max_equilibria=2).pure
        np.testing.assert_array_equal(best_fit_dynamics(problem).fixed_points, want)


def test_a_batch_equals_a_loop_over_problems_and_over_starts():
    p = jnp.asarray([0.2, 0.4, 0.6, 0.8])

    def solve(p, start):
        found = best_fit_dynamics(bn.scenarios.sycophancy(p, 0.3).discretize(16), start)
        return found.orbit, found.transient, found.period, found.cycle

    together = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(p, jnp.arange(2))
    for i in range(4):
        for start in range(2):
            alone = solve(p[i], start)
            for batched, single in zip(together, alone, strict=True):
                np.testing.assert_array_equal(batched[i, start], single)


def test_values_do_not_compile_anew():
    from chex import assert_max_traces, clear_trace_counter

    clear_trace_counter()
    counted = jax.jit(assert_max_traces(lambda p, start: best_fit_dynamics(p, start).orbit, n=1))
    for p in (0.2, 0.8):
        for start in (0, 1):
            counted(bn.scenarios.sycophancy(p, 0.6).discretize(16), start)


def test_one_action_and_the_reports():
    problem = bn.scenarios.coin()
    found = best_fit_dynamics(problem)
    assert found.orbit.tolist() == [0, 0]
    assert found.summary(problem).startswith("toss -> toss (fixed point)\n")
    problem = bn.scenarios.sycophancy(0.7, 0.3)
    found = best_fit_dynamics(problem, 1)
    assert repr(found) == (
        "BestFitDynamics(start=1, transient=1, period=1, cycle=[0], met_tie=False)"
    )
    text = found.summary(problem)
    assert "honest -> sycophantic -> sycophantic (fixed point, after 1 step)" in text
    assert "fixed points: sycophantic" in text
    batch = eqx.filter_vmap(best_fit_dynamics, in_axes=(None, 0))(problem, jnp.arange(2))
    assert repr(batch) == "BestFitDynamics(batch=(2,), actions=2)"
    with pytest.raises(ValueError, match="a summary is of one problem"):
        batch.summary(problem)


def test_nonsense_is_reported_and_not_raised_where_it_is_traced():
    def solve(p):
        return best_fit_dynamics(bn.scenarios.sycophancy(p, 0.6).discretize(16)).valid

    assert jax.vmap(solve)(jnp.asarray([0.5, jnp.nan, 1.5])).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 2}, "`start` must be the index of an action, an integer from 0 to 1; got 2"),
        ({"start": -1}, "`start` must be the index of an action, an integer from 0 to 1; got -1"),
        ({"start": 0.5}, "`start` must be the index of an action.* got 0.5"),
        ({"exploration": 1.5}, "`exploration` must be a probability"),
        ({"tol_fit": -1.0}, "`tol_fit` must be a finite number of at least"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        best_fit_dynamics(bn.scenarios.sycophancy(), **arguments)


def test_an_unknown_rule():
    # Past the checked types of a test run, as a user would call it.
    call = getattr(best_fit_dynamics, "__wrapped__", best_fit_dynamics)
    with pytest.raises(ValueError, match="`ties` must be one of stay, first, last; got 'random'"):
        call(bn.scenarios.sycophancy(), ties="random")
