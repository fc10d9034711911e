"""Host-side validation: clear errors for concrete inputs, silence for traced ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike
from numpy.typing import NDArray


def is_concrete(*values: Any) -> bool:
    """Whether every leaf has a value that the host may look at (none is traced)."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def as_float(name: str, value: ArrayLike | Sequence[Any], ndim: int | None = None) -> Array:
    """Return ``value`` as a floating array, or say what is wrong with it.

    Inexact arrays keep their precision; everything else takes JAX's default
    floating type, so that a Python scalar never fixes a dtype.
    """
    wanted = f"`{name}` must be a number" if ndim == 0 else f"`{name}` must be an array of numbers"
    if type(value) is float:  # at once: what follows for other things takes JAX three steps
        value = np.asarray(value, jnp.result_type(float))
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        # A traced value has no digits to show.
        got = repr(value) if is_concrete(value) else f"a {type(value).__name__} of traced values"
        raise ValueError(f"{wanted}; got {got}.") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"`{name}` must be real; got dtype {array.dtype}.")
    exact = not jnp.issubdtype(array.dtype, jnp.floating)
    # Also strips JAX's weak type, for which the same shapes would be compiled anew.
    if exact or array.weak_type:
        array = array.astype(jnp.result_type(float) if exact else array.dtype)
    if ndim == 0 and array.ndim:
        raise ValueError(f"{wanted}; got shape {array.shape}.")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"`{name}` must have {ndim} dimension(s); got shape {array.shape}.")
    return array


def check_shape(name: str, array: Array, shape: tuple[int, ...], meaning: str) -> None:
    """Raise unless ``array`` has the given shape, which ``meaning`` puts in words."""
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape} = [{meaning}]; got {array.shape}.")


def check_some(name: str, number: int, what: str = "model") -> None:
    """Raise if there is not one of what there must be at all."""
    if number == 0:
        raise ValueError(f"`{name}` must hold at least one {what}; got none.")


def check_finite(name: str, array: Array) -> None:
    """Raise if a concrete array holds NaN or infinity."""
    if is_concrete(array):
        values = np.asarray(array)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            at = f" at index {where}" if where else ""
            raise ValueError(f"`{name}` must be finite; got {values[where]}{at}.")


def most_payoff(dtype: Any) -> float:
    """Size up to which sums of payoffs over 2^32 steps, and their differences, are in range."""
    return float(jnp.finfo(dtype).max) * 2.0**-34


def check_payoffs(name: str, array: Array) -> None:
    """Raise if a concrete array holds numbers that cannot be added up."""
    check_finite(name, array)
    most = most_payoff(array.dtype)
    if is_concrete(array):
        largest = np.abs(np.asarray(array)).max(initial=0.0)
        if largest > most:
            raise ValueError(
                f"`{name}` must hold numbers of at most {most:.3g} in size, so that sums of "
                f"payoffs stay in the range of {array.dtype}; got {largest:g}."
            )


def check_positive(name: str, array: Array) -> None:
    """Raise if a concrete array holds anything but finite positive numbers."""
    check_finite(name, array)
    if is_concrete(array) and not (np.asarray(array) > 0).all():
        raise ValueError(f"`{name}` must be positive; its smallest entry is {array.min()}.")


def probability_tolerance(dtype: Any) -> float:
    """How far probabilities may be from summing to one: rounding, and no more."""
    return max(64 * float(jnp.finfo(dtype).eps), 1e-9)


def check_probabilities(name: str, array: Array) -> None:
    """Raise unless the last axis of a concrete array holds probability vectors."""
    check_finite(name, array)
    if not is_concrete(array):
        return
    values = np.asarray(array)
    negative = np.argwhere(values < 0)
    if len(negative):
        where = tuple(int(i) for i in negative[0])
        raise ValueError(
            f"`{name}` must hold probabilities; got the negative entry {values[where]:g} at "
            f"index {where}."
        )
    total = values.sum(-1)
    # Host inputs are often rounded to float32 on the way; judge them at their own precision.
    off = np.argwhere(np.abs(total - 1) > probability_tolerance(array.dtype))
    if len(off):
        where = tuple(int(i) for i in off[0])
        at = f" at index {where}" if where else ""
        raise ValueError(
            f"`{name}` must sum to one over its last axis; got a sum of {total[where]:.9g}{at}."
        )


