"""Populations of learners: tiles of agents, dealt out to devices."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._check import as_float, check_exploration, check_key, is_concrete, whole
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
from ..belief import AbstractMemory, PerfectMemory, WindowMemory, check_memory
from ..problem import AbstractFiniteProblem, AbstractProblem
from ..response import AbstractPolicy, BestResponse, check_policy
from ._agent import Agent, as_finite
from ._blocked import can_run_blocked, in_blocks
from ._kernel import can_run_kernel, run_kernel
from ._lives import Known, live
from ._memory_limit import check_fits
from ._mixed import mixed
from ._moments import by_moments, can_run_moments
from ._outcome import outcome_of
from ._own import check_own
from ._plain import Tile, run_plain
from ._random import agent_keys
from ._record import Record, Running, Trajectory, quarters
from ._results import Simulation

# Simulators that keep agents in the vector lanes; the third is made of the others.
_IN_LANES = ("blocked", "moments", "mixed")
_MOST_STEPS = 2**30  # numbers of steps are integers of 32 bits
# Weights of a tile on a CPU: they should stay in the second-level cache.
_TILE_CPU, _TILE_ACCELERATOR = 32_768, 4_194_304
_MOST_LANES_CPU, _MOST_LANES_ACCELERATOR = 512, 65_536
# Tiles that a device has room for at a time: progress moves, and memory stays bounded.
_MOST_TILES = 16
_QUEUE = 4  # tiles whose agents take turns in the same lanes, at most
_MOST_TILE_BYTES, _MOST_ROOM_BYTES = 2**26, 2**28


def simulate(
    problem: AbstractProblem,
    key: Array,
    *,
    num_agents: int,
    num_steps: int,
    policy: AbstractPolicy | None = None,
    memory: AbstractMemory | None = None,
    log_prior: Any = None,
    exploration: ArrayLike = 0.0,
    record: Record = None,
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate a population of misspecified Bayesian learners.

    Agents learn by themselves: each plays, observes what the true environment brings about, and
    updates its belief over the models by Bayes' rule. All local devices
    share the work; under `jax.jit` or `jax.vmap` (over problems, priors, keys, ...) one does.
    Memory does not grow with the number of steps unless ``record`` asks for it.

    Agent i uses the key ``fold_in(key, i)`` and the arithmetic of a tile of fixed size, so that
    its life depends neither on how many agents or devices there are nor on batching (which may
    round the last bits of its final belief in another way); that holds within one backend and
    version of JAX. Of keys that are not of JAX's default kind, two words are taken for one.

    Parameters
    ----------
    problem : any problem. A continuum of models is replaced by ``problem.discretize()``; do that
        yourself to choose the grid.
    key : a JAX key.
    num_agents, num_steps : how many agents (N), and observations of each.
    policy : how they play. Default: `BestResponse`.
    memory : what they remember. Default: `PerfectMemory`.
    log_prior : [M] log-weights in nats for all, or [N, M] for each; ``-inf`` outside the
        support. Default: the prior of the problem.
    exploration : probability with which play trembles to a uniform action, besides what the
        policy itself explores.
    record : what to keep besides the final statistics: `Trajectory`, `Running`, or None.
    tile : agents that are simulated together; part of what makes a result reproducible to
        the bit. Default: by the number of models.
    progress : called with (agents done, agents in all) now and then.

    Returns
    -------
    Simulation

    Raises
    ------
    ValueError
        If a number is not positive, the prior does not fit the problem, or what is asked for
        would not fit in memory.

    Notes
    -----
    In float32 a belief that rests on n observations carries a rounding of about 1e-7 n nats; ties
    are judged with that in mind (see `BestResponse`). Up to 1e5 steps that is harmless; beyond, use
    float64. Chance comes in steps of 2^-24 in float32 and 2^-32 in float64: what is much rarer
    than that happens too often or never.

    Forward-mode derivatives, with the play that happens held fixed, exist for every simulation;
    reverse mode only for those that run step by step (a memory other than `PerfectMemory`, Gaussian
    consequences, or a `Running` record). What chance does with them is not in either: see
    `bnjax.design`.

    Examples
    --------
    >>> import jax, bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.8, p_honest=0.3)
    >>> result = bn.simulate(problem, jax.random.key(0), num_agents=100, num_steps=400)
    >>> result.shares()["locked 0"].count
    100
    """
    num_agents = whole("num_agents", num_agents)
    num_steps = whole("num_steps", num_steps)
    problem = as_finite(problem)
    policy = BestResponse() if policy is None else policy
    check_policy(policy)
    memory = PerfectMemory() if memory is None else memory
    check_memory(memory)
    check_key(key)
    if record is not None and not isinstance(record, (Trajectory, Running)):
        raise ValueError(f"`record` must be bn.Trajectory, bn.Running or None; got {record!r}.")
    prior = _log_prior(log_prior, problem, num_agents)
    dtype = problem.log_prior.dtype
    most = min(2 ** (jnp.finfo(dtype).nmant + 1), _MOST_STEPS)
    if num_steps > most:
        raise ValueError(
            f"`num_steps` must be at most {most} in {dtype}, where steps are counted exactly no "
            f"further; got {num_steps}."
        )
    if isinstance(record, Trajectory) and record.every > num_steps:
        raise ValueError(
            f"`record.every` must be at most the number of steps, {num_steps}; got {record.every}."
        )
    if progress is not None and not callable(progress):
        raise ValueError(f"`progress` must be a function; got {progress!r}.")
    if isinstance(memory, WindowMemory) and memory.length >= num_steps:
        # Nothing is ever forgotten; a user's statistic may look into the window.
        running = isinstance(record, Running)
        memory = WindowMemory(num_steps) if running else PerfectMemory()
    check_own(problem, policy, memory, record)
    exploration = check_exploration(exploration).astype(dtype)
    population = _Population(problem, policy, memory, prior, exploration, key)
    tile = None if tile is None else whole("tile", tile)
    plan, each, remembered = _plan(population, num_steps, record, tile)
    if not is_concrete(population):
        tiles = jnp.arange(-(-num_agents // plan.lanes), dtype=jnp.int32)
        alone = dataclasses.replace(plan, queue=1)
        stacked = lax.map(lambda i: _run_tile(alone, population, i), tiles)
        return _merge(stacked, num_agents)
    lane = (plan.tiles + 2) * each + 2 * remembered
    # Every device has a copy of the priors too.
    check_fits(each, num_agents, mesh().size * (plan.lanes * lane + prior.nbytes))
    # No more room than is needed, which would only be cleared; powers of two, to compile less.
    needed = -(-num_agents // (plan.lanes * mesh().size))
    room = max(plan.queue, min(plan.tiles, 1 << (needed - 1).bit_length()))
    return _run(dataclasses.replace(plan, tiles=room), population, num_agents, progress)


def _log_prior(log_prior: Any, problem: AbstractFiniteProblem, num_agents: int) -> Array:
    """Normalised log-weights [M] or [N, M], each row of which has a support that survives."""
    if log_prior is None:
        return problem.log_prior
    array = as_float("log_prior", log_prior)
    wanted = (problem.num_models,), (num_agents, problem.num_models)
    if array.shape not in wanted:
        raise ValueError(
            f"`log_prior` must have shape {wanted[0]} = [models] or {wanted[1]} = [agents, "
            f"models]; got {array.shape}."
        )
    array = array.astype(problem.log_prior.dtype)
    if is_concrete(array, problem):
        values = np.asarray(array)
        if np.isnan(values).any() or (values == np.inf).any():
            raise ValueError("`log_prior` must hold finite log-weights or -inf; got NaN or +inf.")
        with jax.ensure_compile_time_eval():  # also inside a function that is being traced
            survives = ~np.asarray(problem.reduced_form().ruled_out).any(1)
        if not (values[..., survives] > -np.inf).any(-1).all():
            raise ValueError(
                "`log_prior` must support, for every agent, a model that allows everything that "
                "can happen; otherwise no belief would survive."
            )
    return jax.nn.log_softmax(array, axis=-1)


def _lanes(num_models: int) -> int:
    """Agents of a tile: a power of two."""
    on_cpu = jax.default_backend() == "cpu"
    size = _TILE_CPU if on_cpu else _TILE_ACCELERATOR
    most = _MOST_LANES_CPU if on_cpu else _MOST_LANES_ACCELERATOR
    return min(most, max(64, 1 << (max(size // num_models, 1).bit_length() - 1)))


def _plan(
    population: _Population, num_steps: int, record: Record, tile: int | None
) -> tuple[_Plan, int, int]:
    """How to simulate, whatever the number of agents; and bytes of an agent: results, memory."""
    problem, policy, memory = population.problem, population.policy, population.memory
    lanes = _lanes(problem.num_models) if tile is None else tile
    engine = _engine(problem, policy, memory, record, lanes, population.log_prior.ndim == 2)
    known = Known(excludes=True, trembles=True)
    if engine != "plain":
        known = _known(problem, policy, population.exploration)
    plan = _Plan(num_steps, record, lanes, engine, known, 1)
    each, remembered = _bytes(plan, population)
    if tile is None:
        while lanes > 1 and lanes * (each + remembered) > _MOST_TILE_BYTES:
            lanes //= 2
    tiles = min(_MOST_TILES, max(1, _MOST_ROOM_BYTES // (lanes * each)))
    # The same for any number of agents: another program might round another way.
    queue = min(_QUEUE, tiles) if engine == "mixed" and record is None else 1
    tiles -= tiles % queue
    return dataclasses.replace(plan, lanes=lanes, tiles=tiles, queue=queue), each, remembered


def _bytes(plan: _Plan, population: _Population) -> tuple[int, int]:
    """Bytes that the results of an agent take, and what it remembers."""
    leaves, structure = jax.tree.flatten(population)
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) if eqx.is_array(x) else x for x in leaves)
    return _bytes_of(plan, structure, tuple(shapes))


@functools.lru_cache(maxsize=256)  # tracing for nothing but shapes takes milliseconds
def _bytes_of(plan: _Plan, structure: Any, shapes: tuple) -> tuple[int, int]:
    population = jax.tree.unflatten(structure, shapes)
    done = eqx.filter_eval_shape(_run_tile, plan, population, jax.ShapeDtypeStruct((), jnp.int32))
    memory = eqx.filter_eval_shape(_remembered, population)
    each = sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in jax.tree.leaves(done))
    return each, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(memory))


def _remembered(population: _Population) -> Any:
    return Agent(population.problem, population.policy, population.memory).init().memory


def _engine(
    problem: AbstractFiniteProblem,
    policy: AbstractPolicy,
    memory: AbstractMemory,
    record: Record,
    lanes: int,
    own: bool,
) -> str:
    """Which simulator to use: the fastest that serves.

    Where priors are the agents' own, those in a tile depend on how many agents there are: then
    nothing about all of them may decide what is done with one.
    """
    if not can_run_blocked(problem, memory, record):
        return "plain"
    backend = jax.default_backend()
    if backend == "gpu" and can_run_kernel(problem, policy, lanes, record):
        return "kernel"
    if backend == "cpu" and can_run_moments(problem, policy, memory, record):
        return "moments" if own else "mixed"
    return "blocked"


def _known(
    problem: AbstractFiniteProblem, policy: AbstractPolicy, exploration: Float[Array, ""]
) -> Known:
    """What may be relied on: all of what is traced may happen."""
    if not is_concrete(problem):
        return Known(excludes=True, trembles=True)
    traced = not is_concrete(policy, exploration)
    with jax.ensure_compile_time_eval():  # also inside a function that is being traced
        play = (BestResponse(), jnp.ones(())) if traced else (policy, exploration)
        excludes, trembles = np.asarray(_looked_at(problem, *play))
    return Known(bool(excludes), bool(trembles))


@eqx.filter_jit
def _looked_at(
    problem: AbstractFiniteProblem, policy: AbstractPolicy, exploration: Float[Array, ""]
) -> Bool[Array, "2"]:
    agent = Agent(problem, policy, exploration=exploration)
    return jnp.stack([agent.likelihood.ruled_out.any(), agent.trembles() > 0])


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a compiled tile depends on."""

    num_steps: int
    record: Record
    lanes: int
    engine: str
    known: Known
    tiles: int
    queue: int = 1


class _Population(NamedTuple):
    """What all tiles share."""

    problem: AbstractFiniteProblem
    policy: AbstractPolicy
    memory: AbstractMemory
    log_prior: Float[Array, "*agents models"]
    exploration: Float[Array, ""]
    key: Array


def _run_tile(
    plan: _Plan,
    population: _Population,
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


def _tile(plan: _Plan, population: _Population, index: Array, used: Array | None) -> Simulation:
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


def _makes_sense(population: _Population, prior: Array) -> Bool[Array, "*agents"]:
    """Whether what was given does; of traced values nothing could be refused before."""
    problem, exploration = population.problem, population.exploration
    survives = ~problem.reduced_form().ruled_out.any(1)
    supported = ((prior > -jnp.inf) & survives).any(-1) & (prior < jnp.inf).all(-1)
    numbers = population.policy.is_valid() & population.memory.is_valid()
    trembles = (exploration >= 0) & (exploration <= 1)
    return problem.is_valid() & numbers & trembles & supported


def _simulation(plan: _Plan, agent: Agent, done: Tile, valid: Array) -> Simulation:
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


def _merge(stacked: Simulation, num_agents: int) -> Simulation:
    """Agents of all tiles in a row, without those that only fill the last tile."""
    return jax.tree.map(lambda x: _agents(x)[:num_agents], stacked)


# On the devices


@functools.cache
def _compiled() -> Any:
    """`_run_tiles`; unlike `equinox.filter_jit`, it does not wait for the results."""

    def run(static: tuple, arrays: list[Array]) -> Simulation:
        plan, layout = static
        return _run_tiles(plan, *unpacked(layout, arrays))

    return jax.jit(run, static_argnums=0, compiler_options=tile_options())


def _run_tiles(plan: _Plan, population: _Population, tiles: Int[Array, "3"]) -> Simulation:
    """Simulate a range of tiles: the first, how many are each device's share, and the end."""

    def share(population: _Population, tiles: Array) -> Simulation:
        # Arrays without elements (problems may have no parameters) are made here: as arguments of a
        # loop they crash XLA's partitioner in JAX 0.11.
        population = jax.tree.map(
            lambda x: x if x.size else jnp.zeros(x.shape, x.dtype), population
        )
        start, each, stop = tiles
        first = start + lax.axis_index("devices") * each
        count = jnp.clip(stop - first, 0, each)
        tile = eqx.filter_jit(_run_tile)  # traced once, for shapes and for the loop
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


def _run(
    plan: _Plan,
    population: _Population,
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
        done = _compiled()((plan, layout), arrays)
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
