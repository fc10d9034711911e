"""More than two actions: what may be excluded, mixed beliefs, open segments, close vertices."""

import dataclasses
import itertools
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog

import bnjax as bn
from bnjax.equilibrium._codes import Certainty, Stability
from bnjax.equilibrium._public import phase_of, solve_all
from bnjax.equilibrium._relaxation import solve_by_relaxation
from bnjax.equilibrium._supporting_belief import supporting_belief
from bnjax.equilibrium._tolerance import default_tolerance
from tests.oracles import exact, random_problems
from tests.oracles.random_problems import random_problem

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")


def phase(problem, exploration=0.0):
    return bn.Phase(int(bn.phase(problem, exploration))).name


def largest_gain(payoffs, action, believable):
    """Max over beliefs of the least lead of an action over its rivals, by HiGHS."""
    lead = payoffs[believable][:, [action]] - np.delete(payoffs[believable], action, axis=1)
    num_models, num_rivals = lead.shape
    solution = linprog(
        np.r_[np.zeros(num_models), -1],
        A_ub=np.c_[-lead.T, np.ones(num_rivals)],
        b_ub=np.zeros(num_rivals),
        A_eq=np.r_[np.ones(num_models), 0][None],
        b_eq=[1],
        bounds=[(0, None)] * num_models + [(None, None)],
    )
    return -solution.fun


def supported(payoffs, believable, slack):
    """`supporting_belief` of every action of many problems."""

    def one(payoffs, believable):
        def of(action):
            return supporting_belief(payoffs, action, believable[:, action], slack)

        return jax.lax.map(of, jnp.arange(payoffs.shape[1]))

    return jax.jit(jax.vmap(one))(payoffs, believable)


@pytest.mark.parametrize(("dtype", "slack"), [(np.float32, 2e-5), (np.float64, 1e-10)])
def test_supporting_beliefs_agree_with_a_linear_program(dtype, slack):
    rng = np.random.default_rng(0)
    shape = (60, 9, 4)
    # Convex in the model or not, so that some actions need mixed beliefs; with ties in a third.
    payoffs = rng.normal(size=shape)
    payoffs[::3] = rng.integers(-2, 3, size=payoffs[::3].shape)
    payoffs[1::3, :, 0] = 0.4
    believable = rng.random(shape) < 0.4
    believable[:, 0] = True
    payoffs = payoffs.astype(dtype)
    with jax.enable_x64(dtype is np.float64):
        found = supported(jnp.asarray(payoffs), jnp.asarray(believable), jnp.asarray(slack, dtype))
        belief, holds, fails = (np.asarray(x) for x in found)
    assert (holds ^ fails).all()
    assert not (belief[~believable.swapaxes(1, 2)] > 0).any()
    np.testing.assert_allclose(belief.sum(-1), 1, rtol=1e-5)
    mixed = holds & ((belief > 0).sum(-1) > 1)
    assert mixed.sum() > 5
    assert fails.sum() > 50
    for n, action in np.ndindex(holds.shape):
        gain = largest_gain(payoffs[n].astype(float), action, believable[n, :, action])
        assert holds[n, action] == (gain >= -slack) or abs(gain + slack) < slack / 10
        if holds[n, action]:
            expected = belief[n, action].astype(float) @ payoffs[n].astype(float)
            assert expected[action] >= expected.max() - 1.1 * slack


# Finding: pure equilibria that are held up by mixed beliefs


def doubtful(num_models, keep=0.2):
    """Action 0 teaches nothing and is best only for who doubts which of the others is good."""
    t = np.linspace(0.1, 0.9, num_models)
    t = t[np.abs(t - 0.5) > keep]
    probs = np.zeros((len(t), 3, 3))
    probs[:, 0, 2] = 1
    probs[:, 1, :2] = np.stack([1 - t, t], -1)
    probs[:, 2, :2] = np.stack([t, 1 - t], -1)
    true = [[0, 0, 1], [0.5, 0.5, 0], [0.5, 0.5, 0]]
    payoff = [[0, 0, 0.6], [0, 1, 0], [0, 1, 0]]
    return bn.Problem(true, probs, payoff, safe=[True, False, False])


