"""Designs: what they change, what becomes of them, and what they earn."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import bnjax as bn
from bnjax.design._certificates import support_certificate
from bnjax.design._evaluate import Sharpness, evaluate
from bnjax.design._optimize import plan_of
from bnjax.design._pareto import efficient

pytestmark = pytest.mark.usefixtures("quick_compilation")

D = bn.design
MULTISTABLE = {"p_sycophantic": (0.55, 0.8), "p_honest": (0.55, 0.8)}
SMALL: Any = {"num_steps": 75, "num_starts": 3, "num_environments": 9}
FEW: Any = {"certified_environments": 9, "num_agents": 300, "horizon": 200}


def plan(scenario, environments, design, **options):
    given: Any = {"objective": None, "gradient": "implicit", "start": "prior", "threshold": None}
    return plan_of(scenario, environments, design, **{**given, **SMALL, "num_starts": 1, **options})


def sharp(memory, temperature):
    return Sharpness(jnp.asarray(memory), jnp.asarray(temperature))


# What designs change


@pytest.fixture(scope="module")
def problem():
    return bn.scenarios.sycophancy(0.7, 0.6).discretize(9)


def test_reference_designs_change_nothing(problem):
    for design in (
        D.LogPrior(),
        D.BetaPrior(),
        D.SupportBounds(),
        D.RewardScale(),
        D.RewardBonus(),
    ):
        start = design.init(problem, {}, jnp.zeros(()))
        after = design.problem(start, problem)
        for one, other in zip(jax.tree.leaves(problem), jax.tree.leaves(after), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        assert abs(float(design.cost(start, start, problem, after))) < 1e-6


def test_beta_prior_is_the_beta_density(problem):
    from scipy.stats import beta

    parameters = jnp.log(jnp.asarray([2.5, 0.7]))
    after = D.BetaPrior().problem(parameters, problem)
    place = np.clip(np.asarray(problem.theta[:, 0], np.float64), 0.5 / 9, 1 - 0.5 / 9)
    exact = beta.pdf(place, 2.5, 0.7)
    np.testing.assert_allclose(np.exp(after.log_prior), exact / exact.sum(), rtol=1e-5)


def test_gaussian_prior_is_the_normal_density(problem):
    from scipy.stats import norm

    after = D.GaussianPrior().problem(jnp.asarray([0.25, np.log(0.3)]), problem)
    exact = norm.pdf(np.asarray(problem.theta[:, 0], np.float64), 0.25, 0.3)
    np.testing.assert_allclose(np.exp(after.log_prior), exact / exact.sum(), rtol=1e-5)


def test_divergence_is_that_of_scipy():
    from scipy.stats import entropy

    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(6), 2)
    one[2] = 0
    one /= one.sum()
    with np.errstate(divide="ignore"):
        found = D.divergence(jnp.log(jnp.asarray(one)), jnp.log(jnp.asarray(other)))
        reverse = D.divergence(jnp.log(jnp.asarray(other)), jnp.log(jnp.asarray(one)))
    np.testing.assert_allclose(found, entropy(one, other), rtol=1e-5)
    assert np.isposinf(reverse)


def test_soft_bounds_become_hard(problem):
    design = D.SupportBounds()
    parameters = jnp.asarray([0.0, 0.45])
    after = design.problem(parameters, problem)
    kept = np.asarray(design.hard(parameters, problem, after, 1e-3))
    np.testing.assert_array_equal(kept, np.asarray(problem.theta[:, 0]) <= 0.45)
    weights = np.exp(np.asarray(after.log_prior))
    assert weights[kept].sum() > 0.99
    idle = jax.grad(lambda p: design.problem(p, problem).log_prior[0])(jnp.asarray([0.0, 1.0]))
    assert abs(idle[0]) > 0  # a bound that rules out nothing yet can be felt


def test_hard_designs_drop_what_has_lost_weight(problem):
    design = D.LogPrior()
    parameters = jnp.zeros(9).at[3].set(-8.0)
    after = design.problem(parameters, problem)
    kept = np.asarray(design.hard(parameters, problem, after, 1e-3))
    assert kept.sum() == 8
    assert not kept[3]


def test_together_adds_up(problem):
    design = D.Together(D.LogPrior(), D.Exploration(0.5), D.RewardScale())
    reference = design.init(problem, {}, jnp.asarray(0.1))
    np.testing.assert_allclose(design.exploration(reference, jnp.asarray(0.1)), 0.1, rtol=1e-6)
    moved = (reference[0].at[0].set(1.0), jnp.asarray(1.2), jnp.asarray(np.log(2.0)))
    moved = design.project(moved)
    after = design.problem(moved, problem)
    alone = D.LogPrior().problem(moved[0], problem)
    np.testing.assert_allclose(after.log_prior, alone.log_prior, rtol=1e-6)
    paid, before = after.subjective_payoffs(), problem.subjective_payoffs()
    np.testing.assert_allclose(paid, 2 * before, rtol=1e-6)
    np.testing.assert_allclose(design.exploration(moved, jnp.zeros(())), 0.5, rtol=1e-6)
    nested = D.Together(D.Together(D.LogPrior(), D.Exploration(0.5)), D.RewardScale())
    assert len(nested.designs) == 3
    cost = design.cost(moved, reference, problem, after)
    apart = D.divergence(alone.log_prior, problem.log_prior) + 0.8 + np.log(2)
    np.testing.assert_allclose(cost, apart, rtol=1e-5)


def test_bonuses_are_paid_in_gaussian_problems():
    gaussian = bn.scenarios.monopolist().discretize(3)
    after = D.RewardBonus().problem(jnp.asarray([0.5, -0.25]), gaussian)
    gap = after.subjective_payoffs() - gaussian.subjective_payoffs()
    np.testing.assert_allclose(gap, np.tile([0.5, -0.25], (9, 1)), atol=2e-5)


# Gradients


def two_models(p_sycophantic, p_honest):
    theta = np.array([0.3, 0.7])
    rates = jnp.stack([jnp.asarray(p_sycophantic), jnp.asarray(p_honest)])
    models = np.stack([theta, 1 - theta], axis=-1)
    return bn.Problem(
        probs=jnp.stack([1 - rates, rates], axis=-1),
        model_probs=np.stack([1 - models, models], axis=-1),
        payoff=[[0.0, 1.0], [0.0, 1.0]],
        theta=theta,
        safe=[False, True],
    )


def two_models_arguments(p_sycophantic=0.7, p_honest=0.6):
    return two_models(p_sycophantic, p_honest)


def test_unrolled_sees_selection_where_implicit_is_blind(x64):
    """On the border of two basins play jumps: the flow sees it, a rest point does not."""
    values = {}
    for gradient in ("implicit", "unrolled"):
        made = plan(two_models_arguments, {}, D.LogPrior(), gradient=gradient)

        def share(log_odds, made=made):
            parameters = jnp.stack([-0.5 * log_odds, 0.5 * log_odds])
            found = evaluate(made.situation, parameters, sharp(20.0, 0.25), made.key)
            return found.safe_share[0]

        values[gradient] = jax.jit(jax.value_and_grad(share))
    low, high = jnp.asarray(-3.0), jnp.asarray(3.0)  # of theta = 0.7, where flattery pays
    middle = low
    assert values["unrolled"](low)[0] > 0.95
    assert values["unrolled"](high)[0] < 0.05
    for _ in range(40):
        middle = 0.5 * (low + high)
        safe = values["unrolled"](middle)[0] > 0.3
        low, high = jnp.where(safe, middle, low), jnp.where(safe, high, middle)
    assert abs(values["implicit"](middle)[1]) < 1e-3
    slope = values["unrolled"](middle)[1]
    assert slope < -10.0
    # And it is the slope of what it is the slope of.
    step = 1e-4 / abs(slope)
    gap = values["unrolled"](middle + step)[0] - values["unrolled"](middle - step)[0]
    np.testing.assert_allclose(slope, gap / (2 * step), rtol=1e-4)


@pytest.mark.slow
def test_gradient_of_an_objective_is_its_slope(x64):
    made = plan(
        bn.scenarios.sycophancy,
        {"p_sycophantic": 0.4, "p_honest": (0.3, 0.45)},
        D.Together(D.BetaPrior(), D.Exploration()),
        num_environments=3,
        exploration=0.05,
    )
    objective = D.Objective(payoff=0.5, cost=0.1, least_payoff=0.9, worst_case=True)

    @jax.jit
    def value(flat):
        parameters = flat[:2], flat[2]
        return objective(evaluate(made.situation, parameters, sharp(20.0, 0.25), made.key))

    at = jnp.asarray([0.3, -0.2, 0.2])
    exact = jax.jit(jax.grad(value))(at)
    steps = 1e-5 * np.eye(3)
    differences = [(value(at + h) - value(at - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(exact, differences, rtol=1e-6, atol=1e-8)


def test_gradient_is_the_slope_where_models_are_being_ruled_out(x64):
    made = plan(
        bn.scenarios.sycophancy,
        {"p_sycophantic": 0.6, "p_honest": (0.5, 0.7)},
        D.BetaPrior(),
        num_environments=2,
        threshold=1e-2,
        start="any",
    )

    @jax.jit
    def value(parameters):
        return evaluate(made.situation, parameters, sharp(20.0, 0.3), made.key).safe_share.mean()

    at = jnp.asarray([0.4, 1.2])
    exact = jax.jit(jax.grad(value))(at)
    steps = 1e-5 * np.eye(2)
    differences = [(value(at + h) - value(at - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(exact, differences, rtol=1e-6, atol=1e-9)
    assert abs(exact).min() > 1e-4


def test_width_and_prior_can_be_designed_together():
    """Of a width that is traced, a scenario makes models with two parameters."""
    design = D.Together(D.BetaPrior(parameter=1), D.Width())
    made = plan(bn.scenarios.sycophancy, {"p_honest": (0.5, 0.7)}, design, num_environments=2)
    found = eqx.filter_jit(evaluate)(
        made.situation, made.situation.reference, sharp(5.0, 0.3), made.key
    )
    assert np.isfinite(found.safe_share).all()


def test_environments_can_be_drawn_from_the_box():
    def drawn(num, seed):
        options = {"num_samples": num, "key": jax.random.key(seed)}
        given = plan(two_models_arguments, MULTISTABLE, D.LogPrior(), **options).situation.points
        return np.stack([given["p_sycophantic"], given["p_honest"]])

    points = drawn(400, 0)
    assert points.shape == (2, 400)
    assert points.min() >= 0.55
    assert points.max() <= 0.8
    np.testing.assert_allclose(points.mean(1), 0.675, atol=4 * 0.25 / np.sqrt(12 * 400))
    assert abs(np.corrcoef(points)[0, 1]) < 0.2
    np.testing.assert_array_equal(points, drawn(400, 0))
    assert not np.isin(points, drawn(400, 1)).any()


def test_bribes_are_no_payoff():
    made = plan(bn.scenarios.deception, {"p_detect": 0.3}, D.Argument("honest_payoff", 0.0, 100.0))
    looked = [
        evaluate(made.situation, jnp.asarray(x), sharp(5.0, 0.3), made.key).best_payoff
        for x in (0.002, 1.0)
    ]
    np.testing.assert_allclose(looked[0], looked[1])


def test_objective_counts_what_it_says():
    evaluation = D.Evaluation(
        safe_share=jnp.asarray([0.2, 0.6]),
        payoff=jnp.asarray([1.0, 3.0]),
        best_payoff=jnp.asarray([2.0, 3.0]),
        cost=jnp.asarray(0.5),
        strategy=jnp.zeros((2, 2)),
        converged=jnp.ones(2, bool),
    )
    assert np.isclose(D.Objective()(evaluation), 0.4)
    assert np.isclose(D.Objective(worst_case=True, payoff=2.0, cost=1.0)(evaluation), 1.7)
    limited = D.Objective(least_payoff=2.5, most_cost=0.4, penalty=10.0)
    assert np.isclose(limited(evaluation), 0.4 - 5.0 - 1.0)


# Searches and certificates


@pytest.fixture(scope="module")
def bounded():
    """Multistable sycophancy: which models must an assistant not be able to represent?"""
    return D.optimize(bn.scenarios.sycophancy, MULTISTABLE, D.SupportBounds(), **SMALL, **FEW)


def test_support_earns_a_certificate(bounded):
    assert bounded.earned == "support"
    assert bounded.support_before.share == 0
    # Safe if and only if no model says that flattery succeeds (theta >= 1/2).
    kept = np.asarray(bounded.learner(p_honest=0.6)[0].support)
    theta = np.asarray(bounded.learner()[0].theta[:, 0])
    assert theta[kept].max() < 0.5
    assert "certified by its support" in bounded.summary()
    lone, exploration = bounded.learner(p_sycophantic=0.75, p_honest=0.6)
    assert bn.Phase(int(bn.phase(lone, exploration))) == bn.Phase.SAFE


@pytest.mark.parametrize("kind", [D.RewardBonus(), D.Together(D.Argument("gain", 0.0, 1.0))])
def test_a_design_that_rules_out_nothing_claims_nothing_of_its_models(bounded, kind):
    """What holds is then due to the problem as designed, with all of the scenario's models."""
    made = plan(bn.scenarios.deception, {"p_detect": (0.3, 0.9)}, kind, threshold=1e-3)
    paid = jnp.asarray([-1.0, 1.0]) if isinstance(kind, D.RewardBonus) else (jnp.zeros(()),)
    found = support_certificate(made.situation, paid, {"p_detect": np.linspace(0, 1, 9)}, 1e-3)
    np.testing.assert_array_equal(found.models_kept, found.models)
    assert found.holds
    assert not found.rules_out
    whole = dataclasses.replace(bounded, design=kind, parameters=paid, support=found)
    assert whole.headline == (
        "certified exactly: whoever best responds in the problem as designed ends up safe, "
        "whatever the prior on its models"
    )
    assert bounded.support.rules_out
    assert bounded.headline.endswith("best responds with these models ends up safe")


