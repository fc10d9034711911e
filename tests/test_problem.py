"""Problems: reduced forms from the definitions, and errors that say what is wrong."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnjax as bn
from tests.oracles import random_problems

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")

GOOD = dict(
    probs=[[0.5, 0.5], [0.2, 0.8]],
    model_probs=[[[0.6, 0.4], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]],
    payoff=[[0.0, 1.0], [0.0, 1.0]],
)
GAUSSIAN = dict(
    mean=[0.0, 1.0],
    sd=[1.0, 2.0],
    model_mean=[[0.5, 1.0], [0.0, 0.0]],
    model_sd=[[1.0, 1.0], [2.0, 2.0]],
    payoff_intercept=[0.0, 0.0],
    payoff_slope=[1.0, 1.0],
)


@pytest.mark.parametrize("kind", random_problems.KINDS)
def test_reduced_form_follows_the_definitions(kind):
    with jax.enable_x64(True):
        arrays = random_problems.random_problem(3, kind)
        want = random_problems.reduced_form(arrays)
        problem = bn.Problem(**arrays)
        found = problem.reduced_form()
        for name, value in want.items():
            np.testing.assert_allclose(getattr(found, name), value, atol=1e-12)
        np.testing.assert_allclose(
            problem.objective_payoffs(), (arrays["probs"] * arrays["payoff"]).sum(-1)
        )


def test_gaussian_divergence_against_quadrature():
    with jax.enable_x64(True):
        problem = bn.GaussianProblem(**GAUSSIAN)
        y = np.linspace(-30, 30, 200_001)

        def density(mean, sd):
            return np.exp(-0.5 * ((y - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

        for m in range(2):
            for a in range(2):
                p = density(GAUSSIAN["mean"][a], GAUSSIAN["sd"][a])
                q = density(GAUSSIAN["model_mean"][m][a], GAUSSIAN["model_sd"][m][a])
                use = (p > 1e-300) & (q > 1e-300)
                want = np.sum(p[use] * np.log(p[use] / q[use])) * (y[1] - y[0])
                np.testing.assert_allclose(problem.kl_matrix()[m, a], want, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(problem.subjective_payoffs(), GAUSSIAN["model_mean"])


def test_exploration_is_linear_on_divergences_and_spreads_refutation():
    problem = bn.Problem(
        [[0.5, 0.5], [0.5, 0.5]],
        [[[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [0.5, 0.5]]],
        [[0.0, 1.0], [0.0, 1.0]],
    )
    reduced = problem.reduced_form()
    still = reduced.explored(jnp.asarray(0.0))
    np.testing.assert_array_equal(still.kl, reduced.kl)
    np.testing.assert_array_equal(still.ruled_out, [[False, True], [False, False]])
    moved = reduced.explored(jnp.asarray(0.1))
    np.testing.assert_array_equal(moved.ruled_out, [[True, True], [False, False]])
    kl = np.asarray(reduced.kl)[1]
    np.testing.assert_allclose(moved.kl[1], 0.9 * kl + 0.1 * kl.mean(), rtol=1e-6)


def stacked(problem):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), problem)


def replaced(**changes):
    return lambda: bn.Problem(**{**GOOD, **changes})


def gaussian(**changes):
    return lambda: bn.GaussianProblem(**{**GAUSSIAN, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (replaced(probs=[[0.5, 0.6], [0.2, 0.8]]), "`probs` must sum to one.*1.1"),
        (replaced(probs=[[1.5, -0.5], [0.2, 0.8]]), "`probs` must hold probabilities.*-0.5"),
        (replaced(model_probs=[[[0.6, 0.4]]]), "`model_probs` must have shape"),
        (replaced(payoff=[[0.0, np.nan], [0.0, 1.0]]), r"`payoff` must be finite.*\(0, 1\)"),
        (replaced(payoff=[[0.0, 1.0]]), "`payoff` must have shape"),
        (replaced(log_prior=[-np.inf, -np.inf]), "`log_prior` must have a non-empty support"),
        (replaced(log_prior=[0.0]), "`log_prior` must have shape"),
        (replaced(log_prior=[0.0, np.nan]), "`log_prior` must hold finite log-weights"),
        (
            replaced(model_probs=[[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [1.0, 0.0]]]),
            "`log_prior` must support at least one model that allows everything",
        ),
        (replaced(safe=[True]), "`safe` must be a boolean mask of length 2"),
        (replaced(safe=[0, 1]), "`safe` must be a boolean mask"),
        (replaced(safe=["action 0"]), r"`safe` must be .*got \['action 0'\]"),
        (replaced(model_probs=np.zeros((0, 2, 2))), "`model_probs` must hold at least one model"),
        (replaced(theta=[1.0, 2.0, 3.0]), "`theta` must have shape"),
        (replaced(theta=[1.0, np.nan]), r"`theta` must be finite; got nan at index \(1, 0\)"),
        (replaced(action_names=["a", "a"]), "`action_names` must be 2 distinct names"),
        (replaced(probs="x"), "`probs` must be an array of numbers"),
        (
            replaced(probs=np.ones((0, 2)), model_probs=np.ones((1, 0, 2)), payoff=np.ones((0, 2))),
            "`probs` must hold at least one action; got none",
        ),
        (gaussian(mean=[]), "`mean` must hold at least one action; got none"),
        (gaussian(sd=[1.0, 0.0]), "`sd` must be positive"),
        (gaussian(mean=[0.0]), "`sd` must have shape"),
        (gaussian(model_sd=[[1.0, 1.0], [2.0, -2.0]]), "`model_sd` must be positive.*-2"),
        (
            gaussian(model_mean=[[0.0, 0.0], [np.nan, 0.0]]),
            r"`model_mean` must be finite.*\(1, 0\)",
        ),
        (gaussian(model_sd=[[1.0], [2.0]]), "`model_mean` and `model_sd` must both have shape"),
        (replaced(probs=np.zeros((2, 0)), payoff=np.zeros((2, 0))), "at least one consequence"),
        (
            lambda: bn.equilibria(bn.Problem(**GOOD)).summary(bn.scenarios.overconfidence()),
            "`problem` must be the one that was solved, with 2 actions; got one with 101",
        ),
        (
            lambda: bn.rationalizable(bn.Problem(**GOOD)).summary(bn.scenarios.overconfidence()),
            "`problem` must be the one that was solved",
        ),
        (
            lambda: bn.equilibria(bn.Problem(**GOOD)).summary(bn.scenarios.sycophancy()),
            "with 2 models; got one with a continuum of models",
        ),
        (
            lambda: bn.equilibria(bn.scenarios.sycophancy()).summary(bn.scenarios.monopolist()),
            r"parameters \('a', 'b'\)",
        ),
        (
            lambda: bn.equilibria(bn.scenarios.sycophancy()).summary(None),
            "`problem` must be a",
        ),
        (lambda: bn.scenarios.sycophancy().discretize(1), "`num` must be at least 2 points"),
        (lambda: bn.scenarios.monopolist(np.nan), "`demand_low` must be finite; got nan."),
        (lambda: bn.scenarios.overconfidence(ability=np.inf), "`ability` must be finite"),
        (lambda: bn.scenarios.deception(gain=np.nan), "`gain` must be finite"),
        (
            lambda: bn.equilibria(bn.Problem(**GOOD), tol_payoff=np.inf),
            "`tol_payoff` must be a",
        ),
        (lambda: bn.equilibria(bn.Problem(**GOOD), max_equilibria=10**12), "at most 1000000"),
        (lambda: bn.phase(bn.Problem(**GOOD)), "`problem.safe` must be given"),
        (lambda: bn.equilibria(bn.Problem(**GOOD), 1.5), "`exploration` must be a probability"),
        (
            lambda: bn.equilibria(bn.Problem(**GOOD), jnp.asarray([0.1, 0.2])),
            r"`exploration` must be a number; got shape \(2,\)",
        ),
        (lambda: bn.equilibria(bn.Problem(**GOOD), max_equilibria=0), "`max_equilibria`"),
        (lambda: bn.equilibria(bn.Problem(**GOOD), tol_fit=-1.0), "`tol_fit` must be"),
        (lambda: bn.certify(bn.scenarios.sycophancy()), "discretize"),
        (lambda: bn.equilibria(stacked(bn.Problem(**GOOD))), r"a batch of \(3,\): use `jax.vmap`"),
        (lambda: bn.phase(stacked(bn.scenarios.sycophancy())), r"a batch of \(3,\): use"),
        (lambda: bn.rationalizable(stacked(bn.GaussianProblem(**GAUSSIAN))), "a batch of"),
    ],
)
def test_bad_input_names_the_argument_and_what_it_wants(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_arguments_of_another_type_are_refused_in_words():
    # Without the checks of types that these tests run under, as users have it.
    script = """
