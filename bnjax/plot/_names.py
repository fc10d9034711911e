"""How names of parameters and actions are written."""

from __future__ import annotations

from typing import Any

from ..problem import AbstractProblem


def words(name: str) -> str:
    return name.replace("_", " ")


def probability_of(problem: AbstractProblem, action: int, trembles: Any) -> str:
    """Label: what is drawn is intended play, which differs from play if that trembles."""
    return f"{'intended ' if trembles else ''}probability of {words(problem.action_names[action])}"
