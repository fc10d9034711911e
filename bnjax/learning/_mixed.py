"""The simulator of two by two on CPUs: in blocks while play is restless, else by moments.

A block of moments ends where an agent changes its mind: 16 steps of one that does not take about
as long as six steps in blocks, which are the same for all. Play that cycles or has just begun is
restless, and that of perfect memories changes ever more rarely.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from ._agent import Agent
from ._blocked import in_blocks
from ._lives import Believer, Lives, live
from ._moments import DEGREE, by_moments
from ._plain import Tile
from ._record import Record

_LONGER = 16  # times as long as agents have lived, at most, before they are looked at again


def run_mixed(
    agent: Agent,
    log_prior: Float[Array, "*agents models"],
    keys: UInt32[Array, "2 agents"],
    num_steps: int,
    record: Record,
    excludes: bool,
) -> Tile:
    """Simulate a tile of agents: parameters as for `run_blocked`."""
    believer = Believer.of(agent, log_prior)
    restless_play = in_blocks(believer, keys, num_steps, record, excludes)
    settled_play = by_moments(believer, keys, num_steps, excludes)

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

    return live(believer, keys.shape[1], advance, num_steps, record)
