"""Problems: a true environment and the subjective model of an agent, as pytrees.

A problem with finitely many models enters every solution concept only through its
`ReducedForm`: divergences K and subjective payoffs U.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._check import (
    as_float,
    as_names,
    as_safe,
    check_finite,
    check_shape,
    check_some,
    is_concrete,
)
from ._consequence import Categorical, Consequence, Gaussian
from .family import Family


class ReducedForm(eqx.Module):
    """All that equilibria and rationalizability need to know of a finite problem.

    Parameters
    ----------
    kl : [M, A] divergence of each model from the truth in nats, 0 where it is infinite.
    ruled_out : [M, A] where it is infinite: the model excludes something that happens.
    payoffs : [M, A] payoff that each model expects from each action.
    support : [M] which models the prior allows at all.
    """

    kl: Float[Array, "models actions"]
    ruled_out: Bool[Array, "models actions"]
    payoffs: Float[Array, "models actions"]
    support: Bool[Array, " models"]

    def explored(self, exploration: Float[Array, ""]) -> ReducedForm:
        """The same problem for an agent whose intended play trembles.

        Trembling is linear in play, so it is a linear map on the divergences; a model
        that any action refutes is then refuted whatever is intended. At a (traced)
        exploration of 0 this is the identity.
        """
        kl = (1 - exploration) * self.kl + exploration * self.kl.mean(1, keepdims=True)
        anywhere = self.ruled_out.any(1, keepdims=True) & (exploration > 0)
        ruled_out = self.ruled_out | anywhere
        return ReducedForm(jnp.where(ruled_out, 0.0, kl), ruled_out, self.payoffs, self.support)

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the numbers are finite and some supported model is never refuted."""
        finite = jnp.all(jnp.isfinite(self.kl)) & jnp.all(jnp.isfinite(self.payoffs))
        return finite & jnp.any(self.support & ~self.ruled_out.any(1))


class AbstractProblem(eqx.Module):
    """A true environment, a subjective model, payoffs, and which actions are safe."""

    consequence: eqx.AbstractVar[Consequence]
    safe: eqx.AbstractVar[Bool[Array, " actions"] | None]
    action_names: eqx.AbstractVar[tuple[str, ...]]
    parameter_names: eqx.AbstractVar[tuple[str, ...]]  # of the D parameters of a model

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.consequence.num_actions

    def objective_payoffs(self) -> Float[Array, " actions"]:
        """True expected payoff V [A] of each action."""
        return self.consequence.objective_payoffs()

    @abc.abstractmethod
    def reduced_form(self) -> ReducedForm:
        """K, U, and the masks that go with them (finitely many models only)."""

    @abc.abstractmethod
    def kl_matrix(self) -> Float[Array, "models actions"]:
        """K [M, A] in nats; ``inf`` where a model rules out what happens."""

    @abc.abstractmethod
    def subjective_payoffs(self) -> Float[Array, "models actions"]:
        """U [M, A]: the payoff that each model expects from each action."""

    @abc.abstractmethod
    def teaches(self) -> Bool[Array, " actions"]:
        """Which actions have consequences that models of the support disagree about, [A]."""

    @abc.abstractmethod
    def is_valid(self) -> Bool[Array, ""]:
        """Whether all (possibly traced) numbers make sense; `phase` reports INVALID if not."""


