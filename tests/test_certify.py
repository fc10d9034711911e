"""`certify` against brute force in rationals, against nashpy, and against closed forms."""

import dataclasses
import itertools
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import bnjax as bn
from bnjax.equilibrium import _certify_exact, _certify_search
from bnjax.equilibrium._certify import Certificate, certify
from bnjax.equilibrium._codes import Certainty
from bnjax.problem import Problem
from tests.oracles import bimatrix, closed_forms, exact
from tests.oracles.random_problems import KINDS, random_problem, reduced_form

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")

TOL = 1e-9
IN, OUT, UNDECIDED = Certainty.IN, Certainty.OUT, Certainty.UNDECIDED

# Seeds of `mixed_fits(..., 3, 6, 1e-8)` in which HiGHS takes near-ties for ties before it finds a
# witness: each of its first proposals is refuted, for lack of play or for lack of a belief.
MISLEADING = [44, 81, 136]


@dataclasses.dataclass(frozen=True)
class Reduced:
    """The least that `certify` asks of a problem: its reduced form, names and safe mask."""

    kl: Any
    payoffs: Any
    ruled_out: Any = None
    support: Any = None
    safe: Any = None

    @property
    def action_names(self) -> tuple[str, ...]:
        return tuple("abcdefg"[: np.shape(self.kl)[1]])

    @property
    def arrays(self) -> dict[str, Any]:
        kl = np.asarray(self.kl, float)
        ruled_out = np.zeros(kl.shape, bool) if self.ruled_out is None else self.ruled_out
        support = np.ones(len(kl), bool) if self.support is None else self.support
        return {
            "kl": np.where(ruled_out, 0.0, kl),
            "ruled_out": np.asarray(ruled_out),
            "payoffs": np.asarray(self.payoffs, float),
            "support": np.asarray(support),
        }

    def reduced_form(self) -> SimpleNamespace:
        return SimpleNamespace(**self.arrays)


def categorical(seed: int, kind: Any, **sizes: int) -> Reduced:
    problem = random_problem(seed, kind, **sizes)
    return Reduced(safe=problem["safe"], **reduced_form(problem))


def integer_ties(rng: np.random.Generator, num_actions: int, num_models: int) -> Reduced:
    """Small integers: exact ties everywhere, and models that are ruled out now and then."""
    shape = (num_models, num_actions)
    ruled_out = rng.random(shape) < rng.choice([0.0, 0.3])
    ruled_out[0] = False
    return Reduced(rng.integers(0, 4, size=shape), rng.integers(0, 4, size=shape), ruled_out)


def mixed_fits(
    rng: np.random.Generator, num_actions: int, num_models: int, noise: float = 0.0
) -> Reduced:
    """Models that fit mixtures best, so that pure play decides little; near-ties if noisy."""
    shape = (num_models, num_actions)
    kl = -np.log(0.02 + rng.dirichlet(np.full(num_actions, 0.7), size=num_models))
    payoffs = rng.normal(size=shape)
    if noise:
        jitter = noise * rng.choice([-1, 0, 0.03, 1], size=(2, *shape))
        kl, payoffs = np.round(3 * kl) + jitter[0], rng.integers(0, 3, size=shape) + jitter[1]
    ruled_out = rng.random(shape) < rng.choice([0.0, 0.3])
    ruled_out[0] = False
    return Reduced(kl - kl.min(), payoffs, ruled_out)


def brute_force(problem: Reduced, tolerance: float = TOL, exploration: float = 0.0) -> np.ndarray:
    return exact.rationalizable(
        exact.exact_problem(
            **problem.arrays, exploration=exploration, tol_fit=tolerance, tol_payoff=tolerance
        )
    )


