"""Populations of Bayesian learners in numba: one fused loop, all cores.

Perfect memory, categorical consequences, best response (ties: the first). The algorithms of bnjax,
the blocked one in three layouts and the one by moments (`bnjax/learning/_moments.py`) in one:

- ``agent``: one agent after the other, as one first writes it.
- ``lanes``: agents in the vector lanes (weights [M, lanes]). Two actions with up to four pairs of
  action and consequence: likelihoods are selected, not looked up.
- ``rows``: all agents of a tile take a step before any takes the next (weights [lanes, M]): the
  models of an agent are the vector, its likelihoods are a row of a table, whatever their number,
  and the processor overlaps agents, so that it never waits for a sum.
- ``moments``: two actions with two consequences, agents in the vector lanes, each at its own pace:
  17 moments, a product of matrices, hold 16 decisions; who is done makes room for the next.

What makes them fast, besides the algorithm: with two actions a model's weight includes by how much
it favours its action, so that the decision is a difference of two sums; models that favour neither
are left out; denormal numbers are flushed to zero, which numba by itself does not do; tiles stay in
the first- and second-level cache; random numbers (xoshiro128+ of Blackman and Vigna, a generator an
agent) and the exponential are written out, so that LLVM vectorises them.
"""

from __future__ import annotations

import math
import platform
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import numpy_baseline as baseline

Layout = Literal["agent", "lanes", "rows", "moments"]

_f32, _i32, _u32 = np.float32, np.int32, np.uint32
_NOTHING = -3e38  # stands for a log of zero: fast arithmetic knows no infinity
_FLUSH = 0x9FC0  # default control word of SSE, with denormals flushed to zero both ways
_CACHE = 16_384  # weights of a tile
_MOST_CODES = 4  # that `lanes` selects between
_DEGREE = 16  # decisions from moments


