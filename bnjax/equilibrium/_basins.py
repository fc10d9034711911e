"""Where a function may be least, by its values and slopes at the nodes of an even grid.

No plane that touches the function at a corner of a cell of the grid lies above it in the cell:
that is certain where it is convex there, and bounds what its minimum in the cell may be. Where
it is not, it may fall below by a little, for which there is a margin.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._box import Minimum, Search
from ._tolerance import rounding_of

# Basins that are searched at most, before the rest leave doubt.
_SEARCHES = 64
# By how much of its distance from the best corner a bound is lowered.
_MARGIN = 0.5


class Cells:
    """Cells of an even grid over a box, and where in them a function may have a minimum.

    ``spacing`` [D] of the nodes; ``lower`` and ``upper`` [C, D] bounds of the cells.

    Parameters
    ----------
    nodes : [G, D] with the last coordinate running fastest.
    values, slopes : [G], [G, D] of the function at the nodes.
    infinite : [G] where it is infinite, whatever its value.
    matters : [D] which coordinates the function depends on; of cells that differ in others only,
        one stands for all.
    """

    # Over corners and coordinates, of which there are few, everything is written out: see
    # `_numerics`. Lists are over corners, and what has a coordinate is a list of them.

    def __init__(
        self,
        nodes: Float[Array, "nodes parameters"],
        values: Float[Array, " nodes"],
        slopes: Float[Array, "nodes parameters"],
        infinite: Bool[Array, " nodes"],
        matters: Bool[Array, " parameters"],
    ):
        dimension = nodes.shape[1]
        self.axes = range(dimension)
        self.per_axis = round(len(nodes) ** (1 / dimension))
        self.corners = list(itertools.product((0, 1), repeat=dimension))
        index = np.indices((self.per_axis - 1,) * dimension)
        self.index = index.reshape(dimension, -1)
        self.matters = matters
        self.wall, self.value = self._at_corners(infinite), self._at_corners(values)
        self.slope = [
            [jnp.where(blocked, 0.0, s) for blocked, s in zip(self.wall, at, strict=True)]
            for at in (self._at_corners(slopes[:, axis]) for axis in self.axes)
        ]
        places = [self._at_corners(nodes[:, axis]) for axis in self.axes]
        self.lower, self.upper = (
            jnp.stack([place[corner] for place in places], -1) for corner in (0, -1)
        )
        self.spacing = (nodes[-1] - nodes[0]) / (self.per_axis - 1)

    def _at_corners(self, of_nodes: Array) -> list[Array]:
        """What is known of the nodes, at each corner of every cell."""
        num = self.per_axis
        grid = of_nodes.reshape((num,) * len(self.axes))
        cuts = [tuple(slice(step, step + num - 1) for step in corner) for corner in self.corners]
        return [grid[cut].reshape(-1) for cut in cuts]

    def candidates(self) -> Bool[Array, " cells"]:
        """Cells that may hold a minimum, at little cost: of a line, those into which it falls.

        That is, from either side, or from a wall, or because the box ends there. In more
        dimensions slopes at the corners do not tell, even of a convex function, and only `bounds`
        do.
        """
        inside = ~functools.reduce(operator.and_, self.wall)
        for axis in self.axes:
            inside &= self.matters[axis] | jnp.asarray(self.index[axis] == 0)
        if len(self.axes) > 1:
            return inside
        (low_wall, high_wall), (low, high) = self.wall, self.slope[0]
        first, last = (jnp.asarray(self.index[0] == i) for i in (0, self.per_axis - 2))
        falls, rises = low_wall | (low <= 0) | first, high_wall | (high >= 0) | last
        return inside & ((falls & rises) | ~self.matters[0])

    def bounds(self) -> tuple[Float[Array, " cells"], Int[Array, " cells"]]:
        """How low a minimum in each cell may lie, and the best corner as the number of a node.

        The bound is that of the tangent at each corner, and of the mean of all which is level
        where each coordinate goes its own way, less the margin. At a wall there is no tangent.
        """
        half = 0.5 * self.spacing
        share = []
        for axis in self.axes:
            sides = zip(self.corners, self.slope[axis], strict=True)
            ways = [
                (corner[axis], jnp.maximum(s if corner[axis] else -s, 0)) for corner, s in sides
            ]
            down, up = (sum(way for side, way in ways if side == which) for which in (0, 1))
            turn = down + up
            share.append(jnp.where(turn > 0, down / jnp.where(turn > 0, turn, 1.0), 0.5))
        # No corner counts for nothing, in case that the others are walls.
        least = float(jnp.finfo(half.dtype).eps)
        alone = jnp.full_like(self.value[0], -jnp.inf)
        total, level, tilt = 0.0, 0.0, [0.0] * len(self.axes)
        strides = [self.per_axis**axis for axis in reversed(self.axes)]
        lowest = jnp.full_like(self.value[0], jnp.inf)
        start = jnp.asarray(np.array(strides) @ self.index, jnp.int32)
        best = jnp.zeros_like(start)
        for i, corner in enumerate(self.corners):
            slopes = [self.slope[axis][i] for axis in self.axes]
            weight = math.prod(s if side else 1 - s for s, side in zip(share, corner, strict=True))
            weight = jnp.where(self.wall[i], 0.0, least + weight)
            rise = sum(s * half[a] * (1 if corner[a] else -1) for a, s in enumerate(slopes))
            centre = jnp.where(self.wall[i], 0.0, self.value[i] - rise)
            total, level = total + weight, level + weight * centre
            tilt = [t + weight * s for t, s in zip(tilt, slopes, strict=True)]
            drops = [s if corner[a] else -s for a, s in enumerate(slopes)]
            drop = sum(jnp.maximum(s, 0) * self.spacing[a] for a, s in enumerate(drops))
            alone = jnp.maximum(alone, jnp.where(self.wall[i], -jnp.inf, self.value[i] - drop))
            height = jnp.where(self.wall[i], jnp.inf, self.value[i])
            best = jnp.where(height < lowest, sum(map(operator.mul, corner, strides)), best)
            lowest = jnp.minimum(height, lowest)
        slack = sum(jnp.abs(t) * half[axis] for axis, t in enumerate(tilt))
        mean = (level - slack) / jnp.maximum(total, least)
        bound = jnp.maximum(mean, alone)
        drop = lowest - bound
        return bound - _MARGIN * jnp.where(jnp.isfinite(drop), drop, 0.0), start + best


class _State(NamedTuple):
    """Local searches so far: the best place, its value, and whether another ties.

    ``rivals`` are the cells that may hold something as low, ``deeper`` whether any may be lower.
    """

    trips: Int[Array, ""]
    best: Float[Array, " parameters"]
    value: Float[Array, ""]
    tied: Bool[Array, ""]
    rivals: Bool[Array, " cells"]
    deeper: Bool[Array, ""]


def search_basins(
    search: Search,
    cells_of: Callable[[Array], Cells],
    weights: Float[Array, " actions"],
    values: Float[Array, " nodes"],
) -> tuple[Minimum, Bool[Array, ""], Bool[Array, ""]]:
    """Search the basin of the best node, and then every cell that may hold something deeper.

    Parameters
    ----------
    search : local searches over the box.
    cells_of : weights -> cells of the function that they make.
    weights : [A], without derivatives.
    values : [G] of the function at the nodes, inf or huge where it is infinite.

    Returns
    -------
    The minimum; whether nothing can lie lower; and whether nothing else can lie as low.
    """
    cells = cells_of(weights)

    def elsewhere(point):
        outside = (point < cells.lower) | (point > cells.upper)
        return jnp.any(cells.matters & outside, -1)

    def trip(state):
        # Only where something is left to search, which is rare: the barrier keeps the compiler
        # from computing it before it knows.
        again, _ = lax.optimization_barrier((weights, state.trips))
        bound, node = cells_of(again).bounds()
        promising = jnp.where(state.rivals, bound, jnp.inf)
        rival = jnp.argmin(promising)
        new = search.from_node(node[rival])
        point, value = search.at(new), search.value(new)
        apart = jnp.abs(point - search.at(state.best)) > cells.spacing
        away = jnp.any(cells.matters & apart)
        gain = state.value - value
        better, tie = gain > 0, away & (jnp.abs(gain) <= rounding_of(value))
        value = jnp.where(better, value, state.value)
        noise = rounding_of(value)
        rivals = state.rivals & elsewhere(point) & (promising <= value + noise)
        rivals &= jnp.arange(len(rivals)) != rival
        return _State(
            trips=state.trips + 1,
            best=jnp.where(better, new, state.best),
            value=value,
            tied=tie | (state.tied & (gain <= noise)),
            rivals=rivals,
            deeper=jnp.any(rivals & (bound < value - noise)),
        )

    first = search.from_node(jnp.argmin(values))
    rivals = cells.candidates() & elsewhere(search.at(first))
    begin = _State(
        trips=jnp.zeros((), jnp.int32),
        best=first,
        value=search.value(first),
        tied=jnp.zeros((), bool),
        rivals=rivals,
        deeper=jnp.any(rivals),
    )
    end = lax.while_loop(lambda s: jnp.any(s.rivals) & (s.trips < _SEARCHES), trip, begin)
    end = lax.stop_gradient(end)
    low = search.settle(end.best)
    found = low.converged & ~end.deeper & jnp.all(values >= end.value - rounding_of(end.value))
    unique = ~end.tied & ~jnp.any(end.rivals)
    return low, *lax.stop_gradient((found, unique))
