"""Score-function gradients against exact derivatives of short lives.

Estimates fix their key and are compared at the confidence that they name, with the standard error
that they report, which is itself compared with what independent keys show.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, norm

import bnjax as bn
from tests.oracles import score as exact

KEY = jax.random.key(0)
SURE = norm.ppf(0.9995)  # a two-sided interval of 99.9%
POINT = {
    "log_odds": 0.3,
    "q": 0.65,
    "p_s": 0.7,
    "p_h": 0.6,
    "temperature": 0.2,
    "pay": 1.0,
    "exploration": 0.0,
    "rate": 0.3,
}
POINTS = [  # multistable, oscillating, nearly sure of the wrong, sharp and locked in
    POINT,
    POINT | {"p_s": 0.3, "p_h": 0.4, "log_odds": -0.2, "temperature": 0.15},
    POINT | {"p_s": 0.2, "p_h": 0.9, "log_odds": 1.5, "q": 0.6, "temperature": 0.4},
    POINT | {"p_s": 0.8, "p_h": 0.45, "log_odds": -0.6, "temperature": 0.1, "pay": 1.2},
]
TREMBLING = POINT | {"exploration": 0.3}
FREE = ("log_odds", "q", "p_s", "p_h", "temperature", "pay")


def two_models(at):
    """The problem of the oracle."""
    theta = jnp.stack([at["q"], 1 - at["q"]])
    good = jnp.stack([theta, 1 - theta], axis=1)
    truth = jnp.stack([at["p_s"], at["p_h"]])
    zero, one = jnp.zeros_like(at["pay"]), jnp.ones_like(at["pay"])
    return bn.Problem(
        jnp.stack([1 - truth, truth], axis=-1),
        jnp.stack([1 - good, good], axis=-1),
        jnp.stack([jnp.stack([zero, at["pay"]]), jnp.stack([zero, one])]),
        log_prior=jnp.stack([at["log_odds"], jnp.zeros_like(at["log_odds"])]),
    )


def perfect_logit(at):
    return bn.Agent(two_models(at), bn.Logit(at["temperature"]), exploration=at["exploration"])


def discounted_logit(at):
    policy, memory = bn.Logit(at["temperature"]), bn.DiscountedMemory(at["rate"])
    return bn.Agent(two_models(at), policy, memory, exploration=at["exploration"])


def window_thompson(at):
    policy, memory = bn.ThompsonSampling(), bn.WindowMemory(2)
    return bn.Agent(two_models(at), policy, memory, exploration=at["exploration"])


def intends_first(life):
    return life.intention[0]


def arrays(point):
    return {name: jnp.asarray(value, float) for name, value in point.items()}


def assert_right(found, want, names=FREE, sure=SURE):
    """Within the interval of the estimate, for each parameter and for the value."""
    assert abs(float(found.value) - want[""]) < sure * float(found.value_error)
    for name in names:
        error = float(found.gradient_error[name])
        assert abs(float(found.gradient[name]) - want[name]) < sure * error + 1e-5, name


# The exact case of the closed form


STEPS = 12
OPTIONS: Any = {"num_agents": 10_000, "num_steps": STEPS}


@functools.partial(jax.jit, static_argnames="baseline")  # compiled once for all that follows
def estimate(at, key, baseline="mean"):
    return bn.design.score_gradient(
        perfect_logit, at, key, intends_first, baseline=baseline, **OPTIONS
    )


@functools.cache
def by_transfer_matrix(number):
    return exact.derivatives(lambda at: exact.by_transfer_matrix(at, STEPS), POINTS[number])


@pytest.mark.parametrize("number", range(4))
def test_derivatives_of_play_at_a_step(number):
    """By the prior log-odds, models, truth, temperature and a payoff, at four points."""
    found = estimate(arrays(POINTS[number]), jax.random.key(number))
    want = by_transfer_matrix(number)
    assert_right(found, want)
    # Not because the interval is wide.
    assert SURE * float(found.gradient_error["log_odds"]) < 0.2 * abs(want["log_odds"])


# Variance


def test_baselines_take_variance_and_add_no_bias():
    found = [estimate(arrays(POINT), KEY, kind) for kind in ("none", "mean", "critic")]
    for one in found:
        assert_right(one, by_transfer_matrix(0))
    variances = [float(one.gradient_error["log_odds"]) ** 2 for one in found]
    assert variances[1] < 0.3 * variances[0]
    assert variances[2] < 0.9 * variances[1]


@pytest.mark.parametrize("baseline", ["mean", "critic"])
def test_baselines_add_no_bias_with_four_agents(baseline):
    """Of the last action. The mean of all four would shrink its derivative by a quarter."""

    def derivative(key):
        def play(log_odds):
            at = arrays(POINT) | {"log_odds": log_odds}
            return bn.design.expected(
                two_models(at),
                key,
                lambda life: life.action == 0,
                num_agents=4,
                num_steps=5,
                policy=bn.Logit(at["temperature"]),
                baseline=baseline,
            )

        return jax.grad(play)(jnp.asarray(POINT["log_odds"]))

    found = np.asarray(jax.jit(jax.vmap(derivative))(jax.random.split(KEY, 6000)))
    want = exact.derivatives(lambda at: exact.by_transfer_matrix(at, 4), POINT)["log_odds"]
    error = SURE * found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - want) < error < 0.15 * want


def test_reported_errors_are_those_of_independent_keys():
    """Variance of 100 estimates against the mean of the reported ones, 99.9%."""
    found = [estimate(arrays(POINT), key) for key in jax.random.split(KEY, 100)]
    found = jax.tree.map(lambda *x: np.asarray(x), *found)
    low, high = chi2.ppf([0.0005, 0.9995], 99) / 99
    pairs = [(found.gradient[name], found.gradient_error[name]) for name in FREE]
    for values, errors in [(found.value, found.value_error), *pairs]:
        assert low < np.var(values, ddof=1) / np.mean(np.square(errors)) < high


# Other memories and policies, trembles


def test_score_of_a_life_is_the_derivative_of_its_log_probability(x64):
    """To nine digits, of four lives, by every parameter: the rate of forgetting, trembles, ...

    They are the lives of `bn.simulate`, and each counts by how often the first action is played.
    """
    agent = discounted_logit(arrays(TREMBLING))
    num_steps, num_agents = 6, 4
    nothing = jnp.zeros((3, num_steps), jnp.int32)

    def write(carry, step, state, agent):
        new = jnp.stack([step.intended, step.action, step.consequence])
        return carry.at[:, step.time].set(new)

    simulated = bn.simulate(
        agent.problem,
        KEY,
        num_agents=num_agents,
        num_steps=num_steps,
        policy=agent.policy,
        memory=agent.memory,
        exploration=agent.exploration,
        record=bn.Running(lambda agent: nothing, write),
    )
    lives = np.moveaxis(np.asarray(simulated.record), 1, 0)
    assert (lives[0] != lives[1]).any()  # some trembled
    found = bn.design.score_gradient(
        discounted_logit,
        arrays(TREMBLING),
        KEY,
        lambda life: life.frequency[0],
        num_agents=num_agents,
        num_steps=num_steps,
        baseline="none",
    )

    frequency = (lives[1] == 0).mean(1)
    np.testing.assert_allclose(simulated.frequency[:, 0], frequency, rtol=1e-12)
    np.testing.assert_allclose(found.value, frequency.mean(), rtol=1e-12)

    def log_chance(at):
        each = exact.log_chance(at, *lives, memory="discounted", only_played=True)
        return (frequency * each).mean()

    want = exact.derivatives(log_chance, TREMBLING)
    for name in TREMBLING:
        np.testing.assert_allclose(found.gradient[name], want[name], rtol=1e-9, atol=1e-11)


def listed(statistic, **options: Any):
    return exact.derivatives(lambda at: exact.by_histories(at, 4, statistic, **options), TREMBLING)


def estimated(make, statistic, **options: Any):
    return bn.design.score_gradient(
        make, arrays(TREMBLING), KEY, statistic, num_agents=40_000, num_steps=4, **options
    )


def test_discounted_memory_by_all_histories():
    """Payoff of all four steps, by the rate and by exploration too."""

    def payoff(intended, played, came):
        # The payoff is 1 after the second action, and `pay` = 1 after the first.
        return came.mean(1)

    found = estimated(discounted_logit, lambda life: life.mean_payoff)
    want = listed(payoff, memory="discounted")
    names = [n for n in FREE if n != "pay"]
    assert_right(found, want, [*names, "rate", "exploration"])
    # The payoff itself depends on `pay`: directly, by how often it is paid, and through play.
    share = listed(lambda i, a, y: ((a == 0) & (y == 1)).mean(1), memory="discounted")[""]
    error = float(found.gradient_error["pay"])
    assert abs(float(found.gradient["pay"]) - want["pay"] - share) < SURE * error < 0.2 * share


def test_thompson_sampling_and_intentions_by_all_histories():
    """What is intended last, and whether that has changed late, though play trembles."""

    def odd(life):
        intends, plays = (x.astype(float) == 0.0 for x in (life.intended, life.action))
        changed = 0.5 * life.switches[1].astype(float)
        return jnp.where(intends, 1.0, 0.0) + changed - jnp.where(plays, 1.0, 0.0)

    def same(intended, played, came):
        changed = intended[:, 3] != intended[:, 2]
        return 1.0 * (intended[:, 3] == 0) + 0.5 * changed - 1.0 * (played[:, 3] == 0)

    found = estimated(window_thompson, odd, intentions=True)
    want = listed(same, policy="thompson", memory="window", window=2)
    assert_right(found, want, ["log_odds", "q", "p_s", "p_h", "exploration"])
    with pytest.raises(ValueError, match="pass `intentions=True`"):
        estimated(window_thompson, odd)


def test_gaussian_consequences():
    """By the truth's means and sd, the models and the payoff, against quadrature."""
    point = {"mean_0": 0.4, "mean_1": 0.2, "sd": 1.3, "model_0": 1.0, "model_1": -0.8}
    point |= {"bonus": 0.1, "temperature": 0.6, "log_odds": 0.2}

    def make(at):
        zero, one = jnp.zeros_like(at["sd"]), jnp.ones_like(at["sd"])
        means = [jnp.stack([at[name], zero]) for name in ("model_0", "model_1")]
        problem = bn.GaussianProblem(
            jnp.stack([at["mean_0"], at["mean_1"]]),
            jnp.stack([at["sd"], at["sd"]]),
            jnp.stack(means),
            jnp.ones((2, 2)),
            jnp.stack([at["bonus"], zero]),
            jnp.stack([one, one]),
            log_prior=jnp.stack([at["log_odds"], zero]),
        )
        return bn.Agent(problem, bn.Logit(at["temperature"]))

    found = bn.design.score_gradient(
        make, arrays(point), KEY, intends_first, num_agents=40_000, num_steps=2
    )
    want = exact.derivatives(exact.gaussian_after_two, point)
    assert_right(found, want, list(point))
    assert all(abs(want[n]) > float(found.gradient_error[n]) for n in point if n != "mean_1")


