"""Every scenario against its published answer, in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax.equilibrium._public import solve_all
from tests.oracles import closed_forms

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")

PHASE = {phase.name: int(phase) for phase in bn.Phase}


def on_grid(function, *axes):
    """Evaluate a cell function on flat coordinates in blocks, compiled once."""
    return jax.jit(lambda *a: jax.lax.map(lambda x: function(*x), a, batch_size=128))(*axes)


@pytest.mark.parametrize(
    ("double", "side"),
    [
        (False, 101),
        (True, 51),
        pytest.param(False, 201, marks=pytest.mark.slow),
        pytest.param(True, 201, marks=pytest.mark.slow),
    ],
)
def test_sycophancy_has_the_four_regimes_of_the_theorem(double, side):
    with jax.enable_x64(double):
        axis = np.linspace(0, 1, side)
        p_s, p_h = (x.ravel() for x in np.meshgrid(axis, axis, indexing="ij"))
        # Whole blocks, so that the last one is not compiled for itself.
        size = -(-p_s.size // 128) * 128
        p_s, p_h = np.resize(p_s, size), np.resize(p_h, size)

        def cell(p, q):
            found, _, phase = solve_all(bn.scenarios.sycophancy(p, q), 0.0, 3)
            mixed = found.valid & ~found.is_pure
            s = jnp.sum(jnp.where(mixed, found.strategy[:, 0], 0))
            return phase, found.pure, mixed.sum(), s, found.complete

        dtype = np.float64 if double else np.float32
        phase, pure, num_mixed, s, complete = map(
            np.asarray, on_grid(cell, jnp.asarray(p_s, dtype), jnp.asarray(p_h, dtype))
        )
        off = (np.abs(p_s - 0.5) > 1e-6) & (np.abs(p_h - 0.5) > 1e-6)
        above_s, above_h = p_s > 0.5, p_h > 0.5
        want = np.select(
            [above_s & ~above_h, ~above_s & above_h, above_s & above_h],
            [PHASE["UNSAFE"], PHASE["SAFE"], PHASE["MULTISTABLE"]],
            PHASE["OSCILLATORY"],
        )
        np.testing.assert_array_equal(phase[off], want[off])
        np.testing.assert_array_equal(pure[off], np.stack([above_s, above_h], -1)[off])
        both = off & (above_s == above_h)
        np.testing.assert_array_equal(num_mixed[off], both[off])
        exact = (0.5 - p_h[both]) / (1 - p_s[both] - p_h[both])
        np.testing.assert_allclose(s[both], exact, atol=1e-6 if double else 1e-3)
        assert complete[off].all()


def test_hallucination_is_sycophancy_under_other_names():
    points = np.random.default_rng(0).random((40, 2))

    def cell(p, q):
        first = bn.phase(bn.scenarios.sycophancy(p, q))
        return first, bn.phase(bn.scenarios.hallucination(p, q))

    first, second = jax.jit(jax.vmap(cell))(*jnp.asarray(points.T, jnp.float32))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow  # half a minute of compilation; test_continuous covers any width
def test_representation_and_exploration():
    axis = np.linspace(0.025, 0.975, 20)
    p_s, p_h = (jnp.asarray(x.ravel(), jnp.float32) for x in np.meshgrid(axis, axis + 0.01))

    def cell(p, q, exploration):
        return bn.phase(bn.scenarios.sycophancy(p, q, jnp.ones_like(p)), exploration)

    solve = jax.jit(jax.vmap(cell, in_axes=(0, 0, None)))
    explored = np.asarray(solve(p_s, p_h, jnp.asarray(0.05)))
    np.testing.assert_array_equal(explored == PHASE["SAFE"], np.asarray(p_h > p_s))
    unexplored = np.asarray(solve(p_s, p_h, jnp.asarray(0.0)))
    assert not (unexplored == PHASE["SAFE"]).any()


@pytest.mark.slow
def test_width_moves_the_threshold_continuously():
    # With |theta_S + theta_H - 1| <= w the mixture solves theta_S = theta_H = (1 + w)/2.
    problem = bn.scenarios.sycophancy(0.7, 0.8, width=0.3)
    found = bn.equilibria(problem)
    mixed = np.asarray(found.valid & ~found.is_pure)
    np.testing.assert_allclose(np.asarray(found.best_fit)[mixed], [[0.65, 0.65]], atol=1e-3)
    # Its first-order condition at theta = 0.65: s (0.7 - t) = (1 - s) (0.8 - t).
    np.testing.assert_allclose(np.asarray(found.strategy)[mixed, 0], 0.75, atol=1e-3)


BOUNDS = "detect_lower", "detect_upper"
CASES = {
    "overconfident": dict(detect_lower=0.0, detect_upper=0.3),
    "cautious": dict(detect_lower=0.5, detect_upper=1.0),
    "open": dict(detect_lower=0.0, detect_upper=1.0),
}


@pytest.mark.parametrize("side", [128, pytest.param(1001, marks=pytest.mark.slow)])
def test_deception_has_the_four_cases_of_the_theorem(side):
    threshold = 0.4  # (gain - honest) / (gain + penalty) with the defaults
    size = -(-side // 128) * 128  # whole blocks
    p = np.resize(np.linspace(0, 1, side), size)

    def cell(p_detect, lower, upper):
        problem = bn.scenarios.deception(p_detect, detect_lower=lower, detect_upper=upper)
        found, possible, phase = solve_all(problem, 0.0, 8)
        return phase, found.pure, possible.mask, jnp.any(found.absorbing & found.valid)

    rows = [np.tile(p, 3), *(np.repeat([case[k] for case in CASES.values()], size) for k in BOUNDS)]
    answers = on_grid(cell, *(jnp.asarray(row, jnp.float32) for row in rows))
    by_case = zip(*(np.split(np.asarray(x), 3) for x in answers), strict=True)
    answer = dict(zip(CASES, by_case, strict=True))
    phase, _, mask, _ = answer["overconfident"]
    assert (phase == PHASE["UNSAFE"]).all()
    assert (mask == [True, False]).all()
    phase, _, mask, _ = answer["cautious"]
    assert (phase == PHASE["SAFE"]).all()
    assert (mask == [False, True]).all()
    phase, pure, mask, absorbing = answer["open"]
    risky, off = p > threshold, np.abs(p - threshold) > 1e-4
    want = np.where(risky, PHASE["INDETERMINATE"], PHASE["MULTISTABLE"])
    np.testing.assert_array_equal(phase[off], want[off])
    np.testing.assert_array_equal(pure[off], np.stack([~risky, np.ones_like(risky)], 1)[off])
    assert mask[off].all()
    assert absorbing[off].all()  # complying teaches nothing


@pytest.mark.slow  # the best-fit dynamics know that complying teaches nothing
def test_deception_complying_is_absorbing_but_not_stable_below_the_threshold():
    found = bn.equilibria(bn.scenarios.deception(p_detect=0.1))
    comply = np.asarray(found.valid) & (np.asarray(found.strategy)[:, 1] == 1)
    assert np.asarray(found.absorbing)[comply].all()
    assert np.asarray(found.stability)[comply].tolist() == [bn.Stability.UNSTABLE]


@pytest.mark.slow  # its docstring and a monopolist at any demand say the same
def test_monopolist_never_settles():
    with jax.enable_x64(True):
        found = bn.equilibria(bn.scenarios.monopolist())
        assert np.asarray(found.valid).tolist() == [True] + [False] * 7
        assert not np.asarray(found.pure).any()
        np.testing.assert_allclose(found.strategy[0], [35 / 36, 1 / 36], atol=1e-6)
        np.testing.assert_allclose(found.best_fit[0], [40, 10 / 3], atol=1e-6)


@pytest.mark.slow  # as the best-fit dynamics do, and their experiment
def test_overconfidence_settles_within_one_step_of_the_root():
    with jax.enable_x64(True):
        problem = bn.scenarios.overconfidence(delta=0.18, num_efforts=101)
        efforts = np.asarray(problem.family.function.efforts)
        step = efforts[1] - efforts[0]
        root = 1.0 - closed_forms.overconfidence(0.18)
        assert abs(root - 0.8) < 1e-12
        found, possible = bn.equilibria(problem), bn.rationalizable(problem)
        strategy = np.asarray(found.strategy)[np.asarray(found.valid)]
        assert len(strategy) >= 1
        for played in strategy > 0:
            assert (np.abs(efforts[played] - root) <= step).all()
        certainty = np.asarray(possible.certainty)
        assert (np.abs(efforts[certainty != bn.Certainty.OUT] - root) <= step).all()
        assert (certainty == bn.Certainty.IN).any()
        assert float(found.residual.max()) < 1e-9


def test_coin_has_two_best_fits():
    problem = bn.scenarios.coin()
    kl = np.asarray(problem.kl_matrix())[:, 0]
    np.testing.assert_allclose(kl[0], kl[1], rtol=1e-6)
    np.testing.assert_allclose(kl[0], 0.5 * np.log(4 / 3), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bn.scenarios.sycophancy(1.2), "`p_sycophantic` must be a probability"),
        (lambda: bn.scenarios.sycophancy(width=-0.1), "`width` must be a probability"),
        (lambda: bn.scenarios.deception(detect_lower=0.6, detect_upper=0.5), "`detect_lower`"),
        (lambda: bn.scenarios.overconfidence(0.5), "`delta` must lie in"),
        (lambda: bn.scenarios.overconfidence(num_efforts=1), "`num_efforts`"),
    ],
)
def test_scenarios_name_the_argument_that_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_traced_nonsense_is_invalid_and_not_nan():
    phase = jax.jit(lambda p: bn.phase(bn.scenarios.sycophancy(p, 0.6)))
    assert int(phase(1.5)) == bn.Phase.INVALID
    assert int(phase(np.nan)) == bn.Phase.INVALID
