"""The simulator for every policy, memory and record: a scan over `Agent.step`."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from ._agent import Agent, AgentState
from ._record import Record, Running, Snapshot, Tally, Trajectory, new_tally, tallied


class Tile(NamedTuple):
    """What a tile of agents ends with; the first dimension is the agents.

    Parameters
    ----------
    tally : final statistics.
    log_belief : [agents, M] log-weights of the models, not normalised.
    trajectory : snapshots [agents, times, ...], or None.
    record : the user's own statistic, or None.
    """

    tally: Tally
    log_belief: Float[Array, "agents models"]
    trajectory: Snapshot | None
    record: Any


def run_plain(
    agent: Agent,
    log_prior: Float[Array, "*agents models"],
    keys: UInt32[Array, "2 agents"],
    num_steps: int,
    record: Record,
) -> Tile:
    """Simulate a tile of agents step by step, each belief made anew from the evidence.

    Parameters
    ----------
    agent : what they have in common.
    log_prior : [M], or [agents, M] where they differ.
    keys : words of key of each agent.
    num_steps, record : as for `simulate`.
    """
    running = record if isinstance(record, Running) else None
    each = 0 if log_prior.ndim == 2 else None

    def own(log_prior: Array) -> Agent:
        return eqx.tree_at(lambda a: a.log_prior, agent, log_prior)

    def start(log_prior: Array, key: Array) -> Any:
        mine = own(log_prior)
        carry = None if running is None else running.start(mine)
        return mine.init().memory, new_tally(mine.nothing()), carry

    def step(time: Array, log_prior: Array, key: Array, carry: Any) -> Any:
        memory, tally, kept = carry
        mine = own(log_prior)
        state, happened = mine.step_with(key, AgentState(time, memory))
        if running is not None:
            kept = running.update(kept, happened, state, mine)
        return state.memory, tallied(tally, happened, num_steps), kept

    def look(log_prior: Array, carry: Any) -> tuple[Array, Snapshot]:
        memory, tally, _ = carry
        mine = own(log_prior)
        evidence, seen = mine.memory.evidence(memory)
        log_belief = mine.likelihood.log_belief(mine.log_prior, evidence, seen)
        return log_belief, snapshot(mine, log_belief, tally.evidence, tally.intended, record)

    def steps(carry: Any, first: Any, num: int) -> Any:
        # The time is the same for all, so that it stays a scalar.
        def one(carry: Any, time: Array) -> tuple[Any, None]:
            mapped = jax.vmap(step, in_axes=(None, each, 1, 0))
            return mapped(time, log_prior, keys, carry), None

        times = first + jnp.arange(num, dtype=jnp.int32)
        return lax.scan(one, carry, times)[0]

    carry = jax.vmap(start, in_axes=(each, 1))(log_prior, keys)
    looked = jax.vmap(look, in_axes=(each, 0))
    done, trajectory = 0, None
    if isinstance(record, Trajectory):
        every = record.every

        def segment(carry: Any, first: Array) -> tuple[Any, Snapshot]:
            carry = steps(carry, first, every)
            return carry, looked(log_prior, carry)[1]

        firsts = every * jnp.arange(num_steps // every, dtype=jnp.int32)
        carry, shots = lax.scan(segment, carry, firsts)
        trajectory = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), shots)
        done = num_steps // every * every
    carry = steps(carry, done, num_steps - done)
    log_belief, _ = looked(log_prior, carry)
    return Tile(carry[1], log_belief, trajectory, carry[2])


def snapshot(
    agent: Agent, log_belief: Array, evidence: Array, intended: Array, record: Record
) -> Snapshot:
    """Where one agent stands, from its unnormalised log-belief and all that it has seen."""
    belief = jax.nn.softmax(log_belief)
    theta = jnp.einsum("m,md->d", belief, agent.problem.theta, precision=lax.Precision.HIGHEST)
    keep = isinstance(record, Trajectory) and record.beliefs
    counts = agent.problem.consequence.action_counts(evidence)
    return Snapshot(counts, intended, theta, belief if keep else None)
