"""Beliefs and memories against Bayes' rule written out, and the bound of blocked updates."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bnjax as bn
from bnjax.belief import expected, largest_log_range, likelihood, steps_between_refreshes
from tests.oracles import learner
from tests.oracles.random_problems import random_problem


def problem_of(seed, kind="generic", num_actions=2):
    arrays = random_problem(seed, kind, num_actions=num_actions)
    return bn.Problem(**arrays), arrays


def observe(memory, problem, seen):
    """State of a memory after a list of (action, consequence)."""
    nothing = jnp.zeros((problem.num_actions, problem.consequence.num_features))
    state = memory.init(nothing.astype(problem.log_prior.dtype))
    for time, (action, consequence) in enumerate(seen):
        action = jnp.int32(action)
        consequence = jnp.asarray(consequence, jnp.int32 if isinstance(consequence, int) else None)
        features = problem.consequence.features(action, consequence)
        state = memory.update(state, bn.Observation(action, features), jnp.int32(time))
    return memory.evidence(state)


def normalised(problem, evidence, seen):
    log = likelihood(problem).log_belief(problem.log_prior, evidence, seen)
    return np.asarray(jax.nn.log_softmax(log))


def possible(arrays, rng, num):
    """Observations that the truth allows."""
    probs = np.asarray(arrays["probs"])
    actions = rng.integers(len(probs), size=num)
    return [(int(a), int(rng.choice(probs.shape[1], p=probs[a] / probs[a].sum()))) for a in actions]


MEMORIES = {
    "perfect": (bn.PerfectMemory, lambda h: [(a, y, 1.0) for a, y in h]),
    "discounted": (
        lambda: bn.DiscountedMemory(0.3),
        lambda h: [(a, y, 0.7 ** (len(h) - 1 - i)) for i, (a, y) in enumerate(h)],
    ),
    "window": (lambda: bn.WindowMemory(5), lambda h: [(a, y, 1.0) for a, y in h[-5:]]),
}


@pytest.mark.parametrize("kind", ["generic", "infinite"])
@pytest.mark.parametrize("name", MEMORIES)
def test_belief_is_bayes_rule(name, kind, x64):
    make, remembered = MEMORIES[name]  # made here, in the precision of the test
    memory = make()
    for seed in range(6):
        problem, arrays = problem_of(seed, kind)
        seen = possible(arrays, np.random.default_rng(seed), 17)
        found = normalised(problem, *observe(memory, problem, seen))
        want = learner.log_belief(
            np.asarray(problem.log_prior), np.asarray(problem.model_probs), remembered(seen)
        )
        np.testing.assert_allclose(np.exp(found), np.exp(want), rtol=0, atol=1e-12)


def test_belief_in_exact_arithmetic(x64):
    q = Fraction(2, 3)
    problem = bn.Problem(
        [[0.5, 0.5]], [[[float(1 - q), float(q)]], [[float(q), float(1 - q)]]], [[0.0, 1.0]]
    )
    seen = [(0, 1)] * 7 + [(0, 0)] * 4
    found = normalised(problem, *observe(bn.PerfectMemory(), problem, seen))
    exact = q**3 / (q**3 + (1 - q) ** 3)  # seven for, four against
    assert math.isclose(math.exp(found[0]), exact, rel_tol=1e-14)


def test_gaussian_belief_is_bayes_rule(x64):
    rng = np.random.default_rng(0)
    mean, sd = rng.normal(size=2), rng.uniform(0.5, 2, 2)
    model_mean, model_sd = rng.normal(size=(5, 2)), rng.uniform(0.5, 2, (5, 2))
    problem = bn.GaussianProblem(mean, sd, model_mean, model_sd, [0.0, 1.0], [2.0, 3.0])
    seen = [(int(a), float(rng.normal(mean[a], sd[a]))) for a in rng.integers(2, size=40)]
    evidence, mask = observe(bn.PerfectMemory(), problem, seen)
    found = normalised(problem, evidence, mask)
    want = np.zeros(5)
    for a, y in seen:
        want += -np.log(model_sd[:, a]) - 0.5 * ((y - model_mean[:, a]) / model_sd[:, a]) ** 2
    np.testing.assert_allclose(found, want - np.logaddexp.reduce(want), rtol=0, atol=1e-10)
    paid = sum([0.0, 1.0][a] + [2.0, 3.0][a] * y for a, y in seen)
    assert math.isclose(float(problem.consequence.total_payoff(evidence)), paid, rel_tol=1e-12)
    counts = problem.consequence.action_counts(evidence)
    assert [int(c) for c in counts] == [sum(a == b for a, _ in seen) for b in (0, 1)]


def test_what_is_ruled_out_is_never_forgotten_by_discounting():
    problem = bn.Problem([[0.5, 0.5]], [[[1.0, 0.0]], [[0.5, 0.5]]], [[0.0, 1.0]])
    # So long ago that its weight is zero in floating point.
    seen = [(0, 1)] + [(0, 0)] * 400
    evidence, mask = observe(bn.DiscountedMemory(0.5), problem, seen)
    assert float(evidence[0, 1]) == 0
    found = normalised(problem, evidence, mask)
    assert found[0] == -np.inf
    found = normalised(problem, *observe(bn.WindowMemory(10), problem, seen))
    assert found[0] > -10  # a window does forget


def test_rounding_is_within_its_bound():
    """Log-weights in float32 against float64, after 10^5 observations."""
    rng = np.random.default_rng(0)
    for seed in range(3):
        arrays = random_problem(seed, "generic", num_actions=3, num_models=9, num_consequences=3)
        counts = rng.integers(0, 30_000, np.asarray(arrays["probs"]).shape)
        found = {}
        for x64 in (False, True):
            with jax.enable_x64(x64):
                problem = bn.Problem(**arrays)
                evidence = jnp.asarray(counts, problem.log_prior.dtype)
                given = likelihood(problem)
                log = given.log_belief(problem.log_prior, evidence, evidence > 0)
                each = jnp.eye(problem.num_models, dtype=log.dtype)
                rounding = jax.vmap(given.rounding, in_axes=(0, None))(each, evidence)
                found[x64] = np.asarray(log, float), np.asarray(rounding, float)
        # The inputs of the float32 problem are rounded too: half an ulp of each probability.
        inputs = 2.0**-24 * 2 * counts.sum()
        error = np.abs(found[False][0] - found[True][0])
        assert (error <= found[False][1] + inputs + 1e-6).all()


def gaps(log):
    """Differences of all pairs of models."""
    log = np.asarray(log, float)
    return log[:, None] - log[None]


def near_and_far(rng, shape, low, high):
    """Models of which some hardly differ and others differ by orders of magnitude."""
    far = np.exp(rng.uniform(np.log(low), np.log(high), shape))
    near = far[:1] * (1 + 10.0 ** rng.uniform(-6, -1, shape) * rng.choice([-1, 1], shape))
    return np.concatenate([far, near]).astype(np.float32)


def test_models_that_lie_close_keep_the_digits_in_which_they_differ():
    """Log-likelihood ratios of all pairs in float32, against float64 of the same numbers.

    To what `Likelihood.rounding` grants the logarithms: 5 / 2 units of each, however small.
    """
    rng = np.random.default_rng(1)
    unit = 2.5 * float(jnp.finfo(jnp.float32).eps)
    for _ in range(5):
        q = near_and_far(rng, (6, 2), 1e-6, 0.5)
        models = np.stack([1 - q, q], axis=-1)
        problem = bn.Problem([[0.3, 0.7], [0.9, 0.1]], models, [[0.0, 1.0]] * 2)
        log = np.asarray(likelihood(problem).log_ratio, float)
        allowed = unit * (np.abs(log)[:, None] + np.abs(log)[None])
        assert (np.abs(gaps(log) - gaps(np.log(models.astype(float)))) <= allowed).all()

        mean = (3 + near_and_far(rng, (6, 2), 1e-3, 3)).astype(np.float32)
        sd = near_and_far(rng, (6, 2), 0.3, 3)
        problem = bn.GaussianProblem([2.5, 4.0], [0.75, 1.5], mean, sd, [0.0] * 2, [1.0] * 2)
        log = np.asarray(likelihood(problem).log_ratio, float)
        m, s, mu, sigma = (np.asarray(x, float) for x in (mean, sd, [2.5, 4.0], [0.75, 1.5]))
        p, far = (sigma / s) ** 2, (m - mu) / sigma
        want = np.stack([-np.log(s) - p * far**2 / 2, p * far, -p / 2], axis=-1)
        # These are made of several terms, none of which is larger than those here.
        size = np.abs(np.stack([np.log(s / s[:1]), p * far, p], axis=-1)) + np.abs(log)
        size[..., 0] += p * far**2
        allowed = 4 * unit * (size[:, None] + size[None])
        assert (np.abs(gaps(log) - gaps(want)) <= allowed).all()
    same = bn.GaussianProblem([0.0], [1.0], [[9.0], [9.001]], [[2.0], [2.0]], [0.0], [1.0])
    log = np.asarray(likelihood(same).log_ratio, float)[:, 0]
    near = float(np.float32(9.001)) - 9.0
    np.testing.assert_allclose(log[1, 1] - log[0, 1], near / 4, rtol=1e-6)  # nine digits in common
    np.testing.assert_allclose(log[:, 2], 0, atol=1e-9)


def test_likelihoods_of_extreme_models_are_finite_and_so_are_their_derivatives():
    def ratio(*models):
        q = jnp.asarray(models)[:, None]
        return likelihood(
            bn.Problem([[0.3, 0.7]], jnp.stack([q, 1 - q], -1), [[0.0, 1.0]])
        ).log_ratio

    for models in (
        (1e-20, 1e-20),
        (1e-20, 1e-22),
        (1e-25, 0.5),
        (1e-30, 1.5e-30),
        (1.2e-38, 2e-38),
    ):
        numbers = np.float32(models).astype(float)
        log = np.asarray(ratio(*models), float)[:, 0, 0]
        np.testing.assert_allclose(log[0] - log[1], np.log(numbers[0] / numbers[1]), rtol=1e-6)
        if min(models) > 1e-37:

            def first(x, other=models[1]):
                return ratio(x, other)[0, 0, 0]

            for slope in (jax.jacfwd(first), jax.grad(first)):
                np.testing.assert_allclose(
                    float(slope(jnp.float32(models[0]))) * numbers[0], 1, rtol=1e-5
                )
    for truth, sds in (
        (1.0, (1e-10, 1.0)),
        (1.0, (1.0, 1e18)),
        (1.0, (1e18, 1e18)),
        (1e-20, (1e-20, 2e-20)),
        (1e20, (1e20, 1.1e20)),
        (1e25, (1e25, 1.1e25)),
    ):
        problem = bn.GaussianProblem([0.0], [truth], [[0.0]] * 2, [[s] for s in sds], [0.0], [1.0])
        log = np.asarray(likelihood(problem).log_ratio, float)[:, 0]
        numbers, sd = np.float32(sds).astype(float), float(np.float32(truth))
        np.testing.assert_allclose(
            log[0, 0] - log[1, 0], np.log(numbers[1] / numbers[0]), rtol=1e-6
        )
        p = (sd / numbers) ** 2
        np.testing.assert_allclose(log[0, 2] - log[1, 2], (p[1] - p[0]) / 2, rtol=1e-6)
        if min(sds) > 1e-19 and max(sds) < 1e19:  # or their squares are out of range

            def ratios(s, truth=problem.consequence):
                return truth.log_ratio((jnp.zeros((2, 1)), s))[0]

            assert np.isfinite(jax.jacfwd(ratios)(jnp.asarray(sds)[:, None])).all()


@pytest.mark.parametrize("probs", [(0.4, 0.4), (0.3, 0.4), (0.1, 0.45), (0.2, 0.3), (0.35, 0.45)])
def test_exact_ties_are_ties_after_many_observations(probs):
    """Two models that mirror each other, seen as often in favour of one as of the other."""
    theta = np.array([0.501, 1 - np.float32(0.501)], np.float32)
    models = np.stack([np.stack([1 - theta, theta], 1), np.stack([theta, 1 - theta], 1)], 1)
    truth = [[1 - p, p] for p in probs]
    seen = np.rint(20_000 * np.array(truth))
    seen[1, 0] = seen[1, 1] + seen[0, 0] - seen[0, 1]
    evidence = jnp.asarray(seen)
    for ties, want in (("first", [1, 0]), ("last", [0, 1]), ("uniform", [0.5, 0.5])):
        agent = bn.Agent(bn.Problem(truth, models, [[0.0, 1.0]] * 2), bn.BestResponse(ties))
        found, _ = agent.intention_after(evidence, evidence > 0)
        assert found.tolist() == want
        more, _ = agent.intention_after(evidence.at[0, 1].add(1), evidence > 0)
        assert more.tolist() == [1, 0]
        fewer, _ = agent.intention_after(evidence.at[0, 0].add(1), evidence > 0)
        assert fewer.tolist() == [0, 1]  # one observation is enough to break it


@pytest.mark.parametrize(
    "memory", [bn.PerfectMemory(), bn.DiscountedMemory(1e-5)], ids=["perfect", "discounted"]
)
def test_sums_of_thousands_of_numbers_keep_their_digits(memory):
    """In float32 against float64: without what rounding takes, z^2 would be off by 1e-5."""
    features = np.random.default_rng(0).normal(size=(100_000, 1)).astype(np.float32)
    features = np.concatenate([np.ones_like(features), features, features**2], axis=1)

    def step(state, given):
        time, row = given
        return memory.update(state, bn.Observation(jnp.zeros((), jnp.int32), row), time), None

    times = jnp.arange(len(features), dtype=jnp.int32)
    state, _ = jax.lax.scan(step, memory.init(jnp.zeros((1, 3))), (times, jnp.asarray(features)))
    rate = float(getattr(memory, "rate", 0.0))
    ages = np.arange(len(features))[::-1]
    want = ((1 - rate) ** ages[:, None] * features.astype(float)).sum(0)
    size = (features.astype(float) ** 2).sum()
    np.testing.assert_allclose(memory.evidence(state)[0][0], want, rtol=2e-7, atol=2e-7 * size)
    assert np.abs(memory.evidence(state)[0][0, 2] / want[2] - 1) < 2e-7


def test_means_leave_out_what_has_no_size(x64):
    """A model that does not matter cannot crowd out those that do, however certain it is."""
    log_weight = jnp.array([0.0, -2000.0, -2001.0])
    log_size = jnp.array([-jnp.inf, 0.0, 0.0])
    features = jnp.array([[5.0], [1.0], [-1.0]])
    mean, _ = expected(log_weight, log_size, features)
    assert math.isclose(float(mean[0]), math.tanh(0.5), rel_tol=1e-12)
    mean, weight = expected(jnp.array([0.0]), jnp.array([-jnp.inf]), features[:1])
    assert float(mean[0]) == 0
    assert float(weight[0]) == 0
    given = likelihood(bn.Problem([[1.0]], [[[1.0]]], [[0.0]]))
    assert 0 < float(given.rounding(weight, jnp.ones((1, 1)))) < 1e-14


@given(st.integers(2, 1000), st.floats(1e-6, 200), st.booleans())
def test_blocks_are_as_long_as_floating_point_allows(num_models, log_range, double):
    """The inequality of the docstring in exact integers: k holds, k + 1 would not."""
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        steps, top = steps_between_refreshes(jnp.asarray(log_range, dtype), num_models)
        smallest, digits = (-1022, 53) if double else (-126, 24)
        exponent = math.log2(top)
        assert num_models * top < float(jnp.finfo(dtype).max)
        nats = (exponent - smallest - digits) * math.log(2) - math.log(num_models)
        assert int(steps) >= 1
        if int(steps) > 1:
            assert int(steps) * log_range <= nats * (1 + 1e-6)
        assert (int(steps) + 1) * log_range > nats * (1 - 1e-6) or int(steps) >= 1e6 * 0.999


def test_largest_log_range_ignores_what_is_ruled_out():
    problem = bn.Problem([[0.5, 0.5]], [[[0.25, 0.75]], [[0.5, 0.5]], [[1.0, 0.0]]], [[0.0, 1.0]])
    assert math.isclose(float(largest_log_range(likelihood(problem))), math.log(4), rel_tol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match="`rate` must lie inside"):
        bn.DiscountedMemory(rate)


@pytest.mark.parametrize("length", [0, -1, 2.5, True])
def test_bad_lengths(length):
    with pytest.raises(ValueError, match="`length` must be a whole number of at least 1"):
        bn.WindowMemory(length)
