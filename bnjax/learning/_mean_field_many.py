"""The hard mean field of more than two actions and finitely many models, event by event.

While one set of models fits best, play is drawn to a fixed strategy, ``sigma(t) = target +
(sigma(0) - target) exp(-t)``, and so every misfit is linear in ``exp(-t)``: the next time at
which another model fits as well is a closed form.

At such a time only the tied models T matter, and misfits move as ``K[m] @ target``. A strategy
is a possible next target iff some belief over the models of T that fit *it* best makes it a best
reply: iff it is a Berk-Nash equilibrium of the problem with the models T alone. Where the
replies to beliefs over T are only two actions, that is a problem of two actions, which is
solved exactly. If it has one equilibrium, the inclusion has one solution: with Lambda the
integral of the share of the first action since the event, Lambda / t follows the mean field of
that small problem in time log t, from -inf on, and all that stays in [0, 1] for ever backwards
in time is the equilibrium itself. A pure target crosses the surface, a mixed one slides along it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._numerics import sum_last, true_first
from ..equilibrium._tolerance import Tolerance
from ..equilibrium._two_actions import solve_two_actions
from ..equilibrium._verify import payoff_range
from ..problem import AbstractFiniteProblem, ReducedForm
from ._mean_field_result import Motion

_ROWS = 4  # equilibria of a small problem; two are too many already
_MAX_TIED = 16  # models of a small problem


class Pieces(NamedTuple):
    """A trajectory in pieces, each with one target; rows past ``num`` are padding.

    ``since`` [N] when each piece begins (``inf`` where there is none), ``start`` and ``target``
    [N, A], ``end`` until when the trajectory is determined, ``final`` [A] play then, ``num``
    pieces, ``result`` a code of `Motion`.
    """

    since: Float[Array, " pieces"]
    start: Float[Array, "pieces actions"]
    target: Float[Array, "pieces actions"]
    end: Float[Array, ""]
    final: Float[Array, " actions"]
    num: Int[Array, ""]
    result: Int[Array, ""]

    def strategy(self, times: Float[Array, " times"]) -> Float[Array, "times actions"]:
        """Play at these times; NaN past what is determined."""
        piece = jnp.sum(self.since <= times[:, None], 1) - 1
        # Stopped at once, there is no piece at all.
        piece = jnp.maximum(piece, 0)
        since = jnp.where(self.num > 0, self.since[piece], 0.0)
        left = jnp.exp(-(times - since))[:, None]
        play = self.target[piece] + (self.start[piece] - self.target[piece]) * left
        play = jnp.where((times == self.end)[:, None], self.final, play)
        return jnp.where((times <= self.end)[:, None], play, jnp.nan)


def pieces(
    problem: AbstractFiniteProblem,
    start: Float[Array, " actions"],
    duration: Float[Array, ""],
    exploration: Float[Array, ""],
    tolerance: Tolerance,
    max_events: int,
) -> Pieces:
    """Follow play from event to event.

    Parameters
    ----------
    problem : finite Theta, any number of actions but one.
    start : [A] strategy at time 0.
    duration : until when; may be infinite.
    exploration : tremble.
    tolerance : what counts as a tie.
    max_events : pieces after which to give up, and looks for the next model that fits as well
        are at most 16 times as many (most of those models have the same reply).

    Returns
    -------
    Pieces
        Not differentiable in reverse mode.
    """
    reduced = problem.reduced_form().explored(exploration)
    slack = tolerance.payoff * payoff_range(reduced)
    num_actions = reduced.kl.shape[1]
    dtype = start.dtype

    def body(state):
        time, sigma, rows, num, looks, _ = state
        target, active, code = _next_target(reduced, sigma, slack, tolerance)
        goes = code == Motion.MOVING
        wait = jnp.where(goes, _next_event(reduced, sigma, target, active), jnp.inf)
        last = ~goes | (time + wait >= duration)
        since, starts, targets = rows
        # As long as the target stays, so does the closed form.
        new = goes & ((num == 0) | jnp.any(target != targets[num - 1]))
        here = (jnp.arange(max_events, dtype=jnp.int32) == num) & new
        rows = (
            jnp.where(here, time, since),
            jnp.where(here[:, None], sigma, starts),
            jnp.where(here[:, None], target, targets),
        )
        step = jnp.where(last, duration - time, wait)
        moved = target + (sigma - target) * jnp.exp(-step)
        moved = jnp.where(target == sigma, sigma, jnp.maximum(moved, 0.0))
        mixes = jnp.sum(target > 0) > 1
        ending = jnp.where(mixes, int(Motion.SLIDING), int(Motion.MOVING))
        code = jnp.where(goes & last, ending, jnp.where(goes, _GOING_ON, code)).astype(jnp.int32)
        time = jnp.where(goes, jnp.where(last, duration, time + wait), time)
        sigma = jnp.where(goes, moved, sigma)
        return time, sigma, rows, num + new.astype(jnp.int32), looks + 1, code

    rows = (
        jnp.full(max_events, jnp.inf, dtype),
        jnp.zeros((max_events, num_actions), dtype),
        jnp.zeros((max_events, num_actions), dtype),
    )
    zero = jnp.zeros((), jnp.int32)
    state = jnp.zeros((), dtype), start, rows, zero, zero, jnp.asarray(_GOING_ON, jnp.int32)

    def going_on(state):
        *_, num, looks, code = state
        return (code == _GOING_ON) & (num < max_events) & (looks < 16 * max_events)

    time, sigma, rows, num, _, code = lax.while_loop(going_on, body, state)
    code = jnp.where(code == _GOING_ON, int(Motion.MAX_STEPS), code)
    return Pieces(*rows, time, sigma, num, code.astype(jnp.int32))


_GOING_ON = -1


def _next_target(
    reduced: ReducedForm, sigma: Array, slack: Array, tolerance: Tolerance
) -> tuple[Float[Array, " actions"], Bool[Array, " models"], Int[Array, ""]]:
    """Where play is drawn to from here on, which models then fit best, and MOVING or why not."""
    usable = reduced.support & ~(reduced.ruled_out & (sigma > 0)).any(1)
    fit = jnp.where(usable, sum_last(reduced.kl * sigma), jnp.inf)
    tied = usable & (fit <= fit.min() + tolerance.fit)
    optimal = reduced.payoffs >= reduced.payoffs.max(1, keepdims=True) - slack  # [M, A]
    replies = jnp.any(optimal & tied[:, None], 0)
    actions = jnp.arange(replies.shape[0])
    first = jnp.argmax(replies)
    others = replies & (actions != first)
    second = jnp.where(jnp.any(others), jnp.argmax(others), (first + 1) % replies.shape[0])
    # What is decided now takes the tied models only.
    few = true_first(tied, _MAX_TIED)
    unclear = (others.sum() > 1) | (tied.sum() > few.shape[0])
    unclear |= _third_reply(reduced.payoffs[few], tied[few], first, second, slack)

    pair = jnp.stack([first, second])
    kl, ruled_out, payoffs = (
        x[few][:, pair] for x in (reduced.kl, reduced.ruled_out, reduced.payoffs)
    )
    small = ReducedForm(kl, ruled_out, payoffs, tied[few])
    width = payoff_range(small)
    # The payoffs of two actions, and the slack of all.
    share = jnp.where(width > 0, slack / jnp.where(width > 0, width, 1.0), 0.0)
    found, _, _ = solve_two_actions(
        small,
        jnp.zeros((few.shape[0], 0), sigma.dtype),
        jnp.zeros((), sigma.dtype),
        _ROWS,
        tolerance._replace(payoff=share),
    )
    one = (
        (found.valid.sum() == 1)
        & found.complete
        & (found.strategy[0] == found.strategy_end[0]).all()
    )
    target = jnp.zeros_like(sigma).at[pair].set(found.strategy[0])
    admissible = tied & ~(reduced.ruled_out & (target > 0)).any(1)
    drawn = jnp.where(admissible, sum_last(reduced.kl * target), jnp.inf)
    active = admissible & (drawn <= drawn.min() + tolerance.fit)
    code = jnp.where(one, int(Motion.MOVING), int(Motion.NOT_UNIQUE))
    return target, active, jnp.where(unclear, int(Motion.UNRESOLVED), code)


def _third_reply(
    payoffs: Array, tied: Array, first: Array, second: Array, slack: Array
) -> Bool[Array, ""]:
    """Whether some belief over the tied models makes an action besides these two optimal.

    Where neither of the two is better, a belief is a mixture of beliefs in two models, one for
    each of them; what is optimal at none of those and at no single model is optimal nowhere.
    """
    gain = jnp.where(tied, payoffs[:, first] - payoffs[:, second], 0.0)
    spread = gain[:, None] - gain[None]  # of i, for the first, over j, for the second
    real = (gain[:, None] >= 0) & (gain[None] <= 0) & (spread > 0) & tied[:, None] & tied[None]
    weight = jnp.where(real, -gain[None] / jnp.where(real, spread, 1.0), 0.0)

    def lead(payoff):
        """How much better an action is than the two where they tie."""
        over = payoff - payoffs[:, first]
        mixed = weight * over[:, None] + (1 - weight) * over[None]
        return jnp.max(jnp.where(real, mixed, -jnp.inf))

    leads = lax.map(lead, payoffs.T)
    actions = jnp.arange(payoffs.shape[1])
    return jnp.any((leads >= -slack) & (actions != first) & (actions != second))


def _next_event(
    reduced: ReducedForm, sigma: Array, target: Array, active: Array
) -> Float[Array, ""]:
    """How long until a model that does not fit best now fits as well as those that do."""
    played = (sigma > 0) | (target > 0)
    usable = reduced.support & ~(reduced.ruled_out & played).any(1)
    leader = jnp.argmax(active)
    change = reduced.kl - reduced.kl[leader]
    now = jnp.maximum(sum_last(change * sigma), 0.0)
    then = sum_last(change * target)
    # The gap is then + (now - then) exp(-t).
    overtakes = usable & ~active & (then < 0)
    left = jnp.where(overtakes, -then / jnp.where(overtakes, now - then, 1.0), 0.0)
    longest = jnp.max(left)
    return jnp.where(longest > 0, -jnp.log(jnp.where(longest > 0, longest, 1.0)), jnp.inf)