def simulate(
    problem: baseline.Categorical,
    seed: int,
    *,
    num_agents: int,
    num_steps: int,
    layout: Layout = "lanes",
    tile: int | None = None,
    num_threads: int = 1,
) -> baseline.Result:
    """Simulate a population in single precision.

    Parameters
    ----------
    problem, seed, num_agents, num_steps : as for `numpy_baseline.simulate`.
    layout : see the module.
    tile : agents that go together. Default: by the number of models.
    num_threads : threads that tiles are dealt out to.
    """
    if layout in ("lanes", "moments") and not fits_lanes(problem):
        raise ValueError(f"the layout {layout!r} knows two actions with two consequences.")
    tables = _tables(problem, layout)
    num_models = tables.log.shape[1]
    if tile is None:
        fitting = 1 << max(0, (_CACHE // num_models).bit_length() - 1)
        tile = min(256, max(32, fitting)) if layout != "moments" else 512
        while tile > 32 and num_agents < tile * num_threads:
            tile //= 2
    padded = -(-num_agents // tile) * tile
    state = np.random.default_rng(seed).integers(0, 2**32, (4, padded), np.uint32)
    kernels = {"agent": _run_agent, "lanes": _run_lanes, "rows": _run_rows}
    run = kernels.get(layout, _run_moments)
    half, fourth = baseline.quarters(num_steps)
    final = _Final(
        counts=np.zeros((problem.probs.size, padded), np.float32),
        before=np.zeros((problem.probs.size, padded), np.float32),
        intended=np.zeros(padded, np.int32),
        since=np.zeros(padded, np.int32),
        switches=np.zeros((2, padded), np.int32),
        log_belief=np.empty((padded, len(problem.log_prior)), np.float32),
    )
    # Threads of Python rather than `prange`, which compiles for three times as long.
    parts = min(padded // tile, num_threads if layout == "moments" else 4 * num_threads)
    ends = [padded // tile * part // parts * tile for part in range(parts + 1)]

    def share(part: int) -> None:
        run(tables, state, final, ends[part], ends[part + 1], tile, num_steps, half, fourth)

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(share, range(parts)))
    return _result(problem, final, num_agents, num_steps, half)


def fits_lanes(problem: baseline.Categorical) -> bool:
    """Whether the layout ``lanes`` serves."""
    return problem.num_actions == 2 and problem.probs.size <= _MOST_CODES


class _Tables(NamedTuple):
    """What the kernels look up, in single precision; models by sign of their gain.

    ``log``, ``size`` [K, M]: log-likelihood ratios of the pairs of action and consequence and
    their absolute values; ``out`` [K, M] 1 where a model rules a pair out; ``factors`` [K, M];
    ``prior`` [M] with the size of the gain; ``gain`` [F, M] (two actions: a sign); ``split``:
    models before it favour the second action; ``cdf`` [Y - 1, A]; ``kills`` [K]; ``whole_*``:
    of all models, for the final belief; ``moments`` [A (D + 1), M]: r^(D-i) q^i, ``binomials``
    [D + 1, D + 1] and ``stretch``, the most steps from one belief, for the layout of that name.
    """

    log: Any
    size: Any
    out: Any
    factors: Any
    prior: Any
    gain: Any
    spread: Any
    split: int
    cdf: Any
    kills: Any
    excludes: bool
    block: int
    top: Any
    tolerance: Any
    rounding: Any
    whole_log: Any
    whole_out: Any
    whole_prior: Any
    moments: Any
    binomials: Any
    stretch: int


class _Final(NamedTuple):
    """Where a kernel writes: [K, N], [K, N], [N], [N], [2, N], [N, M]."""

    counts: Any
    before: Any
    intended: Any
    since: Any
    switches: Any
    log_belief: Any


def _tables(problem: baseline.Categorical, layout: Layout) -> _Tables:
    problem = baseline.Categorical(*(np.asarray(x, np.float32) for x in problem))
    policy = baseline.BestResponse()
    features, log_size = policy.table(problem.payoffs())
    log, out = problem.log_ratios()
    codes, num_models = log.shape
    plan = baseline.plan_blocks(log, out, flushes=True)
    allowed = np.where(out, -np.inf, log)
    peak = allowed.max(1, keepdims=True)
    factors = np.exp(allowed - np.where(peak > -np.inf, peak, 0))
    half = features.shape[1] // 2
    gain = features[:, :half].T if half else np.zeros((1, num_models), np.float32)
    spread = features[:, half:].T if half else np.zeros((1, num_models), np.float32)
    prior = np.maximum(problem.log_prior + log_size, _NOTHING)
    # Models that have no say are left out. Empty places fill up pairs of models of one sign, or
    # whole vectors of models: what is left over after those is slow.
    says = np.flatnonzero(prior > _NOTHING)
    groups, whole = [says], 16 if len(says) > 16 else 1
    if layout == "lanes":
        groups, whole = [says[gain[0, says] > 0], says[gain[0, says] < 0]], 2
    order = [np.pad(g, (0, -len(g) % whole), constant_values=-1) for g in groups]
    places = np.concatenate(order) if len(says) else np.array([-1, -1])
    empty = places < 0

    def pick(array: Any, fill: float) -> Any:
        chosen = np.array(array[..., places], np.float32)
        chosen[..., empty] = fill
        return np.ascontiguousarray(chosen)

    cdf = np.cumsum(problem.probs, axis=1) / problem.probs.sum(1, keepdims=True)
    probs = problem.model_probs.astype(float) if layout == "moments" else np.ones((1, 2, 2))
    q = probs[:, :, 1] / probs.sum(2)
    powers = np.arange(_DEGREE + 1)[:, None, None]
    moments = (1 - q) ** (_DEGREE - powers) * q**powers  # [D + 1, M, A]
    moments = moments.transpose(2, 0, 1).reshape(-1, len(q))
    binomials = [[math.comb(n, i) for i in powers.ravel()] for n in powers.ravel()]
    # The powers are as they are: below the smallest normal number they are flushed.
    nats = (
        -math.log(np.finfo(np.float32).tiny)
        - _DEGREE * math.log(2)
        - math.log((_DEGREE + 1) * num_models)
    )
    least = probs[probs > 0].min()
    last = problem.probs.shape[1] - 1 - (problem.probs[:, ::-1] > 0).argmax(1)
    cdf[np.arange(cdf.shape[1]) >= last[:, None]] = 2
    return _Tables(
        log=pick(log, 0),
        size=pick(np.abs(log), 0),
        out=pick(out, 0),
        factors=pick(factors, 0),
        prior=pick(prior, _NOTHING),
        gain=pick(gain, 0),
        spread=pick(spread, 0),
        split=len(order[0]),
        cdf=np.ascontiguousarray(cdf[:, :-1].T, np.float32),
        kills=out.any(1),
        excludes=bool(out.any()),
        block=plan.steps,
        top=_f32(plan.top),
        tolerance=_f32(policy.tolerance_in(np.dtype(np.float32))),
        rounding=_f32(0.5 * (codes + 6) * np.finfo(np.float32).eps),
        whole_log=log,
        whole_out=out.astype(np.float32),
        whole_prior=np.maximum(problem.log_prior, _NOTHING).astype(np.float32),
        moments=pick(moments, 0) if layout == "moments" else moments.astype(np.float32),
        binomials=np.array(binomials, np.float32),
        stretch=int(np.clip(nats / max(-math.log(least), 1e-3), 1, _DEGREE)),
    )


def _result(
    problem: baseline.Categorical, final: _Final, num_agents: int, num_steps: int, half: int
) -> baseline.Result:
    counts = final.counts[:, :num_agents]
    shape = *problem.probs.shape, num_agents
    played = counts.reshape(shape).sum(1).T
    before = final.before[:, :num_agents].reshape(shape).sum(1).T
    log_belief = final.log_belief[:num_agents]
    if log_belief.min() < 0.1 * _NOTHING:
        log_belief[log_belief < 0.1 * _NOTHING] = -np.inf
    return baseline.Result(
        frequency=played / _f32(num_steps),
        late_frequency=(played - before) / _f32(num_steps - half),
        log_belief=log_belief,
        mean_payoff=problem.payoff.astype(np.float32).ravel() @ counts / _f32(num_steps),
        intended=final.intended[:num_agents],
        since=final.since[:num_agents],
        switches=final.switches[:, :num_agents].T,
    )


# Pieces of the kernels


def _control_word_intrinsic(typingctx: Any, word: Any) -> Any:
    """Set how SSE rounds and flushes; return how it did. Elsewhere, do nothing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if platform.machine() not in ("x86_64", "AMD64"):
            return args[0]
        slot = builder.alloca(ir.IntType(32))
        pointer = builder.bitcast(slot, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        store = builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", (), kind)
        load = builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", (), kind)
        builder.call(store, [pointer])
        old = builder.load(slot)
        builder.store(args[0], slot)
        builder.call(load, [pointer])
        return old

    return types.uint32(types.uint32), codegen


_control_word: Any = intrinsic(_control_word_intrinsic)

_jit = numba.njit(fastmath=True, error_model="numpy", nogil=True)
_inline = numba.njit(fastmath=True, error_model="numpy", inline="always")


@_inline
def _exp(x):
    """exp of x <= 0 to 3e-7, zero below -87 (Cephes: a power of two and a polynomial)."""
    z = max(x, _f32(-87.0))
    n = np.floor(z * _f32(1.4426950408889634) + _f32(0.5))
    r = z - n * _f32(0.693359375) + n * _f32(2.12194440e-4)
    p = _f32(1.9875691500e-4)
    p = p * r + _f32(1.3981999507e-3)
    p = p * r + _f32(8.3334519073e-3)
    p = p * r + _f32(4.1665795894e-2)
    p = p * r + _f32(1.6666665459e-1)
    p = p * r + _f32(5.0000001201e-1)
    p = p * r * r + r + _f32(1)
    bits = _i32((_i32(n) + _i32(127)) << _i32(23))
    return p * bits.view(_f32) if x > _f32(-87.0) else _f32(0)


@_jit
def _log_weights(row, counts, lane, prior, log, out, excludes):
    """Log-weights of an agent's models from its counts; return the largest."""
    num_codes, num_models = log.shape
    for m in range(num_models):
        row[m] = prior[m]
    for k in range(num_codes):
        n = counts[k, lane]
        for m in range(num_models):
            row[m] += n * log[k, m]
        if excludes and n > 0:
            for m in range(num_models):
                row[m] = _f32(_NOTHING) if out[k, m] > 0 else row[m]
    peak = _f32(_NOTHING)
    for m in range(num_models):
        peak = max(peak, row[m])
    return peak


@_jit
def _refresh(row, counts, lane, tables):
    """Weights of an agent from its counts; return its tolerance for ties."""
    log, size = tables.log, tables.size
    peak = _log_weights(row, counts, lane, tables.prior, log, tables.out, tables.excludes)
    total = _f32(0)
    for m in range(row.size):
        weight = _exp(row[m] - peak)
        row[m] = weight
        total += weight
    moved = _f32(0)
    for k in range(size.shape[0]):
        n = counts[k, lane]
        for m in range(row.size):
            moved += n * size[k, m] * row[m]
    for m in range(row.size):
        row[m] *= tables.top
    return tables.tolerance + tables.rounding * moved / total


@_jit
def _believe(row, counts, lane, tables):
    """Final log-belief of an agent about all models, normalised."""
    peak = _log_weights(
        row, counts, lane, tables.whole_prior, tables.whole_log, tables.whole_out, tables.excludes
    )
    total = _f32(0)
    for m in range(row.size):
        total += _exp(row[m] - peak)
    peak += np.log(total)
    for m in range(row.size):
        row[m] = row[m] - peak if row[m] > _f32(0.1 * _NOTHING) else _f32(_NOTHING)


@_jit
def _numbers(state, number):
    """A number in [0, 1) for each lane: xoshiro128+."""
    for i in range(number.size):
        a, b, c, d = state[0, i], state[1, i], state[2, i], state[3, i]
        word = _u32(a + d)
        shifted = _u32(b << _u32(9))
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = _u32(_u32(d << _u32(11)) | _u32(d >> _u32(21)))
        state[0, i], state[1, i], state[2, i], state[3, i] = a, b, c, d
        number[i] = _f32(_i32(word >> _u32(8))) * _f32(2.0**-24)


@_jit
def _tally(intend, code, number, counts, intended, since, switches, cdf, time):
    """Draw what comes of the intended actions, and count it; ``switches`` of one quarter."""
    num_lanes, num_cuts = code.size, cdf.shape[0]
    consequences = _i32(num_cuts + 1)
    if cdf.shape[1] == 2:
        for i in range(num_lanes):
            code[i] = consequences * intend[i]
        for j in range(num_cuts):
            first, second = cdf[j, 0], cdf[j, 1]
            for i in range(num_lanes):
                code[i] += _i32(number[i] >= (second if intend[i] == 1 else first))
    else:
        for i in range(num_lanes):
            code[i] = consequences * intend[i]
            for j in range(num_cuts):
                code[i] += _i32(number[i] >= cdf[j, intend[i]])
    if time > 0:
        for i in range(num_lanes):
            changed = intend[i] != intended[i]
            since[i] = time if changed else since[i]
            switches[i] += _i32(changed)
            intended[i] = intend[i]
    else:
        intended[:] = intend
    for k in range(counts.shape[0]):
        for i in range(num_lanes):
            counts[k, i] += _f32(1) if code[i] == k else _f32(0)


@_jit
def _killed(code, counts, kills):
    """Whether some agent just saw for the first time what a model rules out."""
    for i in range(code.size):  # noqa: SIM110
        if kills[code[i]] and counts[code[i], i] == 1:
            return True
    return False


@_jit
def _update_lanes(w, code, factors, low, high, total):
    """Multiply the weights of some models by likelihoods and sum them, two models at a time."""
    for i in range(code.size):
        total[i] = 0
    for m in range(low, high, 2):
        a0, a1, a2, a3 = factors[0, m], factors[1, m], factors[2, m], factors[3, m]
        n = m + 1
        b0, b1, b2, b3 = factors[0, n], factors[1, n], factors[2, n], factors[3, n]
        for i in range(code.size):
            odd, upper = (code[i] & 1) != 0, (code[i] & 2) != 0
            x = w[m, i] * ((a3 if odd else a2) if upper else (a1 if odd else a0))
            y = w[n, i] * ((b3 if odd else b2) if upper else (b1 if odd else b0))
            w[m, i] = x
            w[n, i] = y
            total[i] += x + y


@_jit
def _sum_lanes(w, low, high, total):
    for i in range(total.size):
        total[i] = 0
    for m in range(low, high):
        for i in range(total.size):
            total[i] += w[m, i]


@_jit
def _sum_rows(w, gain, means, total):
    """Sums of weights and gains of every agent, without an observation."""
    for i in range(total.size):
        weight = _f32(0)
        for m in range(w.shape[1]):
            weight += w[i, m]
        total[i] = weight
    for a in range(gain.shape[0]):
        for i in range(total.size):
            mean = _f32(0)
            for m in range(w.shape[1]):
                mean += w[i, m] * gain[a, m]
            means[a, i] = mean


@_jit
def _update_rows(w, code, factors, gain, means, total):
    """Multiply every agent's weights by a row of likelihoods; sums of weights and gains."""
    for i in range(code.size):
        k = code[i]
        weight, mean = _f32(0), _f32(0)
        for m in range(w.shape[1]):
            x = w[i, m] * factors[k, m]
            w[i, m] = x
            weight += x
            mean += x * gain[0, m]
        total[i], means[0, i] = weight, mean
    for a in range(1, gain.shape[0]):
        for i in range(code.size):
            mean = _f32(0)
            for m in range(w.shape[1]):
                mean += w[i, m] * gain[a, m]
            means[a, i] = mean


@_jit
def _decide_rows(w, means, total, tolerance, spread, intend):
    """The first action that is best to within the tolerance."""
    num_actions = means.shape[0]
    if num_actions == 1:  # two actions, of which the second is given; or one, without gains
        for i in range(intend.size):
            intend[i] = _i32(means[0, i] > tolerance[i] * total[i])
        return
    for i in range(intend.size):
        best, top = _i32(0), means[0, i]
        for a in range(1, num_actions):
            if means[a, i] > top:
                best, top = _i32(a), means[a, i]
        intend[i] = best
        # Sizes are at most one: who is further apart than this is no tie.
        for a in range(best):
            if top - means[a, i] <= _f32(2) * tolerance[i] * total[i]:
                size = _f32(0)
                for m in range(w.shape[1]):
                    size += w[i, m] * (spread[a, m] + spread[best, m])
                if top - means[a, i] <= tolerance[i] * size:
                    intend[i] = _i32(a)
                    break


# The kernels


@_jit
def _run_lanes(tables, state, final, begin, end, tile, num_steps, half, fourth):
    num_codes, num_models = tables.log.shape
    split, excludes = tables.split, tables.excludes
    old = _control_word(_u32(_FLUSH))
    for first in range(begin, end, tile):
        mine = state[:, first : first + tile].copy()
        w, row = np.empty((num_models, tile), _f32), np.empty(num_models, _f32)
        counts, before = np.zeros((num_codes, tile), _f32), np.zeros((num_codes, tile), _f32)
        floats, ints = np.zeros((4, tile), _f32), np.zeros((3, tile), _i32)
        plus, minus, tolerance, number = floats[0], floats[1], floats[2], floats[3]
        code, intended, since = ints[0], ints[1], ints[2]
        intend, switches = np.zeros(tile, _i32), np.zeros((3, tile), _i32)
        left, quarter = 0, 0
        for time in range(num_steps):
            if time == half:
                before[:] = counts
                quarter = 1
            if time == fourth:
                quarter = 2
            if left == 0:
                for i in range(tile):
                    tolerance[i] = _refresh(row, counts, i, tables)
                    for m in range(num_models):
                        w[m, i] = row[m]
                _sum_lanes(w, 0, split, plus)
                _sum_lanes(w, split, num_models, minus)
                left = tables.block
            else:
                _update_lanes(w, code, tables.factors, 0, split, plus)
                _update_lanes(w, code, tables.factors, split, num_models, minus)
            for i in range(tile):
                gap, total = plus[i] - minus[i], plus[i] + minus[i]
                intend[i] = _i32(gap > tolerance[i] * total)
            _numbers(mine, number)
            _tally(
                intend, code, number, counts, intended, since,
                switches[quarter], tables.cdf, _i32(time),
            )  # fmt: skip
            left -= 1
            if excludes and _killed(code, counts, tables.kills):
                left = 0
        final.counts[:, first : first + tile] = counts
        final.before[:, first : first + tile] = before
        final.intended[first : first + tile] = intended
        final.since[first : first + tile] = since
        final.switches[:, first : first + tile] = switches[1:]
        for i in range(tile):
            _believe(final.log_belief[first + i], counts, i, tables)
    _control_word(old)


@_jit
def _run_rows(tables, state, final, begin, end, tile, num_steps, half, fourth):
    num_codes, num_models = tables.log.shape
    excludes = tables.excludes
    old = _control_word(_u32(_FLUSH))
    for first in range(begin, end, tile):
        mine = state[:, first : first + tile].copy()
        w, means = np.empty((tile, num_models), _f32), np.empty((tables.gain.shape[0], tile), _f32)
        counts, before = np.zeros((num_codes, tile), _f32), np.zeros((num_codes, tile), _f32)
        floats, ints = np.zeros((3, tile), _f32), np.zeros((3, tile), _i32)
        total, tolerance, number = floats[0], floats[1], floats[2]
        code, intended, since = ints[0], ints[1], ints[2]
        intend, switches = np.zeros(tile, _i32), np.zeros((3, tile), _i32)
        left, quarter = 0, 0
        for time in range(num_steps):
            if time == half:
                before[:] = counts
                quarter = 1
            if time == fourth:
                quarter = 2
            if left == 0:
                for i in range(tile):
                    tolerance[i] = _refresh(w[i], counts, i, tables)
                _sum_rows(w, tables.gain, means, total)
                left = tables.block
            else:
                _update_rows(w, code, tables.factors, tables.gain, means, total)
            _decide_rows(w, means, total, tolerance, tables.spread, intend)
            _numbers(mine, number)
            _tally(
                intend, code, number, counts, intended, since,
                switches[quarter], tables.cdf, _i32(time),
            )  # fmt: skip
            left -= 1
            if excludes and _killed(code, counts, tables.kills):
                left = 0
        final.counts[:, first : first + tile] = counts
        final.before[:, first : first + tile] = before
        final.intended[first : first + tile] = intended
        final.since[first : first + tile] = since
        final.switches[:, first : first + tile] = switches[1:]
        for i in range(tile):
            _believe(final.log_belief[first + i], counts, i, tables)
    _control_word(old)


@_jit
def _run_agent(tables, state, final, begin, end, tile, num_steps, half, fourth):
    """One agent after the other. ``tile`` has no meaning here; of ``state``, a seed an agent."""
    num_models, num_cuts = tables.log.shape[1], tables.cdf.shape[0]
    counts, intended, since, switches = final.counts, final.intended, final.since, final.switches
    old = _control_word(_u32(_FLUSH))
    for i in range(begin, end):
        np.random.seed(state[0, i])  # numba's own generator, of this thread  # noqa: NPY002
        w, means = np.empty((1, num_models), _f32), np.empty((tables.gain.shape[0], 1), _f32)
        total, tolerance = np.empty(1, _f32), np.empty(1, _f32)
        code, intend = np.zeros(1, _i32), np.zeros(1, _i32)
        left = 0
        for time in range(num_steps):
            if time == half:
                final.before[:, i] = counts[:, i]
            if left == 0:
                tolerance[0] = _refresh(w[0], counts, i, tables)
                _sum_rows(w, tables.gain, means, total)
                left = tables.block
            else:
                _update_rows(w, code, tables.factors, tables.gain, means, total)
            _decide_rows(w, means, total, tolerance, tables.spread, intend)
            action = intend[0]
            number = _f32(np.random.random())  # noqa: NPY002
            k = action * _i32(num_cuts + 1)
            for j in range(num_cuts):
                k += _i32(number >= tables.cdf[j, action])
            code[0] = k
            counts[k, i] += _f32(1)
            if action != intended[i] and time > 0:
                since[i] = _i32(time)
                if time >= half:
                    switches[1 if time >= fourth else 0, i] += _i32(1)
            intended[i] = action
            left -= 1
            if tables.excludes and tables.kills[k] and counts[k, i] == 1:
                left = 0
        _believe(final.log_belief[i], counts, i, tables)
    _control_word(old)


@_jit
def _weigh_lanes(w, counts, tables, peak, total, moved):
    """Weights of the models, times what each says for the second action beyond the tolerance."""
    log, size, prior, out = tables.log, tables.size, tables.prior, tables.out
    num_models, num_lanes = w.shape
    for m in range(num_models):
        a, b, c, d, start = log[0, m], log[1, m], log[2, m], log[3, m], prior[m]
        for i in range(num_lanes):
            x = start + counts[0, i] * a + counts[1, i] * b
            w[m, i] = x + counts[2, i] * c + counts[3, i] * d
    if tables.excludes:
        for k in range(4):
            for m in range(num_models):
                if out[k, m] > 0:
                    for i in range(num_lanes):
                        w[m, i] = _f32(_NOTHING) if counts[k, i] > 0 else w[m, i]
    for i in range(num_lanes):
        peak[i], total[i], moved[i] = _f32(_NOTHING), 0, 0
    for m in range(num_models):
        for i in range(num_lanes):
            peak[i] = max(peak[i], w[m, i])
    for m in range(num_models):
        a, b, c, d = size[0, m], size[1, m], size[2, m], size[3, m]
        for i in range(num_lanes):
            x = _exp(w[m, i] - peak[i])
            w[m, i] = x
            total[i] += x
            y = counts[0, i] * a + counts[1, i] * b + counts[2, i] * c + counts[3, i] * d
            moved[i] += x * y
    for i in range(num_lanes):
        moved[i] = tables.tolerance + tables.rounding * moved[i] / total[i]
    for m in range(num_models):
        gain = tables.gain[0, m]
        for i in range(num_lanes):
            w[m, i] *= tables.top * (gain - moved[i])


@_jit
def _select_lanes(row, moments, intended):
    """Moments of the action that each lane intends."""
    num = row.shape[0]
    for j in range(num):
        for i in range(intended.size):
            row[j, i] = moments[num + j, i] if intended[i] == 1 else moments[j, i]


@_jit
def _decide_lanes(row, weights, value, intend):
    """The next decision, from the moments that are left."""
    for i in range(value.size):
        value[i] = 0
    for j in range(weights.size):
        times = weights[j]
        for i in range(value.size):
            value[i] += times * row[j, i]
    for i in range(value.size):
        intend[i] = _i32(value[i] > 0)


@_jit
def _draw_lanes(intend, number, cdf, room, code):
    """Draw what comes of the intended actions; -1 in lanes that have no room for another step."""
    first, second = cdf[0, 0], cdf[0, 1]
    for i in range(code.size):
        outcome = _i32(number[i] >= (second if intend[i] == 1 else first))
        code[i] = _i32(2) * intend[i] + outcome if room[i] > 0 else _i32(-1)


@_jit
def _change_lanes(intend, room, intended, changes):
    """Note who does what it did not do before: that ends the block of a lane."""
    for i in range(room.size):
        changes[i] = _i32(room[i] > 0) * _i32(intend[i] != intended[i])
        intended[i] = intend[i] if room[i] > 0 else intended[i]
    for i in range(room.size):
        room[i] = _i32(0) if changes[i] == 1 else room[i] - _i32(1)


@_jit
def _since_lanes(changes, start, step, since, switched):
    """Note the step of a change; the first step changes nothing."""
    for i in range(changes.size):
        switches = changes[i] * _i32(start[i] + step > 0)
        since[i] = start[i] + step if switches == 1 else since[i]
        switched[i] += switches


@_jit
def _count_lanes(code, counts, time):
    for k in range(4):
        for i in range(code.size):
            counts[k, i] += _f32(code[i] == k)
    for i in range(code.size):
        time[i] += _i32(code[i] >= 0)


@_jit
def _drop_lanes(code, row, left):
    """Drop the moment at one end."""
    for j in range(left):
        for i in range(code.size):
            row[j, i] = row[j + 1, i] if code[i] & 1 else row[j, i]


@_jit
def _run_moments(tables, state, final, begin, end, tile, num_steps, half, fourth):
    """Each lane goes at its own pace, and takes the next agent when one is done.

    Random numbers of steps beyond a block are not used.
    """
    num_models, lanes = tables.log.shape[1], min(tile, end - begin)
    old = _control_word(_u32(_FLUSH))
    w, floats = np.empty((num_models, lanes), _f32), np.empty((5, lanes), _f32)
    row = np.empty((_DEGREE + 1, lanes), _f32)
    moments = np.empty((2 * (_DEGREE + 1), lanes), _f32)
    peak, total, moved, value, number = floats[0], floats[1], floats[2], floats[3], floats[4]
    ints = np.zeros((9, lanes), _i32)
    intend, code, room, intended, since = ints[0], ints[1], ints[2], ints[3], ints[4]
    switched, time, start, changes = ints[5], ints[6], ints[7], ints[8]
    counts, before = np.zeros((4, lanes), _f32), np.zeros((4, lanes), _f32)
    quarter, switches = np.empty(lanes, _i32), np.zeros((3, lanes), _i32)
    mine = state[:, begin : begin + lanes].copy()
    agent, following, busy = np.arange(begin, begin + lanes), begin + lanes, lanes
    while busy > 0:
        for i in range(lanes):
            quarter[i] = _i32(time[i] >= half) + _i32(time[i] >= fourth)
            stop = half if time[i] < half else fourth if time[i] < fourth else num_steps
            room[i] = min(_i32(stop) - time[i], _i32(tables.stretch))
            switched[i], start[i] = 0, time[i]
        for k in range(4):
            for i in range(lanes):
                before[k, i] = counts[k, i] if time[i] == half else before[k, i]
        _weigh_lanes(w, counts, tables, peak, total, moved)
        np.dot(tables.moments, w, moments)
        _select_lanes(row, moments, intended)
        for step in range(_DEGREE):
            left = _DEGREE - step
            _decide_lanes(row, tables.binomials[left, : left + 1], value, intend)
            _numbers(mine, number)
            _draw_lanes(intend, number, tables.cdf, room, code)
            _change_lanes(intend, room, intended, changes)
            _since_lanes(changes, start, _i32(step), since, switched)
            _count_lanes(code, counts, time)
            _drop_lanes(code, row, left)
            if tables.excludes:
                for i in range(lanes):
                    seen = max(code[i], 0)
                    if code[i] >= 0 and tables.kills[seen] and counts[seen, i] == 1:
                        room[i] = 0
        for q in range(3):
            for i in range(lanes):
                switches[q, i] += switched[i] if quarter[i] == q else _i32(0)
        for i in range(lanes):
            if time[i] == num_steps and agent[i] >= 0:
                j = agent[i]
                for k in range(4):
                    final.counts[k, j], final.before[k, j] = counts[k, i], before[k, i]
                final.intended[j], final.since[j] = intended[i], since[i]
                final.switches[0, j], final.switches[1, j] = switches[1, i], switches[2, i]
                _believe(final.log_belief[j], counts, i, tables)
                agent[i] = following if following < end else -1
                if following < end:
                    counts[:, i], before[:, i], switches[:, i], mine[:, i] = (
                        0,
                        0,
                        0,
                        state[:, following],
                    )
                    intended[i], since[i], time[i] = 0, 0, 0
                    following += 1
                else:
                    busy -= 1
    _control_word(old)


@_jit
def update_rate_kernel(w, code, factors, total, repeats):
    """The inner loop of ``lanes`` alone, for the roofline."""
    for _ in range(repeats):
        _update_lanes(w, code, factors, 0, w.shape[0], total)
