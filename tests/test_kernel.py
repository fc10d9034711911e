"""The GPU's kernel against the simulator it replaces, without a GPU (interpreted) and with one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax.learning import _simulate as inside
from bnjax.learning._agent import Agent
from bnjax.learning._blocked import in_blocks
from bnjax.learning._kernel import can_run_kernel, run_kernel
from bnjax.learning._lives import live
from bnjax.learning._random import agent_keys

ON_GPU = jax.default_backend() == "gpu"
LANES, STEPS = 32, 50


def random_problem(num_models, num_consequences=2, zero=False):
    rng = np.random.default_rng(num_models)
    models = 0.02 + rng.dirichlet(np.ones(num_consequences), (num_models, 2))
    if zero:  # some models rule out a consequence that happens
        models[: num_models // 2, 1, 0] = 0
    models /= models.sum(-1, keepdims=True)
    probs = rng.dirichlet(np.full(num_consequences, 5.0), 2)
    payoff = np.tile(np.linspace(0, 1, num_consequences), (2, 1))
    return bn.Problem(probs, models, payoff)


def both(problem, policy, exploration=0.0, log_prior=None):
    """Results of both simulators, for the same agents."""
    common = problem.log_prior if log_prior is None else None
    agent = Agent(problem, policy, bn.PerfectMemory(), common, exploration)
    prior = problem.log_prior if log_prior is None else log_prior
    keys = agent_keys(jax.random.key(5), jnp.arange(LANES, dtype=jnp.int32))
    known = inside._known(problem, policy, jnp.asarray(exploration))

    @eqx.filter_jit
    def run(agent, prior, keys):
        slow = live(in_blocks, agent, prior, keys, STEPS, None, known)
        return slow, run_kernel(agent, prior, keys, STEPS, known, interpret=not ON_GPU)

    return run(agent, prior, keys)


@pytest.mark.parametrize(
    ("problem", "policy", "exploration"),
    [
        (random_problem(16), bn.BestResponse(), 0.0),
        (random_problem(13, 3), bn.BestResponse("uniform"), 0.1),
        (random_problem(24, zero=True), bn.EpsilonGreedy(0.2), 0.0),
        (random_problem(8), bn.Logit(0.1), 0.0),
        (random_problem(8, 3), bn.ThompsonSampling(), 0.05),
    ],
)
def test_kernel_plays_as_the_blocked_simulator(problem, policy, exploration):
    slow, fast = both(problem, policy, exploration)
    for one, other in zip(jax.tree.leaves(slow), jax.tree.leaves(fast), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert slow.tally.since.max() > 0  # somebody changed what it plays


def test_each_agent_may_have_its_own_prior():
    rng = np.random.default_rng(0)
    prior = jnp.log(jnp.asarray(rng.dirichlet(np.ones(6), LANES), jnp.float32))
    slow, fast = both(random_problem(6), bn.BestResponse(), log_prior=prior)
    np.testing.assert_array_equal(slow.tally.evidence, fast.tally.evidence)
    np.testing.assert_allclose(slow.log_belief, fast.log_belief, rtol=1e-5)


def test_what_the_kernel_leaves_to_others():
    two, three = random_problem(8), bn.scenarios.overconfidence(0.1, num_efforts=5).discretize(9)
    best = bn.BestResponse()
    assert can_run_kernel(two, best, 64, None)
    assert not can_run_kernel(three, best, 64, None)
    assert not can_run_kernel(two, best, 64, bn.Trajectory(10))
    assert not can_run_kernel(two, best, 60, None)

    class Mine(bn.AbstractPolicy):
        def features(self, payoffs):
            return payoffs

        def probabilities(self, means, slack):
            return jax.nn.softmax(means)

    assert not can_run_kernel(two, Mine(), 64, None)


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
def test_populations_on_a_gpu_use_it(monkeypatch):
    problem = random_problem(64)
    one = bn.simulate(problem, jax.random.key(2), num_agents=5000, num_steps=300)
    monkeypatch.setattr(inside, "can_run_kernel", lambda *_: False)
    other = bn.simulate(problem, jax.random.key(2), num_agents=5000, num_steps=300)
    same = (one.frequency == other.frequency).all(1)
    assert same.mean() > 0.998  # ties may be rounded otherwise
