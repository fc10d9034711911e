"""Exact solution of two-action problems with finitely many models."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._numerics import lowest
from ..problem import AbstractFiniteProblem, ReducedForm
from ._columns import columns
from ._components import Components, Ties, components, rationalizable_pair
from ._envelope import Walk, walk
from ._lanes import in_lanes
from ._results import Equilibria, Rationalizable
from ._tolerance import Tolerance, least_payoff_range
from ._verify import admissible, misfit, payoff_range, residual


def solve_two_actions(
    problem: AbstractFiniteProblem | ReducedForm,
    theta: Float[Array, "models parameters"],
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable, Bool[Array, ""]]:
    """All equilibria, the rationalizable set, and whether the problem makes sense.

    Play is s = sigma[0].

    Parameters
    ----------
    problem : the problem, or all that is known of it, as it is without exploration.
    theta : [M, D] parameters, for reporting best fits.
    exploration : tremble.
    max_equilibria : rows of the answer.
    tolerance : what counts as a tie.
    """
    facts = _facts(problem, exploration, max_equilibria, tolerance)
    met, optimal = facts.met, facts.optimal
    reduced = problem if isinstance(problem, ReducedForm) else problem.reduced_form()
    reduced = reduced.explored(exploration)
    gain = reduced.payoffs[:, 0] - reduced.payoffs[:, 1]
    slack = tolerance.payoff * payoff_range(reduced)
    favours = jnp.stack([gain >= -slack, gain <= slack])
    pure = jnp.diagonal(optimal)
    listed = jnp.arange(max_equilibria, dtype=jnp.int32) < met.num_ties
    ties = Ties(met.lo, met.hi, met.before, met.after, listed, met.first, met.last)
    rows = components(ties, pure, max_equilibria, tolerance, _apart(reduced, tolerance))
    rows = _split(*lax.stop_gradient((reduced, favours, rows)), tolerance)
    found = rows.num
    rows, belief = jax.vmap(lambda row: _polish(reduced, gain, favours, row, tolerance))(
        rows._replace(num=jnp.broadcast_to(found, rows.lo.shape))
    )
    strategy = jnp.stack([rows.lo, 1 - rows.lo], -1)
    strategy_end = jnp.stack([rows.hi, 1 - rows.hi], -1)
    check = jax.vmap(lambda sigma, mu: residual(reduced, sigma, mu))
    left_over = jnp.maximum(check(strategy, belief), check(strategy_end, belief))
    tied = jax.vmap(lambda row, mu: jnp.any((_misfit(reduced, *row) <= tolerance.fit) & (mu <= 0)))
    equilibria = Equilibria(
        strategy=strategy,
        strategy_end=strategy_end,
        realised=(1 - exploration) * strategy + exploration / 2,
        belief=belief,
        atoms=None,
        atom_weight=None,
        best_fit=jnp.sum(belief[:, :, None] * theta, 1),
        others_fit=rows.valid & tied((rows.lo, rows.hi), belief),
        is_pure=rows.is_pure & rows.valid,
        stability=jnp.where(rows.valid, rows.stability, 0),
        absorbing=rows.is_pure & rows.valid,  # if it teaches nothing, see `solve`
        residual=jnp.where(rows.valid, left_over, 0.0),
        valid=rows.valid,
        pure=pure,
        complete=met.finished & (found <= max_equilibria) & (met.num_ties <= max_equilibria),
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )
    interior = jnp.stack([met.saw_plus, met.saw_minus])
    possible = rationalizable_pair(interior, optimal, met.finished, tolerance)
    return equilibria, possible, facts.valid


class _Facts(NamedTuple):
    """What takes a look at every model.

    ``met`` along mixed play; ``optimal`` [played, reply, ...] whether an action is a best reply
    to some belief that fits each pure strategy; ``valid`` [...] whether the numbers make sense.
    """

    met: Walk
    optimal: Bool[Array, "2 2 *batch"]
    valid: Bool[Array, "*batch"]


def _facts(
    problem: AbstractFiniteProblem | ReducedForm,
    exploration: Float[Array, ""],
    max_ties: int,
    tolerance: Tolerance,
) -> _Facts:
    """Go through the models of many cells together; not differentiable."""
    if isinstance(problem, ReducedForm):
        given = problem
    else:
        given = problem.consequence, problem.models, problem.log_prior

    def block(given, exploration, tol_fit, tol_payoff) -> _Facts:
        kl, (u_0, u_1), support, valid = columns(given, exploration)
        big = jnp.finfo(kl[0].dtype).max / 4
        high = jnp.max(jnp.where(support, jnp.maximum(u_0, u_1), -jnp.inf), axis=0)
        low = jnp.min(jnp.where(support, jnp.minimum(u_0, u_1), jnp.inf), axis=0)
        # As `payoff_range`, for a block of problems.
        rounding = least_payoff_range(u_0.dtype) * jnp.maximum(jnp.abs(high), jnp.abs(low))
        slack = tol_payoff * jnp.maximum(high - low, rounding)
        favours = support & (u_0 - u_1 >= -slack), support & (u_0 - u_1 <= slack)

        def least(kl):
            return jnp.stack([lowest(jnp.where(f, kl, big)) for f in favours])

        def optimal(best):
            return (best <= best.min(0) + tol_fit) & (best < 0.5 * big)

        # Strictly mixed play leaves only models that allow everything.
        both = jnp.maximum(kl[0], kl[1]) < 0.5 * big
        level, slope = jnp.where(both, kl[1], 0.0), jnp.where(both, kl[0] - kl[1], 0.0)
        plus, minus = favours[0] & both, favours[1] & both
        # The walk calls 1.5 times its tolerance a tie.
        met = walk(level, slope, plus, minus, tol_fit / 1.5, tolerance.play, max_ties)
        best = jnp.stack([least(k) for k in kl])
        pure = jnp.broadcast_to(jax.vmap(optimal)(best), (2, *met.at_zero.shape))
        valid &= met.at_zero.min(0) < 0.5 * big  # some model allows everything
        return _Facts(met, pure, valid)

    args = given, exploration, tolerance.fit, tolerance.payoff
    num_models = problem.support.shape[0]
    return in_lanes(block, args, num_models)


def _apart(reduced: ReducedForm, tolerance: Tolerance) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether pure play, at s = 0 and at s = 1, has better fits than play next to it.

    They rule out what the other action brings about. Half the tolerance is left to those that
    are tied next to it.
    """
    everywhere = reduced.support & ~reduced.ruled_out.any(1)

    def gap(action: int) -> Array:
        kl, allowed = reduced.kl[:, action], reduced.support & ~reduced.ruled_out[:, action]
        least = [jnp.min(jnp.where(which, kl, jnp.inf)) for which in (everywhere, allowed)]
        return least[0] - least[1]

    return gap(1) > 0.5 * tolerance.fit, gap(0) > 0.5 * tolerance.fit


