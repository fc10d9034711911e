"""Small numerical helpers that every layer may use.

XLA's CPU backend vectorises a chain of operations over a batch, but runs an operation over two
actions or three consequences one element at a time. What is short is therefore written out.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

_FEW = 8
_PART = 16  # terms of a sum that are written out together
_WHOLE = 1.5 * 2.0**23  # added to a whole number in float32, that is in the lowest bits


def sum_last(array: Float[Array, "*batch terms"]) -> Float[Array, "*batch"]:
    """Sum over the last axis, written out where it is short."""
    if not 0 < array.shape[-1] <= _FEW:
        return array.sum(-1)
    return functools.reduce(operator.add, [array[..., i] for i in range(array.shape[-1])])


def added_product(
    start: Float[Array, "rows *#batch"],
    matrix: Float[Array, "rows terms"],
    columns: Float[Array, "terms *batch"],
) -> Float[Array, "rows *batch"]:
    """``start`` and a matrix product, written out, in groups where there are many terms.

    Then it is part of the loop around. A sum that starts with something else than a product can be
    contracted to fused multiply-adds in one way only, so that its last bit does not depend on that
    loop, and thus on the number of devices. (A library's matrix product splits the sum among as
    many threads as it is given.)
    """
    wide = (slice(None), *(None,) * (columns.ndim - 1))

    def added(start: Array, matrix: Array, columns: Array) -> Array:
        terms = [matrix[:, t][wide] * columns[t] for t in range(matrix.shape[1])]
        return functools.reduce(operator.add, terms, start)

    whole = matrix.shape[1] // _PART * _PART
    if matrix.shape[1] <= 2 * _PART:
        return added(start, matrix, columns)
    parts = jnp.moveaxis(matrix[:, :whole].reshape(-1, whole // _PART, _PART), 1, 0)
    groups = columns[:whole].reshape(-1, _PART, *columns.shape[1:])
    start = jnp.broadcast_to(start, matrix.shape[:1] + columns.shape[1:])
    total, _ = lax.scan(lambda sum, part: (added(sum, *part), None), start, (parts, groups))
    return added(total, matrix[:, whole:], columns[whole:])


def two_sum(
    first: Float[Array, "*batch"], second: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """A sum, and what rounding took from it, exactly (Knuth's TwoSum)."""
    total = first + second
    part = total - first
    return total, (first - (total - part)) + (second - part)


def added_up(
    sums: tuple[Float[Array, "*batch"], Float[Array, "*batch"]], change: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Sums to which something is added, and beside them what rounding has taken from them so far.

    Together they are exact to the last bit of the sums, however many terms these have.
    """
    total, lost = two_sum(sums[0], change)
    return total, sums[1] + lost


def log_quotient(
    number: Float[Array, "*#batch"], reference: Float[Array, "*#batch"]
) -> Float[Array, "*batch"]:
    """log(number / reference) of positive numbers, to a few bits of itself, however small it is.

    Where both are within a factor of two, their difference is exact. Nothing is divided by what
    many numbers may share: a compiler may multiply by the inverse instead, and the last bit would
    depend on the program around. The derivative by the number is as far in range as the inverse.
    """
    # Else differences of tiny numbers would be flushed to zero.
    scale = jnp.where(reference < 2.0**-60, 2.0**64, 1.0).astype(reference.dtype)
    number, reference = scale * number, scale * reference
    inverse = lax.optimization_barrier(1 / reference)
    near = (number <= 2 * reference) & (reference <= 2 * number)
    beyond = jnp.where(near, number - reference, 0.0) * inverse
    apart = jnp.where(near, 1.0, number * inverse)
    return jnp.where(near, jnp.log1p(beyond), jnp.log(apart))


@jax.custom_jvp
def fast_exp(number: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Exponential of numbers below 88 or ``-inf``; zero where that is no normal number.

    In float32 a power of two times a polynomial (of least relative error, 1.5e-7, but for its first
    coefficient, which is one), in less time than a function takes that has to serve all numbers.
    """
    if number.dtype != jnp.float32:
        return jnp.exp(number)
    number = jnp.maximum(number, -88.0)
    power = lax.round(number * 1.4426950408889634, lax.RoundingMethod.TO_NEAREST_EVEN)
    rest = (number - power * 0.693359375) + power * 2.12194440e-4
    value = jnp.full_like(rest, 8.298558374e-3)
    for coefficient in (4.191641870e-2, 1.666756440e-1, 4.999888275e-1, 9.999996933e-1, 1.0):
        value = value * rest + coefficient
    # 2^-127, a denormal number, comes out as zero.
    scale = (lax.bitcast_convert_type(power + _WHOLE, jnp.int32) + 127) << 23
    return value * lax.bitcast_convert_type(scale, jnp.float32)


@fast_exp.defjvp
def _fast_exp_jvp(primals: tuple, tangents: tuple) -> tuple:
    # That of the polynomial is less precise, and has jumps.
    value = fast_exp(*primals)
    return value, value * tangents[0]


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays that goes through a batch one after the other.

    As `jax.custom_batching.sequential_vmap`, which does not know what to do where nothing but
    tangents are a batch (`jax.jacfwd`): these stay together, for all of them go the same way.
    Arguments are pytrees of arrays.
    """

    def call(*args: Any) -> Any:
        # Arrays in a row: `custom_vmap` loses count of None.
        leaves, structure = jax.tree.flatten(args)

        def flat(*leaves: Array) -> Any:
            return function(*jax.tree.unflatten(structure, leaves))

        wrapped = jax.custom_batching.custom_vmap(flat)

        @wrapped.def_vmap
        def rule(size: int, batched: Sequence[bool], *leaves: Array) -> tuple[Any, Any]:
            if not any(batched):
                out = flat(*leaves)
                return out, jax.tree.map(lambda _: False, out)
            pairs = list(zip(leaves, batched, strict=True))

            def one(mapped: list[Array]) -> Any:
                given = iter(mapped)
                return wrapped(*(next(given) if own else leaf for leaf, own in pairs))

            out = lax.map(one, [leaf for leaf, own in pairs if own])
            return out, jax.tree.map(lambda _: True, out)

        return wrapped(*leaves)

    return call


def implicit_root(function: Callable[[Array], Array], root: Float[Array, ""]) -> Float[Array, ""]:
    """A root that was found, with its derivatives by the implicit function theorem.

    They are zero where the function is level.
    """

    def divide(linear, change):
        slope = linear(jnp.ones_like(change))
        return jnp.where(slope != 0, change / jnp.where(slope != 0, slope, 1.0), 0.0)

    return lax.custom_root(function, root, lambda _, root: root, divide)


def true_first(flags: Bool[Array, " entries"], num: int) -> Int[Array, " num"]:
    """Indices of the true entries in order, then of the others, cut to ``num``.

    A stable sort of a short array, for which XLA compiles far less than for a sort.
    """
    rank = jnp.cumsum(flags, dtype=jnp.int32) - 1
    others = flags.sum(dtype=jnp.int32) + jnp.cumsum(~flags, dtype=jnp.int32) - 1
    place = jnp.where(flags, rank, others)
    slots = jnp.arange(min(num, flags.shape[0]), dtype=jnp.int32)
    return jnp.argmax(place == slots[:, None], axis=1)


def lowest(values: Float[Array, "entries *batch"]) -> Float[Array, "*batch"]:
    """Minimum over the first axis, none of whose entries is NaN.

    A minimum that minds NaN takes several steps, each of which waits for the one before; four
    parts side by side (they overlap where the length asks for it) keep the processor busy.
    """
    length = values.shape[0]
    part = -(-length // 4)
    if length < _FEW or jax.default_backend() != "cpu":
        return values.min(0)

    def less(a, b):
        return jnp.where(a < b, a, b)

    starts = (0, part, 2 * part, length - part)
    return functools.reduce(less, [values[i : i + part] for i in starts]).min(0)


def over_terms(
    function: Callable[..., tuple[Array, ...]], *args: Array
) -> tuple[tuple[Array, ...], ...]:
    """Sum of ``function(*args)`` over the second axis, written out where there is little.

    Parameters
    ----------
    function : acts element by element and returns a tuple of arrays. No booleans: with
        logical operators in it, a loop is no longer vectorised.
    args : [rows, terms, ...] each, with trailing dimensions that broadcast.

    Returns
    -------
    for each array of the tuple, the sums of every row. Not stacked: a loop that writes to two
    places is not vectorised either.
    """
    rows, terms = args[0].shape[:2]
    if not 0 < rows * terms <= 2 * _FEW:
        return tuple(tuple(x.sum(1)) for x in function(*args))

    def row(i: int):
        parts = [function(*(arg[i, j] for arg in args)) for j in range(terms)]
        return [functools.reduce(operator.add, part) for part in zip(*parts, strict=True)]

    return tuple(zip(*map(row, range(rows)), strict=True))


def uniform(bits: UInt32[Array, "*batch"], dtype: Any) -> Float[Array, "*batch"]:
    """Uniform numbers in [0, 1) from 32 random bits each; of them, float32 holds 24."""
    kept = _kept_bits(dtype)
    return (bits >> (32 - kept)).astype(dtype) * 2.0**-kept


def _kept_bits(dtype: Any) -> int:
    """Bits of a random word that a number has room for."""
    return min(32, jnp.finfo(dtype).nmant + 1)


def standard_normal(bits: UInt32[Array, "*batch"], dtype: Any) -> Float[Array, "*batch"]:
    """Standard normal numbers from 32 random bits each, by the inverse of the distribution.

    One bit is the sign and the others the probability of the tail, which floating point holds
    best where it is small: up to 6.3 standard deviations, as fine in float32 as in float64.
    """
    tail = ((bits >> 1).astype(dtype) + 0.5) * 2.0**-32
    size = -jax.scipy.special.ndtri(tail)
    return jnp.where((bits & 1) == 1, size, -size)


def inverse_cdf(
    probs: Float[Array, "outcomes *#batch"] | Sequence[Float[Array, "*#batch"]],
    number: Float[Array, "*#batch"],
) -> Int[Array, "*batch"]:
    """Outcome at which the cumulated probabilities pass a number in [0, 1).

    Never an outcome of probability zero, however the sums are rounded.
    """
    num = len(probs)
    if num > _FEW:
        probs = jnp.stack(list(probs)) if isinstance(probs, Sequence) else probs
        passed = jnp.cumsum(probs, axis=0) <= number * probs.sum(0)
        last = num - 1 - jnp.argmax(probs[::-1] > 0, axis=0)
        return jnp.minimum(passed.sum(0), last).astype(jnp.int32)
    cumulated = list(itertools.accumulate((probs[i] for i in range(num)), operator.add))
    target = number * cumulated[-1]
    index, last = (jnp.zeros(target.shape, jnp.int32) for _ in range(2))
    for outcome in range(1, num):
        index = index + (cumulated[outcome - 1] <= target).astype(jnp.int32)
        last = jnp.where(probs[outcome] > 0, outcome, last)
    return jnp.minimum(index, last)


def second_from(
    probs: Float[Array, "*batch 2"],
) -> tuple[UInt32[Array, "*batch"], Bool[Array, "*batch"]]:
    """From which random word on `inverse_cdf` of `uniform` gives the second of two outcomes.

    A comparison then does what they do in some ten operations.

    Returns
    -------
    the least such word, and whether there is one.
    """
    kept = _kept_bits(probs.dtype)
    most = 2.0**kept - 1
    first, total = probs[..., 0], probs[..., 0] + probs[..., 1]
    # A quotient and a product are off by one at most: the least of its neighbours that passes.
    guess = jnp.floor(first / total * 2.0**kept)
    number = jnp.clip(jnp.stack([guess + k for k in range(-3, 4)]), 0, most)
    passes = (first <= number * 2.0**-kept * total) & (probs[..., 1] > 0)
    least = jnp.where(passes, number, most).min(0)
    return least.astype(jnp.uint32) << (32 - kept), passes.any(0)


def step_below(number: Float[Array, "*batch"], num: int) -> Int[Array, "*batch"]:
    """Largest of 0, ..., ``num - 1`` that is at most a number >= 0.

    Counted by comparisons where there are few: a conversion minds NaN and overflow, slowly.
    """
    if num > _FEW:
        return jnp.minimum(jnp.floor(number), num - 1).astype(jnp.int32)
    none = jnp.zeros(number.shape, jnp.int32)
    return sum(((number >= k).astype(jnp.int32) for k in range(1, num)), none)
