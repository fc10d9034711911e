"""Continuous families with two actions against answers worked out by other means."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import bnjax as bn
from bnjax.equilibrium._basins import Cells
from bnjax.equilibrium._public import solve_all
from bnjax.equilibrium._solve import solve
from bnjax.equilibrium._tolerance import default_tolerance
from tests.oracles import two_rates

# As users run them, continua are solved in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")

UNDECIDED = int(bn.Certainty.UNDECIDED)
_BATCH = 48


def solve_many(make, args, exploration, dtype):
    """Equilibria and rationalizable sets of a batch [N], compiled once."""

    def cell(row):
        found, possible, _ = solve_all(make(*row[:-1]), row[-1], 4)
        return found, possible

    rows = jnp.asarray(np.column_stack([*args, exploration]), dtype)
    # Whole blocks, so that the last one is not compiled for itself.
    whole = jnp.resize(rows, (-(-len(rows) // _BATCH) * _BATCH, rows.shape[1]))
    solved = jax.jit(lambda rows: jax.lax.map(cell, rows, batch_size=_BATCH))(whole)
    return jax.tree.map(lambda x: np.asarray(x)[: len(rows)], solved), np.asarray(rows, float)


def check(found, possible, answer, index, tolerance):
    """One cell against its answer: what is claimed must be true, whether or not all is claimed."""
    valid, strategy = found.valid[index], found.strategy[index]
    mixed, stability = valid & ~found.is_pure[index], found.stability[index]
    assert tuple(found.pure[index]) == answer.pure
    wanted = np.asarray(answer.mask)
    certainty = possible.certainty[index]
    decided = certainty != UNDECIDED
    assert ((certainty == bn.Certainty.IN) == wanted)[decided].all()
    assert (possible.mask[index] >= wanted).all()
    assert mixed.sum() == len(answer.mixed)
    np.testing.assert_allclose(np.sort(strategy[mixed, 0]), np.sort(answer.mixed), atol=tolerance)
    for got, want in zip(stability[mixed], answer.mixed_stability, strict=True):
        assert got in (want, bn.Stability.UNKNOWN)
    for action in (0, 1):
        row = valid & found.is_pure[index] & (strategy[:, action] == 1)
        assert row.sum() == answer.pure[action]
        for got in stability[row]:
            assert got in (answer.pure_stability[action], bn.Stability.UNKNOWN)
    worst = max(float(found.tol_fit[index]), float(found.tol_payoff[index]))
    assert (found.residual[index][valid] <= 10 * worst).all()
    return bool(found.complete[index]) and bool(decided.all())


@pytest.mark.parametrize("double", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sycophancy_of_any_width_and_exploration(double):
    rng = np.random.default_rng(11)
    num = (5 if double else 3) * _BATCH
    p, q, width = rng.random((3, num))
    # Some true rates next to 0 and 1, and some widths at their ends.
    extreme = np.array([1e-7, 1e-5, 1e-3]) if double else np.array([1e-4, 1e-3, 1e-2])
    extreme = np.concatenate([extreme, 1 - extreme])
    p[:_BATCH] = rng.choice(extreme, _BATCH)
    q[_BATCH // 2 : 2 * _BATCH] = rng.choice(extreme, 3 * _BATCH // 2)
    width[-8:] = 1.0
    exploration = rng.choice([0.0, 0.0, 0.01, 0.05, 0.3], num)
    # The cells in which the search for the best fit once stopped too early.
    p[-2:], q[-2:] = [0.43494755222514203, 0.40208452693776586], [0.6195421723189775, 0.56726810843]
    width[-2:], exploration[-2:] = [0.7181469422039477, 0.5983216226599739], 0.0
    # A true rate at a kink of the chart: both pieces find the same best fit, and rounding once
    # made it look as if one of them might still come to lie lower.
    kinks, others = np.meshgrid([0.3, 0.7], [0.1, 0.25, 0.6, 0.65, 0.95])
    border = np.stack([kinks, others]).reshape(2, -1)
    border = np.concatenate([border, border[::-1]], 1)
    p, q = np.concatenate([p, border[0]]), np.concatenate([q, border[1]])
    width = np.concatenate([width, np.full(border.shape[1], 0.3)])
    exploration = np.concatenate([exploration, np.full(border.shape[1], 0.05)])
    with jax.enable_x64(double):
        args, dtype = (p, q, width), np.float64 if double else np.float32
        (found, possible), rows = solve_many(bn.scenarios.sycophancy, args, exploration, dtype)
    checked = sure = 0
    for i, row in enumerate(rows):
        answer = two_rates.two_rates(*row)
        if answer.margin > (1e-6 if double else 3e-3):
            decided = check(found, possible, answer, i, 1e-6 if double else 1e-3)
            assert decided or i < num
            sure += decided
            checked += 1
    assert checked > 0.8 * num
    assert sure >= 0.98 * checked


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
def test_a_monopolist_at_any_demand(double):
    rng = np.random.default_rng(12)
    num = _BATCH
    args = rng.uniform(24, 36, num), rng.uniform(-4, 12, num)
    exploration = rng.choice([0.0, 0.05], num)
    with jax.enable_x64(double):
        dtype = np.float64 if double else np.float32
        (found, possible), rows = solve_many(bn.scenarios.monopolist, args, exploration, dtype)
    checked = sure = 0
    for i, row in enumerate(rows):
        answer = two_rates.linear_demand(*row)
        if answer.margin > (0.01 if double else 0.1):
            sure += check(found, possible, answer, i, 1e-6 if double else 1e-3)
            checked += 1
    assert checked > 0.8 * num
    assert sure >= 0.95 * checked


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_best_fits_next_to_certainty(distance, x64):
    for p in (distance, 1 - distance):
        found = bn.equilibria(bn.scenarios.sycophancy(p, 0.3))
        pure = np.asarray(found.is_pure & (found.strategy[:, 0 if p > 0.5 else 1] == 1))
        want = p if p > 0.5 else 0.7
        if p > 0.5:
            np.testing.assert_allclose(np.asarray(found.best_fit)[pure, 0], want, atol=1e-13)
        assert found.complete
        found = bn.equilibria(bn.scenarios.deception(p_detect=p, honest_payoff=-0.999999999))
        deceive = np.asarray(found.is_pure & (found.strategy[:, 0] == 1))
        np.testing.assert_allclose(np.asarray(found.best_fit)[deceive, 0], p, atol=1e-13)
        assert deceive.sum() == 1


def test_a_threshold_next_to_zero(x64):
    # t = 5e-6 exceeds p_detect = 1e-6: deceiving is an equilibrium too.
    problem = bn.scenarios.deception(p_detect=1e-6, gain=1.0, penalty=1.0, honest_payoff=1 - 1e-5)
    found, _, phase = solve_all(problem, 0.0, 8)  # the program of the test before this one
    assert np.asarray(found.pure).all()
    assert phase == bn.Phase.MULTISTABLE


def _brief_lead(theta):
    """The signal is seen after action 0; action 1 is the better reply near theta = 0.509 alone."""
    reward = 0.5 + 0.01 * (0.004**2 - (theta[0] - 0.509) ** 2)
    zero = jnp.zeros_like(theta[0])
    first = jnp.stack([1 - theta[0], theta[0], zero, zero])
    second = jnp.stack([zero, zero, 1 - reward, reward])
    return jnp.stack([first, second])


def brief_lead(safe):
    """Action 1 is the better reply for a range of play that lies between two scanned points."""
    probs = [[0.8, 0.2, 0, 0], [0, 0, 0.2, 0.8]]
    payoff = [[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]
    return bn.Problem.from_family(_brief_lead, [0.0], [1.0], probs=probs, payoff=payoff, safe=safe)


@pytest.mark.parametrize("safe", [[False, True], [True, False]])
def test_what_a_scan_does_not_see_is_not_excluded(safe, x64):
    problem = brief_lead(safe)
    found, possible, phase = solve_all(problem, 0.0, 4)
    exact = bn.rationalizable(problem.discretize(4001))
    assert np.asarray(exact.mask).all()
    assert (np.asarray(possible.certainty) != bn.Certainty.OUT).all()
    assert phase in (bn.Phase.UNDECIDED, bn.phase(problem.discretize(4001)))
    assert not found.complete


def test_a_search_that_is_cut_short_says_so(x64, monkeypatch):
    from bnjax.equilibrium import _box

    # A mixture at 0.75, were it found (see test_scenarios); without a step the grid's own answer.
    monkeypatch.setattr(_box, "_MOST_TRIPS", 0)
    problem, tolerance = bn.scenarios.sycophancy(0.7, 0.8, 0.3), default_tolerance(jnp.float64)
    zero = jnp.zeros(())
    # A function of its own, so that no program is used that was compiled with more steps.
    found, possible, _ = jax.jit(lambda problem: solve(problem, zero, 4, tolerance))(problem)
    assert not found.complete
    assert (np.asarray(possible.certainty) != bn.Certainty.OUT).all()
    residual = np.asarray(found.residual)[np.asarray(found.valid)]
    assert (residual <= 1e-9).all()


def deep_between_nodes(depth, num_actions, promised, dimension=1):
    """One model explains everything, half-way between two nodes; another, at a node, nearly so."""
    near, right = 0.25, 48.5 / 64 if dimension == 1 else 12.5 / 16

    def means(theta):
        first = depth * (theta[0] - near) * (theta[0] - right)
        others = 0.1 * (right - theta[0])
        if dimension == 2:
            others += 0.04 * (theta[1] - 0.53)
        return jnp.stack([first] + [others] * (num_actions - 1)), jnp.ones(num_actions)

    return bn.GaussianProblem.from_family(
        means,
        [0.0] * dimension,
        [1.0] * dimension,
        mean=[0.0] * num_actions,
        sd=[1.0] * num_actions,
        payoff_intercept=[0.0, -0.025] + [-1.0] * (num_actions - 2),
        payoff_slope=[0.0] + [1.0] * (num_actions - 1),
        safe=[False] + [True] * (num_actions - 1),
        unique_best_fit=promised,
    )


@pytest.mark.parametrize(
    ("depth", "num_actions", "promised", "dimension"),
    [(10.0, 2, True, 1), (100.0, 3, True, 1), (100.0, 2, False, 1), (100.0, 2, False, 2)],
)
def test_the_best_fit_may_lie_in_a_deep_basin_between_nodes(
    depth, num_actions, promised, dimension
):
    # K = 0 at the right model alone, hence the best fit whatever is played, and action 0 is best.
    problem = deep_between_nodes(depth, num_actions, promised, dimension)
    found, possible, phase = solve_all(problem, 0.1, 4)
    assert found.pure.tolist() == [True] + [False] * (num_actions - 1)
    rows = np.asarray(found.valid)
    assert rows.sum() == 1
    assert np.asarray(found.strategy)[rows, 0] == 1
    right = 48.5 / 64 if dimension == 1 else 12.5 / 16
    np.testing.assert_allclose(np.asarray(found.best_fit)[rows, 0], right, atol=1e-6)
    assert possible.certainty[0] == bn.Certainty.IN
    others = np.asarray(possible.certainty)[1:]
    assert (others == (bn.Certainty.OUT if promised else UNDECIDED)).all()
    assert phase == (bn.Phase.UNSAFE if promised else bn.Phase.UNDECIDED)


def test_models_that_fit_equally_well_whatever_is_played_leave_doubt():
    # Three of them, against the promise.
    def rates(theta):
        rate = 0.5 + 0.3 * jnp.sin(6 * jnp.pi * theta[0])
        return jnp.stack([jnp.stack([1 - rate, rate]), jnp.stack([rate, 1 - rate])])

    problem = bn.Problem.from_family(
        rates,
        [0.0],
        [1.0],
        probs=[[0.2, 0.8], [0.8, 0.2]],
        payoff=[[0.0, 1.0], [0.0, 1.0]],
        safe=[True, False],
        unique_best_fit=True,
    )
    found, possible, _ = solve_all(problem, 0.1, 4)
    assert found.pure_undecided.all()
    assert (possible.certainty != bn.Certainty.OUT).all()


class Waves(eqx.Module):
    """Means that go up and down with two parameters, so that divergences have many minima."""

    size: jax.Array
    frequency: jax.Array
    shift: jax.Array

    def __call__(self, theta):
        waves = self.size * jnp.sin(self.frequency @ theta + self.shift)
        return waves.sum(-1), jnp.ones(waves.shape[0])


def _best_of_all(size, frequency, shift, mean, weights):
    """Means under the best fit, by polishing what is best on a fine grid."""
    axis = np.linspace(0.0, 1.0, 201)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)

    def means(theta):
        return (size * np.sin(np.einsum("atd,...d->...at", frequency, theta) + shift)).sum(-1)

    def misfit(theta):
        return 0.5 * ((means(theta) - mean) ** 2) @ weights

    starts = grid[np.argsort(misfit(grid))[:200:20]]
    ends = [scipy.optimize.minimize(misfit, start, bounds=[(0, 1)] * 2) for start in starts]
    return means(min(ends, key=lambda end: end.fun).x)


def random_waves(seed, num, num_actions):
    """Sizes, frequencies, shifts, true means, intercepts and slopes of ``num`` problems."""
    rng = np.random.default_rng(seed)
    size, shift = rng.normal(size=(num, num_actions, 3)), rng.random((num, num_actions, 3)) * 6
    frequency = 2 * rng.normal(size=(num, num_actions, 3, 2))
    return size, frequency, shift, *rng.normal(size=(3, num, num_actions))


def solve_waves(row, exploration):
    size, frequency, shift, mean, intercept, slope = row
    problem = bn.GaussianProblem.from_family(
        Waves(size, frequency, shift),
        [0.0, 0.0],
        [1.0, 1.0],
        mean=mean,
        sd=jnp.ones(mean.shape),
        payoff_intercept=intercept,
        payoff_slope=slope,
        safe=[False] + [True] * (mean.shape[0] - 1),
    )
    return solve_all(problem, exploration, 4)


@pytest.mark.parametrize("num_actions", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_many_basins_in_two_dimensions(num_actions):
    num, exploration = 12, 0.1
    rows = random_waves(3, num, num_actions)
    size, frequency, shift, mean, intercept, slope = rows

    def solve(row):
        return solve_waves(row, exploration)

    with jax.enable_x64(True):
        found, possible, _ = jax.jit(lambda rows: jax.lax.map(solve, rows, batch_size=num))(
            jax.tree.map(jnp.asarray, rows)
        )
        found, possible = jax.tree.map(np.asarray, (found, possible))
    decided = 0
    for i, (action, name) in itertools.product(range(num), enumerate(np.eye(num_actions))):
        weights = (1 - exploration) * name + exploration / num_actions
        means = _best_of_all(size[i], frequency[i], shift[i], mean[i], weights)
        payoffs = intercept[i] + slope[i] * means
        lead = payoffs[action] - np.delete(payoffs, action).max()
        if found.pure_undecided[i, action] or abs(lead) < 1e-4:
            continue
        decided += 1
        assert found.pure[i, action] == (lead > 0)
    assert decided > 0.8 * num * num_actions
    assert not found.complete.any()
    assert (possible.certainty != bn.Certainty.OUT).all()


def _follow_the_jump(row, exploration, strategy, atoms):
    """Play at which two local best fits tie, the two, and the weight that makes a belief in both
    indifferent: by solving the first-order conditions, from an answer near by."""
    size, frequency, shift, mean, intercept, slope = row

    def means(theta):
        return (size * np.sin(frequency @ theta + shift)).sum(-1)

    def slopes(theta):
        return np.einsum("at,atd->ad", size * np.cos(frequency @ theta + shift), frequency)

    inside = (atoms > 0) & (atoms < 1)

    def conditions(unknown):
        s, moved = unknown[0], atoms.copy()
        moved[inside] = unknown[1:]
        play = (1 - exploration) * np.array([s, 1 - s]) + exploration / 2
        fits = [play @ (means(theta) - mean) ** 2 for theta in moved]
        level = np.stack([play * (means(theta) - mean) @ slopes(theta) for theta in moved])
        return np.concatenate([[fits[0] - fits[1]], level[inside]])

    start = np.concatenate([strategy[:1], atoms[inside]])
    end = scipy.optimize.root(conditions, start, method="hybr", options={"xtol": 1e-14}).x
    moved = atoms.copy()
    moved[inside] = end[1:]
    gain = [np.subtract(*(intercept + slope * means(theta))) for theta in moved]
    weight = gain[1] / (gain[1] - gain[0])
    return np.concatenate([end[:1], moved.ravel(), [weight]])


def test_derivatives_where_the_best_fit_jumps():
    rng = np.random.default_rng(0)
    draw = random_waves(0, 64, 2)

    def answer(row, exploration):
        found = solve_waves(row, exploration)[0]
        return found.strategy[0], found.atoms[0], found.atom_weight[0], found.best_fit[0]

    with jax.enable_x64(True):
        both = jax.jit(lambda x, change: jax.jvp(answer, x, change))
        # Two that have such an equilibrium, one with an atom inside the box, one on its bounds.
        for k in (29, 36):
            at = (tuple(x[k] for x in draw), np.asarray(0.1))
            change = jax.tree.map(lambda x: rng.normal(size=x.shape), at)
            found, moves = jax.tree.map(np.asarray, both(*jax.tree.map(jnp.asarray, (at, change))))
            assert 0.1 < found[2][0] < 0.9
            assert np.abs(np.subtract(*found[1])).max() > 0.2

            def oracle(step, at=at, change=change, found=found):
                row, exploration = jax.tree.map(
                    np.add, at, jax.tree.map(partial(np.multiply, step), change)
                )
                return _follow_the_jump(row, exploration, *found[:2])

            np.testing.assert_allclose(
                oracle(0), np.concatenate([found[0][:1], found[1].ravel(), found[2][:1]]), atol=1e-5
            )
            expected = (oracle(1e-5) - oracle(-1e-5)) / 2e-5
            got = np.concatenate([moves[0][:1], moves[1].ravel(), moves[2][:1]])
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
            mean = found[2] @ moves[1] + moves[2] @ found[1]
            np.testing.assert_allclose(moves[3], mean, atol=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_nothing_convex_lies_below_its_bound_in_a_cell(dimension):
    rng = np.random.default_rng(5)
    per_axis, fine = 4, {1: 61, 2: 31, 3: 13}[dimension]

    def grid(num):
        axis = np.linspace(0.0, 1.0, num)
        return np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1).reshape(-1, dimension)

    nodes, inside = grid(per_axis), grid(fine)
    for trial in range(20):
        # Sums of exponentials of what is linear: convex, curved, and stretched in any direction.
        slope, shift = 4 * rng.normal(size=(6, dimension)), rng.normal(size=6)

        def value(x, slope=slope, shift=shift):
            return np.exp(x @ slope.T + shift).sum(-1)

        gradient = np.exp(nodes @ slope.T + shift) @ slope
        walls = rng.random(len(nodes)) < (0.2 if trial % 2 else 0.0)
        cells = Cells(
            *map(jnp.asarray, (nodes, value(nodes), gradient, walls, np.ones(dimension, bool)))
        )
        bound, start = cells.bounds()
        candidates, lower = np.asarray(cells.candidates()), np.asarray(cells.lower)
        for k in range(len(lower)):
            least = value(lower[k] + inside * np.asarray(cells.spacing)).min()
            assert bound[k] <= least * (1 + 1e-5) + 1e-5 or not candidates[k]
        lowest = value(inside)
        where = inside[lowest.argmin()]
        holds = np.all((lower <= where + 1e-6) & (where - 1e-6 <= np.asarray(cells.upper)), axis=1)
        assert candidates[holds].any() or walls.any()
        corners = np.asarray(nodes)[np.asarray(start)]
        assert (np.abs(corners - lower).max(1) <= np.asarray(cells.spacing).max() + 1e-6).all()


def one_mean(sd):
    """Both actions draw from means -1 and 1, by which one parameter is learned; 0 is the tie."""
    return bn.GaussianProblem.from_family(
        lambda theta: (jnp.stack([theta[0], theta[0]]), sd),
        [-2.0],
        [2.0],
        mean=[-1.0, 1.0],
        sd=sd,
        payoff_intercept=[0.0, 0.0],
        payoff_slope=[1.0, 0.0],
        unique_best_fit=True,
    )


@pytest.mark.parametrize("double", [True, False])
def test_equilibria_next_to_pure_play_are_not_overlooked(double):
    # The best fit is the mean of -1 and 1 with weights s / sd^2 and 1 - s: zero at this s.
    sd = np.array([1.0, 0.1, 0.02, 0.009, 0.003, 1e-3, 1e-4])
    answer = sd**2 / (1 + sd**2)
    with jax.enable_x64(double):

        def solve(sd):
            found = solve_all(one_mean(jnp.stack([sd, jnp.ones_like(sd)])), 0.0, 4)[0]
            return found.strategy[0, 0], found.best_fit[0, 0], found.complete, found.valid.sum()

        s, theta, complete, num = map(np.asarray, jax.jit(jax.vmap(solve))(jnp.asarray(sd)))
    np.testing.assert_allclose(s, answer, rtol=1e-9 if double else 1e-4)
    np.testing.assert_allclose(theta, 0, atol=1e-9 if double else 1e-4)
    assert complete.all()
    assert (num == 1).all()


class Valley(eqx.Module):
    """Means whose divergence is Rosenbrock's function: one minimum, in a long curved valley."""

    curve: jax.Array
    num_actions: int = eqx.field(static=True)

    def __call__(self, theta):
        means = jnp.stack([self.curve * (theta[1] - theta[0] ** 2), theta[0]])
        others = jnp.zeros(self.num_actions - 2, means.dtype)
        return jnp.concatenate([means, others]), jnp.ones(self.num_actions, means.dtype)


