"""Sixteen decisions from seventeen moments: the algebra exactly, and lives as step by step."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax._numerics import fast_exp
from bnjax.learning import _mixed, _simulate
from bnjax.learning import _moments as moments
from bnjax.learning._agent import Agent
from tests.oracles.random_problems import random_problem
from tests.test_simulate import ENGINES, assert_same_lives, one_axis, plainly

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a simulator of CPUs")
KEY = jax.random.key(3)
DEGREE = moments.DEGREE


def two_by_two(seed, kind="generic", num_models=9):
    shape = {"num_actions": 2, "num_models": num_models, "num_consequences": 2}
    return bn.Problem(**random_problem(seed, kind, **shape))


def run(problem, num_steps=300, engine="moments", **options):
    """A population by this simulator, which has a part in most by default, and the plain one."""
    policy = options.get("policy", bn.BestResponse())
    memory, record = bn.PerfectMemory(), options.get("record")
    own = options.get("log_prior") is not None
    want = "moments" if own else "mixed" if num_steps > 64 else "blocked"
    assert _simulate._engine(problem, policy, memory, record, 64, own, num_steps) == want
    options = {"num_agents": 128, "num_steps": num_steps, "tile": 64, **options}
    return ENGINES[engine](problem, KEY, **options), plainly(problem, KEY, **options)


def test_decisions_follow_from_moments_in_exact_arithmetic():
    """Against sums over models in rational numbers, whose signs no rounding touches."""
    rng, decided = np.random.default_rng(0), 0
    for _ in range(60):
        probs = [Fraction(int(x), 16) for x in rng.integers(0, 17, 5)]
        weights = [Fraction(int(x)) for x in rng.integers(-9, 10, 5)]
        row = [
            sum(w * (1 - q) ** (DEGREE - i) * q**i for w, q in zip(weights, probs, strict=True))
            for i in range(DEGREE + 1)
        ]
        seen = rng.integers(0, 2, DEGREE)
        signs, clear = [], True
        for step in range(DEGREE):
            k = int(seen[:step].sum())
            likelihood = [(1 - q) ** (step - k) * q**k for q in probs]
            terms = [w * x for w, x in zip(weights, likelihood, strict=True)]
            signs.append(sum(terms))
            clear &= abs(signs[-1]) > Fraction(1, 10**4) * sum(abs(x) for x in terms)
        if not clear:  # what nobody could decide in single precision is not asked for
            continue
        decided += 1
        favours = [x > 0 for x in signs]
        action = int(favours[0])
        stop = next((i for i, x in enumerate(favours) if x != action), DEGREE - 1)
        word = sum(int(x) << i for i, x in enumerate(seen))
        early = int(rng.integers(0, DEGREE + 1))
        both = np.float32([[float(x)] for x in row + row])
        found = int(
            moments._decided(
                1,
                jnp.asarray(both),
                jnp.asarray([action], jnp.int32),
                moments._Fates(
                    jnp.asarray([word | (word ^ 0xFFFF) << 16], jnp.uint32)
                    if action == 0
                    else jnp.asarray([(word ^ 0xFFFF) | word << 16], jnp.uint32),
                    jnp.zeros(1, jnp.uint32),
                ),
                jnp.asarray([DEGREE], jnp.int32),
                jnp.asarray([early], jnp.int32),
                None,
            )[0]
        )
        meant = int(favours[stop])
        outcome = seen[stop] if meant == action else 1 - seen[stop]
        assert found & 31 == stop
        assert found >> 5 & 31 == seen[:stop].sum()
        assert found >> 10 & 31 == max(stop - early, 0)
        assert [found >> i & 1 for i in (15, 16, 17)] == [meant, meant, outcome]
    assert decided > 20


def test_table_of_moments_in_exact_arithmetic():
    problem = two_by_two(4)
    _, _, scale = moments._range(jnp.float32, problem.num_models)
    rows = np.asarray(moments._table(Agent(problem)).moments) / scale
    models = np.asarray(problem.models)
    for action in range(2):
        for m in range(problem.num_models):
            pair = [Fraction(float(x)) for x in models[m, action]]
            total = sum(pair)
            r, q = (x / total for x in pair)
            for i in range(DEGREE + 1):
                want = float(r ** (DEGREE - i) * q**i)
                assert rows[action * (DEGREE + 1) + i, m] == pytest.approx(want, rel=4e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["generic", "infinite", "unsupported"])
def test_lives_are_those_of_the_plain_simulator(kind, seed):
    assert_same_lives(*run(two_by_two(seed, kind)), but=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": bn.BestResponse("last")},
        pytest.param({"policy": bn.EpsilonGreedy(0.1)}, marks=pytest.mark.slow),
        {"exploration": 0.3},
        {"num_steps": 1500},
        {"num_steps": 7},
    ],
    ids=str,
)
def test_lives_whatever_the_options(options):
    assert_same_lives(*run(one_axis(0.7, 0.6), **options), but=0.02)


@pytest.mark.parametrize("engine", ["moments", "mixed"])
def test_lives_of_agents_who_never_settle(engine):
    found, plain = run(one_axis(0.4, 0.35), engine=engine)
    assert (found.outcome == bn.Outcome.MIXING).mean() > 0.9
    assert_same_lives(found, plain, but=0.02)


def test_lives_whose_play_settles_after_a_while():
    """Looked at anew again and again: restless at first, then each at its own pace."""
    found, plain = run(one_axis(0.7, 0.6), num_steps=1500, engine="mixed")
    assert (found.outcome == bn.Outcome.LOCKED).mean() > 0.9
    assert 16 < np.asarray(found.since).max() < 1000
    assert_same_lives(found, plain, but=0.02)


@pytest.mark.parametrize("num_agents", [40, 64, 100, 300])
def test_lanes_that_many_agents_share_change_no_life(num_agents, monkeypatch):
    """Of the last tiles some are not there, of the last agents some are not wanted."""
    for problem in (one_axis(0.7, 0.6), one_axis(0.4, 0.35)):  # play that settles, or never
        found = {}
        for most in (1, 4):
            monkeypatch.setattr(_simulate, "_QUEUE", most)
            found[most] = bn.simulate(problem, KEY, num_agents=num_agents, num_steps=700, tile=16)
        for a, b in zip(*map(jax.tree.leaves, found.values()), strict=True):
            np.testing.assert_allclose(a, b, rtol=0 if a.dtype == jnp.int32 else 1e-5)
    assert np.unique(found[4].since).size > 10


def test_lives_under_priors_of_their_own():
    problem = two_by_two(5)
    priors = jax.random.normal(jax.random.key(1), (128, problem.num_models))
    assert_same_lives(*run(problem, log_prior=3 * priors), but=0.02)


def test_snapshots_are_those_of_the_plain_simulator():
    record = bn.Trajectory(50, beliefs=True)
    found, plain = run(one_axis(0.7, 0.6), engine="mixed", record=record)
    for name in ("action_counts", "intended", "mean_theta", "belief"):
        a, b = (np.asarray(getattr(x.trajectory, name)) for x in (found, plain))
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_lives_in_double_precision(x64):
    found, plain = run(two_by_two(6))
    assert found.log_belief.dtype == jnp.float64
    assert_same_lives(found, plain)


def test_rare_events_shorten_blocks():
    """Models that hardly allow what happens: their weights would be flushed in sixteen steps."""
    rare = jnp.array([1e-9, 1e-12, 2e-9, 1e-10])
    rates = jnp.stack([rare, rare[::-1]], axis=1)
    problem = bn.Problem(
        [[0.5, 0.5], [0.45, 0.55]], jnp.stack([1 - rates, rates], axis=-1), [[0.0, 1.0]] * 2
    )
    assert 1 <= int(moments._table(Agent(problem)).steps) < DEGREE
    assert_same_lives(*run(problem), but=0.02)


@pytest.mark.parametrize("engine", ["moments", "blocked"])
@pytest.mark.parametrize("rate", [1e-3, 1e-4, 1e-6, 1e-30])
def test_models_that_are_next_to_certain(rate, engine):
    """Whose log-odds lie off the lattice of ties, so that nobody is in doubt, ever."""
    simulate = ENGINES[engine]
    # Of one model, one consequence all but never comes; of the other, the other.
    models = [[[1 - rate, rate], [rate, 1 - rate]], [[rate, 1 - rate], [1 - rate, rate]]]
    problem = bn.Problem(
        [[0.3, 0.7], [0.4, 0.6]], models, [[0.0, 1.0]] * 2, log_prior=np.log([0.6, 0.4])
    )
    options = {"num_agents": 600, "num_steps": 300, "tile": 600}
    found, plain = simulate(problem, KEY, **options), plainly(problem, KEY, **options)
    for name in ("frequency", "intended", "since", "switches"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    # Before anything is seen, the likelier model speaks for the second action.
    start = simulate(problem, KEY, num_agents=600, num_steps=1, tile=600)
    assert (np.asarray(start.intended) == 1).all()


def test_what_makes_no_sense_comes_to_an_end():
    def late(p):
        rates = jnp.array([[0.3, 0.6], [0.7, 0.4]])
        models = jnp.stack([1 - rates, rates], axis=-1) * p
        problem = bn.Problem([[0.5, 0.5], [0.4, 0.6]], models, [[0.0, 1.0]] * 2)
        return bn.simulate(problem, KEY, num_agents=8, num_steps=80, tile=8).late_frequency

    found = jax.jit(jax.vmap(late))(jnp.array([1.0, jnp.nan, 0.0, -1.0]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


def test_who_decides_what_this_simulator_serves():
    problem, memory = one_axis(0.7, 0.6), bn.PerfectMemory()
    for policy, record, num_steps, want in (
        (bn.BestResponse("uniform"), None, 100, "blocked"),
        (bn.Logit(0.1), None, 100, "blocked"),
        (bn.BestResponse(), bn.Trajectory(5), 100, "blocked"),
        (bn.EpsilonGreedy(0.1), bn.Trajectory(50), 100, "mixed"),
        (bn.BestResponse(), None, 65, "mixed"),
        (bn.BestResponse(), None, 64, "blocked"),  # too few to be worth it
        (bn.EpsilonGreedy(0.1), bn.Trajectory(50), 64, "blocked"),
    ):
        assert _simulate._engine(problem, policy, memory, record, 64, False, num_steps) == want
    # Where priors are the agents' own, blocks may be much shorter.
    assert _simulate._engine(problem, bn.BestResponse(), memory, None, 64, True, 3) == "moments"
    three = bn.Problem(**random_problem(0, num_actions=3, num_consequences=2))
    assert _simulate._engine(three, bn.BestResponse(), memory, None, 64, False, 100) == "blocked"


@pytest.mark.parametrize(("p_honest", "in_blocks"), [(0.35, True), (0.6, False)])
def test_which_play_is_restless(p_honest, in_blocks, monkeypatch):
    """Who lived a step in blocks bears a mark that nothing else could leave."""
    blocks = _mixed.in_blocks

    def marked(*args):
        advance = blocks(*args)

        def leave_mark(lives, start, until):
            lived, stop = advance(lives, start, until)
            mark = 1000 * (start == 0).astype(jnp.int32)
            return lived._replace(switches=lived.switches + mark), stop

        return leave_mark

    monkeypatch.setattr(_mixed, "in_blocks", marked)
    jax.clear_caches()
    problem = one_axis(0.4 if p_honest == 0.35 else 0.7, p_honest)
    found = bn.simulate(problem, KEY, num_agents=64, num_steps=200, tile=64)
    assert ((np.asarray(found.switches) >= 1000) == in_blocks).all()
    jax.clear_caches()


def test_derivative_of_the_fast_exponential():
    numbers = jnp.linspace(-80.0, 80.0, 101)
    value, slope = jax.jvp(fast_exp, (numbers,), (jnp.full_like(numbers, 2.0),))
    np.testing.assert_array_equal(slope, 2 * value)


def test_fast_exponential():
    numbers = np.concatenate([np.linspace(-87.3, 87.9, 20_001), [0.0, -0.0]]).astype(np.float32)
    # Compiled as one: what simplifies expressions may not lose the rounding.
    found = np.asarray(jax.jit(fast_exp)(jnp.asarray(numbers)), float)
    want = np.array([math.exp(x) for x in numbers.tolist()])
    assert (np.abs(found - want) <= 2.5 * np.finfo(np.float32).eps * want).all()
    tiny = jnp.array([-88.5, -1e6, -jnp.inf])
    np.testing.assert_array_equal(fast_exp(tiny), 0.0)
