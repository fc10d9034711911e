"""Simulated populations against closed forms, and against one learner on paper.

Statistical tests fix their key and take a tolerance from the standard error at the confidence that
they name; so does the confidence interval that a population reports.
"""

import math
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest, chi2, norm

import bnjax as bn
from bnjax import _cores
from bnjax._cores import tile_options, usable_cores
from bnjax._devices import packed, unpacked
from bnjax.learning import _memory_limit, _population, _simulate
from bnjax.learning._memory_limit import check_fits
from bnjax.learning._population import Population
from bnjax.learning._random import agent_keys, key_words, threefry, words
from tests.oracles import closed_forms, learner
from tests.oracles.random_problems import random_problem

ROOT = Path(__file__).parent.parent
KEY = jax.random.key(0)
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")


def two_models(p_sycophantic, p_honest, steps, q=0.65):
    """Lock-in probabilities are known in closed form: theta in {q, 1 - q}, prior odds in steps."""
    theta = jnp.array([q, 1 - q])
    rates = jnp.stack([theta, 1 - theta], axis=1)
    return bn.Problem(
        [[1 - p_sycophantic, p_sycophantic], [1 - p_honest, p_honest]],
        jnp.stack([1 - rates, rates], axis=-1),
        [[0.0, 1.0]] * 2,
        log_prior=[steps * math.log(q / (1 - q)), 0.0],
        theta=theta,
        safe=[False, True],
        action_names=["sycophantic", "honest"],
    )


def one_axis(p_sycophantic, p_honest, num_models=64):
    """Sycophancy on a grid of theta on which no model is indifferent."""
    theta = (jnp.arange(num_models, dtype=float) + 0.5) / num_models
    rates = jnp.stack([theta, 1 - theta], axis=1)
    return bn.Problem(
        [[1 - p_sycophantic, p_sycophantic], [1 - p_honest, p_honest]],
        jnp.stack([1 - rates, rates], axis=-1),
        [[0.0, 1.0]] * 2,
        theta=theta,
        safe=[False, True],
    )


def by(engine):
    """`bn.simulate` by one of the simulators, also where there is a faster one."""

    def simulate(*args, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_simulate, "_engine", lambda *_: engine)
            return bn.simulate(*args, **options)

    return simulate


# Those of two by two, on CPUs; "mixed" is made of two.
ENGINES = {name: by(name) for name in ("mixed", "moments", "blocked", "plain")}
plainly = ENGINES["plain"]


def assert_same_lives(first, second, but=0.0):
    """Equal results, apart from at most a share of the agents; log-beliefs up to rounding."""
    differs = np.zeros(first.outcome.shape, bool)
    for name in ("frequency", "late_frequency", "intended", "since", "switches", "outcome"):
        a, b = np.asarray(getattr(first, name)), np.asarray(getattr(second, name))
        differs |= (a != b).reshape(*differs.shape, -1).any(-1)
    assert differs.mean() <= but
    a, b = (np.asarray(x.log_belief)[~differs] for x in (first, second))
    np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
    finite = np.isfinite(a)
    scale = 1 + np.abs(b[finite])
    assert (np.abs(a[finite] - b[finite]) <= 1e-4 * scale).all()


# Random numbers


@pytest.mark.parametrize(
    ("key", "counter", "want"),  # known answers of Random123 (threefry2x32, 20 rounds)
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_threefry_has_its_known_answers(key, counter, want):
    pairs = (tuple(jnp.asarray([x], jnp.uint32) for x in pair) for pair in (key, counter))
    assert tuple(int(x[0]) for x in threefry(*pairs)) == want


@pytest.mark.parametrize("kind", ["threefry2x32", "raw"])
def test_keys_of_agents_are_what_jax_makes_of_theirs(kind):
    agents = jnp.asarray([0, 1, 2, 1000, 2**31 - 1], jnp.int32)
    key = jax.random.PRNGKey(7) if kind == "raw" else jax.random.key(7, impl=kind)
    mine = [jax.random.fold_in(key, i) for i in agents]
    bits = [jax.random.bits(key, (2,), jnp.uint32) for key in mine]
    np.testing.assert_array_equal(agent_keys(key, agents), jnp.stack(bits, axis=1))
    with jax.threefry_partitionable(False):  # nor does it matter how JAX draws
        np.testing.assert_array_equal(agent_keys(key, agents), jnp.stack(bits, axis=1))
        np.testing.assert_array_equal([key_words(key) for key in mine], bits)


@pytest.mark.parametrize("double", [False, True])
def test_what_is_packed_is_unpacked(double):
    with jax.enable_x64(double):
        check_packing()


def check_packing():
    tree = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": (jnp.asarray([1, 2]), KEY, jax.random.key(3, impl="rbg"), "text", None),
        "c": jax.device_put(jnp.ones(3), jax.devices()[0]),  # where it is, it stays
        "d": np.zeros((4, 0), np.float32),
        "e": (jnp.asarray(0.5), jnp.asarray([True, False]), np.arange(3, dtype=np.uint8)),
        "g": (np.ones((2, 3)), np.arange(4)[::2], np.float32([1, 2]).astype(">f4")),
        "f": np.ones((2**9, 2**9), np.float32),  # more than it pays to copy
        "h": (np.arange(3, dtype=np.float16), np.asarray([1 / 3, -(2**60)]), np.zeros((0, 2))),
    }
    layout, arrays = packed(tree)
    assert hash(layout) == hash(packed(tree)[0])
    if jax.default_backend() == "cpu":
        assert len(arrays) == 3  # what is bound, what is large, and all others together
    again = unpacked(layout, arrays)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        if a is not b:
            want = jnp.asarray(a.astype(a.dtype.newbyteorder("=")) if type(a) is np.ndarray else a)
            assert want.dtype == b.dtype
            assert want.shape == b.shape
            assert bool((want == b).all())


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_key_of_an_agent_depends_on_nobody_else(kind):
    key = jax.random.key(7, impl=kind)
    many = agent_keys(key, jnp.arange(100))
    np.testing.assert_array_equal(many[:, 40:43], agent_keys(key, jnp.arange(40, 43)))
    assert np.unique(np.asarray(many)).size == 200


def test_streams_look_random():
    """Bits are even, and neighbours in step, in agent and in word are independent (99.9%)."""
    keys = agent_keys(KEY, jnp.arange(256))
    found = np.asarray(words(keys, jnp.int32(5), 256))  # [steps, 2, agents]
    np.testing.assert_array_equal(found[3:5], words(keys, jnp.int32(8), 2))
    nibbles = [found >> 28, (found >> 12) & 15]
    pairs = [(found[:-1], found[1:]), (found[:, 0], found[:, 1]), (found[..., :-1], found[..., 1:])]
    counts = [np.bincount(x.ravel(), minlength=16) for x in nibbles]
    counts += [np.bincount(((a >> 28) * 16 + (b >> 28)).ravel(), minlength=256) for a, b in pairs]
    for count in counts:
        even = count.sum() / len(count)
        assert ((count - even) ** 2 / even).sum() < chi2.ppf(0.999, len(count) - 1)


# Against one learner on paper


POLICIES = {
    "best response": (lambda: bn.BestResponse(), None),
    "logit": (lambda: bn.Logit(0.1), lambda b, u: _softmax(b @ u / 0.1)),
    "thompson": (lambda: bn.ThompsonSampling(), lambda b, u: b @ (u >= u.max(1, keepdims=True))),
}
MEMORIES = {
    "perfect": (lambda: bn.PerfectMemory(), lambda h: [(a, y, 1.0) for a, y in h]),
    "discounted": (
        lambda: bn.DiscountedMemory(0.25),
        lambda h: [(a, y, 0.75 ** (len(h) - 1 - i)) for i, (a, y) in enumerate(h)],
    ),
    "window": (lambda: bn.WindowMemory(4), lambda h: [(a, y, 1.0) for a, y in h[-4:]]),
}


