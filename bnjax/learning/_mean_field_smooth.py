"""The smooth mean field: logit play against the belief of a finite memory."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..equilibrium._smooth_map import smooth_response
from ..problem import AbstractFiniteProblem
from ._mean_field_result import Motion


def smooth_flow(
    problem: AbstractFiniteProblem,
    start: Float[Array, " actions"],
    times: Float[Array, " times"],
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    exploration: Float[Array, ""],
    solver: Any,
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[Float[Array, "times actions"], Float[Array, " actions"], Int[Array, ""]]:
    """Solve ``d sigma/dt = response(sigma) - sigma``.

    Parameters
    ----------
    problem : finite Theta.
    start : [A] strategy at time 0.
    times : [T] when to save.
    memory, temperature, exploration : as for `mean_field`.
    solver : a diffrax solver, None for the default.
    rtol, atol : tolerances of a step.
    max_steps : steps after which to give up.

    Returns
    -------
    strategies [T, A], what play is drawn to at the end [A], and MOVING, MAX_STEPS or INVALID.
    """
    import diffrax

    reduced = problem.reduced_form().explored(exploration)
    given = reduced, problem.log_prior, memory, temperature

    def response(sigma, given):
        reduced, log_prior, memory, temperature = given
        return smooth_response(reduced, log_prior, memory, temperature, sigma)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, sigma, given: response(sigma, given) - sigma),
        diffrax.Tsit5() if solver is None else solver,
        times[0],
        times[-1],
        None,
        start,
        args=given,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    strategy = solution.ys
    assert strategy is not None
    finite: Bool[Array, " times"] = jnp.all(jnp.isfinite(strategy), -1)
    strategy = jnp.where(finite[:, None], strategy, jnp.nan)
    target = response(strategy[-1], given)
    solved = solution.result == diffrax.RESULTS.successful
    out_of_steps = solution.result == diffrax.RESULTS.max_steps_reached
    failed = jnp.where(out_of_steps, int(Motion.MAX_STEPS), int(Motion.INVALID))
    return strategy, target, jnp.where(solved, int(Motion.MOVING), failed).astype(jnp.int32)
