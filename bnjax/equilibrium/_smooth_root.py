"""A fixed point of the smooth map that was found: how good it is, and its derivatives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ._codes import Stability
from ._smooth_many import ManyMeasures
from ._smooth_map import SmoothMap, evidence_terms
from ._smooth_pair import PairFacts, PairMeasures

NEAR_FOLD = 0.02
"""Conditioning below which derivatives, 50 times those of the reply itself, are not trusted."""


class Verdict(NamedTuple):
    """What is known of a candidate.

    ``residual`` largest entry of |f(sigma) - sigma|; ``left`` how far in play the next Newton step
    would go; ``condition`` and ``stability`` as in `SmoothEquilibrium`; ``found`` whether it is a
    solution to within the tolerance.
    """

    residual: Array
    left: Array
    condition: Array
    stability: Array
    found: Array


def tolerance(dtype) -> float:
    """How far the next Newton step may still go, in play."""
    return 1e-5 if jnp.finfo(dtype).eps > 1e-10 else 1e-10


def judge_pair(measures: PairMeasures) -> Verdict:
    """Look at a candidate with two actions."""
    residual, slope = measures
    condition = jnp.abs(slope)
    left = residual / jnp.where(condition > 0, condition, 1.0)
    stability = jnp.where(slope > 0, int(Stability.STABLE), int(Stability.UNSTABLE))
    return _verdict(residual, left, condition, stability)


def judge_many(measures: ManyMeasures) -> Verdict:
    """Look at a candidate with any number of actions."""
    residual, left, condition, growth = measures
    slight = 1e-5
    code = jnp.where(growth < -slight, int(Stability.STABLE), int(Stability.UNKNOWN))
    code = jnp.where(growth > slight, int(Stability.UNSTABLE), code)
    return _verdict(residual, left, condition, code)


def _verdict(residual: Array, left: Array, condition: Array, stability: Array) -> Verdict:
    found = (left <= tolerance(left.dtype)) & jnp.isfinite(residual)
    stability = jnp.where(condition < NEAR_FOLD, int(Stability.UNKNOWN), stability)
    return Verdict(residual, left, condition, stability.astype(jnp.int32), found)


def differentiable(
    smooth: SmoothMap,
    unknown: Float[Array, " unknowns"],
    found: Bool[Array, ""],
    facts: PairFacts | None = None,
) -> Float[Array, " unknowns"]:
    """A solution with its derivatives of every order, by the implicit function theorem.

    They do not know where the search started. What is no solution has NaN for a derivative, but
    where it has no say: a zero stays zero, so that `jnp.where` on the code works.
    """
    unknown = lax.stop_gradient(unknown)
    if smooth.is_pair:
        facts = _pair_facts(smooth, unknown) if facts is None else facts
        return _pair_root(smooth, unknown, found, lax.stop_gradient(facts))

    def answer(linear, change):
        columns = jax.vmap(linear)(jnp.eye(change.shape[0], dtype=change.dtype))
        return _unless_lost(found, change, jnp.linalg.solve(columns.T, change))

    def divide(linear, change):
        return lax.custom_linear_solve(linear, change, answer, answer)

    def gap(unknown):
        return smooth(unknown) - unknown

    return lax.custom_root(gap, unknown, lambda _, root: root, divide)


def _unless_lost(found: Array, change: Array, exact: Array) -> Array:
    return jnp.where(found, exact, jnp.where(change == 0, 0.0, jnp.nan))


def _pair_facts(smooth: SmoothMap, unknown: Array) -> PairFacts:
    """What derivatives of a solution depend on."""
    share, rest = jax.nn.sigmoid(unknown[0]), jax.nn.sigmoid(-unknown[0])
    _, kl = evidence_terms(smooth.reduced)
    belief = smooth.belief(jnp.stack([share, rest]))
    gain = smooth.reduced.payoffs[:, 0] - smooth.reduced.payoffs[:, 1]
    lever = belief * (gain - jnp.sum(belief * gain))
    turn = jnp.sum(lever * (kl[:, 1] - kl[:, 0]))
    return PairFacts(belief, lever, turn, jnp.sum(lever * (share * kl[:, 0] + rest * kl[:, 1])))


@jax.custom_jvp
def _known(facts: PairFacts, smooth: SmoothMap, unknown: Array) -> PairFacts:
    """Facts that were found on the way, with the derivatives of `_pair_facts`."""
    return facts


@_known.defjvp
def _known_jvp(primals, tangents):
    return _known(*primals), jax.jvp(_pair_facts, primals[1:], tangents[1:])[1]


@jax.custom_jvp
def _pair_root(smooth: SmoothMap, unknown: Array, found: Array, facts: PairFacts) -> Array:
    """Of two actions: the same from closed forms."""
    return unknown


@_pair_root.defjvp
def _pair_root_jvp(primals, tangents):
    smooth, unknown, found, facts = primals
    moved = tangents[0]
    # By this rule too, so that it can be differentiated again.
    root = _pair_root(smooth, unknown, found, facts)
    belief, lever, turn, fit = _known(facts, smooth, root)
    share, rest = jax.nn.sigmoid(root[0]), jax.nn.sigmoid(-root[0])
    # How the expected gain changes at the same play: payoffs themselves, and log-weights.
    gain_moves = moved.reduced.payoffs[:, 0] - moved.reduced.payoffs[:, 1]
    fit_moves = share * moved.reduced.kl[:, 0] + rest * moved.reduced.kl[:, 1]
    usable = smooth.reduced.support & ~smooth.reduced.ruled_out.any(1)
    log_moves = jnp.where(usable, moved.log_prior - smooth.memory * fit_moves, 0.0)
    change = jnp.sum(belief * gain_moves) + jnp.sum(lever * log_moves) - fit * moved.memory
    change = change - root[0] * moved.temperature
    steep = smooth.temperature - smooth.memory * share * rest * turn

    def answer(_, change):
        return _unless_lost(found, change, change / steep)

    step = lax.custom_linear_solve(lambda x: steep * x, change, answer, answer)
    return root, step[None]