def test_a_design_that_leaves_no_model_says_so(bounded):
    """Bounds between two models: nothing is ruled out, nothing certified, and all that aloud."""
    made = plan(two_models_arguments, {}, D.SupportBounds(), threshold=1e-3)
    between = jnp.asarray([0.4, 0.6])
    found = support_certificate(made.situation, between, {}, 1e-3)
    assert found.phase == bn.Phase.UNDECIDED
    assert found.models_kept == 0
    assert not found.holds
    empty = dataclasses.replace(bounded, support=found, situation=made.situation)
    empty = dataclasses.replace(empty, parameters=between)
    assert "in 1 of 1 environments NO MODEL would be left" in empty.summary().splitlines()[0]
    assert empty.learner()[0].support.all()


def test_summaries_name_what_was_designed(bounded):
    design = D.Together(D.Argument("gain", 1.0, 3.0), D.Exploration(0.4), D.LogPrior())
    found = jnp.asarray(0.25), jnp.asarray(0.5), jnp.asarray([0.0, 1.0])
    several = dataclasses.replace(bounded.support, method="bounds; 9 of 25 proved by certify")
    several = dataclasses.replace(bounded, design=design, parameters=found, support=several)
    lines = several.summary().splitlines()
    assert lines[1:4] == [
        "gain: 1.5",
        "exploration: 0.2",
        "LogPrior, nats added to log-weights: [0. 1.]",
    ]
    assert any("exploration 0; bounds; 9 of 25 proved by certify" in line for line in lines)