def _softmax(values):
    weights = np.exp(values - values.max())
    return weights / weights.sum()


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_lives_are_those_on_paper(policy, memory, x64):
    """Action by action, in float64, for the same random numbers."""
    make_policy, choose = POLICIES[policy]
    make_memory, remembered = MEMORIES[memory]
    choose = choose or (
        lambda belief, payoffs: np.eye(payoffs.shape[1])[(belief @ payoffs).argmax()]
    )
    arrays = random_problem(3, "generic", num_actions=3, num_models=5)
    problem = bn.Problem(**arrays)
    num_steps, agents = 25, 4
    result = bn.simulate(
        problem,
        KEY,
        num_agents=agents,
        num_steps=num_steps,
        policy=make_policy(),
        memory=make_memory(),
        record=bn.Running(
            lambda agent: (jnp.zeros(num_steps, jnp.int32), jnp.zeros(num_steps, jnp.int32)),
            lambda carry, step, state, agent: (
                carry[0].at[step.time].set(step.action),
                carry[1].at[step.time].set(step.consequence),
            ),
        ),
        tile=4,
    )
    keys = agent_keys(KEY, jnp.arange(agents))
    numbers = np.asarray(words(keys, jnp.int32(0), num_steps)) / 2.0**32
    for i in range(agents):
        life = learner.live(
            np.asarray(problem.probs),
            np.asarray(problem.model_probs),
            np.asarray(problem.payoff),
            np.asarray(problem.log_prior),
            numbers[:, :, i],
            choose,
            remembered,
        )
        assert result.record[0][i].tolist() == life.actions
        assert result.record[1][i].tolist() == life.consequences
        np.testing.assert_allclose(result.belief[i], life.belief, rtol=0, atol=1e-9)
        paid = np.asarray(problem.payoff)[life.actions, life.consequences].mean()
        assert math.isclose(float(result.mean_payoff[i]), paid, rel_tol=1e-12)
        counts = np.bincount(life.actions, minlength=3)
        np.testing.assert_allclose(result.frequency[i] * num_steps, counts, atol=1e-9)
        late = np.bincount(life.actions[num_steps // 2 :], minlength=3) / 13
        np.testing.assert_allclose(result.late_frequency[i], late, atol=1e-9)


def test_an_agent_step_by_step_is_what_is_simulated():
    problem, key = one_axis(0.4, 0.4), jax.random.key(3)
    agent = bn.Agent(problem, bn.Logit(0.2), bn.WindowMemory(7))
    state = agent.init()
    mine = jax.random.fold_in(key, 2)
    actions = []
    for _ in range(12):
        state, step = agent.step(mine, state)
        actions.append(int(step.action))
    options = {"policy": bn.Logit(0.2), "memory": bn.WindowMemory(7), "tile": 4}
    result = bn.simulate(problem, key, num_agents=3, num_steps=12, **options)
    np.testing.assert_allclose(result.frequency[2, 0], actions.count(0) / 12, rtol=1e-6)
    np.testing.assert_allclose(result.belief[2], agent.belief(state), rtol=1e-5)


# Closed forms


@pytest.mark.parametrize("steps", [-2, -1, 0, 1, 2, 3])
def test_lock_in_probability(steps):
    """Inside the 99.9% interval of 100,000 agents; odds that grow for ever are decided by 400."""
    p_sycophantic, p_honest = 0.7, 0.6
    result = bn.simulate(
        two_models(p_sycophantic, p_honest, steps),
        jax.random.key(steps + 2),
        num_agents=100_000,
        num_steps=600,
    )
    want = closed_forms.lock_in_probability(p_sycophantic, p_honest, steps)
    shares = result.shares(0.999)
    assert shares["locked 0"].low <= want <= shares["locked 0"].high
    assert shares["mixing"].count == 0


def test_log_odds_of_the_coin_are_a_walk():
    """Variance t log(3)^2; of n samples the variance has relative standard error sqrt(2 / n)."""
    num_agents, num_steps = 40_000, 400
    result = bn.simulate(bn.scenarios.coin(), KEY, num_agents=num_agents, num_steps=num_steps)
    odds = np.asarray(result.log_belief, float)
    variance = np.var(odds[:, 1] - odds[:, 0])
    want = closed_forms.coin_log_odds_variance(num_steps)
    assert abs(variance / want - 1) < norm.ppf(0.9995) * math.sqrt(2 / num_agents)
    assert set(np.asarray(result.outcome).tolist()) == {bn.Outcome.LOCKED}


@pytest.mark.parametrize(("p_sycophantic", "p_honest"), [(0.3, 0.4), (0.1, 0.45)])
def test_oscillation_mixes_as_the_equilibrium_says(p_sycophantic, p_honest):
    result = bn.simulate(
        one_axis(p_sycophantic, p_honest, 257), KEY, num_agents=256, num_steps=6000
    )
    share = float(result.late_frequency[:, 0].mean())
    assert abs(share - closed_forms.sycophancy_mixture(p_sycophantic, p_honest)) < 0.01
    assert result.shares()["mixing"].share > 0.98


def test_monopolist_time_average():
    """Near 35/36, up to the grid and up to chance, by a martingale.

    Sellers believe in a grid of demand lines, whose equilibrium s* is another one: two lines fit
    equally well there, and the better one changes the price. Log-odds L of the two grow by d_a on
    average where price a is played, and s* d_0 + (1 - s*) d_1 = 0. So after n steps with share s
    of the first price, (s - s*) (d_0 - d_1) - (L_n - L_0) / n has mean zero, and variance
    (s v_0 + (1 - s) v_1) / n, where v_a is the variance of what L grows by.
    """
    problem = bn.scenarios.monopolist().discretize(9)
    prices, demand = np.array([2.0, 10.0]), np.array([34.0, 2.0])
    theta = np.asarray(problem.theta, float)
    lines = theta[:, :1] - theta[:, 1:] * prices  # mean demand
    off = (lines - demand) ** 2 / 2  # Kullback-Leibler divergences, [lines, prices]
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        best = prices * lines[(off @ [share, 1 - share]).argmin()]
        low, high = (share, high) if best[0] > best[1] else (low, share)
    one, two = ((off @ [s, 1 - s]).argmin() for s in (low - 1e-6, high + 1e-6))
    exact = bn.equilibria(problem)
    found = np.asarray(exact.strategy)[np.asarray(exact.valid)][:, 0]
    np.testing.assert_allclose(found, low, atol=1e-4)

    steps, agents = 3000, 128
    options = {"num_agents": agents, "num_steps": steps}
    result = bn.simulate(problem, KEY, record=bn.Trajectory(steps // 2, beliefs=True), **options)
    odds = np.log(np.asarray(result.trajectory.belief, float)[..., [one, two]]) @ [1.0, -1.0]
    grown = (odds[:, 1] - odds[:, 0]).mean() / (steps // 2)
    share = float(result.late_frequency[:, 0].mean())
    drift = off[two] - off[one]
    variance = np.array([share, 1 - share]) @ (lines[one] - lines[two]) ** 2 / (steps // 2)
    by_chance = 4 * math.sqrt(variance / agents)
    slope = drift[0] - drift[1]
    assert abs((share - low) * slope - grown) <= by_chance
    allowed = (by_chance + abs(grown)) / abs(slope)
    assert allowed < 0.005
    published = closed_forms.monopolist()[0]
    assert abs(share - published) <= abs(low - published) + allowed < 0.02


def test_a_correct_model_and_exploration_find_the_optimum():
    rates = jnp.linspace(0.05, 0.95, 10)
    first, second = (x.ravel() for x in jnp.meshgrid(rates, rates))
    models = jnp.stack([first, second], axis=1)
    problem = bn.Problem(
        [[0.65, 0.35], [0.45, 0.55]],
        jnp.stack([1 - models, models], axis=-1),
        [[0.0, 1.0]] * 2,
    )
    result = bn.simulate(problem, KEY, num_agents=200, num_steps=3000, exploration=0.1)
    np.testing.assert_allclose(result.late_frequency[:, 1].mean(), 0.95, atol=0.01)
    assert (np.asarray(result.intended) == 1).mean() > 0.98
    same = bn.simulate(problem, KEY, num_agents=200, num_steps=3000, policy=bn.EpsilonGreedy(0.1))
    assert_same_lives(result, same)


# The blocked simulator


@pytest.mark.parametrize(
    ("num_actions", "kind", "policy"),
    [
        pytest.param(1, "generic", bn.BestResponse(), marks=pytest.mark.slow),
        (2, "generic", bn.BestResponse("last")),
        (2, "infinite", bn.Logit(0.05)),
        (3, "infinite", bn.BestResponse("uniform")),
        (3, "generic", bn.ThompsonSampling()),
    ],
    ids=str,
)
def test_blocked_equals_plain(num_actions, kind, policy):
    shape = {"num_actions": num_actions, "num_models": 9, "num_consequences": 3}
    for seed in range(5):
        problem = bn.Problem(**random_problem(seed, kind, **shape))
        options = {"num_agents": 64, "num_steps": 300, "tile": 64, "policy": policy}
        found = bn.simulate(problem, KEY, **options)
        assert_same_lives(found, plainly(problem, KEY, **options), but=0.02)


def test_blocked_equals_plain_where_beliefs_swing_far():
    """10^7 agent-steps in float32, with models so sure that one surprise costs 14 nats."""
    theta = jnp.array([1e-6, 1e-3, 0.2, 0.49, 0.51, 0.8, 1 - 1e-3, 1 - 1e-6])
    rates = jnp.stack([theta, 1 - theta], axis=1)
    problem = bn.Problem(
        [[0.55, 0.45], [0.6, 0.4]],
        jnp.stack([1 - rates, rates], axis=-1),
        [[0.0, 1.0]] * 2,
        log_prior=np.log([0.1, 0.15, 0.2, 0.05, 0.07, 0.13, 0.12, 0.18]),
    )
    options = {"num_agents": 5120, "num_steps": 2000, "tile": 512}
    plain = plainly(problem, KEY, **options)
    for engine in ("moments", "blocked"):
        found = ENGINES[engine](problem, KEY, **options)
        assert float(jnp.ptp(jnp.where(jnp.isfinite(found.log_belief), found.log_belief, 0))) > 100
        assert_same_lives(found, plain)


def test_what_is_left_may_be_far_below_what_was_ruled_out():
    """Models that the weights of others would have flushed to zero decide after these are dead."""
    problem = bn.Problem(
        [[0.1, 0.9], [0.5, 0.5]],
        [
            [[0.0, 1.0], [0.5, 0.5]],
            [[0.4, 0.6], [0.55, 0.45]],
            [[0.3, 0.7], [0.35, 0.65]],
            [[1e-5, 1 - 1e-5], [0.5, 0.5]],
        ],
        [[0.0, 1.0], [0.8, 0.8]],
        log_prior=[0.0, -180.0, -181.0, -400.0],
    )
    options = {"num_agents": 128, "num_steps": 100, "tile": 128}
    plain = plainly(problem, KEY, **options)
    for engine in ("moments", "blocked"):
        assert_same_lives(ENGINES[engine](problem, KEY, **options), plain)


@pytest.mark.parametrize("num_steps", [1, pytest.param(33, marks=pytest.mark.slow)])
def test_few_steps_by_every_simulator(num_steps):
    options = {"num_agents": 64, "num_steps": num_steps, "tile": 64}
    problem = one_axis(0.4, 0.35)
    plain = plainly(problem, KEY, **options)
    assert num_steps > 1 or not np.asarray(plain.switches)[:, 0].any()
    for engine in ("moments", "blocked"):
        assert_same_lives(ENGINES[engine](problem, KEY, **options), plain)


@pytest.mark.parametrize("engine", [None, pytest.param("blocked", marks=pytest.mark.slow)])
def test_other_agents_priors_never_change_a_life(engine):
    """Of 31 agents, to whom 33 come with priors that settle play at once, or rule out models."""
    rates = jnp.linspace(0.05, 0.95, 16)
    rates = jnp.stack([rates, 1 - rates], axis=1).at[0, 0].set(1.0)
    models = jnp.stack([1 - rates, rates], axis=-1)
    problem = bn.Problem([[0.6, 0.4], [0.65, 0.35]], models, [[0.0, 1.0]] * 2)
    mine = np.random.default_rng(3).normal(size=(31, 16))
    sure = np.where(np.arange(16) < 2, 0.0, -300.0)
    options = {"num_steps": 1000, "tile": 64}
    simulate = bn.simulate if engine is None else ENGINES[engine]
    few = simulate(problem, KEY, num_agents=31, log_prior=mine, **options)
    all_priors = np.concatenate([mine, np.tile(sure, (33, 1))])
    many = simulate(problem, KEY, num_agents=64, log_prior=all_priors, **options)
    for name in ("frequency", "since", "switches", "log_belief"):
        np.testing.assert_array_equal(getattr(few, name), np.asarray(getattr(many, name))[:31])


def test_a_model_that_is_ruled_out_never_returns():
    problem = bn.Problem(
        [[0.05, 0.95], [0.5, 0.5]],
        [[[0.0, 1.0], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]], [[1e-5, 1 - 1e-5], [0.5, 0.5]]],
        [[0.0, 1.0], [0.7, 0.7]],
        log_prior=[0.0, -60.0, -5.0],
    )
    options = {"num_agents": 512, "num_steps": 200, "tile": 512}
    plain = plainly(problem, KEY, **options)
    for engine in ("mixed", "moments", "blocked"):
        found = ENGINES[engine](problem, KEY, **options)
        dead = np.asarray(found.log_belief)[:, 0] == -np.inf
        assert 0.9 < dead.mean() <= 1
        assert_same_lives(found, plain)


# The same numbers whatever the way


def test_adding_agents_never_changes_the_earlier_ones():
    """To the last bit: 33 models, for which XLA rounds a program of one tile in another way."""
    excluding = bn.Problem(
        rates(0.95, 0.5), [rates(1.0, 0.5), rates(0.6, 0.5)], [[0.0, 1.0], [0.7, 0.7]]
    )
    for problem, choice in (
        (one_axis(0.7, 0.6, 33), {}),
        (one_axis(0.7, 0.6, 33), {"policy": bn.Logit(0.1)}),
        (excluding, {"exploration": 0.1}),
    ):
        options = {"num_steps": 150, "tile": 16, **choice}
        many = bn.simulate(problem, KEY, num_agents=180, **options)
        for num_agents in (1, 16, 17, 50, 64, 65):
            few = bn.simulate(problem, KEY, num_agents=num_agents, **options)
            for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
                np.testing.assert_array_equal(a, b[:num_agents])


def dealt_out(few=False):
    """Leaves of populations of every simulator of CPUs; one problem has no parameters."""
    options = {"num_agents": 700, "num_steps": 80, "tile": 64, "record": bn.Trajectory(20)}
    choices = ({}, {"memory": bn.WindowMemory(9)}, {"policy": bn.Logit(0.1)})
    nameless = bn.Problem(**random_problem(1, num_actions=2, num_consequences=2, num_models=70))
    found = [bn.simulate(nameless, jax.random.key(2), num_agents=1300, num_steps=300, tile=128)]
    for choice in choices[: 1 if few else 3]:
        found += [bn.simulate(one_axis(0.4, 0.4), jax.random.key(1), **options, **choice)]
    if not few:
        found += [bn.simulate(one_axis(0.7, 0.6, 33), KEY, num_agents=180, num_steps=200, tile=16)]
    return jax.tree.leaves(found)


@pytest.mark.parametrize(
    ("granted", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 3)]
)
def test_containers_may_grant_fewer_cores(granted, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(granted + "\n")
    monkeypatch.setattr(_cores, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(_cores, "_granted", _cores._granted.__wrapped__)
    monkeypatch.setattr(_cores.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_cores() == cores


@ON_CPU
def test_cores_do_not_change_results(monkeypatch):
    monkeypatch.setattr(_simulate, "_MOST_TILES", 4)  # one program for any number of cores
    found = []
    for cores in (1, 3, 4):
        monkeypatch.setattr(_cores, "usable_cores", lambda cores=cores: cores)
        found.append(dealt_out())
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_devices_do_not_change_results(tmp_path, monkeypatch):
    """Those of CPUs are dealt out as if they were others, which a test may not have."""
    code = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from bnjax import _devices
from bnjax.learning import _population, _simulate
from tests.test_simulate import dealt_out
devices = jax.sharding.Mesh(np.asarray(jax.local_devices()), ("devices",))
_devices.mesh = _population.mesh = lambda: devices
_simulate.num_workers = jax.local_device_count
_simulate.run_all = _population._to_devices
np.savez(sys.argv[1], *dealt_out(few=True))
"""
    file = tmp_path / "four.npz"
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, check=True)
    others = np.load(file)
    monkeypatch.setattr(_simulate, "_MOST_TILES", 4)  # as above: compiled already
    for leaf, name in zip(dealt_out(few=True), others.files, strict=True):
        np.testing.assert_array_equal(leaf, others[name])


@ON_CPU
def test_threads_take_over_the_precision_of_their_caller(x64, monkeypatch):
    monkeypatch.setattr(_cores, "usable_cores", lambda: 3)
    monkeypatch.setattr(_simulate, "_MOST_TILES", 2)
    problem = one_axis(0.7, 0.6)
    assert problem.models.dtype == jnp.float64
    result = bn.simulate(problem, KEY, num_agents=50, num_steps=70, tile=8)
    assert result.frequency.dtype == jnp.float64
    monkeypatch.setattr(_cores, "usable_cores", lambda: 1)
    alone = bn.simulate(problem, KEY, num_agents=50, num_steps=70, tile=8)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cores", [1, 3])
def test_progress_tells_of_all_agents_and_may_stop_them(cores, monkeypatch):
    monkeypatch.setattr(_cores, "usable_cores", lambda: cores)
    monkeypatch.setattr(_simulate, "_MOST_TILES", 2)
    told = []

    def run(progress):
        options = {"num_agents": 100, "num_steps": 70, "tile": 8}
        return bn.simulate(one_axis(0.7, 0.6), KEY, progress=progress, **options)

    run(lambda *done: told.append(done))
    if jax.default_backend() == "cpu" and cores == 1:
        assert len(told) == 8  # two tiles of eight at a time, the last not full
    if jax.default_backend() == "cpu":
        assert told[0] == (0, 100)  # all has been compiled
    assert told == sorted(told)
    assert told[-1] == (100, 100)

    if jax.default_backend() == "cpu" and cores == 1:
        monkeypatch.setattr(_simulate, "_MOST_TILES", 16)
        for most, ends in ((2**25, [0, 100]), (1, [0, 32, 64, 96, 100])):
            # Of long lives, no more at a time than share the lanes of a tile: four tiles.
            monkeypatch.setattr(_population, "_MOST_SHARE", most)
            told.clear()
            run(lambda *done: told.append(done))
            assert told == [(end, 100) for end in ends]

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)


@ON_CPU
def test_kernels_are_not_divided_among_cores():
    """If XLA gives its pass another name, programs get slower, and this fails."""

    def text(options):
        work = jax.jit(lambda x: jnp.polyval(jnp.arange(20.0), x), compiler_options=options)
        return work.lower(jnp.ones((512, 512))).compile().as_text()

    if usable_cores() > 1:
        assert "outer_dimension_partitions" in text(None)
    assert "outer_dimension_partitions" not in text(tile_options())


def test_vmap_equals_a_loop():
    def run(p, key):
        problem = bn.scenarios.sycophancy(p, 0.6).discretize(16)
        result = bn.simulate(problem, key, num_agents=20, num_steps=70, tile=32)
        return result.frequency, result.outcome

    values, keys = jnp.array([0.2, 0.7]), jax.random.split(KEY, 2)
    found = jax.jit(jax.vmap(run))(values, keys)
    for i in range(2):
        for a, b in zip(found, run(values[i], keys[i]), strict=True):
            np.testing.assert_array_equal(a[i], b)


@pytest.mark.parametrize("log_prior", [None, [0.0, 1.0]], ids=["its prior", "another"])
def test_only_the_key_may_be_traced(log_prior):
    options = {"num_agents": 10, "num_steps": 3, "log_prior": log_prior}
    problem = two_models(0.7, 0.6, 0)
    shape = jax.eval_shape(lambda key: bn.simulate(problem, key, **options).outcome, KEY)
    assert shape.shape == (10,)


@pytest.mark.parametrize(("first", "others"), [(20, (20, 1, 64)), (100, (100, 65, 999))])
def test_one_compilation_for_all_values(first, others, monkeypatch):
    problem = one_axis(0.4, 0.4)
    bn.simulate(problem, KEY, num_agents=100, num_steps=first, tile=32)
    monkeypatch.setattr(_population, "_run_tiles", None)  # not traced again
    sizes = [(100, first), *zip((101, 100, 98), others, strict=True)]
    for p, (num_agents, num_steps) in zip((0.3, 0.9, 0.9, 0.9), sizes, strict=True):
        size = {"num_agents": num_agents, "num_steps": num_steps, "tile": 32}
        assert bn.simulate(one_axis(p, 0.6), jax.random.key(5), **size).num_steps == num_steps


@pytest.mark.slow
def test_without_compilation():
    # For whoever looks for an error in a policy: slow, but step by step.
    size = {"num_agents": 1, "num_steps": 2, "tile": 1}
    want = bn.simulate(TOSSES, KEY, **size)
    with jax.disable_jit():
        result = bn.simulate(TOSSES, KEY, **size)
    assert result.num_steps == 2
    np.testing.assert_array_equal(result.frequency, want.frequency)


@pytest.mark.parametrize("num_steps", [1, 31, 500])
def test_what_a_compiler_knows_of_the_steps_changes_no_life(num_steps):
    # A program of the caller's is compiled for their number, that of `simulate` for any.
    problem, size = one_axis(0.4, 0.35), {"num_agents": 50, "num_steps": num_steps, "tile": 32}
    result = bn.simulate(problem, KEY, **size)
    inside = jax.jit(lambda key: bn.simulate(problem, key, **size))(KEY)
    for name in ("frequency", "late_frequency", "mean_payoff", "since", "switches", "outcome"):
        np.testing.assert_array_equal(getattr(result, name), getattr(inside, name))
    counts = np.asarray(result.frequency, np.float64) * num_steps
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-7 * num_steps)
    np.testing.assert_array_equal(np.rint(counts).sum(1), num_steps)


# What is kept


def test_trajectory():
    problem = one_axis(0.4, 0.4)
    options = {"num_agents": 40, "num_steps": 95, "tile": 64}
    record = bn.Trajectory(10, beliefs=True)
    result = bn.simulate(problem, KEY, record=record, **options)
    shots = result.trajectory
    assert shots.action_counts.shape == (40, 9, 2)
    np.testing.assert_array_equal(shots.time, np.tile(np.arange(10, 91, 10), (40, 1)))
    np.testing.assert_allclose(shots.belief.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(shots.belief @ problem.theta, shots.mean_theta, atol=1e-5)
    # A shorter run ends where a longer one has passed.
    short = bn.simulate(problem, KEY, num_agents=40, num_steps=70, tile=64)
    np.testing.assert_allclose(short.frequency * 70, shots.action_counts[:, 6], atol=1e-4)
    np.testing.assert_allclose(short.belief, shots.belief[:, 6], atol=1e-5)
    plain = plainly(problem, KEY, record=record, **options).trajectory
    for a, b in zip(jax.tree.leaves(shots), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_priors_by_agent():
    problem = two_models(0.7, 0.6, 0)
    priors = jnp.where(
        jnp.arange(60)[:, None] < 30, jnp.array([0.0, -200.0]), jnp.array([-200.0, 0.0])
    )
    for run in (bn.simulate, plainly):
        result = run(problem, KEY, num_agents=60, num_steps=40, log_prior=priors)
        np.testing.assert_array_equal(result.intended, np.arange(60) >= 30)


def test_gaussian_populations():
    """Two models, one of them the truth: its log-odds grow by the divergence, on average."""
    problem = bn.GaussianProblem(
        [1.0], [2.0], [[1.0], [2.5]], [[2.0], [2.0]], [0.0], [1.0], theta=[1.0, 2.5]
    )
    result = bn.simulate(problem, KEY, num_agents=4000, num_steps=50)
    odds = np.asarray(result.log_belief[:, 0] - result.log_belief[:, 1], float)
    each = float(problem.kl_matrix()[1, 0])
    error = norm.ppf(0.9995) * math.sqrt(2 * each * 50 / 4000)
    assert abs(odds.mean() - 50 * each) < error
    payoff = np.asarray(result.mean_payoff, float)
    assert abs(payoff.mean() - 1) < norm.ppf(0.9995) * 2 / math.sqrt(4000 * 50)


class Doubtful(bn.AbstractPolicy):
    """Play the second action the more, the less certain of the first: a user's own policy."""

    def features(self, payoffs):
        return jnp.stack([payoffs[:, 0], payoffs[:, 0] ** 2], axis=1)

    def probabilities(self, means, slack):
        spread = jnp.sqrt(jnp.maximum(means[1] - means[0] ** 2, 0.0))
        doubt = jnp.minimum(2 * spread, 1.0)
        return jnp.stack([1 - doubt, doubt])


class Grudge(bn.AbstractMemory):
    """Remember disappointments twice: a memory of a user's own."""

    def init(self, nothing):
        return nothing

    def update(self, state, observation, time):
        weight = jnp.where(observation.features[0] > 0, 2.0, 1.0)
        return bn.Observation(observation.action, weight * observation.features).added(state)

    def evidence(self, state):
        return state, state != 0


def test_what_is_derived_from_a_built_in_does_as_it_says():
    """Simulators know the ways of built-in policies and memories, not of all that inherit."""

    class Contrary(bn.BestResponse):
        def probabilities(self, means, slack):
            return super().probabilities(means, slack)[::-1]

    class Deaf(bn.PerfectMemory):
        def update(self, state, observation, time):
            return state

    class Blank(bn.WindowMemory):
        def evidence(self, state):
            return jnp.zeros_like(state[0]), state[0] > jnp.inf

    # Any belief prefers the second action.
    problem = bn.Problem([[0.5, 0.5]] * 2, [[[0.6, 0.4]] * 2, [[0.3, 0.7]] * 2], [[0, 0], [1, 2]])
    few = {"num_agents": 3, "num_steps": 20, "tile": 3}
    assert (bn.simulate(problem, KEY, policy=Contrary(), **few).intended == 0).all()
    for memory in (Deaf(), Blank(50)):
        found = bn.simulate(problem, KEY, memory=memory, **few)
        assert (found.intended == 1).all()
        np.testing.assert_allclose(found.belief, 0.5, rtol=1e-6)


def test_policies_and_memories_of_a_users_own():
    problem = one_axis(0.6, 0.6)
    options = {"num_agents": 32, "num_steps": 200, "policy": Doubtful(), "tile": 32}
    result = bn.simulate(problem, KEY, **options)
    assert_same_lives(result, plainly(problem, KEY, **options), but=0.1)
    # A flat prior over theta has sd 0.29, and 200 observations leave about 0.035 of that.
    assert 0.9 < float(result.late_frequency[:, 0].mean()) < 0.96
    sour = bn.simulate(
        problem, KEY, memory=Grudge(), num_agents=400, num_steps=300, exploration=0.5
    )
    kind = bn.simulate(problem, KEY, num_agents=400, num_steps=300, exploration=0.5)
    # Half the time each, the axis shows theta = 1/2, and disappointments move it both ways alike:
    # by (1 - p) of both, so that it stays there; but beliefs from more evidence are surer.
    for result in (sour, kind):
        assert abs(float(result.mean_theta.mean()) - 0.5) < 0.02
    assert float(sour.belief.max(1).mean()) > float(kind.belief.max(1).mean())


@ON_CPU
def test_memory_does_not_grow_with_steps(monkeypatch):
    """Neither what comes back nor what a compiled program works with."""
    sizes = []

    def measure(plan, population, *rest):
        layout, arrays = packed(population)
        lowered = _population._shared().lower(plan, layout, arrays, np.zeros(2, np.int32))
        used = lowered.compile().memory_analysis()
        sizes.append((used.temp_size_in_bytes, used.output_size_in_bytes))
        return _population.run_all(plan, population, *rest)

    monkeypatch.setattr(_simulate, "run_all", measure)
    for num_steps in (100, 10_000):
        bn.simulate(one_axis(0.4, 0.4), KEY, num_agents=8, num_steps=num_steps, tile=8)
    assert sizes[0] == sizes[1]
    assert min(sizes[0]) > 0


def test_shares_have_exact_intervals():
    result = bn.simulate(two_models(0.7, 0.6, 0), KEY, num_agents=300, num_steps=100)
    for share in result.shares(0.9).values():
        want = binomtest(share.count, 300).proportion_ci(0.9, method="exact")
        np.testing.assert_allclose((share.low, share.high), want, atol=1e-11)  # SciPy seeks a root
    assert sum(s.count for s in result.shares().values()) == 300
    assert "locked on sycophantic: 0." in result.summary(two_models(0.7, 0.6, 0))


@pytest.mark.parametrize(
    ("intended", "want"),
    [
        ([0, 1, 0, 1, 1, 1, 1, 1, 1, 1], bn.Outcome.LOCKED),
        ([0, 0, 0, 0, 0, 0, 1, 1, 0, 1], bn.Outcome.MIXING),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], bn.Outcome.UNDECIDED),
        ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], bn.Outcome.UNDECIDED),
    ],
    ids=["locked", "mixing", "late", "at half"],
)
def test_outcomes(intended, want):
    """The rule itself, on what was intended in ten steps."""
    script = jnp.asarray(intended)

    from bnjax.learning._agent import Step
    from bnjax.learning._outcome import outcome_of
    from bnjax.learning._record import new_tally, tallied

    tally = new_tally(jnp.zeros((2, 2)))
    for time, action in enumerate(script):
        action = action.astype(jnp.int32)
        observation = bn.Observation(action, jnp.array([1.0, 0.0]))
        step = Step(jnp.int32(time), action, action, action, jnp.zeros(()), observation)
        tally = tallied(tally, step, len(intended))
    assert int(outcome_of(tally, len(intended), jnp.asarray(True))) == want


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_agents": 0}, "`num_agents` must be a whole number of at least 1; got 0"),
        ({"num_agents": -3}, "`num_agents` must be a whole number of at least 1; got -3"),
        ({"num_steps": 0}, "`num_steps` must be a whole number of at least 1; got 0"),
        ({"num_steps": -1}, "`num_steps` must be a whole number of at least 1; got -1"),
        ({"num_steps": 2**25}, "`num_steps` must be at most 16777216 in float32"),
        ({"log_prior": [0.0] * 3}, r"`log_prior` must have shape \(2,\) = \[models\] or \(5, 2\)"),
        ({"log_prior": [math.nan, 0.0]}, "`log_prior` must hold finite log-weights or -inf"),
        ({"log_prior": [-math.inf] * 2}, "`log_prior` must support, for every agent, a model"),
        ({"record": bn.Trajectory(20)}, "`record.every` must be at most the number of steps, 10"),
        ({"exploration": 1.5}, "`exploration` must be a probability"),
        ({"tile": 0}, "`tile` must be a whole number of at least 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        bn.simulate(two_models(0.7, 0.6, 0), KEY, **{"num_agents": 5, "num_steps": 10, **options})


def test_numbers_of_steps_have_32_bits(x64):
    with pytest.raises(ValueError, match="must be at most 1073741824 in float64"):
        bn.simulate(one_axis(0.7, 0.6), KEY, num_agents=1, num_steps=2**31)


def test_arguments_of_another_type_are_refused_in_words():
    # Without the checks of types that these tests run under, as users have it.
    script = """
import bnjax as bn, jax

def simulate(**options):
    bn.simulate(bn.scenarios.coin(), jax.random.key(0), num_agents=5, num_steps=10, **options)

for call in (
    lambda: simulate(policy="greedy"),
    lambda: simulate(memory=10),
    lambda: simulate(record="all"),
    lambda: bn.Running(lambda agent: 0, 3),
    lambda: bn.EpsilonGreedy(0.1, bn.Logit(0.1)),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    policy, memory, record, update, response = run.stdout.splitlines()
    assert policy.startswith("`policy` must be a bnjax policy")
    assert memory.startswith("`memory` must be a bnjax memory")
    assert record.startswith("`record` must be bn.Trajectory, bn.Running or None")
    assert update.startswith("`update` must be a function")
    assert response.startswith("`response` must be a bn.BestResponse; got Logit(")


def test_what_would_not_fit_is_refused_with_its_size():
    with pytest.raises(ValueError, match=r"would take [\d,.]+ GiB"):
        bn.simulate(
            one_axis(0.4, 0.4),
            KEY,
            num_agents=1_000_000,
            num_steps=5_000,
            record=bn.Trajectory(1, beliefs=True),
        )
    check_fits(16, 1000, work=2**17)
    with pytest.raises(ValueError, match="to work with"):  # few agents, but each remembers much
        check_fits(44, 1, work=2**41)
    with pytest.raises(ValueError, match=r"would take [\d,.]+ GiB"):  # also where it is traced
        jax.eval_shape(
            lambda key: bn.simulate(TOSSES, key, num_agents=10**11, num_steps=1).outcome, KEY
        )


def test_memory_is_what_machine_group_and_process_leave(tmp_path, monkeypatch):
    free = _memory_limit.available_memory()
    assert free is None or free > 2**20
    monkeypatch.setattr(_memory_limit, "_of_machine", lambda: 2**40)
    monkeypatch.setattr(_memory_limit, "_GROUPS", tmp_path)
    monkeypatch.setattr(_memory_limit, "_OWN_GROUPS", tmp_path / "cgroup")
    assert _memory_limit.available_memory() == 2**40
    v2 = "memory.max", "memory.current", "memory.stat"
    v1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"

    def written(folder, names, *texts):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(names, texts, strict=True):
            (folder / name).write_text(text)
        return _memory_limit.available_memory()

    # Files that are merely remembered make room when it is needed.
    stat = "anon 300\nfile 200\nactive_file 50\ninactive_file 100"
    assert written(tmp_path, v2, "max", "5", "inactive_file 7") == 2**40
    assert written(tmp_path, v2, "1000", "600", stat) == 550
    assert written(tmp_path, v2, "1000", "2000", "anon 300") == 0
    assert written(tmp_path, v2, "1000", "600", stat) == 550
    # The least of the process's own group and those around it.
    job = tmp_path / "jobs" / "one"
    assert written(job, v2, "700", "600", "anon 300") == 550  # of another process, as far as known
    (tmp_path / "cgroup").write_text("0::/jobs/one\n")
    assert _memory_limit.available_memory() == 100
    assert written(job, v2, "900", "0", "anon 300") == 550
    stat = "inactive_file 1\ntotal_active_file 60\ntotal_inactive_file 40"
    assert written(tmp_path / "memory" / "job", v1, "500", "400", stat) == 550
    (tmp_path / "cgroup").write_text("5:cpu,memory:/job\n0::/../elsewhere\n")
    assert _memory_limit.available_memory() == 200


def test_memory_is_what_the_limit_of_a_process_leaves():
    script = """
import resource
from bnjax.learning import _memory_limit
_memory_limit._of_machine = _memory_limit._of_group = lambda: None
assert _memory_limit.available_memory() is None
resource.setrlimit(resource.RLIMIT_AS, (2**36, resource.getrlimit(resource.RLIMIT_AS)[1]))
print(_memory_limit.available_memory())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 < int(run.stdout) < 2**36


def test_intervals_of_means_cover_them_whatever_the_distribution():
    """In at least 98 of a hundred samples; and as near as closed forms say."""
    from bnjax.learning._outcome import mean_interval

    rng, level = np.random.default_rng(0), 0.98
    for draw, mean in (
        (lambda: rng.random(20) < 0.95, 0.95),  # who is locked in, of few
        (lambda: rng.random(300) < 0.01, 0.01),
        (lambda: rng.beta(0.1, 0.3, 60), 0.25),
        (lambda: 0.4 + 0.01 * rng.standard_normal(500).clip(-9, 9), 0.4),
    ):
        samples = (draw().astype(float) for _ in range(400))
        found = np.array([mean_interval(sample, 0.0, 1.0, level)[1:] for sample in samples])
        assert (found[:, 0] > mean).mean() <= 0.02
        assert (found[:, 1] < mean).mean() <= 0.02
        assert (found[:, 0] < found[:, 1]).all()
    # All alike: p^n is a quarter of what the level leaves.
    mean, low, high = mean_interval(np.ones(20), 0.0, 1.0, level)
    assert (mean, high) == (1, 1)
    assert math.isclose(low, 0.005 ** (1 / 20), rel_tol=1e-9)
    # In other units, and where agents hardly differ: Maurer and Pontil's theorem.
    values = 3 + 4 * (0.5 + 1e-3 * rng.standard_normal(2000))
    mean, low, high = mean_interval(values, 3.0, 7.0, level)
    log = math.log(2 / 0.005)
    half = math.sqrt(2 * values.var(ddof=1) * log / 2000) + 4 * 7 * log / (3 * 1999)
    assert math.isclose(high - mean, half, rel_tol=1e-9)
    assert math.isclose(mean - low, half, rel_tol=1e-9)
    assert mean_interval(np.full(3, 2.0), 2.0, 2.0, level) == (2, 2, 2)
    assert mean_interval(np.full(1, 0.5), 0.0, 1.0, level)[1:] == (
        pytest.approx(0.5 - math.sqrt(1 - 0.005**2) / 2, rel=1e-6),
        pytest.approx(0.5 + math.sqrt(1 - 0.005**2) / 2, rel=1e-6),
    )


def test_windows_are_needed_for_those_at_work_only():
    """22 GiB of windows for all of them; what comes back has 44 bytes for each."""
    problem, key = bn.scenarios.coin(), jax.random.key(0)
    shapes = jax.eval_shape(
        lambda: bn.simulate(
            problem, key, num_agents=500, num_steps=2000, memory=bn.WindowMemory(1000)
        )
    )
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) == 44 * 500
    population = Population(
        problem,
        bn.BestResponse(),
        bn.WindowMemory(1000),
        problem.log_prior,
        jnp.zeros(()),
        key,
    )
    plan, _, each, remembered = _simulate._plan(population, 2000, None, None)
    assert each == 44
    assert remembered > 8 * 1000
    assert plan.lanes * remembered <= _simulate._MOST_TILE_BYTES


def test_the_length_of_a_window_costs_nothing():
    """A step copies no window: three hundred times as long, it is not five times as slow."""

    def seconds(length):
        options = {"num_agents": 512, "num_steps": 1200, "tile": 512}
        options["memory"] = bn.WindowMemory(length)
        jax.block_until_ready(bn.simulate(TOSSES, KEY, **options))
        times = []
        for _ in range(5):
            start = perf_counter()
            jax.block_until_ready(bn.simulate(TOSSES, KEY, **options))
            times.append(perf_counter() - start)
        return min(times)

    assert seconds(1199) < 5 * seconds(4)


def test_a_window_that_holds_all_is_a_perfect_memory():
    options = {"num_agents": 64, "num_steps": 60, "tile": 64}
    found = bn.simulate(TOSSES, KEY, memory=bn.WindowMemory(60), **options)
    for a, b in zip(
        jax.tree.leaves(found), jax.tree.leaves(bn.simulate(TOSSES, KEY, **options)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_statistics_of_ones_own_may_start_from_a_number():
    total = bn.Running(lambda agent: 0.0, lambda sum_, step, state, agent: sum_ + step.payoff)
    found = bn.simulate(TOSSES, KEY, num_agents=5, num_steps=20, record=total, tile=5)
    np.testing.assert_allclose(found.record, 20 * found.mean_payoff, rtol=1e-6)
    count = bn.Running(lambda agent: 0, lambda sum_, step, state, agent: sum_ + step.payoff)
    refused = r"`record.update` must return what `record.init` does.*got float32 of shape"
    with pytest.raises(ValueError, match=refused):
        bn.simulate(TOSSES, KEY, num_agents=5, num_steps=20, record=count)


class Late(bn.AbstractPolicy):
    """Tosses a coin, and goes wrong where the first action is believed to pay well."""

    wrong: jax.Array

    def features(self, payoffs):
        return payoffs

    def probabilities(self, means, slack):
        return jnp.where(means[0] > 0.55, self.wrong.astype(means.dtype), jnp.full(2, 0.5))


@pytest.mark.parametrize("memory", [None, bn.DiscountedMemory(0.1)], ids=["blocked", "plain"])
def test_agents_whose_policy_goes_wrong_are_invalid(memory):
    problem = bn.scenarios.sycophancy(0.7, 0.6).discretize(8)
    options = {"num_agents": 40, "num_steps": 12, "tile": 40, "memory": memory}
    right = bn.simulate(problem, KEY, policy=Late(jnp.array([0.5, 0.5])), **options)
    assert (right.outcome != bn.Outcome.INVALID).all()
    for wrong in ([jnp.nan, jnp.nan], [2.0, -1.0], [0.3, 0.3]):
        found = bn.simulate(problem, KEY, policy=Late(jnp.array(wrong)), **options)
        bad = np.asarray(found.outcome == bn.Outcome.INVALID)
        assert 0 < bad.sum() < 40
        np.testing.assert_array_equal(found.frequency[~bad], right.frequency[~bad])
        assert np.isnan(found.frequency[bad]).all()
        *_, count, played = found.summary(problem).splitlines()
        assert count.startswith(f"invalid: {bad.mean():.4g} ")
        assert played.endswith(f"payoff {np.asarray(found.mean_payoff)[~bad].mean():.4g}")


def test_programs_are_forgotten_with_those_of_jax(monkeypatch):
    """And depend on settings of JAX as theirs do."""
    draw = bn.Running(
        lambda agent: jnp.zeros(()),
        lambda sum_, step, state, agent: (
            sum_ + jax.random.uniform(jax.random.fold_in(jax.random.key(5), step.time), (3,))[1]
        ),
    )
    found = []
    for setting in (True, False, True):
        with jax.threefry_partitionable(setting):
            found += [bn.simulate(TOSSES, KEY, num_agents=1, num_steps=9, record=draw).record]
    assert found[0] == found[2] != found[1]
    jax.clear_caches()
    monkeypatch.setattr(_population, "_run_tiles", None)
    with pytest.raises(TypeError):
        bn.simulate(TOSSES, KEY, num_agents=1, num_steps=9, record=draw)


@pytest.mark.parametrize("most", [1, 3, 6])
def test_room_for_tiles_changes_nothing(most, monkeypatch):
    options = {"num_agents": 333, "num_steps": 70, "tile": 32}
    want = bn.simulate(TOSSES, KEY, **options)
    monkeypatch.setattr(_simulate, "_MOST_TILES", most)
    found = bn.simulate(TOSSES, KEY, **options)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_records():
    with pytest.raises(ValueError, match="`every` must be a whole number of at least 1"):
        bn.Trajectory(0)
    with pytest.raises(ValueError, match="`level` must lie inside"):
        bn.simulate(bn.scenarios.coin(), KEY, num_agents=2, num_steps=2).shares(1.0)


# What reviews found


def rates(*values):
    return [[1 - value, value] for value in values]


TOSSES = bn.Problem(
    probs=rates(0.7, 0.6),
    model_probs=[rates(t, 1 - t) for t in (0.3, 0.7)],
    payoff=[[0.0, 1.0]] * 2,
)


def test_a_terrible_action_does_not_make_the_others_tie():
    problem = bn.Problem(
        probs=rates(0.5, 0.5, 0.5),
        model_probs=[rates(0.3, 0.3, 0.3), rates(0.6, 0.6, 0.6)],
        payoff=[[0.0, 0.0], [0.1, 0.1], [-1000.0, -1000.0]],
    )
    result = bn.simulate(problem, jax.random.key(0), num_agents=8, num_steps=5000)
    assert (result.frequency[:, 1] == 1).all()


def test_what_all_models_agree_on_is_never_a_tie():
    problem = bn.GaussianProblem(
        mean=[0.0, 0.0],
        sd=[1.0, 1.0],
        model_mean=[[10.0, 11.0], [11.0, 12.0]],
        model_sd=np.ones((2, 2)),
        payoff_intercept=[0.0, 0.0],
        payoff_slope=[1.0, 1.0],
    )
    result = bn.simulate(problem, jax.random.key(0), num_agents=2, num_steps=50_000)
    assert (result.frequency[:, 1] == 1).all()


def test_no_tolerance_still_knows_ties():
    """Rounding inside a block of products is part of what is judged a tie."""
    policy = bn.BestResponse("first", 0.0)
    options = {"num_agents": 20_000, "num_steps": 200, "policy": policy}
    for engine in ("mixed", "moments", "blocked"):
        share = ENGINES[engine](TOSSES, jax.random.key(1), **options).shares(0.999)["locked 0"]
        assert share.low < 0.8 < share.high  # exact, at k = 0


def test_explorations_compound():
    """A tremble of the policy, or one of the population: 1 - 0.6 * 0.5 of the steps in all."""
    problem = bn.Problem([[1.0, 0.0], [0.0, 1.0]], [[[1.0, 0.0], [0.0, 1.0]]], [[0.0, 1.0]] * 2)
    options = {"policy": bn.EpsilonGreedy(0.4), "exploration": 0.5}
    found = bn.simulate(problem, KEY, num_agents=4000, num_steps=100, **options)
    share = float(found.frequency[:, 0].mean())  # half of the trembles: there is no doubt
    assert abs(share - 0.35) < 5 * math.sqrt(0.35 * 0.65 / 400_000)


def test_a_problem_may_be_closed_over():
    key = jax.random.key(0)

    def play(key):
        return bn.simulate(TOSSES, key, num_agents=4, num_steps=70).frequency

    np.testing.assert_array_equal(jax.jit(play)(key), play(key))
    prior = np.log([0.3, 0.7])
    done = jax.jit(
        lambda key: bn.simulate(TOSSES, key, num_agents=4, num_steps=70, log_prior=prior).frequency
    )(key)
    assert done.shape == (4, 2)


def test_traced_nonsense_is_marked():
    def outcome(success, temperature, prior):
        problem = bn.scenarios.sycophancy(success, 0.6).discretize(5)
        done = bn.simulate(
            problem,
            jax.random.key(0),
            num_agents=3,
            num_steps=20,
            policy=bn.Logit(temperature),
            log_prior=prior,
        )
        return done.outcome, done.frequency

    priors = jnp.zeros((5, 5)).at[3].set(-jnp.inf).at[4, 0].set(jnp.nan)
    codes, frequency = jax.jit(jax.vmap(outcome))(
        jnp.asarray([0.7, 1.5, 0.7, 0.7, 0.7]), jnp.asarray([0.1, 0.1, -1.0, 0.1, 0.1]), priors
    )
    assert (codes[0] != bn.Outcome.INVALID).all()
    assert (codes[1:] == bn.Outcome.INVALID).all()
    assert np.isfinite(frequency[0]).all()
    assert np.isnan(frequency[1:]).all()


def test_two_steps_decide_nothing():
    for steps, codes in ((1, {2}), (2, {2}), (3, {0, 1, 2})):
        result = bn.simulate(TOSSES, jax.random.key(0), num_agents=6, num_steps=steps)
        assert set(result.outcome.tolist()) <= codes


def test_a_window_of_real_numbers_does_not_drift():
    problem = bn.GaussianProblem(
        mean=[0.0],
        sd=[1.0],
        model_mean=[[3.0], [-4.0]],
        model_sd=[[1.0], [1.5]],
        payoff_intercept=[0.0],
        payoff_slope=[1.0],
    )
    agent = bn.Agent(problem, memory=bn.WindowMemory(10))
    key = jax.random.key(3)

    def one(carry, _):
        state, last = carry
        state, step = agent.step(key, state)
        last = jnp.roll(last, -1, axis=0).at[-1].set(step.observation.features)
        return (state, last), None

    start = agent.init(), jnp.zeros((10, 3))
    (state, last), _ = jax.jit(lambda s: jax.lax.scan(one, s, None, length=30_000))(start)
    evidence, _ = agent.memory.evidence(state.memory)
    exact = np.asarray(last, np.float64).sum(0)
    np.testing.assert_allclose(evidence[0], exact, atol=4e-6)


def test_memory_is_bounded_for_long_trajectories_and_windows():
    record = bn.Trajectory(1, beliefs=True)
    problem = bn.scenarios.sycophancy(0.7, 0.6).discretize(64)
    one = bn.simulate(problem, jax.random.key(0), num_agents=1, num_steps=300, record=record)
    assert one.trajectory.belief.shape == (1, 300, 64)
    memory = bn.WindowMemory(2_000_000)  # no more places than steps
    short = bn.simulate(TOSSES, jax.random.key(0), num_agents=3, num_steps=10, memory=memory)
    perfect = bn.simulate(TOSSES, jax.random.key(0), num_agents=3, num_steps=10)
    np.testing.assert_array_equal(short.frequency, perfect.frequency)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(lambda means: jnp.ones(3) / 3, "shape", id="too many"),
        pytest.param(lambda means: jnp.argmax(means), "shape", id="an index"),
        pytest.param(lambda means: jnp.exp(means), "sum to one", id="not normalised"),
        pytest.param(lambda means: jnp.full(2, jnp.nan), "sum to one", id="NaN"),
    ],
)
def test_a_policy_of_ones_own_is_checked(answer, message):
    class Own(bn.AbstractPolicy):
        def features(self, payoffs):
            return payoffs

        def probabilities(self, means, slack):
            return answer(means)

    with pytest.raises(ValueError, match=r"policy\.probabilities.*" + message):
        bn.simulate(TOSSES, jax.random.key(0), num_agents=2, num_steps=5, policy=Own())


def test_a_memory_and_a_statistic_of_ones_own_are_checked():
    class Own(bn.AbstractMemory):
        def init(self, nothing):
            return nothing

        def update(self, state, observation, time):
            return state, time

        def evidence(self, state):
            return state, state != 0

    few = {"num_agents": 2, "num_steps": 5}
    with pytest.raises(ValueError, match=r"memory\.update"):
        bn.simulate(TOSSES, jax.random.key(0), memory=Own(), **few)
    record = bn.Running(lambda agent: jnp.zeros(()), lambda carry, *_: (carry, carry))
    with pytest.raises(ValueError, match=r"record\.update"):
        bn.simulate(TOSSES, jax.random.key(0), record=record, **few)


def test_agents_are_checked_as_populations_are():
    assert bn.Agent(bn.scenarios.sycophancy(0.7, 0.6)).problem.num_models > 2
    for prior, message in (
        (jnp.zeros(3), "`log_prior` must have shape"),
        (jnp.array([jnp.nan, 0.0]), "`log_prior` must hold finite log-weights or -inf"),
        (jnp.full(2, -jnp.inf), "`log_prior` must support, for every agent, a model"),
    ):
        with pytest.raises(ValueError, match=message):
            bn.Agent(TOSSES, log_prior=prior)
    assert bn.WindowMemory(np.int64(5)).length == 5


@pytest.mark.parametrize("engine", ENGINES)
def test_every_simulator_has_forward_derivatives(engine):
    """Of the final belief by the prior: that of Bayes' rule with what happens held fixed."""

    def last(log_prior):
        few = {"num_agents": 2, "num_steps": 5, "tile": 2}
        return ENGINES[engine](TOSSES, KEY, log_prior=log_prior, **few).belief

    prior = jnp.log(jnp.asarray([0.4, 0.6]))
    found = last(prior)[:, 0]
    # d log-odds = d prior_0 - d prior_1, and d belief = belief (1 - belief) d log-odds.
    want = (found * (1 - found))[:, None] * jnp.asarray([1.0, -1.0])
    np.testing.assert_allclose(jax.jacfwd(last)(prior)[:, 0], want, rtol=1e-4)


def test_step_by_step_play_has_reverse_derivatives():
    def last(log_prior):
        agent = {"policy": bn.Logit(0.1), "memory": bn.DiscountedMemory(0.1)}
        few = {"num_agents": 2, "num_steps": 5}
        done = bn.simulate(TOSSES, jax.random.key(0), log_prior=log_prior, **agent, **few)
        return done.belief[:, 0].sum()

    prior = jnp.log(jnp.asarray([0.4, 0.6]))
    reverse = jax.grad(last)(prior)
    forward = jax.jacfwd(last)(prior)
    np.testing.assert_allclose(reverse, forward, rtol=1e-4)
    assert abs(reverse[0]) > 1e-3
