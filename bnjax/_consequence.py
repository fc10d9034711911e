"""What an action brings about: the two kinds of consequences, behind one interface.

A consequence holds the true distribution and the payoff; given the parameters that a
model assigns, it returns the divergence from the truth and the payoff the model expects.
Parameters of many models, or of many problems, may be stacked along trailing dimensions.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from ._check import (
    as_float,
    check_finite,
    check_payoffs,
    check_positive,
    check_probabilities,
    check_shape,
    check_some,
    most_payoff,
    probability_tolerance,
)
from ._numerics import inverse_cdf, log_quotient, over_terms, standard_normal, uniform


@jax.custom_jvp
def _relative_entropy(p: Array, log_p: Array, q: Array, log_q: Array) -> Array:
    """Term ``p log(p / q)`` of a divergence, from logarithms that are 0 where there is none.

    Its derivatives know what the logarithms are of, and need no others.
    """
    return p * (log_p - log_q)


@_relative_entropy.defjvp
def _relative_entropy_jvp(primals, tangents):
    p, log_p, q, log_q = primals
    p_moves, _, q_moves, _ = tangents
    ratio = p / jnp.where(q > 0, q, 1.0)
    rate = log_p - log_q + jnp.where(p > 0, 1.0, 0.0)
    return _relative_entropy(p, log_p, q, log_q), rate * p_moves - ratio * q_moves


class Categorical(eqx.Module):
    """Finitely many consequences: true probabilities and a payoff for each.

    Parameters
    ----------
    probs : [A, Y] true probability of each consequence after each action.
    payoff : [A, Y] payoff of each consequence after each action.
    """

    probs: Float[Array, "actions consequences"]
    payoff: Float[Array, "actions consequences"]

    def __init__(self, probs: Any, payoff: Any):
        self.probs = as_float("probs", probs, ndim=2)
        self.payoff = as_float("payoff", payoff, ndim=2)
        for number, what in zip(self.probs.shape, ("action", "consequence"), strict=True):
            check_some("probs", number, what)
        check_shape("payoff", self.payoff, self.probs.shape, "actions, consequences")
        check_probabilities("probs", self.probs)
        check_payoffs("payoff", self.payoff)

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.probs.shape[0]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of a batch of these, as `jax.vmap` stacks them; () for one."""
        return self.probs.shape[:-2]

    def check_model(self, name: str, model: Array) -> None:
        """Raise unless ``model`` [..., A, Y] holds consequence probabilities."""
        if model.shape[-2:] != self.probs.shape:
            raise ValueError(
                f"`{name}` must have shape [..., {self.probs.shape[0]}, {self.probs.shape[1]}] = "
                f"[..., actions, consequences] as `probs` has; got {model.shape}."
            )
        check_probabilities(name, model)

    @property
    def num_features(self) -> int:
        """Numbers F that say all that an observation tells of any model: one a consequence."""
        return self.probs.shape[1]

    def draw(self, action: Int[Array, ""], bits: UInt32[Array, ""]) -> Int[Array, ""]:
        """Draw a consequence of an action from 32 random bits."""
        return inverse_cdf(self.probs[action], uniform(bits, self.probs.dtype))

    def features(
        self, action: Int[Array, ""], consequence: Int[Array, ""]
    ) -> Float[Array, " features"]:
        """Features of an observation; their sum over observations is all that a learner needs."""
        return (jnp.arange(self.num_features, dtype=jnp.int32) == consequence).astype(
            self.probs.dtype
        )

    def payoff_of(self, action: Int[Array, ""], consequence: Int[Array, ""]) -> Float[Array, ""]:
        """Payoff of a consequence of an action."""
        return self.payoff[action, consequence]

    def total_payoff(self, evidence: Float[Array, "actions features"]) -> Float[Array, ""]:
        """Sum of the payoffs of the observations whose features sum to ``evidence``."""
        return jnp.sum(evidence * self.payoff)

    def action_counts(self, evidence: Float[Array, "actions features"]) -> Float[Array, " actions"]:
        """How often each action was played, from the sum of the features."""
        return evidence.sum(1)

    def log_ratio(
        self, models: Float[Array, "models actions consequences"]
    ) -> tuple[Float[Array, "models actions features"], Bool[Array, "models actions features"]]:
        """Log-likelihood ratios in nats by feature, and which features a model rules out.

        Relative to the middle between the least and the most likely model, so that sums stay
        small. Models that lie close together keep the digits in which they differ: their
        distances to it are differences of the probabilities, and not of their logarithms.
        Zero where a model rules the consequence out (the mask says so) or it never happens.
        """
        allowed = models > 0
        most = jnp.where(allowed, models, 0.0).max(0)
        least = jnp.where(allowed, models, 1.0).min(0)
        # A number that has been rounded: in a difference, a product might be used as it is.
        middle = lax.optimization_barrier(jnp.sqrt(least) * jnp.sqrt(most))
        middle = lax.stop_gradient(jnp.where(most > 0, middle, 1.0))
        log = log_quotient(jnp.where(allowed, models, middle), middle)
        happens = self.probs > 0
        return jnp.where(happens, log, 0.0), ~allowed & happens

    def by_action(
        self, model: Float[Array, "actions consequences *batch"]
    ) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
        """Divergences, where they are infinite, and payoffs: an array [*batch] an action."""

        def term(p, log_p, q, log_q, payoff):
            allowed = jnp.where(q > 0, p, 0.0)
            return _relative_entropy(allowed, log_p, q, log_q), p - allowed, q * payoff

        log_p = jnp.log(jnp.where(self.probs > 0, self.probs, 1.0))
        log_q = jnp.log(jnp.where(model > 0, model, 1.0))
        kl, excluded, payoffs = over_terms(term, self.probs, log_p, model, log_q, self.payoff)
        return kl, tuple(x > 0 for x in excluded), payoffs

    def divergence(
        self, model: Float[Array, "actions consequences *batch"]
    ) -> tuple[Float[Array, "actions *batch"], Bool[Array, "actions *batch"]]:
        """KL(truth || model) in nats for each action, and where it is infinite.

        Where it is infinite, the value is the finite sum over what the model allows: the
        mask carries the infinity, so that neither a value nor a gradient becomes NaN (both
        logarithms are masked *before* they are taken, and each by its own argument alone:
        where many problems share their models, their logarithms are taken once).
        """
        kl, ruled_out, _ = self.by_action(model)
        return jnp.stack(kl), jnp.stack(ruled_out)

    def payoffs(
        self, model: Float[Array, "actions consequences *batch"]
    ) -> Float[Array, "actions *batch"]:
        """Payoff that a model expects from each action."""
        return jnp.stack(self.by_action(model)[2])

    def objective_payoffs(self) -> Float[Array, " actions"]:
        """True expected payoff of each action."""
        return self.payoffs(self.probs)

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether the (possibly traced) numbers are a consequence distribution and payoff."""
        in_range = jnp.all(jnp.abs(self.payoff) <= most_payoff(self.payoff.dtype), axis=(0, 1))
        return self.model_is_valid(self.probs) & in_range

    def model_is_valid(
        self, model: Float[Array, "actions consequences *batch"]
    ) -> Bool[Array, "*batch"]:
        """Whether a model is a distribution; all that follows from it is finite or flagged then."""
        tolerance = probability_tolerance(model.dtype)
        total, size = over_terms(lambda q: (q, jnp.abs(q)), model)
        # Numbers that add up to as much as their sizes are not negative; NaN compares false.
        fine = [(jnp.abs(t - 1) <= tolerance) & (t == s) for t, s in zip(total, size, strict=True)]
        return functools.reduce(operator.and_, fine)


class Gaussian(eqx.Module):
    """Normally distributed consequences with a payoff linear in them.

    Parameters
    ----------
    mean, sd : [A] true mean and standard deviation after each action.
    payoff_intercept, payoff_slope : [A] payoff = intercept + slope * consequence.
    """

    mean: Float[Array, " actions"]
    sd: Float[Array, " actions"]
    payoff_intercept: Float[Array, " actions"]
    payoff_slope: Float[Array, " actions"]

    def __init__(self, mean: Any, sd: Any, payoff_intercept: Any, payoff_slope: Any):
        self.mean = as_float("mean", mean, ndim=1)
        shape = self.mean.shape
        check_some("mean", shape[0], "action")
        self.sd = as_float("sd", sd, ndim=1)
        self.payoff_intercept = as_float("payoff_intercept", payoff_intercept, ndim=1)
        self.payoff_slope = as_float("payoff_slope", payoff_slope, ndim=1)
        for name in ("sd", "payoff_intercept", "payoff_slope"):
            check_shape(name, getattr(self, name), shape, "actions")
            check_payoffs(name, getattr(self, name))
        check_finite("mean", self.mean)
        check_positive("sd", self.sd)

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.mean.shape[0]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of a batch of these, as `jax.vmap` stacks them; () for one."""
        return self.mean.shape[:-1]

    def check_model(self, names: tuple[str, str], model: tuple[Array, Array]) -> None:
        """Raise unless ``model`` is a pair (mean, sd) of arrays [..., A] with sd > 0."""
        mean, sd = model
        name_mean, name_sd = names
        if mean.shape[-1:] != self.mean.shape or sd.shape != mean.shape:
            raise ValueError(
                f"`{name_mean}` and `{name_sd}` must both have shape [..., {self.mean.shape[0]}] = "
                f"[..., actions] as `mean` has; got {mean.shape} and {sd.shape}."
            )
        check_finite(name_mean, mean)
        check_positive(name_sd, sd)

    @property
    def num_features(self) -> int:
        """Numbers F that say all that an observation tells of any model: 1, z and z^2."""
        return 3

    def draw(self, action: Int[Array, ""], bits: UInt32[Array, ""]) -> Float[Array, ""]:
        """Draw a consequence of an action from 32 random bits."""
        return self.mean[action] + self.sd[action] * standard_normal(bits, self.mean.dtype)

    def features(
        self, action: Int[Array, ""], consequence: Float[Array, ""]
    ) -> Float[Array, " features"]:
        """Features of an observation; their sum over observations is all that a learner needs.

        Powers of z, the consequence standardised by its true mean and standard deviation: sums
        of the powers of a raw number cancel badly.
        """
        z = (consequence - self.mean[action]) / self.sd[action]
        return jnp.stack([jnp.ones_like(z), z, z * z])

    def payoff_of(self, action: Int[Array, ""], consequence: Float[Array, ""]) -> Float[Array, ""]:
        """Payoff of a consequence of an action."""
        return self.payoff_intercept[action] + self.payoff_slope[action] * consequence

    def total_payoff(self, evidence: Float[Array, "actions features"]) -> Float[Array, ""]:
        """Sum of the payoffs of the observations whose features sum to ``evidence``."""
        consequences = evidence[:, 0] * self.mean + evidence[:, 1] * self.sd
        return jnp.sum(self.payoff_intercept * evidence[:, 0] + self.payoff_slope * consequences)

    def action_counts(self, evidence: Float[Array, "actions features"]) -> Float[Array, " actions"]:
        """How often each action was played, from the sum of the features."""
        return evidence[:, 0]

    def log_ratio(
        self, models: tuple[Float[Array, "models actions"], Float[Array, "models actions"]]
    ) -> tuple[Float[Array, "models actions features"], Bool[Array, "models actions features"]]:
        """Log-likelihood ratios in nats by feature; nothing is ruled out.

        Relative to the normal distribution in whose logarithm z and z^2 have the middle of the
        coefficients of the models. As for categorical consequences, from differences of the
        parameters: with D = (mean' - mean) / sd and p = (sd / sd')^2 of a model,
        ``log f = const - log sd' - p (z - D)^2 / 2``.
        """
        mean, sd = models
        wide, unit = self.sd / sd, lax.optimization_barrier(1 / self.sd)
        far, most = (mean - self.mean) * unit, wide.max(0)
        share = (wide * lax.optimization_barrier(1 / most)) ** 2  # of the largest p
        middle = _middle(share)
        # The reference: its standard deviation and mean.
        scale = self.sd / (most * jnp.sqrt(middle))
        center = self.mean + self.sd * (_middle(share * far) / middle)
        scale, center = lax.stop_gradient(lax.optimization_barrier((scale, center)))
        inverse = lax.stop_gradient(lax.optimization_barrier(1 / scale))
        moved, away = (mean - center) * unit, (center - self.mean) * unit
        # p less that of the reference, from products of numbers of the size of its root.
        more = (wide * ((scale - sd) * inverse)) * (wide + self.sd * inverse)
        square = (wide * moved) * (wide * (moved + 2 * away)) + (more * away) * away
        constant = -log_quotient(sd, scale) - 0.5 * square
        log = jnp.stack([constant, wide * (wide * moved) + more * away, -0.5 * more], axis=-1)
        return log, jnp.zeros(log.shape, bool)

    def by_action(
        self, model: tuple[Float[Array, "actions *batch"], Float[Array, "actions *batch"]]
    ) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
        """Divergences, where they are infinite, and payoffs: an array [*batch] an action."""
        kl, ruled_out = self.divergence(model)
        return tuple(kl), tuple(ruled_out), tuple(self.payoffs(model))

    def divergence(
        self, model: tuple[Float[Array, "actions *batch"], Float[Array, "actions *batch"]]
    ) -> tuple[Float[Array, "actions *batch"], Bool[Array, "actions *batch"]]:
        """KL(truth || model) in nats for each action, and where it is infinite (nowhere).

        ``log(sd'/sd) + (sd^2 + (mean - mean')^2) / (2 sd'^2) - 1/2`` with the model primed.
        """
        mean, sd = model
        ratio = self.sd / sd
        kl = 0.5 * (ratio**2 - 1 + ((self.mean - mean) / sd) ** 2) - jnp.log(ratio)
        return kl, jnp.zeros(kl.shape, bool)

    def payoffs(
        self, model: tuple[Float[Array, "actions *batch"], Float[Array, "actions *batch"]]
    ) -> Float[Array, "actions *batch"]:
        """Payoff that a model expects from each action."""
        return self.payoff_intercept + self.payoff_slope * model[0]

    def objective_payoffs(self) -> Float[Array, " actions"]:
        """True expected payoff of each action."""
        return self.payoffs((self.mean, self.sd))

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether the (possibly traced) numbers are a consequence distribution and payoff."""
        return self.model_is_valid((self.mean, self.sd))

    def model_is_valid(
        self, model: tuple[Float[Array, "actions *batch"], Float[Array, "actions *batch"]]
    ) -> Bool[Array, "*batch"]:
        """Whether a model is a distribution and has a finite divergence and finite payoffs.

        Finite numbers can be too far apart for a divergence that floating point can hold.
        """
        kl, _ = self.divergence(model)
        payoffs = self.payoffs(model)
        finite = jnp.isfinite(kl) & (jnp.abs(payoffs) <= most_payoff(payoffs.dtype))
        return jnp.all(finite & (model[1] > 0), axis=0)


def _middle(values: Float[Array, "models actions"]) -> Float[Array, " actions"]:
    return 0.5 * values.min(0) + 0.5 * values.max(0)


Consequence = Categorical | Gaussian
