"""From a TOML file to the arguments of `bnjax.sweep`, as the command has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from .._check import suggestion


def read(path: str | Path, *, axes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    r"""The arguments of `bnjax.sweep` that a TOML file asks for, as ``bnjax sweep run`` reads it.

    Parameters
    ----------
    path : the TOML file; ``experiments/sweep.toml`` explains its keys. A function of your own is
        looked for in the current directory first.
    axes : values that take the place of the file's, by name of the axis, as `bnjax.sweep` takes
        them: arrays [N] or ``"low:high:n"``, in units of the arguments. Default: none.

    Returns
    -------
    dict
        By name, all arguments that the file decides: ``function``, ``axes``, ``key`` (None if
        nothing is drawn), ``dims``, ``coords``, ``attrs``, ``may_be_nan`` and ``chunk`` (in
        cells). ``store``, and whatever else is to be said, is for the caller.

    Raises
    ------
    ValueError
        If it is no such file, a key is unknown or missing, ``axes`` names an axis that it does not
        have, the function or scenario does not exist or has no such arguments; or JAX is not set
        to the file's precision, which `jax.enable_x64` does.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile, bnjax as bn
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> text = 'scenario = "sycophancy"\n[axes]\np_honest = "0:1:101"\n'
    >>> _ = (folder / "sweep.toml").write_text(text)
    >>> what = bn.sweeps.read(folder / "sweep.toml", axes={"p_honest": [0.2, 0.8]})
    >>> swept = bn.sweep(**what, store=folder / "sweep.zarr")
    >>> [bn.Phase(int(code)).name for code in swept.phase]
    ['UNSAFE', 'MULTISTABLE']
    """
    from ._config import read_config  # both load what a sweep from Python does without
    from ._functions import asked

    try:
        config = read_config(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(f"{path}: {error}") from None
    double = config.precision == "float64"
    if double != (jnp.result_type(float) == jnp.float64):
        raise ValueError(
            f"{path} asks for {config.precision}, and JAX is set to the other: read it and sweep "
            f"inside `with jax.enable_x64({double}):`."
        )
    arguments = asked(config, Path.cwd())
    for name in axes or {}:
        if name not in arguments["axes"]:
            raise ValueError(
                f"`axes` must name axes of {path}, {', '.join(arguments['axes'])}; got {name!r}"
                f"{suggestion(name, arguments['axes'])}"
            )
    return arguments | {"axes": {**arguments["axes"], **(axes or {})}}