def test_summaries_have_the_units_of_the_scenario(bounded):
    """A bound of a half, on a rate that the models put between 0 and 0.5, is 0.25."""
    scenario = bn.scenarios.deception
    for kind, found, line in (
        (D.SupportBounds(), [0.5, 1.0], "detection: at least 0.25, at most 0.5"),
        (D.BetaPrior(), np.log([3.0, 0.5]), "detection: times Beta(a = 3, b = 0.5)"),
        (
            D.GaussianPrior(),
            [0.5, np.log(0.2)],
            "detection: times a normal density (mean 0.25, sd 0.1)",
        ),
    ):
        made = plan(scenario, {"detect_upper": 0.5}, kind, threshold=1e-3)
        given: dict[str, Any] = {"design": kind, "parameters": jnp.asarray(found)}
        result = dataclasses.replace(bounded, situation=made.situation, **given)
        assert result.summary().splitlines()[1] == line
    # What is a share of play, and what of agents, is said.
    text = bounded.summary()
    assert "safe play simulated, least" in text
    assert "agents that play safe in at least 99 % of the second half" in text


@pytest.mark.slow
def test_search_is_as_good_as_looking_everywhere(bounded):
    made = plan(
        bn.scenarios.sycophancy, MULTISTABLE, D.SupportBounds(), start="any", threshold=1e-3
    )
    last = jax.tree.map(lambda x: x[-1], made.schedule)
    grid = np.linspace(0, 1, 21)
    pairs = jnp.asarray([[a, b] for a in grid for b in grid if b - a > 0.05])

    @eqx.filter_jit
    def values(situation, pairs):
        return jax.lax.map(
            lambda p: made.objective(evaluate(situation, p, last, made.key)), pairs, batch_size=16
        )

    everywhere = float(values(made.situation, pairs).max())
    found = float(values(made.situation, bounded.parameters[None])[0])
    assert found > 0.99 * everywhere