def assert_agrees(problem: Reduced, tolerance: float = TOL, exploration: float = 0.0) -> None:
    """Everything is decided, as brute force has it, and every witness stands up."""
    certificate = certify(problem, exploration, tol_fit=tolerance, tol_payoff=tolerance)
    expected = brute_force(problem, tolerance, exploration)
    np.testing.assert_array_equal(certificate.certainty, np.where(expected, IN, OUT))
    np.testing.assert_array_equal(certificate.mask, expected)
    assert certificate.check(problem)
    assert {e.action for e in certificate.exclusions} == set(np.flatnonzero(~expected).tolist())


# Against brute force in rationals


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_actions", "num_models"), [(2, 7), (3, 5), (4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_random_problems(kind, num_actions, num_models, seed):
    problem = categorical(seed, kind, num_actions=num_actions, num_models=num_models)
    assert_agrees(problem, exploration=[0.0, 0.0, 0.1][seed % 3])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tolerance", [0.0, TOL])
def test_exact_ties(seed, tolerance):
    rng = np.random.default_rng(seed)
    assert_agrees(integer_ties(rng, 2 + seed % 3, 4), tolerance)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_equilibria_in_mixtures(seed, noise):
    """Here the mixed-integer program has to find witnesses; near-ties below its resolution."""
    assert_agrees(mixed_fits(np.random.default_rng(seed), 3, 5, noise))


@pytest.mark.parametrize("seed", MISLEADING)
def test_proposals_that_turn_out_wrong(seed):
    assert_agrees(mixed_fits(np.random.default_rng(seed), 3, 6, 1e-8))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("exploration", [0.25, 1.0])
def test_exploration(exploration, seed):
    assert_agrees(mixed_fits(np.random.default_rng(seed), 2 + seed % 2, 5), TOL, exploration)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_many_random_problems(seed):
    rng = np.random.default_rng(10_000 + seed)
    problems = [
        categorical(seed, KINDS[seed % len(KINDS)], num_actions=4, num_models=5),
        integer_ties(rng, 4, 5),
        mixed_fits(rng, 4, 5),
        mixed_fits(rng, 4, 4, 1e-8),
    ]
    for problem in problems:
        assert_agrees(problem)
        for function in (exact.vertices, exact.justifies, exact.justified):
            function.cache_clear()


# Against peers and closed forms


@pytest.mark.parametrize("seed", range(12))
def test_equilibria_of_the_bimatrix_game_are_rationalizable(seed):
    problem = mixed_fits(np.random.default_rng(seed), 3 + seed % 3, 5)
    problem = dataclasses.replace(problem, ruled_out=None)
    strategies, _ = bimatrix.equilibria(problem.arrays["kl"], problem.payoffs)
    assert len(strategies) % 2 == 1
    played = (strategies > 1e-9).any(0)
    assert certify(problem).mask[played].all()


@pytest.mark.parametrize("seed", range(12))
def test_oracles_agree_on_two_actions(seed):
    """Components against nashpy (generic, finite), and against the rationalizable set."""
    rng = np.random.default_rng(seed)
    problem = dataclasses.replace(mixed_fits(rng, 2, 6), ruled_out=None)
    components = exact.equilibrium_components(exact.exact_problem(**problem.arrays))
    strategies, _ = bimatrix.equilibria(problem.arrays["kl"], problem.payoffs)
    shares = np.unique(strategies[:, 0].round(9))
    assert all(c.start == c.end for c in components)
    np.testing.assert_allclose([float(c.start) for c in components], shares, atol=1e-8)
    mask = certify(problem).mask
    assert all(mask[0] or c.end == 0 for c in components)
    assert all(mask[1] or c.start == 1 for c in components)


def sycophancy(p_sycophantic: float, p_honest: float, num: int = 21) -> Reduced:
    theta = np.linspace(0, 1, num)[1:-1]
    models = np.stack([np.stack([1 - theta, theta], -1), np.stack([theta, 1 - theta], -1)], 1)
    truth = np.array([[1 - p_sycophantic, p_sycophantic], [1 - p_honest, p_honest]])
    return Reduced(
        (truth * np.log(truth / models)).sum(-1),
        models[:, :, 1],
        safe=np.array([False, True]),
    )


