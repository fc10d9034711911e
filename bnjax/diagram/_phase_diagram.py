"""Phase diagrams: a scenario solved, and if asked simulated, on a grid of its parameters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from .._check import check_exploration, check_key, is_concrete, whole
from .._cores import num_workers
from .._devices import mesh
from .._provenance import provenance, words_of
from .._scenario import find_scenario
from ..belief import AbstractMemory, PerfectMemory, check_memory
from ..equilibrium._solve import check_rows
from ..equilibrium._tolerance import default_tolerance
from ..problem import AbstractProblem
from ..response import AbstractPolicy, BestResponse, check_policy
from ._arguments import EXPLORATION, arguments, as_array, axis, is_traced, plain
from ._dataset import label
from ._exact import Exact
from ._simulated import Simulated, interval_of, outcome_names
from ._tiles import Plan, Shared, run

if TYPE_CHECKING:
    import xarray as xr

_AGENTS, _STEPS = 100, 1000


def phase_diagram(
    scenario: Callable[..., AbstractProblem] | str,
    axes: Mapping[str, Any],
    *,
    exploration: ArrayLike = 0.0,
    fixed: Mapping[str, Any] | None = None,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_equilibria: int = 4,
    method: str = "exact",
    key: Array | None = None,
    num_agents: int | None = None,
    num_steps: int | None = None,
    policy: AbstractPolicy | None = None,
    memory: AbstractMemory | None = None,
) -> xr.Dataset:
    """Solve a scenario on a grid of its parameters, and simulate it if asked to.

    All cores of a CPU, or all other local devices, share the work. Memory on the devices does not
    depend on the grid, and the same scenario, fixed arguments and names of axes compile once
    whatever their values.

    Parameters
    ----------
    scenario : function of scalars that returns a problem: one of `bnjax.scenarios`, its name, or
        any other that can be traced (made once, not anew in every call, or JAX compiles anew).
    axes : values [N] along each axis, or a range ``"low:high:n"``, by name of a parameter of the
        scenario, or ``"exploration"``. Any number of axes; their order is the order of the
        dimensions.
    exploration : probability with which play trembles to a uniform action, where that is
        not an axis.
    fixed : further arguments of the scenario. Floats and arrays are traced, so that a new value
        compiles nothing anew. Everything else (integers, booleans, names) is passed as it is and
        compiles anew when it changes, and so is a float that is exactly 0, so that ``width=0.0``
        can choose a smaller problem.
    tol_fit, tol_payoff : as for `equilibria`.
    progress : called with (cells done, cells in all), many times in a large diagram.
    max_equilibria : equilibria to look for in each cell; ``complete`` is False where that may
        be too few.
    method : ``"exact"``, or ``"simulate"`` for a population of learners in every cell besides
        the exact answer. A continuum of models is then learned on `FamilyProblem.discretize`.
    key : a JAX key, from which each cell folds its own by its number (the last axis runs
        fastest). This and what follows only for ``method="simulate"``, as for `simulate`.
    num_agents : of each population. Default: 100.
    num_steps : of each population. Default: 1,000.
    policy : of all agents. Default: `BestResponse`.
    memory : of all agents. Default: `PerfectMemory`.

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
          these are provably all;
        - ``frequency`` [..., A]: with ``method="simulate"``, how often agents played each action
          in the second half, on average; NaN where the problem makes no sense;
        - ``outcome_share`` [..., O]: likewise, which share of them ended locked on each
          action, mixing, or undecided (see `Outcome`), along the dimension ``outcome``;
        - ``outcome_interval`` [..., O, 2]: likewise, the 99 % confidence interval of the
          probability behind that share (Clopper-Pearson), along ``interval_bound``.

        Attributes say what was computed, at which tolerances, by which versions and where: of a
        simulation also the key (``jax.random.wrap_key_data(key, impl=key_impl)``), and what made
        the policy and the memory.

    Raises
    ------
    ValueError
        If an axis is not a one-dimensional array of finite numbers, a parameter is unknown,
        missing, or given twice, the scenario needs to know the value of what is traced, or it
        refuses its arguments in every cell of the first tile. Single cells that make no sense are
        in phase INVALID. If there is no key for a simulation, or no simulation for a key.

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
    scenario = find_scenario(scenario)
    if not isinstance(axes, Mapping):
        raise ValueError(f"`axes` must map names to values; got {axes!r}.")
    grid = {name: axis(name, values) for name, values in axes.items()}
    if not isinstance(fixed, Mapping | None):
        raise ValueError(f"`fixed` must map names to values; got {fixed!r}.")
    if progress is not None and not callable(progress):
        raise ValueError(f"`progress` must be a function or None; got {progress!r}.")
    fixed = dict(fixed or {})
    tremble = check_exploration(exploration)
    used = arguments(scenario, grid, fixed)
    if EXPLORATION in grid:
        if not is_concrete(tremble) or float(tremble) != 0:
            raise ValueError(
                "`exploration` must be given once: it is an axis, and `exploration="
                f"{exploration}` was given too."
            )
        for end in (grid[EXPLORATION].min(), grid[EXPLORATION].max()):
            check_exploration(end)

    simulated = _simulated(method, key, num_agents, num_steps, policy, memory)
    static = {name: value for name, value in fixed.items() if not is_traced(value)}
    # Sorted, so that axes and arguments in another order are no new program.
    names, static_items = tuple(sorted(grid)), tuple(sorted(static.items()))
    plan = Plan(Exact(max_equilibria), scenario, names, static_items, mesh())
    # Traced from here on, hence judged here.
    tremble = tremble.astype(jnp.result_type(float))
    tolerance = default_tolerance(tremble.dtype, tol_fit, tol_payoff)
    shared = Shared(
        {name: as_array(value) for name, value in fixed.items() if name not in static},
        tremble,
        None if tol_fit is None else tolerance.fit,
        None if tol_payoff is None else tolerance.payoff,
    )
    try:
        cells, about = run(plan, shared, grid, None if simulated else progress)
    except jax.errors.JAXTypeError as error:
        traced = ", ".join(f"`{name}`" for name in [*names, *shared.fixed])
        raise ValueError(
            f"the scenario must work for arguments that are traced (here {traced}), as `jax.jit` "
            "would have it: no `if`, `float` or `int` on them, and no shape that depends on one. "
            f"JAX says: {str(error).splitlines()[0]}"
        ) from error
    coordinates = {"action": about.action_names, "parameter": about.parameter_names}
    if simulated:
        populations = dataclasses.replace(plan, question=simulated)
        given = dataclasses.replace(shared, given=(key, policy, memory))
        cells |= run(populations, given, grid, progress)[0]
        cells["outcome_interval"] = interval_of(cells["outcome_share"], simulated.num_agents)
        coordinates["outcome"] = outcome_names(about.action_names)
        coordinates["interval_bound"] = ("low", "high")
    attributes = {
        "scenario": getattr(scenario, "__name__", type(scenario).__name__),
        # One string, because attributes of a netCDF file are numbers and strings.
        "fixed": json.dumps(used, default=plain),
        **({} if EXPLORATION in grid else {EXPLORATION: float(np.asarray(exploration))}),
        "tol_fit": _short(about.tol_fit),
        "tol_fit_units": "nats",
        "tol_payoff": _short(about.tol_payoff),
        "tol_payoff_units": "share of the payoff range",
        "max_equilibria": max_equilibria,
        "method": method,
        **(_about_population(simulated, key, policy, memory) if simulated else {}),
        **provenance(),
        **({"num_cores": num_workers()} if plan.on_cpu else {"num_devices": plan.num_devices}),
    }
    return label(grid, cells, coordinates, attributes)


