"""The smooth mean field against SciPy, its fixed-point equation and central differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import softmax

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


def three_actions(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), 3)
    models = rng.dirichlet(np.ones(3), (8, 3))
    return bn.Problem(probs, models, rng.normal(size=(3, 3)))


def smooth_rhs(problem, memory, temperature, tremble=0.0):
    reduced = problem.reduced_form()
    kl, payoffs = np.asarray(reduced.kl), np.asarray(reduced.payoffs)
    kl = np.where(np.asarray(reduced.ruled_out), 1e9, kl)
    log_prior = np.asarray(problem.log_prior)

    def rhs(_, sigma):
        play = (1 - tremble) * sigma + tremble / len(sigma)
        belief = softmax(log_prior - memory * (kl @ play))
        return softmax(belief @ payoffs / temperature) - sigma

    return rhs


def test_smooth_trajectories_against_scipy(x64):
    memory, temperature, tremble = 30.0, 0.2, 0.1
    for seed in range(3):
        problem, start = three_actions(seed), np.array([0.7, 0.1, 0.2])
        found = mean_field(
            problem,
            start,
            duration=6.0,
            memory=memory,
            temperature=temperature,
            exploration=tremble,
            num_saved=13,
            rtol=1e-10,
            atol=1e-12,
        )
        rhs = smooth_rhs(problem, memory, temperature, tremble)
        times = np.linspace(0, 6, 13)
        want = solve_ivp(rhs, (0, 6), start, "DOP853", times, rtol=1e-11, atol=1e-13).y.T
        np.testing.assert_allclose(found.strategy, want, atol=1e-8)
        left_over = np.abs(rhs(0, np.asarray(found.final))).max()
        np.testing.assert_allclose(found.residual, left_over, atol=1e-12)


def test_smooth_rest_points_satisfy_the_fixed_point_equation(x64):
    problem = bn.scenarios.sycophancy(0.3, 0.1).discretize(64)
    found = mean_field(
        problem, pair(0.9), duration=40.0, memory=50.0, temperature=0.1, num_saved=61
    )
    assert code(found) == Motion.SETTLED
    assert bool(found.converged)
    rest = np.asarray(found.final)
    rhs = smooth_rhs(problem, 50.0, 0.1)
    assert np.abs(rhs(0, rest)).max() < 1e-6


@pytest.mark.parametrize("double", [pytest.param(False, marks=pytest.mark.slow), True])
def test_large_memory_and_low_temperature_end_near_an_exact_equilibrium(double):
    with jax.enable_x64(double):
        starts = pair([0.05, 0.9])
        terms = {"memory": 2000.0, "temperature": 0.01}
        # Continuous Theta goes through its grid.
        oscillating = basins(bn.scenarios.sycophancy(0.3, 0.1), starts, **terms)
        assert oscillating.index.tolist() == [0, 0]
        mixture = closed_forms.sycophancy_mixture(0.3, 0.1)
        np.testing.assert_allclose(oscillating.limit, pair([mixture] * 2), atol=0.02)
        parted = basins(bn.scenarios.sycophancy(0.7, 0.6), starts, **terms)
        assert parted.index.tolist() == [0, 2]
        assert (parted.result == Motion.SETTLED).all()


def test_smooth_gradients_against_central_differences(x64):
    rng = np.random.default_rng(0)
    shapes = {"probs": (3, 3), "models": (5, 3, 3), "payoff": (3, 3), "log_prior": (5,)}
    flat, unravel = jax.flatten_util.ravel_pytree(
        {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    )

    @jax.jit
    def final(flat, memory, temperature):
        x = unravel(flat)
        probs, models = jax.nn.softmax(x["probs"]), jax.nn.softmax(x["models"])
        found = mean_field(
            bn.Problem(probs, models, x["payoff"], x["log_prior"]),
            np.array([0.6, 0.3, 0.1]),
            duration=4.0,
            memory=memory,
            temperature=temperature,
            num_saved=3,
            rtol=1e-10,
            atol=1e-12,
        )
        return found.final @ jnp.asarray([1.0, -2.0, 0.5])

    args = flat, jnp.asarray(10.0), jnp.asarray(0.3)
    gradients = jax.jit(jax.grad(final, argnums=(0, 1, 2)))(*args)
    step = 1e-5
    for _ in range(4):
        along = jnp.asarray(rng.normal(size=flat.shape))
        change = final(flat + step * along, *args[1:]) - final(flat - step * along, *args[1:])
        np.testing.assert_allclose(gradients[0] @ along, change / (2 * step), rtol=1e-5)
    for i in (1, 2):
        moved = [[*args[:i], args[i] + sign * step, *args[i + 1 :]] for sign in (1, -1)]
        change = (final(*moved[0]) - final(*moved[1])) / (2 * step)
        np.testing.assert_allclose(gradients[i], change, rtol=1e-5)


def test_zero_probabilities_give_no_nan():
    probs = jnp.asarray([[1.0, 0.0], [0.5, 0.5]])
    models = jnp.asarray(
        [[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]]
    )
    payoff = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])

    def final(probs, models, payoff, log_prior, exploration, share):
        problem = bn.Problem(probs, models, payoff, jnp.append(log_prior, -jnp.inf))
        found = mean_field(
            problem,
            jnp.stack([share, 1 - share]),
            duration=2.0,
            memory=5.0,
            temperature=0.5,
            exploration=exploration,
            num_saved=2,
        )
        return found.final[0]

    both = jax.jit(jax.value_and_grad(final, argnums=range(6)))
    for share in (0.0, 0.5):
        value, gradients = both(
            probs, models, payoff, jnp.zeros(2), jnp.asarray(0.0), jnp.asarray(share)
        )
        assert np.isfinite(float(value))
        assert all(np.isfinite(np.asarray(g)).all() for g in gradients)
        # The second model excludes what happens after action 1: only the first is left.
        rest = softmax(np.array([0.0, 0.5]) / 0.5)[0]
        np.testing.assert_allclose(value, rest + (share - rest) * math.exp(-2), atol=1e-4)


def test_a_batch_equals_a_loop(x64):
    p = jnp.asarray([0.2, 0.3, 0.6])
    shares = jnp.asarray([0.1, 0.9])

    def solve(p, share):
        problem = bn.scenarios.sycophancy(p, 0.1).discretize(64)
        start = jnp.stack([share, 1 - share])
        found = mean_field(problem, start, duration=3.0, num_saved=61, memory=20.0, temperature=0.2)
        return found.strategy, found.result, found.last_event

    together = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(p, shares)
    for i in range(3):
        for k in range(2):
            alone = solve(p[i], shares[k])
            for batched, single in zip(together, alone, strict=True):
                np.testing.assert_allclose(batched[i, k], single, atol=1e-9)


def test_running_out_of_steps_and_nonsense_are_reported():
    def solve(p):
        problem = bn.scenarios.sycophancy(p, 0.6).discretize(16)
        terms = {"memory": 100.0, "temperature": 0.05, "max_steps": 4}
        return mean_field(problem, pair(0.9), duration=50.0, **terms)

    found = jax.vmap(solve)(jnp.asarray([0.3, jnp.nan, 1.5]))
    assert found.result.tolist() == [Motion.MAX_STEPS, Motion.INVALID, Motion.INVALID]
    assert not found.converged.any()
    assert np.isnan(found.final).all()
    assert repr(found) == "MeanField(batch=(3,), num_saved=101)"
    first = jax.tree.map(lambda x: x[0], found)
    assert "out of steps" in first.summary(bn.scenarios.sycophancy())