# The same lives and the same derivatives, whatever the way


def share(at, key, price=1.0):
    """Expected price of what is intended; the price is a parameter of the statistic alone."""
    agent = perfect_logit(at)
    return bn.design.expected(
        agent.problem,
        key,
        lambda life: price**2 * life.intention[0],
        policy=agent.policy,
        **OPTIONS,
    )


def test_vmapped_gradients_are_those_that_are_reported():
    points, keys = [arrays(point) for point in POINTS[:2]], jax.random.split(KEY, 2)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *points)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(share)))(stacked, keys)
    for i, found in enumerate(map(estimate, points, keys)):
        np.testing.assert_allclose(values[i], found.value, rtol=1e-5)
        for name in FREE:
            want = found.gradient[name]
            np.testing.assert_allclose(gradients[name][i], want, rtol=1e-3, atol=1e-5)


def test_forward_mode_and_statistics_that_close_over_parameters():
    at = arrays(POINT)
    found = estimate(at, KEY)

    @jax.jit
    def along(direction, raising):
        # A constant point: compilers then fold what a maximum once made NaN of (`belief.expected`).
        moving = at, jnp.asarray(3.0)
        return jax.jvp(lambda at, p: share(at, KEY, p), moving, (direction, raising))[1]

    still = {name: jnp.zeros_like(x) for name, x in at.items()}
    np.testing.assert_allclose(along(still, jnp.asarray(1.0)), 6 * found.value, rtol=1e-5)
    moved = along(still | {"log_odds": jnp.asarray(1.0)}, jnp.asarray(0.0))
    np.testing.assert_allclose(moved, 9 * found.gradient["log_odds"], rtol=1e-3)


