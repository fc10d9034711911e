"""What solvers read of many problems at once: a column of models for each action."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import ReducedForm
from ._lanes import kept


def columns(
    given: Any, exploration: Float[Array, " #lanes"]
) -> tuple[list[Array], tuple[Array, ...], Array, Array]:
    """Divergences and payoffs by action, support, all [M, lanes]; valid [lanes].

    A divergence is huge where it is infinite, for an agent that explores as much as stated.
    ``valid`` is not yet whether some model allows everything.

    Columns and no [A, M, lanes] array: see `over_terms`.

    Parameters
    ----------
    given : consequence, models and log-prior, or a reduced form, with lanes last.
    exploration : tremble.
    """

    def models_last(x: Array) -> Array:
        return jnp.moveaxis(x, 0, -2)

    def explored(kl, ruled_out, exploration):
        mean = functools.reduce(operator.add, kl) / len(kl)
        kl = [(1 - exploration) * k + exploration * mean for k in kl]
        refuted = functools.reduce(operator.or_, ruled_out) & (exploration > 0)
        big = jnp.finfo(mean.dtype).max / 4
        return [jnp.where(out | refuted, big, k) for k, out in zip(kl, ruled_out, strict=True)]

    if isinstance(given, ReducedForm):
        kl, ruled_out, payoffs = (
            tuple(models_last(x)) for x in (given.kl, given.ruled_out, given.payoffs)
        )
        kl = explored(kl, ruled_out, exploration)
        return kl, payoffs, given.support, jnp.ones(given.support.shape[1:], bool)
    consequence, models, log_prior = given
    consequence = jax.tree.map(lambda x: x[..., None, :], consequence)
    models = jax.tree.map(models_last, models)

    def by_action(consequence, models, exploration):
        kl, ruled_out, payoffs = consequence.by_action(models)
        return explored(kl, ruled_out, exploration), payoffs

    kl, payoffs = kept(by_action, consequence, models, exploration)
    support = log_prior > -jnp.inf
    sensible = (consequence.model_is_valid(models) | ~support) & ~jnp.isnan(log_prior)
    valid = jnp.all(sensible, axis=0) & consequence.is_valid()[0]
    return kl, payoffs, support, valid