class AbstractFiniteProblem(AbstractProblem):
    """A problem whose subjective model is a list of M models with a prior over them."""

    log_prior: eqx.AbstractVar[Float[Array, " models"]]
    theta: eqx.AbstractVar[Float[Array, "models parameters"]]

    @property
    @abc.abstractmethod
    def models(self) -> Any:
        """Consequence parameters of every model, stacked along the first axis."""

    @property
    def num_models(self) -> int:
        """Number of models M."""
        return self.log_prior.shape[0]

    @property
    def support(self) -> Bool[Array, " models"]:
        """Which models the prior gives positive weight, [M]."""
        return self.log_prior > -jnp.inf

    def reduced_form(self) -> ReducedForm:
        """K, U and their masks. [M, A] each, with the support [M]."""
        kl, ruled_out = jax.vmap(self.consequence.divergence)(self.models)
        kl = jnp.where(ruled_out, 0.0, kl)
        return ReducedForm(kl, ruled_out, self.subjective_payoffs(), self.support)

    def kl_matrix(self) -> Float[Array, "models actions"]:
        """K [M, A] in nats; ``inf`` where a model rules out what happens."""
        kl, ruled_out = jax.vmap(self.consequence.divergence)(self.models)
        return jnp.where(ruled_out, jnp.inf, kl)

    def subjective_payoffs(self) -> Float[Array, "models actions"]:
        """U [M, A]: the payoff that each model expects from each action."""
        return jax.vmap(self.consequence.payoffs)(self.models)

    def teaches(self) -> Bool[Array, " actions"]:
        """Which actions have consequences that models of the support disagree about, [A].

        Equal divergences are not enough: a posterior over models that fit equally well never
        settles as long as they explain different consequences.
        """
        ratio, ruled_out = self.consequence.log_ratio(self.models)
        supported = self.support[:, None, None]
        high = jnp.max(jnp.where(supported, ratio, -jnp.inf), 0)
        low = jnp.min(jnp.where(supported, ratio, jnp.inf), 0)
        size = jnp.maximum(jnp.abs(high), jnp.abs(low))
        apart = high - low > 16 * float(jnp.finfo(ratio.dtype).eps) * (1 + size)
        return jnp.any(apart | jnp.any(ruled_out & supported, 0), -1)

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the environment, every supported model and the prior make sense."""
        model_ok = jax.vmap(self.consequence.model_is_valid)(self.models)
        prior_ok = jnp.all(~jnp.isnan(self.log_prior)) & jnp.any(self.support)
        everything = jnp.all(model_ok | ~self.support) & prior_ok
        return everything & self.consequence.is_valid() & self.reduced_form().is_valid()


def check_problem(problem: Any) -> None:
    """Refuse what is no problem, or many."""
    if not isinstance(problem, AbstractProblem):
        raise ValueError(f"`problem` must be a bnjax problem; got {type(problem).__name__}.")
    if batch := problem.consequence.batch_shape:
        raise ValueError(
            f"`problem` must be one problem; this one is a batch of {batch}: use `jax.vmap`, for "
            "example `jax.vmap(bn.phase)(problems)`."
        )


def as_log_prior(log_prior: Any, num_models: int) -> Array:
    """Return normalised log-weights [M]; -inf marks a model outside the support."""
    if log_prior is None:
        return jnp.full(num_models, -jnp.log(jnp.asarray(num_models, jnp.result_type(float))))
    array = as_float("log_prior", log_prior, ndim=1)
    check_shape("log_prior", array, (num_models,), "models")
    if is_concrete(array):
        values = np.asarray(array)
        if np.isnan(values).any() or (values == np.inf).any():
            raise ValueError("`log_prior` must hold finite log-weights or -inf; got NaN or +inf.")
        if not (values > -np.inf).any():
            raise ValueError("`log_prior` must have a non-empty support; every weight is -inf.")
    return jax.nn.log_softmax(array)


def _as_theta(theta: Any, num_models: int) -> Array:
    """Return the models' parameters [M, D]; D = 0 where they have none."""
    if theta is None:
        return jnp.zeros((num_models, 0), jnp.result_type(float))
    array = as_float("theta", theta)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] != num_models:
        raise ValueError(
            f"`theta` must have shape [{num_models}, D] = [models, parameters]; got {array.shape}."
        )
    check_finite("theta", array)
    return array


def _as_parameter_names(names: Sequence[str] | None, size: int) -> tuple[str, ...]:
    """``theta`` unless named, or numbered where there are several; none without ``theta``."""
    if names is None and size == 1:
        return ("theta",)
    return as_names("parameter_names", names, size, "theta")


def _check_prior_covers_truth(problem: AbstractFiniteProblem) -> None:
    """Refuse a concrete problem in which observation would refute every model."""
    if not is_concrete(problem):
        return
    reduced = problem.reduced_form()
    if not bool(jnp.any(reduced.support & ~reduced.ruled_out.any(1))):
        raise ValueError(
            "`log_prior` must support at least one model that allows everything `probs` says can "
            "happen, after every action; every supported model rules something out, so that "
            "no belief would survive."
        )