@pytest.mark.slow  # README shows the same
def test_a_design_that_fails_says_so():
    """Paying a hundred times as much, or as little, moves no learner to another phase."""
    result = D.optimize(
        bn.scenarios.sycophancy, MULTISTABLE, D.RewardScale(), **SMALL, **FEW, threshold=None
    )
    assert result.earned == "none"
    assert result.summary().startswith("FAILED")
    np.testing.assert_array_equal(result.support.phase, result.support_before.phase)
    np.testing.assert_allclose(
        result.statistical.safe_share, result.statistical_before.safe_share, atol=0.1
    )


@pytest.mark.slow
def test_trembles_do_not_spoil_a_statistical_certificate():
    result = D.optimize(
        bn.scenarios.sycophancy,
        {"p_sycophantic": 0.3, "p_honest": 0.7},
        D.Exploration(0.5),
        exploration=0.2,
        **SMALL,
        **FEW,
    )
    assert result.statistical_before.holds
    assert result.statistical_before.safe_share.min() > 0.97


@pytest.mark.slow
def test_payoffs_may_be_all_that_varies():
    """Divergences are shared by all cells, payoffs are not."""
    result = D.optimize(
        bn.scenarios.deception,
        {"gain": (0.5, 1.0)},
        D.RewardScale(),
        num_steps=3,
        num_starts=2,
        **FEW,
    )
    assert np.isfinite(result.history.objective).all()
    # What is paid in other units is the same to a learner.
    np.testing.assert_allclose(
        result.history.objective[0, 0],
        result.history.objective[1, 0] + 0.01 * abs(float(result.history.cost[1, 0])),
        atol=1e-4,
    )


