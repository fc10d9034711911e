"""The hard mean field against closed forms and a plain Euler scheme."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax.learning._basins import basins
from bnjax.learning._mean_field import mean_field
from bnjax.learning._mean_field_result import Motion
from tests.oracles import closed_forms

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")


def pair(share):
    share = np.asarray(share)
    return np.stack([share, 1 - share], -1)


def code(found):
    return Motion(int(found.result))


# The hard version, two actions


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.95, 1.0])
def test_oscillation_reaches_its_mixture_in_finite_time_and_stays(share, grid, x64):
    p_sycophantic, p_honest = 0.3, 0.1
    problem = bn.scenarios.sycophancy(p_sycophantic, p_honest)
    # An even number of nodes: none is indifferent, and the two in the middle straddle 1/2.
    problem = problem.discretize(64) if grid else problem
    found = mean_field(problem, pair(share), duration=3.0, num_saved=61)
    mixture = closed_forms.sycophancy_mixture(p_sycophantic, p_honest)
    # Above the mixture honesty is better and s decays to 0; below, 1 - s does.
    ratio = share / mixture if share > mixture else (1 - share) / (1 - mixture)
    hitting_time = math.log(ratio)
    assert code(found) == Motion.SLIDING
    assert bool(found.converged)
    np.testing.assert_allclose(found.last_event, hitting_time, rtol=1e-6)
    t = np.linspace(0, 3, 61)
    moving = share * np.exp(-t) if share > mixture else 1 - (1 - share) * np.exp(-t)
    want = np.where(t < hitting_time, moving, mixture)
    np.testing.assert_allclose(found.strategy, pair(want), atol=1e-6)
    np.testing.assert_allclose(found.times, t)


def test_exploration_moves_the_mixture_of_intended_play(x64):
    problem, tremble = bn.scenarios.sycophancy(0.3, 0.1), 0.2
    found = mean_field(problem, pair(0.1), duration=3.0, num_saved=61, exploration=tremble)
    realised = closed_forms.sycophancy_mixture(0.3, 0.1)
    want = (realised - tremble / 2) / (1 - tremble)
    np.testing.assert_allclose(found.final, pair(want), atol=1e-6)
    np.testing.assert_allclose(found.last_event, math.log(0.9 / (1 - want)), rtol=1e-6)


def test_with_two_pure_equilibria_the_mixture_parts_the_basins(x64):
    problem = bn.scenarios.sycophancy(0.7, 0.6)
    boundary = closed_forms.sycophancy_mixture(0.7, 0.6)
    shares = np.array([0.0, boundary - 1e-4, boundary, boundary + 1e-4, 1.0])
    found = basins(problem, pair(shares))
    assert found.index.tolist() == [0, 0, -1, 2, 2]
    settled = [Motion.SETTLED] * 2
    assert found.result.tolist() == [*settled, Motion.NOT_UNIQUE, *settled]
    np.testing.assert_allclose(found.limit[:, 0], [0, 0, boundary, 1, 1], atol=1e-12)
    text = found.summary(problem)
    assert "2 of 5: pure: honest" in text
    assert "1 of 5: no equilibrium (not unique)" in text
    # Nothing is said of what follows once solutions part.
    split = mean_field(problem, pair(boundary), duration=3.0, num_saved=61)
    assert code(split) == Motion.NOT_UNIQUE
    assert float(split.last_event) == 0
    assert np.isfinite(split.strategy[0]).all()
    assert np.isnan(split.strategy[1:]).all()
    assert np.isnan(split.target).all()
    assert not bool(split.converged)
    # A pure strategy that is approached is never reached.
    moving = mean_field(problem, pair(boundary + 1e-4), duration=3.0, num_saved=61)
    assert code(moving) == Motion.MOVING
    want = 1 - (1 - boundary - 1e-4) * math.exp(-3)
    np.testing.assert_allclose(moving.final, pair(want), rtol=1e-12)
    assert "heading for: sycophantic 1" in moving.summary(problem)


def test_single_precision_reaches_the_same_points():
    shares = pair([0.1, 0.25, 0.4, 0.9])
    found = basins(bn.scenarios.sycophancy(0.7, 0.6), shares)
    assert found.limit.dtype == jnp.float32
    assert found.index.tolist() == [0, 0, 2, 2]
    found = basins(bn.scenarios.sycophancy(0.3, 0.1), shares)
    assert found.index.tolist() == [0] * 4
    assert (found.result == Motion.SLIDING).all()
    np.testing.assert_allclose(found.limit[:, 0], 2 / 3, atol=1e-5)


def test_complying_may_be_kept_or_left(x64):
    # Deceiving pays where it is tried; who complies learns nothing and may believe anything.
    found = basins(bn.scenarios.deception(0.2), pair([0.0, 0.01, 1.0]))
    assert found.result.tolist() == [Motion.NOT_UNIQUE, Motion.SETTLED, Motion.SETTLED]
    np.testing.assert_allclose(found.limit[1:, 0], 1)
    # Where it does not pay, trying it leads back: staying is the only solution.
    found = basins(bn.scenarios.deception(0.9), pair([0.0, 0.01, 1.0]))
    assert found.result.tolist() == [Motion.SETTLED] * 3
    np.testing.assert_allclose(found.limit[:, 0], 0)


def test_a_continuum_of_equilibria_is_not_unique(x64):
    # 0.3 and 0.7 fit equally whatever is played, and have opposite replies.
    q = np.array([0.3, 0.7])
    models = np.stack([np.stack([1 - q, q], -1), np.stack([q, 1 - q], -1)], 1)
    problem = bn.Problem(np.full((2, 2), 0.5), models, [[0.0, 1.0], [0.0, 1.0]])
    found = basins(problem, pair([0.0, 0.3, 1.0]))
    assert found.result.tolist() == [Motion.NOT_UNIQUE] * 3
    assert found.index.tolist() == [-1] * 3


def test_derivatives_of_the_hard_version_with_two_actions(x64):
    def final(p_honest, duration):
        problem = bn.scenarios.sycophancy(0.3, p_honest).discretize(64)
        found = mean_field(problem, pair(0.2), duration=duration, num_saved=2)
        return found.final[0]

    gradient = jax.jit(jax.grad(final, argnums=(0, 1)))
    step = 1e-6
    for duration in (0.5, 3.0):  # before and after it reaches the mixture
        got = gradient(0.1, duration)
        central = [
            (final(0.1 + step, duration) - final(0.1 - step, duration)) / (2 * step),
            (final(0.1, duration + step) - final(0.1, duration - step)) / (2 * step),
        ]
        np.testing.assert_allclose(got, central, rtol=1e-5, atol=1e-9)


# The hard version, more actions


def euler(problem, start, duration, steps):
    """Play the first best reply to the first best fit; chatters along surfaces."""
    reduced = problem.reduced_form()
    kl, payoffs = np.asarray(reduced.kl), np.asarray(reduced.payoffs)
    reply, sigma, step = payoffs.argmax(1), np.array(start), duration / steps
    for _ in range(steps):
        sigma = sigma * (1 - step)
        sigma[reply[np.argmin(kl @ sigma)]] += step
    return sigma


def three_actions(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), 3)
    models = rng.dirichlet(np.ones(3), (8, 3))
    return bn.Problem(probs, models, rng.normal(size=(3, 3)))


def test_three_actions_against_an_euler_scheme(x64):
    codes, turns = [], 0
    for seed in range(24):
        problem, start = three_actions(seed), np.array([0.3, 0.4, 0.3])
        found = mean_field(problem, start, duration=2.0, num_saved=5)
        codes.append(code(found))
        turns += float(found.last_event) > 0
        if code(found) in (Motion.MOVING, Motion.SLIDING):
            want = euler(problem, start, 2.0, 8000)
            np.testing.assert_allclose(found.final, want, atol=3e-3)
            np.testing.assert_allclose(found.strategy[-1], found.final, atol=1e-12)
            np.testing.assert_allclose(found.strategy.sum(1), 1, atol=1e-12)
    assert codes.count(Motion.MOVING) + codes.count(Motion.SLIDING) >= 12
    assert codes.count(Motion.SLIDING) >= 2
    assert turns >= 4


def of_one_shape(probs, models, payoff):
    """The same problem with 8 models and 3 consequences, like those above: compiled once."""
    more, models = 8 - len(models), np.asarray(models)
    models = np.concatenate([models, np.repeat(models[:1], more, axis=0)])
    wide = [np.pad(x, [(0, 0)] * (np.ndim(x) - 1) + [(0, 1)]) for x in (probs, models, payoff)]
    return bn.Problem(*wide, log_prior=np.where(np.arange(8) < 8 - more, 0.0, -np.inf))


def test_an_action_that_is_never_played_changes_nothing(x64):
    two = bn.scenarios.sycophancy(0.3, 0.1).discretize(8)
    # The third action costs something and shows nothing.
    three = of_one_shape(
        np.concatenate([two.probs, [[0.5, 0.5]]]),
        np.concatenate([two.model_probs, np.full((8, 1, 2), 0.5)], 1),
        np.concatenate([two.payoff, [[-1.0, -1.0]]]),
    )
    found = mean_field(three, np.array([0.95, 0.05, 0.0]), duration=2.0, num_saved=5)
    assert code(found) == Motion.SLIDING
    mixture = closed_forms.sycophancy_mixture(0.3, 0.1)
    np.testing.assert_allclose(found.last_event, math.log(0.95 / mixture), rtol=1e-9)
    np.testing.assert_allclose(found.final, [mixture, 1 - mixture, 0], atol=1e-9)
    assert bool(found.converged)
    # From play of all three it slides towards that mixture, once the two actions tie.
    found = mean_field(three, np.array([0.2, 0.3, 0.5]), duration=2.0, num_saved=5)
    assert code(found) == Motion.SLIDING
    np.testing.assert_allclose(found.target, [mixture, 1 - mixture, 0], atol=1e-9)
    np.testing.assert_allclose(found.final[2], 0.5 * math.exp(-2), rtol=1e-9)


def confirming(base):
    """Three models, each with a reply of its own, which shows what that model predicts."""
    models = np.full((3, 3), 0.3) + 0.4 * np.eye(3)
    probs = np.full(3, 0.5) + base
    return tuple(np.stack([1 - x, x], -1) for x in (probs, models))


def test_where_three_replies_meet_it_says_so(x64):
    # All three fit equally well at the centre.
    problem = of_one_shape(*confirming(0.0), [[0.0, 1.0]] * 3)
    found = mean_field(problem, np.full(3, 1 / 3), duration=2.0, num_saved=5)
    assert code(found) == Motion.UNRESOLVED
    assert float(found.last_event) == 0
    assert np.isnan(found.strategy[1:]).all()
    assert np.isnan(found.target).all()


@pytest.mark.slow  # half a minute, nearly all of it compilation of `equilibria`
def test_basins_of_three_actions_and_of_one(x64):
    # What an action shows is what its own model predicts: whatever is played most, stays.
    problem = bn.Problem(*confirming(0.15), [[0.0, 1.0]] * 3)
    starts = [[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2]]
    found = basins(problem, starts)
    assert found.result.tolist() == [Motion.SETTLED] * 3 + [Motion.NOT_UNIQUE]
    np.testing.assert_allclose(found.limit[:3], np.eye(3))
    reached = np.asarray(found.equilibria.strategy)[np.asarray(found.index[:3])]
    np.testing.assert_allclose(reached, np.eye(3), atol=1e-9)
    assert int(found.index[3]) == -1
    assert basins(bn.scenarios.coin(), [[1.0]]).index.tolist() == [0]


def test_one_action_stays(x64):
    found = mean_field(bn.scenarios.coin(), [1.0], duration=1.0)
    assert code(found) == Motion.SETTLED


def test_a_batch_equals_a_loop(x64):
    p = jnp.asarray([0.2, 0.3, 0.6])
    shares = jnp.asarray([0.1, 0.9])

    def solve(p, share):
        problem = bn.scenarios.sycophancy(p, 0.1).discretize(64)
        start = jnp.stack([share, 1 - share])
        found = mean_field(problem, start, duration=3.0, num_saved=61)
        return found.strategy, found.result, found.last_event

    together = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(p, shares)
    for i in range(3):
        for k in range(2):
            alone = solve(p[i], shares[k])
            for batched, single in zip(together, alone, strict=True):
                np.testing.assert_allclose(batched[i, k], single, atol=1e-9)


def test_a_batch_of_three_actions_equals_a_loop(x64):
    problems = [three_actions(seed) for seed in range(4)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    start = np.array([0.3, 0.4, 0.3])

    def solve(problem):
        return mean_field(problem, start, duration=2.0, num_saved=5)

    together = eqx.filter_jit(eqx.filter_vmap(solve))(batch)
    for i, problem in enumerate(problems):
        alone = solve(problem)
        assert int(together.result[i]) == int(alone.result)
        np.testing.assert_allclose(together.strategy[i], alone.strategy, atol=1e-12)


def test_reports(x64):
    problem = bn.scenarios.sycophancy(0.3, 0.1)
    found = mean_field(problem, pair(0.95), duration=3.0, num_saved=61)
    assert repr(found) == ("MeanField(SLIDING, final=[0.6667, 0.3333], converged=True, residual=0)")
    text = found.summary(problem)
    assert text.splitlines()[0] == "start: sycophantic 0.95, honest 0.05"
    assert "last change of direction: time 0.354" in text
    assert "time 3: sycophantic 0.666667, honest 0.333333 (held between best replies)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": [0.5, 0.6]}, "`start` must sum to one"),
        ({"start": [1.0]}, r"`start` must have shape \(2,\) = \[actions\]; got \(1,\)"),
        ({"duration": 0.0}, "`duration` must be positive"),
        ({"duration": math.inf}, "`duration` must be finite"),
        ({"memory": 10.0}, "`temperature` must be given with `memory`"),
        ({"temperature": 0.1}, "`memory` must be given with `temperature`"),
        ({"memory": -1.0, "temperature": 0.1}, "`memory` must not be negative; got -1"),
        ({"memory": 1.0, "temperature": 0.0}, "`temperature` must be positive"),
        ({"exploration": 2.0}, "`exploration` must be a probability"),
        ({"num_saved": 1}, "`num_saved` must be an integer of at least 2; got 1"),
        ({"max_steps": 0}, "`max_steps` must be an integer of at least 1; got 0"),
        ({"tol_rest": 0.0}, "`tol_rest` must be positive"),
    ],
)
def test_bad_input(arguments, message):
    arguments = {"start": [0.5, 0.5], "duration": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        mean_field(bn.scenarios.sycophancy(), **arguments)


def test_the_hard_version_refuses_a_continuum_of_models_with_many_actions():
    problem = bn.scenarios.overconfidence(num_efforts=3)
    with pytest.raises(ValueError, match=r"two actions or finitely many models.*smooth version"):
        mean_field(problem, np.full(3, 1 / 3), duration=1.0)
    with pytest.raises(ValueError, match=r"two actions or finitely many models.*smooth version"):
        basins(problem, np.full((1, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"`starts` must be an array \[starts, actions\]"):
        basins(bn.scenarios.sycophancy(), [0.5, 0.5])
