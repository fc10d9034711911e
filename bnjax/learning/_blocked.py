"""The fast simulator: perfect memory of categorical consequences, agents in the vector lanes.

The state of an agent is its counts. At the start of a block of steps its weights are made anew
from them, exactly as in the plain simulator; inside the block they are only multiplied by
likelihoods relative to the likeliest model's, so that a step takes no exponential. How many steps
a block may have, so that nothing that matters is flushed to zero, is
`belief.steps_between_refreshes`. Everything has models first and agents last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from .._consequence import Categorical
from .._numerics import inverse_cdf, second_from, uniform
from ..belief import (
    AbstractMemory,
    Likelihood,
    PerfectMemory,
    largest_log_range,
    steps_between_refreshes,
)
from ..problem import AbstractFiniteProblem
from ..response import are_probabilities, is_built_in, tremble
from ._agent import Agent
from ._lives import Advance, Believer, Known, Lives
from ._random import words
from ._record import Record, Running, Steps, Trajectory, end_of_quarter, in_quarters

DRAWS = 32  # steps whose random words are made together, at most: bits of a number
_MOST_CODES = 16  # pairs of action and consequence: four bits, and as many selects


def can_run_blocked(problem: AbstractFiniteProblem, memory: AbstractMemory, record: Record) -> bool:
    """Whether this simulator serves: it knows one kind of memory and one of consequence."""
    truth = problem.consequence
    return (
        isinstance(truth, Categorical)
        and type(memory) is PerfectMemory
        and truth.num_actions * truth.num_features <= _MOST_CODES
        and not isinstance(record, Running)
    )


class StepTable(NamedTuple):
    """What the steps look up."""

    factors: Float[Array, "codes models"]  # likelihood of each pair relative to the likeliest model
    features: Float[Array, "features models"]
    steps: Int[Array, ""]
    top: float


def step_table(agent: Agent, own: bool, excludes: bool) -> StepTable:
    """What the steps of a block look up, on a GPU too.

    A block ends for all agents of a tile where one of them rules out a model. If priors are their
    ``own``, that depends on how many agents there are; then each step is a block.
    """
    likelihood: Likelihood = agent.likelihood
    num_models = likelihood.log_ratio.shape[0]
    out = likelihood.ruled_out.reshape(num_models, -1)
    log = jnp.where(out, -jnp.inf, likelihood.log_ratio.reshape(num_models, -1))
    peak = log.max(0)
    factors = jnp.exp(log - jnp.where(peak > -jnp.inf, peak, 0.0)).T
    features = agent.table.features
    if not agent.policy.scale_free:
        # Scaled, so that a sum over models stays in range, and with the total weight beside it.
        ones = jnp.ones((num_models, 1), features.dtype)
        features = jnp.concatenate([features / scale_of(features), ones], axis=1)
    steps, top = steps_between_refreshes(largest_log_range(likelihood), num_models)
    if own and excludes:
        steps = jnp.ones_like(steps)
    return StepTable(factors, features.T, steps, top)


def rounding_of_a_step(dtype: Any) -> float:
    """How far, in nats, one multiplication by a rounded likelihood may move a weight."""
    return 2 * float(jnp.finfo(dtype).eps)


def scale_of(features: Array) -> Array:
    """What features are divided by, so that sums over models stay in range."""
    size = jnp.abs(features).max()
    return jnp.where(size > 0, size, 1.0)


def in_blocks(
    believer: Believer,
    keys: UInt32[Array, "2 agents"],
    num_steps: Steps,
    record: Record,
    known: Known,
) -> Advance:
    """A way to `live`: all agents at one pace."""
    agent, num_lanes, excludes = believer.agent, keys.shape[1], known.excludes
    num_actions, num_features = agent.nothing().shape
    dtype = agent.likelihood.log_ratio.dtype
    table = step_table(agent, believer.prior.shape[1] > 1, excludes)
    assert isinstance(agent.problem.consequence, Categorical)  # as `can_run_blocked` saw to
    probs = agent.problem.consequence.probs
    exploration, built_in = agent.trembles(), is_built_in(agent.policy)
    probabilities = jax.vmap(agent.policy.probabilities, in_axes=(-1, -1), out_axes=-1)
    num_codes = num_actions * num_features
    width = (num_features - 1).bit_length()  # bits of a consequence
    # No more than are used before the next snapshot.
    num_draws = min(DRAWS, record.every) if isinstance(record, Trajectory) else DRAWS
    codes = jnp.arange(num_codes, dtype=jnp.int32)[:, None]

    def refresh(counts: Array) -> tuple[Array, Array, Array]:
        """Weights, their rounding, and which pairs would kill a model that is alive."""
        weight, slack, alive = believer.weights(counts, table.top, excludes)
        nothing = jnp.zeros((1, num_lanes), bool)
        return weight, slack, believer.deadly(alive) if excludes else nothing

    def foresee(bits: Array) -> tuple[Array, Array]:
        """All of chance that does not depend on beliefs, for many steps at once.

        A number that draws the intended action, and packed in another: what each action would
        bring about, the action of a tremble, and whether play trembles.
        """
        shape = bits[:, 1].shape
        # Where one action is certain, any number draws it, 0 too; to make others is half the work.
        draw, fate = jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32)
        if known.trembles or num_actions != 2 or not agent.policy.knows_boundary():
            trembles, piece, draw = tremble(exploration, uniform(bits[:, 1], dtype), num_actions)
            fate = trembles.astype(jnp.int32) << 4 | piece
        for action in reversed(range(num_actions)):
            fate = fate << width | consequence(action, bits[:, 0])
        return draw, fate

    def consequence(action: int, word: Array) -> Array:
        if num_features != 2:
            return inverse_cdf(probs[action][:, None, None], uniform(word, dtype))
        least, possible = second_from(probs[action])
        return (possible & (word >= least)).astype(jnp.int32)

    def decide(weight: Array, slack: Array, draw: Array, fate: Array, before: Array) -> Array:
        """What happens in a step, packed in one number, from that of the step before."""
        means = jnp.dot(table.features, weight, precision=lax.Precision.HIGHEST)
        if not agent.policy.scale_free:
            means = means[:-1] / means[-1] * scale_of(agent.table.features)
        likely = probabilities(means, slack)
        intended = inverse_cdf(likely, draw)
        trembled = fate >> (width * num_actions)
        action = jnp.where(trembled >= 16, trembled & 15, intended)
        outcome = (fate >> (action * width)) & ((1 << width) - 1)
        changed = (intended != _intended(before)).astype(jnp.int32)
        packed = changed << 9 | intended << 4 | (action * num_features + outcome)
        if built_in:
            return packed
        return packed | (~are_probabilities(likely)).astype(jnp.int32) << 8

    def noted(tally: tuple[Array, Array], packed: Array, i: Array) -> tuple[Array, Array]:
        """Counts, and a bit for each step in which the intended action changed."""
        counts, changes = tally
        new = (_code(packed) == codes).astype(dtype)
        if not built_in:  # what follows from no probabilities makes no sense
            new = jnp.where((packed >> 8) & 1 == 1, jnp.nan, new)
        return counts + new, changes | (packed >> 9) << i

    def block(state: tuple, chance: tuple[Array, Array], limit: Array) -> tuple:
        """Steps ``done`` to ``limit`` at most, from one refresh to the next."""
        tally, packed, done = state
        weight, slack, deadly = refresh(tally[0])
        stop = jnp.minimum(done + table.steps, limit)
        draw, fate = chance
        # Without a thought for numbers out of bounds.
        at = partial(lax.dynamic_index_in_dim, axis=0, keepdims=False, allow_negative_indices=False)

        def aged(i: Array) -> Array:
            """Rounding of the weights: that of the refresh, and of all products since."""
            return slack + (i - done).astype(dtype) * rounding_of_a_step(dtype)

        # What happens in a step waits, packed in one number, for the next: so it is computed once
        # and then used by all that follows from it. (A compiler that fuses would otherwise
        # compute it anew for each use.) The last observation of a block never meets the weights,
        # which are made anew right after.
        def step(carry: tuple) -> tuple:
            weight, tally, packed, i, _ = carry
            weight = weight * _select([row[:, None] for row in table.factors], _code(packed))
            tally = noted(tally, packed, i - 1)
            packed = decide(weight, aged(i), at(draw, i), at(fate, i), packed)
            return weight, tally, packed, i + 1, kills(packed)

        def kills(packed: Array) -> Array:
            if not excludes:
                return jnp.zeros((), bool)
            return jnp.any(_select([row[None] for row in deadly], _code(packed)))

        packed = decide(weight, slack, at(draw, done), at(fate, done), packed)
        carry = weight, tally, packed, done + 1, kills(packed)
        _, tally, packed, end, _ = lax.while_loop(
            lambda carry: (carry[3] < stop) & ~carry[4], step, carry
        )
        return noted(tally, packed, end - 1), packed, end

    def advance(lives: Lives, time: Array, until: Array) -> tuple[Lives, Array]:
        chance = foresee(words(keys, time, num_draws))
        until = jnp.minimum(until, end_of_quarter(time, num_steps))
        limit = jnp.minimum(num_draws, until - time)
        zero = jnp.zeros_like(lives.intended)
        begin = (lives.counts, zero), lives.intended << 4, jnp.zeros((), jnp.int32)
        (counts, changes), packed, _ = lax.while_loop(
            lambda inner: inner[2] < limit, lambda inner: block(inner, chance, limit), begin
        )
        changes = jnp.where(time > 0, changes, changes & ~1)  # nothing was intended before
        new = (counts - lives.counts).reshape(num_actions, num_features, -1).sum(1)
        quarter = in_quarters(time, num_steps)
        lives = Lives(
            counts,
            lives.late + jnp.where(quarter.any(), new, 0.0).astype(jnp.int32),
            _intended(packed),
            jnp.where(changes != 0, time + 31 - lax.clz(changes), lives.since),
            lives.switches + jnp.where(quarter[:, None], lax.population_count(changes), 0),
            lives.time + limit,
        )
        return lives, time + limit

    return advance


# What happens in a step, in one number: the pair of action and consequence in four bits, the
# intended action in the next four, then whether a policy that is not built in returned no
# probabilities; and whether the intended action changed.


def _code(packed: Array) -> Array:
    return packed & 15


def _intended(packed: Array) -> Array:
    return (packed >> 4) & 15


def _select(rows: Sequence[Array], index: Int[Array, " agents"]) -> Array:
    """``rows[index]`` agent by agent: selects, bit by bit, where a gather would be slow."""
    bit = 0
    while len(rows) > 1:
        odd = ((index >> bit) & 1) == 1
        pairs = zip(rows[::2], rows[1::2], strict=False)
        chosen = [jnp.where(odd, second, first) for first, second in pairs]
        rows = chosen + ([rows[-1]] if len(rows) % 2 else [])
        bit += 1
    return rows[0]
