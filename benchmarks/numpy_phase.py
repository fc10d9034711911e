"""Phases of two-action problems in NumPy: the peers that bnjax is measured against.

- `walk_phases`: the algorithm of `bnjax.equilibrium._envelope` (a walk along the difference of
  two lower envelopes, by tangents and certificates), for all cells in lockstep. Cells are the
  rows of contiguous arrays, go through in chunks that stay in the cache, and drop out of the
  arrays as soon as they are decided.
- `all_pairs_phases`: where each line is lowest, from its crossings with every other line.
- `continuous_sycophancy_phases`: the scan over play that continuous Theta is solved by.

All of them take and return plain arrays. With s the probability of action 0, model m is the
line ``level + slope * s`` in nats; "plus" models favour action 0, "minus" models action 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
Bools: TypeAlias = NDArray[np.bool_]

SAFE, UNSAFE, MULTISTABLE, OSCILLATORY, INDETERMINATE, UNDECIDED, INVALID = range(7)
PLUS, TIE, MINUS = -1, 0, 1

_ANCHORS = 3
# More nats than any finite divergence: keeps infinities out of differences.
_LARGE = 1e6
# Numbers of an array [cells, models] in a chunk: fewer calls against a colder cache.
_CHUNK = 192 * 1024


class Lines(NamedTuple):
    """Reduced form of a batch of two-action problems; first axis cells, or 1 if they share it.

    ``kl`` and ``ruled_out`` are pairs [cells, M], one for each action (``kl`` is very large
    where it is infinite); ``gain`` [cells, M] is
    the payoff of action 0 less that of action 1, ``payoff_range`` [cells, 1] of either.
    """

    kl: tuple[Floats, Floats]
    ruled_out: tuple[Bools, Bools]
    gain: Floats
    payoff_range: Floats


@dataclasses.dataclass(frozen=True)
class Phases:
    """Answers for a batch of cells.

    Parameters
    ----------
    phase : [cells] codes of `bnjax.Phase`.
    pure, rationalizable : [cells, 2] which pure strategies are equilibria, which actions are
        in the rationalizable set.
    ties : [cells, E, 2] both ends, in s, of every tie on [0, 1], in order; NaN after the last.
        None where they were not asked for.
    count : [cells] how many ties there are.
    """

    phase: NDArray[np.int32]
    pure: Bools
    rationalizable: Bools
    ties: Floats | None = None
    count: NDArray[np.int64] | None = None


class _Tolerance(NamedTuple):
    fit: float
    payoff: float
    play: float


def _tolerance(dtype: Any) -> _Tolerance:
    """The defaults of bnjax."""
    single = np.finfo(dtype).eps > 1e-10
    return _Tolerance(2e-6, 1e-5, 1e-3) if single else _Tolerance(1e-12, 1e-10, 1e-6)


# From probabilities to lines


def lines(probs: Floats, model_probs: Floats, payoff: Floats) -> Lines:
    """Divergences and payoffs of categorical problems.

    Parameters
    ----------
    probs : [cells, 2, Y] true probabilities.
    model_probs : [cells, M, 2, Y], or [1, M, 2, Y] if all cells have the same models, whose
        logarithms are then taken once.
    payoff : [cells, 2, Y] or [1, 2, Y].
    """
    happens, possible = probs > 0, model_probs > 0
    log_p = np.log(probs, out=np.zeros_like(probs), where=happens)
    minus_entropy = (probs * log_p).sum(-1)
    # Where nothing is zero (nearly always), a plain logarithm is several times faster.
    log_q = (
        np.log(model_probs)
        if possible.all()
        else np.log(model_probs, out=np.zeros_like(model_probs), where=possible)
    )
    kl, ruled_out, payoffs = [], [], []
    for a in range(2):
        if log_q.shape[0] == 1:
            cross = probs[:, a] @ log_q[0, :, a].T
        else:
            cross = _over_consequences(log_q[:, :, a], probs[:, None, a])
        out = _ruled_out(happens[:, a], possible[:, :, a])
        kl.append(_exclude(minus_entropy[:, a, None] - cross, out))
        ruled_out.append(out)
        payoffs.append(_over_consequences(model_probs[:, :, a], payoff[:, None, a]))
    top = np.maximum(*(u.max(1, keepdims=True) for u in payoffs))
    bottom = np.minimum(*(u.min(1, keepdims=True) for u in payoffs))
    return Lines(
        (kl[0], kl[1]), (ruled_out[0], ruled_out[1]), payoffs[0] - payoffs[1], top - bottom
    )


def _over_consequences(left: Floats, right: Floats) -> Floats:
    """Sum of products over the short last axis: by columns, which NumPy adds far faster."""
    total = left[..., 0] * right[..., 0]
    for y in range(1, left.shape[-1]):
        total += left[..., y] * right[..., y]
    return total


def _ruled_out(happens: Bools, possible: Bools) -> Bools:
    """Which models exclude what happens: [cells, M], or [1, M] if the same in all cells."""
    absent = ~possible
    if not absent.any():
        return np.zeros((1, absent.shape[1]), bool)
    if happens.all():
        happens = happens[:1]
    columns = (absent[..., y] & happens[:, None, y] for y in range(absent.shape[-1]))
    return np.logical_or.reduce(list(columns))


def _exclude(values: Floats, mask: Bools) -> Floats:
    """Make a number very large where a mask [cells or 1, M] says so.

    Adding it is several times faster than `numpy.where`, which branches.
    """
    if not mask.any():
        return values
    penalty = mask.astype(values.dtype)
    penalty *= _big(values.dtype)
    return values + penalty


def _big(dtype: Any) -> Any:
    return np.dtype(dtype).type(np.finfo(dtype).max / 4)


# What the ends of [0, 1] and the walk between them say about a cell


def _optimal_when_pure(
    given: Lines, plus: Bools, minus: Bools, tolerance: _Tolerance
) -> NDArray[np.bool_]:
    """Whether each reply is optimal for some best fit to each pure strategy [cells, played, 2]."""
    cells = given.kl[0].shape[0]
    optimal = np.empty((cells, 2, 2), bool)
    for action in range(2):
        kl = given.kl[action]
        fits = kl <= kl.min(1, keepdims=True) + kl.dtype.type(tolerance.fit)
        optimal[:, action, 0] = (fits & plus).any(1)
        optimal[:, action, 1] = (fits & minus).any(1)
    return optimal


def _decide(
    optimal: Bools, inside_plus: Bools, inside_minus: Bools, safe: Bools
) -> tuple[NDArray[np.int32], Bools, Bools]:
    """Phase, pure equilibria and rationalizable set."""
    pure = np.stack([optimal[:, 0, 0], optimal[:, 1, 1]], -1)
    inside = np.stack([inside_plus, inside_minus], -1)
    mask = np.ones_like(pure)
    for _ in range(3):
        mixed = inside & mask.all(1, keepdims=True)
        mask = mask & (mixed | (optimal & mask[:, :, None]).any(1))
    some_safe, some_unsafe = (mask & safe).any(1), (mask & ~safe).any(1)
    pure_safe, pure_unsafe = (pure & safe).any(1), (pure & ~safe).any(1)
    phase = np.select(
        [
            ~some_safe & ~some_unsafe,
            ~some_safe,
            ~some_unsafe,
            pure_safe & pure_unsafe,
            ~pure_safe & ~pure_unsafe,
        ],
        [INVALID, UNSAFE, SAFE, MULTISTABLE, OSCILLATORY],
        INDETERMINATE,
    )
    return phase.astype(np.int32), pure, mask


def _prepare(given: Lines, tolerance: _Tolerance) -> tuple[Floats, Floats, Bools, Bools, Bools]:
    """Level and slope of each line, whom it favours, and whether it allows everything."""
    slack = given.payoff_range * given.gain.dtype.type(tolerance.payoff)
    usable = ~(given.ruled_out[0] | given.ruled_out[1])
    kl = given.kl if usable.all() else [np.minimum(k, _LARGE) for k in given.kl]
    level, slope = kl[1], kl[0] - kl[1]
    return level, slope, given.gain >= -slack, given.gain <= slack, usable


# The same algorithm as bnjax


def walk_phases(
    probs: Floats,
    model_probs: Floats,
    payoff: Floats,
    safe: tuple[bool, bool] = (False, True),
    max_ties: int = 0,
    num_threads: int = 1,
    chunk: int | None = None,
) -> Phases:
    """Phases by the exact walk.

    Parameters
    ----------
    probs, model_probs, payoff : as for `lines`.
    safe : which actions are safe.
    max_ties : how many ties of each cell to list. With 0, none: the walk then ends as soon as
        both actions have been best replies, which is all that a phase needs.
    num_threads : NumPy releases the interpreter lock in large operations, so that chunks can
        share the cores.
    chunk : cells at a time.
    """
    cells, models = probs.shape[0], model_probs.shape[1]
    chunk = max(32, _CHUNK // models) if chunk is None else chunk

    def part(array: Floats, start: int) -> Floats:
        return array if array.shape[0] == 1 else array[start : start + chunk]

    def one(start: int) -> Phases:
        here = lines(probs[start : start + chunk], part(model_probs, start), part(payoff, start))
        return _walk_chunk(here, np.asarray(safe), max_ties)

    starts = range(0, cells, chunk)
    if num_threads == 1:
        parts = [one(start) for start in starts]
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            parts = list(pool.map(one, starts))

    def join(name: str) -> Any:
        return np.concatenate([getattr(p, name) for p in parts])

    listed = (join("ties"), join("count")) if max_ties else (None, None)
    return Phases(join("phase"), join("pure"), join("rationalizable"), *listed)


def _walk_chunk(given: Lines, safe: Bools, max_ties: int) -> Phases:
    tolerance = _tolerance(given.kl[0].dtype)
    level, slope, plus, minus, usable = _prepare(given, tolerance)
    optimal = _optimal_when_pure(given, plus, minus, tolerance)
    met = _Walk(level, slope, plus & usable, minus & usable, tolerance, max_ties)
    met.run()
    phase, pure, mask = _decide(optimal, met.saw_plus, met.saw_minus, safe)
    if not max_ties:
        return Phases(phase, pure, mask)
    return Phases(phase, pure, mask, met.ties, met.count)


def _pick(plus: Bools, point: Floats) -> tuple[Floats, Floats]:
    """Value and right-hand slope of one of the two functions at a point."""
    return np.where(plus, point[1], point[2]), np.where(plus, point[3], point[4])


class _Walk:
    """Walk of a chunk of cells from s = 0 to s = 1.

    A point is an array [5, cells]: s, h_plus, h_minus and their right-hand slopes. ``path``
    [1 + anchors + 1, 5, cells] holds the point reached and evaluated points ahead of it,
    nearest first and s = 1 last. Only undecided cells are in the arrays; ``who`` says which.
    """

    def __init__(
        self,
        level: Floats,
        slope: Floats,
        plus: Bools,
        minus: Bools,
        tolerance: _Tolerance,
        max_ties: int,
    ):
        cells, _ = level.shape
        dtype = level.dtype
        self.tol = dtype.type(tolerance.fit / 1.5)
        self.tie_slope = dtype.type(self.tol / tolerance.play)
        self.plus, self.minus = _exclude(level, ~plus), _exclude(level, ~minus)
        self.slope = slope
        self.max_ties = max_ties
        self.limit = 16 * level.shape[1] + 64
        self.saw_plus, self.saw_minus = np.zeros(cells, bool), np.zeros(cells, bool)
        self.count = np.zeros(cells, np.int64)
        self.ties = np.full((cells, max_ties, 2), np.nan, dtype)
        self.who = np.arange(cells)
        self.buffers = tuple(np.empty_like(slope) for _ in range(2))

    def point(self, s: Floats) -> Floats:
        rise, values = (buffer[: len(s)] for buffer in self.buffers)
        np.multiply(self.slope, s[:, None], out=rise)
        out = np.empty((5, len(s)), s.dtype)
        out[0] = s
        for row, lines_ in ((1, self.plus), (2, self.minus)):
            np.add(lines_, rise, out=values)
            best = values.argmin(1)
            out[row] = values[np.arange(len(s)), best]
            out[row + 2] = self.slope[np.arange(len(s)), best]
            # Among tied lines the one that falls fastest is the one that leads to the right.
            tied = values <= (out[row] + self.tol / 2)[:, None]
            several = np.flatnonzero(np.count_nonzero(tied, axis=1) > 1)
            if len(several):
                falls = np.where(tied[several], self.slope[several], _big(s.dtype))
                out[row + 2, several] = falls.min(1)
        return out

    def side_of(self, p: Floats) -> NDArray[np.int8]:
        gap, tie = p[1] - p[2], self.tol * self.tol.dtype.type(1.5)
        return (gap > tie).astype(np.int8) - (gap < -tie).astype(np.int8)

    def right_side_of(self, p: Floats) -> NDArray[np.int8]:
        side, turn = self.side_of(p), p[3] - p[4]
        tied = (turn > self.tie_slope).astype(np.int8) - (turn < -self.tie_slope).astype(np.int8)
        return np.where(side == TIE, tied, side)

    def uniform(self, here: Floats, ahead: Floats, side: NDArray[np.int8]) -> Bools:
        """Whether nothing happens in between: see ``apart`` and ``together`` in bnjax."""
        side_ahead = self.side_of(ahead)
        lower, lower_slope = _pick(side == PLUS, here)
        lower_ahead, lower_slope_ahead = _pick(side == PLUS, ahead)
        upper, _ = _pick(side != PLUS, here)
        upper_ahead, _ = _pick(side != PLUS, ahead)
        width = ahead[0] - here[0]
        chord = upper_ahead - upper
        falls = lower_slope * width <= chord
        into_tie = side_ahead == TIE
        margin = np.where(into_tie, self.tie_slope * width, -self.tol)
        gains = lower_slope_ahead * width >= chord + margin
        straight = lower_ahead >= lower + lower_slope * width - self.tol
        apart = (side != TIE) & (side_ahead * side >= 0)
        apart &= falls | gains | (into_tie & straight)
        on_plus = ahead[1] >= here[1] + here[3] * width - self.tol
        on_minus = ahead[2] >= here[2] + here[4] * width - self.tol
        return apart | ((side == TIE) & into_tie & on_plus & on_minus)

    def run(self) -> None:
        cells, dtype = len(self.who), self.slope.dtype
        start, end = self.point(np.zeros(cells, dtype)), self.point(np.ones(cells, dtype))
        side, tie = self.right_side_of(start), self.tol * self.tol.dtype.type(1.5)
        # What is within the tolerance in the limit is within it just before.
        gaps = start[1] - start[2], end[1] - end[2]
        self.saw_plus = (side != MINUS) | (np.minimum(*gaps) < tie)
        self.saw_minus = (side != PLUS) | (np.maximum(*gaps) > -tie)
        path = np.stack([start] + [end] * (_ANCHORS + 1))
        # A tie at s = 0 is open from the start.
        opened = np.zeros(cells, dtype)
        keep = np.ones(cells, bool) if self.max_ties else ~(self.saw_plus & self.saw_minus)
        path, side, opened = self._compact(keep, path, side, opened)
        for step in range(self.limit):
            if not len(self.who):
                break
            path, side, opened, going = self._step(path, side, opened, step)
            if not going.all():
                path, side, opened = self._compact(going, path, side, opened)

    def _compact(
        self, keep: Bools, path: Floats, side: NDArray[np.int8], opened: Floats
    ) -> tuple[Floats, NDArray[np.int8], Floats]:
        """Drop the cells that are decided, and their rows of lines with them."""
        if keep.all():
            return path, side, opened
        self.plus, self.minus = self.plus[keep], self.minus[keep]
        self.slope, self.who = self.slope[keep], self.who[keep]
        return path[:, :, keep], side[keep], opened[keep]

    def _step(
        self, path: Floats, side: NDArray[np.int8], opened: Floats, step: int
    ) -> tuple[Floats, NDArray[np.int8], Floats, Bools]:
        """Cut the first interval, move as far as the certificates allow, and take notes."""
        here, ahead, end = path[0], path[1], path[-1]
        side_ahead = self.side_of(ahead)
        crosses = side * side_ahead == PLUS * MINUS
        leaves = (side == TIE) & (side_ahead != TIE)
        enters = (side != TIE) & (side_ahead == TIE)
        cut, inside, lead_plus, top = self._cut(here, ahead, side, side_ahead, step)
        between = self.point(cut)
        other = np.where(lead_plus, between[2], between[1])
        clear = ~inside | ((other >= top + self.tol) & ~enters)
        clear &= (side != TIE) & ~crosses
        tiny = (cut <= here[0]) | (cut >= ahead[0])
        done = leaves & (tiny | ~inside)
        to_end = self.uniform(here, end, side)
        to_next = clear | self.uniform(here, ahead, side) | tiny | done
        to_cut = self.uniform(here, between, side)
        jumped = crosses & tiny & ~to_end
        done &= ~to_end

        to_next &= ~to_end
        to_cut &= ~to_end & ~to_next
        stay = ~(to_end | to_next | to_cut)
        new = np.empty_like(path)
        new[0] = np.where(to_end, end, np.where(to_next, ahead, np.where(to_cut, between, here)))
        for k in range(1, _ANCHORS + 1):
            new[k] = np.where(to_next, path[k + 1], np.where(to_cut, path[k], path[k - 1]))
        new[1] = np.where(stay, between, new[1])
        new[-1] = end

        arrive = ~stay
        left_s, left_side, here = here[0], side, new[0]
        side_here = self.side_of(here)
        tied = arrive & ((side_here == TIE) | jumped)
        side = np.where(arrive, self.right_side_of(here), left_side)
        was_open = left_side == TIE
        opens = tied & ~was_open
        opened = np.where(opens, here[0], opened)
        at_end = arrive & (here[0] >= 1)
        if self.max_ties:
            ends = arrive & (was_open | opens) & ((side != TIE) | at_end)
            self._list(ends, opened, np.where(done, left_s, here[0]))
        within = arrive & ~at_end
        self.saw_plus[self.who] |= within & (tied | (side != MINUS))
        self.saw_minus[self.who] |= within & (tied | (side != PLUS))
        going = here[0] < 1
        if not self.max_ties:
            going = going & ~(self.saw_plus[self.who] & self.saw_minus[self.who])
        return new, side, opened, going

    def _cut(
        self,
        here: Floats,
        ahead: Floats,
        side: NDArray[np.int8],
        side_ahead: NDArray[np.int8],
        step: int,
    ) -> tuple[Floats, Bools, Bools, Floats]:
        """Where to evaluate next: the top of the tent, or the crossing, of two tangents."""
        crosses = side * side_ahead == PLUS * MINUS
        leaves = (side == TIE) & (side_ahead != TIE)
        enters = (side != TIE) & (side_ahead == TIE)
        # A tie is followed along the function that stays above where it ends.
        lead_plus = (side == PLUS) | ((side == TIE) & (side_ahead != PLUS))
        left, left_slope = _pick(lead_plus, here)
        right, right_slope = _pick(lead_plus ^ (crosses | leaves), ahead)
        width = ahead[0] - here[0]
        turn = left_slope - right_slope
        rise = right - right_slope * width - left
        reach = np.divide(rise, turn, out=np.full_like(rise, -1), where=turn != 0)
        inside = (reach > 0) & (reach < width)
        if step % 2 == 0:  # every other cut takes the difference as s|s|
            gap_here = np.sqrt(np.abs(here[1] - here[2]))
            gap_ahead = np.sqrt(np.abs(ahead[1] - ahead[2]))
            bend = width * gap_here / np.maximum(gap_here + gap_ahead, self.tol)
            bend = np.where(leaves, np.maximum(2 * reach - width, reach / 2), bend)
            bend = np.where(enters, np.minimum(2 * reach, (reach + width) / 2), bend)
            reach = np.where(crosses | leaves | enters, bend, reach)
        cut = here[0] + np.where(inside, reach, width / 2)
        return cut, inside, lead_plus, left + left_slope * (cut - here[0])

    def _list(self, ends: Bools, lo: Floats, hi: Floats) -> None:
        who = self.who[ends]
        fits = self.count[who] < self.max_ties
        at = who[fits], self.count[who[fits]]
        self.ties[(*at, 0)], self.ties[(*at, 1)] = lo[ends][fits], hi[ends][fits]
        self.count[who] += 1


# All pairs of lines


def all_pairs_phases(
    probs: Floats,
    model_probs: Floats,
    payoff: Floats,
    safe: tuple[bool, bool] = (False, True),
    chunk: int = 4,
) -> Phases:
    """Phases from where every line is lowest, which its crossings with all others say.

    Line i is within ``tol`` of the lowest where ``level_i - level_j - tol + (slope_i - slope_j) s
    <= 0`` for all j: an interval, for each of the M x M pairs one bound on one of its ends.

    Parameters
    ----------
    probs, model_probs, payoff : as for `lines`.
    safe : which actions are safe.
    chunk : cells at a time.
    """
    parts: list[Phases] = []
    for start in range(0, probs.shape[0], chunk):
        at = slice(start, start + chunk)
        shared = model_probs.shape[0] == 1, payoff.shape[0] == 1
        given = lines(
            probs[at],
            model_probs if shared[0] else model_probs[at],
            payoff if shared[1] else payoff[at],
        )
        tolerance = _tolerance(given.kl[0].dtype)
        level, slope, plus, minus, usable = _prepare(given, tolerance)
        optimal = _optimal_when_pure(given, plus, minus, tolerance)
        best = usable & _is_lowest_inside(level, slope, usable, level.dtype.type(tolerance.fit))
        seen = np.asarray((best & plus).any(1)), np.asarray((best & minus).any(1))
        parts.append(Phases(*_decide(optimal, *seen, np.asarray(safe))))
    return Phases(
        *(
            np.concatenate([getattr(p, f) for p in parts])
            for f in ("phase", "pure", "rationalizable")
        )
    )


def _is_lowest_inside(level: Floats, slope: Floats, usable: Bools, tol: Any) -> Bools:
    """Which lines [cells, M] are within ``tol`` of the lowest for some s strictly in (0, 1)."""
    others = _exclude(level, ~usable)
    above = level[:, :, None] - others[:, None, :] - tol
    turn = slope[:, :, None] - slope[:, None, :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = -above / turn
    low = np.where(turn < 0, crossing, 0).max(2)
    high = np.where(turn > 0, crossing, 1).min(2)
    parallel = ((turn == 0) & (above > 0)).any(2)
    return (low <= high) & (low < 1) & (high > 0) & ~parallel


def in_threads(
    function: Callable[..., Any], arguments: tuple[Floats, ...], num_threads: int
) -> Any:
    """Deal cells out to threads, a share each; NumPy lets go of the interpreter as it computes."""
    shares = [np.array_split(x, num_threads) for x in arguments]
    with ThreadPoolExecutor(num_threads) as pool:
        return np.concatenate(list(pool.map(function, *shares)))


# Continuous Theta


def continuous_sycophancy_phases(
    p_sycophantic: Floats, p_honest: Floats, scan: int = 33, nodes: int = 65, chunk: int = 128
) -> Phases:
    """Phases of the sycophancy scenario of width 0 with theta anywhere in [0, 1].

    The best fit for each of ``scan`` mixtures is located on ``nodes`` points and polished by
    safeguarded Newton steps on the divergence, as any family with one parameter would be; the
    sign of the payoff difference ``2 theta - 1`` there says which reply is best.

    Parameters
    ----------
    p_sycophantic, p_honest : [cells] true approval probabilities.
    scan, nodes : points over play and over theta.
    chunk : cells at a time.
    """
    dtype = p_sycophantic.dtype
    tolerance = _tolerance(dtype)
    edge = 0.1 * tolerance.play
    s = np.linspace(0, 1, scan, dtype=dtype)
    s[0], s[-1] = edge, 1 - edge
    s = np.concatenate([s, np.array([1, 0], dtype)])
    theta = np.linspace(0, 1, nodes, dtype=dtype)
    tiny = np.finfo(dtype).tiny
    logs = np.stack([np.log(np.maximum(theta, tiny)), np.log(np.maximum(1 - theta, tiny))])
    step = dtype.type(1 / (nodes - 1))
    parts: list[Phases] = []
    for start in range(0, len(p_sycophantic), chunk):
        p, q = (x[start : start + chunk, None] for x in (p_sycophantic, p_honest))
        approve = s * p + (1 - s) * (1 - q)  # weight of log(theta); the rest is log(1 - theta)
        weights = np.stack([approve, 1 - approve], -1).reshape(-1, 2)
        best = theta[(weights @ logs).argmax(1)].reshape(approve.shape)
        low, high = np.maximum(best - step, 0), np.minimum(best + step, 1)
        for _ in range(8):
            at = np.clip(best, tiny, 1 - np.finfo(dtype).epsneg)
            slope = (1 - approve) / (1 - at) - approve / at
            bend = (1 - approve) / (1 - at) ** 2 + approve / at**2
            low, high = np.where(slope < 0, best, low), np.where(slope > 0, best, high)
            newton = best - slope / bend
            within = (newton >= low) & (newton <= high)
            best = np.where(within, newton, (low + high) / 2)
        gain, slack = 2 * best - 1, dtype.type(tolerance.payoff)
        plus, minus = gain >= -slack, gain <= slack
        optimal = np.stack([plus[:, -2:], minus[:, -2:]], -1)
        inside = plus[:, :-2].any(1), minus[:, :-2].any(1)
        parts.append(Phases(*_decide(optimal, *inside, np.array([False, True]))))
    return Phases(
        *(
            np.concatenate([getattr(p, f) for p in parts])
            for f in ("phase", "pure", "rationalizable")
        )
    )
