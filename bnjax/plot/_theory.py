"""Lines across a phase diagram: what theory says about where phases end, or the caller's own."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import ArrayLike

from .._scenario import find_scenario
from ._cells import coordinate, limits


def boundary_lines(
    dataset: xr.Dataset,
    codes: xr.DataArray,
    x: str,
    y: str | None,
    boundaries: bool | Iterable[Callable[..., Any] | ArrayLike] | None,
) -> list[np.ndarray]:
    """Lines [N, 2] to draw."""
    if boundaries is None or boundaries is False:
        return []
    low, high = limits(x, coordinate(codes, x))
    fine_x = np.linspace(low, high, 401)
    if boundaries is not True:
        return [_own_line(i, line, fine_x) for i, line in enumerate(_as_list(boundaries))]
    from contourpy import contour_generator  # slow to import, and nothing else needs it

    low, high = limits(y, coordinate(codes, y)) if y else (-0.5, 0.5)
    fine_y = np.linspace(low, high, 401)
    mesh_x, mesh_y = np.meshgrid(fine_x, fine_y)
    values = _parameters_of(dataset, codes) | {x: mesh_x} | ({y: mesh_y} if y else {})
    lines = []
    for field in _theory(str(dataset.attrs["scenario"]), values):
        field = np.ma.masked_invalid(np.broadcast_to(field, mesh_x.shape))
        lines += contour_generator(fine_x, fine_y, field).lines(0.0)
    return [np.asarray(line) for line in lines]


def _as_list(boundaries: Any) -> list[Any]:
    if callable(boundaries) or not isinstance(boundaries, Iterable):
        raise ValueError(f"`boundaries` must be None, True or a list of lines; got {boundaries!r}.")
    return list(boundaries)


def _own_line(number: int, line: Any, fine_x: np.ndarray) -> np.ndarray:
    if callable(line):
        values = np.broadcast_to(np.asarray(line(fine_x), float), fine_x.shape)
        return np.stack([fine_x, values], -1)
    array = np.asarray(line, float)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"`boundaries[{number}]` must be a function of x or an array [N, 2] of (x, y); got an "
            f"array of shape {array.shape}."
        )
    return array


def _parameters_of(dataset: xr.Dataset, codes: xr.DataArray) -> dict[str, Any]:
    """Every parameter that does not vary: defaults, what was fixed, what was selected."""
    if "scenario" not in dataset.attrs:
        raise ValueError(
            "`boundaries=True` needs the name of a scenario in `dataset.attrs['scenario']`; pass "
            "the lines instead."
        )
    scenario = find_scenario(str(dataset.attrs["scenario"]))
    values: dict[str, Any] = {"exploration": dataset.attrs.get("exploration", 0.0)}
    for parameter in inspect.signature(scenario).parameters.values():
        values[parameter.name] = parameter.default
    fixed = dataset.attrs.get("fixed", {})
    # A netCDF file holds no mapping: there it is text.
    values |= json.loads(fixed) if isinstance(fixed, str) else dict(fixed)
    return values | {
        str(name): float(coord)
        for name, coord in codes.coords.items()
        if coord.ndim == 0 and np.issubdtype(coord.dtype, np.number)
    }


def _theory(scenario: str, values: Mapping[str, Any]) -> list[np.ndarray]:
    """Fields whose zeros are boundaries between phases; NaN where they separate nothing."""
    if scenario == "sycophancy":
        return _agreement_fields(values["p_sycophantic"], values["p_honest"], values)
    if scenario == "hallucination":
        return _agreement_fields(values["p_fabricate"], values["p_abstain"], values)
    if scenario == "deception":
        return _deception_fields(values)
    raise ValueError(
        f"`boundaries=True` knows sycophancy, hallucination and deception; got {scenario!r}."
    )


def _agreement_fields(unsafe: Any, safe: Any, values: Mapping[str, Any]) -> list[np.ndarray]:
    width, tremble = np.asarray(values["width"]), np.asarray(values["exploration"])
    if np.allclose(width, 0):
        # theta*(s) = s p_unsafe + (1 - s)(1 - p_safe) against 1/2 at both trembled vertices.
        # Without exploration these are p_unsafe = 1/2 and p_safe = 1/2.
        rare = tremble / 2
        return [
            (1 - rare) * unsafe - rare * safe - (0.5 - rare),
            (1 - rare) * safe - rare * unsafe - (0.5 - rare),
        ]
    if np.allclose(width, 1):
        # The correct model, which needs data on both actions to know better.
        return [np.where(tremble > 0, np.asarray(safe) - unsafe, np.nan)]
    raise ValueError(
        "`boundaries=True` needs width 0 or 1: in between no closed form is known; pass the lines "
        "instead."
    )


def _deception_fields(values: Mapping[str, Any]) -> list[np.ndarray]:
    names = ("p_detect", "gain", "penalty", "honest_payoff", "detect_lower", "detect_upper")
    risk, gain, penalty, honest, lower, upper = (np.asarray(values[name], float) for name in names)
    total = gain + penalty
    threshold = (gain - honest) / np.where(total != 0, total, np.nan)
    possible = lower <= upper
    tremble = np.asarray(values["exploration"])
    # Without exploration complying teaches nothing: what the agent can believe decides, and
    # the truth only where it can believe both.
    fields = [
        np.where(possible & (tremble == 0), upper - threshold, np.nan),
        np.where(possible & (tremble == 0), lower - threshold, np.nan),
        np.where(
            (tremble == 0) & (lower <= threshold) & (threshold <= upper), risk - threshold, np.nan
        ),
    ]
    # With it, deceiving is optimal iff the best fit is at most the threshold.
    believed = np.minimum(np.maximum(risk, lower), upper)
    return [*fields, np.where(possible & (tremble > 0), believed - threshold, np.nan)]
