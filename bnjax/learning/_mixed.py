"""The simulator of two by two on CPUs: in blocks while play is restless, else by moments.

A block of moments ends where an agent changes its mind: 16 steps of one that does not take about
as long as six steps in blocks, which are the same for all. Play that cycles or has just begun is
restless, and that of perfect memories changes ever more rarely.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt32

from ._blocked import in_blocks
from ._lives import Advance, Believer, Lives
from ._moments import DEGREE, by_moments
from ._record import Record

_LONGER = 16  # times as long as agents have lived, at most, before they are looked at again


def mixed(
    believer: Believer,
    keys: UInt32[Array, "2 agents"],
    num_steps: int,
    record: Record,
    excludes: bool,
) -> Advance:
    """A way to `live`: at one pace as long as half the agents have changed their minds lately."""
    restless_play = in_blocks(believer, keys, num_steps, record, excludes)
    settled_play = by_moments(believer, keys, num_steps, record, excludes)

    def advance(lives: Lives, start: Array, until: Array) -> tuple[Lives, Array]:
        # Agents who meet wait for the slowest of them: that should be rare. (No product of what
        # may be the largest integer.)
        late = start > until // _LONGER
        soon = jnp.where(late, until, jnp.minimum(until, _LONGER * jnp.maximum(start, DEGREE)))
        recent = start - lives.since < DEGREE
        restless = 2 * recent.sum() > recent.size
        return lax.cond(
            restless,
            lambda lives: restless_play(lives, start, until),
            lambda lives: settled_play(lives, start, soon),
            lives,
        )

    return advance
