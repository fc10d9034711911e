"""Two actions and a continuous family of models.

Play s = sigma[0] moves the best fit theta*(s), and s is an equilibrium where the payoff
difference d at the best fit vanishes, or where the best fit jumps across d = 0 and a belief
may mix both. The sign of d is scanned on a grid over s and every change of sign is solved
for. Between two neighbours of that grid at most one change is found: the family promises
that there is no more (`Family.unique_best_fit`), or the answer does not claim to be complete.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._numerics import sum_last, true_first
from ..problem import FamilyProblem
from ._codes import Certainty, Stability
from ._components import Ties, components, rationalizable_pair
from ._envelope import MINUS, PLUS, TIE
from ._pair import Pair, Reply
from ._results import Equilibria, Rationalizable
from ._tolerance import Tolerance

_SCAN = 33
# Trips to a root, in double and single precision, of a best fit that moves smoothly and of one
# that may jump. The last of every round halves: the very worst case is left with that.
_TRIPS_SMOOTH, _TRIPS_JUMP = (10, 6), (20, 12)
# By how many times the larger tolerance an equilibrium may fall short.
_SAFETY = 10
# As a share of the range of a parameter.
_SAME_ATOM = 0.01

# Its ends, and whether it is one pure strategy.
_Component = tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]


def solve_continuous_pair(
    problem: FamilyProblem,
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable]:
    """All equilibria that the scan over s can see, and the rationalizable set.

    Parameters
    ----------
    problem : two actions, continuous Theta.
    exploration : tremble.
    max_equilibria : rows of the answer.
    tolerance : what counts as a tie.
    """
    pair = Pair(problem, exploration, tolerance)
    edge = 0.1 * tolerance.play
    grid = jnp.linspace(0.0, 1.0, _SCAN, dtype=problem.family.lower.dtype)
    grid = jnp.concatenate([grid[:1], grid.at[0].set(edge).at[-1].set(1 - edge), grid[-1:]])
    scan = jax.vmap(pair.mixed)(grid)
    ends = pair.pure(jax.tree.map(lambda x: x[jnp.array([-1, 0])], scan))
    scan = pair.next_to_pure(scan)
    sides, settled = pair.side(scan), pair.settled(scan)
    ties, num_ties = _find_ties(pair, grid, scan, sides, max_equilibria)
    ends_settled = pair.settled(ends)
    all_settled = settled.all() & jnp.all(ends_settled & ends.unique)
    # [played, reply]
    optimal = jnp.stack([ends.d_most >= -pair.slack, ends.d_least <= pair.slack], -1)
    pure = jnp.diagonal(optimal) & ends_settled
    rows = components(ties, pure, max_equilibria, tolerance)
    # At each, and on either side of it, because the best fit may jump there.
    middle = 0.5 * (rows.lo + rows.hi)
    around = _around(middle, edge)
    beside = around, jax.vmap(jax.vmap(pair.mixed))(around)

    def supported(row, beside):
        atoms, weight, drift = _support(pair, row, beside, ends)
        return atoms, weight, drift, _shortfall(pair, row, atoms, weight, beside[1], ends)

    each = jax.vmap(supported, in_axes=(0, 1))
    atoms, weight, drift, residual = each((rows.lo, rows.hi, rows.is_pure), beside)
    # A row whose belief does not support it is none.
    verified = residual <= _SAFETY * jnp.maximum(tolerance.fit, tolerance.payoff)
    valid = rows.valid & verified
    lo, hi = rows.lo + drift, rows.hi + drift
    strategy = jnp.stack([lo, 1 - lo], -1)
    listed = (rows.num <= max_equilibria) & (num_ties <= max_equilibria)
    listed &= all_settled & jnp.all(verified | ~rows.valid)
    # Play next to a row says whether it holds; where that is in doubt, so is its stability.
    firm = jnp.all(pair.settled(beside[1])[:2], axis=0)
    firm_ends = settled[jnp.array([-1, 0])] & settled[jnp.array([-2, 1])] & ends.unique
    firm = jnp.where(rows.lo <= 0, firm_ends[1], jnp.where(rows.hi >= 1, firm_ends[0], firm))
    stability = jnp.where(firm, rows.stability, int(Stability.UNKNOWN))
    equilibria = Equilibria(
        strategy=strategy,
        strategy_end=jnp.stack([hi, 1 - hi], -1),
        realised=(1 - exploration) * strategy + exploration / 2,
        belief=None,
        atoms=atoms,
        atom_weight=weight,
        best_fit=jnp.sum(weight[:, :, None] * atoms, axis=1),
        others_fit=valid & jax.vmap(pair.continuum.others_fit)(strategy, rows.is_pure),
        is_pure=rows.is_pure & valid,
        stability=jnp.where(valid, stability, int(Stability.UNKNOWN)),
        absorbing=rows.is_pure & valid,  # if it teaches nothing, see `solve`
        residual=jnp.where(valid, residual, 0.0),
        valid=valid,
        pure=pure,
        complete=listed & problem.family.unique_best_fit,
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
        # Of several best fits one is looked at: it may support what is played, or another.
        pure_undecided=~ends_settled | (~ends.unique & ~pure),
    )
    # Only what is beyond doubt is a witness, and only with all of it can anything be excluded:
    # then, by the family's promise, nothing happens between the points of the scan.
    inner = sides.at[0].set(ties.first).at[-1].set(ties.last)
    interior = jnp.stack([jnp.any(settled & (inner != side)) for side in (MINUS, PLUS)])
    seen = rationalizable_pair(
        interior, optimal & ends_settled[:, None], jnp.ones((), bool), tolerance
    )
    known = all_settled & problem.family.unique_best_fit
    certainty = jnp.where(known | seen.mask, seen.certainty, int(Certainty.UNDECIDED))
    mask = certainty != Certainty.OUT
    return equilibria, Rationalizable(mask, certainty, tolerance.fit, tolerance.payoff)


def _row(replies: Reply, index: Array | int) -> Reply:
    return jax.tree.map(lambda x: x[index], replies)


def _around(s: Float[Array, " rows"], edge: float) -> Float[Array, "3 rows"]:
    """A step to either side, and s itself.

    A step is in proportion to the distance to pure play, next to which the best fit may turn as
    quickly as one action tells more than the other; but no shorter than s can resolve.
    """
    least = 4 * float(jnp.finfo(s.dtype).eps)
    step = jnp.maximum(edge * 4 * s * (1 - s), least * s)
    return jnp.clip(jnp.stack([s - step, s + step, s]), 0.0, 1.0)


def _find_ties(
    pair: Pair, grid: Array, scan: Reply, sides: Array, max_ties: int
) -> tuple[Ties, Array]:
    """Runs of tied grid points, and changes of sign between neighbours, solved for.

    Every change of side between neighbours is one root. A tie begins at a change away from a
    strict side and ends at the next change into one, which is the same change where the
    sides swap at once.
    """
    # One more change than ties: the last tie may be long.
    num = min(max_ties + 1, grid.shape[0] - 1)
    changes = sides[:-1] != sides[1:]
    at = true_first(changes, num)
    real = changes[at]
    left, right = sides[at], sides[at + 1]
    swaps = (left != TIE) & (right != TIE)
    # Into a tie the strict side is lost at its slack; in a swap at zero.
    strict_left = left != TIE
    start, stop = jnp.where(strict_left, at, at + 1), jnp.where(strict_left, at + 1, at)
    level = jnp.where(swaps, 0.0, pair.slack)
    side = jnp.where(strict_left, left, right)
    where = _where_needed(
        real, lambda k: _change(pair, grid, scan, start[k], stop[k], side[k], level[k])
    )
    begins = real & strict_left
    begins_at_zero = sides[0] == TIE
    # Ties in order: one that is there from s = 0 on, and one for each change that begins one.
    opens = jnp.concatenate([begins_at_zero[None], begins])
    lo = jnp.concatenate([jnp.zeros_like(where[:1]), where])
    before = jnp.concatenate([jnp.full_like(left[:1], TIE), left])
    # It ends at its own change in a swap, at the next change otherwise, or at s = 1.
    own = jnp.arange(-1, num)
    ending = jnp.where(jnp.concatenate([jnp.zeros_like(swaps[:1]), swaps]), own, own + 1)
    ended = (ending < num) & real[jnp.minimum(ending, num - 1)]
    ending = jnp.minimum(ending, num - 1)
    hi = jnp.where(ended, where[ending], 1.0)
    after = jnp.where(ended, right[ending], TIE)
    order = true_first(opens, max_ties)
    # A tie at the very end says nothing of what lies next to it.
    first = jnp.where(sides[0] == TIE, sides[1], sides[0])
    last = jnp.where(sides[-1] == TIE, sides[-2], sides[-1])
    ties = Ties(lo[order], hi[order], before[order], after[order], opens[order], first, last)
    # Too many changes count as too many ties.
    return ties, opens.sum() + jnp.where(changes.sum() > num, max_ties, 0)


def _where_needed(needed: Bool[Array, " rows"], function) -> Float[Array, " rows"]:
    """Apply a function of the row to the rows that need it, one a trip; not differentiable.

    Under `vmap` the trips are those of the neediest element, which most often has one or none.
    """

    def trip(state):
        pending, results = state
        k = jnp.argmax(pending)
        here = jnp.arange(pending.shape[0]) == k
        return pending & ~here, jnp.where(here, function(k), results)

    _, results = lax.while_loop(
        lambda state: jnp.any(state[0]), trip, (needed, jnp.zeros(needed.shape))
    )
    return lax.stop_gradient(results)


def _change(
    pair: Pair, grid: Array, scan: Reply, start: Array, stop: Array, side: Array, level: Array
) -> Array:
    """Where, between two neighbours of the grid, a side that holds at ``start`` is lost.

    False position on the payoff difference, in theta (of which it is a simple function where in s
    it may be a steep one) and in s, for a best fit that moves smoothly; the crossing of the two
    ends' lines in the divergence for one that jumps. Any step is harmless where another is
    needed, and the last of every round halves.
    """
    may_jump = not pair.problem.family.unique_best_fit

    def end(s, reply: Reply):
        margin = jnp.where(side == PLUS, reply.d_least, -reply.d_most) - level
        return s, margin, jnp.where(side == PLUS, reply.least, reply.most)

    def share(a, b):
        drop = a[1] - b[1]
        return jnp.where(drop > 0, a[1] / jnp.where(drop > 0, drop, 1), 0.5)

    def trip(k, state):
        a, b, weight = state
        way = share((a[0], a[1] * weight[0]), (b[0], b[1] * weight[1]))
        halfway = 0.5 * (a[0] + b[0])
        steps = [pair.fitted_by(a[2], b[2], way), a[0] + way * (b[0] - a[0]), halfway]
        if may_jump:
            steps.insert(1, pair.lines_cross(a[2], b[2]))
        s = jnp.stack(steps)[k % len(steps)]
        within = (s - a[0]) * (s - b[0]) < 0
        s = jnp.where(within, s, halfway)
        new = end(s, pair.mixed(s))
        holds = new[1] > 0
        # Illinois: an end that stays is weighed down, so that it does not stay for long.
        one = jnp.ones((), grid.dtype)
        weight = jnp.where(
            holds, jnp.stack([one, 0.5 * weight[1]]), jnp.stack([0.5 * weight[0], one])
        )
        a = jax.tree.map(lambda x, y: jnp.where(holds, x, y), new, a)
        b = jax.tree.map(lambda x, y: jnp.where(holds, y, x), new, b)
        return a, b, weight

    double, single = _TRIPS_JUMP if may_jump else _TRIPS_SMOOTH
    trips = double if jnp.finfo(grid.dtype).eps < 1e-10 else single
    ends = end(grid[start], _row(scan, start)), end(grid[stop], _row(scan, stop))
    a, b, _ = lax.fori_loop(0, trips, trip, (*ends, jnp.ones(2, grid.dtype)))
    return a[0] + share(a, b) * (b[0] - a[0])


def _support(
    pair: Pair, row: _Component, beside: tuple[Array, Reply], ends: Reply
) -> tuple[Float[Array, "2 parameters"], Float[Array, " 2"], Float[Array, ""]]:
    """A belief of at most two atoms that supports a component, and where the component moves.

    The last number is zero and carries the derivative of where a mixed equilibrium is, which
    the search for it does not have.
    """
    lo, hi, is_pure = row
    around, replies = beside
    left, right = _row(replies, 0), _row(replies, 1)
    alone = jnp.where(lo > 0, ends.most[0], ends.least[1])
    first = jnp.where(is_pure, alone, left.least)
    second = jnp.where(is_pure, alone, right.most)
    # Two atoms that only the step to either side tells apart are one, in between.
    close = jnp.all(jnp.abs(first - second) <= _SAME_ATOM * pair.scale)
    share = pair.share(first, second)
    mean = share * first + (1 - share) * second
    first, second = jnp.where(close, mean, first), jnp.where(close, mean, second)
    # What follows is for the derivatives only: none of it changes a value.
    moves = (lo == hi) & ~is_pure
    s = pair.root(0.5 * (lo + hi), first, second, ~close)
    drift = jnp.where(moves, s - lax.stop_gradient(s), 0.0)
    at = drift + jnp.where(close, 0.5 * (lo + hi), around[:2])
    first = jnp.where(moves, pair.moving(first, at[0], "least"), first)
    second = jnp.where(moves, pair.moving(second, at[1], "most"), second)
    share = jnp.where(close, 1.0, pair.share(first, second))
    return jnp.stack([first, second]), jnp.stack([share, 1 - share]), drift


def _shortfall(
    pair: Pair, row: _Component, atoms: Array, weight: Array, replies: Reply, ends: Reply
) -> Float[Array, ""]:
    """By how much a belief falls short of supporting a component, in fit, payoff or certainty."""
    lo, hi, is_pure = row
    s = 0.5 * (lo + hi)
    left, right, again = (_row(replies, i) for i in range(3))
    continuum = pair.continuum
    expected = sum_last(weight * jax.vmap(pair.gain)(atoms))
    wrong_way = jnp.where(s > 0, jnp.maximum(-expected, 0.0), jnp.maximum(expected, 0.0))
    loss = jnp.where(is_pure, wrong_way, jnp.abs(expected))
    width = jnp.where(continuum.payoff_range > 0, continuum.payoff_range, 1.0)
    play = continuum.realised(jnp.stack([s, 1 - s]))
    misfits = jax.vmap(lambda theta: sum_last(jnp.where(play > 0, play * pair.kl(theta), 0.0)))
    # Against a fit of its own, the grid, and what one more step would change.
    rivals = misfits(jnp.stack([again.least, again.most]))
    rivals = jnp.where(jnp.isnan(rivals), jnp.inf, rivals)
    short = misfits(atoms) - jnp.minimum(rivals.min(), continuum.misfit_at_nodes(play).min())
    short = jnp.max(jnp.where(weight > 0, short, 0.0))
    pure_doubt = jnp.where(s > 0, ends.doubt[0], ends.doubt[1])
    doubt = jnp.where(is_pure, pure_doubt, jnp.maximum(left.doubt, right.doubt))
    return jnp.maximum(jnp.maximum(short, 0.0), jnp.maximum(loss, doubt) / width)
