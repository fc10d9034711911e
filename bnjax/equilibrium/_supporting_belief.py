"""Whether some belief over given models makes an action optimal, with a proof either way.

The believer looks for weights mu on models, an adversary for a mixture y of rival actions: a
zero-sum game with gains ``U[m, action] - U[m, rival]``. Its value is not negative iff the action
is justified. A simplex method on the adversary's problem gives both mu and y, and since each is
checked against the gains themselves, rounding can cost a decision but not make a wrong one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

# Pivots allowed: a simplex method seldom needs more than a few for each column. The last quarter
# of them follows Bland's rule, under which it cannot cycle.
_PIVOTS, _PIVOTS_PER_ACTION = 24, 4


class SupportingBelief(NamedTuple):
    """What was found out about one action.

    ``belief`` [M] justifies it where ``holds``; where ``fails``, a mixture of other actions is
    better according to every believable model. Neither: undecided.
    """

    belief: Float[Array, " models"]
    holds: Bool[Array, ""]
    fails: Bool[Array, ""]


class _Tableau(NamedTuple):
    """Dictionary of the adversary's linear program; rows are models, columns rival actions.

    Variables are numbered: actions first, then the slack of each model.
    """

    body: Float[Array, "models actions"]
    right: Float[Array, " models"]
    gain: Float[Array, " actions"]
    total: Float[Array, ""]
    basic: Int[Array, " models"]
    nonbasic: Int[Array, " actions"]
    trips: Int[Array, ""]
    done: Bool[Array, ""]


def supporting_belief(
    payoffs: Float[Array, "models actions"],
    action: Int[ArrayLike, ""],
    believable: Bool[Array, " models"],
    slack: Float[Array, ""],
) -> SupportingBelief:
    """Look for a belief over the believable models that makes an action optimal.

    Parameters
    ----------
    payoffs : [M, A] expected payoffs U.
    action : the one to be justified.
    believable : [M] models that may get weight.
    slack : by how much a rival may be better all the same, in units of payoff.

    Notes
    -----
    The belief is a choice among many, and derivatives do not follow it.
    Max-min over beliefs as a matrix game, solved by the simplex method for games with positive
    entries (Dantzig 1951): ``max sum(q)`` subject to ``P q <= 1``, ``q >= 0``, whose dual is mu.
    """
    num_models, num_actions = payoffs.shape
    payoffs, slack = jax.lax.stop_gradient((payoffs, slack))
    dtype = payoffs.dtype
    eps = jnp.finfo(dtype).eps
    rival = jnp.arange(num_actions) != action
    gains = jnp.where(
        believable[:, None] & rival, jnp.take(payoffs, action, axis=1)[:, None] - payoffs, 0.0
    )
    size = jnp.max(jnp.abs(gains))
    scale = jnp.where(size > 0, size, 1.0)
    worst = jnp.where(rival, gains, jnp.inf).min(1)
    alone = jnp.argmax(jnp.where(believable, worst, -jnp.inf))
    single = jnp.any(believable & (worst >= -slack))

    def adversary(state: _Tableau) -> Array:
        # Action a is a variable: its value is where it is basic.
        at = state.basic[:, None] == jnp.arange(num_actions)
        return jnp.sum(jnp.where(at, state.right[:, None], 0.0), 0)

    most = _PIVOTS + _PIVOTS_PER_ACTION * num_actions
    start = _Tableau(
        body=gains / scale + 2,
        right=jnp.ones(num_models, dtype),
        gain=jnp.where(rival, 1.0, 0.0).astype(dtype),
        total=jnp.zeros((), dtype),
        basic=num_actions + jnp.arange(num_models),
        nonbasic=jnp.arange(num_actions),
        trips=jnp.zeros((), int),
        done=single | ~jnp.any(believable) | (num_actions == 1),
    )

    def pivot(state: _Tableau) -> _Tableau:
        tiny = 64 * eps
        enters = state.gain > tiny
        useful = believable[:, None] & (state.body > tiny)
        ratio = jnp.maximum(state.right, 0.0)[:, None] / jnp.where(useful, state.body, 1.0)
        ratio = jnp.where(useful, ratio, jnp.inf)
        step = ratio.min(0)
        careful = state.trips >= (3 * most) // 4
        number = state.nonbasic.astype(dtype)
        by_number = jnp.argmin(jnp.where(enters, number, jnp.inf))
        column = jnp.argmax(jnp.where(enters & jnp.isfinite(step), state.gain * step, -1.0))
        column = jnp.where(careful, by_number, column)
        tied = ratio[:, column] <= step[column] * (1 + 8 * eps)
        row = jnp.argmin(jnp.where(tied, state.basic.astype(dtype), jnp.inf))
        row = jnp.where(careful, row, jnp.argmax(jnp.where(tied, state.body[:, column], 0.0)))
        finished = ~jnp.any(enters) | ~jnp.isfinite(step[column])

        element = jnp.where(finished, 1.0, state.body[row, column])
        head = state.body[row] / element
        down = state.body[:, column]
        is_row = jnp.arange(num_models) == row
        is_column = jnp.arange(num_actions) == column
        # The column of the leaving variable takes the place of that of the entering one.
        kept = jnp.where(is_column, 0.0, state.body)
        head = jnp.where(is_column, 1 / element, head)
        body = jnp.where(is_row[:, None], head, kept - down[:, None] * head)
        level = state.right[row] / element
        right = jnp.where(is_row, level, state.right - down * level)
        slope = state.gain[column]
        total = state.total + slope * level
        after = _Tableau(
            body=body,
            right=right,
            gain=jnp.where(is_column, 0.0, state.gain) - slope * head,
            total=total,
            basic=jnp.where(is_row, state.nonbasic[column], state.basic),
            nonbasic=jnp.where(is_column, state.basic[row], state.nonbasic),
            trips=state.trips,
            done=(1 / jnp.maximum(total, eps) - 2) * scale < -2 * slack - 64 * eps * scale,
        )
        state = jax.tree.map(lambda old, new: jnp.where(finished, old, new), state, after)
        return state._replace(trips=state.trips + 1, done=state.done | finished)

    end = jax.lax.while_loop(lambda s: ~s.done & (s.trips < most), pivot, start)
    models = jnp.arange(num_models)
    price = jnp.where(end.nonbasic[:, None] == num_actions + models, -end.gain[:, None], 0.0).sum(0)
    price = jnp.where(believable & (price > 64 * eps), price, 0.0)
    whole = price.sum()
    one = jnp.where(models == alone, 1.0, 0.0).astype(dtype)
    belief = jnp.where(single | ~(whole > 0), one, price / jnp.where(whole > 0, whole, 1.0))
    belief = jnp.where(jnp.any(believable), belief, 0.0)
    mixture = jnp.maximum(adversary(end), 0.0)
    mixture = mixture / jnp.where(mixture.sum() > 0, mixture.sum(), 1.0)
    precise = jax.lax.Precision.HIGHEST
    expected = jnp.where(rival, jnp.matmul(belief, gains, precision=precise), jnp.inf)
    holds = jnp.any(believable) & (expected.min() >= -slack)
    lead = jnp.matmul(gains, mixture, precision=precise)
    refuted = jnp.where(believable, lead, -jnp.inf).max() < -slack - 16 * eps * scale
    return SupportingBelief(belief, holds, ~holds & refuted)