class Problem(AbstractFiniteProblem):
    """Categorical consequences and finitely many models.

    Parameters
    ----------
    probs : [A, Y] true probability of each consequence after each action.
    model_probs : [M, A, Y] the same according to each model.
    payoff : [A, Y] payoff of each consequence after each action.
    log_prior : [M] log-weights in nats, ``-inf`` outside the support; normalised. They are logs and
        not probabilities: of probabilities p, ``jnp.log(p)``. Default: uniform.
    theta : [M, D] or [M], the parameters of each model, used for reporting. Default: none (D = 0);
        reports then number the models.
    safe : [A] booleans, which actions are safe. Without it the problem has no phase.
    action_names, consequence_names, parameter_names : names for reports.

    Raises
    ------
    ValueError
        If shapes disagree, probabilities are negative or do not sum to one, a payoff is not
        finite, the support is empty, or every supported model rules out what happens.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.Problem(
    ...     probs=[[0.5, 0.5], [0.2, 0.8]],
    ...     model_probs=[[[0.6, 0.4], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]],
    ...     payoff=[[0.0, 1.0], [0.0, 1.0]],
    ... )
    >>> [[f"{u:.1f}" for u in model] for model in problem.subjective_payoffs()]
    [['0.4', '0.8'], ['0.9', '0.1']]
    """

    consequence: Categorical
    model_probs: Float[Array, "models actions consequences"]
    log_prior: Float[Array, " models"]
    theta: Float[Array, "models parameters"]
    safe: Bool[Array, " actions"] | None
    action_names: tuple[str, ...] = eqx.field(static=True)
    consequence_names: tuple[str, ...] = eqx.field(static=True)
    parameter_names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        probs: Any,
        model_probs: Any,
        payoff: Any,
        log_prior: Any = None,
        theta: Any = None,
        safe: Any = None,
        action_names: Sequence[str] | None = None,
        consequence_names: Sequence[str] | None = None,
        parameter_names: Sequence[str] | None = None,
    ):
        self.consequence = Categorical(probs, payoff)
        self.model_probs = as_float("model_probs", model_probs, ndim=3)
        self.consequence.check_model("model_probs", self.model_probs)
        num_models, num_actions, num_consequences = self.model_probs.shape
        check_some("model_probs", num_models)
        self.log_prior = as_log_prior(log_prior, num_models)
        self.theta = _as_theta(theta, num_models)
        self.safe = as_safe(safe, num_actions)
        self.action_names = as_names("action_names", action_names, num_actions, "action")
        self.consequence_names = as_names(
            "consequence_names", consequence_names, num_consequences, "consequence"
        )
        self.parameter_names = _as_parameter_names(parameter_names, self.theta.shape[1])
        _check_prior_covers_truth(self)

    @property
    def probs(self) -> Float[Array, "actions consequences"]:
        """True consequence probabilities [A, Y]."""
        return self.consequence.probs

    @property
    def payoff(self) -> Float[Array, "actions consequences"]:
        """Payoff of each consequence after each action [A, Y]."""
        return self.consequence.payoff

    @property
    def models(self) -> Float[Array, "models actions consequences"]:
        """Consequence probabilities of every model [M, A, Y]."""
        return self.model_probs

    @staticmethod
    def from_family(
        function: Callable[..., Any],
        lower: Any,
        upper: Any,
        *,
        probs: Any,
        payoff: Any,
        safe: Any = None,
        identified: Sequence[Sequence[bool]] | None = None,
        unique_best_fit: bool = False,
        action_names: Sequence[str] | None = None,
        parameter_names: Sequence[str] | None = None,
    ) -> FamilyProblem:
        """Make a categorical problem with a continuous subjective model.

        Parameters
        ----------
        function : theta [D] -> consequence probabilities [A, Y] (see `Family`).
        lower, upper : [D] bounds of theta.
        probs, payoff : [A, Y], as for `Problem`.
        safe : [A] booleans, as for `Problem`.
        identified, unique_best_fit : what is known of the family; see `Family`.
        action_names, parameter_names : names for reports.

        Returns
        -------
        FamilyProblem
        """
        family = Family(function, lower, upper, identified, unique_best_fit, parameter_names)
        return FamilyProblem(Categorical(probs, payoff), family, safe, action_names)


