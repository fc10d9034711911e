"""Smooth equilibria against SciPy, a closed form, central differences, and exact equilibria."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bnjax as bn
from tests.oracles import closed_forms
from tests.oracles import smooth as oracle
from tests.oracles.random_problems import random_problem

SIZES = [
    pytest.param(2, 64, id="A=2"),
    pytest.param(3, 16, id="A=3", marks=pytest.mark.slow),
    pytest.param(4, 12, id="A=4"),
    pytest.param(5, 8, id="A=5", marks=pytest.mark.slow),
]
NAMES = ("probs", "model_probs", "payoff", "log_prior")


def draw(num, num_actions, num_models, kinds=("generic",), seed=0, memory=(2, 200)):
    """Random problems of one shape, stacked, with memory, temperature and tremble."""
    rng = np.random.default_rng(seed + 100 * num_actions)
    sizes = {"num_actions": num_actions, "num_models": num_models, "num_consequences": 3}
    cases = [random_problem(rng, kinds[i % len(kinds)], **sizes) for i in range(num)]
    terms = (
        np.exp(rng.uniform(*np.log(memory), num)),
        np.exp(rng.uniform(np.log(0.02), 0, num)),
        rng.choice([0.0, 0.1], num),
    )
    stacked = tuple(np.stack([case[name] for case in cases]) for name in NAMES)
    return cases, (*stacked, *terms)


def solve_one(probs, models, payoff, log_prior, memory, temperature, exploration, **options):
    problem = bn.Problem(probs, models, payoff, log_prior)
    return bn.smooth_equilibrium(problem, memory, temperature, exploration=exploration, **options)


@functools.cache
def solver(max_equilibria=8):
    return jax.jit(jax.vmap(functools.partial(solve_one, max_equilibria=max_equilibria)))


def numpy(found):
    return jax.tree.map(np.asarray, found)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@functools.cache
def derivative(num_actions, num_models):
    """Play weighted by action, its derivative with respect to everything, and the solution."""
    shapes = [(num_actions, 3), (num_models, num_actions, 3), (num_actions, 3), (num_models,)]
    zeros = [jnp.zeros(shape) for shape in (*shapes, (), (), ())]
    _, unravel = ravel_pytree(zeros)
    weights = jnp.arange(1.0, num_actions + 1) ** 2
    rows = 1 if num_actions == 2 else 8  # of pairs, `solver` lists more

    def play(flat):
        probs, models, payoff, log_prior, *terms = unravel(flat)
        found = solve_one(
            jax.nn.softmax(probs),
            jax.nn.softmax(models),
            payoff,
            log_prior,
            *terms,
            max_equilibria=rows,
        )
        return weights @ found.strategy, found

    return jax.jit(jax.vmap(jax.value_and_grad(play, has_aux=True)))


def flatten(args):
    """Arguments of `derivative`, from those of `solver`."""
    with np.errstate(divide="ignore"):
        args = np.log(args[0]), np.log(args[1]), *args[2:]
    return np.concatenate([x.reshape(len(x), -1) for x in args], axis=1)


GRADIENTS = 20  # by five points each: one program for all tests of a size


def solutions(num_actions, num_models, args):
    """Solutions, by a program that is shared with other tests."""
    if num_actions == 2:
        return numpy(solver()(*args))
    flat = flatten(args)
    many = np.resize(flat, (5 * GRADIENTS, flat.shape[1]))
    return row(numpy(derivative(num_actions, num_models)(many)[0][1]), slice(len(flat)))


# Values.


@pytest.mark.parametrize(("num_actions", "num_models"), SIZES)
def test_selected_solutions_against_scipy(x64, num_actions, num_models):
    kinds = ("generic", "infinite", "unsupported", "generic")
    cases, args = draw(40, num_actions, num_models, kinds)
    found = solutions(num_actions, num_models, args)
    assert (found.code == bn.SolveStatus.CONVERGED).all()
    assert found.residual.max() < 1e-10
    several = excluded = 0
    for i, case in enumerate(cases):
        want = oracle.smooth(case, *(x[i] for x in args[4:]))
        start = want.start()
        if num_actions == 2:
            roots = want.roots(401)
            x = want.selected_root(roots, want.start_logit())
            selected = np.array([1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))])
            listed = found.strategies[i][found.valid[i]][:, 0]
            np.testing.assert_allclose(listed, 1 / (1 + np.exp(-roots)), atol=1e-10)
            stable = np.where(np.arange(len(roots)) % 2, bn.Stability.UNSTABLE, bn.Stability.STABLE)
            np.testing.assert_array_equal(found.stability[i][found.valid[i]], stable)
            several += len(roots) > 1
        else:
            selected = want.rest(start)
            several += found.valid[i].sum() > 1
        np.testing.assert_allclose(found.strategy[i], selected, atol=1e-9)
        np.testing.assert_allclose(found.belief[i], want.belief(selected), atol=1e-6)
        out = ~np.isfinite(want.kl).all(1) | ~np.isfinite(want.log_prior)
        np.testing.assert_array_equal(found.belief[i][out], 0)
        excluded += out.sum()
        np.testing.assert_array_equal(found.strategies[i, found.selected[i]], found.strategy[i])
        for play in found.strategies[i][found.valid[i]]:
            np.testing.assert_allclose(want.reply(play), play, atol=1e-9)
    assert several > 0
    assert excluded > 0
    played = (1 - args[6][:, None]) * found.strategy + args[6][:, None] / num_actions
    np.testing.assert_allclose(found.realised, played, rtol=1e-12)


@pytest.mark.parametrize(
    ("num_actions", "num_models", "rows"),
    [
        pytest.param(2, 64, 1, id="A=2"),
        pytest.param(2, 64, 8, id="A=2, listed", marks=pytest.mark.slow),
        pytest.param(4, 12, 8, id="A=4, listed", marks=pytest.mark.slow),
    ],
)
def test_float32_agrees_with_float64(num_actions, num_models, rows):
    _, args = draw(40, num_actions, num_models, memory=(2, 100))
    single = numpy(solver(rows)(*(x.astype(np.float32) for x in args)))
    with jax.enable_x64(True):
        double = numpy(solver()(*args))
    assert single.strategy.dtype == np.float32
    assert (single.code == bn.SolveStatus.CONVERGED).mean() >= 0.97
    sure = (single.code == 0) & (double.condition > 0.1)
    assert sure.mean() > 0.8
    np.testing.assert_allclose(single.strategy[sure], double.strategy[sure], atol=2e-4)
    np.testing.assert_allclose(single.condition[sure], double.condition[sure], rtol=2e-3)
    if rows > 1:
        assert (single.valid[sure].sum(1) == double.valid[sure].sum(1)).mean() > 0.9


@pytest.mark.slow
def test_rest_points_of_the_mean_field(x64):
    problem = bn.scenarios.sycophancy(0.7, 0.6).discretize(64)

    def both(log_prior):
        tilted = bn.Problem(problem.probs, problem.model_probs, problem.payoff, log_prior)
        found = bn.smooth_equilibrium(tilted, 20.0, 0.1)
        prior = jax.nn.softmax(log_prior) @ tilted.subjective_payoffs()
        flow = bn.mean_field(
            tilted, jax.nn.softmax(prior / 0.1), duration=60.0, memory=20.0, temperature=0.1
        )
        return found, flow.final

    tilts = jnp.asarray([-3.0, -0.5, 0.5, 3.0])[:, None] * jnp.linspace(-1, 1, 64)
    found, final = jax.jit(jax.vmap(both))(tilts)
    assert found.converged.all()
    assert np.ptp(found.strategy[:, 0]) > 0.5  # both solutions are reached
    np.testing.assert_allclose(found.strategy, final, atol=1e-6)


@functools.cache
def from_start():
    """Derivative of play with respect to the start, and the solution: 4 pairs of 64 models."""

    def solve(share, problem, memory, temperature):
        start = jnp.stack([share, 1 - share])
        found = bn.smooth_equilibrium(problem, memory, temperature, start=start)
        return found.strategy[0], found

    return jax.jit(jax.vmap(jax.grad(solve, has_aux=True)))


def test_a_start_selects_and_has_no_derivative(x64):
    starts = jnp.asarray([0.0, 0.2, 0.5, 1.0])
    rates = np.linspace(0, 1, 64)
    models = np.stack([np.stack([1 - rates, rates], -1), np.stack([rates, 1 - rates], -1)], 1)
    truth = bn.scenarios.sycophancy(0.7, 0.6).consequence
    problem = bn.Problem(truth.probs, models, truth.payoff)
    problem, terms = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (4, *jnp.shape(x))), (problem, (40.0, 0.05))
    )
    slopes, found = from_start()(starts, problem, *terms)
    rows = found.strategies[0, found.valid[0], 0]
    assert len(rows) == 3
    want = [rows[0] if share < rows[1] else rows[2] for share in starts]
    np.testing.assert_allclose(found.strategy[:, 0], want, atol=1e-12)
    assert found.selected.tolist() == [0 if share < rows[1] else 2 for share in starts]
    np.testing.assert_array_equal(slopes, 0.0)


# Two models: a scalar equation in log-odds.


def two_model_problem(odds, rates=((0.7, 0.4), (0.45, 0.65)), truth=(0.62, 0.58)):
    """Two models of how often two actions pay 1, with log-odds of the first over the second."""
    rates, truth = jnp.asarray(rates), jnp.asarray(truth)
    payoff = jnp.broadcast_to(jnp.asarray([0.0, 1.0]), (2, 2))
    log_prior = jnp.stack([jax.nn.log_sigmoid(odds), jax.nn.log_sigmoid(-odds)])
    pair = functools.partial(jnp.stack, axis=-1)
    return bn.Problem(pair([1 - truth, truth]), pair([1 - rates, rates]), payoff, log_prior)


def test_two_models_closed_form_with_two_derivatives(x64):
    def strategy(odds, memory, temperature):
        return bn.smooth_equilibrium(
            two_model_problem(odds), memory, temperature, max_equilibria=1
        ).strategy[0]

    def all_orders(*args):
        def first(odds, *terms):
            value, slope = jax.value_and_grad(strategy)(odds, *terms)
            return slope, value

        # Forward over reverse mode.
        (slope, value), second = jax.jvp(
            lambda odds: first(odds, *args[1:]), args[:1], (jnp.ones_like(args[0]),)
        )
        return value, slope, second[0]

    odds, terms = np.linspace(-3, 3, 25), [(30.0, 0.1), (10.0, 0.3), (100.0, 0.05)]
    grid = [np.asarray(x) for x in zip(*[(o, *t) for o in odds for t in terms], strict=True)]
    found = jax.jit(jax.vmap(all_orders))(*grid)
    problem = two_model_problem(jnp.asarray(0.0))
    kl, gain = np.asarray(problem.kl_matrix()), np.diff(problem.subjective_payoffs())[:, 0]
    for i, (o, memory, temperature) in enumerate(zip(*grid, strict=True)):
        learned = memory * (kl[1] - kl[0])
        want = oracle.two_models(o, learned, -gain, temperature, float(found[0][i]))
        for have, value in zip(found, want, strict=True):
            np.testing.assert_allclose(have[i], value, atol=1e-8, rtol=1e-8)


def test_near_a_fold_the_flag_is_raised(x64):
    memory, temperature = 60.0, 0.05
    problem = two_model_problem(jnp.asarray(0.0))
    kl, gain = np.asarray(problem.kl_matrix()), -np.diff(problem.subjective_payoffs())[:, 0]
    learned = memory * (kl[1] - kl[0])
    # The log-odds at which s is a solution, as a function of s; folds are its turning points.
    s = np.linspace(0.002, 0.998, 200_001)
    belief = (temperature * np.log(s / (1 - s)) - gain[1]) / (gain[0] - gain[1])
    sure = (belief > 0) & (belief < 1)
    odds = (
        np.log(belief[sure] / (1 - belief[sure]))
        - s[sure] * learned[0]
        - (1 - s[sure]) * learned[1]
    )
    turn = np.flatnonzero(np.diff(np.sign(np.diff(odds))))[0] + 1
    fold, at = odds[turn], s[sure][turn]
    assert odds[turn - 10] < fold  # the branch below comes up to it

    def padded(odds):
        problem = two_model_problem(odds)
        models = jnp.concatenate([problem.model_probs, jnp.full((62, 2, 2), 0.5)])
        log_prior = jnp.concatenate([problem.log_prior, jnp.full(62, -jnp.inf)])
        return bn.Problem(problem.probs, models, problem.payoff, log_prior)

    before, far, after = fold - 1e-8, fold - 1.0, fold + 1e-2
    problems = jax.vmap(padded)(jnp.asarray([before, far, after, after]))
    terms = jnp.zeros(4), problems, jnp.full(4, memory), jnp.full(4, temperature)
    found = row(from_start()(*terms)[1], slice(3))
    assert found.converged.all()
    assert found.near_fold.tolist() == [True, False, False]
    assert found.condition[0] < 0.01 < 0.1 < found.condition[1]
    assert abs(found.strategy[0, 0] - at) < 0.01 < 0.1 < found.strategy[2, 0] - at
    assert found.stability[0, found.selected[0]] == bn.Stability.UNKNOWN
    assert "near a fold" in row(found, 0).summary(problem)


# Derivatives.


def check_gradients(num, num_actions, num_models, seed):
    _, args = draw(num, num_actions, num_models, seed=seed, memory=(2, 60))
    flat = flatten((*args[:6], np.full(num, 0.05)))
    along = np.random.default_rng(seed).normal(size=flat.shape)
    along[:, -2:] *= 0.1  # temperature and tremble are small
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    step, shifts = 2e-4, np.arange(-2, 3)
    moved = flat + step * shifts[:, None, None] * along
    (value, found), gradient = numpy(derivative(num_actions, num_models)(np.concatenate(moved)))
    at = dict(zip(shifts, value.reshape(5, num), strict=True))
    middle = slice(2 * num, 3 * num)
    have = (gradient[middle] * along).sum(1)
    want = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
    sure = (found.code[middle] == 0) & (found.condition[middle] > 0.3)
    size = np.abs(want[sure]) + 1e-4  # below that, differences of rounded numbers say nothing
    assert (np.abs(have[sure] - want[sure]) / size).max() < 1e-6
    assert np.abs(want[sure]).max() > 0.1
    return sure.sum()


@pytest.mark.parametrize(("num_actions", "num_models"), [(2, 64), (4, 12)])
def test_gradients_against_central_differences(x64, num_actions, num_models):
    assert check_gradients(GRADIENTS, num_actions, num_models, 1) >= 18


@pytest.mark.slow
@pytest.mark.parametrize(("num_actions", "num_models"), [(2, 64), (3, 16), (4, 12), (5, 8)])
def test_many_gradients_against_central_differences(x64, num_actions, num_models):
    assert check_gradients(140, num_actions, num_models, 2) >= 125


@pytest.mark.slow
def test_second_derivatives_of_many_actions(x64):
    _, args = draw(1, 4, 12, seed=3, memory=(10, 30))
    probs, models, payoff, log_prior, memory, _, _ = (jnp.asarray(x[0]) for x in args)

    def play(log_prior):
        return solve_one(
            probs, models, payoff, log_prior, memory, 0.3, 0.05, max_equilibria=1
        ).strategy[0]

    gradient = jax.grad(play)
    along = jnp.asarray(np.random.default_rng(0).normal(size=12))
    have = jax.jit(lambda x: jax.jvp(gradient, (x,), (along,))[1])(log_prior)
    step, first = 1e-5, jax.jit(gradient)
    want = (first(log_prior + step * along) - first(log_prior - step * along)) / (2 * step)
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-9)
    assert np.abs(want).max() > 1e-4


# What may go wrong.


def cycling_problem():
    """Four actions, each of which makes the next one look best: play goes round for ever."""
    model, action = np.indices((4, 4))
    shift = np.where(model == action, 0.0, np.where((model + 1) % 4 == action, 1.0, -1.0))
    return bn.GaussianProblem(
        np.zeros(4), np.full(4, 0.5), shift, np.full((4, 4), 0.5), np.zeros(4), np.ones(4)
    )


def test_what_did_not_converge_says_so_and_has_no_derivative(x64):
    problem = cycling_problem()

    def solve(log_prior):
        return bn.smooth_equilibrium(problem, 20.0, 0.1, log_prior=log_prior)

    @jax.jit
    def everything(log_prior):
        def shares(x):
            found = solve(x)
            return (found.strategy[0], jnp.where(found.converged, found.strategy[0], 0.0)), found

        _, pull, found = jax.vjp(shares, log_prior, has_aux=True)
        return found, jax.vmap(lambda row: pull(tuple(row))[0])(jnp.eye(2))

    found, (gradient, masked) = everything(jnp.asarray([0.3, 0.1, 0.0, 0.0]))
    assert found.code == bn.SolveStatus.MAX_STEPS
    assert not found.converged
    assert found.selected == -1
    assert np.isnan(gradient).all()
    np.testing.assert_array_equal(masked, 0.0)
    # The centre is a solution, which Newton's method lists and the flow runs away from.
    near = np.abs(np.asarray(found.strategies) - 0.25).max(-1) < 0.1
    assert found.stability[np.flatnonzero(near)[0]] == bn.Stability.UNSTABLE
    assert "not converged" in found.summary(problem)


def test_traced_nonsense_is_reported(x64):
    _, args = draw(40, 2, 64, memory=(2, 100))
    args = [x.copy() for x in args]
    problem = bn.Problem(*(x[1] for x in args[:4]))
    bad = [(4, -1.0), (4, np.inf), (5, 0.0), (5, np.nan), (6, 1.5), (6, -0.5), (3, np.nan)]
    bad += [(0, 0.7), (1, np.nan), (2, np.inf)]
    for i, (which, value) in enumerate(bad):
        args[which][i + 1] = value
    found = solver()(*args)
    num = len(bad) + 1
    assert (found.code[1:num] == bn.SolveStatus.NONFINITE).all()
    assert np.isnan(found.strategy[1:num]).all()
    assert not found.valid[1:num].any()
    assert (found.selected[1:num] == -1).all()
    assert (np.delete(found.code, np.arange(1, num)) == bn.SolveStatus.CONVERGED).all()
    assert "make no sense" in row(found, 1).summary(problem)
    assert repr(found) == "SmoothEquilibrium(batch=(40,), slots=8)"


@pytest.mark.parametrize("double", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_extreme_numbers_stay_finite(double):
    """With zero probabilities, models that are ruled out and that have no weight besides."""
    with jax.enable_x64(double):
        probs = jnp.asarray([[1.0, 0.0], [0.5, 0.5]])
        models = jnp.asarray(
            [[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]]
        )
        models = jnp.concatenate([models, models[2:]])
        payoff = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])

        def share(probs, models, payoff, log_prior, memory, temperature, exploration):
            log_prior = jnp.append(log_prior, -jnp.inf)
            terms = memory, temperature, exploration
            found = solve_one(probs, models, payoff, log_prior, *terms, max_equilibria=1)
            return found.strategy[0], found

        both = jax.jit(
            jax.vmap(
                jax.value_and_grad(share, argnums=range(7), has_aux=True),
                (None, None, None, None, 0, 0, 0),
            )
        )
        memory, temperature, exploration = (
            x.ravel()
            for x in jnp.meshgrid(
                *map(jnp.asarray, ([1e-6, 5.0, 1e9], [1e-9, 0.5, 1e9], [0.0, 0.5]))
            )
        )
        args = probs, models, payoff, jnp.zeros(3), memory, temperature, exploration
        (value, found), gradients = both(*args)
        assert all(np.isfinite(np.asarray(x)).all() for x in (value, *gradients))
        assert (found.code == 0).all()


def test_a_batch_equals_a_loop_that_is_compiled_once(x64):
    _, args = draw(40, 2, 64, ("generic", "infinite", "unsupported", "generic"))
    together = solver()(*args)
    one = functools.partial(solve_one, max_equilibria=1)
    alone = jax.jit(chex.assert_max_traces(lambda *args: one(*args), n=1))
    names = "strategy", "realised", "belief", "code", "residual", "condition", "near_fold"
    for i in range(0, 40, 8):
        single = alone(*(x[i] for x in args))
        pairs = [[getattr(x, name) for name in names] for x in (row(together, i), single)]
        chex.assert_trees_all_close(*pairs, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0.0}, "`memory` must be positive"),
        ({"memory": np.inf}, "`memory` must be finite"),
        ({"memory": np.ones(1)}, "`memory` must be a number"),
        ({"temperature": -0.1}, "`temperature` must be positive"),
        ({"exploration": 2.0}, "`exploration` must be a probability"),
        ({"log_prior": [0.0]}, r"`log_prior` must have shape \(2,\)"),
        ({"start": [0.5, 0.6]}, "`start` must sum to one"),
        ({"start": [1.0]}, r"`start` must have shape \(2,\)"),
        ({"max_equilibria": 0}, "`max_equilibria` must be a whole number"),
    ],
)
def test_bad_arguments_are_named(options, message):
    problem = bn.Problem(np.eye(2), np.stack([np.eye(2), np.full((2, 2), 0.5)]), np.eye(2))
    with pytest.raises(ValueError, match=message):
        bn.smooth_equilibrium(**{"problem": problem, "memory": 10.0, "temperature": 0.1} | options)


@pytest.mark.parametrize(
    ("memory", "temperature", "message"),
    [
        ([1.0, 2.0], [0.1], "`temperature` must have shape"),
        ([1.0, -2.0], [0.1, 0.1], "`memory` must be positive"),
        (1.0, [0.1], "`memory` must have 1 dimension"),
    ],
)
def test_bad_paths_are_named(memory, temperature, message):
    problem = bn.Problem(np.eye(2), np.stack([np.eye(2), np.full((2, 2), 0.5)]), np.eye(2))
    with pytest.raises(ValueError, match=message):
        bn.smooth_path(problem, memory, temperature)


# From smooth to sharp.


def sharpening(points=40, memory=1e5, temperature=1e-3):
    return jnp.geomspace(20.0, memory, points), jnp.geomspace(0.1, temperature, points)


def check_equilibrium(problem, play, belief, memory=1e5, temperature=1e-3):
    """Berk-Nash equilibrium by its definition, as sharp as memory and temperature are.

    Beliefs are in best fits, to within a few nats over memory, and play is of best replies, which
    pay within a few temperatures of each other.
    """
    fit = np.asarray(problem.kl_matrix()) @ play
    assert fit[belief > 1e-3].max() - fit.min() < 20 / memory
    payoffs = belief @ np.asarray(problem.subjective_payoffs())
    assert payoffs.max() - payoffs[play > 1e-3].min() < 10 * temperature


def distance_to_exact(play, exact):
    """Largest difference to the nearest exact equilibrium."""
    ends = np.stack([exact.strategy, exact.strategy_end])[:, np.asarray(exact.valid)]
    gaps = np.maximum(ends.min(0) - play, play - ends.max(0)).max(-1)
    return gaps.min()


def test_sycophancy_sharpens_to_the_equilibria_of_the_theorem(x64):
    regimes = [(0.7, 0.3), (0.3, 0.7), (0.7, 0.6), (0.3, 0.2)]
    p, q = (jnp.asarray(x) for x in zip(*regimes, strict=True))

    def follow(p, q, tilt):
        # An even number of models: none is indifferent, which would make a continuum.
        problem = bn.scenarios.sycophancy(p, q).discretize(64)
        log_prior = tilt * jnp.linspace(-1, 1, 64)
        return bn.smooth_path(problem, *sharpening(), log_prior=log_prior)

    tilts = jnp.asarray([-4.0, 4.0])
    path = jax.jit(jax.vmap(jax.vmap(follow, (None, None, 0)), (0, 0, None)))(p, q, tilts)
    assert path.converged.all()
    assert (path.change[..., 0] == 0).all()
    end = path.strategy[:, :, -1, 0]
    np.testing.assert_allclose(end[:3], [[1, 1], [0, 0], [0, 1]], atol=1e-6)
    mixture = closed_forms.sycophancy_mixture(0.3, 0.2)
    np.testing.assert_allclose(end[3], mixture, atol=0.01)
    text = row(row(path, 3), 0).summary(bn.scenarios.sycophancy(0.3, 0.2))
    assert text.startswith("memory 20, temperature 0.1: sycophantic 0.")


def test_the_monopolist_rests_next_to_its_mixture(x64):
    problem = bn.scenarios.monopolist().discretize(25)
    found = bn.smooth_equilibrium(problem, 1e5, 1e-3, max_equilibria=1)
    assert found.converged
    play = np.asarray(found.strategy)
    check_equilibrium(problem, play, np.asarray(found.belief))
    np.testing.assert_allclose(play, [35 / 36, 1 / 36], atol=0.02)  # the grid is coarse


@pytest.mark.slow
@pytest.mark.parametrize("num", [25, 24])
def test_the_monopolist_sharpens_to_its_mixture(x64, num):
    problem = bn.scenarios.monopolist().discretize(num)
    path = bn.smooth_path(problem, *sharpening())
    assert path.converged.all()
    play = np.asarray(path.strategy[-1])
    check_equilibrium(problem, play, np.asarray(path.belief[-1]))
    np.testing.assert_allclose(play, [35 / 36, 1 / 36], atol=0.02)
    if num == 24:
        assert distance_to_exact(play, bn.equilibria(problem)) < 0.01


def check_three_actions():
    _, args = draw(6, 3, 6, seed=4)

    @jax.jit
    @jax.vmap
    def follow(probs, models, payoff, log_prior):
        problem = bn.Problem(probs, models, payoff, log_prior)
        return bn.smooth_path(problem, *sharpening())

    path = follow(*args[:4])
    assert path.converged[:, -1].all()
    mixed = 0
    for i in range(6):
        problem = bn.Problem(*(x[i] for x in args[:4]))
        play, belief = np.asarray(path.strategy[i, -1]), np.asarray(path.belief[i, -1])
        check_equilibrium(problem, play, belief)
        mixed += play.max() < 0.99
    assert mixed >= 1
    return args, path


def test_three_actions_sharpen_to_an_equilibrium(x64):
    check_three_actions()


@pytest.mark.slow
def test_three_actions_sharpen_to_a_listed_equilibrium(x64):
    args, path = check_three_actions()
    for i in range(6):
        exact = bn.equilibria(bn.Problem(*(x[i] for x in args[:4])), max_equilibria=16)
        assert distance_to_exact(np.asarray(path.strategy[i, -1]), exact) < 0.01


@pytest.mark.slow
def test_gradients_go_through_a_path(x64):
    problem = bn.scenarios.sycophancy(0.7, 0.6).discretize(16)
    terms = jnp.asarray([10.0, 30.0]), jnp.asarray([0.3, 0.1])
    log_prior = 0.2 * jnp.linspace(0, 1, 16)

    @jax.jit
    def both(x):
        def end(x):
            path = bn.smooth_path(problem, *terms, log_prior=x)
            return path.strategy[-1, 0], path.strategy[-1]

        slope, play = jax.grad(end, has_aux=True)(x)

        def again(x):
            return bn.smooth_equilibrium(problem, 30.0, 0.1, log_prior=x, start=play).strategy[0]

        return slope, jax.grad(again)(x)

    np.testing.assert_allclose(*both(log_prior), rtol=1e-9)
