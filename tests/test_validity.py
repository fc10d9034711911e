"""Nothing false is said: of nonsense, of whole continua, of what a batch or a gradient touches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from bnjax.equilibrium._public import solve_all
from tests.oracles import exact, random_problems
from tests.oracles.random_problems import KINDS, random_problem
from tests.test_equilibria import padded

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")

INVALID = int(bn.Phase.INVALID)


# What makes no sense


def finite_problem(probability=0.7):
    return bn.Problem(
        probs=jnp.stack([jnp.stack([probability, 1 - probability]), jnp.asarray([0.4, 0.6])]),
        model_probs=[[[0.6, 0.4], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]],
        payoff=[[0.0, 1.0], [0.0, 1.0]],
        safe=[True, False],
    )


def three_actions(probability=0.7):
    rows = [jnp.stack([probability, 1 - probability]), jnp.asarray([0.4, 0.6])]
    return bn.Problem(
        probs=jnp.stack([*rows, rows[1]]),
        model_probs=[[[0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], [[0.5, 0.5]] * 3],
        payoff=[[0.0, 1.0]] * 3,
        safe=[True, False, False],
    )


def sycophancy(probability=0.7):
    return bn.scenarios.sycophancy(probability, 0.6)


def assert_nothing_is_claimed(found, possible):
    assert not np.asarray(found.valid).any()
    assert not np.asarray(found.pure).any()
    assert not np.asarray(found.complete).any()
    assert np.isnan(found.tol_fit).all()
    assert np.isnan(found.tol_payoff).all()
    assert (np.asarray(possible.certainty) == bn.Certainty.UNDECIDED).all()
    assert np.asarray(possible.mask).all()
    assert np.isnan(possible.tol_fit).all()


@pytest.mark.parametrize("make", [sycophancy, finite_problem, three_actions])
def test_nothing_is_claimed_of_what_makes_no_sense(make):
    """Neither of a problem nor at an exploration, while others of the batch are solved."""
    probability = jnp.asarray([1.5, jnp.nan, -0.2, *[0.7] * 6])
    exploration = jnp.asarray([*[0.0] * 3, -0.5, 1.5, jnp.nan, 0.0, 0.0, 1.0])
    solve = jax.jit(jax.vmap(lambda p, e: solve_all(make(p), e, 8)))
    found, possible, phase = solve(probability, exploration)
    nonsense = jax.tree.map(lambda x: x[:6], (found, possible))
    assert_nothing_is_claimed(*nonsense)
    assert phase[:6].tolist() == [INVALID] * 6
    assert (phase[6:] != INVALID).all()
    assert found.valid[6:].any(1).all()
    assert not np.isnan(found.tol_fit[6:]).any()
    one, other = (jax.tree.map(lambda x: x[0], result) for result in nonsense)
    assert "make no sense" in repr(one)
    assert "make no sense" in repr(other)
    assert "make no sense" in one.summary(make())
    assert "make no sense" in other.summary(make())


def test_nothing_is_claimed_at_a_tolerance_that_is_none():
    phases = jax.vmap(lambda t: bn.phase(finite_problem(), tol_fit=t))(jnp.asarray([-1.0, 1e-6]))
    assert phases[0] == INVALID != phases[1]


@pytest.mark.parametrize("scenario", [bn.scenarios.sycophancy, bn.scenarios.hallucination])
def test_a_width_that_is_no_probability_is_invalid(scenario):
    valid = jax.vmap(lambda w: scenario(0.7, 0.6, w).is_valid())
    np.testing.assert_array_equal(
        valid(jnp.asarray([1.5, -0.2, jnp.nan, 0.0, 1.0])), [False, False, False, True, True]
    )


@pytest.mark.slow
def test_a_diagram_over_widths_that_are_none():
    axes = {"width": np.linspace(0, 1.5, 4)}
    diagram = bn.phase_diagram(bn.scenarios.sycophancy, axes)
    assert (diagram.phase.values == INVALID).tolist() == [False, False, False, True]
    assert not diagram.complete[3]
    assert not diagram.pure[3].any()
    assert (diagram.certainty[3] == bn.Certainty.UNDECIDED).all()
    assert diagram.num_equilibria[3] == 0


# What can be shown


def test_results_of_any_kind_can_be_shown():
    def solve(p):
        return solve_all(sycophancy(p), 0.0, 8)[:2]

    one, batch = solve(0.7), jax.vmap(solve)(jnp.asarray([0.2, 0.3]))
    shapes = ["Equilibria(batch=(2,), slots=8)", "Rationalizable(batch=(2,), actions=2)"]
    assert [repr(x) for x in batch] == [repr(x) for x in jax.device_get(batch)] == shapes
    assert [repr(x) for x in jax.eval_shape(jax.vmap(solve), jnp.ones(2))] == shapes
    alone = ["Equilibria(3 found, complete=True)", "Rationalizable(['IN', 'IN'])"]
    assert [repr(x) for x in one] == [repr(x) for x in jax.device_get(one)] == alone
    abstract = ["Equilibria(batch=(), slots=8)", "Rationalizable(batch=(), actions=2)"]
    assert [repr(x) for x in jax.eval_shape(solve, 0.7)] == abstract
    assert [repr(jax.tree.map(lambda _: None, x)) for x in one] == [
        "Equilibria(NoneType)",
        "Rationalizable(NoneType)",
    ]


# Continua


def loss_of(problem, exploration, strategy, belief):
    """Misfit in nats, and loss as a share of the payoff range, from the definitions in NumPy."""
    arrays = random_problems.reduced_form(problem)
    kl = np.where(arrays["ruled_out"], np.inf, arrays["kl"])
    realised = (1 - exploration) * strategy + exploration / len(strategy)
    played = realised > 0
    fit = np.where(arrays["support"], (kl[:, played] * realised[played]).sum(1), np.inf)
    spread = np.ptp(arrays["payoffs"][arrays["support"]])
    expected = belief @ arrays["payoffs"]
    loss = expected.max() - expected[strategy > 0].min()
    return (fit - fit.min())[belief > 0].max(), loss / (spread or 1.0)


def assert_rows_hold(arrays, found, exploration=0.0):
    """Every listed row, at both ends and in the middle, is an equilibrium within tolerance."""
    tol_fit, tol_payoff = float(found.tol_fit), float(found.tol_payoff)
    models = len(arrays["log_prior"])
    for e in np.flatnonzero(found.valid):
        start, end = (np.asarray(x[e], float) for x in (found.strategy, found.strategy_end))
        belief = np.asarray(found.belief[e], float)[:models]
        assert belief.sum() == pytest.approx(1, abs=1e-6)
        assert float(found.residual[e]) <= max(tol_fit, tol_payoff)
        for share in (0.0, 0.5, 1.0):
            misfit, loss = loss_of(arrays, exploration, (1 - share) * start + share * end, belief)
            # NumPy rounds in another order.
            assert misfit <= 1.01 * tol_fit + 1e-12
            assert loss <= 1.01 * tol_payoff + 1e-12
    pure = np.asarray(found.pure)
    for e in np.flatnonzero(found.valid):
        for strategy in (found.strategy[e], found.strategy_end[e]):
            strategy = np.asarray(strategy)
            assert strategy.max() < 1 or pure[strategy.argmax()]


def indifferent(rates):
    """Models that see no difference between the actions."""
    rows = [[[1 - r, r]] * 2 for r in rates]
    return {
        "probs": np.array([[0.3, 0.7], [0.6, 0.4]]),
        "model_probs": np.array(rows),
        "payoff": np.array([[0.0, 1.0], [0.0, 1.0]]),
        "log_prior": np.zeros(len(rates)),
        "safe": np.array([True, False]),
    }


@pytest.mark.parametrize("double", [False, True])
def test_a_continuum_is_cut_where_the_best_fit_changes(double):
    rates = np.array([0.6, 0.4, 0.5])
    arrays = indifferent(rates)
    with jax.enable_x64(double):
        found = bn.equilibria(bn.Problem(**arrays))
    assert np.asarray(found.valid).sum() == 3
    assert bool(found.complete)
    # One model overtakes another where s log-likelihood ratios of the two actions balance.
    truth = arrays["probs"]

    def crossing(p, q):
        ratio = truth @ np.log(np.array([(1 - p) / (1 - q), p / q]))
        return ratio[1] / (ratio[1] - ratio[0])

    cuts = [0.0, crossing(0.4, 0.5), crossing(0.5, 0.6), 1.0]
    atol = 1e-9 if double else 1e-5
    np.testing.assert_allclose(found.strategy[:3, 0], cuts[:3], atol=atol)
    np.testing.assert_allclose(found.strategy_end[:3, 0], cuts[1:], atol=atol)
    np.testing.assert_array_equal(found.belief[:3], np.eye(3)[[1, 2, 0]])
    assert (found.stability[:3] == bn.Stability.STABLE).all()
    assert not found.others_fit.any()
    assert_rows_hold(arrays, found)


def test_more_pieces_than_rows_are_not_complete():
    found = bn.equilibria(bn.Problem(**indifferent([0.6, 0.4, 0.5])), max_equilibria=2)
    assert np.asarray(found.valid).sum() == 2
    assert not bool(found.complete)


def half_open():
    """Model 0 fits action 0 exactly, finds action 1 better, and rules out what action 1 does.

    Once action 1 is played, only the indifferent model 1 is left.
    """
    return {
        "probs": np.array([[0.5, 0.5, 0.0]] * 2),
        "model_probs": np.array([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], [[0.4, 0.6, 0.0]] * 2]),
        "payoff": np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 5.0]]),
        "log_prior": np.zeros(2),
        "safe": np.array([True, False]),
    }


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_continuum_that_leads_to_a_pure_strategy_that_is_none_ends_next_to_it(swapped, double):
    arrays, order = half_open(), [1, 0] if swapped else [0, 1]
    arrays |= {"probs": arrays["probs"][order], "model_probs": arrays["model_probs"][:, order]}
    arrays |= {"payoff": arrays["payoff"][order], "safe": arrays["safe"][order]}
    with jax.enable_x64(double):
        problem = bn.Problem(**arrays)
        found = bn.equilibria(problem)
        assert np.asarray(found.valid).sum() == 1
        assert np.asarray(found.pure)[order].tolist() == [False, True]
        far = found.strategy[0] if swapped else found.strategy_end[0]
        assert 0 < far[order[1]] < 1e-6
        assert_rows_hold(arrays, found)
        text = found.summary(problem)
        assert "less than 1" in text
        assert "more than 0" in text


def half_open_cell(share):
    arrays = half_open()
    model_probs = jnp.asarray(arrays["model_probs"]).at[1, :, 0].set(share)
    model_probs = model_probs.at[1, :, 1].set(1 - share)
    return bn.Problem(**arrays | {"model_probs": model_probs})


def test_a_diagram_shows_no_end_that_is_no_equilibrium():
    diagram = bn.phase_diagram(half_open_cell, {"share": [0.3, 0.4]})
    assert not diagram.pure[:, 0].any()
    assert (diagram.mixed_strategy_end[:, 0] < 1).all()
    assert (diagram.mixed_strategy_end[:, 0] > 1 - 1e-6).all()


def test_a_pure_equilibrium_next_to_a_continuum_under_other_beliefs_has_a_row_of_its_own():
    """As above, but model 0 finds action 0 better: pure, and the continuum next to it, differ."""
    arrays = half_open() | {"payoff": np.array([[0.0, 1.0, 0.0], [0.0, 1.0, -5.0]])}
    found = bn.equilibria(bn.Problem(**arrays))
    assert np.asarray(found.is_pure)[:2].tolist() == [False, True]
    assert np.asarray(found.valid).sum() == 2
    np.testing.assert_array_equal(found.belief[:2], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(found.strategy[1], [1, 0])
    assert found.stability[1] == bn.Stability.UNKNOWN
    assert_rows_hold(arrays, found)


def shares(found):
    """Rows as intervals of shares of action 0, with pieces that meet joined."""
    rows = []
    for e in np.flatnonzero(found.valid):
        lo, hi = float(found.strategy[e, 0]), float(found.strategy_end[e, 0])
        if rows and rows[-1][1] == lo and rows[-1][0] < lo < hi:
            rows[-1][1] = hi
        else:
            rows.append([lo, hi])
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_and_cover_the_exact_equilibria(kind):
    with jax.enable_x64(True):
        for seed in range(25):
            arrays = random_problem(seed, kind, num_actions=2)
            found = bn.equilibria(padded(arrays), max_equilibria=12)
            assert bool(found.complete)
            assert_rows_hold(arrays, found)
            problem = exact.exact_problem(**random_problems.reduced_form(arrays))
            for e, other in zip(
                exact.equilibrium_components(problem), components(found), strict=True
            ):
                np.testing.assert_allclose([float(e.start), float(e.end)], other, atol=1e-6)


def components(found):
    """Join pure rows to what they touch: the exact components know nothing of beliefs."""
    rows = []
    for lo, hi in shares(found):
        if rows and lo - rows[-1][1] < 1e-9:
            rows[-1][1] = hi
        else:
            rows.append([lo, hi])
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_in_single_precision_and_with_exploration(kind):
    for seed in range(10):
        arrays = random_problem(seed, kind, num_actions=2)
        for exploration in (0.0, 0.25):
            found = bn.equilibria(padded(arrays), exploration, max_equilibria=12)
            single = {k: v.astype(np.float32) if k != "safe" else v for k, v in arrays.items()}
            assert_rows_hold(single, found, exploration)


# Batches and gradients


def with_zeros():
    """Consequences that never happen, and a model that rules out what does."""
    return bn.Problem(
        probs=[[0.7, 0.3, 0.0], [0.4, 0.5, 0.1]],
        model_probs=[
            [[0.6, 0.4, 0.0], [0.2, 0.7, 0.1]],
            [[0.5, 0.5, 0.0], [0.5, 0.3, 0.2]],
            [[0.2, 0.8, 0.0], [0.9, 0.0, 0.1]],
        ],
        payoff=[[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]],
        safe=[True, False],
        theta=[0.1, 0.2, 0.3],
    )


def gaussian():
    return bn.GaussianProblem(
        mean=[1.0, 2.0, 3.0],
        sd=[1.0, 1.0, 1.0],
        model_mean=[[1.0, 2.0, 2.0], [0.0, 3.0, 1.0]],
        model_sd=[[1.0, 1.0, 1.0], [1.0, 2.0, 1.0]],
        payoff_intercept=[0.0, 0.0, 0.0],
        payoff_slope=[1.0, 1.0, 1.0],
        safe=[True, False, False],
    )


@pytest.mark.slow  # every leaf is a compilation; test_equilibria has all leaves at once
@pytest.mark.parametrize("make", [with_zeros, gaussian])
def test_every_leaf_can_be_a_batch_alone(make):
    problem = make()
    leaves, structure = jax.tree.flatten(problem)

    def ask(problem):
        return solve_all(problem, 0.1, 4)

    alone = jax.device_get(jax.jit(ask)(problem))
    for i, leaf in enumerate(leaves):

        def batched(leaf, i=i):
            return ask(jax.tree.unflatten(structure, [*leaves[:i], leaf, *leaves[i + 1 :]]))

        together = jax.device_get(jax.jit(jax.vmap(batched))(jnp.stack([leaf, leaf])))
        for one, both in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(both, np.stack([one, one]), atol=1e-6)


def everything_of(problem):
    found = bn.equilibria(problem)
    play = jnp.where(found.valid[:, None], found.strategy, 0.0)
    return play[:, 0].sum() + found.residual.sum() + found.best_fit.sum() + found.belief[:, 0].sum()


def test_gradients_at_zero_probabilities_are_numbers():
    problem = with_zeros()

    def total(probs, model_probs):
        return everything_of(
            eqx.tree_at(
                lambda p: (p.consequence.probs, p.model_probs), problem, (probs, model_probs)
            )
        )

    gradients = jax.jit(jax.grad(total, (0, 1)))
    edge = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    models = [
        [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0]],
        [[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]],
        [[0.5, 0.5, 0.0]] * 2,
    ]
    for probs, believed in ((problem.probs, problem.model_probs), (edge, jnp.asarray(models))):
        for gradient in gradients(probs, believed):
            assert np.isfinite(gradient).all()


def test_gradients_through_a_continuum_that_is_cut_are_numbers():
    arrays = indifferent([0.6, 0.4, 0.5])
    gradient = jax.grad(lambda m: everything_of(bn.Problem(**arrays | {"model_probs": m})))
    assert np.isfinite(gradient(jnp.asarray(arrays["model_probs"], jnp.float32))).all()


@pytest.mark.parametrize("double", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_tie_of_all_payoffs_is_a_tie_in_either_precision(double):
    """A range of payoffs that is all rounding must not make the tolerance vanish with it."""
    with jax.enable_x64(double):
        problem = bn.scenarios.deception(detect_lower=0.4, detect_upper=0.4)  # the threshold
        assert int(bn.phase(problem)) == bn.Phase.MULTISTABLE
        finite = problem.discretize(2)
        assert int(bn.phase(finite)) == bn.Phase.MULTISTABLE
        assert bn.certify(finite, tol_payoff=1e-9 if double else 1e-5).mask.all()
