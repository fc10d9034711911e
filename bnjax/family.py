"""Continuous subjective models: a function from a box of parameters to consequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._check import as_float, as_names, check_finite, check_shape, check_some, is_concrete, whole

# Grid points along each coordinate from which a best fit is polished, by dimension; beyond
# four dimensions a tensor grid is no longer affordable and a low-discrepancy set replaces it.
_NODES_PER_DIMENSION = {1: 65, 2: 17, 3: 9, 4: 7}
_NODES_IN_HIGH_DIMENSION = 4096


class _PlainFunction(eqx.Module):
    """A plain Python function as a pytree without leaves, compared by identity."""

    function: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, theta: Array) -> Any:
        return self.function(theta)


class Family(eqx.Module):
    """A family of models Q_theta for theta in a box.

    Parameters
    ----------
    function : theta [D] -> consequence parameters: probabilities [A, Y] for categorical
        consequences, ``(mean [A], sd [A])`` for Gaussian ones. A plain function (made once,
        not anew in every call, or JAX compiles anew), or an `equinox.Module` whose arrays
        then are leaves of the problem. A Module may also have a method
        ``chart(action, coordinates) -> theta``: the box then holds *coordinates*, and the
        chart of an action is where its data identify coordinates one by one. Where that
        chart is not smooth in the first coordinate, a method ``kinks(action) -> [k]`` says at
        which of its values, so that the solver looks on either side of each.
    lower, upper : [D] bounds of the box.
    identified : one row an action, one boolean a coordinate: whether playing that action
        alone identifies the coordinate (in the chart of that action). What is not identified
        leaves a *set* of best fits. Default: every action identifies everything.
    unique_best_fit : a promise about what the solver cannot see between points of its grids:

        - whatever is played, the best fit is unique in the identified coordinates;
        - two actions: the payoff difference at the best fit changes sign at most once between
          neighbouring points of the grid over play (always so for D = 1 and a payoff difference
          monotone in theta);
        - more actions: the difference between the payoffs of any two is monotone in each
          coordinate between neighbouring points of the grid `nodes` (always so for differences
          monotone in each coordinate);
        - D > 1 or charts: the best fit lies in the basin of the best of the nodes.

        Only then does the solver claim that it found every equilibrium, and only then, and with
        at most four parameters, does it exclude any of more than two actions. A promise that is
        broken can make answers wrong; where slopes at the nodes show it, nothing is excluded on
        its strength. Without the promise, and always for D = 1, every basin is searched that may
        be the deepest as far as values and slopes at the nodes tell, and what is left of doubt is
        reported as undecided. With charts or more than four parameters that cannot be done, and
        without the promise no pure strategy is called an equilibrium.
    parameter_names : names for reports.

    Examples
    --------
    Two actions of which one succeeds as often as the other fails:

    >>> import jax.numpy as jnp, bnjax as bn
    >>> def trade_off(theta):
    ...     return jnp.array([[1 - theta[0], theta[0]], [theta[0], 1 - theta[0]]])
    >>> family = bn.Family(trade_off, lower=[0.0], upper=[0.5], parameter_names=["success"])
    >>> [float(node[0]) for node in family.nodes(3)]
    [0.0, 0.25, 0.5]
    >>> family.model(jnp.array([0.25])).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """

    function: Any
    lower: Float[Array, " parameters"]
    upper: Float[Array, " parameters"]
    identified: tuple[tuple[bool, ...], ...] | None = eqx.field(static=True)
    unique_best_fit: bool = eqx.field(static=True)
    parameter_names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[..., Any],
        lower: Any,
        upper: Any,
        identified: Sequence[Sequence[bool]] | None = None,
        unique_best_fit: bool = False,
        parameter_names: Sequence[str] | None = None,
    ):
        if not callable(function):
            raise ValueError(f"`function` must be callable; got {function!r}.")
        self.function = function if isinstance(function, eqx.Module) else _PlainFunction(function)
        self.lower = as_float("lower", lower, ndim=1)
        self.upper = as_float("upper", upper, ndim=1)
        check_some("lower", self.lower.shape[0], "parameter")
        check_shape("upper", self.upper, self.lower.shape, "parameters, as `lower` has")
        for name in ("lower", "upper"):
            check_finite(name, getattr(self, name))
        if is_concrete(self.lower, self.upper) and bool((self.lower > self.upper).any()):
            raise ValueError(
                f"`lower` must not exceed `upper`; got {np.asarray(self.lower)} and "
                f"{np.asarray(self.upper)}."
            )
        if identified is not None:
            try:
                identified = tuple(tuple(map(bool, row)) for row in identified)
            except TypeError:
                raise ValueError(
                    f"`identified` must be a row of booleans for each action; got {identified!r}."
                ) from None
            if any(len(row) != self.dimension for row in identified):
                raise ValueError(
                    f"`identified` must have {self.dimension} booleans in each row (one a "
                    f"parameter); got {identified}."
                )
        if not isinstance(unique_best_fit, (bool, np.bool_)):
            raise ValueError(
                "`unique_best_fit` is a promise and must be True or False; got "
                f"{unique_best_fit!r}."
            )
        self.identified = identified
        self.unique_best_fit = bool(unique_best_fit)
        self.parameter_names = as_names("parameter_names", parameter_names, self.dimension, "theta")

    @property
    def dimension(self) -> int:
        """Number of parameters D."""
        return self.lower.shape[0]

    def theta(self, coordinates: Float[Array, " parameters"], chart: int = 0) -> Array:
        """Parameters [D] at a point of the box, in the chart of an action."""
        return self.function.chart(chart, coordinates) if self.has_charts else coordinates

    def model(self, coordinates: Float[Array, " parameters"], chart: int = 0) -> Any:
        """Consequence parameters at a point of the box, in the chart of an action."""
        return self.function(self.theta(coordinates, chart))

    @property
    def has_charts(self) -> bool:
        """Whether the box holds coordinates of the family rather than theta itself."""
        return hasattr(self.function, "chart")

    @property
    def has_grid(self) -> bool:
        """Whether the nodes form an even grid, so that they have neighbours."""
        return self.dimension <= max(_NODES_PER_DIMENSION)

    def pieces(self, action: int) -> tuple[Array, Array]:
        """Lower and upper bounds [P, D] of the boxes in which the chart of an action is smooth."""
        lower, upper = self.lower[None], self.upper[None]
        if not (self.has_charts and hasattr(self.function, "kinks")):
            return lower, upper
        kinks = jnp.asarray(self.function.kinks(action), self.lower.dtype)
        kinks = jnp.sort(jnp.clip(kinks, self.lower[0], self.upper[0]))
        edges = jnp.concatenate([lower[0, :1], kinks, upper[0, :1]])
        lower, upper = (jnp.repeat(bound, len(edges) - 1, axis=0) for bound in (lower, upper))
        return lower.at[:, 0].set(edges[:-1]), upper.at[:, 0].set(edges[1:])

    def identifies_jointly(self) -> tuple[bool, ...]:
        """Which coordinates are identified when every action is played.

        With charts, all of them: there each action has coordinates of its own, and what it
        leaves open in them the other actions may settle.
        """
        if self.identified is None or self.has_charts:
            return (True,) * self.dimension
        return tuple(any(column) for column in zip(*self.identified, strict=True))

    def identifies(self, action: int) -> tuple[bool, ...]:
        """Which coordinates, in its own chart, an action identifies when played alone."""
        return (True,) * self.dimension if self.identified is None else self.identified[action]

    def unit_nodes(self, num: int | None = None) -> np.ndarray:
        """Nodes [G, D] in the unit box: an even grid, bounds included, or a spread-out set."""
        if num is not None and whole("num", num) < 2:
            raise ValueError(f"`num` must be at least 2 points a coordinate; got {num}.")
        if num is None and not self.has_grid:
            return _kronecker_sequence(_NODES_IN_HIGH_DIMENSION, self.dimension)
        num = _NODES_PER_DIMENSION[self.dimension] if num is None else num
        axis = np.linspace(0.0, 1.0, num)
        return np.stack(np.meshgrid(*[axis] * self.dimension, indexing="ij"), -1).reshape(
            -1, self.dimension
        )

    def nodes(self, num: int | None = None) -> Float[Array, "nodes parameters"]:
        """Coordinates [G, D] of the grid from which best fits are polished."""
        unit = jnp.asarray(self.unit_nodes(num), self.lower.dtype)
        # Both ends exactly, whatever the rounding in between.
        return jnp.where(unit == 1, self.upper, self.lower + unit * (self.upper - self.lower))

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the (possibly traced) bounds are finite and in order."""
        finite = jnp.isfinite(self.lower) & jnp.isfinite(self.upper)
        return jnp.all(finite & (self.lower <= self.upper))


def _kronecker_sequence(num: int, dimension: int) -> np.ndarray:
    """Low-discrepancy points [num, D] in the unit box (Roberts's R sequence)."""
    root = 2.0
    for _ in range(64):  # the real root of x^(D+1) = x + 1, a contraction
        root = math.pow(1 + root, 1 / (dimension + 1))
    steps = root ** -np.arange(1.0, dimension + 1)
    return (0.5 + np.arange(num)[:, None] * steps) % 1.0
