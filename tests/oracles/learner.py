"""One learner, as one would write it on paper: a list of what it saw, and Bayes' rule in float64.

Shares nothing with the simulators but the meaning of a random number: a consequence, or an
action, is the first at which the cumulated probabilities pass it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Life(NamedTuple):
    """What a learner did and believed."""

    actions: list[int]
    consequences: list[int]
    belief: np.ndarray


def log_belief(
    log_prior: np.ndarray,
    model_probs: np.ndarray,
    seen: Sequence[tuple[int, int, float]],
) -> np.ndarray:
    """Log-weights [M] after observations (action, consequence, weight)."""
    log = np.array(log_prior, float)
    for action, consequence, weight in seen:
        for m in range(len(log)):
            q = float(model_probs[m, action, consequence])
            log[m] += weight * (math.log(q) if q > 0 else -math.inf)
    return log - np.logaddexp.reduce(log)


def live(
    probs: np.ndarray,
    model_probs: np.ndarray,
    payoff: np.ndarray,
    log_prior: np.ndarray,
    numbers: np.ndarray,
    choose: Callable[[np.ndarray, np.ndarray], np.ndarray],
    remembered: Callable[[list[tuple[int, int]]], list[tuple[int, int, float]]],
) -> Life:
    """Live through steps given by random numbers [T, 2], for the consequence and the action.

    Parameters
    ----------
    choose : (belief [M], payoffs [M, A]) -> probabilities of actions [A].
    remembered : all observations so far -> those remembered, with weights.
    """
    payoffs = (model_probs * payoff).sum(-1)
    history: list[tuple[int, int]] = []
    for for_consequence, for_action in numbers:
        log = log_belief(log_prior, model_probs, remembered(history))
        action = _at(choose(np.exp(log), payoffs), for_action)
        history.append((action, _at(probs[action], for_consequence)))
    log = log_belief(log_prior, model_probs, remembered(history))
    return Life([a for a, _ in history], [y for _, y in history], np.exp(log))


def _at(probabilities: np.ndarray, number: float) -> int:
    total = 0.0
    for index, probability in enumerate(probabilities):
        total += float(probability)
        if number < total:
            return index
    return int(np.flatnonzero(probabilities)[-1])
