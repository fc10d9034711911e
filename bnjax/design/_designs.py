"""What an epistemic designer can change of a learner: its prior, its models, its exploration.

A design is a map from parameters, any pytree of arrays, to a learner. It changes a learner in
three places, and each kind of design in one or two of them: the arguments of the scenario, the
problem that the scenario then makes (its prior, its payoffs), and exploration.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .._check import check_shape, number
from .._consequence import Categorical
from ..problem import AbstractFiniteProblem

Arguments = dict[str, Any]


class AbstractDesign(eqx.Module):
    """A parametrisation of learners.

    To make your own, give `init` and whichever of `arguments`, `problem`, `exploration` and `cost`
    it has a say in; `project` if parameters have bounds, and `hard` if the design has a sharp form
    of its own. All but `init` are traced, differentiated and mapped with `jax.vmap`.

    Examples
    --------
    Trust in what others say, as an exponential tilt of the prior:

    >>> import equinox as eqx, jax.numpy as jnp, bnjax as bn
    >>> class Tilt(bn.design.AbstractDesign):
    ...     def init(self, problem, arguments, exploration):
    ...         return jnp.zeros(())
    ...     def problem(self, parameters, problem):
    ...         return bn.design.with_prior(
    ...             problem, problem.log_prior + parameters * problem.theta[:, 0]
    ...         )
    ...     def cost(self, parameters, reference, before, after):
    ...         return bn.design.divergence(after.log_prior, before.log_prior)
    >>> problem = bn.scenarios.sycophancy(0.7, 0.6).discretize(5)
    >>> start = Tilt().init(problem, {}, 0.0)
    >>> float(Tilt().cost(start, start, problem, Tilt().problem(start, problem)))
    0.0
    """

    @abc.abstractmethod
    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """Parameters of the reference design: that which changes nothing, or least.

        Parameters
        ----------
        problem : the reference problem in one of the environments.
        arguments : what it was made with.
        exploration : of the reference.
        """

    def arguments(self, parameters: Any) -> Arguments:
        """Arguments of the scenario that the design sets."""
        return {}

    def problem(self, parameters: Any, problem: AbstractFiniteProblem) -> AbstractFiniteProblem:
        """The problem of the scenario, as the design would have it."""
        return problem

    def exploration(self, parameters: Any, exploration: Float[Array, ""]) -> Float[Array, ""]:
        """Probability of a tremble."""
        return exploration

    def cost(
        self,
        parameters: Any,
        reference: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
    ) -> Float[Array, ""]:
        """How far from the reference the design goes: a divergence in nats, or a change.

        Parameters
        ----------
        parameters : of the design.
        reference : those of `init`.
        before : the scenario's problem.
        after : what `problem` makes of it.
        """
        return jnp.zeros(())

    def project(self, parameters: Any) -> Any:
        """The nearest parameters that are allowed."""
        return parameters

    def hard(
        self,
        parameters: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
        threshold: float,
    ) -> Bool[Array, " models"]:
        """Which models the hard design keeps.

        By default those whose weight, as a multiple of what it was, is at least ``threshold``
        times the largest such multiple.

        Parameters
        ----------
        parameters : of the design.
        before : the reference problem.
        after : that of the design, on the same models.
        threshold : in (0, 1).
        """
        ratio = jnp.where(before.support, after.log_prior - before.log_prior, -jnp.inf)
        return before.support & (ratio >= ratio.max() + jnp.log(threshold))


def with_prior(
    problem: AbstractFiniteProblem, log_weights: Float[Array, " models"]
) -> AbstractFiniteProblem:
    """The problem with another prior.

    Parameters
    ----------
    problem : any problem with finitely many models M.
    log_weights : [M] in nats, to be normalised here; ``-inf`` rules a model out. Models outside
        the support of the problem stay outside.

    Returns
    -------
    Problem or GaussianProblem
        The same, with a ``log_prior`` [M] whose probabilities sum to one.

    Raises
    ------
    ValueError
        If there is not one weight for each model.
    """
    check_shape("log_weights", log_weights, (problem.num_models,), "models")
    log_weights = jnp.where(problem.support, log_weights, -jnp.inf)
    return eqx.tree_at(lambda p: p.log_prior, problem, log_normalised(log_weights))


def log_normalised(log_weights: Float[Array, " models"]) -> Float[Array, " models"]:
    """Log-probabilities; ``-inf`` stays, without NaN in a derivative."""
    there = log_weights > -jnp.inf
    finite = jnp.where(there, log_weights, 0.0)
    peak = lax.stop_gradient(jnp.max(jnp.where(there, finite, -jnp.inf)))
    total = jnp.sum(jnp.where(there, jnp.exp(finite - peak), 0.0))
    return jnp.where(there, finite - peak - jnp.log(total), -jnp.inf)


def divergence(
    log_design: Float[Array, " models"], log_reference: Float[Array, " models"]
) -> Float[Array, ""]:
    """What a prior costs: its Kullback-Leibler divergence from the reference, in nats.

    Parameters
    ----------
    log_design, log_reference : [M] log-probabilities of the models, ``-inf`` where one is ruled
        out.

    Returns
    -------
    Array
        KL(design || reference) [], in nats: not negative, and infinite where the reference rules
        out what the design supports.
    """
    there = log_design > -jnp.inf
    new = there & (log_reference == -jnp.inf)
    log = jnp.where(there & ~new, log_design, 0.0)
    gap = log - jnp.where(there & ~new, log_reference, 0.0)
    total = jnp.sum(jnp.where(there & ~new, jnp.exp(log) * gap, 0.0))
    return jnp.where(jnp.any(new), jnp.inf, total)


class AbstractPriorDesign(AbstractDesign):
    """A design that changes the weights of the models, and costs a divergence in nats."""

    @abc.abstractmethod
    def log_weights(
        self, parameters: Any, problem: AbstractFiniteProblem
    ) -> Float[Array, " models"]:
        """Log-weights of the models, not normalised."""

    def problem(self, parameters: Any, problem: AbstractFiniteProblem) -> AbstractFiniteProblem:
        """The problem with these weights."""
        return with_prior(problem, self.log_weights(parameters, problem))

    def cost(
        self,
        parameters: Any,
        reference: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
    ) -> Float[Array, ""]:
        """KL(prior || reference prior) in nats."""
        return divergence(after.log_prior, before.log_prior)


class LogPrior(AbstractPriorDesign):
    """Free log-weights: one number a model, in nats, added to the reference's.

    The models must be the same in all environments.
    """

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """Nothing added."""
        return jnp.zeros_like(problem.log_prior)

    def log_weights(
        self, parameters: Any, problem: AbstractFiniteProblem
    ) -> Float[Array, " models"]:
        """Sum of both."""
        return problem.log_prior + parameters


class _OverTheta(AbstractPriorDesign):
    """A prior that depends on one parameter of the models, from 0 at its least to 1 at its most."""

    parameter: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        if not isinstance(self.parameter, (int, np.integer)) or self.parameter < 0:
            raise ValueError(
                "`parameter` must be one of the parameters of the models, numbered from 0; got "
                f"{self.parameter!r}."
            )

    def place(self, problem: AbstractFiniteProblem) -> Float[Array, " models"]:
        """Where each model lies between the least and the largest of the parameter, in [0, 1]."""
        num = problem.theta.shape[1]
        if num == 0:
            raise ValueError(
                f"{type(self).__name__} needs models with parameters (`theta`), and those of this "
                "scenario have none: bn.design.LogPrior weighs models one by one."
            )
        if self.parameter >= num:
            raise ValueError(
                f"`parameter` must be one of the {num} parameters of the models, numbered from 0; "
                f"got {self.parameter!r}."
            )
        theta = problem.theta[:, self.parameter]
        low, high = theta.min(), theta.max()
        return (theta - low) / jnp.where(high > low, high - low, 1.0)


class BetaPrior(_OverTheta):
    """The reference prior times a Beta density of one parameter of the models.

    The parameters are log a and log b, of Beta(a, b); 0 and 0 change nothing.

    Parameters
    ----------
    parameter : which parameter of the models, from 0.
    largest : a and b stay between ``1 / largest`` and ``largest``.
    """

    largest: float = eqx.field(static=True, default=200.0)

    def __check_init__(self):
        number("largest", self.largest, "be more than 1", lambda x: x > 1)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """Beta(1, 1): uniform."""
        self.place(problem)
        return jnp.zeros(2, problem.log_prior.dtype)

    def log_weights(
        self, parameters: Any, problem: AbstractFiniteProblem
    ) -> Float[Array, " models"]:
        """(a - 1) log u + (b - 1) log(1 - u), half a grid step away from 0 and 1."""
        edge = 0.5 / problem.num_models
        place = jnp.clip(self.place(problem), edge, 1 - edge)
        a, b = jnp.exp(parameters[0]), jnp.exp(parameters[1])
        return problem.log_prior + (a - 1) * jnp.log(place) + (b - 1) * jnp.log1p(-place)

    def project(self, parameters: Any) -> Any:
        """Keep a and b in range."""
        most = jnp.log(self.largest)
        return jnp.clip(parameters, -most, most)


class GaussianPrior(_OverTheta):
    """The reference prior times a normal density of one parameter of the models.

    The parameters are its mean, from 0 (least) to 1 (most) of the parameter, and the log of its
    standard deviation on that scale; it begins with 0.5 and 3 (nearly flat).

    Parameters
    ----------
    parameter : which parameter of the models, from 0.
    least : smallest standard deviation.
    """

    least: float = eqx.field(static=True, default=0.02)

    def __check_init__(self):
        number("least", self.least, "lie inside (0, 3)", lambda x: 0 < x < 3)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """Nearly flat."""
        self.place(problem)
        return jnp.asarray([0.5, jnp.log(3.0)], problem.log_prior.dtype)

    def log_weights(
        self, parameters: Any, problem: AbstractFiniteProblem
    ) -> Float[Array, " models"]:
        """-(u - mean)^2 / (2 sd^2)."""
        z = (self.place(problem) - parameters[0]) * jnp.exp(-parameters[1])
        return problem.log_prior - 0.5 * z**2

    def project(self, parameters: Any) -> Any:
        """Keep the mean in [0, 1] and the standard deviation in range."""
        mean, log_sd = parameters
        return jnp.stack(
            [jnp.clip(mean, 0.0, 1.0), jnp.clip(log_sd, jnp.log(self.least), jnp.log(3.0))]
        )


class SupportBounds(_OverTheta):
    """Which models the agent can represent: bounds on one parameter, soft while they are sought.

    The parameters are the lower and the upper bound, from 0 (least) to 1 (most) of the parameter;
    0 and 1 rule out nothing. A model outside has its weight multiplied by a logistic function of
    how far outside it is; the hard design rules it out.

    Parameters
    ----------
    parameter : which parameter of the models, from 0.
    softness : width of the logistic functions, on the same scale.
    least : how far apart the bounds must stay.
    """

    softness: float = eqx.field(static=True, default=0.005)
    least: float = eqx.field(static=True, default=0.05)

    def __check_init__(self):
        number("softness", self.softness, "be a positive number", lambda x: x > 0)
        number("least", self.least, "lie in [0, 1)", lambda x: 0 <= x < 1)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """No bounds."""
        self.place(problem)
        return jnp.asarray([0.0, 1.0], problem.log_prior.dtype)

    def _outside(self, parameters: Any, problem: AbstractFiniteProblem) -> Array:
        """How far each model lies below the lower and above the upper bound, [2, M]."""
        place = self.place(problem)
        return jnp.stack([parameters[0] - place, place - parameters[1]])

    def log_weights(
        self, parameters: Any, problem: AbstractFiniteProblem
    ) -> Float[Array, " models"]:
        """Log of both logistic functions; where a bound rules out nothing, it is 1 throughout."""
        outside = self._outside(parameters, problem)
        idle = jnp.stack([parameters[0] <= 0, parameters[1] >= 1])[:, None]
        # One half at the bound itself, and nearly one inside.
        log = jnp.where(idle, 0.0, jax.nn.log_sigmoid(-outside / self.softness))
        # An idle bound would have no derivative at all, and never move.
        push = outside - lax.stop_gradient(outside)
        slope = jax.nn.sigmoid(outside / self.softness) / self.softness
        log = log - jnp.where(idle, slope * push, 0.0)
        return problem.log_prior + log.sum(0)

    def project(self, parameters: Any) -> Any:
        """Keep the bounds in order, and inside [0, 1]."""
        low = jnp.clip(parameters[0], 0.0, 1.0 - self.least)
        return jnp.stack([low, jnp.clip(parameters[1], low + self.least, 1.0)])

    def hard(
        self,
        parameters: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
        threshold: float,
    ) -> Bool[Array, " models"]:
        """The models inside the bounds."""
        slight = 8 * float(jnp.finfo(before.theta.dtype).eps)
        inside = jnp.all(self._outside(parameters, before) <= slight, 0)
        return before.support & inside


class _Interval(AbstractDesign):
    """One number between two bounds: its parameter runs from 0 (``low``) to 1 (``high``)."""

    low: eqx.AbstractVar[float]
    high: eqx.AbstractVar[float]
    weight: eqx.AbstractVar[float]  # cost of going all the way from one to the other

    def place(self, name: str, value: Any, problem: AbstractFiniteProblem) -> Float[Array, ""]:
        """Where the reference lies between the bounds."""
        if not self.low <= float(value) <= self.high:
            raise ValueError(
                f"`{name}` of the reference must lie within the design's [{self.low:g}, "
                f"{self.high:g}]; got {float(value):g}."
            )
        place = (float(value) - self.low) / (self.high - self.low)
        return jnp.asarray(place, problem.log_prior.dtype)

    def value(self, parameters: Any) -> Any:
        """The number itself."""
        return self.low + (self.high - self.low) * parameters

    def cost(
        self,
        parameters: Any,
        reference: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
    ) -> Float[Array, ""]:
        """How far it has gone."""
        return self.weight * jnp.abs(parameters - reference)

    def project(self, parameters: Any) -> Any:
        """Keep it between the bounds."""
        return jnp.clip(parameters, 0.0, 1.0)


def _weight(weight: Any) -> float:
    return number("weight", weight, "be a number, not less than 0", lambda x: x >= 0)


class Argument(_Interval):
    """An argument of the scenario between two bounds: a payoff, an approval probability, ...

    The parameter runs from 0 (``low``) to 1 (``high``).

    Parameters
    ----------
    name : of the argument.
    low, high : bounds.
    weight : cost of going all the way from one to the other.

    Raises
    ------
    ValueError
        If the bounds are not in order, or the reference is not between them.
    """

    name: str = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    weight: float = eqx.field(static=True)

    def __init__(self, name: str, low: float, high: float, weight: float = 1.0):
        self.name, self.low, self.high = name, number("low", low), number("high", high)
        self.weight = _weight(weight)
        if not self.low < self.high:
            raise ValueError(f"`low` must be less than `high`; got {low!r} and {high!r}.")

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """Where the reference lies between the bounds."""
        if self.name not in arguments:
            raise ValueError(
                f"`name` must be an argument of the scenario, one of {', '.join(arguments)}; got "
                f"{self.name!r}."
            )
        return self.place(self.name, arguments[self.name], problem)

    def arguments(self, parameters: Any) -> Arguments:
        """Its value."""
        return {self.name: self.value(parameters)}


class Width(Argument):
    """How far agreement and truth may come apart in the models: the scenarios' ``width``.

    The parameter runs from 0 (no width) to 1 (``high``).

    Parameters
    ----------
    high : largest width.
    weight : cost of going from 0 to ``high``.
    """

    def __init__(self, high: float = 1.0, weight: float = 1.0):
        super().__init__("width", 0.0, high, weight)


class Exploration(_Interval):
    """The probability with which play trembles to a uniform action.

    Parameters
    ----------
    most : largest probability.
    weight : cost of going from 0 to ``most``.
    """

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    weight: float = eqx.field(static=True)

    def __init__(self, most: float = 0.5, weight: float = 1.0):
        self.low, self.weight = 0.0, _weight(weight)
        self.high = number("most", most, "be a probability in (0, 1]", lambda x: 0 < x <= 1)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """That of the reference."""
        return self.place("exploration", exploration, problem)

    def exploration(self, parameters: Any, exploration: Float[Array, ""]) -> Float[Array, ""]:
        """Its value."""
        return self.value(parameters)


class RewardScale(AbstractDesign):
    """Reward engineering: all payoffs times one factor, in what agents are paid.

    The parameter is the log of the factor; the cost is its size.

    Parameters
    ----------
    largest : the factor stays between ``1 / largest`` and ``largest``.
    """

    largest: float = eqx.field(static=True, default=100.0)

    def __check_init__(self):
        number("largest", self.largest, "be more than 1", lambda x: x > 1)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """A factor of 1."""
        return jnp.zeros((), problem.log_prior.dtype)

    def problem(self, parameters: Any, problem: AbstractFiniteProblem) -> AbstractFiniteProblem:
        """The problem with scaled payoffs."""
        return _paid(problem, jnp.exp(parameters), jnp.zeros(problem.num_actions))

    def cost(
        self,
        parameters: Any,
        reference: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
    ) -> Float[Array, ""]:
        """Size of the log of the factor."""
        return jnp.abs(parameters - reference)

    def project(self, parameters: Any) -> Any:
        """Keep the factor in range."""
        most = jnp.log(self.largest)
        return jnp.clip(parameters, -most, most)


class RewardBonus(AbstractDesign):
    """Reward engineering: a bonus [A] for each action, whatever comes of it.

    Parameters
    ----------
    most : largest size of a bonus, in units of payoff.
    """

    most: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        number("most", self.most, "be a positive number", lambda x: x > 0)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """None."""
        return jnp.zeros(problem.num_actions, problem.log_prior.dtype)

    def problem(self, parameters: Any, problem: AbstractFiniteProblem) -> AbstractFiniteProblem:
        """The problem with the bonus paid."""
        return _paid(problem, jnp.ones(()), parameters)

    def cost(
        self,
        parameters: Any,
        reference: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
    ) -> Float[Array, ""]:
        """Sum of the sizes."""
        return jnp.sum(jnp.abs(parameters - reference))

    def project(self, parameters: Any) -> Any:
        """Keep each in range."""
        return jnp.clip(parameters, -self.most, self.most)


def _paid(
    problem: AbstractFiniteProblem, factor: Float[Array, ""], bonus: Float[Array, " actions"]
) -> AbstractFiniteProblem:
    """The problem with payoffs that are scaled, and then raised by a bonus."""
    truth = problem.consequence
    dtype = problem.log_prior.dtype
    factor, bonus = factor.astype(dtype), bonus.astype(dtype)
    if isinstance(truth, Categorical):
        payoff = factor * truth.payoff + bonus[:, None]
        return eqx.tree_at(lambda p: p.consequence.payoff, problem, payoff)
    terms = factor * truth.payoff_intercept + bonus, factor * truth.payoff_slope
    return eqx.tree_at(
        lambda p: (p.consequence.payoff_intercept, p.consequence.payoff_slope), problem, terms
    )


class Together(AbstractDesign):
    """Several designs at once: each says what it has a say in, in order; costs add up."""

    designs: tuple[AbstractDesign, ...]

    def __init__(self, *designs: AbstractDesign):
        if not designs or not all(isinstance(d, AbstractDesign) for d in designs):
            raise ValueError(f"`designs` must be designs, at least one; got {designs!r}.")
        # Those inside one another count as one, so that no divergence is counted twice.
        nested = [d.designs if isinstance(d, Together) else (d,) for d in designs]
        self.designs = tuple(design for group in nested for design in group)

    def init(
        self, problem: AbstractFiniteProblem, arguments: Arguments, exploration: Float[Array, ""]
    ) -> Any:
        """Those of each."""
        return tuple(d.init(problem, arguments, exploration) for d in self.designs)

    def _each(self, parameters: Any) -> list[tuple[AbstractDesign, Any]]:
        return list(zip(self.designs, parameters, strict=True))

    def arguments(self, parameters: Any) -> Arguments:
        """Those of all."""
        return {k: v for d, p in self._each(parameters) for k, v in d.arguments(p).items()}

    def problem(self, parameters: Any, problem: AbstractFiniteProblem) -> AbstractFiniteProblem:
        """One after the other."""
        for design, own in self._each(parameters):
            problem = design.problem(own, problem)
        return problem

    def exploration(self, parameters: Any, exploration: Float[Array, ""]) -> Float[Array, ""]:
        """One after the other."""
        for design, own in self._each(parameters):
            exploration = design.exploration(own, exploration)
        return exploration

    def cost(
        self,
        parameters: Any,
        reference: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
    ) -> Float[Array, ""]:
        """The sum, the divergence of the prior counted once."""
        total = jnp.zeros((), before.log_prior.dtype)
        for design, own, first in zip(self.designs, parameters, reference, strict=True):
            if not isinstance(design, AbstractPriorDesign):
                total = total + design.cost(own, first, before, after)
        if any(isinstance(design, AbstractPriorDesign) for design in self.designs):
            total = total + divergence(after.log_prior, before.log_prior)
        return total

    def project(self, parameters: Any) -> Any:
        """Each."""
        return tuple(design.project(own) for design, own in self._each(parameters))

    def hard(
        self,
        parameters: Any,
        before: AbstractFiniteProblem,
        after: AbstractFiniteProblem,
        threshold: float,
    ) -> Bool[Array, " models"]:
        """What every one of them keeps of what it weighs itself."""
        kept = before.support
        for design, own in self._each(parameters):
            alone = design.problem(own, before)
            kept = kept & design.hard(own, before, alone, threshold)
        return kept
