"""A population: one tile of its agents, and all tiles dealt out to devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._devices import (
    EVERYWHERE,
    SPLIT,
    everywhere,
    host_array,
    mesh,
    packed,
    tile_options,
    unpacked,
)
from .._numerics import one_by_one
from ..belief import AbstractMemory
from ..problem import AbstractFiniteProblem
from ..response import AbstractPolicy
from ._agent import Agent
from ._blocked import in_blocks
from ._kernel import run_kernel
from ._lives import Known, live
from ._mixed import mixed
from ._moments import by_moments
from ._outcome import outcome_of
from ._plain import Tile, run_plain
from ._random import agent_keys
from ._record import Record, quarters
from ._results import Simulation

# Simulators that keep agents in the vector lanes; the third is made of the others.
_IN_LANES = ("blocked", "moments", "mixed")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled tile depends on."""

    num_steps: int
    record: Record
    lanes: int
    engine: str
    known: Known
    tiles: int
    queue: int = 1


class Population(NamedTuple):
    """What all tiles share."""

    problem: AbstractFiniteProblem
    policy: AbstractPolicy
    memory: AbstractMemory
    log_prior: Float[Array, "*agents models"]
    exploration: Float[Array, ""]
    key: Array


def run_tile(
    plan: Plan,
    population: Population,
    index: Int[Array, ""],
    used: Int[Array, ""] | None = None,
) -> Simulation:
    """Simulate tile number ``index`` and those that share its lanes: the first ``used``, or all.

    In blocks on a CPU, many problems at once are simulated one after the other: with agents in the
    vector lanes there is nothing to gain from more, and each goes through its loops at its own
    pace.
    """
    arrays, rest = eqx.partition(population, eqx.is_array)
    in_turn = plan.engine in _IN_LANES and jax.default_backend() == "cpu"

    def run(arrays: Any, index: Array, used: Array | None) -> Simulation:
        return _tile(plan, eqx.combine(arrays, rest), index, used)

    return (one_by_one(run) if in_turn else run)(arrays, index, used)


def _tile(plan: Plan, population: Population, index: Array, used: Array | None) -> Simulation:
    prior, own = population.log_prior, population.log_prior.ndim == 2
    common = None if own else prior
    agent = Agent(
        population.problem, population.policy, population.memory, common, population.exploration
    )
    agents = index * plan.lanes + jnp.arange(plan.queue * plan.lanes, dtype=jnp.int32)
    if own:
        prior = prior[jnp.minimum(agents, prior.shape[0] - 1)]
    keys = agent_keys(population.key, agents)
    if plan.engine == "kernel":
        done = run_kernel(agent, prior, keys, plan.num_steps, plan.known)
    elif plan.engine in _IN_LANES:
        together = partial(mixed, lanes=plan.lanes)
        way = {"blocked": in_blocks, "moments": by_moments, "mixed": together}[plan.engine]
        used = None if used is None else used * plan.lanes
        done = live(way, agent, prior, keys, plan.num_steps, plan.record, plan.known, used)
    else:
        done = run_plain(agent, prior, keys, plan.num_steps, plan.record)
    valid = _makes_sense(population, prior)
    if plan.queue == 1:
        return _simulation(plan, agent, done, valid)
    # One by one, for how a product is rounded may depend on how many rows it has. (Priors of their
    # own, which would have to be given out too, are not for this simulator.)
    done = jax.tree.map(lambda x: x.reshape(plan.queue, plan.lanes, *x.shape[1:]), done)
    done = lax.map(lambda done: _simulation(plan, agent, done, valid), done)
    return jax.tree.map(_agents, done)


def _makes_sense(population: Population, prior: Array) -> Bool[Array, "*agents"]:
    """Whether what was given does; of traced values nothing could be refused before."""
    problem, exploration = population.problem, population.exploration
    survives = ~problem.reduced_form().ruled_out.any(1)
    supported = ((prior > -jnp.inf) & survives).any(-1) & (prior < jnp.inf).all(-1)
    numbers = population.policy.is_valid() & population.memory.is_valid()
    trembles = (exploration >= 0) & (exploration <= 1)
    return problem.is_valid() & numbers & trembles & supported


