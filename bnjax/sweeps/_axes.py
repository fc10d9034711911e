"""What a sweep runs over: named axes, as arrays or ranges, each a dimension of the store."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from .._check import linear, range_parts

KEY = "key"
STATUS = "status"
_MOST_CELLS = 2**32  # numbers of cells are what keys are folded from: 32 bits of them


@dataclasses.dataclass(frozen=True)
class Axes:
    """Dimensions of a sweep, and along each the arguments that vary with it.

    Parameters
    ----------
    columns : for each dimension, in the order of the store, the values [N] of one argument of the
        function by name, or of several that vary together.
    """

    columns: Mapping[str, Mapping[str, NDArray[Any]]]

    @property
    def dims(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(next(iter(columns.values()))) for columns in self.columns.values())

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def values(self) -> dict[str, NDArray[Any]]:
        """Values [N] of each argument of the function."""
        return {name: x for columns in self.columns.values() for name, x in columns.items()}

    def dim_of(self, argument: str) -> str:
        """The dimension along which an argument varies."""
        return next(dim for dim, columns in self.columns.items() if argument in columns)


def read_axes(axes: Any) -> Axes:
    """Read what `sweep` was given, or say what is wrong with it."""
    if not isinstance(axes, Mapping) or not axes:
        raise ValueError(f"`axes` must map at least one name to values; got {axes!r}.")
    columns: dict[str, dict[str, NDArray[Any]]] = {}
    for dim, values in axes.items():
        if isinstance(values, Mapping):
            columns[_name(dim)] = _zipped(dim, values)
        else:
            columns[_name(dim)] = {dim: _values(dim, values)}
    names = [name for each in columns.values() for name in each]
    for name in names:
        if names.count(name) > 1 or (name in columns and name not in columns[name]):
            raise ValueError(f"`axes` must use each name once; got `{name}` twice.")
    read = Axes(columns)
    _check_cells(read.size)
    return read


def _check_cells(number: int) -> None:
    if number > _MOST_CELLS:
        raise ValueError(
            f"`axes` must span at most 2^32 cells, which is as many keys as can be folded from "
            f"one; got {number:,}. Split the sweep into several, each with its own key."
        )


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Parameters by name, None if it takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # built in C: nothing is known, so anything may be right
        return None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return None if takes_any else parameters


def check_arguments(function: Callable[..., Any], axes: Axes, with_key: bool) -> None:
    """Raise unless the function takes what the axes give it, and nothing more."""
    if not callable(function):
        raise ValueError(f"`function` must be a function of scalars; got {function!r}.")
    parameters = parameters_of(function)
    if parameters is None:
        return
    named = {
        n: p for n, p in parameters.items() if p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)
    }
    title = getattr(function, "__name__", type(function).__name__)
    for name in axes.values:
        if name not in named:
            near = difflib.get_close_matches(name, named, 1)
            raise ValueError(
                f"`{name}` of `axes` is no parameter of {title}"
                + (f": did you mean `{near[0]}`? It has: " if near else "; it has: ")
                + f"{', '.join(named) or 'none'}."
            )
    if with_key and KEY not in named:
        raise ValueError(f"`key` was given, but {title} has no parameter `{KEY}` to take it.")
    if not with_key and KEY in named and named[KEY].default is named[KEY].empty:
        raise ValueError(f"`key` must be given, because {title} wants one; got None.")
    for name, p in parameters.items():
        wanted = p.default is p.empty and p.kind is not p.VAR_POSITIONAL
        if wanted and name not in axes.values and name != KEY:
            raise ValueError(
                f"`{name}` must be given: {title} has no default for it and `axes` does not name "
                "it. Fix it with `functools.partial`."
            )


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"`axes` must have names that Python can call; got {name!r}.")
    if name in (KEY, STATUS):
        raise ValueError(f"`axes` must not use the reserved name `{name}`.")
    return name


def _zipped(dim: str, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Arguments that vary together along one dimension."""
    if not columns:
        raise ValueError(f"axis `{dim}` must zip at least one argument; got none.")
    if dim in columns:
        raise ValueError(
            f"axis `{dim}` zips an argument of its own name; give the dimension another."
        )
    read = {_name(name): _values(name, x) for name, x in columns.items()}
    lengths = {name: len(x) for name, x in read.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ValueError(f"axis `{dim}` must zip values of one length; got {told}.")
    return read


def _values(name: str, values: Any) -> NDArray[Any]:
    """Values along an axis: floats, whole numbers or truth values."""
    array = _range(name, values) if isinstance(values, str) else _array(name, values)
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"axis `{name}` must be a one-dimensional array of scalars, not empty; got shape "
            f"{array.shape}."
        )
    kind = array.dtype.kind
    if kind == "f":
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise ValueError(
                f"axis `{name}` must be finite; got {array[bad[0]]} at index {bad[0]}."
            )
        with np.errstate(over="ignore"):
            computed = array.astype(jnp.result_type(float))
        if not np.isfinite(computed).all():
            raise ValueError(
                f"axis `{name}` must hold numbers that fit {computed.dtype}; got "
                f"{array.min()} to {array.max()}."
            )
        return array.astype(np.float64, copy=False)
    if kind in "iu":
        limits = np.iinfo(jnp.result_type(int))
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"axis `{name}` must hold numbers that fit {limits.dtype}; got "
                f"{array.min()} to {array.max()}."
            )
        return array.astype(np.int64, copy=False)
    if kind == "b":
        return array
    raise ValueError(f"axis `{name}` must hold real numbers; got dtype {array.dtype}.")


def _range(name: str, text: str) -> NDArray[np.float64]:
    _check_cells(range_parts(name, text)[1])
    return linear(name, text)


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"axis `{name}` must be an array of numbers; got {values!r}.") from error


def as_names(argument: str, names: Any) -> tuple[str, ...]:
    """Read several names."""
    several = not isinstance(names, str) and isinstance(names, Iterable)
    read = tuple(names) if several else ()
    if not several or not all(isinstance(name, str) and name for name in read):
        raise ValueError(f"`{argument}` must hold several names; got {names!r}.")
    return read