import bnjax as bn, jax

problem = bn.scenarios.sycophancy()
for call in (
    lambda: jax.jit(bn.equilibria)(problem, max_equilibria=3),
    lambda: bn.equilibria(problem, exploration=None),
    lambda: bn.phase(problem, None),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    traced, *missing = run.stdout.splitlines()
    assert traced.startswith("`max_equilibria` must be a Python integer known at compile time")
    assert "Tracer" not in traced
    assert missing == ["`exploration` must be a number; got None."] * 2


def affine(theta):
    rate = theta[0]
    return jnp.stack([jnp.stack([1 - rate, rate]), jnp.stack([rate, 1 - rate])])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(lower=[1.0], upper=[0.0]), "`lower` must not exceed `upper`"),
        (dict(upper=[1.0, 2.0]), "`upper` must have shape"),
        (dict(identified=[[True]]), "`identified` must have one row for each"),
        (dict(identified=[[True, True], [True, True]]), "`identified` must have 1 booleans"),
        (dict(function=lambda theta: 2 * affine(theta)), r"`function\(theta\)` must sum to one"),
        (dict(function=lambda theta: [theta, theta]), "`function` must return an array of prob"),
        (dict(lower=[0.0], upper=[0.0]), "`function` must allow"),
        (dict(lower=[], upper=[]), "`lower` must hold at least one parameter"),
        (dict(function=lambda theta: float(theta[0])), "`function` must work for a theta that is"),
    ],
)
def test_bad_families_are_refused(changes, message):
    args = dict(function=affine, lower=[0.0], upper=[1.0])
    args |= dict(probs=[[0.5, 0.5], [0.5, 0.5]], payoff=[[0.0, 1.0], [0.0, 1.0]])
    args |= changes
    function, lower, upper = args.pop("function"), args.pop("lower"), args.pop("upper")
    with pytest.raises(ValueError, match=message):
        bn.Problem.from_family(function, lower, upper, **args)


