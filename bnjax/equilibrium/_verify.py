"""Checks of a claimed equilibrium, straight from the definition."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._numerics import sum_last
from ..problem import ReducedForm
from ._codes import Stability
from ._tolerance import Tolerance


def payoff_range(reduced: ReducedForm) -> Float[Array, ""]:
    """Largest minus smallest subjective payoff among supported models."""
    supported = reduced.support[:, None]
    high = jnp.max(jnp.where(supported, reduced.payoffs, -jnp.inf))
    low = jnp.min(jnp.where(supported, reduced.payoffs, jnp.inf))
    return high - low


def admissible(reduced: ReducedForm, strategy: Float[Array, " actions"]) -> Bool[Array, " models"]:
    """Supported models that what is played does not refute."""
    return reduced.support & ~(reduced.ruled_out & (strategy > 0)).any(1)


def misfit(reduced: ReducedForm, strategy: Float[Array, " actions"]) -> Float[Array, " models"]:
    """How much worse than the best model each one fits, in nats; inf where refuted."""
    value = jnp.where(admissible(reduced, strategy), sum_last(reduced.kl * strategy), jnp.inf)
    return value - value.min()


def residual(
    reduced: ReducedForm,
    strategy: Float[Array, " actions"],
    belief: Float[Array, " models"],
) -> Float[Array, ""]:
    """The larger of the misfit of what is believed and the relative loss of what is played."""
    fit = jnp.max(jnp.where(belief > 0, misfit(reduced, strategy), 0.0))
    expected = jnp.sum(reduced.payoffs * belief[:, None], axis=0)
    loss = expected.max() - jnp.min(jnp.where(strategy > 0, expected, jnp.inf))
    width = payoff_range(reduced)
    return jnp.maximum(fit, loss / jnp.where(width > 0, width, 1.0))


def others_fit(
    reduced: ReducedForm,
    strategy: Float[Array, " actions"],
    belief: Float[Array, " models"],
    tolerance: Tolerance,
) -> Bool[Array, ""]:
    """Whether some model that is not believed fits what is played as well as the best."""
    return jnp.any((misfit(reduced, strategy) <= tolerance.fit) & ~(belief > 0))


def uninformative(reduced: ReducedForm, tolerance: Tolerance) -> Bool[Array, " actions"]:
    """Actions after which every supported model fits equally well, so that nothing is learned."""
    supported = reduced.support[:, None]
    high = jnp.max(jnp.where(supported, reduced.kl, -jnp.inf), 0)
    low = jnp.min(jnp.where(supported, reduced.kl, jnp.inf), 0)
    return (high - low <= tolerance.fit) & ~(reduced.ruled_out & supported).any(0)


def pure_stability(reduced: ReducedForm, tolerance: Tolerance) -> Int[Array, " actions"]:
    """A pure strategy is stable if it is the strictly best reply to every model tied there."""
    usable = reduced.support[:, None] & ~reduced.ruled_out
    best = jnp.where(usable, reduced.kl, jnp.inf).min(0)
    fits = usable & (reduced.kl <= best + tolerance.fit)  # [M, A]
    slack = tolerance.payoff * payoff_range(reduced)
    lead = reduced.payoffs[:, :, None] - reduced.payoffs[:, None, :]  # [M, played, other]
    same = jnp.eye(reduced.kl.shape[1], dtype=bool)
    strict = jnp.all((lead > slack) | same, -1)
    return jnp.where(jnp.all(strict | ~fits, 0), int(Stability.STABLE), int(Stability.UNKNOWN))
