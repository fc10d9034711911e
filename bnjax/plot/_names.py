"""Names of scenarios, parameters and actions: what they stand for, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import scenarios
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem


def find_scenario(scenario: Callable[..., AbstractProblem] | str) -> Callable[..., AbstractProblem]:
    if callable(scenario):
        return scenario
    if scenario not in scenarios.__all__:
        raise ValueError(
            f"`scenario` must be a function or one of {scenarios.__all__}; got {scenario!r}."
        )
    return getattr(scenarios, scenario)


def words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def probability_of(problem: AbstractProblem, action: int, trembles: Any) -> str:
    """Label: what is drawn is intended play, which differs from play if that trembles."""
    return f"{'intended ' if trembles else ''}probability of {words(problem.action_names[action])}"


def parameter_names(problem: AbstractProblem) -> tuple[str, ...]:
    if isinstance(problem, FamilyProblem):
        return tuple(words(name) for name in problem.family.parameter_names)
    assert isinstance(problem, AbstractFiniteProblem)
    size = problem.theta.shape[1]
    return ("theta",) if size == 1 else tuple(f"theta {i}" for i in range(size))
