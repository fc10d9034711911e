"""What is asked of a diagram: axes, fixed arguments, and whether they fit the scenario."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from .._check import linear
from ._dataset import RESERVED

EXPLORATION = "exploration"
"""Name of the axis along which the tremble varies, rather than a parameter of the scenario."""


def axis(name: str, values: Any) -> NDArray[np.float64]:
    """Return the values along one axis, or say what is wrong with them."""
    if name in RESERVED:
        raise ValueError(
            f"`axes` must not use the name of a result; got {name!r}. Reserved names: "
            f"{', '.join(RESERVED)}."
        )
    if isinstance(values, str):
        values = linear(name, values)
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"axis `{name}` must be an array of numbers; got {values!r}.") from error
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"axis `{name}` must be one-dimensional and not empty; got shape {array.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"axis `{name}` must be finite; got {array[bad[0]]} at index {bad[0]}.")
    return array


def arguments(
    scenario: Callable[..., Any], grid: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Check names against the scenario's; return what is not on an axis, defaults included."""
    if not grid:
        raise ValueError("`axes` must name at least one axis; got none.")
    both = [name for name in grid if name in fixed]
    if both:
        raise ValueError(f"`{both[0]}` must be given once; it is both an axis and in `fixed`.")
    try:
        parameters = inspect.signature(scenario).parameters
    except ValueError:  # built in C: nothing is known, so anything may be right
        return dict(fixed)
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    title = getattr(scenario, "__name__", type(scenario).__name__)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in [*(name for name in grid if name != EXPLORATION), *fixed]:
        if name not in named and not anything:
            raise ValueError(
                f"`{name}` is no parameter of {title}; it has: {', '.join(named) or 'none'}."
            )
    for name, p in named.items():
        if p.default is p.empty and name not in grid and name not in fixed:
            raise ValueError(
                f"`{name}` must be given, as an axis or in `fixed`: {title} has no default for it."
            )
    defaults = {name: p.default for name, p in named.items() if name not in grid}
    return defaults | dict(fixed)


def is_traced(value: Any) -> bool:
    """Whether a fixed argument is a number that may change without a new compilation."""
    if isinstance(value, (float, np.floating)):
        return bool(value != 0)
    return isinstance(value, (np.ndarray, jax.Array))


def as_array(value: Any) -> Array:
    # A Python float has no precision of its own, and none that is weak may compile anew.
    return jnp.asarray(value, jnp.result_type(float) if isinstance(value, float) else None)


def plain(value: Any) -> Any:
    """Something that JSON can hold."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    return repr(value)
