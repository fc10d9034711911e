"""Exact solution of two-action problems with finitely many models (DESIGN section 1.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..problem import ReducedForm
from ._components import Components, Ties, components, rationalizable_pair
from ._envelope import Walk, walk
from ._results import Equilibria, Rationalizable
from ._tolerance import Tolerance
from ._verify import admissible, misfit, payoff_range, residual, uninformative


def solve_two_actions(
    reduced: ReducedForm,
    theta: Float[Array, "models parameters"],
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable]:
    """All equilibria and the rationalizable set; play is s = sigma[0].

    Parameters
    ----------
    reduced : the problem as it is without exploration.
    theta : [M, D] parameters, for reporting best fits.
    exploration : tremble.
    max_equilibria : rows of the answer.
    tolerance : what counts as a tie.
    """
    reduced = reduced.explored(exploration)
    gain = reduced.payoffs[:, 0] - reduced.payoffs[:, 1]
    slack = tolerance.payoff * payoff_range(reduced)
    favours = jnp.stack([gain >= -slack, gain <= slack])
    met = _walk_play(reduced, favours, max_equilibria, tolerance)
    optimal = _optimal_when_pure(reduced, favours, tolerance)
    pure = jnp.diagonal(optimal)
    listed = jnp.arange(max_equilibria, dtype=jnp.int32) < met.num_ties
    ties = Ties(met.lo, met.hi, met.before, met.after, listed, met.first, met.last)
    rows = components(ties, pure, max_equilibria, tolerance)
    rows, belief = jax.vmap(lambda row: _polish(reduced, gain, favours, row, tolerance))(
        rows._replace(num=jnp.broadcast_to(rows.num, rows.lo.shape))
    )
    strategy = jnp.stack([rows.lo, 1 - rows.lo], -1)
    strategy_end = jnp.stack([rows.hi, 1 - rows.hi], -1)
    check = jax.vmap(lambda sigma, mu: residual(reduced, sigma, mu))
    left_over = jnp.maximum(check(strategy, belief), check(strategy_end, belief))
    flat = uninformative(reduced, tolerance)
    equilibria = Equilibria(
        strategy=strategy,
        strategy_end=strategy_end,
        realised=(1 - exploration) * strategy + exploration / 2,
        belief=belief,
        atoms=None,
        atom_weight=None,
        best_fit=jnp.sum(belief[:, :, None] * theta, 1),
        is_pure=rows.is_pure & rows.valid,
        stability=jnp.where(rows.valid, rows.stability, 0),
        absorbing=rows.is_pure & rows.valid & jnp.where(rows.lo > 0, flat[0], flat[1]),
        residual=jnp.where(rows.valid, left_over, 0.0),
        valid=rows.valid,
        pure=pure,
        complete=met.finished & (rows.num[0] <= max_equilibria) & (met.num_ties <= max_equilibria),
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )
    interior = jnp.stack([met.saw_plus, met.saw_minus])
    return equilibria, rationalizable_pair(interior, optimal, met.finished, tolerance)


def _walk_play(reduced: ReducedForm, favours: Array, max_ties: int, tolerance: Tolerance) -> Walk:
    """Walk along strictly mixed play, where only models that allow everything take part."""
    usable = reduced.support & ~reduced.ruled_out.any(1)
    return walk(
        reduced.kl[:, 1],
        reduced.kl[:, 0] - reduced.kl[:, 1],
        favours[0] & usable,
        favours[1] & usable,
        tolerance.fit / 1.5,  # the walk calls 1.5 times its tolerance a tie
        tolerance.play,
        max_ties,
    )


def _optimal_when_pure(
    reduced: ReducedForm, favours: Bool[Array, "2 models"], tolerance: Tolerance
) -> Bool[Array, "played reply"]:
    """Whether each action is a best reply to some belief that fits each pure strategy."""
    usable = reduced.support[:, None] & ~reduced.ruled_out
    best = jnp.where(usable, reduced.kl, jnp.inf).min(0)
    fits = usable & (reduced.kl <= best + tolerance.fit)
    return jnp.any(fits.T[:, None] & favours, axis=-1)


def _polish(
    reduced: ReducedForm, gain: Array, favours: Array, row: Components, tolerance: Tolerance
) -> tuple[Components, Float[Array, " models"]]:
    """Place a mixed equilibrium on the crossing of its two lines, and find a belief.

    The crossing is a closed form in two rows of K, and therefore differentiable; which two
    lines they are is not.
    """
    s = jax.lax.stop_gradient(0.5 * (row.lo + row.hi))
    play = jnp.stack([s, 1 - s])
    worse = jnp.where(admissible(reduced, play), misfit(reduced, play), jnp.inf)
    fits = worse <= tolerance.fit
    # At an end of [0, 1] any best fit may be believed: take the one that favours it most.
    extreme = jnp.where(s > 0, jnp.argmax(jnp.where(fits, gain, -jnp.inf)), 0)
    extreme = jnp.where(s > 0, extreme, jnp.argmin(jnp.where(fits, gain, jnp.inf)))
    best = jnp.argmin(jnp.where(favours, worse, jnp.inf), axis=-1)
    i, j = jnp.where(row.is_pure, extreme, best)
    level, slope = reduced.kl[:, 1], reduced.kl[:, 0] - reduced.kl[:, 1]
    turn = slope[i] - slope[j]
    crossing = (level[j] - level[i]) / jnp.where(turn != 0, turn, 1.0)
    near = (turn != 0) & (jnp.abs(crossing - s) <= tolerance.play)
    near &= (crossing > 0) & (crossing < 1) & ~row.is_pure & (row.lo == row.hi)
    lo, hi = jnp.where(near, crossing, row.lo), jnp.where(near, crossing, row.hi)
    spread = gain[i] - gain[j]
    weight = jnp.where(spread > 0, -gain[j] / jnp.where(spread > 0, spread, 1.0), 1.0)
    weight = jnp.clip(weight, 0.0, 1.0)
    models = jnp.arange(gain.shape[0])
    belief = jnp.where(models == i, weight, 0.0) + jnp.where(models == j, 1 - weight, 0.0)
    return row._replace(lo=lo, hi=hi), belief
