"""Names, units and codes of what a diagram holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..equilibrium import Certainty, Phase, Stability

if TYPE_CHECKING:
    import xarray as xr

NO_MIXED = -1
"""Code of ``mixed_stability`` where there is no mixed equilibrium."""


def _flags(codes: Any, others: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Names of integer codes, in the attributes that the CF conventions give for that."""
    members = {**(others or {}), **{code.name: int(code) for code in codes}}
    return {
        "flag_values": np.asarray(list(members.values()), np.int8),
        "flag_meanings": " ".join(members),
    }


_PROBABILITY = {"units": "probability"}
_THETA = {"units": "units of the parameter"}

# Of each variable: dimensions besides the axes, and attributes.
_VARIABLES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "phase": ((), {"long_name": "safety phase", **_flags(Phase)}),
    "pure": (("action",), {"long_name": "whether the pure strategy is an equilibrium"}),
    "rationalizable": (("action",), {"long_name": "whether the action is not excluded"}),
    "certainty": (("action",), {"long_name": "rationalizability", **_flags(Certainty)}),
    "mixed_strategy": (
        ("action",),
        {"long_name": "first equilibrium that is not pure: intended play", **_PROBABILITY},
    ),
    "mixed_strategy_end": (
        ("action",),
        {"long_name": "its other end, where it is a continuum", **_PROBABILITY},
    ),
    "mixed_stability": (
        (),
        {"long_name": "its stability", **_flags(Stability, {"NONE": NO_MIXED})},
    ),
    "mixed_best_fit": (("parameter",), {"long_name": "mean parameter believed there", **_THETA}),
    "pure_best_fit": (
        ("action", "parameter"),
        {"long_name": "mean parameter believed at each pure equilibrium", **_THETA},
    ),
    "num_equilibria": ((), {"long_name": "components of equilibria that are listed"}),
    "complete": ((), {"long_name": "whether these are provably all"}),
    "frequency": (
        ("action",),
        {"long_name": "simulated play in the second half, mean over agents", **_PROBABILITY},
    ),
    "outcome_share": (("outcome",), {"long_name": "share of simulated agents that ended so"}),
    "outcome_interval": (
        ("outcome", "interval_bound"),
        {
            "long_name": "99 % interval of the probability behind outcome_share",
            **_PROBABILITY,
        },
    ),
}

RESERVED = (*_VARIABLES, "action", "parameter", "outcome", "interval_bound")


def attributes_of(variable: str) -> dict[str, Any]:
    """Long name of a variable, and its units or codes."""
    return dict(_VARIABLES[variable][1])


def label(
    axes: Mapping[str, NDArray[np.float64]],
    cells: Mapping[str, NDArray[Any]],
    coordinates: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Label the results.

    Parameters
    ----------
    axes : values along each axis.
    cells : results by name, axes first.
    coordinates : names along every other dimension.
    attributes : of the whole.
    """
    import xarray as xr  # slow to import, and nothing else needs it

    cells = {**cells, "rationalizable": cells["certainty"] != Certainty.OUT}
    return xr.Dataset(
        {
            name: ((*axes, *others), cells[name], attrs)
            for name, (others, attrs) in _VARIABLES.items()
            if name in cells and cells[name].size
        },
        coords={**axes, **{name: list(names) for name, names in coordinates.items() if names}},
        attrs=dict(attributes),
    )
