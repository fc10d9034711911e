"""What a design has found, in the units of the scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._designs import (
    AbstractDesign,
    Argument,
    BetaPrior,
    Exploration,
    GaussianPrior,
    LogPrior,
    RewardBonus,
    RewardScale,
    SupportBounds,
    Together,
)


def parameter_names(result: Any) -> list[str]:
    """Names of the models' parameters, as the scenario has them, with spaces for underscores."""
    return [name.replace("_", " ") for name in _made(result).parameter_names]


def _made(result: Any) -> Any:
    """What the scenario makes, as shapes."""
    environments = result.situation.environments
    # As the search has them, traced: a scenario may have fewer parameters at a number it knows.
    given = result.design.arguments(result.parameters)
    traced = {name: jnp.zeros(()) for name in environments.box} | given
    arguments = {**environments.fixed, **traced}
    return eqx.filter_eval_shape(environments.scenario, **arguments)


def named(
    kind: AbstractDesign,
    parameters: Any,
    theta: np.ndarray,
    names: Sequence[str],
    actions: Sequence[str],
) -> dict[str, Any]:
    """Parameters of a design by name, rounded for JSON.

    Parameters
    ----------
    kind, parameters : the design.
    theta : [M, D] parameters of its models, and their ``names``.
    actions : names.
    """
    if isinstance(kind, Together):
        each = zip(kind.designs, parameters, strict=True)
        return {k: v for d, p in each for k, v in named(d, p, theta, names, actions).items()}
    values = np.asarray(parameters, float)
    if isinstance(kind, (BetaPrior, GaussianPrior, SupportBounds)):
        name = names[kind.parameter]
        low, high = theta[:, kind.parameter].min(), theta[:, kind.parameter].max()
        if isinstance(kind, BetaPrior):
            return {f"beta a, b of {name}": plain(np.exp(values))}
        if isinstance(kind, GaussianPrior):
            return {
                f"mean of {name}": plain(low + (high - low) * values[0]),
                f"sd of {name}": plain((high - low) * np.exp(values[1])),
            }
        return {
            f"{name}, at least": plain(low + (high - low) * values[0]),
            f"{name}, at most": plain(low + (high - low) * values[1]),
        }
    if isinstance(kind, Argument):
        return {kind.name: plain(kind.arguments(values)[kind.name])}
    if isinstance(kind, Exploration):
        return {"exploration": plain(kind.high * values)}
    if isinstance(kind, RewardScale):
        return {"reward scale": plain(np.exp(values))}
    if isinstance(kind, RewardBonus):
        return {f"bonus for {a}": plain(v) for a, v in zip(actions, values, strict=True)}
    return {"nats added to log-weights": plain(values)}


def plain(values: Any) -> Any:
    """Numbers for JSON, short; None where they are not finite."""
    array = np.asarray(values, float)
    if array.ndim:
        return [plain(x) for x in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None


def said(result: Any) -> list[str]:
    """A line for each part of a design: its parameters, under the names that they go by."""
    parts: list[tuple[AbstractDesign, Any]] = [(result.design, result.parameters)]
    if isinstance(result.design, Together):
        parts = list(zip(result.design.designs, result.parameters, strict=True))
    return [line for kind, own in parts for line in _said(result, kind, own)]


def _said(result: Any, kind: AbstractDesign, parameters: Any) -> list[str]:
    if isinstance(kind, (BetaPrior, GaussianPrior, SupportBounds)):
        names = parameter_names(result)
        found = named(kind, parameters, _theta(result), names, [])
        if isinstance(kind, BetaPrior):
            ((a, b),) = found.values()
            what = f"times Beta(a = {a:.4g}, b = {b:.4g})"
        elif isinstance(kind, GaussianPrior):
            mean, sd = found.values()
            what = f"times a normal density (mean {mean:.4g}, sd {sd:.4g})"
        else:
            low, high = found.values()
            what = f"at least {low:.4g}, at most {high:.4g}"
        return [f"{names[kind.parameter]}: {what}"]
    if isinstance(kind, (Argument, Exploration, RewardScale, RewardBonus)):
        actions = _made(result).action_names if isinstance(kind, RewardBonus) else ()
        found = named(kind, parameters, np.empty((0, 0)), [], actions)
        return [f"{name}: {value:.4g}" for name, value in found.items()]
    shown = [
        np.array2string(np.asarray(x), precision=4, threshold=8)
        for x in jax.tree.leaves(parameters)
    ]
    name = type(kind).__name__
    if isinstance(kind, LogPrior):
        name = f"{name}, nats added to log-weights"
    return [f"{name}: {', '.join(shown)}"]


def _theta(result: Any) -> np.ndarray:
    """Parameters [M, D] of the models, in the middle of the box."""
    return np.asarray(result.learner()[0].theta, float)
