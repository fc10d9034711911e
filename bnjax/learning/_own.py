"""Refuse, before anything runs, policies, memories and statistics of a user's that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._check import is_concrete
from ..belief import AbstractMemory, DiscountedMemory, PerfectMemory, WindowMemory
from ..problem import AbstractFiniteProblem
from ..response import AbstractPolicy, BestResponse, EpsilonGreedy, Logit, ThompsonSampling
from ._agent import Agent
from ._record import Record, Running

_POLICIES = BestResponse, EpsilonGreedy, Logit, ThompsonSampling
_MEMORIES = PerfectMemory, DiscountedMemory, WindowMemory


def check_own(
    problem: AbstractFiniteProblem, policy: AbstractPolicy, memory: AbstractMemory, record: Record
) -> None:
    """Raise a ValueError that says which function of the user's does not fit, and how."""
    own_memory, own_policy = type(memory) not in _MEMORIES, type(policy) not in _POLICIES
    if not (own_memory or own_policy or isinstance(record, Running)):
        return
    agent = Agent(problem, policy, memory)
    if own_memory:
        _check_memory(agent)
    if own_policy:
        _check_policy(agent)
    if isinstance(record, Running):
        _check_record(agent, record)


def _check_memory(agent: Agent) -> None:
    nothing, memory = agent.nothing(), agent.memory
    state = _shapes("memory.init", memory.init, nothing)
    seen = _shapes("memory.evidence", memory.evidence, state)
    wanted = jax.tree.map(_shape, (nothing, nothing != 0))
    if jax.tree.map(_shape, seen) != wanted:
        raise ValueError(
            "`memory.evidence` must return sums of features and booleans, both of shape "
            f"{nothing.shape} = [actions, features]; got {seen}."
        )
    _, step = eqx.filter_eval_shape(lambda a: a.step(jax.random.key(0), a.init()), agent)
    later = _shapes(
        "memory.update", memory.update, state, step.observation, jnp.zeros((), jnp.int32)
    )
    _same("memory.update", "memory.init", state, later)


def _check_policy(agent: Agent) -> None:
    actions, models = agent.problem.num_actions, agent.problem.num_models
    features = _shapes("policy.features", agent.policy.features, agent.problem.subjective_payoffs())
    if not isinstance(features, jax.ShapeDtypeStruct) or features.shape[:1] != (models,):
        raise ValueError(
            f"`policy.features` must return an array [models, features], {models} rows here; got "
            f"{features}."
        )
    means = jax.ShapeDtypeStruct(features.shape[1:], features.dtype)
    slack = jax.ShapeDtypeStruct((), features.dtype)
    found = _shapes("policy.probabilities", agent.policy.probabilities, means, slack)
    if (
        not isinstance(found, jax.ShapeDtypeStruct)
        or found.shape != (actions,)
        or not jnp.issubdtype(found.dtype, jnp.floating)
    ):
        raise ValueError(
            f"`policy.probabilities` must return the probability of each action, floats of shape "
            f"({actions},); got {found}."
        )
    if is_concrete(agent):
        with jax.ensure_compile_time_eval():  # also inside a function that is being traced
            first = np.asarray(agent.intention(agent.init()))
        if not (np.isfinite(first).all() and (first >= 0).all() and abs(first.sum() - 1) < 1e-3):
            raise ValueError(
                "`policy.probabilities` must return probabilities, none negative, that sum to one; "
                f"under the prior it returns {first}."
            )


def _check_record(agent: Agent, record: Running) -> None:
    start = _shapes("record.init", record.start, agent)
    state, step = eqx.filter_eval_shape(lambda a: a.step(jax.random.key(0), a.init()), agent)
    later = _shapes("record.update", record.update, start, step, state, agent)
    _same("record.update", "record.init", start, later)


def _shapes(name: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return eqx.filter_eval_shape(function, *args)
    except Exception as error:  # whatever it is, it is the user's function that raises it
        raise ValueError(f"`{name}` failed when it was traced: {error}") from error


def _shape(leaf: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(leaf.shape), jnp.dtype(leaf.dtype)


def _same(name: str, first_name: str, first: Any, later: Any) -> None:
    """Raise unless what is carried from step to step keeps its structure, shapes and dtypes."""
    kept = jax.tree.structure(first) == jax.tree.structure(later)
    if not kept or jax.tree.map(_shape, first) != jax.tree.map(_shape, later):
        raise ValueError(
            f"`{name}` must return what `{first_name}` does, in structure, shapes and dtypes; got "
            f"{later} after {first}."
        )
