"""A population: one tile of its agents, and all tiles dealt out to cores or devices."""

from __future__ import annotations

import dataclasses
import functools
import threading
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

from .._cores import as_before, on_cores, tile_options
from .._devices import (
    EVERYWHERE,
    SPLIT,
    everywhere,
    host_array,
    mesh,
    packed,
    to_device,
    unpacked,
)
from .._numerics import one_by_one
from ..belief import AbstractMemory
from ..problem import AbstractFiniteProblem
from ..response import AbstractPolicy, is_built_in
from ._agent import Agent
from ._blocked import in_blocks
from ._kernel import run_kernel
from ._lives import Known, Way, idle, live
from ._mixed import mixed
from ._moments import by_moments
from ._outcome import outcome_of
from ._plain import Tile, run_plain
from ._random import agent_keys
from ._record import Record, Steps, quarters
from ._results import Simulation

# Simulators that keep agents in the vector lanes; the third is made of the others, and in the
# fourth nothing happens: who asks for nothing but shapes need not trace more.
IN_LANES = ("blocked", "moments", "mixed", "idle")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled tile depends on."""

    num_steps: int | None
    """Those of each life; None where one program serves any number, that of the population."""
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
    num_steps: Int[Array, ""] | None = None


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
    in_turn = plan.engine in IN_LANES and jax.default_backend() == "cpu"

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
    num_steps = _num_steps(plan, population)
    if plan.engine in IN_LANES:
        together = partial(mixed, lanes=plan.lanes)
        ways = {"blocked": in_blocks, "moments": by_moments, "mixed": together, "idle": idle}
        way: Way = ways[plan.engine]
        used = None if used is None else used * plan.lanes
        done = live(way, agent, prior, keys, num_steps, plan.record, plan.known, used)
    else:
        assert plan.num_steps is not None
        if plan.engine == "kernel":
            done = run_kernel(agent, prior, keys, plan.num_steps, plan.known)
        else:
            done = run_plain(agent, prior, keys, plan.num_steps, plan.record)
    valid = _makes_sense(population, prior)
    if plan.queue == 1:
        return _simulation(num_steps, agent, done, valid)
    # One by one, for how a product is rounded may depend on how many rows it has. (Priors of their
    # own, which would have to be given out too, are not for this simulator.)
    done = jax.tree.map(lambda x: x.reshape(plan.queue, plan.lanes, *x.shape[1:]), done)
    done = lax.map(lambda done: _simulation(num_steps, agent, done, valid), done)
    return jax.tree.map(_agents, done)


def _makes_sense(population: Population, prior: Array) -> Bool[Array, "*agents"]:
    """Whether what was given does; of traced values nothing could be refused before."""
    problem, exploration = population.problem, population.exploration
    survives = ~problem.reduced_form().ruled_out.any(1)
    supported = ((prior > -jnp.inf) & survives).any(-1) & (prior < jnp.inf).all(-1)
    numbers = population.policy.is_valid() & population.memory.is_valid()
    trembles = (exploration >= 0) & (exploration <= 1)
    return problem.is_valid() & numbers & trembles & supported


def _num_steps(plan: Plan, population: Population) -> Steps:
    """As the caller of `run_tile` knows them, or of the population."""
    given = population.num_steps if plan.num_steps is None else plan.num_steps
    assert given is not None
    return given


def _simulation(num_steps: Steps, agent: Agent, done: Tile, valid: Array) -> Simulation:
    truth, tally = agent.problem.consequence, done.tally
    if not is_built_in(agent.policy):
        valid = valid & ~jnp.isnan(tally.evidence).any((1, 2))
    # A sum as a product with ones: how XLA groups the terms of another depends on what else is in
    # the program.
    log = done.log_belief - done.log_belief.max(1, keepdims=True)
    ones = jnp.ones(log.shape[1], log.dtype)
    total = jnp.dot(jnp.exp(log), ones, precision=lax.Precision.HIGHEST)
    log_belief = log - jnp.log(total)[:, None]
    theta = jnp.einsum(
        "nm,md->nd", jnp.exp(log_belief), agent.problem.theta, precision=lax.Precision.HIGHEST
    )
    dtype = log_belief.dtype
    # Not divided: a compiler that knows by what multiplies by the inverse, and the last bit would
    # depend on whether it does.
    steps = jnp.asarray(num_steps, jnp.int32)
    a_step, a_late_step = lax.optimization_barrier(
        tuple(1 / x.astype(dtype) for x in (steps, steps - quarters(steps)[0]))
    )

    def sensible(array: Array) -> Array:
        return jnp.where(valid.reshape(-1, *(1,) * (array.ndim - 1)), array, jnp.nan)

    return Simulation(
        frequency=sensible(jax.vmap(truth.action_counts)(tally.evidence) * a_step),
        late_frequency=sensible(tally.late.astype(dtype) * a_late_step),
        log_belief=sensible(log_belief),
        mean_theta=sensible(theta),
        mean_payoff=sensible(jax.vmap(truth.total_payoff)(tally.evidence) * a_step),
        intended=tally.intended,
        since=tally.since,
        switches=tally.switches,
        outcome=outcome_of(tally, num_steps, valid),
        trajectory=done.trajectory,
        record=done.record,
        num_steps=0,  # a number of the host, which `simulate` knows
    )


def merge(stacked: Simulation, num_agents: int) -> Simulation:
    """Agents of all tiles in a row, without those that only fill the last tile."""
    return jax.tree.map(lambda x: _agents(x)[:num_agents], stacked)


# All tiles

Progress = Callable[[int, int], None] | None
_COMPILING = threading.RLock()
# Most steps of all agents of a share, if that is more than a tile: a core takes seconds, between
# which progress moves and an interruption is heard.
_MOST_SHARE = 2**25


def run_all(plan: Plan, population: Population, num_agents: int, progress: Progress) -> Simulation:
    """Simulate all tiles on all cores, or on all devices that are no CPUs."""
    run = _to_cores if jax.default_backend() == "cpu" else _to_devices
    return run(plan, population, num_agents, progress)


def _run_tiles(plan: Plan, population: Population, first: Array, count: Array) -> Simulation:
    """Simulate so many tiles from the first: at most those that there is room for."""
    # Arrays without elements (problems may have no parameters) are made here: as arguments of a
    # loop they crash XLA's partitioner in JAX 0.11.
    population = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if eqx.is_array(x) and not x.size else x, population
    )
    # Those that take turns in the same lanes are gathered by a loop of their own, for the same bits
    # whatever else is in the program. They need no second one, which takes its time to compile.
    if plan.tiles == plan.queue > 1:
        return run_tile(plan, population, first, count)
    tile = eqx.filter_jit(run_tile)  # traced once, for shapes and for the loop
    shapes = eqx.filter_eval_shape(tile, plan, population, first, count)
    num = plan.tiles // plan.queue
    room = jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), shapes)

    def one(i: Array, room: Simulation) -> Simulation:
        done = i * plan.queue
        used = jnp.minimum(count - done, plan.queue)
        new = tile(plan, population, first + done, used)
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), room, new)

    room = lax.fori_loop(0, -(-count // plan.queue), one, room)
    return jax.tree.map(_agents, room)


# On the cores of a CPU


def _to_cores(
    plan: Plan, population: Population, num_agents: int, progress: Progress
) -> Simulation:
    """Threads take one share of the tiles after the other, all with the same program.

    One device has a stream of execution for each thread that calls it: so this uses all cores,
    however many CPU devices JAX was told to make.
    """
    layout, arrays = packed(population)
    # Settings of JAX are those of a thread: others trace nothing, and get arrays as they are.
    # (Words, the last of them, are the same whatever the settings.)
    device = jax.local_devices()[0]
    arrays = [
        x if type(x) is np.ndarray and x.dtype == np.uint32 else jax.device_put(x, device)
        for x in arrays
    ]
    with _COMPILING:  # once, also if several threads of the caller's ask for it
        lowered = _shared().lower(plan, layout, arrays, np.zeros(2, np.int32))
        program = as_before(lowered.compile())
    leaves, structure = jax.tree.flatten(lowered.out_info)
    whole = [host_array((num_agents, *x.shape[1:]), x.dtype) for x in leaves]

    def work(agents: range) -> None:
        tiles = np.array([agents.start // plan.lanes, -(-len(agents) // plan.lanes)], np.int32)
        for array, part in zip(whole, jax.tree.leaves(program(arrays, tiles)), strict=True):
            array[agents.start : agents.stop] = np.asarray(part)[: len(agents)]

    if progress is not None:  # what follows has been compiled
        progress(0, num_agents)
    on_cores(work, num_agents, _share(plan, population), progress, unit=plan.lanes)
    return jax.tree.unflatten(structure, to_device(whole))


def _share(plan: Plan, population: Population) -> int:
    """Agents whom a thread takes at a time: no more than are soon done, if they live long."""
    tiles = _MOST_SHARE // (plan.lanes * int(_num_steps(plan, population)))
    tiles = max(plan.queue, min(plan.tiles, tiles - tiles % plan.queue))
    return tiles * plan.lanes


@functools.cache
def _shared() -> Any:
    """The program of a share. JAX keeps what it has compiled, for all of its settings."""

    def run(plan: Plan, layout: Any, arrays: list[Array], tiles: Array) -> Simulation:
        return _run_tiles(plan, unpacked(layout, arrays), tiles[0], tiles[1])

    return jax.jit(run, static_argnums=(0, 1), compiler_options=tile_options())


# On other devices


def _to_devices(
    plan: Plan, population: Population, num_agents: int, progress: Progress
) -> Simulation:
    """A round of shares after the other; agents of several devices are gathered on the host."""
    devices, num_tiles = mesh().size, -(-num_agents // plan.lanes)
    if any(x.committed for x in jax.tree.leaves(population) if isinstance(x, Array)):
        population = jax.device_put(population, everywhere())
    layout, arrays = packed(population)
    gathered: list[Any] = []
    structure = None
    for start in range(0, num_tiles, plan.tiles * devices):
        each = -(-min(num_tiles - start, plan.tiles * devices) // devices)
        done = _sharded(plan, layout, arrays, np.array([start, each, num_tiles], np.int32))
        leaves, structure = jax.tree.flatten(done)
        ends = np.minimum((start + each * np.arange(devices + 1)) * plan.lanes, num_agents)
        if devices == 1:
            gathered.append(_first(leaves, int(ends[1] - ends[0])))
        else:
            gathered = gathered or [host_array((num_agents, *x.shape[1:]), x.dtype) for x in leaves]
            for array, leaf in zip(gathered, leaves, strict=True):
                for i, (begin, end) in enumerate(pairwise(ends)):
                    share = np.asarray(leaf.addressable_data(i))  # of a device, in their order
                    array[begin:end] = share[: end - begin]
        if progress is not None:
            jax.block_until_ready(done)
            progress(int(ends[-1]), num_agents)
    assert structure is not None
    if devices == 1:
        pairs = zip(*gathered, strict=True)
        gathered = [x[0] if len(x) == 1 else jnp.concatenate(x) for x in pairs]
    return jax.tree.unflatten(structure, jax.device_put(gathered))


@partial(jax.jit, static_argnums=(0, 1))
def _sharded(plan: Plan, layout: Any, arrays: list[Array], tiles: Array) -> Simulation:
    """Simulate a range of tiles: the first, how many are each device's share, and the end.

    `equinox.filter_jit` would wait for the results.
    """

    def share(population: Population, tiles: Array) -> Simulation:
        start, each, stop = tiles
        first = start + lax.axis_index("devices") * each
        return _run_tiles(plan, population, first, jnp.clip(stop - first, 0, each))

    return jax.shard_map(
        share,
        mesh=mesh(),
        in_specs=(EVERYWHERE, EVERYWHERE),
        out_specs=SPLIT,
        check_vma=False,
    )(unpacked(layout, arrays), tiles)


@partial(jax.jit, static_argnums=1)
def _first(arrays: list[Array], num: int) -> list[Array]:
    """The leading rows of all: one call, where each slice by itself would be another."""
    return [x[:num] for x in arrays]


def _agents(shares: Array) -> Array:
    """Agents of tiles in a row."""
    return shares.reshape(shares.shape[0] * shares.shape[1], *shares.shape[2:])