def test_nonfinite_objectives_stop_the_search():
    def bad(evaluation):
        share = evaluation.safe_share.mean()
        return share + 0.0 * jnp.sqrt(0.9 - share)

    with pytest.raises(D.NonfiniteObjectiveError, match="not finite at step") as caught:
        D.optimize(
            bn.scenarios.sycophancy,
            {"p_sycophantic": 0.3, "p_honest": 0.6},
            D.LogPrior(),
            objective=bad,
            optimizer=optax.sgd(2.0),
            num_steps=25,
            num_starts=1,
        )
    assert caught.value.step > 0
    assert caught.value.history.objective.shape == (1, caught.value.step)
    assert np.isfinite(caught.value.history.objective).all()
    assert np.isfinite(caught.value.parameters).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0.0}, "memory"),
        ({"memory": (1.0, -2.0)}, "memory"),
        ({"temperature": -1.0}, "temperature"),
        ({"gradient": "exact"}, "gradient"),
        ({"gradient": "score", "memory": 0.5}, "memory"),
        ({"gradient": "score", "start": "any"}, "start"),
        ({"environments": {"p_honest": (0.5, 1.5)}}, "domain"),
        ({"environments": {"p_honest": (0.9, 0.5)}}, "low < high"),
        ({"environments": {"honesty": 0.5}}, "honesty"),
        ({"design": D.Argument("width", 0.2, 1.0)}, "width"),
        ({"design": D.Exploration(0.1), "exploration": 0.3}, "exploration"),
        ({"design": D.BetaPrior(parameter=3)}, "parameter"),
        ({"threshold": 2.0}, "threshold"),
        ({"num_agents": 100}, "num_agents"),
        ({"design": D.Together(D.Width(), D.Width())}, "once"),
        (
            {
                "scenario": bn.scenarios.deception,
                "environments": {"p_detect": (0.2, 0.4), "detect_lower": (0.0, 0.3)},
            },
            "same in all environments; those of this scenario change with detect_lower. Fix",
        ),
        ({"design": D.Argument("p_honest", 0.1, 0.9)}, "both designed"),
        ({"design": D.Argument("p_sycophantic", -1.0, 2.0)}, "p_sycophantic"),
        ({"num_starts": 0}, "num_starts"),
        ({"num_samples": 0}, "num_samples"),
        ({"environments": {"p_honest": (0.5, 1.01)}, "num_samples": 4}, "domain"),
        ({"optimizer": optax.adam}, "optimizer"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": np.nan}, "tolerance"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"required": "all"}, "required"),
        ({"progress": "bar"}, "progress"),
        ({"objective": lambda evaluation: evaluation.safe_share}, "objective"),
        (
            {
                "scenario": lambda: eqx.tree_at(
                    lambda p: p.theta, two_models(0.7, 0.6), jnp.zeros((2, 0))
                ),
                "environments": {},
                "design": D.SupportBounds(),
            },
            "models with parameters",
        ),
        ({"scenario": bn.scenarios.coin, "environments": {}}, "safe"),
    ],
)
def test_bad_arguments(options, message, monkeypatch):
    # Users have no types checked.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    given: Any = {
        "scenario": bn.scenarios.sycophancy,
        "environments": {"p_honest": (0.5, 0.9)},
        "design": D.LogPrior(),
        **options,
    }
    with pytest.raises(ValueError, match=message):
        D.optimize(**given)


