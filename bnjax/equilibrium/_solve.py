"""One entry point for every kind of problem: equilibria and the rationalizable set together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._check import check_exploration, is_concrete, whole
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem, check_problem
from ._codes import Certainty, Stability
from ._continuous_many import solve_continuous_many
from ._continuous_pair import solve_continuous_pair
from ._enumeration import MAX_SYSTEMS, num_systems, solve_by_enumeration
from ._relaxation import solve_by_relaxation
from ._results import Equilibria, Rationalizable
from ._tolerance import Tolerance, default_tolerance
from ._two_actions import solve_two_actions

# Rows of an answer that anybody could read.
_MOST_ROWS = 1_000_000


def problem_dtype(problem: AbstractProblem):
    """Floating type in which a problem is solved."""
    return jnp.result_type(problem.objective_payoffs())


def prepare(
    problem: AbstractProblem,
    exploration: ArrayLike,
    tol_fit: ArrayLike | None,
    tol_payoff: ArrayLike | None,
) -> tuple[Float[Array, ""], Tolerance]:
    """Check the arguments that all solvers share, on the host where they have values."""
    check_problem(problem)
    dtype = problem_dtype(problem)
    return check_exploration(exploration).astype(dtype), default_tolerance(
        dtype, tol_fit, tol_payoff
    )


def check_rows(max_equilibria: Any) -> None:
    """Refuse a number of rows that is none."""
    if not is_concrete(max_equilibria):
        raise ValueError(
            "`max_equilibria` must be a Python integer known at compile time, because it sets the "
            "shape of the answer; got a traced value: pass it to `jax.jit` as static, for example "
            'with `static_argnames="max_equilibria"`.'
        )
    if whole("max_equilibria", max_equilibria) > _MOST_ROWS:
        raise ValueError(f"`max_equilibria` must be at most {_MOST_ROWS}; got {max_equilibria}.")


def solve(
    problem: AbstractProblem,
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable, Bool[Array, ""]]:
    """Solve by the algorithm that the kind of problem allows, and say whether it makes sense.

    With ``max_equilibria = 0`` no equilibria are listed, and the solvers do only what it takes
    to know which pure strategies are equilibria and what is rationalizable. Where the problem,
    the exploration or a tolerance makes no sense, nothing is claimed.
    """
    found, possible, valid = _solve(problem, exploration, max_equilibria, tolerance)
    teaches = problem.teaches()
    learned = teaches[found.strategy.argmax(-1)] | ((exploration > 0) & jnp.any(teaches))
    found = dataclasses.replace(found, absorbing=found.absorbing & ~learned)
    # Concrete ones were judged on the host. NaN compares false.
    valid &= (exploration >= 0) & (exploration <= 1)
    valid &= (tolerance.fit >= 0) & (tolerance.payoff >= 0)
    return *_claim_nothing_unless(valid, found, possible), valid


def _claim_nothing_unless(
    valid: Bool[Array, ""], found: Equilibria, possible: Rationalizable
) -> tuple[Equilibria, Rationalizable]:
    """Withdraw all that the results say, unless the problem makes sense."""
    tol_fit, tol_payoff = (jnp.where(valid, x, jnp.nan) for x in (found.tol_fit, found.tol_payoff))
    found = dataclasses.replace(
        found,
        others_fit=found.others_fit & valid,
        is_pure=found.is_pure & valid,
        stability=jnp.where(valid, found.stability, int(Stability.UNKNOWN)),
        absorbing=found.absorbing & valid,
        residual=jnp.where(valid, found.residual, 0.0),
        valid=found.valid & valid,
        pure=found.pure & valid,
        complete=found.complete & valid,
        tol_fit=tol_fit,
        tol_payoff=tol_payoff,
    )
    certainty = jnp.where(valid, possible.certainty, int(Certainty.UNDECIDED))
    return found, Rationalizable(possible.mask | ~valid, certainty, tol_fit, tol_payoff)


def _solve(
    problem: AbstractProblem,
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable, Bool[Array, ""]]:
    """What `solve` returns, whatever the numbers are, and whether those of the problem are any."""
    if isinstance(problem, FamilyProblem):
        by_family = solve_continuous_pair if problem.num_actions == 2 else solve_continuous_many
        return *by_family(problem, exploration, max_equilibria, tolerance), problem.is_valid()
    assert isinstance(problem, AbstractFiniteProblem)
    args = problem.theta, exploration, max_equilibria, tolerance
    if problem.num_actions == 2:
        return solve_two_actions(problem, *args)
    few = num_systems(problem.num_actions, problem.num_models) <= MAX_SYSTEMS
    by_models = solve_by_enumeration if few else solve_by_relaxation
    return *by_models(problem.reduced_form(), *args), problem.is_valid()