def _simulated(
    method: str, key: Any, num_agents: Any, num_steps: Any, policy: Any, memory: Any
) -> Simulated | None:
    """What to simulate in every cell, if anything."""
    if method not in ("exact", "simulate"):
        raise ValueError(f'`method` must be "exact" or "simulate"; got {method!r}.')
    given = {
        "key": key,
        "num_agents": num_agents,
        "num_steps": num_steps,
        "policy": policy,
        "memory": memory,
    }
    if method == "exact":
        for name, value in given.items():
            if value is not None:
                raise ValueError(f'`{name}` is for `method="simulate"`; got it without.')
        return None
    if key is None:
        raise ValueError('`key` must be a JAX key for `method="simulate"`; got None.')
    check_key(key)
    if policy is not None:
        check_policy(policy)
    if memory is not None:
        check_memory(memory)
    agents = _AGENTS if num_agents is None else whole("num_agents", num_agents)
    return Simulated(agents, _STEPS if num_steps is None else whole("num_steps", num_steps))


def _about_population(
    simulated: Simulated, key: Any, policy: AbstractPolicy | None, memory: AbstractMemory | None
) -> dict[str, Any]:
    """All that it takes to simulate the same populations again."""
    words, impl = words_of(key)
    return {
        **dataclasses.asdict(simulated),
        "policy": _described(BestResponse() if policy is None else policy),
        "memory": _described(PerfectMemory() if memory is None else memory),
        "key": words,
        "key_impl": impl,
    }


def _described(module: eqx.Module) -> str:
    """What makes it, with its numbers, where its `repr` may show shapes."""
    numbers = jax.tree.map(
        lambda x: x if not hasattr(x, "ndim") else np.asarray(x).tolist() if x.ndim else _short(x),
        module,
    )
    return eqx.tree_pformat(numbers, width=2**31)


def _short(number: Array) -> float:
    """The shortest number that rounds to this one: 2e-06, not 1.9999999949504854e-06."""
    return float(str(np.asarray(number)[()]))
