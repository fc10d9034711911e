"""Phase diagrams: a scenario solved on a grid of its parameters, in tiles of fixed shape.

Cells go through one compiled function in tiles, so that neither compilation nor device memory
depends on the grid. Within a tile every device works on its own share, block by block: a block
is the unit of vectorisation, and since its shape never changes, a cell's result depends
neither on the grid nor on how many devices there are.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from numpy.typing import NDArray

from .._check import check_exploration
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem
from ._codes import Certainty, Phase, Stability
from ._lanes import block_lanes
from ._public import phase_of
from ._solve import check_rows, prepare, solve
from ._tolerance import Tolerance, default_tolerance

if TYPE_CHECKING:
    import xarray as xr

EXPLORATION = "exploration"
"""Name of the axis along which the tremble varies, rather than a parameter of the scenario."""

# Cells that each device gets at a time. Small enough for a progress bar to move, large enough
# that handing a tile over costs nothing next to computing it.
_SHARE_CPU, _SHARE_ACCELERATOR = 2048, 16384
# Nodes of a family's grid in a block of cells on a CPU: 1024 cells of one parameter, which is
# twice as fast on sycophancy in single precision as 64.
_BLOCK_NODES = 65 * 1024
_BLOCK_MANY = 64  # cells of a block with more than two actions

_VARIABLES = (
    "phase",
    "pure",
    "rationalizable",
    "certainty",
    "mixed_strategy",
    "mixed_strategy_end",
    "mixed_stability",
    "mixed_best_fit",
    "pure_best_fit",
    "num_equilibria",
    "complete",
)
_RESERVED = (*_VARIABLES, "action", "parameter")

_NO_MIXED = -1
"""Code of ``mixed_stability`` where there is no mixed equilibrium."""


def phase_diagram(
    scenario: Callable[..., AbstractProblem],
    axes: Mapping[str, Any],
    *,
    exploration: ArrayLike = 0.0,
    fixed: Mapping[str, Any] | None = None,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_equilibria: int = 4,
) -> xr.Dataset:
    """Solve a scenario on a grid of its parameters.

    All local devices share the work. Memory on the devices does not depend on the grid, and
    the same scenario, fixed arguments and names of axes compile once whatever their values.

    Parameters
    ----------
    scenario : function of scalars that returns a problem: one of `bnjax.scenarios`, or any
        other that can be traced (made once, not anew in every call, or JAX compiles anew).
    axes : values [N] along each axis, by name of a parameter of the scenario, or
        ``"exploration"``. Any number of axes; their order is the order of the dimensions.
    exploration : probability with which play trembles to a uniform action, where that is
        not an axis.
    fixed : further arguments of the scenario. Floats and arrays are traced, so that a new value
        compiles nothing anew. Everything else (integers, booleans, names) is passed as it is and
        compiles anew when it changes, and so is a float that is exactly 0, so that ``width=0.0``
        can choose a smaller problem.
    tol_fit, tol_payoff : as for `equilibria`.
    progress : called with (cells done, cells in all) after every tile.
    max_equilibria : equilibria to look for in each cell; ``complete`` is False where that may
        be too few.

    Returns
    -------
    xarray.Dataset
        Dimensions are the axes in the order given (written ``...`` below), then ``action``
        (A names) or ``parameter`` (D names). Variables:

        - ``phase`` [...]: codes of `Phase` (left out where the problems have no ``safe`` mask);
        - ``pure`` [..., A]: which pure strategies are equilibria;
        - ``rationalizable`` [..., A], ``certainty`` [..., A]: which actions are not excluded,
          and the codes of `Certainty` behind that;
        - ``mixed_strategy``, ``mixed_strategy_end`` [..., A]: the first equilibrium that is
          not pure, as probabilities; its two ends where it is a continuum (or a piece of one:
          see `Equilibria`), the same point twice otherwise; NaN where there is none;
        - ``mixed_stability`` [...]: codes of `Stability`, -1 where there is none;
        - ``mixed_best_fit`` [..., D]: mean parameter believed there;
        - ``pure_best_fit`` [..., A, D]: mean parameter believed at each listed pure
          equilibrium, NaN where there is none;
        - ``num_equilibria`` [...]: how many components are listed, ``complete`` [...]: whether
          these are provably all.

        Attributes say what was computed, at which tolerances, by which versions and where.

    Raises
    ------
    ValueError
        If an axis is not a one-dimensional array of finite numbers, a parameter is unknown,
        missing, or given twice, or the scenario refuses its arguments in every cell of the
        first tile. Single cells that make no sense are in phase INVALID.

    Examples
    --------
    >>> import bnjax as bn
    >>> axes = {"p_sycophantic": [0.3, 0.7], "p_honest": [0.2, 0.4, 0.6]}
    >>> diagram = bn.phase_diagram(bn.scenarios.sycophancy, axes)
    >>> diagram.phase.dims, diagram.phase.shape
    (('p_sycophantic', 'p_honest'), (2, 3))
    >>> bn.Phase(int(diagram.phase.sel(p_sycophantic=0.7, p_honest=0.2))).name
    'UNSAFE'
    """
    check_rows(max_equilibria)
    if not callable(scenario):
        raise ValueError(
            "`scenario` must be a function that returns a problem, such as "
            f"bn.scenarios.sycophancy; got {scenario!r}."
        )
    if not isinstance(axes, Mapping):
        raise ValueError(f"`axes` must map names to values; got {axes!r}.")
    grid = {name: _axis(name, values) for name, values in axes.items()}
    fixed = dict(fixed or {})
    used = _arguments(scenario, grid, fixed)
    if EXPLORATION in grid:
        if np.ndim(exploration) or float(np.asarray(exploration)) != 0:
            raise ValueError(
                "`exploration` must be given once: it is an axis, and `exploration="
                f"{exploration}` was given too."
            )
        for end in (grid[EXPLORATION].min(), grid[EXPLORATION].max()):
            check_exploration(end)

    static = {name: value for name, value in fixed.items() if not _is_traced(value)}
    # Sorted, so that axes and arguments in another order are no new program.
    names, static_items = tuple(sorted(grid)), tuple(sorted(static.items()))
    plan = _Plan(scenario, names, static_items, max_equilibria, _mesh())
    # Traced from here on, hence judged here.
    tremble = check_exploration(exploration).astype(jnp.result_type(float))
    tolerance = default_tolerance(tremble.dtype, tol_fit, tol_payoff)
    shared = _Shared(
        {name: _as_array(value) for name, value in fixed.items() if name not in static},
        tremble,
        None if tol_fit is None else tolerance.fit,
        None if tol_payoff is None else tolerance.payoff,
    )
    cells, about = _run(plan, shared, grid, progress)
    attributes = {
        "scenario": getattr(scenario, "__name__", type(scenario).__name__),
        # One string, because attributes of a netCDF file are numbers and strings.
        "fixed": json.dumps(used, default=_plain),
        **({} if EXPLORATION in grid else {EXPLORATION: float(np.asarray(exploration))}),
        "tol_fit": _short(about.tol_fit),
        "tol_fit_units": "nats",
        "tol_payoff": _short(about.tol_payoff),
        "tol_payoff_units": "share of the payoff range",
        "max_equilibria": max_equilibria,
        "precision": str(jnp.result_type(float)),
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "num_devices": plan.num_devices,
        "bnjax_version": _bnjax_version(),
        "jax_version": jax.__version__,
    }
    return _dataset(grid, cells, about, attributes)


# What is asked for


def _axis(name: str, values: Any) -> NDArray[np.float64]:
    """Return the values along one axis, or say what is wrong with them."""
    if name in _RESERVED:
        raise ValueError(
            f"`axes` must not use the name of a result; got {name!r}. Reserved names: "
            f"{', '.join(_RESERVED)}."
        )
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


def _arguments(
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


def _is_traced(value: Any) -> bool:
    """Whether a fixed argument is a number that may change without a new compilation."""
    if isinstance(value, (float, np.floating)):
        return bool(value != 0)
    return isinstance(value, (np.ndarray, jax.Array))


def _as_array(value: Any) -> Array:
    # A Python float has no precision of its own, and none that is weak may compile anew.
    return jnp.asarray(value, jnp.result_type(float) if isinstance(value, float) else None)


def _plain(value: Any) -> Any:
    """Something that JSON can hold."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    return repr(value)


