"""What results share that are shown and summed up in words."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ._check import is_concrete
from .problem import check_problem

NO_SENSE = "the numbers of the problem make no sense"


def is_one(array: Any, ndim: int) -> bool:
    """Whether it holds the values of one problem: no batch, and nothing traced or abstract."""
    has_values = isinstance(array, (np.ndarray, jax.Array)) and is_concrete(array)
    return has_values and array.ndim == ndim


def shape_label(array: Any, last: str) -> str:
    """Shape of an array of any kind, or what stands in its place in a tree."""
    if not hasattr(array, "shape"):
        return type(array).__name__
    return f"batch={batch_of(array, 1)}, {last}={array.shape[-1]}"


def batch_of(array: Any, ndim: int) -> tuple[int, ...]:
    """Shape of a batch of arrays of ``ndim`` dimensions."""
    return array.shape[: array.ndim - ndim]


def check_one(name: str, array: Array, ndim: int, problem: Any, num_actions: int) -> None:
    """Raise unless a result is of one problem, which could be the given one."""
    if array.ndim != ndim:
        raise ValueError(
            f"a summary is of one problem; this {name} holds a batch of {batch_of(array, ndim)}: "
            "index it first, for example with `jax.tree.map(lambda x: x[0], result)`."
        )
    if problem is None:
        raise ValueError(
            f"`problem` must be a bnjax problem, the one that was solved: a summary of {name} has "
            "its names; got none."
        )
    check_problem(problem)
    if problem.num_actions != num_actions:
        raise ValueError(
            f"`problem` must be the one that was solved, with {num_actions} actions; got one with "
            f"{problem.num_actions}."
        )


def theta_label(theta: Any) -> str:
    """A parameter vector [D] in words."""
    numbers = [f"{x:.6g}" for x in np.asarray(theta)]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
