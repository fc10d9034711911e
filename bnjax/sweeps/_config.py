"""The TOML that tells the command what to sweep, read and checked before anything is computed."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from .. import scenarios
from .._check import suggestion
from .._learners import DEFAULTS, MEMORIES, POLICIES, TIES, memory_of, policy_of
from ._axes import read_axes

PHASE, SIMULATE = "phase", "simulate"
AGENTS, STEPS = 100, 1000

_KINDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}
_KEYS = {
    "function": str,
    "scenario": str,
    "seed": int,
    "precision": str,
    "chunk": int,
    "may_be_nan": list,
    "axes": dict,
    "fixed": dict,
    "simulate": dict,
    "dims": dict,
    "coords": dict,
    "attrs": dict,
}
_SIMULATE = {
    "agents": int,
    "steps": int,
    "policy": str,
    "ties": str,
    "temperature": float,
    "epsilon": float,
    "memory": str,
    "rate": float,
    "length": int,
}
_CHOICES = {"policy": POLICIES, "memory": MEMORIES, "ties": TIES}
_OWN = ("dims", "coords", "attrs")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """What a TOML asks for.

    Parameters
    ----------
    text : of the TOML.
    function : "phase", "simulate", or ``package.module:name`` of the user's own.
    scenario : whose phase or populations; None for a function of the user's own.
    axes : as `bnjax.sweep` takes them.
    fixed : further arguments, of the scenario (and ``exploration``) or of the function.
    precision : "float32" or "float64".
    seed : of the key; None if none was given.
    chunk : cells of a chunk; None to let `bnjax.sweep` choose.
    may_be_nan : outputs in which NaN is no failure.
    simulate : settings of the populations by the names of the options of ``bnjax simulate``, None
        where one was not given. None if nothing is simulated.
    dims, coords, attrs : as `bnjax.sweep` takes them.
    """

    text: str
    function: str
    scenario: str | None
    axes: Mapping[str, Any]
    fixed: Mapping[str, Any]
    precision: str
    seed: int | None
    chunk: int | None
    may_be_nan: tuple[str, ...]
    simulate: Mapping[str, Any] | None
    dims: Mapping[str, Any]
    coords: Mapping[str, Any]
    attrs: Mapping[str, Any]

    @property
    def is_own(self) -> bool:
        """Whether the function is the user's."""
        return ":" in self.function


def read_config(text: str) -> SweepConfig:
    """Read a TOML, or say what is wrong with it.

    Raises
    ------
    ValueError
        If it is no TOML, a key is unknown or missing, or a value is not of its kind.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"this is no TOML: {error}.") from None
    _check("", given, _KEYS)
    function = given.get("function", PHASE)
    if function not in (PHASE, SIMULATE) and not _is_path(function):
        raise ValueError(
            f'`function` must be "{PHASE}", "{SIMULATE}" or "package.module:name"; got '
            f"{function!r}{suggestion(function, (PHASE, SIMULATE))}"
        )
    config = SweepConfig(
        text=text,
        function=function,
        scenario=_scenario(function, given.get("scenario")),
        axes=_axes(given.get("axes")),
        fixed=given.get("fixed", {}),
        precision=_choice("precision", given.get("precision", "float32"), ("float32", "float64")),
        seed=_whole("seed", given.get("seed"), 0, 2**32 - 1),
        chunk=_whole("chunk", given.get("chunk"), 1),
        may_be_nan=_names("may_be_nan", given.get("may_be_nan", [])),
        simulate=_simulate(function, given.get("simulate")),
        dims={name: _names(f"dims.{name}", x) for name, x in given.get("dims", {}).items()},
        coords=given.get("coords", {}),
        attrs=given.get("attrs", {}),
    )
    _check_rest(config, given)
    return config


def spelled(name: str, value: str | None = None) -> str:
    """How a TOML spells a setting of the learners."""
    return f"simulate.{name}" if value is None else f'simulate.{name} = "{value}"'


def _check(table: str, given: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Refuse unknown keys and values of another kind."""
    for key, value in given.items():
        path = f"{table}.{key}" if table else key
        if key not in kinds:
            what = "table" if isinstance(value, dict) else "key"
            raise ValueError(
                f"unknown {what} `{path}`{suggestion(key, kinds)} There are: {', '.join(kinds)}."
            )
        wanted = kinds[key]
        fine = isinstance(value, (int, float) if wanted is float else wanted)
        if not fine or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"`{path}` must be {_KINDS[wanted]}; got {_shown(value)}.")


