"""Environments: what a design has to be good for, as points of a box of scenario arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from ..learning._agent import as_finite
from ..problem import AbstractFiniteProblem, AbstractProblem


class Environments(eqx.Module):
    """A scenario, with some of its arguments known only to lie between bounds.

    Parameters
    ----------
    scenario : arguments -> problem.
    fixed : arguments that are known.
    box : bounds (low, high) of the others.
    """

    scenario: Callable[..., AbstractProblem] = eqx.field(static=True)
    fixed: dict[str, Any]
    box: dict[str, tuple[float, float]]

    def grid(self, num: int) -> tuple[dict[str, NDArray[np.float64]], dict[str, Array]]:
        """At most ``num`` points (but corners at least), the same number along each side.

        Returns
        -------
        the values along each side, and the arguments [E] of every point.
        """
        sides = len(self.box)
        each = max(2, math.floor(num ** (1 / sides) + 1e-9)) if sides else 1
        axes = {name: np.linspace(*bounds, each) for name, bounds in self.box.items()}
        mesh = np.meshgrid(*axes.values(), indexing="ij")
        dtype = jnp.result_type(float)
        points = {name: jnp.asarray(x.ravel(), dtype) for name, x in zip(axes, mesh, strict=True)}
        return axes, points

    def sample(self, num: int, key: Array) -> dict[str, Float[Array, " points"]]:
        """The arguments of ``num`` points drawn from the box, evenly and independently."""
        dtype = jnp.result_type(float)
        keys = jax.random.split(key, max(1, len(self.box)))
        return {
            name: jax.random.uniform(one, (num,), dtype, low, high)
            for one, (name, (low, high)) in zip(keys, self.box.items(), strict=False)
        }

    def make(self, point: Mapping[str, Any], given: Mapping[str, Any]) -> AbstractFiniteProblem:
        """The problem at one point, with arguments that a design sets."""
        return as_finite(self.scenario(**{**self.fixed, **point, **given}))

    def arguments(self) -> dict[str, Any]:
        """All arguments of the scenario: in the middle of the box, or as fixed."""
        return {**self.fixed, **{name: 0.5 * (a + b) for name, (a, b) in self.box.items()}}


def environments_of(
    scenario: Callable[..., AbstractProblem], environments: Mapping[str, Any]
) -> Environments:
    """Read what is known of each argument: a number, or its bounds (low, high)."""
    if not callable(scenario):
        raise ValueError(
            f"`scenario` must be a function that makes a problem, such as "
            f"bn.scenarios.sycophancy; got {scenario!r}."
        )
    if not isinstance(environments, Mapping):
        raise ValueError(
            "`environments` must say for arguments of the scenario what they are, a number or "
            f"(low, high), as {{'p_honest': (0.3, 0.9)}}; got {environments!r}."
        )
    parameters = inspect.signature(scenario).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fixed = {
        name: p.default
        for name, p in parameters.items()
        if p.default is not p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    box: dict[str, tuple[float, float]] = {}
    for name, value in environments.items():
        if name not in parameters and not anything:
            raise ValueError(
                f"`environments` names `{name}`, which is no argument of the scenario; it has: "
                f"{', '.join(parameters)}."
            )
        if isinstance(value, (tuple, list)) or np.ndim(value) == 1:
            box[name] = _bounds(name, value)
            fixed.pop(name, None)
        else:
            fixed[name] = value
    missing = [
        n for n, p in parameters.items() if p.default is p.empty and n not in {**fixed, **box}
    ]
    if missing and not anything:
        raise ValueError(f"`environments` must say what `{missing[0]}` is: it has no default.")
    return Environments(scenario, fixed, box)


def _bounds(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`environments` must give `{name}` as a number or as (low, high); got {value!r}."
        ) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"`environments` must give `{name}` finite bounds low < high; got ({low:g}, {high:g})."
        )
    return low, high


def check_domain(environments: Environments, points: Mapping[str, Float[Array, " points"]]) -> None:
    """Refuse a box that leaves the domain of the scenario."""
    if not environments.box:
        environments.make({}, {})  # whose own errors say what is wrong
        return

    @eqx.filter_jit
    def valid(points: Any) -> Array:
        return jax.vmap(lambda point: environments.make(point, {}).is_valid())(points)

    fine = np.asarray(valid(dict(points)))
    if not fine.all():
        bad = int(np.flatnonzero(~fine)[0])
        where = ", ".join(f"{name} = {float(x[bad]):g}" for name, x in points.items())
        raise ValueError(
            f"`environments` must stay in the domain of the scenario; its problem makes no sense "
            f"at {where}."
        )


def check_same_models(
    environments: Environments,
    points: Mapping[str, Float[Array, " points"]],
    given: Mapping[str, Any],
) -> None:
    """Refuse environments that differ in what can be represented: a prior is one for all."""
    if not environments.box:
        return

    @eqx.filter_jit
    def theta(points: Any, given: Any) -> Array:
        return jax.vmap(lambda point: environments.make(point, given).theta)(points)

    def differ(points: Mapping[str, Array]) -> bool:
        found = np.asarray(theta(dict(points), dict(given)))
        return not np.allclose(found, found[:1], atol=1e-6)

    if differ(points):
        box = {name: jnp.asarray(x, jnp.result_type(float)) for name, x in environments.box.items()}
        still = {name: jnp.full_like(x, x.mean()) for name, x in box.items()}
        names = [name for name, x in box.items() if differ({**still, name: x})]
        raise ValueError(
            "`design` weighs models, which must be the same in all environments; those of this "
            f"scenario change with {' and '.join(names or box)}. Fix that, or design it."
        )
