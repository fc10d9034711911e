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
from ..response import AbstractPolicy, are_probabilities, is_built_in
from ._agent import Agent
from ._record import Record, Running

_MEMORIES = PerfectMemory, DiscountedMemory, WindowMemory


def check_own(
    problem: AbstractFiniteProblem, policy: AbstractPolicy, memory: AbstractMemory, record: Record
) -> None:
    """Raise a ValueError that says which function of the user's does not fit, and how."""
    own_memory, own_policy = type(memory) not in _MEMORIES, not is_built_in(policy)
    if not (own_memory or own_policy or isinstance(record, Running)):
        return
    if own_policy:
        _check_features(problem, policy)
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
    if not all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state)):
        raise ValueError(
            f"`memory.init` must return arrays, such as jnp.zeros(()); got {_words(state)}."
        )
    seen = _shapes("memory.evidence", memory.evidence, state)
    wanted = jax.tree.map(_shape, (nothing, nothing != 0))
    if jax.tree.map(_shape, seen) != wanted:
        raise ValueError(
            "`memory.evidence` must return sums of features and booleans, both of shape "
            f"{nothing.shape} = [actions, features]; got {_words(seen)}."
        )
    _, step = eqx.filter_eval_shape(lambda a: a.step(jax.random.key(0), a.init()), agent)
    later = _shapes(
        "memory.update", memory.update, state, step.observation, jnp.zeros((), jnp.int32)
    )
    _same("memory.update", "memory.init", state, later)


def _check_features(problem: AbstractFiniteProblem, policy: AbstractPolicy) -> None:
    models = problem.num_models
    features = _shapes("policy.features", policy.features, problem.subjective_payoffs())
    array = isinstance(features, jax.ShapeDtypeStruct)
    if not array or len(features.shape) != 2 or features.shape[0] != models:
        raise ValueError(
            f"`policy.features` must return an array [models, features], {models} rows here; got "
            f"{_words(features)}."
        )


def _check_policy(agent: Agent) -> None:
    actions, features = agent.problem.num_actions, agent.table.features
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
            f"({actions},); got {_words(found)}."
        )
    if is_concrete(agent):
        with jax.ensure_compile_time_eval():  # also inside a function that is being traced
            first = np.asarray(agent.intention(agent.init()))
            sensible = bool(are_probabilities(jnp.asarray(first)))
        if not sensible:
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


def _words(found: Any) -> str:
    """Shapes and dtypes as a reader would write them."""
    leaves = jax.tree.leaves(found)
    said = ", ".join(
        f"{x.dtype} of shape {x.shape}" if isinstance(x, jax.ShapeDtypeStruct) else repr(x)
        for x in leaves
    )
    return said if leaves == [found] else f"{type(found).__name__} of {said or 'nothing'}"


def _shape(leaf: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(leaf.shape), jnp.dtype(leaf.dtype)


def _same(name: str, first_name: str, first: Any, later: Any) -> None:
    """Raise unless what is carried from step to step keeps its structure, shapes and dtypes."""
    kept = jax.tree.structure(first) == jax.tree.structure(later)
    if not kept or jax.tree.map(_shape, first) != jax.tree.map(_shape, later):
        raise ValueError(
            f"`{name}` must return what `{first_name}` does, in structure, shapes and dtypes; got "
            f"{_words(later)} after {_words(first)}."
        )