@pytest.mark.parametrize("num_actions", [2, 3])
def test_a_search_goes_on_along_a_curved_valley(num_actions, x64):
    rng = np.random.default_rng(0)
    num, others = 24, [0.0] * (num_actions - 2)
    truth = rng.uniform(-1, 1, num)
    tie = truth + rng.choice([-1, 1], num) * rng.uniform(0.02, 0.2, num)

    def solve(curve, truth, tie):
        problem = bn.GaussianProblem.from_family(
            Valley(curve, num_actions),
            [-1.3, -0.4],
            [1.2, 1.7],
            mean=jnp.stack([0.0, truth, *others]),
            sd=[1.0] * num_actions,
            payoff_intercept=jnp.stack([0.0, -tie, *(x - 5 for x in others)]),
            payoff_slope=[0.0, 1.0, *others],
            unique_best_fit=True,
        )
        found, possible, _ = solve_all(problem, 0.3, 4)
        return found.pure, found.pure_undecided, possible.certainty

    run = jax.jit(lambda *rows: jax.lax.map(lambda row: solve(*row), rows, batch_size=num))
    want = np.zeros((num, num_actions), bool)
    want[:, 0], want[:, 1] = truth < tie, truth > tie
    # Too long a valley is not searched to its end, and the answer says so.
    for curve, all_decided in ((20.0, True), (1000.0, False)):
        pure, undecided, certainty = map(np.asarray, run(np.full(num, curve), truth, tie))
        assert ((pure == want) | undecided).all()
        assert (certainty != np.where(want, bn.Certainty.OUT, bn.Certainty.IN)).all()
        assert not undecided.any() or not all_decided


def test_derivatives_of_a_mixture_of_two_of_three_actions(x64):
    def answer(tie):
        problem = bn.GaussianProblem.from_family(
            lambda theta: (jnp.stack([theta[0]] * 3), jnp.ones(3)),
            [-2.0],
            [2.0],
            mean=[-1.0, 1.0, 0.0],
            sd=[1.0] * 3,
            payoff_intercept=jnp.stack([-tie, 0.0, -5.0]),
            payoff_slope=[1.0, 0.0, 0.0],
            unique_best_fit=True,
        )
        found = bn.equilibria(problem)
        row = jnp.argmax(found.valid & ~found.is_pure)
        return jnp.concatenate([found.strategy[row], found.best_fit[row]])

    @jax.jit
    def both(tie):
        values, pull = jax.vjp(answer, tie)
        return values, jax.vmap(pull)(jnp.eye(4))[0]

    # The best fit 1 - 2 s is where the first two pay the same.
    values, slopes = both(0.3)
    np.testing.assert_allclose(values, [0.35, 0.65, 0, 0.3], atol=1e-12)
    np.testing.assert_allclose(slopes, [-0.5, 0.5, 0, 1], atol=1e-12)
