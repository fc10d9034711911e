"""Mean-field dynamics: where time-average play goes when noise has averaged out."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._check import (
    as_float,
    check_finite,
    check_positive,
    check_probabilities,
    check_shape,
    is_concrete,
)
from ..equilibrium._public import equilibria
from ..equilibrium._results import Equilibria
from ..equilibrium._solve import prepare, problem_dtype
from ..equilibrium._tolerance import Tolerance
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem
from ._mean_field_many import pieces
from ._mean_field_pair import pair_flow
from ._mean_field_result import MeanField, Motion
from ._mean_field_smooth import smooth_flow


def mean_field(
    problem: AbstractProblem,
    start: ArrayLike | Sequence[Any],
    *,
    duration: ArrayLike,
    memory: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    exploration: ArrayLike = 0.0,
    num_saved: int = 101,
    tol_rest: ArrayLike | None = None,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
    solver: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 16_384,
) -> MeanField:
    """Solve the mean-field dynamics of time-average play from a start strategy.

    **Hard** (without ``memory`` and ``temperature``): the differential inclusion
    ``d sigma/dt in Delta(F(Delta(Theta*(sigma)))) - sigma`` of an agent that remembers
    everything and plays best responses (Esponda, Pouzo and Yamamoto 2021). Between switching
    points its solutions are closed forms, and there is no step size. Where it has
    several solutions the trajectory ends, with a code that says so: none of them is picked.
    With two actions, for finite and continuous Theta; with more, for finite Theta, as long as no
    more than two actions are best replies at once (sliding along a surface included).

    **Smooth** (with both): ``d sigma/dt = softmax(belief(sigma) @ U / temperature) - sigma`` with
    ``belief(sigma)[m]`` proportional to ``prior[m] exp(-memory * sigma @ K[m])``. Any number of
    actions; continuous Theta is replaced by ``problem.discretize()``. Differentiable in reverse
    mode: the derivative is that of the trajectory, and so knows where it started.

    Time is that of time averages: sigma after n observations is sigma(log n).

    Parameters
    ----------
    problem : any problem; its leaves may be traced, so that the call goes through `jax.vmap`.
    start : [A] strategy at time 0.
    duration : until when; positive.
    memory : effective number of observations that a belief rests on.
    temperature : of logit play, in units of payoff; positive.
    exploration : probability with which play trembles to a uniform action. ``sigma`` is intended
        play throughout.
    num_saved : number of times T at which the trajectory is reported, evenly spaced, both ends
        included.
    tol_rest : the trajectory has come to rest where no entry of ``target - sigma`` is larger.
        Default: 1e-3 in float32, 1e-5 in float64. (A steep response, of a large memory and a low
        temperature, multiplies what the solver's tolerances leave.)
    tol_fit, tol_payoff : what counts as a tie in the hard version, as for `bnjax.equilibria`.
    solver, rtol, atol : for the smooth version: a diffrax solver (default: ``Tsit5``) and the
        tolerances of a step (1e-5 and 1e-6 in float32, 1e-8 and 1e-10 in float64).
    max_steps : steps of the smooth solver, or events with more than two actions (of which at
        most 256 are followed), after which the solve is given up.

    Returns
    -------
    MeanField

    Raises
    ------
    ValueError
        If a concrete argument is out of range, only one of ``memory`` and ``temperature`` is
        given, or the hard version is asked for with continuous Theta and more than two actions.

    Notes
    -----
    A start within 1e-3 (float32; float64: 1e-6) of an unstable mixture is taken to be on it.
    The hard version with two actions is differentiable; with more, reverse mode is refused.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.3, p_honest=0.2)
    >>> print(bn.mean_field(problem, [0.9, 0.1], duration=2.0).summary(problem))
    start: sycophantic 0.9, honest 0.1
    last change of direction: time 0.405465
    time 2: sycophantic 0.6, honest 0.4 (held between best replies)
    """
    exploration, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    start = as_strategy("start", start, problem)
    dtype = problem_dtype(problem)
    duration = as_float("duration", duration, ndim=0).astype(dtype)
    check_positive("duration", duration)
    check_count("num_saved", num_saved, 2)
    check_count("max_steps", max_steps, 1)
    single = jnp.finfo(dtype).eps > 1e-10
    tol_rest = as_float("tol_rest", (1e-3 if single else 1e-5) if tol_rest is None else tol_rest, 0)
    check_positive("tol_rest", tol_rest)
    # From bound to bound exactly, whatever the rounding in between.
    times = jnp.linspace(0.0, 1.0, num_saved, dtype=dtype) * duration
    tol_rest = tol_rest.astype(dtype)
    smooth = smooth_terms(memory, temperature, dtype)
    if smooth is None:
        check_hard(problem)
        events = min(max_steps, _MAX_EVENTS)
        found = switching_points(problem, exploration, tolerance)
        return _hard(problem, start, times, found, exploration, tolerance, tol_rest, events)
    rtol = (1e-5 if single else 1e-8) if rtol is None else rtol
    atol = (1e-6 if single else 1e-10) if atol is None else atol
    return _smooth(
        problem, start, times, *smooth, exploration, tol_rest, solver, rtol, atol, max_steps
    )


_MAX_EVENTS = 256


@eqx.filter_jit
def _smooth(
    problem,
    start,
    times,
    memory,
    temperature,
    exploration,
    tol_rest,
    solver,
    rtol,
    atol,
    max_steps,
) -> MeanField:
    finite = problem.discretize() if isinstance(problem, FamilyProblem) else problem
    assert isinstance(finite, AbstractFiniteProblem)
    strategy, target, result = smooth_flow(
        finite, start, times, memory, temperature, exploration, solver, rtol, atol, max_steps
    )
    result = jnp.where(problem.is_valid(), result, int(Motion.INVALID))
    never = jnp.zeros_like(times[0])
    return _finish(times, strategy, strategy[-1], target, result, never, True, tol_rest)


@eqx.filter_jit
def _hard(problem, start, times, found, exploration, tolerance, tol_rest, max_events) -> MeanField:
    num_actions = problem.num_actions
    if num_actions == 1:
        strategy = jnp.broadcast_to(start, (times.shape[0], 1))
        result = jnp.where(problem.is_valid(), int(Motion.MOVING), int(Motion.INVALID))
        return _finish(times, strategy, start, start, result, 0 * times[0], True, tol_rest)
    if num_actions > 2:
        path = pieces(problem, start, times[-1], exploration, tolerance, max_events)
        strategy = path.strategy(times)
        last = jnp.maximum(path.num - 1, 0)
        stopped = path.result >= Motion.NOT_UNIQUE
        changed = jnp.where(path.num > 1, path.since[last], 0.0)
        event = jnp.where(stopped, path.end, changed)
        result = jnp.where(problem.is_valid(), path.result, int(Motion.INVALID))
        target = jnp.where(path.num > 0, path.target[last], path.final)
        return _finish(times, strategy, path.final, target, result, event, True, tol_rest)
    flow = pair_flow(problem, start, found, exploration, tolerance)
    reached = flow.event <= times[-1]
    result = jnp.where(reached, flow.result, int(Motion.MOVING))
    determined = (times <= flow.event) | (flow.result != Motion.NOT_UNIQUE)
    share = flow.share(times)
    strategy = jnp.where(determined[:, None], as_pair(share), jnp.nan)
    target = jnp.where(reached & (flow.result == Motion.SLIDING), flow.stop, flow.target)
    event = jnp.where(reached, flow.event, 0.0)
    result = jnp.where(problem.is_valid(), result, int(Motion.INVALID))
    final = as_pair(share[-1])
    return _finish(times, strategy, final, as_pair(target), result, event, found.complete, tol_rest)


def switching_points(
    problem: AbstractProblem, exploration: Array, tolerance: Tolerance, max_equilibria: int = 8
) -> Equilibria | None:
    """Equilibria of two actions, in which their switching points are; None for more actions."""
    if problem.num_actions != 2:
        return None
    return equilibria(
        problem,
        exploration,
        max_equilibria=max_equilibria,
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )


def as_pair(share: Float[Array, "*batch"]) -> Float[Array, "*batch 2"]:
    """The strategies of two actions in which the first has these shares."""
    return jnp.stack([share, 1 - share], -1)


def _finish(times, strategy, final, target, result, event, complete, tol_rest) -> MeanField:
    """Judge whether the trajectory has come to rest, and blank what makes no sense."""
    residual = jnp.max(jnp.abs(target - final))
    settled = (residual <= tol_rest) & (result == Motion.MOVING)
    result = jnp.where(settled, int(Motion.SETTLED), result)
    sound = result != Motion.INVALID
    strategy, final = jnp.where(sound, strategy, jnp.nan), jnp.where(sound, final, jnp.nan)
    # Where several directions are open, there is no target.
    aims = sound & (result != Motion.NOT_UNIQUE) & (result != Motion.UNRESOLVED)
    target, residual = jnp.where(aims, target, jnp.nan), jnp.where(aims, residual, jnp.nan)
    at_rest = (result == Motion.SETTLED) | (result == Motion.SLIDING)
    return MeanField(
        times=times,
        strategy=strategy,
        final=final,
        target=target,
        result=result.astype(jnp.int32),
        converged=at_rest & (residual <= tol_rest),
        residual=residual,
        last_event=event,
        complete=jnp.asarray(complete),
    )


def as_strategy(
    name: str, value: ArrayLike | Sequence[Any], problem: AbstractProblem, ndim: int = 1
) -> Float[Array, "*batch actions"]:
    """Return strategies in the precision of the problem; concrete ones must be probabilities."""
    array = as_float(name, value)
    if array.ndim != ndim:
        shape = "[starts, actions]" if ndim > 1 else "[actions]"
        raise ValueError(f"`{name}` must be an array {shape}; got shape {array.shape}.")
    wanted = (*array.shape[:-1], problem.num_actions)
    check_shape(name, array, wanted, "starts, actions" if ndim > 1 else "actions")
    check_probabilities(name, array)
    return array.astype(problem_dtype(problem))


def smooth_terms(
    memory: ArrayLike | None, temperature: ArrayLike | None, dtype: Any
) -> tuple[Float[Array, ""], Float[Array, ""]] | None:
    """Return memory and temperature of the smooth version, None for the hard one."""
    if (memory is None) != (temperature is None):
        given, missing = ("memory", "temperature")[:: 1 if temperature is None else -1]
        raise ValueError(
            f"`{missing}` must be given with `{given}` (the smooth version needs both, the hard "
            f"version neither); got `{missing}` None."
        )
    if memory is None or temperature is None:
        return None
    memory = as_float("memory", memory, ndim=0).astype(dtype)
    temperature = as_float("temperature", temperature, ndim=0).astype(dtype)
    check_finite("memory", memory)
    if is_concrete(memory) and float(memory) < 0:
        raise ValueError(f"`memory` must not be negative; got {float(memory):g}.")
    check_positive("temperature", temperature)
    return memory, temperature


def check_hard(problem: AbstractProblem) -> None:
    """Refuse the hard version where its switching surfaces are not known."""
    if isinstance(problem, FamilyProblem) and problem.num_actions > 2:
        raise ValueError(
            "`problem` must have two actions or finitely many models for the hard mean field; got "
            f"{problem.num_actions} actions and continuous Theta. Give `memory` and `temperature` "
            "for the smooth version, or pass `problem.discretize(num)`."
        )


def check_count(name: str, value: int, least: int) -> None:
    """Refuse anything but an integer that is large enough."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, (bool, np.bool_)) or count < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}; got {value!r}.")