class GaussianProblem(AbstractFiniteProblem):
    """Normally distributed consequences, a payoff linear in them, finitely many models.

    Parameters
    ----------
    mean : [A] true mean of the consequence of each action.
    sd : [A] its true standard deviation.
    model_mean : [M, A] the mean according to each model.
    model_sd : [M, A] the standard deviation according to each model.
    payoff_intercept, payoff_slope : [A] payoff = intercept + slope * consequence.
    log_prior, theta, safe, action_names, parameter_names : as for `Problem`.

    Raises
    ------
    ValueError
        If shapes disagree, a number is not finite, an sd is not positive, or the support
        is empty.

    Examples
    --------
    Output of two efforts, which this agent takes to be the same after both:

    >>> import bnjax as bn
    >>> problem = bn.GaussianProblem(
    ...     mean=[1.0, 2.0],
    ...     sd=[1.0, 1.0],
    ...     model_mean=[[1.0, 1.0], [2.0, 2.0]],
    ...     model_sd=[[1.0, 1.0], [1.0, 1.0]],
    ...     payoff_intercept=[0.0, -0.5],
    ...     payoff_slope=[1.0, 1.0],
    ... )
    >>> [[round(float(k), 3) for k in model] for model in problem.kl_matrix()]
    [[0.0, 0.5], [0.5, 0.0]]
    """

    consequence: Gaussian
    model_mean: Float[Array, "models actions"]
    model_sd: Float[Array, "models actions"]
    log_prior: Float[Array, " models"]
    theta: Float[Array, "models parameters"]
    safe: Bool[Array, " actions"] | None
    action_names: tuple[str, ...] = eqx.field(static=True)
    parameter_names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        mean: Any,
        sd: Any,
        model_mean: Any,
        model_sd: Any,
        payoff_intercept: Any,
        payoff_slope: Any,
        log_prior: Any = None,
        theta: Any = None,
        safe: Any = None,
        action_names: Sequence[str] | None = None,
        parameter_names: Sequence[str] | None = None,
    ):
        self.consequence = Gaussian(mean, sd, payoff_intercept, payoff_slope)
        self.model_mean = as_float("model_mean", model_mean, ndim=2)
        self.model_sd = as_float("model_sd", model_sd, ndim=2)
        self.consequence.check_model(("model_mean", "model_sd"), (self.model_mean, self.model_sd))
        num_models, num_actions = self.model_mean.shape
        check_some("model_mean", num_models)
        self.log_prior = as_log_prior(log_prior, num_models)
        self.theta = _as_theta(theta, num_models)
        self.safe = as_safe(safe, num_actions)
        self.action_names = as_names("action_names", action_names, num_actions, "action")
        self.parameter_names = _as_parameter_names(parameter_names, self.theta.shape[1])

    @property
    def models(self) -> tuple[Float[Array, "models actions"], Float[Array, "models actions"]]:
        """Mean and sd of every model, each [M, A]."""
        return self.model_mean, self.model_sd

    @staticmethod
    def from_family(
        function: Callable[..., Any],
        lower: Any,
        upper: Any,
        *,
        mean: Any,
        sd: Any,
        payoff_intercept: Any,
        payoff_slope: Any,
        safe: Any = None,
        identified: Sequence[Sequence[bool]] | None = None,
        unique_best_fit: bool = False,
        action_names: Sequence[str] | None = None,
        parameter_names: Sequence[str] | None = None,
    ) -> FamilyProblem:
        """Make a Gaussian problem with a continuous subjective model.

        Parameters
        ----------
        function : theta [D] -> (mean [A], sd [A]) (see `Family`).
        lower, upper : [D] bounds of theta.
        mean, sd, payoff_intercept, payoff_slope : [A], as for `GaussianProblem`.
        safe : [A] booleans, as for `Problem`.
        identified, unique_best_fit : what is known of the family; see `Family`.
        action_names, parameter_names : names for reports.

        Returns
        -------
        FamilyProblem
        """
        family = Family(function, lower, upper, identified, unique_best_fit, parameter_names)
        truth = Gaussian(mean, sd, payoff_intercept, payoff_slope)
        return FamilyProblem(truth, family, safe, action_names)


