"""One question asked in every cell of a grid, in tiles of fixed shape.

Cells go through one compiled function in tiles, so that neither compilation nor device memory
depends on the grid. Within a tile every device works on its own share, block by block: a block
is the unit of vectorisation, and since its shape never changes, a cell's result depends
neither on the grid nor on how many devices there are. A CPU is one device, whose cores take one
tile after the other.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from .._cores import on_cores, tile_options
from .._devices import EVERYWHERE, SPLIT, everywhere, split
from ..equilibrium._solve import prepare
from ..equilibrium._tolerance import Tolerance, default_tolerance
from ..problem import AbstractProblem
from ._arguments import EXPLORATION


class AbstractQuestion(abc.ABC):
    """What is computed in a cell; equal ones share a compilation."""

    @abc.abstractmethod
    def share(self, on_cpu: bool) -> int:
        """Cells that a device or a core gets at a time: whole blocks."""

    @abc.abstractmethod
    def block(self, problem: AbstractProblem, on_cpu: bool) -> int:
        """Cells that are worked on together, for problems of this kind."""

    @abc.abstractmethod
    def answer(
        self,
        problem: AbstractProblem,
        exploration: Float[Array, ""],
        tolerance: Tolerance,
        index: Int[Array, ""],
        given: Any,
    ) -> tuple[Any, Bool[Array, ""]]:
        """Results of a cell as a named tuple, and whether its problem makes sense at all.

        ``index`` is the number of the cell, ``given`` is `Shared.given`.
        """


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled tile depends on: equal plans share one compilation."""

    question: AbstractQuestion
    scenario: Callable[..., AbstractProblem]
    names: tuple[str, ...]
    static: tuple[tuple[str, Any], ...]
    mesh: Mesh

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    @property
    def on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def share(self) -> int:
        return self.question.share(self.on_cpu)

    def build(self, shared: Shared, point: Float[Array, " axes"]) -> tuple[Any, Array]:
        """Problem and tremble at one point of the grid."""
        values = {name: point[i] for i, name in enumerate(self.names)}
        exploration = values.pop(EXPLORATION, shared.exploration)
        return self.scenario(**values, **dict(self.static), **shared.fixed), exploration


class Shared(eqx.Module):
    """Traced arguments that all cells share; ``given`` is what the question needs besides."""

    fixed: dict[str, Array]
    exploration: Float[Array, ""]
    tol_fit: Float[Array, ""] | None
    tol_payoff: Float[Array, ""] | None
    given: Any = None


class About(NamedTuple):
    """What is the same for every cell."""

    action_names: tuple[str, ...]
    parameter_names: tuple[str, ...]
    tol_fit: Array
    tol_payoff: Array


@functools.cache
def _compiled() -> Any:
    # It passes on to `jax.jit` what its types do not mention.
    options: dict[str, Any] = {"compiler_options": tile_options()}
    return eqx.filter_jit(_answer_tile, **options)


def _answer_tile(
    plan: Plan,
    shared: Shared,
    points: Float[Array, "cells axes"],
    indices: Int[Array, " cells"],
    counts: Int[Array, " devices"],
) -> tuple[Any, Bool[Array, " cells"], About]:
    """Answer the question in the leading cells of every device's share of a tile.

    Parameters
    ----------
    plan, shared : what to answer.
    points : coordinates, the shares of the devices one after the other.
    indices : numbers of these cells in the grid.
    counts : how many cells of its share each device is to do, rounded up to whole blocks.

    Returns
    -------
    cells, whether the problem of each makes sense, and what is common to them.
    """

    def prepared(shared: Shared, point: Array) -> tuple[Any, Array, Tolerance]:
        problem, exploration = plan.build(shared, point)
        return problem, *prepare(problem, exploration, shared.tol_fit, shared.tol_payoff)

    def answer_one(shared: Shared, point: Array, index: Array) -> tuple[Any, Array]:
        return plan.question.answer(*prepared(shared, point), index, shared.given)

    example, _, like = eqx.filter_eval_shape(prepared, shared, points[0])
    block = plan.question.block(example, plan.on_cpu)
    num_blocks = plan.share // block

    # Traced once, although its shapes are wanted first and its results later.
    answer_block = jax.jit(jax.vmap(answer_one, in_axes=(None, 0, 0)))

    def answer_share(
        shared: Shared, points: Array, indices: Array, counts: Array
    ) -> tuple[Any, Array]:
        points, indices = points.reshape(num_blocks, block, -1), indices.reshape(num_blocks, block)
        shapes = jax.eval_shape(answer_block, shared, points[0], indices[0])
        results = jax.tree.map(lambda x: jnp.zeros((num_blocks, *x.shape), x.dtype), shapes)

        # Not `lax.map`: the last tile of a diagram, or the only one, is seldom full.
        def step(i: Array, results: tuple[Any, Array]) -> tuple[Any, Array]:
            new = answer_block(shared, points[i], indices[i])
            return jax.tree.map(lambda whole, part: whole.at[i].set(part), results, new)

        needed = (counts[0] + block - 1) // block
        results = jax.lax.fori_loop(0, needed, step, results)
        return jax.tree.map(lambda x: x.reshape(plan.share, *x.shape[2:]), results)

    # Devices have nothing to say to each other: each goes through its blocks at its own pace.
    cells, valid = jax.shard_map(
        answer_share,
        mesh=plan.mesh,
        in_specs=(EVERYWHERE, SPLIT, SPLIT, SPLIT),
        out_specs=SPLIT,
        check_vma=False,
    )(shared, points, indices, counts)
    names = example.action_names, example.parameter_names
    tolerance = default_tolerance(like.fit.dtype, shared.tol_fit, shared.tol_payoff)
    return cells, valid, About(*names, tolerance.fit, tolerance.payoff)