def _misfit(reduced: ReducedForm, lo: Array, hi: Array) -> Float[Array, " models"]:
    """Largest misfit of each model to play from lo to hi: a convex function of play."""
    middle = 0.5 * (lo + hi)
    allowed = admissible(reduced, jnp.stack([middle, 1 - middle]))
    at_ends = [misfit(reduced, jnp.stack([s, 1 - s])) for s in (lo, hi)]
    return jnp.where(allowed, jnp.maximum(*at_ends), jnp.inf)


def _split(
    reduced: ReducedForm, favours: Bool[Array, "2 models"], rows: Components, tolerance: Tolerance
) -> Components:
    """Cut every continuum where no belief supports more of it.

    From the left end on, of the models that fit there and favour an action the one that falls
    fastest fits longest; the first of the two that another model overtakes ends the piece.
    One continuum a trip, and most often there is none.
    """
    size = rows.lo.shape[0]
    if not size:
        return rows
    level, slope = reduced.kl[:, 1], reduced.kl[:, 0] - reduced.kl[:, 1]
    everywhere = reduced.support & ~reduced.ruled_out.any(1)
    index = jnp.arange(size, dtype=jnp.int32)

    def waiting(state):
        rows, start = state
        return rows.valid & (rows.lo < rows.hi) & (index >= start)

    def reach(s, which):
        """How far from s on one model of a class fits, and where it is overtaken exactly."""
        value = level + slope * s
        worse = jnp.where(
            everywhere, value - jnp.min(jnp.where(everywhere, value, jnp.inf)), jnp.inf
        )
        own = jnp.where(which, worse, jnp.inf)
        model = jnp.argmin(jnp.where(own <= jnp.maximum(own.min(), tolerance.fit), slope, jnp.inf))
        turn = slope[model] - slope
        overtakes = everywhere & (turn > 0)
        turn = jnp.where(overtakes, turn, 1.0)
        until = jnp.where(overtakes, (worse - worse[model] + tolerance.fit) / turn, jnp.inf)
        by = jnp.argmin(until)
        exact = (worse - worse[model])[by] / turn[by]
        return s + until[by], s + jnp.where(exact > tolerance.play, exact, until[by])

    def trip(state):
        rows, _ = state
        row = jnp.argmax(waiting(state)).astype(jnp.int32)
        lo, hi = rows.lo[row], rows.hi[row]
        until, exact = jax.vmap(lambda which: reach(lo, which))(favours)
        cut = jnp.where(until.min() < hi, jnp.minimum(exact.min(), hi), hi)
        # What is left may be too short to be told from its end.
        is_new = hi - cut > tolerance.play
        source = jnp.where(is_new & (index > row), index - 1, index)
        new = jax.tree.map(lambda x: x[source] if x.ndim else x, rows)
        is_rest = is_new & (index == row + 1)
        return new._replace(
            lo=jnp.where(is_rest, cut, new.lo),
            hi=jnp.where(index == row, cut, new.hi),
            num=rows.num + is_new.astype(rows.num.dtype),
        ), row + 1

    start = rows, jnp.zeros((), jnp.int32)
    return lax.while_loop(lambda state: jnp.any(waiting(state)), trip, start)[0]


def _polish(
    reduced: ReducedForm, gain: Array, favours: Array, row: Components, tolerance: Tolerance
) -> tuple[Components, Float[Array, " models"]]:
    """Place a mixed equilibrium on the crossing of its two lines, and find a belief.

    The crossing is a closed form in two rows of K, and therefore differentiable; which two
    lines they are is not.
    """
    s = lax.stop_gradient(0.5 * (row.lo + row.hi))
    worse = _misfit(*lax.stop_gradient((reduced, row.lo, row.hi)))
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
