"""What the command sweeps: the exact phase, a population of learners, or a function of the user's.

Small types, and nothing that can be computed again from the rest: there may be 10^9 cells.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._check import suggestion
from .._learners import memory_of, policy_of
from .._scenario import find_scenario
from ..diagram._arguments import EXPLORATION
from ..diagram._dataset import attributes_of
from ..diagram._simulated import ended, outcome_names, populate
from ..equilibrium import Certainty, Phase
from ..equilibrium._public import phase_of
from ..equilibrium._solve import prepare, solve
from ..problem import AbstractProblem
from ._axes import KEY, parameters_of, read_axes
from ._config import SweepConfig, spelled
from ._program import argument_types

_PAYOFF = {"long_name": "simulated payoff of a step, mean over agents", "units": "payoff"}


def asked(config: SweepConfig, folder: Path) -> dict[str, Any]:
    """The arguments of `bnjax.sweep` that a configuration asks for: its function is found or made.

    Parameters
    ----------
    config : what was read.
    folder : where modules of the user's are looked for first.

    Raises
    ------
    ValueError
        If there is no such function or scenario, or it has no such arguments.
    """
    if config.is_own:
        function = _import(config.function, "function", folder)
        named = parameters_of(function)
        for name in config.fixed:
            if named is not None and name not in named:
                raise ValueError(
                    f"`{name}` of [fixed] is no parameter of {config.function}"
                    f"{suggestion(name, named)}"
                )
        key = None if named is not None and KEY not in named else _key(config.seed)
        if key is None and config.seed is not None:
            raise ValueError(
                f"`seed` is for functions that draw numbers; {config.function} has no parameter "
                f"`{KEY}`."
            )
        return _asked(config, functools.partial(function, **config.fixed), key, {}, {}, {})
    assert config.scenario is not None
    scenario = config.scenario
    make = _import(scenario, "scenario", folder) if ":" in scenario else find_scenario(scenario)
    _check_arguments(config, make)
    if config.simulate is None:
        return _asked(config, *_exact(config, make))
    return _asked(config, *_simulated(config, make))


def complaint(config: SweepConfig, arguments: Mapping[str, Any]) -> str | None:
    """What one of our scenarios says of arguments that make no sense to it, None if they do."""
    if config.scenario is None or ":" in config.scenario:
        return None
    values = {**config.fixed, **arguments}
    exploration = values.pop(EXPLORATION, 0.0)
    try:
        prepare(find_scenario(config.scenario)(**values), exploration, None, None)
    except ValueError as error:
        return str(error)
    return None


def _asked(
    config: SweepConfig,
    function: Callable[..., Any],
    key: Array | None,
    dims: Mapping[str, Any],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        "function": function,
        "axes": config.axes,
        "key": key,
        "dims": {**dims, **config.dims},
        "coords": {**coords, **config.coords},
        "attrs": {**attrs, **config.attrs},
        "may_be_nan": config.may_be_nan,
        "chunk": config.chunk,
    }


def _key(seed: int | None) -> Array:
    return jax.random.key(seed or 0)


# Functions of the user's.


def _import(name: str, title: str, folder: Path) -> Callable[..., Any]:
    """Find ``package.module:name``."""
    module_name, _, attribute = name.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"`{title}` {name} cannot be imported from {folder}: {error}.") from error
    if not hasattr(module, attribute):
        raise ValueError(
            f"`{title}` {name}: {module_name} has no `{attribute}`"
            f"{suggestion(attribute, vars(module))}"
        )
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"`{title}` {name} must be a function; got {function!r}.")
    return function


# Scenarios.


def _check_arguments(config: SweepConfig, make: Callable[..., AbstractProblem]) -> None:
    """Refuse axes and fixed arguments that the scenario does not have, or cannot vary."""
    parameters = parameters_of(make)
    on_axes = read_axes(config.axes).values
    for table, names in (("axes", on_axes), ("fixed", config.fixed)):
        for name in names:
            if parameters is not None and name != EXPLORATION and name not in parameters:
                known = [*parameters, EXPLORATION]
                raise ValueError(
                    f"`{name}` of [{table}] is no parameter of {config.scenario}"
                    f"{suggestion(name, known)} It has: {', '.join(known)}."
                )
    for name, parameter in (parameters or {}).items():
        default = parameter.default
        if isinstance(default, int) and not isinstance(default, bool):
            if name in on_axes:
                raise ValueError(
                    f"`{name}` cannot be an axis: it sets the shape of the problem. Give it in "
                    "[fixed]."
                )
            if not isinstance(config.fixed.get(name, 0), int):
                raise ValueError(
                    f"`{name}` of [fixed] must be a whole number; got {config.fixed[name]!r}."
                )


def _builder(
    config: SweepConfig, make: Callable[..., AbstractProblem]
) -> tuple[Callable[..., tuple[AbstractProblem, Any]], AbstractProblem]:
    """What makes the problem and the tremble of a cell, and the shapes of one such problem."""
    fixed = dict(config.fixed)
    tremble = fixed.pop(EXPLORATION, 0.0)

    def build(arguments: Mapping[str, Any]) -> tuple[AbstractProblem, Any]:
        values = dict(arguments)
        exploration = values.pop(EXPLORATION, tremble)
        return make(**values, **fixed), exploration

    # As the cells get them, so that a scenario that cannot be traced says so here.
    shapes = argument_types(read_axes(config.axes))
    try:
        like, _ = eqx.filter_eval_shape(build, shapes)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"`scenario` must work for arguments that are traced (here {', '.join(shapes)}). JAX "
            f"says: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(like, AbstractProblem):
        raise ValueError(f"`scenario` must be a function that makes problems; got {like!r}.")
    return build, like


def _exact(config: SweepConfig, make: Callable[..., AbstractProblem]) -> tuple[Any, ...]:
    """What the exact solver has to say of a cell."""
    build, like = _builder(config, make)

    def phase(**arguments: Array) -> dict[str, Array]:
        problem, exploration = build(arguments)
        exploration, tolerance = prepare(problem, exploration, None, None)
        # Without a list of equilibria the solvers do only what a phase takes.
        found, possible, valid = solve(problem, exploration, 0, tolerance)
        certainty = possible.certainty
        cell = {
            "rationalizable": certainty != Certainty.OUT,
            "pure": found.pure,
            "converged": valid & ~jnp.any(certainty == Certainty.UNDECIDED),
        }
        if problem.safe is None:
            return cell
        code = phase_of(problem.safe, found, certainty, valid)
        known = (code != Phase.UNDECIDED) & (code != Phase.INVALID)
        return {"phase": code.astype(jnp.int8), **cell, "converged": known}

    phase.__qualname__ = f"phase of {config.scenario}"
    per_action = ("rationalizable", "pure")
    attrs = {name: attributes_of(name) for name in per_action}
    attrs["converged"] = {"long_name": "whether the solver could tell"}
    if like.safe is not None:
        attrs["phase"] = attributes_of("phase")
    dims = dict.fromkeys(per_action, ("action",))
    return phase, None, dims, {"action": list(like.action_names)}, attrs


def _simulated(config: SweepConfig, make: Callable[..., AbstractProblem]) -> tuple[Any, ...]:
    """What a population of learners does in a cell."""
    build, like = _builder(config, make)
    settings = config.simulate
    assert settings is not None
    policy, memory = policy_of(settings, spelled)(), memory_of(settings, spelled)()
    numbers = {"num_agents": settings["agents"], "num_steps": settings["steps"]}

    def simulate(key: Array, **arguments: Array) -> dict[str, Array]:
        problem, exploration = build(arguments)
        exploration, _ = prepare(problem, exploration, None, None)
        done, valid = populate(problem, exploration, key, policy=policy, memory=memory, **numbers)
        payoff = jnp.where(valid, done.mean_payoff.mean(), jnp.nan)
        return {**ended(problem, done, valid)._asdict(), "payoff": payoff}

    simulate.__qualname__ = f"simulate {config.scenario}"
    names = tuple(like.action_names)
    dims = {"frequency": ("action",), "outcome_share": ("outcome",)}
    coords = {"action": list(names), "outcome": list(outcome_names(names))}
    attrs = {name: attributes_of(name) for name in dims} | {"payoff": _PAYOFF}
    return simulate, _key(config.seed), dims, coords, attrs