def test_a_grid_of_a_family_is_a_finite_problem():
    problem = bn.scenarios.sycophancy(0.7, 0.6).discretize(5)
    np.testing.assert_allclose(problem.theta[:, 0], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(problem.model_probs[1], [[0.75, 0.25], [0.25, 0.75]])
    assert problem.action_names == ("sycophantic", "honest")


@pytest.mark.slow
def test_results_say_what_is_believed():
    two = dict(probs=[[0.5, 0.5]] * 2, payoff=[[1.0, 2.0], [0.0, 0.5]], action_names=["x", "y"])
    both = [[[0.25, 0.75], [0.5, 0.5]], [[0.75, 0.25], [0.5, 0.5]]]
    # Models without parameters go by their numbers; both fit x equally well.
    plain = bn.Problem(model_probs=both, **two)
    found = bn.equilibria(plain)
    assert found.best_fit.shape == (8, 0)
    assert "best fit model 0, among others" in found.summary(plain)
    named = bn.Problem(model_probs=both, theta=[0.75, 0.25], **two)
    assert "best fit 0.75, among others" in bn.equilibria(named).summary(named)
    # Here the two models support mixed play with a belief in both.
    apart = [[[0.3, 0.7], [0.5, 0.5]], [[0.5, 0.5], [0.3, 0.7]]]
    mixed = bn.Problem(model_probs=apart, **(two | dict(payoff=[[0.0, 1.0]] * 2)))
    text = bn.equilibria(mixed).summary(mixed)
    assert "belief 0.5 in model 0, 0.5 in model 1)" in text
    silent = bn.scenarios.deception(0.9, detect_upper=0.5)
    found = bn.equilibria(silent)
    assert bool(found.others_fit[0])
    assert "best fit 0.5, among others" in found.summary(silent)
    np.testing.assert_array_equal(bn.equilibria(silent, 0.1).others_fit, False)


def test_results_read_well():
    problem = bn.scenarios.sycophancy(0.7, 0.6)
    found, possible = bn.equilibria(problem), bn.rationalizable(problem)
    assert repr(found) == "Equilibria(3 found, complete=True)"
    assert repr(possible) == "Rationalizable(['IN', 'IN'])"
    assert possible.summary(problem) == "rationalizable: sycophantic, honest"
    batch = jax.vmap(lambda p: bn.equilibria(bn.scenarios.sycophancy(p, 0.6)))(jnp.ones(3) * 0.7)
    assert "batch=(3,)" in repr(batch)
    with pytest.raises(ValueError, match="a summary is of one problem"):
        batch.summary(problem)


def changed(base, changes):
    """One batch with a good first cell, and a cell for each change of one number."""
    cells = []
    for change in [{}, *changes]:
        arrays = {name: np.array(value, np.float32) for name, value in base.items()}
        for (name, *index), value in change.items():
            arrays[name][tuple(index)] = value
        cells.append(arrays)
    return {name: np.stack([cell[name] for cell in cells]) for name in base}


CATEGORICAL_RUBBISH = [
    {("probs", 0, 0): np.nan},
    {("probs", 0, 0): 0.6},
    {("probs", 0, 0): 1.5, ("probs", 0, 1): -0.5},
    {("model_probs", 1, 0, 0): np.nan},
    {("model_probs", 1, 0, 0): 0.6},
    {("model_probs", 1, 0, 0): 1.5, ("model_probs", 1, 0, 1): -0.5},
    {("payoff", 0, 0): np.nan},
    {("payoff", 0, 0): np.inf},
    {("log_prior", 0): np.nan},
    {("log_prior", 0): -np.inf, ("log_prior", 1): -np.inf},
    {("model_probs", m, m, y): y == m for m in (0, 1) for y in (0, 1)},  # nothing is left
]
GAUSSIAN_RUBBISH = [
    {(name, 0): value} for name in ("mean", "sd", "payoff_slope") for value in (np.nan, np.inf)
] + [
    {("sd", 1): -1.0},
    {("model_sd", 1, 0): 0.0},
    {("model_sd", 1, 0): np.inf},
    {("model_mean", 1, 0): np.nan},
    {("model_mean", 1, 1): -np.inf},
    {("model_sd", 1, 0): 1e-25},  # a divergence beyond float32
    {("log_prior", 0): np.nan},
]


@pytest.mark.parametrize(
    ("make", "base", "rubbish"),
    [
        (bn.Problem, GOOD, CATEGORICAL_RUBBISH),
        (bn.GaussianProblem, GAUSSIAN, GAUSSIAN_RUBBISH),
    ],
)
@pytest.mark.parametrize("actions", [2, 3])
def test_what_no_host_could_check_is_invalid_and_harms_no_neighbour(make, base, rubbish, actions):
    base = base | {"log_prior": [0.0, 0.0]}
    if actions == 3:  # as the second action, once more
        base = {
            name: value
            if name == "log_prior"
            else np.take(value, [0, 1, 1], axis=1 if name.startswith("model") else 0)
            for name, value in base.items()
        }
    batch = changed(base, rubbish)
    safe = [False, True, True][:actions]
    codes = jax.jit(jax.vmap(lambda arrays: bn.phase(make(**arrays, safe=safe))))(batch)
    assert codes[0] == bn.phase(make(**base, safe=safe)) != bn.Phase.INVALID
    np.testing.assert_array_equal(codes[1:], int(bn.Phase.INVALID))


def test_a_grid_keeps_the_names_of_parameters():
    family = bn.scenarios.sycophancy(0.7, 0.6, width=0.5)
    assert family.discretize(3).parameter_names == family.parameter_names
    assert bn.scenarios.monopolist().discretize(3).parameter_names == ("a", "b")
    given = {"probs": [[0.5, 0.5]], "model_probs": [[[0.5, 0.5]]], "payoff": [[0.0, 1.0]]}
    assert bn.Problem(**given).parameter_names == ()
    assert bn.Problem(**given, theta=[0.5]).parameter_names == ("theta",)
    assert bn.Problem(**given, theta=[[0.5, 1.0]]).parameter_names == ("theta 0", "theta 1")
    assert bn.Problem(**given, theta=[0.5], parameter_names=["p"]).parameter_names == ("p",)
    with pytest.raises(ValueError, match="`parameter_names` must be 1 distinct names"):
        bn.Problem(**given, theta=[0.5], parameter_names=["p", "q"])


def test_a_summary_without_its_problem_says_so():
    found = bn.equilibria(bn.scenarios.coin())
    with pytest.raises(ValueError, match=r"`problem` must be .* solved: a summary of"):
        found.summary()
