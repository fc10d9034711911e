"""The simulator of two by two on CPUs for more than a few steps: in blocks or by moments.

In blocks while play is restless, else by moments.

A block of moments ends where an agent changes its mind: 16 steps of one that does not take about
as long as six steps in blocks, which are the same for all. So moments are tried, and forgotten if
they do not get far: play is restless. That of perfect memories changes ever more rarely.

By moments, each agent goes at its own pace, and the slowest of hundreds takes a fifth longer than
the others. So each lane lives the lives of several agents, one after the other.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt32

from ._blocked import DRAWS, in_blocks
from ._lives import Advance, Believer, Known, Lives
from ._moments import DEGREE, moments_block
from ._record import Record, Steps

_TRIED = 4  # blocks of moments
_WORTH = 6  # steps that each has to bring, on average
_LONGER = 16  # times as long as agents have lived, at most, before they are looked at again


def mixed(
    believer: Believer,
    keys: UInt32[Array, "2 agents"],
    num_steps: Steps,
    record: Record,
    known: Known,
    lanes: int,
) -> Advance:
    """A way to `live`: by moments, or at one pace as long as half the agents are restless.

    Parameters
    ----------
    believer, keys, num_steps, record, known : as for any way; of one tile or of several.
    lanes : agents of a tile. What one does depends on no other tile.
    """
    block = moments_block(believer, num_steps, known)
    tiles = keys.reshape(2, -1, lanes)
    num_tiles = tiles.shape[1]

    def of(tile: Array, x: Array) -> Array:
        """What each lane has in its tile: selects, where a gather would be slow."""
        return reduce(
            lambda found, i: jnp.where(tile == i, x[..., i, :], found),
            range(1, num_tiles),
            x[..., 0, :],
        )

    def restless(lives: Lives) -> Array:
        """Whether half of the agents, who are at one step, have changed their minds lately."""
        recent = lives.time[0] - lives.since < DEGREE
        return 2 * recent.sum() > lanes

    def goes_far(before: Lives, tried: Lives, until: Array) -> Array:
        """Whether a trial brought enough steps, or most of those that there are."""
        left = until - before.time[0]
        wanted = jnp.minimum(_TRIED * _WORTH, left - (left >> 2))
        brought = (tried.time - before.time).astype(jnp.float32)
        return brought.mean() >= wanted.astype(jnp.float32)

    def at_one_pace(keys: Array, lives: Lives, until: Array) -> Lives:
        in_step = in_blocks(believer, keys, num_steps, record, known)
        return lax.while_loop(
            lambda lives: (lives.time[0] < until) & restless(lives),
            lambda lives: in_step(lives, lives.time[0], until)[0],
            lives,
        )

    def together(everyone: Lives, until: Array) -> Lives:
        """First a trial of each tile; then each lane lives the lives of its agents in turn.

        They are one in every tile. (All in one loop, for a block takes long to compile.)
        """

        def turn(state: tuple[Lives, Array, Array]) -> tuple[Lives, Array, Array]:
            everyone, at, count = state
            trial, more = count < num_tiles, at < num_tiles - 1
            mine, before = of(at, tiles), jax.tree.map(lambda x: of(at, x), everyone)

            # Of those who are known to be restless there is nothing to try.
            unsettled = restless(before)
            most = jnp.where((before.time[0] > 0) & unsettled, 0, _TRIED)
            waits = jnp.where(more & ~trial, 2, 0)

            def busy(state: tuple[Lives, Array]) -> Array:
                # Whether someone is at work and nobody waits: one reduction, as it takes its time.
                lives, blocks = state
                at_work = jnp.where(lives.time < until, 1, waits).max() == 1
                return at_work & (~trial | (blocks < most))

            lives, _ = lax.while_loop(
                busy,
                lambda state: (block(mine, state[0], until), state[1] + 1),
                (before, jnp.zeros((), jnp.int32)),
            )
            lives = lax.cond(
                trial & unsettled & ~goes_far(before, lives, until),
                lambda: at_one_pace(mine, before, until),  # as if there had been no trial
                lambda: lives,
            )
            here = at == jnp.arange(num_tiles, dtype=jnp.int32)[:, None]
            everyone = jax.tree.map(
                lambda whole, part: jnp.where(here, part[..., None, :], whole), everyone, lives
            )
            done = more & (lives.time >= until)
            untried = jnp.where(count < num_tiles - 1, count + 1, 0)
            at = jnp.where(trial, untried, at + done.astype(jnp.int32))
            return everyone, at, count + 1

        start = everyone, jnp.zeros(lanes, jnp.int32), jnp.zeros((), jnp.int32)
        return lax.while_loop(lambda state: (state[0].time < until).any(), turn, start)[0]

    def advance(lives: Lives, start: Array, until: Array) -> tuple[Lives, Array]:
        # Agents who meet wait for the slowest of them: that should be rare. (No product of what
        # may be the largest integer.)
        late = start > lax.div(until, jnp.asarray(_LONGER, until.dtype))
        soon = jnp.where(late, until, jnp.minimum(until, _LONGER * jnp.maximum(start, DRAWS)))
        apart = jax.tree.map(lambda x: x.reshape(*x.shape[:-1], num_tiles, lanes), lives)
        apart = together(apart, soon)
        return jax.tree.map(lambda x, like: x.reshape(like.shape), apart, lives), soon

    return advance
