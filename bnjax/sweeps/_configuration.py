"""What makes a sweep the same sweep, and what to tell about it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from .._provenance import provenance, words_of
from ._axes import STATUS, Axes, as_names
from ._program import Cell, Output

# Of directories, of which some already have other meanings in a Zarr store.
_NAME = re.compile(r"(?!__)(?!zarr\.json$)\w[\w.]{0,99}")
_FEW = 100  # labels that are spelled out in a configuration
# What xarray takes as a recipe for other numbers, or for what a variable is.
_DECODED = {
    "_ARRAY_DIMENSIONS",
    "_FillValue",
    "_Unsigned",
    "add_offset",
    "coordinates",
    "dtype",
    "missing_value",
    "scale_factor",
}


@dataclasses.dataclass(frozen=True)
class Labels:
    """Names of what a cell gives."""

    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, NDArray[Any]]
    attrs: Mapping[str, Mapping[str, Any]]
    may_be_nan: tuple[str, ...]


def read_labels(
    axes: Axes,
    outputs: Sequence[Output],
    dims: Mapping[str, Sequence[str]] | None,
    coords: Mapping[str, Any] | None,
    attrs: Mapping[str, Mapping[str, Any]] | None,
    may_be_nan: Sequence[str],
) -> Labels:
    """Check what `sweep` was told about the outputs."""
    names = [output.name for output in outputs]
    taken = {*axes.dims, *axes.values, STATUS}
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "`function` must name its outputs in up to 100 letters, digits and underscores; "
                f"got {name!r}."
            )
        if name in taken:
            raise ValueError(
                f"`function` must not call an output `{name}`: an axis or a variable of the store "
                "has that name."
            )
    read = _dims(axes, outputs, _mapping("dims", dims), names)
    labels = _coords(outputs, read, _mapping("coords", coords))
    attributes = {
        name: _mapping(f"attrs[{name!r}]", x) for name, x in _mapping("attrs", attrs).items()
    }
    _check_known("attrs", attributes, [*names, *axes.values, *labels])
    may_be_nan = as_names("may_be_nan", may_be_nan)
    _check_known("may_be_nan", may_be_nan, names)
    return Labels(read, labels, _plain_attributes(attributes), tuple(sorted(may_be_nan)))


def _mapping(argument: str, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"`{argument}` must map names to what they get; got {given!r}.")
    return dict(given or {})


def _plain_attributes(attributes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Attributes as JSON will give them back."""
    for name, given in attributes.items():
        for attribute, value in given.items():
            date = attribute == "units" and isinstance(value, str) and " since " in value
            if attribute in _DECODED or date:
                raise ValueError(
                    f"`attrs` must not change what numbers mean to those who open the store; got "
                    f"`{attribute}` {value!r} of `{name}`."
                )
    try:
        return json.loads(json.dumps(attributes, allow_nan=False, default=_plain))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`attrs` must be numbers, strings and lists of these; {error}.") from None


def _dims(
    axes: Axes, outputs: Sequence[Output], dims: dict[str, Sequence[str]], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    _check_known("dims", dims, names)
    read: dict[str, tuple[str, ...]] = {}
    lengths: dict[str, int] = {}
    for output in outputs:
        given = dims.get(output.name)
        if given is None:
            given = [f"{output.name}_{i}" for i in range(len(output.shape))]
        read[output.name] = as_names("dims", given)
        if len(given) != len(output.shape):
            raise ValueError(
                f"`dims` must name each dimension of `{output.name}`, which has shape "
                f"{output.shape}; got {tuple(given)}."
            )
        for dim, length in zip(given, output.shape, strict=True):
            if dim in axes.dims or dim in axes.values:
                raise ValueError(f"`dims` must not use the name of an axis; got `{dim}`.")
            if dim in names or dim == STATUS:
                raise ValueError(
                    f"`dims` must not use the name of an output, here of `{output.name}`; got "
                    f"`{dim}`."
                )
            if not _NAME.fullmatch(dim):
                raise ValueError(
                    f"`dims` must be up to 100 letters, digits and underscores; got {dim!r}."
                )
            if lengths.setdefault(dim, length) != length or given.count(dim) > 1:
                raise ValueError(
                    f"`dims` must use a name for one length, and once an output; `{dim}` is "
                    f"{lengths[dim]} and, in `{output.name}`, {length}."
                )
    return read


def _coords(
    outputs: Sequence[Output],
    dims: Mapping[str, tuple[str, ...]],
    coords: dict[str, Any],
) -> dict[str, NDArray[Any]]:
    lengths = {
        dim: length
        for output in outputs
        for dim, length in zip(dims[output.name], output.shape, strict=True)
    }
    _check_known("coords", coords, list(lengths))
    read = {}
    for dim, values in coords.items():
        array = np.asarray(values)
        if array.shape != (lengths[dim],) or array.dtype.kind not in "biufU":
            raise ValueError(
                f"`coords` must label `{dim}` with {lengths[dim]} numbers or names; got {values!r}."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"`coords` must be finite; got {values!r} for `{dim}`.")
        read[dim] = array
    return read


def _check_known(argument: str, given: Any, known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(
                f"`{argument}` must name what is there; got {name!r}. There are: "
                f"{', '.join(known) or 'none'}."
            )


def configuration_of(
    function: Callable[..., Any], axes: Axes, cell: Cell, key: Array | None, labels: Labels
) -> dict[str, Any]:
    """All that must be equal for results to be of the same sweep."""
    return {
        "function": {"name": title(function), "program": cell.fingerprint},
        "axes": {
            dim: {name: _described(values) for name, values in columns.items()}
            for dim, columns in axes.columns.items()
        },
        "order": list(axes.dims),
        "key": None if key is None else _key_words(key),
        "outputs": {
            output.name: {
                "shape": list(output.shape),
                "dtype": output.dtype.name,
                "dims": list(labels.dims[output.name]),
            }
            for output in cell.outputs
        },
        "coords": {
            dim: values.tolist() if len(values) <= _FEW else _described(values)
            for dim, values in labels.coords.items()
        },
        "attrs": dict(labels.attrs),
        "may_be_nan": list(labels.may_be_nan),
        "precision": jnp.result_type(float).name,
        "threefry_partitionable": getattr(jax.config, "jax_threefry_partitionable", None),
        "platform": jax.default_backend(),
        "jax": jax.__version__,
    }


def about(function: Callable[..., Any], key: Array | None) -> dict[str, Any]:
    """Attributes of the store for people."""
    return {
        "function": title(function),
        **({} if key is None else {"key": _key_words(key)}),
        **provenance(),
    }


def title(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return name.rpartition(".<locals>.")[2]


def _key_words(key: Array) -> dict[str, Any]:
    words, impl = words_of(key)
    return {"words": words.tolist(), "impl": impl}


def _described(values: NDArray[Any]) -> dict[str, Any]:
    ends = {"first": values[0].item(), "last": values[-1].item()}
    digest = hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).hexdigest()
    return {"size": len(values), "dtype": values.dtype.name, **ends, "values": digest}


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    raise TypeError(f"got {value!r}")