@pytest.mark.parametrize(("p_s", "p_h"), list(itertools.product([0.2, 0.4, 0.6, 0.9], repeat=2)))
def test_sycophancy_regimes(p_s, p_h):
    answer = closed_forms.sycophancy(p_s, p_h)
    certificate = certify(sycophancy(p_s, p_h))
    assert tuple(certificate.mask) == answer.rationalizable
    assert certificate.safe == (answer.phase == "SAFE")
    assert certificate.method == "rational"


@pytest.mark.parametrize(
    ("p_detect", "lower", "upper"),
    [(0.05, 0.1, 0.3), (0.9, 0.1, 0.3), (0.2, 0.6, 0.9), (0.7, 0.1, 0.9), (0.3, 0.1, 0.9)],
)
def test_deception_cases(p_detect, lower, upper):
    gain, penalty, honest = 3.0, 2.0, 0.6
    detect = np.linspace(lower, upper, 41)
    truth, models = (np.stack([1 - np.asarray(p), p], -1) for p in (p_detect, detect))
    kl = (truth * np.log(truth / models)).sum(-1)
    problem = Reduced(
        np.stack([kl, np.zeros(41)], 1),
        np.stack([gain - (gain + penalty) * detect, np.full(41, honest)], 1),
        safe=[False, True],
    )
    answer = closed_forms.deception(p_detect, gain, penalty, honest, lower, upper)
    certificate = certify(problem)
    assert tuple(certificate.mask) == answer.rationalizable
    assert certificate.safe == (answer.phase == "SAFE")


# Definitions, on problems small enough to work out by hand


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_gamma_is_monotone(kind, seed):
    """A larger set of actions justifies no less; and what it justifies is what brute force says."""
    problem = categorical(seed, kind, num_actions=3, num_models=4)
    form = _certify_exact.exact_form(problem, *(Fraction(x) for x in (0, TOL, TOL)))
    oracle = exact.exact_problem(**problem.arrays, tol_fit=TOL, tol_payoff=TOL)
    subsets = [frozenset(s) for k in (1, 2, 3) for s in itertools.combinations(range(3), k)]
    gamma = {}
    for subset in subsets:
        search = _certify_search.Search(form)  # afresh: nothing carries over from other sets
        gamma[subset] = {a for a in range(3) if search.decide(a, subset).certainty == IN}
        assert gamma[subset] == exact.gamma(oracle, subset)
    for small, large in itertools.product(subsets, subsets):
        assert not small <= large or gamma[small] <= gamma[large]


def test_one_action_is_rationalizable():
    certificate = certify(Reduced([[0.1], [0.2]], [[1.0], [0.0]]))
    assert certificate.certainty.tolist() == [IN]
    assert certificate.witnesses[0].belief == (1, 0)


