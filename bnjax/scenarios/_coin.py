"""Berk's coin: a posterior that never settles."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import ArrayLike

from ..problem import Problem
from ._agreement import probability


def coin(p_heads: ArrayLike = 0.5) -> Problem:
    """One action, whose consequence is a coin toss; the agent believes in 1/4 or 3/4.

    At ``p_heads = 1/2`` both models fit equally well and the log-odds are a driftless walk of
    step log 3. Tossing is all that the agent can do; payoff 1 for heads.

    The example of Berk, "Limiting behavior of posterior distributions when the model is incorrect"
    (Annals of Mathematical Statistics 1966): a fair coin, and two models that are wrong by the
    same amount in opposite directions.

    Parameters
    ----------
    p_heads : true probability of heads.

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If the parameter is not a probability.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.coin()
    >>> print(bn.equilibria(problem).summary(problem))
    pure: toss (stable; best fit 0.75, among others)
    """
    p_heads = probability("p_heads", p_heads)
    theta = jnp.asarray([0.25, 0.75], p_heads.dtype)
    return Problem(
        probs=jnp.stack([1 - p_heads, p_heads])[None],
        model_probs=jnp.stack([1 - theta, theta], axis=-1)[:, None],
        payoff=jnp.asarray([[0.0, 1.0]], p_heads.dtype),
        theta=theta,
        action_names=("toss",),
        consequence_names=("tails", "heads"),
    )
