"""Tolerances: what counts as a tie, by precision."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import as_float, is_concrete


class Tolerance(NamedTuple):
    """What counts as a tie.

    ``fit`` in nats; ``payoff`` relative to the range of subjective payoffs; ``play`` the
    length in s below which a continuum of strategies is reported as a point.
    """

    fit: Float[Array, ""]
    payoff: Float[Array, ""]
    play: float


SINGLE = 2e-6, 1e-5
"""Tolerances of fit and of payoff in single precision."""


def default_tolerance(
    dtype, tol_fit: ArrayLike | None = None, tol_payoff: ArrayLike | None = None
) -> Tolerance:
    """Tolerances for a precision, wide enough for the rounding of K and U and no wider."""
    single = jnp.finfo(dtype).eps > 1e-10
    fit, payoff, play = (*SINGLE, 1e-3) if single else (1e-12, 1e-10, 1e-6)
    return Tolerance(
        _as_tolerance("tol_fit", tol_fit, fit, dtype),
        _as_tolerance("tol_payoff", tol_payoff, payoff, dtype),
        play,
    )


def least_payoff_range(dtype) -> float:
    """Share of the largest payoff that the payoff range is taken to be at least.

    A range that is all rounding would make a tolerance relative to it vanish, and ties with it:
    the default ``tol_payoff`` of this share is 8 roundings.
    """
    eps = float(jnp.finfo(dtype).eps)
    return 8 * eps / (1e-5 if eps > 1e-10 else 1e-10)


def rounding_of(divergence: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """By how much rounding may have changed a divergence."""
    return 8 * float(jnp.finfo(divergence.dtype).eps) * (1 + jnp.abs(divergence))


def _as_tolerance(name: str, value: ArrayLike | None, default: float, dtype) -> Array:
    array = as_float(name, default if value is None else value, ndim=0).astype(dtype)
    if is_concrete(array) and not 0 <= float(array) < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least 0; got {float(array):g}.")
    return array