@pytest.mark.parametrize("num_models", [pytest.param(12, marks=pytest.mark.slow), 200])
def test_a_pure_equilibrium_of_doubt(num_models, x64):
    found, _, code = solve_all(doubtful(num_models), 0.0, 4)
    assert np.asarray(found.pure).all()
    assert not np.asarray(found.pure_undecided).any()
    assert int(code) == bn.Phase.MULTISTABLE
    # No row is said twice, and what is called pure is.
    rows = np.asarray(found.valid)
    ends = np.stack([found.strategy, found.strategy_end], 1)[rows]
    for one, other in itertools.combinations(ends, 2):
        assert np.abs(one - other).max() > 1e-6
    assert (np.ptp(ends[np.asarray(found.is_pure)[rows]], axis=1) == 0).all()


def pure_in_rationals(problem: exact.Exact) -> list[bool]:
    answers = []
    for action in range(problem.num_actions):
        models = problem.admissible([action])
        best = min(problem.kl[m][action] for m in models)
        tied = [m for m in models if problem.kl[m][action] <= best + problem.tol_fit]
        subsets = (
            models
            for size in range(1, problem.num_actions + 1)
            for models in itertools.combinations(tied, size)
        )
        answers.append(any(exact.justifies(problem, models, action) for models in subsets))
    return answers


@pytest.mark.parametrize("kind", ["doubt", "infinite"])
def test_relaxation_knows_pure_equilibria_as_rationals_do(kind, x64):
    tolerance = default_tolerance(jnp.dtype(float), 1e-9, 1e-9)

    @jax.jit
    def solve(reduced, theta):
        return solve_by_relaxation(reduced, theta, jnp.zeros((), theta.dtype), 8, tolerance)[0]

    mixed = 0
    for seed in range(25):
        drawn = "ties" if kind == "doubt" else kind
        arrays = random_problem(seed, drawn, num_actions=3, num_models=6, num_consequences=2)
        if kind == "doubt":  # nothing is learned from action 0, and the others are opposites
            arrays["model_probs"][:, 0] = arrays["probs"][0]
            rate = np.random.default_rng(seed).choice([0.1, 0.3, 0.7, 0.9], size=6)
            arrays["model_probs"][:, 1] = np.stack([1 - rate, rate], -1)
            arrays["model_probs"][:, 2] = arrays["model_probs"][:, 1, ::-1]
            arrays["payoff"] = np.array([[0.61, 0.61], [0, 1], [0, 1]])
        problem = bn.Problem(**arrays)
        found = solve(problem.reduced_form(), problem.theta)
        plain = random_problems.reduced_form(arrays)
        rational = exact.exact_problem(**plain, tol_fit=1e-9, tol_payoff=1e-9)
        assert np.asarray(found.pure).tolist() == pure_in_rationals(rational), seed
        assert not np.asarray(found.pure_undecided).any()
        alone = any(exact.justifies(rational, (m,), 0) for m in range(len(rational.kl)))
        mixed += kind == "doubt" and bool(found.pure[0]) and not alone
    assert mixed > 5 or kind == "infinite"


def test_an_open_question_about_pure_strategies_leaves_the_phase_open(x64):
    found = solve_all(doubtful(12), 0.0, 4)[0]
    safe, certain = jnp.asarray([True, False, False]), jnp.full(3, int(Certainty.IN))

    def code(pure, undecided, certainty=certain):
        fields = {"pure": jnp.asarray(pure), "pure_undecided": jnp.asarray(undecided)}
        changed = dataclasses.replace(found, **fields)
        return bn.Phase(int(phase_of(safe, changed, certainty, jnp.asarray(True)))).name

    no, yes = False, True
    assert code([no, yes, no], [no, no, no]) == "INDETERMINATE"
    assert code([no, yes, no], [yes, no, no]) == "UNDECIDED"
    assert code([no, yes, no], [no, no, yes]) == "INDETERMINATE"
    assert code([no, no, no], [no, no, yes]) == "UNDECIDED"
    assert code([no, no, no], [no, no, no]) == "OSCILLATORY"
    assert code([yes, yes, no], [no, no, yes]) == "MULTISTABLE"
    # What is excluded is no equilibrium.
    out = certain.at[2].set(int(Certainty.OUT))
    assert code([no, no, no], [no, no, yes], out) == "OSCILLATORY"