def _shown(value: Any) -> str:
    kind = next((said for kind, said in _KINDS.items() if isinstance(value, kind)), "")
    return kind if isinstance(value, dict) else f"{value!r}"


def _is_path(name: str) -> bool:
    module, colon, function = name.partition(":")
    parts = [*module.split("."), function]
    return bool(colon) and all(part.isidentifier() for part in parts)


def _scenario(function: str, name: Any) -> str | None:
    own = ":" in function
    if name is None:
        if own:
            return None
        raise ValueError(
            f"`scenario` must be given; there are: {', '.join(scenarios.__all__)}, or your own as "
            '"package.module:name".'
        )
    if own:
        raise ValueError(
            f'`scenario` is for function = "{PHASE}" or "{SIMULATE}"; {function} makes its own.'
        )
    if name not in scenarios.__all__ and not _is_path(name):
        raise ValueError(
            f"unknown scenario `{name}`{suggestion(name, scenarios.__all__)} There are: "
            f'{", ".join(scenarios.__all__)}, or your own as "package.module:name".'
        )
    return name


def _axes(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if not given:
        raise ValueError('`axes` must name at least one axis, such as p_honest = "0:1:101".')
    for name, values in given.items():
        columns = values if isinstance(values, dict) else {name: values}
        for key, column in columns.items():
            path = f"axes.{name}.{key}" if columns is values else f"axes.{name}"
            if not isinstance(column, (str, list)):
                raise ValueError(
                    f'`{path}` must be a range "low:high:n" or a list of numbers; got '
                    f"{_shown(column)}."
                )
    read_axes(given)
    return given


def _simulate(function: str, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if function != SIMULATE:
        if given is not None:
            raise ValueError(f'table [simulate] is for function = "{SIMULATE}"; got "{function}".')
        return None
    given = given or {}
    _check("simulate", given, _SIMULATE)
    settings: dict[str, Any] = {
        **dict.fromkeys(_SIMULATE),
        **DEFAULTS,
        "agents": AGENTS,
        "steps": STEPS,
        **given,
    }
    for key, known in _CHOICES.items():
        if settings[key] is not None:
            _choice(f"simulate.{key}", settings[key], known)
    for key in ("agents", "steps", "length"):
        _whole(f"simulate.{key}", settings[key], 1)
    # What belongs to what; that the numbers make sense, whoever makes the policy says.
    policy_of(settings, spelled)
    memory_of(settings, spelled)
    return settings


def _check_rest(config: SweepConfig, given: Mapping[str, Any]) -> None:
    """What keys mean together."""
    if not config.is_own:
        for table in _OWN:
            if table in given:
                raise ValueError(
                    f"table [{table}] is for functions of your own; {config.function} has its own."
                )
        if config.function == PHASE and config.seed is not None:
            raise ValueError(
                f'`seed` is for function = "{SIMULATE}" or your own; a phase has none.'
            )
        for name, value in config.fixed.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"`fixed.{name}` must be a number; got {_shown(value)}.")
    for name, value in config.attrs.items():
        if not isinstance(value, dict):
            raise ValueError(f"`attrs.{name}` must be a table; got {_shown(value)}.")
    for name, value in config.coords.items():
        if not isinstance(value, list):
            raise ValueError(f"`coords.{name}` must be a list; got {_shown(value)}.")
    both = [name for name in read_axes(config.axes).values if name in config.fixed]
    if both:
        raise ValueError(f"`{both[0]}` must be given once; it is both in [axes] and in [fixed].")


def _choice(key: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        said = ", ".join(f'"{name}"' for name in known)
        raise ValueError(f"`{key}` must be one of {said}; got {value!r}{suggestion(value, known)}")
    return value


def _whole(key: str, value: int | None, least: int, most: int | None = None) -> int | None:
    if value is not None and (value < least or (most is not None and value > most)):
        said = f"at least {least}" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"`{key}` must be {said}; got {value:,}.")
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"`{key}` must be a list of names; got {_shown(value)}.")
    return tuple(value)
