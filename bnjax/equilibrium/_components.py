"""Two actions: from ties and optimal pure strategies to components of equilibria."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._numerics import true_first
from ._codes import Certainty, Stability
from ._envelope import MINUS, PLUS, TIE
from ._results import Rationalizable
from ._tolerance import Tolerance


class Ties(NamedTuple):
    """Where, in s = sigma[0], neither action beats the other, and what lies next to it.

    ``lo``, ``hi``, ``before``, ``after`` [E] as in `_envelope.Walk`; ``listed`` [E] which
    rows are used; ``first``, ``last`` the sides next to s = 0 and s = 1.
    """

    lo: Float[Array, " ties"]
    hi: Float[Array, " ties"]
    before: Int[Array, " ties"]
    after: Int[Array, " ties"]
    listed: Bool[Array, " ties"]
    first: Int[Array, ""]
    last: Int[Array, ""]


class Components(NamedTuple):
    """Components of the equilibrium set in s, in order, padded."""

    lo: Float[Array, " equilibria"]
    hi: Float[Array, " equilibria"]
    is_pure: Bool[Array, " equilibria"]
    stability: Int[Array, " equilibria"]
    valid: Bool[Array, " equilibria"]
    num: Int[Array, ""]


def components(
    ties: Ties,
    pure: Bool[Array, " 2"],
    max_equilibria: int,
    tolerance: Tolerance,
    apart: tuple[Bool[Array, ""], Bool[Array, ""]] | None = None,
) -> Components:
    """Join the ties strictly inside [0, 1] and the pure strategies that no tie reaches.

    Parameters
    ----------
    ties : where the actions tie for strictly mixed play.
    pure : [2] whether each pure strategy is an equilibrium.
    max_equilibria : rows of the answer.
    tolerance : what counts as a point.
    apart : whether the best fits to the pure strategies at s = 0 and s = 1 are others than those
        to play next to them. A tie that leads there then ends at the number next to it.
    """
    # A tie that is only a point at an end of [0, 1] is the pure strategy there.
    at_zero = (ties.lo <= 0) & (ties.hi <= tolerance.play)
    at_one = (ties.hi >= 1) & (ties.lo >= 1 - tolerance.play)
    inside = ties.listed & ~at_zero & ~at_one
    lo, hi = ties.lo, ties.hi
    if apart is not None:
        # The distance of 1 to the number before it, so that both ends add up to 1.
        least = float(jnp.finfo(lo.dtype).epsneg)
        lo = jnp.where(apart[0], jnp.maximum(lo, least), lo)
        hi = jnp.where(apart[1], jnp.minimum(hi, 1 - least), hi)
    covers_zero, covers_one = jnp.any(inside & (lo <= 0)), jnp.any(inside & (hi >= 1))
    is_point = hi - lo <= tolerance.play
    middle = 0.5 * (lo + hi)
    lo, hi = jnp.where(is_point, middle, lo), jnp.where(is_point, middle, hi)

    zero, one = jnp.zeros((1,), lo.dtype), jnp.ones((1,), lo.dtype)
    lo, hi = jnp.concatenate([zero, lo, one]), jnp.concatenate([zero, hi, one])
    before = jnp.concatenate([ties.first[None], ties.before, ties.last[None]])
    after = jnp.concatenate([ties.first[None], ties.after, ties.last[None]])
    valid = jnp.concatenate([(pure[1] & ~covers_zero)[None], inside, (pure[0] & ~covers_one)[None]])
    is_pure = (lo == hi) & ((lo <= 0) | (hi >= 1))
    # Play of action 0 grows where it is the better reply (PLUS) and falls where it is not. Next
    # to a continuum there is no play at an end of [0, 1], and none that moves next to pure play.
    at_zero, at_one = (lo <= 0) | (before == TIE), (hi >= 1) | (after == TIE)
    held = (at_zero | (before == PLUS)) & (at_one | (after == MINUS))
    stability = jnp.where(held, int(Stability.STABLE), int(Stability.UNSTABLE))
    beside = is_pure & (jnp.where(lo <= 0, after, before) == TIE)
    stability = jnp.where(beside, int(Stability.UNKNOWN), stability)
    order = true_first(valid, max_equilibria)
    rows = Components(lo, hi, is_pure, stability, valid, valid.sum())
    return jax.tree.map(lambda x: x[order] if x.ndim else x, rows)


def rationalizable_pair(
    interior: Bool[Array, " 2"],
    optimal: Bool[Array, "2 2"],
    known: Bool[Array, ""],
    tolerance: Tolerance,
) -> Rationalizable:
    """Iterate Gamma on two actions.

    Parameters
    ----------
    interior : [2] whether each action is a best reply for some strictly mixed play.
    optimal : [played, reply] the same for each pure strategy played.
    known : whether that was decided everywhere.
    tolerance : at which it holds.
    """
    mask = jnp.ones(2, bool)
    for _ in range(3):  # at most two removals, and a round to stand still
        mixed = interior & mask.all()
        mask = mask & (mixed | (optimal & mask[:, None]).any(0))
    decided = jnp.where(mask, int(Certainty.IN), int(Certainty.OUT))
    certainty = jnp.where(known, decided, int(Certainty.UNDECIDED))
    return Rationalizable(mask | ~known, certainty, tolerance.fit, tolerance.payoff)