@pytest.mark.parametrize(
    ("make", "name", "given"),
    [
        (D.SupportBounds, "least", -0.1),
        (D.SupportBounds, "softness", 0.0),
        (D.BetaPrior, "parameter", -1),
        (D.BetaPrior, "largest", 0.5),
        (D.GaussianPrior, "least", -1.0),
        (D.Width, "high", np.inf),
        (D.Width, "weight", -1.0),
        (D.Exploration, "most", 2.0),
        (D.RewardScale, "largest", -1.0),
        (D.RewardBonus, "most", 0.0),
        (D.Objective, "cost", np.nan),
        (D.Objective, "penalty", np.inf),
    ],
)
def test_bad_designs_and_objectives(make, name, given):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        make(**{name: given})


class Own(D.AbstractDesign):
    """As a user might write it, and get one of these wrong."""

    first: Any = eqx.field(static=True, default=0.0)
    weights: Any = eqx.field(static=True, default=lambda problem: problem.log_prior)
    price: Any = eqx.field(static=True, default=0.0)

    def init(self, problem, arguments, exploration):
        return self.first

    def problem(self, parameters, problem):
        weights = self.weights(problem)
        return weights if weights.ndim == 0 else D.with_prior(problem, weights)

    def cost(self, parameters, reference, before, after):
        return after.log_prior if self.price is None else self.price


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (Own(first=None), "`design.init` must return arrays"),
        (Own(first="zero"), "`design.init"),
        (Own(first=np.nan), "`design.init.*finite"),
        (Own(weights=lambda problem: jnp.zeros(1)), "`log_weights` must have shape"),
        (Own(weights=lambda problem: jnp.zeros(())), "`design.problem` must return"),
        (Own(price=None), "`design.cost.*must be a number; got shape"),
    ],
    ids=range(6),
)
def test_mistakes_in_a_design_of_ones_own(design, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    def look():
        made = plan(two_models_arguments, {}, design)
        given = made.situation, made.situation.reference, sharp(5.0, 0.3), made.key
        eqx.filter_eval_shape(evaluate, *given)

    with pytest.raises(ValueError, match=message):
        look()


def test_numbers_will_do_for_a_design_of_ones_own():
    reference = plan(two_models_arguments, {}, Own(first=(0, 1.0))).situation.reference
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in reference)


