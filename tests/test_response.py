"""Policies against what their names say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bnjax as bn
from bnjax._numerics import inverse_cdf, second_from, uniform
from bnjax.belief import expected
from bnjax.response import choose, policy_table


def intention(policy, payoffs, belief):
    """Probabilities of actions under a belief, as a simulator gets them."""
    payoffs = jnp.asarray(payoffs)
    table = policy_table(policy, payoffs)
    log_weight = jnp.log(jnp.asarray(belief, payoffs.dtype))
    means, _ = expected(log_weight, table.log_size, table.features)
    return np.asarray(policy.probabilities(means, jnp.zeros((), payoffs.dtype)))


@pytest.mark.parametrize("num_actions", [1, 2, 3, 5])
def test_best_response_maximises(num_actions):
    rng = np.random.default_rng(num_actions)
    for _ in range(20):
        payoffs, belief = rng.normal(size=(6, num_actions)), rng.dirichlet(np.ones(6))
        found = intention(bn.BestResponse(), payoffs.astype(np.float32), belief)
        assert found.argmax() == (belief @ payoffs).argmax()
        np.testing.assert_array_equal(np.sort(found), [*[0] * (num_actions - 1), 1])


@pytest.mark.parametrize(
    ("ties", "want"),
    [("first", [0, 1, 0, 0]), ("last", [0, 0, 0, 1]), ("uniform", [0, 0.5, 0, 0.5])],
)
def test_ties(ties, want):
    payoffs = [[0.0, 1.0, 0.2, 3.0], [0.0, 3.0, 0.2, 1.0]]
    np.testing.assert_allclose(intention(bn.BestResponse(ties), payoffs, [0.5, 0.5]), want)


@pytest.mark.parametrize("ties", ["first", "last"])
def test_ties_of_two_actions(ties):
    found = intention(bn.BestResponse(ties), [[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5])
    assert found.tolist() == ([1, 0] if ties == "first" else [0, 1])


def test_an_indifferent_model_has_no_say():
    """Certain of a model for which actions pay the same, an agent still prefers."""
    payoffs = jnp.asarray([[1.0, 1.0], [0.0, 1.0]])
    found = intention(bn.BestResponse(), payoffs, [1 - 1e-30, 1e-30])
    assert found.tolist() == [0, 1]
    assert intention(bn.BestResponse(), payoffs, [1.0, 0.0]).tolist() == [1, 0]


def test_slack_makes_ties():
    policy = bn.BestResponse("last")
    means = jnp.asarray([-0.01, 1.0])  # the second action pays less by a hundredth of its size
    assert policy.probabilities(means, jnp.asarray(0.0)).tolist() == [1, 0]
    assert policy.probabilities(means, jnp.asarray(0.02)).tolist() == [0, 1]


def test_logit():
    payoffs, belief = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]], np.float32), [0.25, 0.75]
    weights = np.exp((np.asarray(belief) @ payoffs) / 0.7)
    found = intention(bn.Logit(0.7), payoffs, belief)
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-6)


def test_thompson_sampling_plays_the_belief_that_an_action_is_best():
    payoffs = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0], [0.5, 0.5, 0.0]], np.float32)
    found = intention(bn.ThompsonSampling(), payoffs, [0.2, 0.3, 0.5])
    np.testing.assert_allclose(found, [0.2 + 0.25, 0.3 + 0.25, 0], rtol=1e-6)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_inverse_cdf_never_gives_what_has_no_probability(num, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num)).astype(np.float32)
    probs[rng.random(num) < 0.4] = 0
    if not probs.any():
        probs[rng.integers(num)] = 1
    numbers = np.array([0, 2.0**-24, 0.5, 1 - 2.0**-24, *rng.random(20)], np.float32)
    found = jax.vmap(lambda u: inverse_cdf(jnp.asarray(probs), u))(numbers)
    assert (probs[np.asarray(found)] > 0).all()
    share = np.cumsum(probs.astype(float)) / probs.astype(float).sum()
    want = np.searchsorted(share, numbers.astype(float), side="right")
    clear = np.abs(share[None] - numbers[:, None]).min(1) > 1e-6
    np.testing.assert_array_equal(np.asarray(found)[clear], want[clear])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_words_that_draw_the_second_of_two_are_those_from_one_on(dtype, x64):
    rng = np.random.default_rng(0)
    second = [0, 1, 0.5, 0.3, 1e-30, 2.0**-24, 2.0**-33, 1 - 2.0**-24, *rng.random(500)]
    probs = np.array([(1 - p, p) for p in second]).astype(dtype)
    off = rng.uniform(0.999, 1.001, (len(probs), 1)).astype(dtype)  # sums are not quite one
    probs = np.concatenate([probs, probs * off])
    least, possible = second_from(jnp.asarray(probs))
    near = np.asarray(least).astype(np.int64)[:, None] + np.arange(-600, 601)
    far = rng.integers(0, 2**32, (len(probs), 50))
    words = jnp.asarray(np.clip(np.concatenate([near, far], 1), 0, 2**32 - 1), jnp.uint32)
    want = jax.vmap(lambda p, word: inverse_cdf(p[:, None], uniform(word, p.dtype)))(probs, words)
    np.testing.assert_array_equal(possible[:, None] & (words >= least[:, None]), want == 1)


@pytest.mark.parametrize("exploration", [0.0, 0.3, 1.0])
def test_trembles(exploration):
    """An even grid of random numbers gives every action its probability, and the intended too."""
    num, size = 3, 60_000
    numbers = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    probabilities = jnp.asarray([0.2, 0.0, 0.8])
    intended, action = jax.vmap(lambda u: choose(probabilities, jnp.asarray(exploration), u))(
        numbers
    )
    want = (1 - exploration) * np.asarray(probabilities) + exploration / num
    np.testing.assert_allclose(np.bincount(action, minlength=num) / size, want, atol=1e-3)
    np.testing.assert_allclose(
        np.bincount(intended, minlength=num) / size, probabilities, atol=1e-3
    )
    if exploration == 0:
        np.testing.assert_array_equal(intended, action)


class Contrary(bn.BestResponse):
    """The opposite of a built-in policy that it is derived from."""

    def probabilities(self, means, slack):
        return super().probabilities(means, slack)[::-1]


def test_what_is_inherited_does_not_speak_of_a_policy_that_plays_otherwise():
    assert bn.BestResponse().knows_boundary()
    assert bn.BestResponse().knows_second()
    assert bn.EpsilonGreedy(0.1).knows_boundary()
    assert not bn.BestResponse("uniform").knows_boundary()
    assert bn.Logit(0.1).knows_second()
    assert not bn.Logit(0.1).knows_boundary()
    assert not Contrary().knows_boundary()
    assert not Contrary().knows_second()

    class Featured(bn.Logit):
        def features(self, payoffs):
            return -payoffs

    class Told(Featured):  # which says anew what it does
        def second(self, means, slack):
            return super().second(means, slack)

    class Renamed(bn.BestResponse):
        """Nothing else."""

    assert not Featured(0.1).knows_second()
    assert Told(0.1).knows_second()
    assert Renamed().knows_boundary()


def test_logit_divides_what_it_can():
    """By so little that the quotient of a payoff is out of range, but not that of a difference."""
    policy = bn.Logit(1e-36)
    assert policy.probabilities(jnp.array([1000.0, 999.0]), jnp.zeros(())).tolist() == [1, 0]
    assert policy.probabilities(jnp.array([5.0, 5.0]), jnp.zeros(())).tolist() == [0.5, 0.5]
    assert float(policy.second((jnp.array(1000.0), jnp.array(999.0)), jnp.zeros(()))) == 0


def test_epsilon_greedy_is_a_best_response_that_trembles():
    greedy = bn.EpsilonGreedy(0.2, bn.BestResponse("last"))
    payoffs = [[0.0, 1.0], [1.0, 0.0]]
    assert intention(greedy, payoffs, [0.5, 0.5]).tolist() == [0, 1]
    assert math.isclose(float(greedy.exploration), 0.2, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bn.Logit(0.0), "`temperature` must be a positive number; got 0"),
        (lambda: bn.Logit(-1.0), "`temperature` must be a positive number; got -1"),
        (lambda: bn.Logit(math.inf), "`temperature` must be a positive number"),
        (
            lambda: bn.Logit(1e-40),
            "`temperature` must be at least 1.18e-38 in float32; got 9.99995e-41",
        ),
        (lambda: bn.EpsilonGreedy(0.1, Contrary()), "`response` must be a bn.BestResponse; got C"),
        (lambda: bn.EpsilonGreedy(1.5), "`epsilon` must be a probability"),
        (lambda: bn.BestResponse("sometimes"), "`ties` must be 'first', 'last' or 'uniform'"),
        (lambda: bn.BestResponse(tol_payoff=-1.0), "`tol_payoff` must be a non-negative number"),
    ],
)
def test_bad_policies(make, message):
    with pytest.raises(ValueError, match=message):
        make()