def test_second_derivatives_are_refused():
    at = arrays(POINT)
    twice = jax.hessian(lambda x: share(at | {"log_odds": x}, KEY))
    with pytest.raises(NotImplementedError, match="differentiated once"):
        jax.eval_shape(twice, at["log_odds"])


def test_memory_does_not_grow_with_steps():
    """Of all arrays, only the times have a dimension of that length."""

    def late(log_odds):
        at = arrays(POINT) | {"log_odds": log_odds}
        options: Any = {"policy": bn.Logit(0.2), "num_agents": 10, "num_steps": 977}
        return bn.design.expected(two_models(at), KEY, intends_first, **options)

    program = str(jax.make_jaxpr(jax.grad(late))(jnp.asarray(0.3)))
    assert set(re.findall(r"\w+\[[\d,]*\b977\b[\d,]*\]", program)) == {"i32[977]"}


def test_only_the_key_may_be_traced():
    options: Any = {"policy": bn.Logit(0.2), "num_agents": 10, "num_steps": 3}
    problem = two_models(arrays(POINT))
    jax.eval_shape(lambda key: bn.design.expected(problem, key, intends_first, **options), KEY)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": bn.BestResponse()}, "score of BestResponse is identically zero"),
        ({"policy": bn.EpsilonGreedy(0.1)}, "score of EpsilonGreedy is identically zero"),
        ({"num_agents": 0}, "`num_agents` must be a whole number of at least 1; got 0"),
        ({"num_agents": 1}, "`num_agents` must be at least 2 for the baseline 'mean'; got 1"),
        ({"num_agents": 3, "baseline": "critic"}, "at least 4 for the baseline 'critic'"),
        ({"num_steps": 0}, "`num_steps` must be a whole number of at least 1; got 0"),
        ({"num_steps": 2**25}, "`num_steps` must be at most 16777216"),
        ({"baseline": "median"}, "`baseline` must be one of .*; got 'median'"),
        ({"log_prior": [0.0] * 3}, r"`log_prior` must have shape \(2,\) = \[models\]; got \(3,\)"),
        ({"log_prior": [[0.0, 0.0]]}, r"must have shape \(2,\) = \[models\]; got \(1, 2\)"),
        ({"exploration": 1.5}, "`exploration` must be a probability"),
        ({"key": jax.random.split(KEY, 3)}, "`key` must be one JAX key"),
        ({"statistic": lambda life: life.play}, r"`statistic` must return one real number; got"),
        ({"statistic": lambda life: life.outcome}, "`statistic` looks at what the agent intended"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(options, message):
    given: Any = {"key": KEY, "statistic": intends_first, "num_agents": 5, "num_steps": 4}
    given |= {"policy": bn.Logit(0.1), **options}
    with pytest.raises(ValueError, match=message):
        bn.design.expected(two_models(arrays(POINT)), **given)


def test_an_agent_is_asked_for():
    options: Any = {"num_agents": 5, "num_steps": 4}
    with pytest.raises(ValueError, match=r"`make` must return a bnjax.Agent; got Problem"):
        bn.design.score_gradient(two_models, arrays(POINT), KEY, intends_first, **options)
    with pytest.raises(ValueError, match="score of BestResponse is identically zero"):
        bn.design.score_gradient(
            lambda at: bn.Agent(two_models(at)), arrays(POINT), KEY, intends_first, **options
        )
    with pytest.raises(ValueError, match="`num_agents` must be at least 2 for a standard error"):
        bn.design.score_gradient(
            perfect_logit,
            arrays(POINT),
            KEY,
            intends_first,
            **(options | {"num_agents": 1, "baseline": "none"}),
        )
