"""The subjective model that sycophancy and hallucination share: one axis, or nearly one."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import as_float, is_concrete
from .._consequence import Categorical
from ..family import Family
from ..problem import FamilyProblem


def _one_axis(theta: Float[Array, "1"]) -> Float[Array, "2 2"]:
    """Good consequences have probability theta after action 0 and 1 - theta after action 1."""
    return _two_rates(theta[0], 1 - theta[0])


def _two_rates(first: Array, second: Array) -> Float[Array, "2 2"]:
    rates = jnp.stack([first, second])
    return jnp.stack([1 - rates, rates], axis=-1)


class _NearAxis(eqx.Module):
    """Pairs (theta_0, theta_1) with |theta_0 + theta_1 - 1| <= width.

    In the chart of an action, the first coordinate is the rate of that action, which its
    data identify, and the second says where in its allowed interval the other rate lies.
    """

    width: Float[Array, ""]

    def __call__(self, theta: Float[Array, "2"]) -> Float[Array, "2 2"]:
        return _two_rates(theta[0], theta[1])

    def chart(self, action: int, coordinates: Float[Array, "2"]) -> Float[Array, "2"]:
        own, share = coordinates
        low = jnp.maximum(0.0, 1 - self.width - own)
        high = jnp.minimum(1.0, 1 + self.width - own)
        other = low + share * (high - low)
        return jnp.stack([own, other] if action == 0 else [other, own])

    def kinks(self, action: int) -> Float[Array, "2"]:
        return jnp.stack([1 - self.width, self.width])


def agreement_problem(
    names: tuple[str, str],
    parameters: tuple[str, str],
    p_first: ArrayLike,
    p_second: ArrayLike,
    width: ArrayLike,
) -> FamilyProblem:
    """Two actions, of which the second is safe, and one axis that ties their rates together.

    Parameters
    ----------
    names : of the two actions.
    parameters : names of ``p_first`` and ``p_second``, for error messages.
    p_first, p_second : true probability of the good consequence after each action.
    width : how far the believed rates may leave the line theta_0 + theta_1 = 1.
    """
    p_first, p_second = (
        probability(name, value)
        for name, value in zip(parameters, (p_first, p_second), strict=True)
    )
    truth = Categorical(_two_rates(p_first, p_second), [[0.0, 1.0], [0.0, 1.0]])
    rates = (f"theta_{names[0]}", f"theta_{names[1]}")
    # A width that is known to be zero leaves one parameter, and a much smaller problem.
    if is_concrete(width) and not isinstance(width, Array) and width == 0:
        family = Family(_one_axis, [0.0], [1.0], None, True, rates[:1])
    else:
        width = probability("width", width).astype(p_first.dtype)
        # A traced one that is no probability makes models that are none.
        near = _NearAxis(jnp.where((width >= 0) & (width <= 1), width, jnp.nan))
        identified = [[True, False], [True, False]]
        family = Family(near, [0.0, 0.0], [1.0, 1.0], identified, True, rates)
    return FamilyProblem(truth, family, [False, True], names)


def probability(name: str, value: ArrayLike) -> Float[Array, ""]:
    """Return a scalar as a float array; a concrete one must lie in [0, 1]."""
    array = as_float(name, value, ndim=0)
    if is_concrete(array) and not 0 <= float(array) <= 1:
        raise ValueError(f"`{name}` must be a probability in [0, 1]; got {float(array):g}.")
    return array