def _short(number: Array) -> float:
    """The shortest number that rounds to this one: 2e-06, not 1.9999999949504854e-06."""
    return float(str(np.asarray(number)[()]))


def _bnjax_version() -> str:
    from .. import __version__

    return __version__


# How it is computed


@functools.cache
def _mesh() -> Mesh:
    """All devices of this process, in a row."""
    return Mesh(np.asarray(jax.local_devices()), ("cells",))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a compiled tile depends on: equal plans share one compilation."""

    scenario: Callable[..., AbstractProblem]
    names: tuple[str, ...]
    static: tuple[tuple[str, Any], ...]
    max_equilibria: int
    mesh: Mesh

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    @property
    def on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def share(self) -> int:
        """Cells that a device gets at a time: whole blocks."""
        return _SHARE_CPU if self.on_cpu else _SHARE_ACCELERATOR

    def block(self, problem: AbstractProblem) -> int:
        """Cells that are worked on together: a power of two that divides the share."""
        if not self.on_cpu:
            return self.share
        if isinstance(problem, AbstractFiniteProblem):
            return block_lanes(problem.num_models) if problem.num_actions == 2 else _BLOCK_MANY
        assert isinstance(problem, FamilyProblem)
        if problem.num_actions != 2:
            return _BLOCK_MANY
        nodes = problem.family.unit_nodes().shape[0]
        return max(16, min(self.share, 1 << (_BLOCK_NODES // nodes).bit_length() - 1))

    def build(self, shared: _Shared, point: Float[Array, " axes"]) -> tuple[Any, Array]:
        """Problem and tremble at one point of the grid."""
        values = {name: point[i] for i, name in enumerate(self.names)}
        exploration = values.pop(EXPLORATION, shared.exploration)
        return self.scenario(**values, **dict(self.static), **shared.fixed), exploration


class _Shared(eqx.Module):
    """Traced arguments that all cells share."""

    fixed: dict[str, Array]
    exploration: Float[Array, ""]
    tol_fit: Float[Array, ""] | None
    tol_payoff: Float[Array, ""] | None


class _Cell(NamedTuple):
    """Results of one cell in small types: a large diagram is made of nothing else."""

    phase: Array | None
    pure: Array
    certainty: Array
    mixed_strategy: Array
    mixed_strategy_end: Array
    mixed_stability: Array
    mixed_best_fit: Array
    pure_best_fit: Array
    num_equilibria: Array
    complete: Array


class _About(NamedTuple):
    """What is the same for every cell."""

    action_names: tuple[str, ...]
    parameter_names: tuple[str, ...]
    tol_fit: Array
    tol_payoff: Array


@eqx.filter_jit
def _solve_tile(
    plan: _Plan,
    shared: _Shared,
    points: Float[Array, "cells axes"],
    counts: Int[Array, " devices"],
) -> tuple[_Cell, Bool[Array, " cells"], _About]:
    """Solve the leading cells of every device's share of a tile.

    Parameters
    ----------
    plan, shared : what to solve.
    points : coordinates, the shares of the devices one after the other.
    counts : how many cells of its share each device is to solve, rounded up to whole blocks.

    Returns
    -------
    cells, whether the problem of each makes sense, and what is common to them.
    """

    def prepared(shared: _Shared, point: Array) -> tuple[Any, Array, Tolerance]:
        problem, exploration = plan.build(shared, point)
        return problem, *prepare(problem, exploration, shared.tol_fit, shared.tol_payoff)

    def solve_one(shared: _Shared, point: Array) -> tuple[_Cell, Array]:
        problem, exploration, tolerance = prepared(shared, point)
        return _solve_cell(problem, exploration, plan.max_equilibria, tolerance)

    example, _, like = eqx.filter_eval_shape(prepared, shared, points[0])
    block = plan.block(example)
    num_blocks = plan.share // block

    # Traced once, although its shapes are wanted first and its results later.
    solve_block = jax.jit(jax.vmap(solve_one, in_axes=(None, 0)))

    def solve_share(shared: _Shared, points: Array, counts: Array) -> tuple[_Cell, Array]:
        points = points.reshape(num_blocks, block, -1)
        shapes = jax.eval_shape(solve_block, shared, points[0])
        results = jax.tree.map(lambda x: jnp.zeros((num_blocks, *x.shape), x.dtype), shapes)

        # Not `lax.map`: the last tile of a diagram, or the only one, is seldom full.
        def step(i: Array, results: tuple[_Cell, Array]) -> tuple[_Cell, Array]:
            new = solve_block(shared, points[i])
            return jax.tree.map(lambda whole, part: whole.at[i].set(part), results, new)

        needed = (counts[0] + block - 1) // block
        results = jax.lax.fori_loop(0, needed, step, results)
        return jax.tree.map(lambda x: x.reshape(plan.share, *x.shape[2:]), results)

    everywhere, split = PartitionSpec(), PartitionSpec("cells")
    # Devices have nothing to say to each other: each goes through its blocks at its own pace.
    cells, valid = jax.shard_map(
        solve_share,
        mesh=plan.mesh,
        in_specs=(everywhere, split, split),
        out_specs=split,
        check_vma=False,
    )(shared, points, counts)
    names = example.action_names, example.parameter_names
    tolerance = default_tolerance(like.fit.dtype, shared.tol_fit, shared.tol_payoff)
    return cells, valid, _About(*names, tolerance.fit, tolerance.payoff)


def _solve_cell(
    problem: AbstractProblem, exploration: Array, max_equilibria: int, tolerance: Tolerance
) -> tuple[_Cell, Bool[Array, ""]]:
    """Solve one cell, and say whether its problem makes sense at all."""
    found, possible, valid = solve(problem, exploration, max_equilibria, tolerance)
    code = None
    if problem.safe is not None:
        code = phase_of(problem.safe, found, possible.certainty, valid).astype(jnp.int8)
    is_mixed = found.valid & ~found.is_pure
    row, exists = jnp.argmax(is_mixed), is_mixed.any()
    start, end, fit = (
        jnp.where(exists, field[row], jnp.nan)
        for field in (found.strategy, found.strategy_end, found.best_fit)
    )
    plays = (found.valid & found.is_pure)[:, None] & (found.strategy > 0.5)  # [rows, actions]
    pure_fit = found.best_fit[jnp.argmax(plays, axis=0)]
    cell = _Cell(
        phase=code,
        pure=found.pure,
        certainty=possible.certainty.astype(jnp.int8),
        mixed_strategy=start,
        mixed_strategy_end=end,
        mixed_stability=jnp.where(exists, found.stability[row], _NO_MIXED).astype(jnp.int8),
        mixed_best_fit=fit,
        pure_best_fit=jnp.where(plays.any(0)[:, None], pure_fit, jnp.nan),
        num_equilibria=found.valid.sum().astype(jnp.int16),
        complete=found.complete,
    )
    return cell, valid


def _run(
    plan: _Plan,
    shared: _Shared,
    grid: Mapping[str, NDArray[np.float64]],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, NDArray[Any]], _About]:
    """Solve all cells; the results have the shape of the grid, and what each cell adds."""
    shape = tuple(len(axis) for axis in grid.values())
    total = math.prod(shape)
    shared = jax.device_put(shared, NamedSharding(plan.mesh, PartitionSpec()))
    split = NamedSharding(plan.mesh, PartitionSpec("cells"))
    results: dict[str, NDArray[Any]] = {}

    def tiles() -> Iterator[tuple[slice, int, tuple[_Cell, Array, _About]]]:
        for start in range(0, total, plan.share * plan.num_devices):
            points, where, each = _points(plan, grid, start)
            counts = np.full(plan.num_devices, each, np.int32)
            inputs = jax.device_put((points, counts), split)
            yield where, each, _solve_tile(plan, shared, *inputs)

    def keep(where: slice, each: int, tile: tuple[_Cell, Array, _About]) -> _About:
        size = where.stop - where.start

        def gather(array: Array) -> NDArray[Any]:
            shares = np.asarray(array).reshape(plan.num_devices, plan.share, *array.shape[1:])
            return shares[:, :each].reshape(plan.num_devices * each, *array.shape[1:])[:size]

        cells, valid, about = tile
        if where.start == 0 and not gather(valid).any():
            # Every cell is refused: with its numbers in sight, the scenario can say why.
            first = [grid[name][0] for name in plan.names]
            plan.build(shared, jnp.asarray(first, shared.exploration.dtype))
        for name, array in cells._asdict().items():
            if array is not None:
                if where.start == 0:
                    results[name] = np.empty((total, *array.shape[1:]), array.dtype)
                results[name][where] = gather(array)
        if progress is not None:
            progress(where.stop, total)
        return about

    about, waiting = None, None
    for tile in tiles():
        # The next tile is on its way to the devices before the last one is fetched.
        if waiting is not None:
            about = keep(*waiting)
        waiting = tile
    assert waiting is not None
    about = keep(*waiting)
    return {name: x.reshape(*shape, *x.shape[1:]) for name, x in results.items()}, about


def _points(
    plan: _Plan, grid: Mapping[str, NDArray[np.float64]], start: int
) -> tuple[NDArray[Any], slice, int]:
    """Coordinates of the tile that begins at a cell, which cells it holds, and each share."""
    shape = tuple(len(axis) for axis in grid.values())
    tile, total = plan.share * plan.num_devices, math.prod(shape)
    stop = min(start + tile, total)
    each = -(-(stop - start) // plan.num_devices)
    # The devices share equally; what is left over repeats the last cell and is dropped.
    order = np.arange(each * plan.num_devices).reshape(plan.num_devices, each)
    order = np.pad(order, ((0, 0), (0, plan.share - each)), mode="edge").reshape(-1)
    index = np.unravel_index(np.minimum(start + order, total - 1), shape)
    where = dict(zip(grid, index, strict=True))
    points = np.stack([grid[name][where[name]] for name in plan.names], axis=-1)
    return points.astype(jnp.result_type(float)), slice(start, stop), each


# What comes out


def _dataset(
    grid: Mapping[str, NDArray[np.float64]],
    cells: Mapping[str, NDArray[Any]],
    about: _About,
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Label the results."""
    import xarray as xr  # slow to import, and nothing else needs it

    dims = tuple(grid)
    actions, parameters = (*dims, "action"), (*dims, "parameter")
    probability = {"units": "probability"}
    theta = {"units": "units of the parameter"}
    described: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "phase": (dims, {"long_name": "safety phase", **_flags(Phase)}),
        "pure": (actions, {"long_name": "whether the pure strategy is an equilibrium"}),
        "rationalizable": (actions, {"long_name": "whether the action is not excluded"}),
        "certainty": (actions, {"long_name": "rationalizability", **_flags(Certainty)}),
        "mixed_strategy": (
            actions,
            {"long_name": "first equilibrium that is not pure: intended play", **probability},
        ),
        "mixed_strategy_end": (
            actions,
            {"long_name": "its other end, where it is a continuum", **probability},
        ),
        "mixed_stability": (
            dims,
            {"long_name": "its stability", **_flags(Stability, {"NONE": _NO_MIXED})},
        ),
        "mixed_best_fit": (parameters, {"long_name": "mean parameter believed there", **theta}),
        "pure_best_fit": (
            (*actions, "parameter"),
            {"long_name": "mean parameter believed at each pure equilibrium", **theta},
        ),
        "num_equilibria": (dims, {"long_name": "components of equilibria that are listed"}),
        "complete": (dims, {"long_name": "whether these are provably all"}),
    }
    cells = {**cells, "rationalizable": cells["certainty"] != Certainty.OUT}
    return xr.Dataset(
        {
            name: (names, cells[name], attrs)
            for name, (names, attrs) in described.items()
            if name in cells and cells[name].size
        },
        coords={
            **grid,
            "action": list(about.action_names),
            **({"parameter": list(about.parameter_names)} if about.parameter_names else {}),
        },
        attrs=dict(attributes),
    )


def _flags(codes: Any, others: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Names of integer codes, in the attributes that the CF conventions give for that."""
    members = {**(others or {}), **{code.name: int(code) for code in codes}}
    return {
        "flag_values": np.asarray(list(members.values()), np.int8),
        "flag_meanings": " ".join(members),
    }
