"""The smooth mean field: logit play against the belief of a finite memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._numerics import sum_last
from ..problem import AbstractFiniteProblem, ReducedForm
from ._mean_field_result import Motion


def quasi_belief(
    reduced: ReducedForm,
    log_prior: Float[Array, " models"],
    memory: Float[Array, ""],
    strategy: Float[Array, " actions"],
) -> Float[Array, " models"]:
    """Belief proportional to ``prior * exp(-memory * sigma @ K)``, [M].

    Logit play gives every action a positive probability, so that a model which any of them
    refutes has no weight, also at a start that does not play it yet.
    """
    usable = reduced.support & ~reduced.ruled_out.any(1)
    # Only differences between models count, and they are small next to the divergences.
    base = lax.stop_gradient(jnp.where(usable[:, None], reduced.kl, jnp.inf).min(0))
    base = jnp.where(jnp.isfinite(base), base, 0.0)
    kl = jnp.where(usable[:, None], reduced.kl - base, 0.0)
    logits = jnp.where(usable, log_prior, 0.0) - memory * sum_last(kl * strategy)
    return jax.nn.softmax(jnp.where(usable, logits, -jnp.inf))


def smooth_response(
    reduced: ReducedForm,
    log_prior: Float[Array, " models"],
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    strategy: Float[Array, " actions"],
) -> Float[Array, " actions"]:
    """Logit reply [A] to that belief."""
    belief = quasi_belief(reduced, log_prior, memory, strategy)
    expected = jnp.matmul(belief, reduced.payoffs, precision=lax.Precision.HIGHEST)
    return jax.nn.softmax(expected / temperature)


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