def _simulation(plan: Plan, agent: Agent, done: Tile, valid: Array) -> Simulation:
    truth, tally = agent.problem.consequence, done.tally
    # A sum as a product with ones: how XLA groups the terms of another depends on how many devices
    # there are.
    log = done.log_belief - done.log_belief.max(1, keepdims=True)
    ones = jnp.ones(log.shape[1], log.dtype)
    total = jnp.dot(jnp.exp(log), ones, precision=lax.Precision.HIGHEST)
    log_belief = log - jnp.log(total)[:, None]
    theta = jnp.einsum(
        "nm,md->nd", jnp.exp(log_belief), agent.problem.theta, precision=lax.Precision.HIGHEST
    )
    dtype = log_belief.dtype
    late_steps = plan.num_steps - quarters(plan.num_steps)[0]

    def sensible(array: Array) -> Array:
        return jnp.where(valid.reshape(-1, *(1,) * (array.ndim - 1)), array, jnp.nan)

    return Simulation(
        frequency=sensible(jax.vmap(truth.action_counts)(tally.evidence) / plan.num_steps),
        late_frequency=sensible(tally.late.astype(dtype) / late_steps),
        log_belief=sensible(log_belief),
        mean_theta=sensible(theta),
        mean_payoff=sensible(jax.vmap(truth.total_payoff)(tally.evidence) / plan.num_steps),
        intended=tally.intended,
        since=tally.since,
        switches=tally.switches,
        outcome=outcome_of(tally, plan.num_steps, valid),
        trajectory=done.trajectory,
        record=done.record,
        num_steps=plan.num_steps,
    )


def merge(stacked: Simulation, num_agents: int) -> Simulation:
    """Agents of all tiles in a row, without those that only fill the last tile."""
    return jax.tree.map(lambda x: _agents(x)[:num_agents], stacked)


# On the devices


@functools.cache
def compiled() -> Any:
    """`_run_tiles`; unlike `equinox.filter_jit`, it does not wait for the results."""

    def run(static: tuple, arrays: list[Array]) -> Simulation:
        plan, layout = static
        return _run_tiles(plan, *unpacked(layout, arrays))

    return jax.jit(run, static_argnums=0, compiler_options=tile_options())


def _run_tiles(plan: Plan, population: Population, tiles: Int[Array, "3"]) -> Simulation:
    """Simulate a range of tiles: the first, how many are each device's share, and the end."""

    def share(population: Population, tiles: Array) -> Simulation:
        # Arrays without elements (problems may have no parameters) are made here: as arguments of a
        # loop they crash XLA's partitioner in JAX 0.11.
        population = jax.tree.map(
            lambda x: x if x.size else jnp.zeros(x.shape, x.dtype), population
        )
        start, each, stop = tiles
        first = start + lax.axis_index("devices") * each
        count = jnp.clip(stop - first, 0, each)
        tile = eqx.filter_jit(run_tile)  # traced once, for shapes and for the loop
        shapes = eqx.filter_eval_shape(tile, plan, population, first, count)
        num = plan.tiles // plan.queue
        room = jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), shapes)

        def one(i: Array, room: Simulation) -> Simulation:
            done = i * plan.queue
            used = jnp.minimum(count - done, plan.queue)
            new = tile(plan, population, first + done, used)
            return jax.tree.map(lambda whole, part: whole.at[i].set(part), room, new)

        return lax.fori_loop(0, -(-count // plan.queue), one, room)

    return jax.shard_map(
        share,
        mesh=mesh(),
        in_specs=(EVERYWHERE, EVERYWHERE),
        out_specs=SPLIT,
        check_vma=False,
    )(population, tiles)


def run_all(
    plan: Plan,
    population: Population,
    num_agents: int,
    progress: Callable[[int, int], None] | None,
) -> Simulation:
    """Simulate all tiles on all devices; the agents of several devices are gathered on the host."""
    devices = mesh().size
    num_tiles = -(-num_agents // plan.lanes)
    if any(x.committed for x in jax.tree.leaves(population) if isinstance(x, Array)):
        population = jax.device_put(population, everywhere())
    stays = devices == 1 and jax.default_backend() != "cpu"  # what is on an accelerator
    gathered: list[Any] = []
    structure = None
    for start in range(0, num_tiles, plan.tiles * devices):
        each = -(-min(num_tiles - start, plan.tiles * devices) // devices)
        layout, arrays = packed((population, np.array([start, each, num_tiles], np.int32)))
        done = compiled()((plan, layout), arrays)
        leaves, structure = jax.tree.flatten(done)
        ends = np.minimum((start + each * np.arange(devices + 1)) * plan.lanes, num_agents)
        if stays:
            gathered.append([_agents(leaf)[: ends[1] - ends[0]] for leaf in leaves])
        else:
            gathered = gathered or [host_array((num_agents, *x.shape[2:]), x.dtype) for x in leaves]
            for array, leaf in zip(gathered, leaves, strict=True):
                for i, (begin, end) in enumerate(pairwise(ends)):
                    share = np.asarray(leaf.addressable_data(i))  # of a device, in their order
                    array[begin:end] = _agents(share)[: end - begin]
        if progress is not None:
            jax.block_until_ready(done)
            progress(int(ends[-1]), num_agents)
    assert structure is not None
    if stays:
        pairs = zip(*gathered, strict=True)
        gathered = [x[0] if len(x) == 1 else jnp.concatenate(x) for x in pairs]
    return jax.tree.unflatten(structure, jax.device_put(gathered))


def _agents(shares: Any) -> Any:
    """Agents of tiles in a row."""
    return shares.reshape(shares.shape[0] * shares.shape[1], *shares.shape[2:])
