"""Basins of attraction: which equilibrium the mean field reaches from which start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from .._summary import batch_of, check_one, is_one
from ..equilibrium._public import equilibria
from ..equilibrium._results import Equilibria
from ..equilibrium._solve import prepare
from ..problem import AbstractProblem
from ._mean_field import (
    _MAX_EVENTS,
    as_pair,
    as_strategy,
    check_hard,
    mean_field,
    smooth_terms,
)
from ._mean_field_many import pieces
from ._mean_field_pair import pair_flow
from ._mean_field_result import Motion


class Basins(eqx.Module):
    """The long-run point that each start reaches.

    Parameters
    ----------
    index : [N] row of ``equilibria`` that each start reaches; -1 where there is none, where the
        solution is not unique or not resolved, or where it had not come to rest in time.
    result : [N] codes of `Motion`, which tell these apart.
    limit : [N, A] the strategy that each start leads to, or where it was when nothing
        more could be said.
    equilibria : the rows.
    """

    index: Int[Array, " starts"]
    result: Int[Array, " starts"]
    limit: Float[Array, "starts actions"]
    equilibria: Equilibria

    def __repr__(self) -> str:
        if not is_one(self.index, 1):
            return f"Basins(batch={batch_of(self.index, 1)}, starts={self.index.shape[-1]})"
        index = np.asarray(self.index)
        counts = {int(i): int((index == i).sum()) for i in np.unique(index)}
        return f"Basins({len(index)} starts, by row: {counts})"

    def summary(self, problem: Any) -> str:
        """Say in words how many of the starts reach each equilibrium.

        Parameters
        ----------
        problem : the problem they were computed from.

        Returns
        -------
        str
            One line for each equilibrium and for each reason to reach none.
        """
        check_one("Basins", self.index, 1, problem, self.equilibria.strategy.shape[-1])
        index, result = np.asarray(self.index), np.asarray(self.result)
        lines = []
        for e in np.flatnonzero(np.asarray(self.equilibria.valid)):
            row = self.equilibria._describe(int(e), problem)
            lines.append(f"{int((index == e).sum())} of {len(index)}: {row}")
        for code in np.unique(result[index < 0]):
            num = int(((index < 0) & (result == code)).sum())
            why = Motion(int(code)).name.lower().replace("_", " ")
            lines.append(f"{num} of {len(index)}: no equilibrium ({why})")
        return "\n".join(lines)


def basins(
    problem: AbstractProblem,
    starts: ArrayLike | Sequence[Any],
    *,
    memory: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    exploration: ArrayLike = 0.0,
    duration: ArrayLike = 50.0,
    within: ArrayLike | None = None,
    max_equilibria: int = 8,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> Basins:
    """Find which Berk-Nash equilibrium the mean field reaches from each of many starts.

    Parameters
    ----------
    problem : any problem that `mean_field` takes; its leaves may be traced.
    starts : [N, A] start strategies.
    memory, temperature, exploration : as for `mean_field`: both of the first two for the smooth
        version, neither for the hard one.
    duration : time that the smooth version has to come to rest. The hard one has for ever.
    within : how far from an equilibrium, in any action's probability, the limit may be and
        still count as having reached it. Default: 0.05 for the smooth version, whose own rest
        points are near equilibria and not at them; 1e-3 in float32 and 1e-6 in float64 for
        the hard one.
    max_equilibria, tol_fit, tol_payoff : as for `bnjax.equilibria`. With more than two actions
        an equilibrium that is not listed there has no row (see ``limit``).

    Returns
    -------
    Basins

    Raises
    ------
    ValueError
        As `mean_field` does.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.7, p_honest=0.6)
    >>> print(bn.basins(problem, [[0.2, 0.8], [0.3, 0.7], [0.4, 0.6]]).summary(problem))
    2 of 3: pure: honest (stable; best fit 0.4)
    0 of 3: mixed: sycophantic 0.333333, honest 0.666667 (unstable; best fit 0.5)
    1 of 3: pure: sycophantic (stable; best fit 0.7)
    """
    tremble, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    starts = as_strategy("starts", starts, problem, ndim=2)
    terms = smooth_terms(memory, temperature, starts.dtype)
    ties = {"tol_fit": tol_fit, "tol_payoff": tol_payoff}
    found = equilibria(problem, exploration, max_equilibria=max_equilibria, **ties)
    if terms is None:
        check_hard(problem)
        limit, result = _hard_limits(problem, starts, found, tremble, tolerance)
    else:

        def solve(start):
            path = mean_field(
                problem,
                start,
                duration=duration,
                memory=terms[0],
                temperature=terms[1],
                exploration=exploration,
                num_saved=2,
            )
            return path.final, path.result

        limit, result = jax.vmap(solve)(starts)
    if within is None:
        within = tolerance.play if terms is None else 0.05
    index = jax.vmap(lambda play: _nearest(found, play, jnp.asarray(within, play.dtype)))(limit)
    rests = (result == Motion.SETTLED) | (result == Motion.SLIDING)
    return Basins(jnp.where(rests, index, -1), result, limit, found)


@eqx.filter_jit
def _hard_limits(problem, starts, found, exploration, tolerance):
    """Limits as time goes to infinity, and SETTLED or SLIDING or why there is none."""

    def many(start):
        forever = jnp.asarray(jnp.inf, start.dtype)
        path = pieces(problem, start, forever, exploration, tolerance, _MAX_EVENTS)
        return path.final, path.result

    def pair(start):
        flow = pair_flow(problem, start, found, exploration, tolerance)
        limit = jnp.where(jnp.isinf(flow.event), flow.target, flow.stop)
        return as_pair(limit), flow.result

    def one(start):
        return start, jnp.asarray(Motion.MOVING, jnp.int32)

    size = problem.num_actions
    limit, result = jax.vmap(one if size == 1 else pair if size == 2 else many)(starts)
    result = jnp.where(problem.is_valid(), result, int(Motion.INVALID))
    # Nothing is on its way any more.
    return limit, jnp.where(result == Motion.MOVING, int(Motion.SETTLED), result)


def _nearest(found: Equilibria, play: Array, within: Array) -> Int[Array, ""]:
    """Row of the equilibrium, or continuum of them, that a strategy is on; -1 if on none."""
    along = found.strategy_end - found.strategy
    length = jnp.sum(along**2, -1)
    share = jnp.sum((play - found.strategy) * along, -1) / jnp.where(length > 0, length, 1.0)
    closest = found.strategy + jnp.clip(share, 0.0, 1.0)[:, None] * along
    distance = jnp.where(found.valid, jnp.max(jnp.abs(play - closest), -1), jnp.inf)
    row = jnp.argmin(distance)
    return jnp.where(distance[row] <= within, row, -1).astype(jnp.int32)
