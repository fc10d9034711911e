"""Two actions, finitely many models: where the best fit changes its mind, exactly.

With s the probability of action 0, every model is a line ``v(s) = level + slope * s`` and

    h_plus(s)  = min of v over the models that (weakly) favour action 0,
    h_minus(s) = min of v over the models that (weakly) favour action 1

are concave and piecewise linear. Everything there is to know about the problem is where
``h_plus - h_minus`` is negative, zero, or positive. The walk below goes
from s = 0 to s = 1 and never misses a change: both functions lie below any of their tangents
and above any of their chords, so two tangents (a tent) over one class and one evaluation of
the other class at the tent's top prove that nothing happens in between. Where the proof
fails, the interval is cut at the top of the tent; where the two ends disagree, it is cut at
the crossing of their tangents, which is exact once the two right lines are found. There is
no grid in s, and one pass over the models a step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._numerics import lowest
from ._lanes import kept

# Sides of the difference h_plus - h_minus: action 0 is the better reply, tie, action 1 is.
PLUS, TIE, MINUS = -1, 0, 1

# Intervals (evaluated points ahead of the walk) kept for later; a lost one is only redone.
_ANCHORS = 3


class Walk(NamedTuple):
    """Ties of ``h_plus`` and ``h_minus`` on [0, 1], in order of s.

    Every field may carry a trailing dimension of lanes. ``lo`` and ``hi`` [E] are the ends of
    each tie, ``before`` and ``after`` [E] the sides next to it (TIE at the ends of [0, 1]),
    ``num_ties`` how many there are (more than E: the rest were dropped), ``first`` and ``last``
    the sides next to s = 0 and s = 1, ``saw_plus`` and ``saw_minus`` whether action 0 and
    action 1 are best replies, within the tolerance, somewhere strictly between, ``finished``
    whether the walk went as far as it had to. ``at_zero`` [2] is h_plus and h_minus at s = 0,
    huge where a class is empty.
    """

    lo: Float[Array, "ties *batch"]
    hi: Float[Array, "ties *batch"]
    before: Int[Array, "ties *batch"]
    after: Int[Array, "ties *batch"]
    num_ties: Int[Array, "*batch"]
    first: Int[Array, "*batch"]
    last: Int[Array, "*batch"]
    saw_plus: Bool[Array, "*batch"]
    saw_minus: Bool[Array, "*batch"]
    finished: Bool[Array, "*batch"]
    at_zero: Float[Array, "2 *batch"]


# What a step decides for a lane, as bits, and the running answers of a lane, as bit fields:
# two integers a lane, because a step costs a kernel for each array that it hands on.
_TO_END, _TO_NEXT, _TO_CUT, _JUMPED, _DONE = (1 << i for i in range(5))
_SIDE_AT, _BEFORE_AT, _LAST_AT, _SAW_PLUS_AT, _SAW_MINUS_AT, _COUNT_AT = 0, 2, 4, 6, 7, 8


def walk(
    level: Float[Array, "models #lanes"],
    slope: Float[Array, "models #lanes"],
    plus: Bool[Array, "models #lanes"],
    minus: Bool[Array, "models #lanes"],
    tol: Float[Array, " #lanes"],
    tol_s: float,
    max_ties: int,
) -> Walk:
    """Find every tie of the two lower envelopes on [0, 1], for a block of lanes together.

    Parameters
    ----------
    level, slope : [M, lanes] the line of each model, in nats.
    plus, minus : [M, lanes] whether it favours action 0 and action 1 (both when indifferent;
        neither when it takes no part).
    tol : [lanes] values this close (nats) are tied; where envelopes touch, 1.5 times as much.
    tol_s : ties shorter than this in s are points.
    max_ties : E, how many ties to keep. With 0, none are looked for: the walk ends as soon as
        each action has been a best reply, which is all that rationalizability asks.

    Any of the arrays may have one lane only, that all lanes share.

    Notes
    -----
    A point is an array [5, lanes]: s, h_plus, h_minus and their right-hand slopes. The state
    is ``path`` [1 + anchors + 1, 5, lanes], the point reached and evaluated points ahead of
    it, nearest first and s = 1 last; ``between``, the point where the first interval was cut
    last; ``move``, what was decided there; ``lo``, where the open tie began; ``notes``, the
    running answers; and ``ties`` [4, E, lanes]. Deciding (at the end of a step) and moving
    (at the start of the next) are apart because XLA computes what is not carried from step
    to step anew in every kernel that uses it.
    """
    dtype = level.dtype
    big = jnp.asarray(jnp.finfo(dtype).max / 4, dtype)
    lanes = jnp.broadcast_shapes(level.shape, slope.shape, plus.shape, tol.shape)[-1]

    def by_class(level, slope, plus, minus):
        levels = jnp.stack([jnp.where(plus, level, big), jnp.where(minus, level, big)], axis=1)
        return levels, slope[:, None]

    classes, slopes = kept(by_class, level, slope, plus, minus)
    slope_tie = tol / tol_s
    # Dividing by it changes nothing, but XLA does not repeat a division for every model, as
    # it would with all the arithmetic that leads to `cut`.
    one = jnp.where(tol >= 0, jnp.ones(lanes, dtype), 2)

    def point(s):
        values = classes + slopes * s
        least = lowest(values)
        # Among tied lines the one that falls fastest is the one that leads to the right.
        falls = lowest(jnp.where(values <= least + 0.5 * tol, slopes, big))
        return jnp.concatenate([s[None], least, falls])

    def side_of(p):
        gap = p[1] - p[2]
        return jnp.where(gap < -1.5 * tol, PLUS, jnp.where(gap > 1.5 * tol, MINUS, TIE))

    def right_side_of(p):
        turn = p[3] - p[4]
        tied = jnp.where(turn < -slope_tie, PLUS, jnp.where(turn > slope_tie, MINUS, TIE))
        side = side_of(p)
        return jnp.where(side == TIE, tied, side)

    def apart(here, ahead, side):
        # The upper function lies above its chord. If the lower one already falls behind that
        # chord at the left end, or still gains on it at the right end, then, being concave,
        # it stays below all the way.
        lower, lower_slope = _pick(side == PLUS, here)
        lower_ahead, lower_slope_ahead = _pick(side == PLUS, ahead)
        upper, _ = _pick(side != PLUS, here)
        upper_ahead, _ = _pick(side != PLUS, ahead)
        width = ahead[0] - here[0]
        chord = upper_ahead - upper
        falls = lower_slope * width <= chord
        # Into a tie it must gain for certain, or have gone straight: otherwise the tie may
        # begin earlier.
        into_tie = side_of(ahead) == TIE
        margin = jnp.where(into_tie, slope_tie * width, -tol)
        gains = lower_slope_ahead * width >= chord + margin
        straight = lower_ahead >= lower + lower_slope * width - tol
        same = (side != TIE) & (side_of(ahead) * side >= 0)
        return same & (falls | gains | (into_tie & straight))

    def together(here, ahead, side):
        # A concave function that is still on its tangent has been on it all the way.
        width = ahead[0] - here[0]
        on_plus = ahead[1] >= here[1] + here[3] * width - tol
        on_minus = ahead[2] >= here[2] + here[4] * width - tol
        return (side == TIE) & (side_of(ahead) == TIE) & on_plus & on_minus

    def uniform(here, ahead, side):
        return apart(here, ahead, side) | together(here, ahead, side)

    def move_on(state):
        """Move to where the last step's decision allows, and note what was met there."""
        path, between, move, lo, notes, ties, steps = state
        left_s, left_side = path[0, 0], _read(notes, _SIDE_AT)
        arrive = (move & (_TO_END | _TO_NEXT | _TO_CUT) > 0) & (left_s < 1)
        arrive &= (steps > 0) | (move & _TO_END > 0)
        jumped = move & _JUMPED > 0
        rest = path[1:]
        path = jnp.where(
            move & _TO_END > 0,
            path[-1],
            jnp.where(
                move & _TO_NEXT > 0,
                jnp.concatenate([rest, path[-1:]]),
                jnp.where(
                    move & _TO_CUT > 0,
                    jnp.concatenate([between[None], rest]),
                    jnp.concatenate([path[:1], between[None], path[1:-2], path[-1:]]),
                ),
            ),
        )
        here = path[0]
        tied = arrive & ((side_of(here) == TIE) | jumped)
        side = jnp.where(arrive, right_side_of(here), left_side)
        was_open = left_side == TIE
        # A tie that rounding has stepped over (`jumped`) still is one.
        opens = tied & ~was_open
        lo = jnp.where(opens, here[0], lo)
        before = jnp.where(opens, left_side, _read(notes, _BEFORE_AT))
        at_end = arrive & (here[0] >= 1)
        ends = arrive & (was_open | opens) & ((side != TIE) | at_end)
        hi = jnp.where(move & _DONE > 0, left_s, here[0])
        after = jnp.where(at_end & (side_of(here) == TIE), TIE, side)
        count = notes >> _COUNT_AT
        slot = (jnp.arange(max_ties, dtype=jnp.int32)[:, None] == count) & ends
        tie = jnp.stack([lo, hi, before.astype(dtype), after.astype(dtype)])
        ties = jnp.where(slot, tie[:, None], ties)
        # What holds at an end of [0, 1] was noted before the first step.
        inside = arrive & ~at_end
        notes = (
            _write(side, _SIDE_AT)
            | _write(before, _BEFORE_AT)
            | jnp.where(at_end, _write(left_side, _LAST_AT), notes & (3 << _LAST_AT))
            | (notes | _bit(inside & (tied | (side != MINUS)), _SAW_PLUS_AT)) & 1 << _SAW_PLUS_AT
            | (notes | _bit(inside & (tied | (side != PLUS)), _SAW_MINUS_AT)) & 1 << _SAW_MINUS_AT
            | (count + ends.astype(jnp.int32)) << _COUNT_AT
        )
        return path, lo, notes, ties

    def step(state):
        path, lo, notes, ties = move_on(state)
        steps = state[-1]
        here, ahead = path[0], path[1]
        side, side_ahead = _read(notes, _SIDE_AT), side_of(ahead)
        crosses = side * side_ahead == PLUS * MINUS
        leaves = (side == TIE) & (side_ahead != TIE)
        enters = (side != TIE) & (side_ahead == TIE)
        # A tie is followed along the function that stays above where it ends.
        lead_plus = (side == PLUS) | ((side == TIE) & (side_ahead != PLUS))
        end_plus = lead_plus ^ (crosses | leaves)
        left, left_slope = _pick(lead_plus, here)
        right, right_slope = _pick(end_plus, ahead)
        # Where the tangent at `here` meets the one at `ahead`: tent top, or crossing.
        width = ahead[0] - here[0]
        turn = left_slope - right_slope
        rise = right - right_slope * width - left
        reach = jnp.where(turn != 0, rise / jnp.where(turn != 0, turn, 1), -1)
        inside = (reach > 0) & (reach < width)
        # With many models the two functions part quadratically from where they meet, and
        # tangents only halve the distance: every other cut takes the difference as s|s|,
        # so that it lands on the tie at once, and the next tangents are those of its lines.
        gap_here = jnp.sqrt(jnp.abs(here[1] - here[2]))
        gap_ahead = jnp.sqrt(jnp.abs(ahead[1] - ahead[2]))
        bend = width * gap_here / jnp.maximum(gap_here + gap_ahead, tol)
        bend = jnp.where(leaves, jnp.maximum(2 * reach - width, 0.5 * reach), bend)
        bend = jnp.where(enters, jnp.minimum(2 * reach, 0.5 * (reach + width)), bend)
        bent = (crosses | leaves | enters) & (steps % 2 == 0)
        # A bend too short to move at all would pass for an interval with nothing inside.
        bent &= (here[0] + bend > here[0]) & (here[0] + bend < ahead[0])
        reach = jnp.where(bent, bend, reach)
        cut = here[0] + jnp.where(inside, reach, 0.5 * width)
        between = point(cut / one)
        top = left + left_slope * (cut - here[0])
        other = jnp.where(lead_plus, between[2], between[1])
        # Without a tent top inside, one line serves both ends, and the other function,
        # concave and above that line at both ends, is above it throughout.
        clear = (side != TIE) & ~crosses & (~inside | ((other >= top + tol) & ~enters))
        # An interval at the resolution of s hides nothing that the tolerances can see. Nor
        # is there anything to find when a tie ends where it is.
        tiny = (cut <= here[0]) | (cut >= ahead[0])
        done = leaves & (tiny | ~inside)
        to_end = uniform(here, path[-1], side)
        move = (
            _bit(to_end, 0)
            | _bit(clear | uniform(here, ahead, side) | tiny | done, 1)
            | _bit(uniform(here, between, side), 2)
            | _bit(crosses & tiny & ~to_end, 3)
            | _bit(done & ~to_end, 4)
        )
        return path, between, move, lo, notes, ties, steps + 1

    start, end = point(jnp.zeros(lanes, dtype)), point(jnp.ones(lanes, dtype))
    first = right_side_of(start)
    # What is within the tolerance in the limit is within it just before, where all that mixed
    # play refutes is refuted: a tie there admits both actions, unless there is no tolerance.
    gaps = start[1] - start[2], end[1] - end[2]
    near_plus = jnp.minimum(*gaps) < 1.5 * tol
    near_minus = jnp.maximum(*gaps) > -1.5 * tol
    notes = (
        _write(first, _SIDE_AT)
        | _bit((first != MINUS) | near_plus, _SAW_PLUS_AT)
        | _bit((first != PLUS) | near_minus, _SAW_MINUS_AT)
        | _write(jnp.zeros_like(first), _BEFORE_AT)
    )
    # Both ends may prove at once that nothing happens; if not, move to where it is already.
    at_once = uniform(start, end, first)
    state = (
        jnp.stack([start] + [end] * (_ANCHORS + 1)),
        start,
        jnp.where(at_once, _TO_END, _TO_CUT),
        start[0],
        notes,
        jnp.zeros((4, max_ties, lanes), dtype),
        0,
    )
    limit = 16 * level.shape[0] + 64
    state = lax.while_loop(
        lambda state: jnp.any(_unfinished(state, max_ties)) & (state[-1] < limit), step, state
    )
    path, _, notes, ties = move_on(state)
    saw_plus, saw_minus = notes >> _SAW_PLUS_AT & 1 > 0, notes >> _SAW_MINUS_AT & 1 > 0
    return Walk(
        lo=ties[0],
        hi=ties[1],
        before=ties[2].astype(jnp.int32),
        after=ties[3].astype(jnp.int32),
        num_ties=notes >> _COUNT_AT,
        first=first,
        last=_read(notes, _LAST_AT),
        saw_plus=saw_plus,
        saw_minus=saw_minus,
        finished=(path[0, 0] >= 1) | (saw_plus & saw_minus & (max_ties == 0)),
        at_zero=start[1:3],
    )


def _unfinished(state, max_ties: int):
    """Which lanes have neither reached s = 1 nor decided to go there next."""
    path, _, move, _, notes = state[:5]
    to_end = (move & _TO_END > 0) | ((move & _TO_NEXT > 0) & (path[1, 0] >= 1))
    unfinished = (path[0, 0] < 1) & ~to_end
    if max_ties == 0:
        saw = notes >> _SAW_PLUS_AT & notes >> _SAW_MINUS_AT & 1
        unfinished &= saw == 0
    return unfinished


def _bit(flag, position: int):
    return flag.astype(jnp.int32) << position


def _write(side, position: int):
    """Two bits for a side (PLUS, TIE, MINUS), so that three bits of nothing read as PLUS."""
    return (side + 1).astype(jnp.int32) << position


def _read(notes, position: int):
    return ((notes >> position) & 3) - 1


def _pick(plus, point):
    """Value and right-hand slope of one of the two functions at a point."""
    return jnp.where(plus, point[1], point[2]), jnp.where(plus, point[3], point[4])
