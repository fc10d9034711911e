"""Exact solutions against answers that the solvers did not produce."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bnjax as bn
from tests.oracles import bimatrix, exact, random_problems
from tests.oracles.random_problems import KINDS, random_problem

TOLERANCE = 1e-9
MAX_MODELS, MAX_CONSEQUENCES = 12, 4


@contextlib.contextmanager
def float64():
    with jax.enable_x64(True):
        yield


def padded(arrays: dict) -> bn.Problem:
    """The same problem with models of no prior weight and consequences that never happen.

    One shape for all random problems means one compilation for all of them.
    """
    num_models, _, num_consequences = arrays["model_probs"].shape
    models, ys = MAX_MODELS - num_models, MAX_CONSEQUENCES - num_consequences
    extra = np.repeat(arrays["model_probs"][:1], models, axis=0)
    model_probs = np.concatenate([arrays["model_probs"], extra])
    return bn.Problem(
        probs=np.pad(arrays["probs"], ((0, 0), (0, ys))),
        model_probs=np.pad(model_probs, ((0, 0), (0, 0), (0, ys))),
        payoff=np.pad(arrays["payoff"], ((0, 0), (0, ys))),
        log_prior=np.concatenate([arrays["log_prior"], np.full(models, -np.inf)]),
        safe=arrays["safe"],
    )


def solved(problem):
    return bn.rationalizable(problem, tol_fit=TOLERANCE, tol_payoff=TOLERANCE)


def exact_answer(arrays):
    reduced = random_problems.reduced_form(arrays)
    return exact.exact_problem(**reduced, tol_fit=TOLERANCE, tol_payoff=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_two_actions_agree_with_rational_arithmetic(kind):
    with float64():
        for seed in range(12):
            arrays = random_problem(seed, kind, num_actions=2)
            found = solved(padded(arrays))
            want = exact.rationalizable(exact_answer(arrays))
            assert np.asarray(found.mask).tolist() == want.tolist()


@pytest.mark.parametrize("precision", [32, 64])
@pytest.mark.parametrize("tolerance", [0.0, 1e-12, 1e-9, 2e-6])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_tie_at_the_limit_of_play_that_refutes_counts_at_a_positive_tolerance(
    swapped, tolerance, precision
):
    """Model 0 fits a exactly and b refutes it; 1 and 2 tie there, and 2 fits b better.

    Only model 1 justifies b, and it is never a best fit: but it nearly is where b is rare.
    """
    order = [1, 0] if swapped else [0, 1]
    quarters, halves = [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]
    models = [[halves, [1.0, 0.0, 0.0]], [quarters, quarters], [quarters, halves]]
    with jax.enable_x64(precision == 64):
        problem = bn.Problem(
            probs=[halves, halves],
            model_probs=np.array(models)[:, order],
            payoff=np.array([[1.0, 0.0, 0.0], [-1.0, 0.75, 0.0]])[order],
        )
        want = [True, tolerance > 0]
        found = bn.rationalizable(problem, tol_fit=tolerance, tol_payoff=tolerance)
        certificate = bn.certify(problem, tol_fit=tolerance, tol_payoff=tolerance)
        assert np.asarray(found.mask)[order].tolist() == want
        assert certificate.mask[order].tolist() == want


@pytest.mark.parametrize("num_actions", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_more_actions_never_contradict_the_certificate(num_actions):
    with float64():
        for seed in range(8):
            arrays = random_problem(
                seed, KINDS[seed % len(KINDS)], num_actions=num_actions, num_models=6
            )
            found = np.asarray(solved(padded(arrays)).certainty)
            certificate = bn.certify(padded(arrays), tol_fit=TOLERANCE, tol_payoff=TOLERANCE)
            status = np.asarray(certificate.certainty)
            assert not ((found == bn.Certainty.IN) & (status == bn.Certainty.OUT)).any()
            assert not ((found == bn.Certainty.OUT) & (status == bn.Certainty.IN)).any()
            assert not (found == bn.Certainty.UNDECIDED).any()


@pytest.mark.slow
@pytest.mark.parametrize("num_actions", [2, 3, 4, 5])
def test_five_hundred_random_problems_never_contradict_the_certificate(num_actions):
    undecided = 0
    with float64():
        for seed in range(500):
            arrays = random_problem(seed, KINDS[seed % len(KINDS)], num_actions=num_actions)
            found = np.asarray(solved(padded(arrays)).certainty)
            certificate = bn.certify(bn.Problem(**arrays), tol_fit=TOLERANCE, tol_payoff=TOLERANCE)
            status = np.asarray(certificate.certainty)
            assert not ((found == bn.Certainty.IN) & (status == bn.Certainty.OUT)).any(), seed
            assert not ((found == bn.Certainty.OUT) & (status == bn.Certainty.IN)).any(), seed
            if num_actions == 2:
                assert (found == status).all(), seed
            undecided += (found == bn.Certainty.UNDECIDED).any()
    assert undecided < 0.02 * 500


@pytest.mark.parametrize("num_actions", [2, 3])
def test_equilibria_are_the_nash_equilibria_of_the_bimatrix_game(num_actions):
    with float64():
        for seed in range(8):
            arrays = random_problem(seed, "generic", num_actions=num_actions)
            problem = padded(arrays)
            found = bn.equilibria(problem, max_equilibria=32)
            mine = np.asarray(found.strategy)[np.asarray(found.valid)]
            reduced = random_problems.reduced_form(arrays)
            want, _ = bimatrix.equilibria(reduced["kl"], reduced["payoffs"])
            assert bool(found.complete)
            assert len(mine) == len(want)
            for strategy in mine:
                assert np.abs(want - strategy).max(1).min() < 1e-7
            assert float(found.residual.max()) < 1e-10


seeds = st.integers(0, 10_000)


@given(seeds, st.sampled_from(["generic", "ties"]))
def test_equilibria_exist_and_their_support_is_rationalizable(seed, kind):
    with float64():
        problem = padded(random_problem(seed, kind, num_actions=2))
        found = bn.equilibria(problem)
        valid = np.asarray(found.valid)
        assert valid.any()
        played = (np.asarray(found.strategy) > 0) | (np.asarray(found.strategy_end) > 0)
        mask = np.asarray(bn.rationalizable(problem).mask)
        assert (played[valid] <= mask).all()
        assert float(jnp.where(found.valid, found.residual, 0).max()) < 1e-9


@given(seeds, st.sampled_from(["generic", "infinite"]), st.randoms(use_true_random=False))
def test_relabelling_permutes_the_answer_and_shifting_payoffs_changes_nothing(seed, kind, rng):
    with float64():
        problem = padded(random_problem(seed, kind, num_actions=3))
        actions, models = list(range(3)), list(range(MAX_MODELS))
        consequences = list(range(MAX_CONSEQUENCES))
        for order in (actions, models, consequences):
            rng.shuffle(order)
        other = bn.Problem(
            probs=problem.probs[np.ix_(actions, consequences)],
            model_probs=problem.model_probs[np.ix_(models, actions, consequences)],
            payoff=problem.payoff[np.ix_(actions, consequences)] + 7.0,
            log_prior=problem.log_prior[np.array(models)],
            safe=problem.safe[np.array(actions)],
        )
        found, permuted = bn.rationalizable(problem), bn.rationalizable(other)
        np.testing.assert_array_equal(
            np.asarray(found.certainty)[actions], np.asarray(permuted.certainty)
        )
        assert int(bn.phase(problem)) == int(bn.phase(other))


@given(seeds)
def test_single_and_double_precision_agree_away_from_ties(seed):
    arrays = random_problem(seed, "generic", num_actions=2)
    single = padded(arrays)
    with float64():
        double = padded(arrays)
        coarse = bn.rationalizable(double, tol_fit=1e-4, tol_payoff=1e-4)
        fine = bn.rationalizable(double)
        if (np.asarray(coarse.mask) != np.asarray(fine.mask)).any():
            return  # a near tie: precision may decide
        want = np.asarray(fine.certainty)
    np.testing.assert_array_equal(np.asarray(bn.rationalizable(single).certainty), want)


def test_a_batch_equals_a_loop_over_every_leaf():
    problems = [padded(random_problem(seed, num_actions=2)) for seed in range(6)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    together = eqx.filter_vmap(bn.equilibria)(batch)
    phases = eqx.filter_vmap(bn.phase)(batch)
    for i, problem in enumerate(problems):
        alone = bn.equilibria(problem)
        np.testing.assert_allclose(together.strategy[i], alone.strategy, atol=1e-6)
        np.testing.assert_array_equal(together.valid[i], alone.valid)
        np.testing.assert_array_equal(together.stability[i], alone.stability)
        assert int(phases[i]) == int(bn.phase(problem))


def test_nested_batches_equal_a_flat_one():
    problems = [padded(random_problem(seed, num_actions=2)) for seed in range(6)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    nested = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), batch)
    flat = eqx.filter_vmap(bn.phase)(batch)
    np.testing.assert_array_equal(eqx.filter_vmap(eqx.filter_vmap(bn.phase))(nested).ravel(), flat)


def test_a_correct_model_with_full_exploration_plays_the_optimum():
    rng = np.random.default_rng(0)
    for _ in range(5):
        probs = rng.dirichlet(np.ones(3), size=3)
        others = rng.dirichlet(np.ones(3), size=(4, 3))
        payoff = rng.normal(size=(3, 3))
        problem = bn.Problem(probs, np.concatenate([others, probs[None]]), payoff)
        found = bn.equilibria(problem, exploration=1.0)
        strategy = np.asarray(found.strategy)[np.asarray(found.valid)]
        assert strategy.shape == (1, 3)
        assert strategy[0].argmax() == (probs * payoff).sum(1).argmax()
        assert strategy[0].max() == 1


def test_two_models_that_fit_equally_everywhere_make_every_strategy_an_equilibrium():
    # 0.3 and 0.7 are equally far from 1/2 whatever is played; their replies are opposite.
    q = np.array([0.3, 0.7])
    model_probs = np.stack([np.stack([1 - q, q], -1), np.stack([q, 1 - q], -1)], 1)
    problem = bn.Problem(np.full((2, 2), 0.5), model_probs, [[0.0, 1.0], [0.0, 1.0]])
    found = bn.equilibria(problem)
    assert np.asarray(found.valid).sum() == 1
    np.testing.assert_allclose(found.strategy[0], [0, 1])
    np.testing.assert_allclose(found.strategy_end[0], [1, 0])
    np.testing.assert_allclose(found.belief[0], [0.5, 0.5], atol=1e-6)


def test_zero_probability_consequences_give_no_nan():
    probs = jnp.asarray([[1.0, 0.0], [0.5, 0.5]])
    model_probs = jnp.asarray([[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]]])
    payoff = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])

    def total(probs, model_probs, payoff, exploration):
        problem = bn.Problem(probs, model_probs, payoff)
        reduced = problem.reduced_form().explored(exploration)
        found = bn.equilibria(problem, exploration)
        return reduced.kl.sum() + reduced.payoffs.sum() + found.strategy.sum()

    args = probs, model_probs, payoff, jnp.asarray(0.0)
    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))(*args)
    assert np.isfinite(float(value))
    assert all(np.isfinite(np.asarray(g)).all() for g in gradients)
    kl = bn.Problem(probs, model_probs, payoff).kl_matrix()
    np.testing.assert_array_equal(np.isinf(np.asarray(kl)), [[False, False], [False, True]])


def test_a_ruled_out_model_is_no_best_fit_where_it_is_refuted():
    # The second model fits action 0 better and favours it, but rules out what action 1 does.
    problem = bn.Problem(
        probs=[[0.5, 0.5], [0.5, 0.5]],
        model_probs=[[[0.6, 0.4], [0.4, 0.6]], [[0.5, 0.5], [1.0, 0.0]]],
        payoff=[[0.0, 1.0], [0.0, 1.0]],
    )
    found = bn.equilibria(problem)
    strategy = np.asarray(found.strategy)[np.asarray(found.valid)]
    # Playing 0: believe model 2, for which 0 is best. Playing 1: believe model 1: 1 is best.
    np.testing.assert_allclose(strategy, [[0, 1], [1, 0]])
    assert np.asarray(found.pure).all()


def test_new_values_do_not_compile_anew():
    from chex import assert_max_traces, clear_trace_counter

    clear_trace_counter()
    counted = assert_max_traces(lambda p: bn.phase(p), n=1)
    solve = jax.jit(counted)
    for p in (0.2, 0.4, 0.8):
        solve(bn.scenarios.sycophancy(p, 0.6).discretize(17))


def test_a_problem_of_one_action():
    found = bn.equilibria(bn.scenarios.coin())
    assert np.asarray(found.is_pure)[0]
    assert np.asarray(bn.rationalizable(bn.scenarios.coin()).mask).tolist() == [True]


def test_derivatives_of_a_mixed_equilibrium_with_continuous_theta():
    tremble, at = 0.1, (0.3, 0.2)

    def play(p_sycophantic, p_honest):
        problem = bn.scenarios.sycophancy(p_sycophantic, p_honest)
        found = bn.equilibria(problem, tremble, max_equilibria=2)
        return jnp.sum(jnp.where(found.valid & ~found.is_pure, found.strategy[:, 0], 0))

    def closed_form(p_sycophantic, p_honest):
        realised = (0.5 - p_honest) / (1 - p_sycophantic - p_honest)
        return (realised - tremble / 2) / (1 - tremble)

    with float64():
        want = jax.grad(closed_form, argnums=(0, 1))(*at)
        value, backward = jax.jit(jax.value_and_grad(play, argnums=(0, 1)))(*at)
        np.testing.assert_allclose(value, closed_form(*at), rtol=1e-12)
        np.testing.assert_allclose(backward, want, rtol=1e-6)


def test_derivative_of_a_best_fit():
    # What pure sycophancy shows is p_sycophantic, and that is what is believed.
    def believed(p_sycophantic):
        found = bn.equilibria(bn.scenarios.sycophancy(p_sycophantic, 0.2), max_equilibria=2)
        return jnp.sum(jnp.where(found.valid, found.best_fit[:, 0], 0))

    with float64():
        np.testing.assert_allclose(jax.jit(jax.value_and_grad(believed))(0.7), (0.7, 1), rtol=1e-9)


@pytest.mark.slow  # a minute, nearly all of it compilation
def test_derivative_in_a_box_against_central_differences():
    def play(demand_low):
        found = bn.equilibria(bn.scenarios.monopolist(demand_low, 2.0), max_equilibria=2)
        return jnp.sum(jnp.where(found.valid, found.strategy[:, 0], 0))

    with float64():
        step = 1e-4
        want = (play(34.0 + step) - play(34.0 - step)) / (2 * step)
        assert abs(want) > 0.001
        np.testing.assert_allclose(jax.jit(jax.grad(play))(34.0), want, rtol=1e-5)


def test_derivative_of_a_finite_mixed_equilibrium_against_central_differences():
    def play(p_honest):
        found = bn.equilibria(bn.scenarios.sycophancy(0.31, p_honest).discretize(16))
        return jnp.sum(jnp.where(found.valid & ~found.is_pure, found.strategy[:, 0], 0))

    with float64():
        step = 1e-6
        want = (play(0.2 + step) - play(0.2 - step)) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(play))(0.2), want, rtol=1e-6)


def test_a_batch_larger_than_a_block_of_lanes():
    with float64():
        p = np.linspace(0.01, 0.99, 150)

        def solve(p):
            problem = bn.scenarios.sycophancy(p, 0.3).discretize(129)
            return bn.phase(problem), bn.equilibria(problem, max_equilibria=3).strategy

        codes, strategies = jax.jit(jax.vmap(solve))(p)
        for i in (0, 77, 149):
            code, strategy = solve(p[i])
            assert codes[i] == code
            np.testing.assert_allclose(strategies[i], strategy, rtol=0, atol=1e-15)


def test_python_scalars_compile_as_arrays_do():
    def leaves(number):
        problem = bn.scenarios.sycophancy(number, number)
        return [(x.dtype, x.weak_type) for x in jax.tree.leaves(problem)]

    assert leaves(0.7) == leaves(np.float32(0.7)) == leaves(jnp.asarray(0.7, jnp.float32))


def test_what_teaches_nothing_is_absorbing():
    def two_rates(*rates):
        return [[1 - rate, rate] for rate in rates]

    def absorbing(**changes):
        arguments = {
            "probs": two_rates(0.5, 0.9),
            "model_probs": [two_rates(0.25, 0.1), two_rates(0.75, 0.1)],
            "payoff": [[0.0, 1.0], [0.0, 0.0]],
        } | changes
        found = bn.equilibria(bn.Problem(**arguments))
        return bool(found.absorbing[jnp.argmax(jnp.where(found.valid, found.strategy[:, 0], 0.0))])

    # Models that fit equally well and yet explain each toss differently; beliefs never settle.
    assert not absorbing()
    assert absorbing(model_probs=[two_rates(0.5, 0.1), two_rates(0.5, 0.9)])
    # They disagree about what never happens, or in a model that the prior excludes.
    assert absorbing(
        probs=[[0.0, 0.5, 0.5], [0.2, 0.8, 0.0]],
        model_probs=[[[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], [[0.0, 0.5, 0.5], [0.2, 0.8, 0.0]]],
        payoff=[[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
    )
    assert absorbing(
        model_probs=[two_rates(0.5, 0.1), two_rates(0.5, 0.9), two_rates(0.4, 0.9)],
        log_prior=[0.0, 0.0, -jnp.inf],
    )
    assert not bn.equilibria(bn.scenarios.coin()).absorbing.any()
    # Means on either side of the truth.
    found = bn.equilibria(
        bn.GaussianProblem([0.0], [1.0], [[-1.0], [1.0]], [[1.0], [1.0]], [0.0], [1.0])
    )
    assert not found.absorbing.any()
