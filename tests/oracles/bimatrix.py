"""Finite Berk-Nash equilibria as Nash equilibria of a bimatrix game, found by nashpy.

If no model is ruled out, the condition "the belief is on best-fitting models" says that a second
player who picks a model and is paid ``-K[m, a]`` plays a best response, and "played actions are
optimal" says that a first player who picks an action and is paid ``U[m, a]`` does. So the
equilibria (with the beliefs that support them) are the Nash equilibria of that game.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import nashpy
import numpy as np


def equilibria(
    kl: Any,
    payoffs: Any,
    exploration: float = 0.0,
    method: Literal["support", "vertex"] = "vertex",
) -> tuple[np.ndarray, np.ndarray]:
    """Strategies [E, A] and beliefs [E, M] of the equilibria; all of them in generic games.

    In a degenerate game (ties) these are only some points of the equilibrium components.
    Prefer ``vertex``: nashpy's support enumeration compares payoffs without a tolerance, so that
    rounding makes it lose equilibria (in a third of random games, to judge by an even count).
    """
    kl, payoffs = np.asarray(kl, float), np.asarray(payoffs, float)
    trembled = (1 - exploration) * kl + exploration * kl.mean(1, keepdims=True)
    game = nashpy.Game(payoffs.T, -trembled.T)
    search = {"support": game.support_enumeration, "vertex": game.vertex_enumeration}[method]
    with warnings.catch_warnings():
        # nashpy warns of degenerate games, and of the singular systems it meets on its way.
        warnings.simplefilter("ignore", RuntimeWarning)
        pairs = list(search())
    num_models, num_actions = kl.shape
    strategies = np.array([strategy for strategy, _ in pairs]).reshape(-1, num_actions)
    beliefs = np.array([belief for _, belief in pairs]).reshape(-1, num_models)
    return strategies, beliefs