class FamilyProblem(AbstractProblem):
    """A problem whose subjective model is a continuum: a `Family` over a box.

    Made by `Problem.from_family` and `GaussianProblem.from_family`. Every parameter in the
    box is in the support of the prior.

    Parameters
    ----------
    consequence : the truth and the payoff, `Categorical` or `Gaussian`.
    family : the subjective model.
    safe : [A] booleans, which actions are safe.
    action_names : names for reports.
    """

    consequence: Consequence
    family: Family
    safe: Bool[Array, " actions"] | None
    action_names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        consequence: Consequence,
        family: Family,
        safe: Any = None,
        action_names: Sequence[str] | None = None,
    ):
        self.consequence = consequence
        self.family = family
        num_actions = consequence.num_actions
        self.safe = as_safe(safe, num_actions)
        self.action_names = as_names("action_names", action_names, num_actions, "action")
        if family.identified is not None and len(family.identified) != num_actions:
            raise ValueError(
                f"`identified` must have one row for each of the {num_actions} actions; got "
                f"{len(family.identified)}."
            )
        self._check_family()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the D parameters of the family."""
        return self.family.parameter_names

    def _check_family(self) -> None:
        if not is_concrete(self):
            return
        try:
            models = jax.vmap(self.family.model)(self.family.nodes())
        except jax.errors.JAXTypeError as error:
            raise ValueError(
                "`function` must work for a theta that is traced, as `jax.vmap` would have it: no "
                f"`if`, `float` or `int` on it. JAX says: {str(error).splitlines()[0]}"
            ) from error
        if isinstance(self.consequence, Gaussian):
            pair = isinstance(models, tuple) and len(models) == 2
            if not pair or not all(isinstance(x, jax.Array) for x in models):
                raise ValueError("`function` must return a pair (mean [A], sd [A]) of arrays.")
        elif not isinstance(models, jax.Array):
            raise ValueError(
                "`function` must return an array of probabilities [A, Y], made for example by "
                f"`jnp.stack`; got a {type(models).__name__}."
            )
        consequence: Any = self.consequence
        names = ("function(theta)[0]", "function(theta)[1]")
        consequence.check_model(names if isinstance(models, tuple) else "function(theta)", models)
        _, ruled_out = jax.vmap(consequence.divergence)(models)
        if bool(ruled_out.any(1).all()):
            raise ValueError(
                "`function` must allow, for some theta between `lower` and `upper`, everything "
                "that `probs` says can happen; every theta on the grid rules something out."
            )

    def divergence(
        self, coordinates: Float[Array, " parameters"], chart: int = 0
    ) -> tuple[Float[Array, " actions"], Bool[Array, " actions"]]:
        """KL(truth || model) [A] in nats at one point of the family, and where it is infinite."""
        return self.consequence.divergence(self.family.model(coordinates, chart))

    def payoffs(
        self, coordinates: Float[Array, " parameters"], chart: int = 0
    ) -> Float[Array, " actions"]:
        """Payoff [A] expected at one point of the family."""
        return self.consequence.payoffs(self.family.model(coordinates, chart))

    def reduced_form(self) -> ReducedForm:
        """Refuse: a continuum of models has no matrix."""
        raise ValueError(
            "a problem with continuous Theta has no finite reduced form: call "
            "`problem.discretize(num)` for a finite one on a grid."
        )

    def kl_matrix(self) -> Float[Array, "models actions"]:
        """K in nats at the nodes of the grid that the solver starts from, [G, A]."""
        return self.discretize().kl_matrix()

    def subjective_payoffs(self) -> Float[Array, "models actions"]:
        """U at the nodes of the grid that the solver starts from, [G, A]."""
        return jax.vmap(self.payoffs)(self.family.nodes())

    def discretize(self, num: int | None = None) -> Problem | GaussianProblem:
        """Replace the continuum by an even grid with a uniform prior.

        Parameters
        ----------
        num : points along each of the D coordinates, both bounds included. Default: the grid
            that the solver starts from.

        Returns
        -------
        Problem or GaussianProblem
            With ``theta`` [M, D]. Its solutions are those of the grid: a model that happens
            to be exactly indifferent can make a continuum of equilibria.
        """
        nodes = self.family.nodes(num)
        models = jax.vmap(self.family.model)(nodes)
        theta = jax.vmap(self.family.theta)(nodes)
        if isinstance(self.consequence, Categorical):
            truth = self.consequence
            return Problem(
                truth.probs,
                models,
                truth.payoff,
                None,
                theta,
                self.safe,
                self.action_names,
                None,
                self.parameter_names,
            )
        truth, (mean, sd) = self.consequence, models
        return GaussianProblem(
            truth.mean,
            truth.sd,
            mean,
            sd,
            truth.payoff_intercept,
            truth.payoff_slope,
            None,
            theta,
            self.safe,
            self.action_names,
            self.parameter_names,
        )

    def teaches(self) -> Bool[Array, " actions"]:
        """Which actions identify some coordinate, as the family says, [A]."""
        return jnp.asarray([any(self.family.identifies(a)) for a in range(self.num_actions)])

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the environment makes sense and some theta allows what happens."""
        models = jax.vmap(self.family.model)(self.family.nodes())
        kl, ruled_out = jax.vmap(self.consequence.divergence)(models)
        finite = jnp.all(jnp.isfinite(kl)) & jnp.any(~ruled_out.any(1))
        models_ok = jnp.all(jax.vmap(self.consequence.model_is_valid)(models))
        return self.consequence.is_valid() & self.family.is_valid() & models_ok & finite
