"""The fastest simulator of settled play: many best responses from a few moments of the belief.

Two actions, two consequences, perfect memory, best response. An agent that keeps to one action a
for the next D steps multiplies the weight w of a model, under which the first of two
consequences comes with probability r = 1 - q, by q or r at every step. Its decision after k of one
and j of the other, n = D - j - k steps before the end, is the sign of

    sum_m w_m g_m r_m^j q_m^k = sum_i C(n, i) B_(k+i),   B_i = sum_m w_m g_m r_m^(D-i) q_m^i,

where g_m is what the model says for one action less what it says against it: multiply by
(r + q)^n = 1 and expand. So D + 1 moments (the coefficients of a polynomial in Bernstein's basis)
hold all of the next D decisions, whatever happens, for a matrix product and a few operations a
step, instead of a sum over all models at every step. A consequence seen drops the moment at one
end. All terms are positive but for g, so that nothing cancels that does not cancel in the
decision itself.

Which consequence each action would bring about is drawn beforehand, and lies in the bits of a
word. Where an agent changes its action, or trembles, its block of steps ends, and a new one begins:
agents go at their own pace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add, or_
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from .._consequence import Categorical
from .._numerics import second_from, uniform
from ..belief import AbstractMemory, PerfectMemory, weight_range
from ..problem import AbstractFiniteProblem
from ..response import AbstractPolicy, tremble
from ._agent import Agent
from ._lives import Advance, Believer, Known, Lives
from ._random import words
from ._record import Record, Running, Steps, Trajectory, in_quarters, quarters

DEGREE = 16  # D: most steps from one belief, whose fates are half of the bits of a word

_AT_ONCE = 4  # of these are drawn together


def can_run_moments(
    problem: AbstractFiniteProblem,
    policy: AbstractPolicy,
    memory: AbstractMemory,
    record: Record,
) -> bool:
    """Whether this simulator serves, and may be worth it: it wants stretches of many steps."""
    truth = problem.consequence
    often = isinstance(record, Trajectory) and record.every < DEGREE
    return (
        isinstance(truth, Categorical)
        and truth.probs.shape == (2, 2)
        and type(memory) is PerfectMemory
        and not isinstance(record, Running)
        and not often
        and policy.knows_boundary()
    )


class _Fates(NamedTuple):
    """What chance brings in the next D steps of each agent, a bit for each from the lowest.

    In each word the lower half is for the first, the upper half for the second quantity.
    """

    outcomes: UInt32[Array, " agents"]  # which consequence either action would have
    trembles: UInt32[Array, " agents"]  # whether play trembles, and to which action


class _Table(NamedTuple):
    """What all blocks look up."""

    moments: Float[Array, "rows models"]  # r^(D-i) q^i, scaled, i = 0, ..., D, either action
    unsure: Float[Array, ""]  # rounding of these, in nats
    steps: Int[Array, ""]  # most steps of a block
    least: UInt32[Array, " actions"]  # random word from which on either has consequence 1
    possible: UInt32[Array, ""]  # half of a word for each: all bits if that can be


Block = Callable[[UInt32[Array, "2 agents"], Lives, Int[Array, ""]], Lives]


def moments_block(believer: Believer, num_steps: Steps, known: Known) -> Block:
    """(keys, lives, until) -> lives: some steps, but for agents who are at ``until``."""
    table = _table(believer.agent)

    def block(keys: Array, lives: Lives, until: Array) -> Lives:
        return _block(believer, table, keys, lives, until, num_steps, known)

    return block


def by_moments(
    believer: Believer,
    keys: UInt32[Array, "2 agents"],
    num_steps: Steps,
    record: Record,
    known: Known,
) -> Advance:
    """A way to `live`: each agent at its own pace, whatever is recorded."""
    block = moments_block(believer, num_steps, known)

    def advance(lives: Lives, start: Array, until: Array) -> tuple[Lives, Array]:
        lives = lax.while_loop(
            lambda lives: (lives.time < until).any(),
            lambda lives: block(keys, lives, until),
            lives,
        )
        return lives, until

    return advance


def _table(agent: Agent) -> _Table:
    problem: Any = agent.problem
    models = lax.stop_gradient(problem.models)  # [M, A, Y]
    total = models.sum(-1)
    probs = models / jnp.where(total > 0, total, 1.0)[..., None]
    dtype = probs.dtype
    _, _, scale = _range(dtype, probs.shape[0])
    # Powers 0, 1, ..., D of either probability, [D + 1, A, M], in as few kernels as can be.
    base = jnp.moveaxis(probs, 0, 2)
    start = jnp.full_like(base, 1.0).at[:, 0].set(scale)
    _, powers = lax.scan(lambda power, _: (power * base, power), start, length=DEGREE + 1)
    first, second = powers[::-1, :, 0], powers[:, :, 1]
    half = np.arange(DEGREE + 1) // 2
    # In halves: q^i alone might be flushed where the scaled product is not.
    rows = first * second[half] * second[np.arange(DEGREE + 1) - half]
    eps = float(jnp.finfo(dtype).eps)
    # Likelihoods do not quite sum to one: a block of steps multiplies that up.
    off = jnp.where(total > 0, jnp.abs(total - 1), 0.0).max()
    unsure = DEGREE * (4 * eps + off)
    least, possible = second_from(problem.consequence.probs)
    possible = possible.astype(jnp.uint32) * (2**DEGREE - 1)
    return _Table(
        jnp.moveaxis(rows, 1, 0).reshape(-1, probs.shape[0]),
        unsure.astype(dtype),
        _steps(probs),
        least,
        possible[0] | possible[1] << DEGREE,
    )


def _range(dtype: Any, num_models: int) -> tuple[float, float, float]:
    """Nats that weights and powers of likelihoods may each have; where either starts.

    A product of the two has to stay in range: so they share it.
    """
    nats, top = weight_range(dtype, num_models)
    half = 2.0 ** (int(math.log2(top)) // 2)
    return nats - math.log(top / half), half, top / half


def _steps(probs: Float[Array, "models actions outcomes"]) -> Int[Array, ""]:
    """How many steps a block may have, so that nothing that matters is flushed to zero.

    As in `steps_between_refreshes`, but weights are not multiplied relative to the likeliest
    model; and a sum of D + 1 terms with binomial coefficients of at most 2^D may be made of terms
    that much smaller.
    """
    nats, _, _ = _range(probs.dtype, probs.shape[0])
    nats = nats - DEGREE * math.log(2) - math.log(DEGREE + 1)
    least = jnp.where(probs > 0, probs, 1.0).min()
    steps = nats / jnp.maximum(-jnp.log(least), 1e-3)
    # One at least, even of what is not a number: every block has to get somewhere.
    return jnp.clip(steps.astype(jnp.int32), 1, DEGREE)


def _foresee(
    agent: Agent,
    table: _Table,
    keys: UInt32[Array, "2 agents"],
    time: Int[Array, " agents"],
    trembles: bool,
) -> _Fates:
    """All of chance, which does not depend on beliefs."""
    exploration, dtype = agent.trembles(), agent.likelihood.log_ratio.dtype

    def bits_of(kind: int, draw: Callable[[Array], Sequence[Array]]) -> UInt32[Array, " agents"]:
        """Bits of two quantities from one of the two words of each step."""

        def some(first: int) -> UInt32[Array, " agents"]:
            bits = jnp.zeros(time.shape, jnp.uint32)
            for step in range(_AT_ONCE):
                word = words(keys, time + (first + step), 1)[0, kind]
                lower, upper = (x.astype(jnp.uint32) for x in draw(word))
                bits = bits | (lower | upper << DEGREE) << step
            return bits

        # Written out, a few together: in a loop, in a sum, or one by one it takes up to twice as
        # long.
        return reduce(or_, (some(first) << first for first in range(0, DEGREE, _AT_ONCE)))

    found = bits_of(0, lambda word: [word >= least for least in table.least]) & table.possible
    play = jnp.zeros_like(found)
    if trembles:
        play = bits_of(1, lambda word: tremble(exploration, uniform(word, dtype), 2)[:2])
    return _Fates(found, play)


def _block(
    believer: Believer,
    table: _Table,
    keys: UInt32[Array, "2 agents"],
    lives: Lives,
    until: Int[Array, ""],
    num_steps: Steps,
    known: Known,
) -> Lives:
    """Steps of every agent from one belief: until its action changes, and that step too."""
    agent = believer.agent
    _, top, _ = _range(lives.counts.dtype, table.moments.shape[1])
    weight, slack, alive = believer.weights(lives.counts, top, known.excludes)
    favoured, boundary = agent.policy.boundary(slack + table.unsure)
    features = agent.table.features
    gain = sum(features[:, f, None] * coefficient for f, coefficient in enumerate(boundary))
    moments = jnp.dot(table.moments, weight * gain, precision=lax.Precision.HIGHEST)
    dead = believer.deadly(alive) if known.excludes else None
    time = lives.time
    room = jnp.minimum(until - time, table.steps)
    early = jnp.clip(quarters(num_steps)[0] - time, 0, DEGREE)
    fates = _foresee(agent, table, keys, time, known.trembles)
    # A branch that is always taken: without it, a compiler would compute all of it anew in each
    # of the loops that use it.
    packed = lax.cond(
        lives.time[0] >= 0,
        lambda *args: _decided(favoured, *args),
        lambda *args: jnp.zeros_like(time),
        moments, lives.intended, fates, room, early, dead,
    )  # fmt: skip

    def field(low: int, width: int) -> Array:
        return (packed >> low) & ((1 << width) - 1)

    before, ones, late = (field(i, 5) for i in (0, 5, 10))
    intended, action, outcome = (field(i, 1) for i in (15, 16, 17))
    first, zeros, moves = lives.intended == 0, before - ones, (room > 0).astype(jnp.int32)
    kept = jnp.stack(
        [
            jnp.where(first, zeros, 0),
            jnp.where(first, ones, 0),
            jnp.where(first, 0, zeros),
            jnp.where(first, 0, ones),
        ]
    )
    code = jnp.arange(4, dtype=jnp.int32)[:, None]
    kept = kept + jnp.where(code == 2 * action + outcome, moves, 0)
    when = time + before
    changes = moves * ((intended != lives.intended) & (when > 0)).astype(jnp.int32)
    quarter = in_quarters(when, num_steps)
    played = jnp.stack([jnp.where(first, late, 0), jnp.where(first, 0, late)])
    last = jnp.where(quarter.any(0), moves, 0)
    return Lives(
        lives.counts + kept.astype(lives.counts.dtype),
        lives.late + played + jnp.where(code[:2] == action, last, 0),
        jnp.where(moves > 0, intended, lives.intended),
        jnp.where(changes > 0, when, lives.since),
        lives.switches + jnp.where(quarter, changes, 0),
        time + before + moves,
    )


def _decided(
    favoured: int,
    moments: Float[Array, "rows agents"],
    mine: Int[Array, " agents"],
    fates: _Fates,
    room: Int[Array, " agents"],
    early: Int[Array, " agents"],
    dead: Bool[Array, "codes agents"] | None,
) -> Int[Array, " agents"]:
    """Decide all steps of a block: one loop over the agents, and one number for each of them.

    Five bits each: steps before the last, how many of them had consequence 1, and how many come
    after the first ``early``; then a bit each of the last: intended action, action, consequence.
    """
    second = mine == 1
    first_outcomes, second_outcomes = fates.outcomes, fates.outcomes >> DEGREE
    trembles, pieces = fates.trembles, fates.trembles >> DEGREE
    rows = range(DEGREE + 1)
    row = [jnp.where(second, moments[DEGREE + 1 + i], moments[i]) for i in rows]
    seen = jnp.where(second, second_outcomes, first_outcomes)
    favours = jnp.zeros_like(seen)
    for step in range(DEGREE):
        left = DEGREE - step
        value = reduce(add, (math.comb(left, i) * row[i] for i in range(left + 1)))
        favours = favours | (value > 0).astype(jnp.uint32) << step
        odd = ((seen >> step) & 1) == 1
        row = [jnp.where(odd, row[i + 1], row[i]) for i in range(left)]
    intends = favours if favoured == 1 else ~favours
    # A block ends with the first step in which something else is meant or done than before ...
    plays = (intends & ~trembles) | (pieces & trembles)
    stops = jnp.where(second, ~(intends & plays), intends | plays)
    if dead is not None:  # ... or that rules out a model ...
        stops = stops | jnp.where(jnp.where(second, dead[2], dead[0]), ~seen, 0)
        stops = stops | jnp.where(jnp.where(second, dead[3], dead[1]), seen, 0)
    # ... or where there is no more room.
    stops = stops | jnp.left_shift(jnp.ones_like(seen), jnp.maximum(room, 1).astype(jnp.uint32) - 1)
    last = stops & (~stops + 1)  # the lowest bit
    before = last - 1

    def count(bits: Array) -> Array:
        return lax.population_count(bits).astype(jnp.int32)

    outcomes = jnp.where((plays & last) != 0, second_outcomes, first_outcomes)

    def flag(word: Array) -> Array:
        return ((word & last) != 0).astype(jnp.int32)

    packed = count(before) | count(before & seen) << 5
    packed = packed | count(before >> early.astype(jnp.uint32)) << 10
    packed = packed | flag(intends) << 15 | flag(plays) << 16 | flag(outcomes) << 17
    return jnp.where(room > 0, packed, 0)
