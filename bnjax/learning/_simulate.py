"""`simulate`: what is asked for, checked, and how it will be done."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from .._check import as_float, check_exploration, check_key, is_concrete, whole
from .._cores import num_workers
from ..belief import AbstractMemory, PerfectMemory, WindowMemory, check_memory
from ..problem import AbstractFiniteProblem, AbstractProblem
from ..response import AbstractPolicy, BestResponse, check_policy
from ._agent import Agent, as_finite, check_log_prior
from ._blocked import can_run_blocked
from ._kernel import can_run_kernel
from ._lives import Known
from ._memory_limit import check_fits
from ._moments import can_run_moments
from ._own import check_own
from ._population import IN_LANES, Plan, Population, merge, run_all, run_tile
from ._record import Record, Running, Trajectory
from ._results import Simulation

_MOST_STEPS = 2**30  # numbers of steps are integers of 32 bits
# Weights of a tile on a CPU: they should stay in the second-level cache.
_TILE_CPU, _TILE_ACCELERATOR = 32_768, 4_194_304
_MOST_LANES_CPU, _MOST_LANES_ACCELERATOR = 512, 65_536
# Tiles that a device has room for at a time: progress moves, and memory stays bounded.
_MOST_TILES = 16
_QUEUE = 4  # tiles whose agents take turns in the same lanes, at most
_FEW_STEPS = 64  # up to which blocks are about as fast as moments, and compile in half the time
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
    updates its belief over the models by Bayes' rule. All cores of a CPU that this process may use
    share the work, or all local devices of another kind; under `jax.jit` or `jax.vmap` (over
    problems, priors, keys, ...) one device does it.
    Memory does not grow with the number of steps unless ``record`` asks for it.

    Agent i uses the key ``fold_in(key, i)`` and the arithmetic of a tile of fixed size, so that
    its life depends neither on how many agents, cores or devices there are nor on batching (which
    may round the last bits of its final belief in another way); that holds within one backend and
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
    progress : called with (agents done, agents in all) now and then; on a CPU, first with none
        done, when all has been compiled.

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
    if type(memory) is WindowMemory and memory.length >= num_steps:
        # Nothing is ever forgotten; a user's statistic may look into the window.
        running = isinstance(record, Running)
        memory = WindowMemory(num_steps) if running else PerfectMemory()
    check_own(problem, policy, memory, record)
    exploration = check_exploration(exploration).astype(dtype)
    population = Population(problem, policy, memory, prior, exploration, key)
    tile = None if tile is None else whole("tile", tile)
    plan, population, each, remembered = _plan(population, num_steps, record, tile)
    eager = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    if eager or not is_concrete(population):
        # At least: of how many populations at a time, only whoever maps over them knows.
        check_fits(each, num_agents, plan.lanes * (each + remembered))
        tiles = jnp.arange(-(-num_agents // plan.lanes), dtype=jnp.int32)
        alone = dataclasses.replace(plan, queue=1)
        stacked = lax.map(lambda i: run_tile(alone, population, i), tiles)
        return _of(num_steps, merge(stacked, num_agents))
    # No more room than is needed, which would only be cleared; powers of two, to compile less.
    workers = num_workers()
    needed = -(-num_agents // (plan.lanes * workers))
    room = max(plan.queue, min(plan.tiles, 1 << (needed - 1).bit_length()))
    work = workers * plan.lanes * ((room + 2) * each + 2 * remembered)
    copies = 1 if jax.default_backend() == "cpu" else workers  # of the priors
    check_fits(each, num_agents, work + copies * prior.nbytes)
    found = run_all(dataclasses.replace(plan, tiles=room), population, num_agents, progress)
    return _of(num_steps, found)


def _of(num_steps: int, found: Simulation) -> Simulation:
    return dataclasses.replace(found, num_steps=num_steps)


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
    check_log_prior(array, problem)
    return jax.nn.log_softmax(array, axis=-1)


def _lanes(num_models: int) -> int:
    """Agents of a tile: a power of two."""
    on_cpu = jax.default_backend() == "cpu"
    size = _TILE_CPU if on_cpu else _TILE_ACCELERATOR
    most = _MOST_LANES_CPU if on_cpu else _MOST_LANES_ACCELERATOR
    return min(most, max(64, 1 << (max(size // num_models, 1).bit_length() - 1)))


def _plan(
    population: Population, num_steps: int, record: Record, tile: int | None
) -> tuple[Plan, Population, int, int]:
    """How to simulate, whatever the number of agents, and what; bytes of an agent: results, memory.

    A simulator that keeps agents in the lanes has one program for any number of steps, if nothing
    is recorded.
    """
    problem, policy, memory = population.problem, population.policy, population.memory
    lanes = _lanes(problem.num_models) if tile is None else tile
    own = population.log_prior.ndim == 2
    engine = _engine(problem, policy, memory, record, lanes, own, num_steps)
    known = Known(excludes=True, trembles=True)
    if engine != "plain":
        known = _known(problem, policy, population.exploration)
    plan = Plan(num_steps, record, lanes, engine, known, 1)
    if engine in IN_LANES and record is None:
        plan = dataclasses.replace(plan, num_steps=None)
        population = population._replace(num_steps=jnp.asarray(num_steps, jnp.int32))
    each, remembered = _bytes(plan, population)
    if tile is None:
        while lanes > 1 and lanes * (each + remembered) > _MOST_TILE_BYTES:
            lanes //= 2
    tiles = min(_MOST_TILES, max(1, _MOST_ROOM_BYTES // (lanes * each)))
    # The same for any number of agents: another program might round another way.
    queue = min(_QUEUE, tiles) if engine == "mixed" and record is None else 1
    tiles -= tiles % queue
    plan = dataclasses.replace(plan, lanes=lanes, tiles=tiles, queue=queue)
    return plan, population, each, remembered


def _bytes(plan: Plan, population: Population) -> tuple[int, int]:
    """Bytes that the results of an agent take, and what it remembers."""
    if plan.engine in IN_LANES:  # the same by all of them
        plan = dataclasses.replace(plan, engine="idle")
    leaves, structure = jax.tree.flatten(population)
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) if eqx.is_array(x) else x for x in leaves)
    wide = jax.dtypes.canonicalize_dtype(np.float64)  # what a user's function makes depends on it
    return _bytes_of(plan, structure, tuple(shapes), wide)


@functools.lru_cache(maxsize=256)  # tracing for nothing but shapes takes milliseconds
def _bytes_of(plan: Plan, structure: Any, shapes: tuple, wide: np.dtype) -> tuple[int, int]:
    population = jax.tree.unflatten(structure, shapes)
    done = eqx.filter_eval_shape(run_tile, plan, population, jax.ShapeDtypeStruct((), jnp.int32))
    memory = eqx.filter_eval_shape(_remembered, population)
    each = sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in jax.tree.leaves(done))
    return each, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(memory))


def _remembered(population: Population) -> Any:
    return Agent(population.problem, population.policy, population.memory).init().memory


def _engine(
    problem: AbstractFiniteProblem,
    policy: AbstractPolicy,
    memory: AbstractMemory,
    record: Record,
    lanes: int,
    own: bool,
    num_steps: int,
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
        return "moments" if own else "mixed" if num_steps > _FEW_STEPS else "blocked"
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
