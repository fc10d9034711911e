"""What becomes of a design: play in every environment, and how well it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._check import as_float, finite_number
from ..belief import DiscountedMemory
from ..equilibrium import smooth_equilibrium
from ..equilibrium._smooth_map import smooth_response
from ..problem import AbstractFiniteProblem
from ..response import Logit
from ._designs import AbstractDesign, with_prior
from ._environments import Environments
from ._score import expected

GRADIENTS = ("implicit", "unrolled", "score")
STARTS = ("prior", "any")
_HARDENING = 0.1  # nats off for each nat that a weight is below the threshold, by unit of memory
_UNROLLED, _STRIDE = 20, 0.25  # steps of the flow, and how long each is


class Evaluation(eqx.Module):
    """How a design does, E environments at a time.

    Parameters
    ----------
    safe_share : [E] probability of intending a safe action.
    payoff : [E] true expected payoff a step, trembles included, as the scenario has it: neither
        rewards nor arguments that the design sets count.
    best_payoff : [E] what the best action pays.
    cost : how far from the reference the design goes (before anything is ruled out).
    strategy : [E, A] intended play.
    converged : [E] whether a smooth equilibrium was found; where not, play is that of the last
        iterate, and has no derivative. (True for other gradients, which look for none.)
    """

    safe_share: Float[Array, " environments"]
    payoff: Float[Array, " environments"]
    best_payoff: Float[Array, " environments"]
    cost: Float[Array, ""]
    strategy: Float[Array, "environments actions"]
    converged: Bool[Array, " environments"]


class Sharpness(NamedTuple):
    """How smooth play is: memory (observations) and temperature (of the range of payoffs)."""

    memory: Array
    temperature: Array


class Situation(eqx.Module):
    """What an evaluation depends on besides parameters and sharpness.

    Parameters
    ----------
    environments : the scenario, and what is known of its arguments.
    points : arguments [E].
    design : whose parameters these are.
    reference : parameters of `init`.
    exploration : of the reference.
    gradient : "implicit", "unrolled" or "score".
    start : "prior" or "any".
    threshold : of hard designs; None: nothing is ruled out.
    population : agents and steps of each environment, for "score".
    """

    environments: Environments
    points: dict[str, Array]
    design: AbstractDesign
    reference: Any
    exploration: Float[Array, ""]
    gradient: str = eqx.field(static=True)
    start: str = eqx.field(static=True)
    threshold: float | None = eqx.field(static=True)
    population: tuple[int, int] = eqx.field(static=True)

    @property
    def num_points(self) -> int:
        """Number of environments E."""
        return next((len(x) for x in self.points.values()), 1)

    def over_points(self, function: Callable[[dict[str, Array]], Any]) -> Any:
        """A function of each environment, stacked."""
        if not self.points:
            return jax.tree.map(lambda x: jnp.asarray(x)[None], function({}))
        return jax.vmap(function)(self.points)

    def learner(
        self, parameters: Any, point: dict[str, Array]
    ) -> tuple[AbstractFiniteProblem, AbstractFiniteProblem, Array]:
        """The scenario's problem, the design's, and exploration, in one environment."""
        given = self.design.arguments(parameters)
        before = self.environments.make(point, given)
        after = self.design.problem(parameters, before)
        if not isinstance(after, AbstractFiniteProblem):
            raise ValueError(
                "`design.problem` must return the problem that it is given, changed, such as "
                f"bn.design.with_prior(problem, log_weights); got {type(after).__name__}."
            )
        return before, after, self.design.exploration(parameters, self.exploration)


def evaluate(situation: Situation, parameters: Any, sharp: Sharpness, key: Array) -> Evaluation:
    """Play in every environment, differentiable with respect to the parameters."""

    def one(point: dict[str, Array]) -> tuple[Array, ...]:
        before, after, exploration = situation.learner(parameters, point)
        strategy, converged = _play(
            situation, _hardening(situation, before, after, sharp), exploration, sharp, key
        )
        safe = before.safe
        assert safe is not None
        # Of the scenario as it is, whatever the designer pays.
        payoffs = situation.environments.make(point, {}).objective_payoffs()
        realised = (1 - exploration) * strategy + exploration / strategy.shape[0]
        cost = situation.design.cost(parameters, situation.reference, before, after)
        return (
            jnp.sum(jnp.where(safe, strategy, 0.0)),
            jnp.sum(realised * payoffs),
            payoffs.max(),
            as_float("design.cost(...)", cost, ndim=0),
            strategy,
            converged,
        )

    share, payoff, best, cost, strategy, converged = situation.over_points(one)
    return Evaluation(share, payoff, best, cost.mean(), strategy, converged)


def _hardening(
    situation: Situation,
    before: AbstractFiniteProblem,
    after: AbstractFiniteProblem,
    sharp: Sharpness,
) -> AbstractFiniteProblem:
    """What the hard design will rule out loses weight, more and more as play gets sharper.

    Play with a long memory would find models that are a thousand times less likely than others all
    the same; a search that looks at soft weights alone would not see what hardness is good for.
    """
    if situation.threshold is None or situation.gradient == "score":
        return after
    ratio = jnp.where(before.support, after.log_prior, 0.0) - jnp.where(
        before.support, before.log_prior, 0.0
    )
    most = jnp.max(jnp.where(before.support, ratio, -jnp.inf))
    below = jax.nn.softplus(most + jnp.log(situation.threshold) - ratio)
    return with_prior(after, after.log_prior - _HARDENING * sharp.memory * below)


def _play(
    situation: Situation,
    problem: AbstractFiniteProblem,
    exploration: Array,
    sharp: Sharpness,
    key: Array,
) -> tuple[Array, Array]:
    """Intended play [A], and whether it is what it is meant to be."""
    memory, temperature = sharp
    payoffs, believed = problem.subjective_payoffs(), problem.support[:, None]
    size = jnp.max(jnp.where(believed, payoffs, -jnp.inf)) - jnp.min(
        jnp.where(believed, payoffs, jnp.inf)
    )
    temperature = temperature * jnp.where(size > 0, size, 1.0)
    sharp = Sharpness(memory, temperature)
    if situation.gradient != "score":
        rest = _rest if situation.gradient == "implicit" else _flow
        prior = jnp.matmul(jnp.exp(problem.log_prior), payoffs, precision=lax.Precision.HIGHEST)
        starts = jax.nn.softmax(prior / temperature)[None]
        if situation.start == "any":
            starts = jnp.concatenate([starts, jnp.eye(problem.num_actions, dtype=starts.dtype)])
        strategies, converged = jax.vmap(lambda s: rest(problem, sharp, exploration, s))(starts)
        assert problem.safe is not None
        share = jnp.sum(jnp.where(problem.safe, strategies, 0.0), -1)
        worst = jnp.argmin(jnp.where(jnp.isnan(share), jnp.inf, share))
        return strategies[worst], converged.all()
    agents, steps = situation.population
    played = [
        expected(
            problem,
            key,
            lambda life, a=a: life.late_frequency[a],
            num_agents=agents,
            num_steps=steps,
            policy=Logit(temperature),
            memory=DiscountedMemory(1 / memory),
            exploration=exploration,
        )
        for a in range(problem.num_actions - 1)
    ]
    realised = jnp.stack([*played, 1 - sum(played)])
    even = exploration / problem.num_actions
    steady = jnp.where(exploration < 1, 1 - exploration, 1.0)
    return (realised - even) / steady, jnp.asarray(True)


def _rest(
    problem: AbstractFiniteProblem, sharp: Sharpness, exploration: Array, start: Array
) -> tuple[Float[Array, " actions"], Bool[Array, ""]]:
    """The smooth equilibrium that the flow from a start leads to."""
    found = smooth_equilibrium(
        problem, *sharp, exploration=exploration, start=start, max_equilibria=1
    )
    still = lax.stop_gradient(found.strategy)
    return jnp.where(found.converged, found.strategy, still), found.converged


def _flow(
    problem: AbstractFiniteProblem, sharp: Sharpness, exploration: Array, start: Array
) -> tuple[Float[Array, " actions"], Bool[Array, ""]]:
    """Where the smooth mean field from a start stands at time 5.

    Euler steps of ``d sigma/dt = f(sigma) - sigma``, a quarter long, so that every derivative goes
    through them, and sees which equilibrium is selected.
    """
    reduced, prior = problem.reduced_form().explored(exploration), problem.log_prior

    def step(sigma: Array, _: None) -> tuple[Array, None]:
        return sigma + _STRIDE * (smooth_response(reduced, prior, *sharp, sigma) - sigma), None

    return lax.scan(step, start, None, length=_UNROLLED)[0], jnp.asarray(True)


class Objective(eqx.Module):
    """What to make large: a weighted sum, and penalties where limits are broken.

        safety * S + payoff * P - cost * C - penalty * (what P and C lack or exceed)

    with S the share of safe actions, P the payoff and C the cost of the design; S and P are means
    over the environments, or the worst of them.

    Any function `Evaluation` -> scalar can stand in its place.

    Parameters
    ----------
    safety, payoff, cost : weights.
    worst_case : whether S and P are those of the worst environment, and not means.
    least_payoff : P should be at least this (None: no matter).
    most_cost : C should be at most this (None: no matter).
    penalty : for each unit by which they are not.
    """

    safety: Float[Array, ""] | float = 1.0
    payoff: Float[Array, ""] | float = 0.0
    cost: Float[Array, ""] | float = 0.0
    worst_case: bool = eqx.field(static=True, default=False)
    least_payoff: Float[Array, ""] | float | None = None
    most_cost: Float[Array, ""] | float | None = None
    penalty: Float[Array, ""] | float = 10.0

    def __check_init__(self):
        limits = ("least_payoff", "most_cost")
        given = [name for name in limits if getattr(self, name) is not None]
        for name in ("safety", "payoff", "cost", "penalty", *given):
            finite_number(name, getattr(self, name))

    def allows(self, evaluation: Evaluation) -> bool:
        """Whether the limits are kept, to within a thousandth."""
        payoff = (jnp.min if self.worst_case else jnp.mean)(evaluation.payoff)
        least = -jnp.inf if self.least_payoff is None else self.least_payoff - 1e-3
        most = jnp.inf if self.most_cost is None else self.most_cost + 1e-3
        return bool((payoff >= least) & (evaluation.cost <= most))

    def __call__(self, evaluation: Evaluation) -> Float[Array, ""]:
        """Its value."""
        over = jnp.min if self.worst_case else jnp.mean
        share, payoff = over(evaluation.safe_share), over(evaluation.payoff)
        total = self.safety * share + self.payoff * payoff
        # No infinite divergence times a weight of zero.
        if not isinstance(self.cost, (int, float)) or self.cost:
            total = total - self.cost * evaluation.cost
        if self.least_payoff is not None:
            total = total - self.penalty * jnp.maximum(self.least_payoff - payoff, 0.0)
        if self.most_cost is not None:
            total = total - self.penalty * jnp.maximum(evaluation.cost - self.most_cost, 0.0)
        return total
