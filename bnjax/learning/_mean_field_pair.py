"""The hard mean field of two actions, in closed form.

Between two points at which the actions tie, play s = sigma[0] is drawn to one end of [0, 1]:
``s(t) = target + (s(0) - target) exp(-t)``. The ties are the mixed equilibria. One that is
stable holds what reaches it. At any other the inclusion has several solutions (staying, and
leaving in at least one direction), also where the same action is better on both sides: there
is no crossing, and at most one event.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..equilibrium._codes import Stability
from ..equilibrium._envelope import MINUS, PLUS, TIE
from ..equilibrium._pair import Pair
from ..equilibrium._results import Equilibria
from ..equilibrium._tolerance import Tolerance
from ..equilibrium._verify import payoff_range
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem
from ._mean_field_result import Motion


class PairFlow(NamedTuple):
    """Everything there is to know about a trajectory of two actions.

    ``start`` is s at time 0, ``target`` where s is drawn to, ``event`` when it reaches a tie
    (``inf`` if never), ``stop`` the s of that tie (of the target, if none), ``result`` SLIDING or
    NOT_UNIQUE from then on, or MOVING if there is no tie.
    """

    start: Float[Array, ""]
    target: Float[Array, ""]
    event: Float[Array, ""]
    stop: Float[Array, ""]
    result: Int[Array, ""]

    def share(self, times: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """Share of action 0 at these times; from the event on, that of the tie."""
        moving = self.target + (self.start - self.target) * jnp.exp(-times)
        return jnp.where(times < self.event, moving, self.stop)


def pair_flow(
    problem: AbstractProblem,
    start: Float[Array, " actions"],
    found: Equilibria,
    exploration: Float[Array, ""],
    tolerance: Tolerance,
) -> PairFlow:
    """Find where play goes from a strategy of two actions.

    Parameters
    ----------
    problem : two actions.
    start : [2] strategy at time 0.
    found : its equilibria. Trajectories see no switching point that is not among them.
    exploration : tremble.
    tolerance : what counts as a tie. A start within ``tolerance.play`` of an unstable mixture
        is taken to be on it: where exactly it is, is known no better.
    """
    # Whole strategies, so that a start at an end of [0, 1] is at the end from either side.
    s = jnp.where(start[1] > 0, start[0], 1.0)
    ties = found.valid & ~found.is_pure
    lo, hi = found.strategy[:, 0], found.strategy_end[:, 0]
    holds = ties & (lo == hi) & (found.stability == Stability.STABLE)

    below, above = ties & (hi < s), ties & (lo > s)
    floor = jnp.max(jnp.where(below, hi, 0.0))
    ceiling = jnp.min(jnp.where(above, lo, 1.0))
    beside = _side(problem, 0.5 * (floor + ceiling), exploration, tolerance)
    up = beside == PLUS
    target = jnp.where(up, 1.0, 0.0).astype(s.dtype)
    meets = jnp.where(up, jnp.any(above), jnp.any(below))
    row = jnp.where(
        up,
        jnp.argmin(jnp.where(above, lo, jnp.inf)),
        jnp.argmax(jnp.where(below, hi, -jnp.inf)),
    )
    stop = jnp.where(meets, jnp.where(up, lo[row], hi[row]), target)
    # The ratio is in (0, 1): the target lies beyond the tie.
    ratio = (stop - target) / jnp.where(s != target, s - target, 1.0)
    event = jnp.where(meets, -jnp.log(jnp.where(meets, ratio, 1.0)), jnp.inf)
    result = jnp.where(holds[row], int(Motion.SLIDING), int(Motion.NOT_UNIQUE))
    result = jnp.where(meets, result, int(Motion.MOVING))

    # Starts from which the above is not the answer: at rest, or not unique from the outset.
    eps = 8 * jnp.finfo(s.dtype).eps
    rests = jnp.any(holds & (jnp.abs(s - lo) <= eps))
    near = ties & ~holds & (s >= lo - tolerance.play) & (s <= hi + tolerance.play)
    splits = (jnp.any(near) & ~rests) | (beside == TIE)
    for action, end, back in ((0, 1.0, PLUS), (1, 0.0, MINUS)):
        # Where mixed play next to it leads away from a pure strategy, the other action is a
        # best reply there too, because best fits only lose members from one limit to the next.
        here, pure = s == end, found.pure[action]
        stays = pure & (beside == back)
        rests = jnp.where(here, stays, rests)
        splits = jnp.where(here, ~stays & (pure | (beside == TIE)), splits)
        target = jnp.where(here & stays, end, target)
    at_end = (s == 0) | (s == 1)
    held = jnp.where(at_end, int(Motion.MOVING), int(Motion.SLIDING))
    result = jnp.where(rests, held, jnp.where(splits, int(Motion.NOT_UNIQUE), result))
    at_once = rests | splits
    event = jnp.where(at_once, jnp.where(at_end & rests, jnp.inf, 0.0), event)
    stop = jnp.where(at_once, s, stop)
    return PairFlow(s, target, event, stop, result.astype(jnp.int32))


def _side(
    problem: AbstractProblem,
    s: Float[Array, ""],
    exploration: Float[Array, ""],
    tolerance: Tolerance,
) -> Int[Array, ""]:
    """Which action is the better reply to strictly mixed play, if either is."""
    if isinstance(problem, FamilyProblem):
        pair = Pair(problem, exploration, tolerance)
        return pair.side(pair.mixed(s))
    assert isinstance(problem, AbstractFiniteProblem)
    reduced = jax.lax.stop_gradient(problem.reduced_form().explored(exploration))
    usable = reduced.support & ~reduced.ruled_out.any(1)
    fit = s * reduced.kl[:, 0] + (1 - s) * reduced.kl[:, 1]
    gain = reduced.payoffs[:, 0] - reduced.payoffs[:, 1]
    slack = tolerance.payoff * payoff_range(reduced)
    plus = jnp.min(jnp.where(usable & (gain >= -slack), fit, jnp.inf))
    minus = jnp.min(jnp.where(usable & (gain <= slack), fit, jnp.inf))
    gap = plus - minus
    return jnp.where(gap < -tolerance.fit, PLUS, jnp.where(gap > tolerance.fit, MINUS, TIE))