def run(
    plan: Plan,
    shared: Shared,
    grid: Mapping[str, NDArray[np.float64]],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, NDArray[Any]], About]:
    """Answer the question in all cells: by name, in the shape of the grid."""
    shape = tuple(len(axis) for axis in grid.values())
    total = math.prod(shape)
    shared = jax.device_put(shared, everywhere())
    dtype = jnp.result_type(float)
    results: dict[str, NDArray[Any]] = {}
    about: list[About] = []

    def inputs(cells: range) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
        """Coordinates and numbers of the cells, and how many are each device's."""
        each = -(-len(cells) // plan.num_devices)
        # The devices share equally; what is left over repeats the last cell and is dropped.
        firsts = cells.start + each * np.arange(plan.num_devices)
        order = np.minimum(np.arange(plan.share), each - 1)
        numbers = np.minimum(firsts[:, None] + order, total - 1).reshape(-1)
        where = dict(zip(grid, np.unravel_index(numbers, shape), strict=True))
        points = np.stack([grid[name][where[name]] for name in plan.names], axis=-1, dtype=dtype)
        return points, numbers.astype(np.int32), np.full(plan.num_devices, each, np.int32)

    def keep(cells: range, tile: tuple[Any, Array, About]) -> None:
        each = -(-len(cells) // plan.num_devices)

        def gather(array: Array) -> NDArray[Any]:
            shares = np.asarray(array).reshape(plan.num_devices, plan.share, *array.shape[1:])
            shares = shares[:, :each].reshape(plan.num_devices * each, *array.shape[1:])
            return shares[: len(cells)]

        found, valid, common = tile
        if cells.start == 0 and not gather(valid).any():
            # Every cell is refused: with its numbers in sight, the scenario can say why.
            first = [grid[name][0] for name in plan.names]
            plan.build(shared, jnp.asarray(first, dtype))
        for name, array in found._asdict().items():
            if array is not None:
                if name not in results:  # (two threads that make room agree on one)
                    results.setdefault(name, np.empty((total, *array.shape[1:]), array.dtype))
                results[name][cells.start : cells.stop] = gather(array)
        about[:] = [common]

    deal_out = _to_cores if plan.on_cpu else _to_devices
    deal_out(plan, shared, total, inputs, keep, progress)
    return {name: x.reshape(*shape, *x.shape[1:]) for name, x in results.items()}, about[0]


_Inputs = Callable[[range], tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]]
_Keep = Callable[[range, tuple[Any, Array, About]], None]
_Progress = Callable[[int, int], None] | None


def _to_cores(
    plan: Plan, shared: Shared, total: int, inputs: _Inputs, keep: _Keep, progress: _Progress
) -> None:
    """One tile after the other to each thread."""
    # Compiled here, for threads know no settings of JAX's.
    answer = _compiled().lower(plan, shared, *inputs(range(1))).compile()
    failed: list[range] = []

    def work(cells: range) -> None:
        try:
            keep(cells, answer(plan, shared, *inputs(cells)))
        except jax.errors.JaxRuntimeError:
            failed.append(cells)
            raise

    try:
        on_cores(work, total, plan.share, progress)
    except jax.errors.JaxRuntimeError:
        # What a scenario has to say by `equinox.error_if` is only said so.
        _compiled()(plan, shared, *inputs(failed[0]))
        raise


def _to_devices(
    plan: Plan, shared: Shared, total: int, inputs: _Inputs, keep: _Keep, progress: _Progress
) -> None:
    """One tile after the other, of a share for each device."""
    each = plan.share * plan.num_devices
    begun: deque[tuple[range, Any]] = deque()
    for start in range(0, total + each, each):
        # The next tile is on its way to the devices before the last one is fetched.
        if start < total:
            cells = range(start, min(start + each, total))
            given = jax.device_put(inputs(cells), split())
            begun.append((cells, _compiled()(plan, shared, *given)))
        if start:
            cells, tile = begun.popleft()
            keep(cells, tile)
            if progress is not None:
                progress(cells.stop, total)
