"""Checks of a claimed equilibrium, straight from the definition."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._numerics import sum_last
from ..problem import ReducedForm
from ._codes import Stability
from ._tolerance import Tolerance, least_payoff_range


def payoff_range(reduced: ReducedForm) -> Float[Array, ""]:
    """Largest minus smallest subjective payoff among supported models, above rounding."""
    supported = reduced.support[:, None]
    high = jnp.max(jnp.where(supported, reduced.payoffs, -jnp.inf))
    low = jnp.min(jnp.where(supported, reduced.payoffs, jnp.inf))
    least = least_payoff_range(reduced.payoffs.dtype)
    return jnp.maximum(high - low, least * jnp.maximum(jnp.abs(high), jnp.abs(low)))


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


def pure_stability(reduced: ReducedForm, tolerance: Tolerance) -> Int[Array, " actions"]:
    """Whether play that trembles a little returns to each pure strategy.

    Trembles refute every model that rules out something after any action. Stable: the action
    is the strictly best reply to whatever may fit best, whichever actions tremble, and hence to
    every model that fits as well as the best of those that survive all trembles. Unstable: some
    other action is strictly better according to all of those that survive and fit best.
    """
    usable = reduced.support[:, None] & ~reduced.ruled_out
    lasting = reduced.support & ~reduced.ruled_out.any(1)
    best = jnp.where(lasting[:, None], reduced.kl, jnp.inf).min(0)
    close = usable & (reduced.kl <= best + tolerance.fit)  # [M, A]
    slack = tolerance.payoff * payoff_range(reduced)
    lead = reduced.payoffs[:, :, None] - reduced.payoffs[:, None, :]  # [M, played, other]
    same = jnp.eye(reduced.kl.shape[1], dtype=bool)
    stable = jnp.all(jnp.all((lead > slack) | same, -1) | ~close, 0)
    fits = (close & lasting[:, None])[:, :, None]
    unstable = jnp.any(jnp.all((lead < -slack) | ~fits, 0) & ~same, -1)
    code = jnp.where(unstable, int(Stability.UNSTABLE), int(Stability.UNKNOWN))
    code = jnp.where(stable, int(Stability.STABLE), code)
    return jnp.where(lasting.any(), code, int(Stability.UNKNOWN))


def rounding(dtype) -> float:
    """Probabilities below this are zero, and pivots below it, relative to their row."""
    return 1e-11 if jnp.finfo(dtype).eps < 1e-10 else 2e-6


def repeats(
    start: Float[Array, "rows actions"],
    end: Float[Array, "rows actions"],
    valid: Bool[Array, " rows"],
) -> Bool[Array, " rows"]:
    """Rows that say what an earlier one says, or a point at an end of another one's segment."""
    near = 16 * rounding(start.dtype)

    def apart(one, other):
        return jnp.max(jnp.abs(one[:, None] - other[None]), -1)

    equal = (apart(start, start) <= near) & (apart(end, end) <= near)
    equal |= (apart(start, end) <= near) & (apart(end, start) <= near)
    is_point = jnp.max(jnp.abs(start - end), -1) <= near
    at_end = (apart(start, start) <= near) | (apart(start, end) <= near)
    touches = is_point[:, None] & ~is_point[None] & at_end
    earlier = jnp.tril(jnp.ones((len(start), len(start)), bool), -1)
    return jnp.any(((equal & earlier) | touches) & valid[None], axis=1)


def largest_residual(reduced: ReducedForm, tolerance: Tolerance) -> Float[Array, ""]:
    """What a residual may be that tolerances and rounding explain."""
    size = jnp.max(jnp.where(reduced.support[:, None], jnp.abs(reduced.kl), 0.0))
    noise = 64 * jnp.finfo(reduced.kl.dtype).eps * (1 + size)
    return tolerance.payoff + 4 * tolerance.fit + noise
