"""Scenarios by their names."""

from __future__ import annotations

from collections.abc import Callable

from . import scenarios
from .problem import AbstractProblem


def find_scenario(scenario: Callable[..., AbstractProblem] | str) -> Callable[..., AbstractProblem]:
    """Return a function that makes problems, given it or the name of one in `bnjax.scenarios`."""
    if callable(scenario):
        return scenario
    if scenario not in scenarios.__all__:
        raise ValueError(
            f"`scenario` must be a function or one of {scenarios.__all__}; got {scenario!r}."
        )
    return getattr(scenarios, scenario)