# Finding: what a continuum of models excludes


def narrow(theta):
    """Action 2 is optimal only where theta is within 0.001 of 0.7578, between two nodes."""
    t = theta[0]
    hat = 50 * (0.001**2 - (t - 0.7578) ** 2)
    return jnp.stack([0.5 - t, t - 0.5, t - 0.5 + hat]), jnp.ones(3)


def wavy(theta):
    """Action 2 is optimal between nodes, at which the slope of its lead is zero."""
    t = theta[0]
    wave = 0.01 * (-jnp.cos(128 * jnp.pi * (t - 0.75)) - 0.5)
    return jnp.stack([0.5 - t, t - 0.5, t - 0.5 + wave]), jnp.ones(3)


def lower(theta):
    """Action 2 is always worse than action 1."""
    t = theta[0]
    return jnp.stack([0.5 - t, t - 0.5, t - 0.6]), jnp.ones(3)


def gaussian_family(function, promise):
    return bn.GaussianProblem.from_family(
        function,
        [0.0],
        [1.0],
        mean=[-0.3, -0.3, 0.1],
        sd=[1.0] * 3,
        payoff_intercept=[0.0] * 3,
        payoff_slope=[1.0] * 3,
        unique_best_fit=promise,
        safe=[False, False, True],
    )


def submodel(problem, num, keep):
    full = problem.discretize(num)
    keep = np.unique(keep)
    return bn.GaussianProblem(
        full.consequence.mean,
        full.consequence.sd,
        full.model_mean[keep],
        full.model_sd[keep],
        full.consequence.payoff_intercept,
        full.consequence.payoff_slope,
        theta=full.theta[keep],
    )


@pytest.mark.parametrize("promise", [False, True])
def test_nothing_is_excluded_for_what_happens_at_nodes(promise, x64):
    # The models of the finite problem are models of the family, and they fit its mixtures best.
    problem = gaussian_family(narrow, promise)
    finite = submodel(problem, 8001, [*range(0, 8001, 400), round(0.7578 * 8000)])
    assert (np.asarray(bn.certify(finite).certainty) == Certainty.IN).all()
    found = np.asarray(bn.rationalizable(problem).certainty)
    assert not (found == Certainty.OUT).any()
    assert phase(problem) == "UNDECIDED"


def test_a_slope_of_zero_at_the_nodes_proves_nothing(x64):
    problem = gaussian_family(wavy, False)
    finite = submodel(problem, 1281, [*range(0, 1281, 40), 970])  # 970: halfway between nodes
    assert (np.asarray(bn.certify(finite).certainty) == Certainty.IN).all()
    assert not (np.asarray(bn.rationalizable(problem).certainty) == Certainty.OUT).any()


def test_a_promise_that_holds_excludes(x64):
    kept, without = (gaussian_family(lower, promise) for promise in (True, False))
    certainty = np.asarray(bn.rationalizable(kept).certainty)
    assert certainty.tolist() == [Certainty.IN, Certainty.IN, Certainty.OUT]
    certainty = np.asarray(bn.rationalizable(without).certainty)
    assert certainty.tolist() == [Certainty.IN, Certainty.IN, Certainty.UNDECIDED]
    assert (phase(kept), phase(without)) == ("UNSAFE", "UNDECIDED")