def finite_number(name: str, value: ArrayLike) -> Array:
    """Return a scalar as a float array; a concrete one must be finite."""
    array = as_float(name, value, ndim=0)
    check_finite(name, array)
    return array


def number(
    name: str,
    value: Any,
    wanted: str = "be a finite number",
    fine: Callable[[float], bool] | None = None,
) -> float:
    """Return a finite number of the host for which ``fine`` holds; ``wanted`` says so in words."""
    array = np.asarray(value) if np.isscalar(value) or hasattr(value, "dtype") else None
    if array is not None and array.ndim == 0 and array.dtype.kind in "iuf":
        found = float(array)
        if np.isfinite(found) and (fine is None or fine(found)):
            return found
    raise ValueError(f"`{name}` must {wanted}; got {value!r}.")


def check_exploration(exploration: ArrayLike) -> Array:
    """Return the tremble as a float array; a concrete one must be a probability."""
    array = as_float("exploration", exploration, ndim=0)
    if is_concrete(array) and not 0 <= float(array) <= 1:
        raise ValueError(f"`exploration` must be a probability in [0, 1]; got {float(array):g}.")
    return array


def whole(name: str, value: Any) -> int:
    """Return a number of things as an integer, of which there must be one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
    return int(value)


def is_typed_key(value: Any) -> bool:
    """Whether it is an array of JAX keys, and not of their words."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def suggestion(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest one that is known."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean `{near[0]}`?" if near else "."


def check_key(key: Any) -> None:
    """Raise unless it is one JAX key, typed or raw."""
    fine = isinstance(key, (jax.Array, np.ndarray))
    if is_typed_key(key):
        fine = fine and key.ndim == 0
    elif fine:
        wanted = jax.random.key_data(jax.random.key(0)).shape
        fine = key.dtype == jnp.uint32 and key.shape == wanted
    if not fine:
        got = f"an array {key.dtype}{list(key.shape)}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"`key` must be one JAX key, such as jax.random.key(0); got {got}.")


def as_names(name: str, names: Sequence[str] | None, size: int, prefix: str) -> tuple[str, ...]:
    """Return one name an entry, made up from ``prefix`` where none are given."""
    if names is None:
        return tuple(f"{prefix} {i}" for i in range(size))
    if not isinstance(names, Sequence):
        raise ValueError(f"`{name}` must be {size} distinct names; got {names!r}.")
    names = tuple(str(n) for n in names)
    if len(names) != size or len(set(names)) != size:
        raise ValueError(f"`{name}` must be {size} distinct names; got {names}.")
    return names


def as_safe(safe: Any, num_actions: int) -> Array | None:
    """Return the safe mask as booleans, one an action."""
    if safe is None:
        return None
    wanted = f"`safe` must be a boolean mask of length {num_actions} (one entry an action); got"
    try:
        array = jnp.asarray(safe)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{wanted} {safe!r}.") from error
    if array.shape != (num_actions,) or array.dtype != jnp.bool_:
        raise ValueError(f"{wanted} shape {array.shape} and dtype {array.dtype}.")
    return array


def range_parts(name: str, text: str) -> tuple[tuple[float, float], int]:
    """Ends and number of values of ``"low:high:n"``."""
    error = ValueError(
        f'axis `{name}` must be an array or a range "low:high:n" with n values from low to high; '
        f"got {text!r}."
    )
    try:
        low, high, length = text.split(":")
        ends, number = (float(low), float(high)), int(length)
    except ValueError:
        raise error from None
    if number < 1 or not np.isfinite(ends).all() or (number == 1 and ends[0] != ends[1]):
        raise error
    return ends, number


def linear(name: str, text: str) -> NDArray[np.float64]:
    """Read ``"low:high:n"``: ``n`` values from ``low`` to ``high``, both included."""
    ends, number = range_parts(name, text)
    return np.linspace(*ends, number)
