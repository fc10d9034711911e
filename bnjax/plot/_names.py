"""Names of scenarios, parameters and actions: what they stand for, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import scenarios
from ..problem import AbstractProblem


def find_scenario(scenario: Callable[..., AbstractProblem] | str) -> Callable[..., AbstractProblem]:
    if callable(scenario):
        return scenario
    if scenario not in scenarios.__all__:
        raise ValueError(
            f"`scenario` must be a function or one of {scenarios.__all__}; got {scenario!r}."
        )
    return getattr(scenarios, scenario)


def words(name: str) -> str:
    return name.replace("_", " ")


def probability_of(problem: AbstractProblem, action: int, trembles: Any) -> str:
    """Label: what is drawn is intended play, which differs from play if that trembles."""
    return f"{'intended ' if trembles else ''}probability of {words(problem.action_names[action])}"
