"""Two actions and a continuous family of models.

Play s = sigma[0] moves the best fit theta*(s), and s is an equilibrium where the payoff
difference d at the best fit vanishes, or where the best fit jumps across d = 0 and a belief
may mix both. The sign of d is scanned on a grid over s and every change of sign is solved
for. Between two neighbours of that grid at most one change is found: the family promises
that there is no more (`Family.unique_best_fit`), or the answer does not claim to be complete.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._numerics import implicit_root, sum_last, true_first
from ..problem import FamilyProblem
from ._codes import Certainty, Stability
from ._components import Ties, components, rationalizable_pair
from ._continuum import BoxFit, Continuum, Fit
from ._envelope import MINUS, PLUS, TIE
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


class _Reply(NamedTuple):
    """Best fits for one s: those where d is least and where it is greatest.

    ``doubt`` is by how much d may be wrong because a search did not converge: what one more
    step would change, inf where it is not known; ``unique`` whether nothing else fits as well.
    """

    least: Float[Array, " parameters"]
    most: Float[Array, " parameters"]
    d_least: Float[Array, ""]
    d_most: Float[Array, ""]
    doubt: Float[Array, ""]
    unique: Bool[Array, ""]


class _Pair:
    """Best fits and their payoff differences, as functions of s."""

    def __init__(self, problem: FamilyProblem, exploration: Array, tolerance: Tolerance):
        self.problem = problem
        self.continuum = Continuum(problem, exploration)
        self.slack = tolerance.payoff * self.continuum.payoff_range
        thetas = jax.vmap(problem.family.theta)(self.continuum.nodes)
        self.scale = lax.stop_gradient(thetas.max(0) - thetas.min(0))
        self.mixed = jax.jit(self._mixed)  # traced once, wanted three times

    def gain(self, theta: Float[Array, " parameters"]) -> Float[Array, ""]:
        """How much better action 0 is than action 1 according to theta."""
        payoffs = self.problem.consequence.payoffs(self.problem.family.function(theta))
        return payoffs[0] - payoffs[1]

    def kl(self, theta: Float[Array, " parameters"]) -> Float[Array, " 2"]:
        """Divergences of theta after either action, inf where infinite."""
        kl, ruled_out = self.problem.consequence.divergence(self.problem.family.function(theta))
        return jnp.where(ruled_out, jnp.inf, kl)

    def balanced(self, change: Float[Array, " 2"]) -> Float[Array, ""]:
        """Intended play at which what changes with either action adds up to zero; zero if none.

        Trembles are part of what is played and not of what is intended.
        """
        tremble = self.continuum.exploration
        turn, kept = change[0] - change[1], 1 - tremble
        some = (turn != 0) & (kept > 0)
        weight = -change[1] / jnp.where(some, turn, 1.0)
        return jnp.where(some, (weight - 0.5 * tremble) / jnp.where(some, kept, 1.0), 0.0)

    def lead(self, first: Array, second: Array) -> Float[Array, " 2"]:
        """By how much worse the first of two thetas fits after either action, zero if infinite."""
        change = self.kl(first) - self.kl(second)
        return jnp.where(jnp.isfinite(change).all(), change, 0.0)

    def lines_cross(self, first: Array, second: Array) -> Float[Array, ""]:
        """Intended play at which two thetas fit equally well; zero where none is."""
        return self.balanced(self.lead(first, second))

    def fitted_by(self, first: Array, second: Array, way: Array) -> Float[Array, ""]:
        """Intended play at which the misfit is level some way along from one theta to another."""
        ahead = second - first

        def divergence(theta):
            return self.problem.consequence.divergence(self.problem.family.function(theta))[0]

        slope = jax.jvp(divergence, (first + way * ahead,), (ahead,))[1]
        return self.balanced(jnp.where(jnp.isfinite(slope).all(), slope, 0.0))

    def share(self, first: Array, second: Array) -> Float[Array, ""]:
        """Weight on the first of two thetas at which a belief in both is indifferent."""
        ahead, behind = self.gain(first), self.gain(second)
        spread = ahead - behind
        share = jnp.where(spread != 0, -behind / jnp.where(spread != 0, spread, 1.0), 1.0)
        return jnp.clip(share, 0.0, 1.0)

    def root(
        self, s: Array, first: Array, second: Array, jumps: Bool[Array, ""]
    ) -> Float[Array, ""]:
        """An equilibrium s that was found, with its derivatives.

        It is where two best fits tie, if the best fit jumps there, or else where the actions do.
        """

        def distance(s):
            lead = self.lead(first, second)
            weight = self.continuum.realised(jnp.stack([s, 1 - s]))
            return jnp.where(jumps, sum_last(weight * lead), self.mixed(s).d_least)

        return implicit_root(distance, s)

    def moving(self, theta: Array, s: Array, which: str) -> Float[Array, " parameters"]:
        """The best fit that was found at s, with its derivatives also as s moves."""

        def apart(theta):
            return theta - getattr(self.mixed(s), which)

        # That of an implicit function, so that nothing is searched again for the value alone.
        return lax.custom_root(apart, theta, lambda _, theta: theta, lambda _, change: change)

    def _mixed(self, s: Float[Array, ""]) -> _Reply:
        """Both actions have positive probability."""
        play = jnp.stack([s, 1 - s])
        unidentified = self.continuum.never_identified
        if any(unidentified):
            return self._range(
                self.continuum.fit_in_box(play), jnp.asarray(unidentified), jnp.asarray(0)
            )
        fit = self.continuum.fit(play)
        d = self.gain(fit.theta)
        doubt = jnp.max(jnp.abs(jax.vmap(self.gain)(fit.following) - d))
        return _Reply(fit.theta, fit.theta, d, d, self._doubt(fit, doubt), fit.unique)

    def _range(self, fit: BoxFit, free: Array, chart: Array) -> _Reply:
        """Where d is least and greatest over the coordinates that are left open."""
        theta = jax.vmap(lambda x: self.continuum.theta(x, chart))
        ends = self.continuum.range_of(fit.point, free, lambda u: u[0] - u[1], chart)
        thetas = theta(ends.point)
        d = jax.vmap(self.gain)(thetas)
        # One more step in the coordinates that are identified, and in those that are not.
        moved = jnp.where(free, ends.following, fit.following)
        doubt = jnp.max(jnp.abs(jax.vmap(self.gain)(theta(moved)) - d))
        return _Reply(thetas[0], thetas[1], d[0], d[1], self._doubt(fit, doubt), fit.unique)

    def _doubt(self, fit: Fit | BoxFit, doubt: Array) -> Array:
        # Without a promise the best fit may jump, and where it does two of them tie.
        found = fit.found & (fit.unique | (not self.problem.family.unique_best_fit))
        return lax.stop_gradient(jnp.where(found, doubt, jnp.inf))

    def pure(self, trembling: _Reply) -> _Reply:
        """Each action is intended alone, [2]; without exploration it is the only one played."""
        family = self.problem.family
        if not any(self.continuum.leaves_open) and not family.has_charts:
            return trembling  # the limit of mixed play, as it stands

        def alone(action):
            fit = self.continuum.fit_alone(action)
            free = ~self.continuum.identified_by(action)
            return self._range(fit, free, action)

        explores = self.continuum.exploration > 0
        replies = jax.vmap(alone)(jnp.arange(2))
        return jax.tree.map(lambda a, b: jnp.where(explores, a, b), trembling, replies)

    def next_to_pure(self, scan: _Reply) -> _Reply:
        """Replies to a scan whose ends are what play tends to there, and not pure play.

        What pure play leaves unidentified, and a model that the other action refutes, are other
        matters: there the ends are the replies next to them.
        """
        family = self.problem.family
        if any(self.continuum.leaves_open) or family.has_charts:
            refuted = jnp.ones(2, bool)
        else:
            ends = jnp.stack([scan.least[0], scan.least[-1]])
            refuted = jnp.any(jnp.isinf(jax.vmap(self.kl)(ends)), -1)

        def pull(x):
            first = jnp.where(refuted[0], x[1], x[0])
            return x.at[0].set(first).at[-1].set(jnp.where(refuted[1], x[-2], x[-1]))

        return jax.tree.map(pull, scan)

    def side(self, reply: _Reply) -> Array:
        """Which action is the better reply to every best fit, if either is."""
        plus, minus = reply.d_least > self.slack, reply.d_most < -self.slack
        return jnp.where(plus, PLUS, jnp.where(minus, MINUS, TIE))

    def settled(self, reply: _Reply) -> Bool[Array, "..."]:
        """Whether the side of a reply is beyond doubt."""
        distance = jnp.minimum(jnp.abs(reply.d_least), jnp.abs(reply.d_most))
        return reply.doubt <= jnp.maximum(self.slack, 0.5 * distance)


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
    pair = _Pair(problem, exploration, tolerance)
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


def _row(replies: _Reply, index: Array | int) -> _Reply:
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
    pair: _Pair, grid: Array, scan: _Reply, sides: Array, max_ties: int
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
    pair: _Pair, grid: Array, scan: _Reply, start: Array, stop: Array, side: Array, level: Array
) -> Array:
    """Where, between two neighbours of the grid, a side that holds at ``start`` is lost.

    False position on the payoff difference, in theta (of which it is a simple function where in s
    it may be a steep one) and in s, for a best fit that moves smoothly; the crossing of the two
    ends' lines in the divergence for one that jumps. Any step is harmless where another is
    needed, and the last of every round halves.
    """
    may_jump = not pair.problem.family.unique_best_fit

    def end(s, reply: _Reply):
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
    pair: _Pair, row: _Component, beside: tuple[Array, _Reply], ends: _Reply
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
    pair: _Pair, row: _Component, atoms: Array, weight: Array, replies: _Reply, ends: _Reply
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
