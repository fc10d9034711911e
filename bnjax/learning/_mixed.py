"""The simulator of two by two on CPUs: in blocks while play is restless, else by moments.

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
from jaxtyping import Array, Int, UInt32

from ._blocked import DRAWS, in_blocks
from ._lives import Advance, Believer, Lives
from ._moments import DEGREE, Block, moments_block
from ._record import Record

_TRIED = 4  # blocks of moments
_WORTH = 6  # steps that each has to bring, on average
_LONGER = 16  # times as long as agents have lived, at most, before they are looked at again


def mixed(
    believer: Believer,
    keys: UInt32[Array, "2 agents"],
    num_steps: int,
    record: Record,
    excludes: bool,
    lanes: int,
) -> Advance:
    """A way to `live`: by moments, or at one pace as long as half the agents are restless.

    Parameters
    ----------
    believer, keys, num_steps, record, excludes : as for any way; of one tile or of several.
    lanes : agents of a tile. What one does depends on no other tile.
    """
    block = moments_block(believer, num_steps, excludes)
    tiles = keys.reshape(2, -1, lanes)

    def advance(lives: Lives, start: Array, until: Array) -> tuple[Lives, Array]:
        # Agents who meet wait for the slowest of them: that should be rare. (No product of what
        # may be the largest integer.)
        late = start > until // _LONGER
        soon = jnp.where(late, until, jnp.minimum(until, _LONGER * jnp.maximum(start, DRAWS)))

        def settle(tile: tuple[Lives, Array]) -> Lives:
            lives, keys = tile
            in_step = in_blocks(believer, keys, num_steps, record, excludes)
            _, tried = lax.while_loop(
                lambda state: (state[0] < _TRIED) & (state[1].time < soon).any(),
                lambda state: (state[0] + 1, block(keys, state[1], soon)),
                (0, lives),
            )
            brought = jnp.where(tried.time < soon, tried.time - lives.time, _TRIED * DEGREE)
            slow = brought.sum() < _TRIED * _WORTH * lanes
            lives = jax.tree.map(lambda old, new: jnp.where(slow, old, new), lives, tried)

            def restless(lives: Lives) -> Array:
                time = lives.time[0]
                recent = time - lives.since < DEGREE
                return slow & (time < soon) & (2 * recent.sum() > lanes)

            return lax.while_loop(
                restless, lambda lives: in_step(lives, lives.time[0], soon)[0], lives
            )

        apart = jax.tree.map(lambda x: x.reshape(*x.shape[:-1], -1, lanes), lives)
        first = jax.tree.map(lambda x: jnp.moveaxis(x, -2, 0), (apart, tiles))
        apart = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), lax.map(settle, first))
        apart = _in_turn(block, tiles, apart, soon)
        return jax.tree.map(lambda x, like: x.reshape(like.shape), apart, lives), soon

    return advance


def _in_turn(
    block: Block, keys: UInt32[Array, "2 tiles lanes"], everyone: Lives, until: Int[Array, ""]
) -> Lives:
    """Each lane lives the lives of its agents, one in every tile, one after the other."""
    num_tiles, lanes = keys.shape[1:]

    def of(tile: Array, x: Array) -> Array:
        """What each lane has in its tile: selects, where a gather would be slow."""
        return reduce(
            lambda found, i: jnp.where(tile == i, x[..., i, :], found),
            range(1, num_tiles),
            x[..., 0, :],
        )

    def turn(state: tuple[Lives, Array]) -> tuple[Lives, Array]:
        everyone, tile = state
        mine = of(tile, keys)
        more = tile < num_tiles - 1

        def busy(lives: Lives) -> Array:
            # Whether someone is at work and nobody waits: one reduction, as it takes its time.
            return jnp.where(lives.time < until, 1, jnp.where(more, 2, 0)).max() == 1

        lives = jax.tree.map(lambda x: of(tile, x), everyone)
        lives = lax.while_loop(busy, lambda lives: block(mine, lives, until), lives)
        here = tile == jnp.arange(num_tiles, dtype=jnp.int32)[:, None]
        everyone = jax.tree.map(
            lambda whole, part: jnp.where(here, part[..., None, :], whole), everyone, lives
        )
        return everyone, tile + (more & (lives.time >= until)).astype(jnp.int32)

    start = everyone, jnp.zeros(lanes, jnp.int32)
    return lax.while_loop(lambda state: (state[0].time < until).any(), turn, start)[0]