def test_overconfidence_keeps_what_it_promises(x64):
    problem = bn.scenarios.overconfidence(0.18)
    nodes = problem.family.nodes(1001)
    payoffs = np.asarray(jax.vmap(problem.payoffs)(nodes))
    lead = payoffs - payoffs[:, :1]
    # Affine in the fundamental, hence monotone.
    np.testing.assert_allclose(np.diff(lead, 2, axis=0), 0, atol=1e-12)
    # One interior minimum for any play: the slope of the misfit changes sign once, upwards.
    kl = np.asarray(jax.vmap(problem.divergence)(nodes)[0])
    rng = np.random.default_rng(0)
    for play in [*np.eye(101), *rng.dirichlet(np.full(101, 0.1), size=50)]:
        falls = np.diff(kl @ play) < 0
        assert (np.diff(falls.astype(int)) <= 0).all()
    possible = bn.rationalizable(problem)
    certainty = np.asarray(possible.certainty)
    assert not (certainty == Certainty.UNDECIDED).any()
    efforts = np.asarray(problem.family.function.efforts)[certainty == Certainty.IN]
    assert len(efforts) == 2
    assert np.abs(efforts - 0.8).max() < 0.009  # a step of the grid


def doubtful_family(theta):
    """Whatever theta is, action 1 or action 2 is better than 0.6; their averages need not be."""
    t = theta[0]
    good = jnp.stack([1 - (1 - t) ** 3, 1 - t**3])
    zero = jnp.zeros(2)
    others = jnp.stack([1 - good, good, zero], -1)
    return jnp.concatenate([jnp.asarray([[0.0, 0.0, 1.0]], t.dtype), others])


def test_what_is_left_open_may_be_believed_in_part(x64):
    problem = bn.Problem.from_family(
        doubtful_family,
        [0.0],
        [1.0],
        probs=[[0, 0, 1], [0.5, 0.5, 0], [0.5, 0.5, 0]],
        payoff=[[0, 0, 0.6], [0, 1, 0], [0, 1, 0]],
        identified=[[False], [True], [True]],
        unique_best_fit=True,
        safe=[True, False, False],
    )
    found = bn.equilibria(problem)
    assert bool(found.pure[0])
    row = int(np.argmax(np.asarray(found.is_pure) & (np.asarray(found.strategy[:, 0]) == 1)))
    t, weight = np.asarray(found.atoms[row, :, 0]), np.asarray(found.atom_weight[row])
    assert (weight > 0).sum() == 2
    assert weight @ (1 - (1 - t) ** 3) <= 0.6 + 1e-9
    assert weight @ (1 - t**3) <= 0.6 + 1e-9
    assert bool(found.absorbing[row])
    assert int(found.stability[row]) == Stability.UNKNOWN
    # Anyone who tries another action finds out, so that nothing but trembles ends it.
    assert not bool(bn.equilibria(problem, 0.1).pure[0])


# Finding: stability where trembles refute what is believed


@pytest.mark.parametrize("num_actions", [2, 3])
def test_trembles_that_refute_what_is_believed_make_an_equilibrium_unstable(num_actions, x64):
    # The best fit at action 0 allows no success elsewhere; who survives prefers action 1.
    models = [
        [[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]],
        [[0.4, 0.6], [0.3, 0.7], [0.9, 0.1]],
    ]
    problem = bn.Problem(
        [[0.5, 0.5]] * num_actions,
        [model[:num_actions] for model in models],
        [[0.0, 1.0]] * num_actions,
    )
    found = bn.equilibria(problem)
    row = int(np.argmax(np.asarray(found.strategy[:, 0]) == 1))
    assert bool(found.is_pure[row])
    assert int(found.stability[row]) == Stability.UNSTABLE
    assert not bool(bn.equilibria(problem, 0.001).pure[0])


# Finding: vertices close to each other


def adjacent(gap):
    """Beliefs that tie actions 0 and 1, and 1 and 2, are ``gap`` apart; so are no plays."""
    payoffs = np.array([[0, -0.5, gap - 11 * (0.5 + gap)], [0, 0.5, gap + 11 * (0.5 - gap)]])
    high = (payoffs[1] - payoffs[0]) / 0.4
    low = payoffs[0] - 0.3 * high
    chance = np.array([[0.3] * 3, [0.7] * 3])
    return bn.Problem(
        [[0.1, 0.9], [0.9, 0.1], [0.1, 0.9]],
        np.stack([1 - chance, chance], -1),
        np.stack([low, low + high], 1),
    )


