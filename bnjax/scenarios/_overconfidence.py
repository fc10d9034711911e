"""Overconfidence: an agent who overrates itself blames its surroundings."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import as_float, finite_number, is_concrete, whole
from .._consequence import Gaussian
from ..family import Family
from ..problem import FamilyProblem

# Efforts and fundamentals run from so much below the root to so much above it. Together less
# than 1, so that the best fit to any effort is unique, and never down to the other root,
# an underestimate of 1 + sqrt(1 - 2 delta). Not symmetric: the root need not be on the grid.
_BELOW, _ABOVE = 0.4, 0.5


class _BelievedOutput(eqx.Module):
    """Mean output of each effort, as a function of the fundamental, with unit noise."""

    ability: Float[Array, ""]
    efforts: Float[Array, " efforts"]

    def __call__(self, theta: Float[Array, "1"]) -> tuple[Array, Array]:
        mean = mean_output(self.ability, theta[0], self.efforts)
        return mean, jnp.ones_like(mean)


def mean_output(ability: Array, fundamental: Array, effort: Array) -> Array:
    """``ability + phi - (effort - phi)^2 / 2``: effort is best when it matches phi."""
    return ability + fundamental - 0.5 * (effort - fundamental) ** 2


def overconfidence(
    delta: ArrayLike = 0.18,
    ability: ArrayLike = 1.0,
    fundamental: ArrayLike = 1.0,
    num_efforts: int = 101,
) -> FamilyProblem:
    """An agent that chooses effort, observes noisy output, and learns a fundamental phi.

    Mean output is ``ability + phi - (effort - phi)^2 / 2``. The agent takes its ability to be
    ``ability + delta``, and settles where believed and true output agree: phi is underestimated
    by ``1 - sqrt(1 - 2 delta)``. Efforts are an even grid, and phi ranges over the same
    interval of length at most 0.9 around that root, so that pure equilibria lie within about
    ``0.5 / sqrt(1 - 2 delta)`` steps of the grid from it (a reply is off by up to half a step,
    and errors shrink by ``1 - sqrt(1 - 2 delta)`` from reply to reply). No effort is called safe,
    so that there is no phase.

    The leading example of Heidhues, Koszegi and Strack, "Unrealistic expectations and misguided
    learning" (Econometrica 2018).

    Parameters
    ----------
    delta : how much the agent overrates its ability, in [0, 1/2).
    ability : true ability.
    fundamental : true phi.
    num_efforts : number of efforts A (fixed: it sets the shape of the problem).

    Returns
    -------
    FamilyProblem

    Raises
    ------
    ValueError
        If ``delta`` is outside [0, 1/2) or ``num_efforts`` is less than 2.

    Examples
    --------
    The true phi is 1, and ``sqrt(1 - 2 delta)`` is 0.8:

    >>> import bnjax as bn
    >>> problem = bn.scenarios.overconfidence(delta=0.18, num_efforts=21)
    >>> print(bn.best_fit_dynamics(problem).summary(problem).splitlines()[-2])
    effort 9: believes 0.80... and replies effort 9
    """
    if not is_concrete(num_efforts):
        raise ValueError(
            "`num_efforts` sets the shape of the problem and cannot be traced: it is no axis of a "
            "diagram, and under `jax.jit` it must be static."
        )
    if whole("num_efforts", num_efforts) < 2:
        raise ValueError(f"`num_efforts` must be at least 2; got {num_efforts}.")
    delta = as_float("delta", delta, ndim=0)
    if is_concrete(delta) and not 0 <= float(delta) < 0.5:
        raise ValueError(f"`delta` must lie in [0, 1/2); got {float(delta):g}.")
    ability = finite_number("ability", ability)
    fundamental = finite_number("fundamental", fundamental)
    root = fundamental - (1 - jnp.sqrt(1 - 2 * delta))
    lower = root - jnp.minimum(_BELOW, jnp.sqrt(1 - 2 * delta))
    upper = root + _ABOVE
    efforts = lower + (upper - lower) * jnp.linspace(0.0, 1.0, num_efforts, dtype=root.dtype)
    mean = mean_output(ability, fundamental, efforts)
    ones = jnp.ones_like(mean)
    believed = _BelievedOutput(ability + delta, efforts)
    family = Family(believed, lower[None], upper[None], None, True, ("phi",))
    names = tuple(f"effort {i}" for i in range(num_efforts))
    return FamilyProblem(Gaussian(mean, ones, 0 * ones, ones), family, None, names)
