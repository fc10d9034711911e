"""The simulator of GPUs: one kernel that keeps the weights of its agents in registers.

The algorithm is that of `_blocked`, and so are the random numbers. A scan that XLA compiles moves
the weights of all agents through memory at every step; here a program takes a few
agents through all of their steps, and only counts come back. Written in Pallas for its Triton
backend, which wants lengths that are powers of two and knows no small axes: models, first, are
filled up with dead ones, and what belongs to actions or consequences is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, UInt32

from .._numerics import inverse_cdf, uniform
from ..problem import AbstractFiniteProblem
from ..response import AbstractPolicy, tremble
from ._agent import Agent
from ._blocked import rounding_of_a_step, scale_of, step_table
from ._lives import Known
from ._plain import Tile
from ._random import threefry
from ._record import Record, Tally, quarters

try:
    from jax.experimental.pallas.triton import CompilerParams
except ImportError:  # JAX means to drop this backend some day; then XLA's simulator serves
    CompilerParams = None

_THREADS = 256
_MOST_MODELS = 1024  # as many as a program has registers for
_WEIGHTS = 64  # of a thread, in registers


def can_run_kernel(
    problem: AbstractFiniteProblem, policy: AbstractPolicy, lanes: int, record: Record
) -> bool:
    """Whether the kernel serves what `in_blocks` does: two actions, final statistics only."""
    return (
        CompilerParams is not None
        and record is None
        and problem.num_actions == 2
        and problem.num_models <= _MOST_MODELS
        and lanes & (lanes - 1) == 0
        and policy.knows_second()
    )


class _Scalars(NamedTuple):
    """Numbers that all agents share, in the order in which the kernel finds them."""

    exploration: Any
    top: Any
    scale: Any
    rates: tuple[tuple[Any, ...], ...]  # [A][Y] true probabilities
    policy: tuple[Any, ...]


class _State(NamedTuple):
    """What a program carries from step to step: of each agent, and the time of all."""

    time: Any
    counts: tuple[Any, ...]
    intended: Any
    since: Any
    third: Any
    fourth: Any
    late: Any  # how often the second action was played in the second half


def run_kernel(
    agent: Agent,
    log_prior: Float[Array, "*agents models"],
    keys: UInt32[Array, "2 agents"],
    num_steps: int,
    known: Known,
    interpret: bool = False,
) -> Tile:
    """Simulate a tile of agents.

    Parameters
    ----------
    agent, log_prior, keys, num_steps, known : as for `live`.
    interpret : run it without a GPU, slowly, for tests.
    """
    problem, likelihood, excludes = agent.problem, agent.likelihood, known.excludes
    dtype = likelihood.log_ratio.dtype
    num_models, num_lanes = problem.num_models, keys.shape[1]
    num_actions, num_features = 2, problem.consequence.num_features
    num_codes = num_actions * num_features
    height = pl.next_power_of_2(num_models)
    width = min(num_lanes, max(32, _THREADS * _WEIGHTS // height), _THREADS)

    def by_model(array: Array, value: float = 0.0) -> Array:
        """[rows, models], models filled up."""
        missing = height - num_models
        return jnp.pad(array, ((0, 0), (0, missing)), constant_values=value)

    log_ratio = likelihood.log_ratio.reshape(num_models, num_codes)
    looked_up = step_table(agent, log_prior.ndim == 2, excludes)
    scale_free = agent.policy.scale_free
    truth: Any = problem.consequence
    leaves, structure = jax.tree.flatten(agent.policy)
    scalars = _Scalars(
        agent.trembles(),
        jnp.asarray(looked_up.top, dtype),
        scale_of(agent.table.features),
        tuple(tuple(row) for row in truth.probs),
        tuple(leaves),
    )
    flat, packing = jax.tree.flatten(scalars)
    numbers = jnp.stack([jnp.asarray(x, dtype) for x in flat])
    prior = log_prior[None] if log_prior.ndim == 1 else log_prior
    prior = by_model(prior, -jnp.inf).T  # [models, 1 or agents]
    # Codes in the minor axis: what the agents of a warp look up lies side by side.
    columns = pl.next_power_of_2(num_codes)
    table = jnp.pad(by_model(looked_up.factors).T, ((0, 0), (0, columns - num_codes)))
    models = (
        prior,
        by_model(log_ratio.T),
        by_model(likelihood.ruled_out.reshape(num_models, num_codes).T.astype(dtype)),
        table,
        by_model(looked_up.features),
        by_model(agent.table.log_size[None], -jnp.inf),
    )
    half, late = quarters(num_steps)

    def kernel(keys_ref, numbers_ref, steps_ref, *refs) -> None:
        prior_ref, ratio_ref, out_ref, factor_ref, feature_ref, size_ref, *outputs = refs
        values = jax.tree.unflatten(packing, [numbers_ref[i] for i in range(len(flat))])
        policy = jax.tree.unflatten(structure, values.policy)
        key = keys_ref[0, :], keys_ref[1, :]
        model = lax.broadcasted_iota(jnp.int32, (height, width), 0)

        def log_belief(counts: Sequence[Array]) -> tuple[Array, Array]:
            """As `Likelihood.log_belief`, written out."""
            seen = [count.astype(dtype) for count in counts]
            nothing = jnp.zeros((height, width), dtype)
            log, size, hits = prior_ref[...] + nothing, nothing, nothing
            for k, count in enumerate(seen):
                ratio = ratio_ref[k, :][:, None]
                log = log + ratio * count[None]
                size = size + jnp.abs(ratio) * count[None]
                if excludes:
                    hits = hits + out_ref[k, :][:, None] * jnp.minimum(count, 1.0)[None]
            if excludes:
                log = jnp.where(hits > 0.5, -jnp.inf, log)
            return log, 0.5 * (num_codes + 2) * float(jnp.finfo(dtype).eps) * size

        def refresh(counts: Sequence[Array]) -> tuple[Array, Array, tuple[Array, ...]]:
            """Weights, their rounding, and which pairs would kill a model that is alive."""
            log, rounding = log_belief(counts)
            log = log + size_ref[0, :][:, None]
            peak = log.max(0)
            weight = jnp.exp(log - jnp.where(peak > -jnp.inf, peak, 0.0)[None])
            total = jnp.maximum(weight.sum(0), jnp.finfo(dtype).tiny)
            slack = (weight * rounding).sum(0) / total + 8 * float(jnp.finfo(dtype).eps)
            deadly = ()
            if excludes:
                alive = (log > -jnp.inf).astype(dtype)
                deadly = tuple((out_ref[k, :][:, None] * alive).sum(0) for k in range(num_codes))
            return weight * values.top, slack, deadly

        def decide(time: Array, weight: Array, slack: Array) -> tuple[Array, Array, Array]:
            """Intended action, action, and pair of action and consequence."""
            counter = jnp.full((width,), time.astype(jnp.uint32))
            words = threefry(key, (counter, jnp.zeros_like(counter)))
            trembles, piece, draw = tremble(values.exploration, uniform(words[1], dtype), 2)
            number = uniform(words[0], dtype)
            rows = range(feature_ref.shape[0])
            means = [(weight * feature_ref[f, :][:, None]).sum(0) for f in rows]
            if not scale_free:
                means = [mean / means[-1] * values.scale for mean in means[:-1]]
            second = policy.second(means, slack)
            intended = inverse_cdf([1 - second, second], draw)
            action = jnp.where(trembles, piece, intended)
            fates = [inverse_cdf(row, number) for row in values.rates]
            outcome = jnp.where(action == 1, fates[1], fates[0])
            return intended, action, action * num_features + outcome

        def block(state: _State) -> _State:
            weight, slack, deadly = refresh(state.counts)
            stop = jnp.minimum(state.time + steps_ref[0], num_steps)

            def step(carry: tuple) -> tuple:
                weight, s, stop = carry
                age = (s.time - state.time).astype(dtype)
                rounding = slack + age * rounding_of_a_step(dtype)
                intended, action, code = decide(s.time, weight, rounding)
                weight = weight * factor_ref[model, jnp.broadcast_to(code[None], model.shape)]
                new = [(code == k).astype(jnp.int32) for k in range(num_codes)]
                changed = ((intended != s.intended) & (s.time > 0)).astype(jnp.int32)
                if excludes:
                    hits = [deadly[k] * new[k].astype(dtype) for k in range(num_codes)]
                    stop = jnp.where(reduce(add, hits).max() > 0, s.time + 1, stop)
                later = _State(
                    s.time + 1,
                    tuple(map(add, s.counts, new)),
                    intended,
                    jnp.where(changed == 1, s.time, s.since),
                    s.third + jnp.where((s.time >= half) & (s.time < late), changed, 0),
                    s.fourth + jnp.where(s.time >= late, changed, 0),
                    s.late + jnp.where(s.time >= half, action, 0),
                )
                return weight, later, stop

            return lax.while_loop(lambda c: c[1].time < c[2], step, (weight, state, stop))[1]

        zero = jnp.zeros(width, jnp.int32)
        state = _State(jnp.zeros((), jnp.int32), (zero,) * num_codes, *(zero,) * 5)
        state = lax.while_loop(lambda s: s.time < num_steps, block, state)
        counts_ref, tally_ref = outputs
        for k in range(num_codes):
            counts_ref[k, :] = state.counts[k]
        for k, row in enumerate(state[2:]):
            tally_ref[k, :] = row

    def whole(array: Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda i: (0,) * array.ndim)

    def part(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((rows, width), lambda i: (0, i))

    shared = numbers, looked_up.steps.reshape(1), *models
    specs = [part(2), *map(whole, shared)]
    if prior.shape[1] > 1:
        specs[3] = part(height)
    num_rows = len(_State._fields) - 2
    assert CompilerParams is not None  # as `can_run_kernel` saw to
    counts, rows = pl.pallas_call(
        kernel,
        grid=(num_lanes // width,),
        in_specs=specs,
        out_specs=[part(num_codes), part(num_rows)],
        out_shape=[
            jax.ShapeDtypeStruct((num_codes, num_lanes), jnp.int32),
            jax.ShapeDtypeStruct((num_rows, num_lanes), jnp.int32),
        ],
        compiler_params=CompilerParams(num_warps=_THREADS // 32, num_stages=1),
        interpret=interpret,
    )(keys, *shared)
    intended, since, third, fourth, second = rows
    counts = counts.astype(dtype).reshape(num_actions, num_features, num_lanes)
    evidence = jnp.moveaxis(counts, -1, 0)
    tally = Tally(
        evidence,
        jnp.stack([num_steps - half - second, second], axis=-1),
        intended,
        since,
        jnp.stack([third, fourth], axis=-1),
    )
    own = log_prior[:, None] if log_prior.ndim == 1 else log_prior.T
    log_belief = likelihood.log_belief(own, counts, counts > 0)
    return Tile(tally, log_belief.T, None, None)