@pytest.mark.parametrize("gap", [0.01, 0.001])
def test_single_precision_keeps_close_beliefs_apart(gap):
    single = bn.equilibria(adjacent(gap))
    with jax.enable_x64(True):
        double = bn.equilibria(adjacent(gap))
    assert bool(single.complete)
    assert int(single.valid.sum()) == int(double.valid.sum()) == 3
    rows = np.asarray(double.valid)
    np.testing.assert_allclose(
        np.asarray(single.strategy)[rows], np.asarray(double.strategy)[rows], atol=1e-4
    )


# Finding: segments of equilibria


def gaps(arrays, strategy, belief):
    """Misfit and loss of a claimed equilibrium, from the definitions."""
    reduced = random_problems.reduced_form(arrays)
    alive = reduced["support"] & ~(reduced["ruled_out"] & (strategy > 0)).any(1)
    fit = np.where(alive, reduced["kl"] @ strategy, np.inf)
    expected = belief @ reduced["payoffs"]
    misfit = (fit - fit.min())[belief > 0].max()
    return max(misfit, expected.max() - expected[strategy > 0].min())


def refuted_beyond(extra):
    """Model 0 fits action 0 exactly and rules out the others; model 1 is indifferent."""
    return {
        "probs": np.array([[0.5, 0.5, 0.0]] * 3),
        "model_probs": np.array(
            [
                [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
                [[0.4, 0.6, 0.0], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0]],
            ]
        ),
        "payoff": np.array([[0, 1, 0], [0, 1, extra], [0, 0.5, 0]]),
        "log_prior": np.log([0.5, 0.5]),
    }


@pytest.mark.parametrize("extra", [0.0, 5.0])
def test_a_segment_does_not_contain_an_end_that_another_model_fits_better(extra, x64):
    arrays = refuted_beyond(extra)
    found = bn.equilibria(bn.Problem(**arrays))
    # With 5, model 0 favours action 1, and action 0 alone is no equilibrium.
    assert np.asarray(found.pure).tolist() == [extra == 0, True, False]
    rows = np.flatnonzero(np.asarray(found.valid))
    assert bool(found.complete)
    ends = np.stack([found.strategy, found.strategy_end], 1)[rows]
    assert (ends[:, :, 0] == 1).any() == (extra == 0)
    assert ends[:, :, 0].max() > 1 - 1e-5  # open, and listed up to its end
    for e, pair in zip(rows, ends, strict=True):
        for strategy in (pair[0], pair.mean(0), pair[1]):
            assert gaps(arrays, strategy, np.asarray(found.belief[e])) < 1e-12


@pytest.mark.parametrize("kind", ["infinite", "ties"])
def test_every_row_is_an_equilibrium_from_end_to_end(kind, x64):
    segments = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        arrays = random_problem(rng, kind, num_actions=3, num_models=5, num_consequences=2)
        if kind == "infinite":  # coarse numbers, so that there are continua too
            counts = rng.integers(0, 3, size=(5, 3, 2)) + np.array([0.0, 1e-12])
            arrays["model_probs"] = np.round(counts / counts.sum(-1, keepdims=True), 9)
            arrays["model_probs"][0] = 0.5
            arrays["payoff"] = rng.integers(-2, 3, size=(3, 2)).astype(float)
        found = bn.equilibria(bn.Problem(**arrays), max_equilibria=16)
        spread = np.ptp(random_problems.reduced_form(arrays)["payoffs"])
        for e in np.flatnonzero(np.asarray(found.valid)):
            pair = np.stack([found.strategy[e], found.strategy_end[e]])
            segments += np.ptp(pair, axis=0).max() > 0
            for strategy in (pair[0], pair.mean(0), pair[1]):
                gap = gaps(arrays, strategy, np.asarray(found.belief[e]))
                assert gap <= 1e-9 * max(1, spread), seed
    assert segments > 3