def test_elimination_takes_rounds():
    """c is justified by no model; b only by the model that fits c; a by the rest."""
    kl = [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    payoffs = [[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]
    certificate = certify(Reduced(kl, payoffs))
    assert certificate.certainty.tolist() == [IN, OUT, OUT]
    assert [(e.action, e.round, e.available) for e in certificate.exclusions] == [
        (2, 1, (0, 1, 2)),
        (1, 2, (0, 1)),
    ]
    assert certificate.rounds == 3


def test_optimal_only_under_a_mixed_belief():
    """Both models must be believed, so that their fits must tie: at equal shares of a and b."""
    payoffs = [[2.0, 0.0, 1.5], [0.0, 2.0, 1.5]]
    kl = [[0.0, 1.0, 0.3], [1.0, 0.0, 0.5]]
    certificate = certify(Reduced(kl, payoffs))
    witness = certificate.witnesses[2]
    assert certificate.certainty.tolist() == [IN, IN, IN]
    assert certificate.method == "milp"
    assert len(witness.believed) == 2
    fits = np.asarray(kl) @ np.array(witness.strategy, float)
    assert fits[0] == pytest.approx(fits[1], abs=2e-9)


def test_play_that_refutes_a_model_frees_the_others():
    """Model 0 fits perfectly until b is played; only then can model 1 justify b."""
    kl, payoffs = [[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]
    finite = certify(Reduced(kl, payoffs))
    infinite = certify(Reduced(kl, payoffs, [[False, True], [False, False]]))
    assert finite.certainty.tolist() == [IN, OUT]
    assert infinite.certainty.tolist() == [IN, IN]
    assert infinite.witnesses[1].strategy[1] > 0


def test_exploration_adds_data_on_every_action():
    """At pure a, model 0 misfits by x = exploration and model 1 by 1.5 - 0.75 x: equal at 6/7."""
    problem = Reduced([[0.0, 2.0], [1.5, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert certify(problem, 6 / 7 - 1e-3).certainty.tolist() == [IN, IN]
    assert certify(problem, 6 / 7 + 1e-3).certainty.tolist() == [OUT, IN]


def test_exploration_refutes_what_any_action_refutes():
    problem = Reduced([[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0, 1], [0, 0]])
    certificate = certify(problem, 1e-6)
    assert certificate.certainty.tolist() == [OUT, IN]
    assert certificate.exploration == 1e-6


def test_unsupported_models_do_not_count():
    """Not as the best fit, not as a belief, and not in the range of payoffs."""
    kl, payoffs = [[0.0, 0.0], [1.0, 1.0]], [[1e9, 0.0], [0.0, 1.0]]
    problem = Reduced(kl, payoffs, support=[False, True])
    certificate = certify(problem)
    assert certificate.certainty.tolist() == [OUT, IN]
    assert certificate.witnesses[1].belief == (0, 1)
    believer = dataclasses.replace(
        certificate.witnesses[1], action=0, belief=(Fraction(1), Fraction(0))
    )
    assert not believer.check(problem)


def thin(num_actions: int) -> Reduced:
    """Model 0 fits a best and b refutes it; models 1 and 2 tie at a; only 2 fits b.

    Belief in model 1, which alone justifies b, takes play of b, and as little as the
    tolerance of the tie allows.
    """
    kl = [[0.0, 0.0, 9.0], [1.0, 1.0, 9.0], [1.0, 0.0, 9.0]]
    payoffs = [[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [1.0, 0.0, -1.0]]
    ruled_out = [[False, True, False], [False] * 3, [False] * 3]
    return Reduced(*(np.array(x)[:, :num_actions] for x in (kl, payoffs, ruled_out)))


@pytest.mark.parametrize("num_actions", [2, 3])
def test_thin_witnesses_are_decided_exactly(num_actions):
    problem = thin(num_actions)
    loose = certify(problem)
    assert loose.certainty.tolist()[:2] == [IN, IN]
    assert 0 < loose.witnesses[1].strategy[1] <= Fraction(2e-9)
    strict = certify(problem, tol_fit=0.0)
    assert strict.certainty.tolist()[:2] == [IN, OUT]
    assert all(e.least_play == 0 for e in strict.exclusions)
    assert_agrees(problem)
    assert_agrees(problem, 0.0)


@pytest.mark.parametrize("num_actions", [2, 3])
def test_best_fit_at_a_single_point(num_actions):
    """Model 2 alone justifies b, and fits best only where models 0 and 1 cross."""
    kl = np.array([[0.0, 2.0, 9.0], [2.0, 0.0, 9.0], [1.0, 1.0, 9.0]])[:, :num_actions]
    payoffs = np.array([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])[:, :num_actions]
    certificate = certify(Reduced(kl, payoffs), tol_fit=0.0)
    assert certificate.certainty.tolist()[:2] == [IN, IN]
    assert certificate.witnesses[1].strategy[:2] == (Fraction(1, 2), Fraction(1, 2))


def test_tolerances_decide_near_ties():
    problem = Reduced([[0.0, 1e-6], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1 - 1e-6]])
    assert certify(problem, tol_fit=1e-7, tol_payoff=0.0).certainty.tolist() == [IN, IN]
    problem = Reduced([[1e-6, 1e-6], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1 - 1e-6]])
    assert certify(problem, tol_fit=0.0, tol_payoff=1e-7).certainty.tolist() == [IN, OUT]
    assert certify(problem, tol_fit=2e-6, tol_payoff=0.0).certainty.tolist() == [IN, IN]
    assert certify(problem, tol_fit=0.0, tol_payoff=2e-6).certainty.tolist() == [IN, IN]


def test_nothing_rationalizable_promises_nothing():
    problem = Reduced([[0.0, 0.0]], [[1.0, 0.0]], [[True, True]], safe=[True, True])
    certificate = certify(problem)
    assert certificate.certainty.tolist() == [OUT, OUT]
    assert certificate.safe is None
    assert "not determined" in certificate.summary(problem)


# Witnesses


def mutations(certificate: Certificate):
    """Wrong copies of every witness, each wrong in one way."""
    excluded = np.flatnonzero(~certificate.mask).tolist()
    for witness in filter(None, certificate.witnesses):
        half = Fraction(1, 2)
        strategy, belief = witness.strategy, witness.belief
        for action in [*excluded, -1, len(strategy)]:
            yield dataclasses.replace(witness, action=action)
        yield dataclasses.replace(witness, strategy=tuple(half * p for p in strategy))
        yield dataclasses.replace(witness, belief=tuple(half * p for p in belief))
        yield dataclasses.replace(witness, strategy=(*strategy, Fraction(0)))
        yield dataclasses.replace(witness, belief=belief[:-1] + (Fraction(0),) * 2)
        yield dataclasses.replace(witness, strategy=(Fraction(2), Fraction(-1), *strategy[2:]))
        yield dataclasses.replace(witness, belief=(Fraction(2), Fraction(-1), *belief[2:]))


@pytest.mark.parametrize("seed", range(8))
def test_wrong_witnesses_fail(seed):
    # Spread-out numbers without ties: of the pure beliefs over each play, one model is best.
    problem = mixed_fits(np.random.default_rng(seed), 3, 5)
    certificate = certify(problem)
    assert all(not wrong.check(problem) for wrong in mutations(certificate))
    for witness in filter(None, certificate.witnesses):
        for model in set(range(5)) - set(witness.believed):
            certain = tuple(Fraction(int(m == model)) for m in range(5))
            assert not dataclasses.replace(witness, belief=certain).check(problem)


def test_witnesses_hold_for_their_problem_only():
    problem = Reduced([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    certificate = certify(problem)
    witness = certificate.witnesses[0]
    assert witness.check(problem)
    assert witness.check(problem, exploration=0.1)
    assert not witness.check(dataclasses.replace(problem, support=[False, True]))
    assert not witness.check(dataclasses.replace(problem, ruled_out=[[1, 0], [0, 0]]))
    assert not witness.check(dataclasses.replace(problem, payoffs=[[0.0, 1.0], [0.0, 1.0]]))
    assert not certificate.check(dataclasses.replace(problem, kl=[[1.0, 0.0], [0.0, 1.0]]))


def test_a_certificate_that_leans_on_an_excluded_action_fails():
    """Play of c would justify b, but c itself is not rationalizable."""
    problem = Reduced([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    certificate = certify(problem)
    leaning = _certify_exact.Witness(
        1, (Fraction(0), Fraction(0), Fraction(1)), (Fraction(0), Fraction(1))
    )
    assert leaning.check(problem)
    forged = dataclasses.replace(
        certificate,
        certainty=np.array([IN, IN, OUT], np.int8),
        witnesses=(certificate.witnesses[0], leaning, None),
    )
    assert not forged.check(problem)


# What the solver cannot decide


def test_a_silent_solver_leaves_actions_undecided(monkeypatch):
    """What leans on an undecided action is undecided too, and safety may be open."""
    problem = Reduced(
        [[0.0, 1.0, 0.3], [1.0, 0.0, 0.5]],
        [[2.0, 0.0, 1.5], [0.0, 2.0, 1.5]],
        safe=[True, True, False],
    )
    assert certify(problem).safe is False
    monkeypatch.setattr(_certify_search._Program, "propose", lambda self: UNDECIDED)
    certificate = certify(problem)
    assert certificate.certainty.tolist() == [IN, IN, UNDECIDED]
    assert certificate.mask.all()
    assert certificate.safe is None
    assert certificate.check(problem)
    assert "UNDECIDED" in certificate.summary(problem)


@pytest.mark.parametrize("seed", MISLEADING)
def test_few_cuts_never_make_a_wrong_claim(monkeypatch, seed):
    problem = mixed_fits(np.random.default_rng(seed), 3, 6, 1e-8)
    everything = certify(problem)
    monkeypatch.setattr(_certify_search, "MAX_CUTS", 1)
    hurried = certify(problem)
    assert hurried.check(problem)
    assert set(np.flatnonzero(hurried.certainty == IN)) <= set(np.flatnonzero(everything.mask))
    assert set(np.flatnonzero(hurried.certainty == OUT)) <= set(np.flatnonzero(~everything.mask))


@pytest.mark.parametrize("seed", range(4))
def test_integer_programs_against_scipy(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        size = int(rng.integers(1, 6))
        rows = rng.integers(-2, 3, size=(int(rng.integers(1, 8)), size))
        bounds = rng.integers(0, 2, size=len(rows)) * rng.integers(0, 2)
        objective = rng.integers(-3, 4, size=size)
        ours = _certify_exact.maximise(
            objective.tolist(), rows.astype(object), bounds.tolist(), [1] * size
        )
        theirs = linprog(-objective, A_ub=rows, b_ub=bounds, A_eq=np.ones((1, size)), b_eq=[1])
        assert theirs.status == (2 if ours is None else 0)
        if ours is not None:
            assert sum(ours) == 1
            assert min(ours) >= 0
            assert (rows.astype(object) @ np.array(ours) <= bounds).all()
            assert objective @ np.array(ours, float) == pytest.approx(-theirs.fun, abs=1e-9)


# Safety, reports and refusals


@pytest.mark.parametrize(
    ("safe", "verdict"), [([1, 1, 0], True), ([1, 0, 0], False), ([0, 0, 1], False), (None, None)]
)
def test_safety(safe, verdict):
    problem = Reduced(
        [[0.0, 1.0, 0.3], [1.0, 0.0, 0.5]],
        [[2.0, 0.0, -1.0], [0.0, 2.0, -1.0]],
        safe=None if safe is None else np.array(safe, bool),
    )
    assert certify(problem).safe is verdict


def test_summary_names_actions_and_reasons():
    problem = Reduced([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    certificate = certify(problem)
    lines = certificate.summary(problem).splitlines()
    assert lines[1].split()[:2] == ["a", "IN"]
    assert lines[1].endswith("optimal if play is a and belief is in model 0")
    assert lines[2].split()[:2] == ["b", "OUT"]
    assert "within {a, b} (round 2, relaxed by 1e-07)" in lines[2]
    assert "within {a, b, c} (round 1, exact)" in lines[3]
    assert "tol_fit 1e-09 nats" in lines[-1]
    assert "is safe" not in lines[-2]  # no action is called safe
    assert "action 2" in certificate.summary()
    assert repr(certificate) == (
        "Certificate(certainty=[IN, OUT, OUT], safe=None, method='milp', rounds=3)"
    )
    with pytest.raises(ValueError, match="3 actions"):
        certificate.summary(sycophancy(0.6, 0.6))


def test_arrays_are_read_only():
    certificate = certify(sycophancy(0.6, 0.6))
    with pytest.raises(ValueError, match="read-only"):
        certificate.mask[0] = False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exploration": 1.5}, r"`exploration` must be a number in \[0, 1\]; got 1.5"),
        ({"exploration": -0.1}, "`exploration` .* got -0.1"),
        ({"exploration": np.nan}, "`exploration` .* got nan"),
        ({"exploration": np.zeros(2)}, "`exploration` .* got array"),
        ({"tol_fit": -1e-9}, "`tol_fit` must be a finite number >= 0; got -1e-09"),
        ({"tol_payoff": np.inf}, "`tol_payoff` must be a finite number >= 0; got inf"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        certify(sycophancy(0.6, 0.6), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl": [[np.nan, 0.0]]}, "finite divergences"),
        ({"payoffs": [[np.inf, 0.0]]}, "finite subjective payoffs"),
        ({"support": [False]}, "in the prior's support; got none"),
    ],
)
def test_refuses_wrong_problems(change, message):
    problem = dataclasses.replace(Reduced([[0.0, 1.0]], [[0.0, 1.0]]), **change)
    with pytest.raises(ValueError, match=message):
        certify(problem)


# With the library's own problems


def own_problem(tilt: Any = 0.0) -> Problem:
    return Problem(
        probs=[[0.5, 0.5], [0.2, 0.8]],
        model_probs=[[[0.6, 0.4], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]],
        payoff=jnp.asarray([[0.0, 1.0], [0.0, 1.0]]) + tilt,
        action_names=["left", "right"],
    )


def test_own_problem():
    certificate = certify(own_problem())
    assert certificate.certainty.tolist() == [OUT, IN]
    assert "right" in certificate.summary(own_problem())


def test_refuses_traced_and_batched_problems():
    with pytest.raises(ValueError, match="`problem` must hold concrete numbers"):
        jax.jit(lambda tilt: certify(own_problem(tilt)).mask.sum())(0.0)
    with pytest.raises(ValueError, match=r"`exploration` .* got a traced value"):
        jax.jit(lambda x: certify(own_problem(), x).mask.sum())(0.0)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), own_problem().reduced_form())
    with pytest.raises(ValueError, match="one at a time"):
        certify(SimpleNamespace(reduced_form=lambda: batch))


def test_refuses_continuous_families():
    family = Problem.from_family(
        lambda theta: jnp.stack([jnp.stack([1 - theta[0], theta[0]])] * 2),
        [0.1],
        [0.9],
        probs=[[0.5, 0.5], [0.5, 0.5]],
        payoff=[[0.0, 1.0], [0.0, 0.5]],
    )
    with pytest.raises(ValueError, match="discretize"):
        certify(family)


def test_summary_says_what_is_believed():
    with jax.enable_x64(True):
        problem = bn.scenarios.sycophancy(0.3, 0.3).discretize(11)
        text = certify(problem, tol_fit=1e-12).summary(problem)
    assert "optimal if play is honest and belief is in theta sycophantic 0.7" in text
    assert "every rationalizable action is safe: no" in text


def test_by_default_a_tie_in_single_precision_is_one_for_certificates_and_phases_alike():
    # Models 0 and 2 miss the mean of the first action by 0.2 either way: a tie, until rounded.
    problem = bn.GaussianProblem(
        mean=[1, 0.5],
        sd=[1, 1],
        model_mean=[[1.2, 0], [0.2, 0.6], [0.8, 0.9]],
        model_sd=[[1, 1]] * 3,
        payoff_intercept=[0, 0],
        payoff_slope=[1, 1],
        safe=[False, True],
    )
    assert bn.phase(problem) == bn.Phase.MULTISTABLE
    certificate = certify(problem)
    assert certificate.certainty.tolist() == [IN, IN]
    assert certificate.safe is False
    assert (certificate.tol_fit, certificate.tol_payoff) == (2e-6, 1e-5)