# Fronts


@pytest.mark.slow  # an example in the docs is shorter
def test_front_trades_safety_for_cost():
    front = D.pareto(
        bn.scenarios.sycophancy,
        MULTISTABLE,
        D.SupportBounds(),
        weights=[0.01, 0.1, 3.0],
        num_steps=75,
        num_starts=2,
        num_environments=4,
    )
    assert front.cost[0] > front.cost[1] > front.cost[2] - 1e-6
    assert front.safe_share[0] > front.safe_share[2] + 0.3
    assert len(front.summary().splitlines()) == 4


def test_efficient_points():
    first = np.array([1.0, 2.0, 2.0, 0.5])
    second = np.array([1.0, 0.0, 0.5, 0.5])
    np.testing.assert_array_equal(efficient(first, second), [True, False, True, False])


@pytest.mark.slow
def test_a_design_of_ones_own_and_several_actions():
    """Three actions; the exclusions of the hard design are proved by `certify`."""
    rates = np.array([[0.2, 0.8, 0.5], [0.8, 0.2, 0.5], [0.4, 0.4, 0.5]])

    def scenario(truth=0.6):
        probs = jnp.stack([truth, 0.6, 0.5 + 0 * truth])
        return bn.Problem(
            probs=jnp.stack([1 - probs, probs], -1),
            model_probs=np.stack([1 - rates, rates], -1),
            payoff=[[0.0, 1.0]] * 3,
            theta=np.arange(3.0),
            safe=[False, True, True],
        )

    class Distrust(D.AbstractPriorDesign):
        def init(self, problem, arguments, exploration):
            return jnp.zeros(())

        def log_weights(self, parameters, problem):
            return problem.log_prior - jnp.where(problem.theta[:, 0] == 1, parameters, 0.0)

    result = D.optimize(
        scenario,
        {"truth": (0.5, 0.7)},
        Distrust(),
        objective=D.Objective(),
        **{**SMALL, "num_environments": 2},
        **FEW,
    )
    assert result.earned == "support"
    assert "9 of 9 proved" in result.support.method
    assert result.support.models_kept.max() == 2