def test_a_plane_of_equilibria_is_not_called_complete(x64):
    # Nothing matters: every strategy is an equilibrium, and two rows of ends are not all.
    same = [[0.5, 0.5]] * 3
    found = bn.equilibria(bn.Problem(same, [same, same], [[0.0, 1.0]] * 3))
    assert int(found.valid.sum()) >= 1
    assert not bool(found.complete)


def test_pure_equilibria_of_an_enumeration_are_those_in_rationals(x64):
    for seed in range(20):
        arrays = random_problem(seed, "ties", num_actions=3, num_models=5, num_consequences=2)
        found = bn.equilibria(bn.Problem(**arrays), max_equilibria=16, tol_fit=1e-9)
        reduced = random_problems.reduced_form(arrays)
        rational = exact.exact_problem(**reduced, tol_fit=1e-9, tol_payoff=Fraction(1, 10**10))
        assert np.asarray(found.pure).tolist() == pure_in_rationals(rational), seed


class NearAxis(eqx.Module):
    """Two rates with |theta_0 + theta_1 - 1| <= width, and a third action that tells nothing."""

    width: jax.Array

    def __call__(self, theta):
        rates = jnp.stack([theta[0], theta[1], jnp.full_like(theta[0], 0.5)])
        return jnp.stack([1 - rates, rates], -1)

    def chart(self, action, coordinates):
        own, share = coordinates
        low = jnp.maximum(0.0, 1 - self.width - own)
        high = jnp.minimum(1.0, 1 + self.width - own)
        other = low + share * (high - low)
        return jnp.stack([other, own] if action == 1 else [own, other])

    def kinks(self, action):
        return jnp.stack([1 - self.width, self.width])


def best_rates(first, second, width, weights):
    """Best fit under the constraint, on whose border the misfit is convex in one rate."""
    if abs(first + second - 1) <= width:
        return first, second
    total = 1 + np.sign(first + second - 1) * width

    def slope(x):
        y = total - x
        return weights[0] * (x - first) / (x * (1 - x)) - weights[1] * (y - second) / (y * (1 - y))

    low, high = max(0.0, total - 1) + 1e-12, min(1.0, total) - 1e-12
    x = brentq(slope, low, high, xtol=1e-15)
    return x, total - x


def test_best_fits_on_either_side_of_a_kink_with_three_actions(x64):
    rng = np.random.default_rng(3)
    num, exploration = 64, 0.1
    first, second = rng.uniform(0.02, 0.98, (2, num))
    width, sure = rng.uniform(0.05, 0.9, num), rng.uniform(0.2, 0.8, num)
    # One whose best fit for play of the second action lies beyond a kink.
    first[0], second[0], width[0] = 0.8334118114224403, 0.9397443299152666, 0.7164998479218916

    def solve(first, second, width, sure):
        rates = jnp.stack([first, second, jnp.full_like(first, 0.5)])
        problem = bn.Problem.from_family(
            NearAxis(width),
            [0.0, 0.0],
            [1.0, 1.0],
            probs=jnp.stack([1 - rates, rates], -1),
            payoff=jnp.stack([jnp.array([0.0, 1.25]), jnp.array([0.0, 1.0]), sure * jnp.ones(2)]),
            identified=[[True, False], [True, False], [False, False]],
            unique_best_fit=True,
        )
        found = solve_all(problem, exploration, 4)[0]
        return found.pure, found.pure_undecided

    run = jax.jit(lambda rows: jax.lax.map(lambda row: solve(*row), rows, batch_size=16))
    pure, undecided = map(np.asarray, run((first, second, width, sure)))
    decided = 0
    for i, action in itertools.product(range(num), range(3)):
        play = (1 - exploration) * np.eye(3)[action] + exploration / 3
        rates = best_rates(first[i], second[i], width[i], play)
        payoffs = np.array([1.25 * rates[0], rates[1], sure[i]])
        lead = payoffs[action] - np.delete(payoffs, action).max()
        if undecided[i, action] or abs(lead) < 1e-4:
            continue
        decided += 1
        assert pure[i, action] == (lead > 0)
    assert decided > 0.9 * 3 * num
