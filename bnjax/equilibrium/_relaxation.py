"""More actions or models than can be enumerated: what dominance excludes and witnesses include.

For finitely many models nothing here is complete, and everything is sound. OUT: an action is
removed when another one is better according to every model that can still fit best, and a model
cannot fit best when another one fits better after every action that remains. IN: an action
belongs to a set each of whose members is optimal for a verified best fit to play of members of
that set. A pure strategy is an equilibrium if some belief over *all* models tied there justifies
it, which a small linear program decides.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..problem import ReducedForm
from ._codes import Certainty
from ._results import Equilibria, Rationalizable
from ._supporting_belief import SupportingBelief, supporting_belief
from ._tolerance import Tolerance
from ._two_actions import solve_two_actions
from ._verify import (
    largest_residual,
    others_fit,
    payoff_range,
    pure_stability,
    repeats,
    residual,
)

# Pairs of actions on which mixed equilibria are looked for at a time.
_PAIR_BLOCK = 32
# Rows compared with each other for each one listed, before what is said twice is left out.
_ROWS_COMPARED = 4


def solve_by_relaxation(
    reduced: ReducedForm,
    theta: Float[Array, "models parameters"],
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable]:
    """Verified equilibria on at most two actions, and bounds on the rationalizable set.

    Parameters
    ----------
    reduced : the problem as it is without exploration.
    theta : [M, D] parameters, for reporting best fits.
    exploration : tremble.
    max_equilibria : rows of the answer.
    tolerance : what counts as a tie.
    """
    reduced = reduced.explored(exploration)
    num_actions = reduced.kl.shape[1]
    slack = tolerance.payoff * payoff_range(reduced)
    optimal = reduced.payoffs >= reduced.payoffs.max(1, keepdims=True) - slack  # [M, A]
    usable = reduced.support[:, None] & ~reduced.ruled_out
    best = jnp.where(usable, reduced.kl, jnp.inf).min(0)
    fits = usable & (reduced.kl <= best + tolerance.fit)
    teaches = jnp.any(fits[:, :, None] & optimal[:, None], 0)  # [played, reply]
    supported = jax.lax.map(
        lambda action: supporting_belief(reduced.payoffs, action, fits[:, action], slack),
        jnp.arange(num_actions),
    )
    strategy, strategy_end, belief, valid = _candidates(reduced, supported, tolerance)
    expected = jnp.sum(belief[:, :, None] * reduced.payoffs, 1)
    replies = (expected >= expected.max(-1, keepdims=True) - slack) & valid[:, None]
    inside = self_justified(
        jnp.concatenate([jnp.eye(num_actions, dtype=bool), (strategy > 0) | (strategy_end > 0)]),
        jnp.concatenate([teaches, replies]),
    )
    excluded = excluded_by_dominance(reduced, tolerance, jnp.zeros_like(reduced.kl), slack)
    order = jnp.argsort(~valid, stable=True)[: _ROWS_COMPARED * max_equilibria]
    rows = valid[order] & ~repeats(strategy[order], strategy_end[order], valid[order])
    order = order[jnp.argsort(~rows, stable=True)[:max_equilibria]]
    rows = jnp.sort(rows, descending=True)[:max_equilibria]
    start, end, mu = strategy[order], strategy_end[order], belief[order]
    is_pure = rows & (start.max(-1) >= 1) & jnp.all(start == end, -1)
    check = jax.vmap(lambda sigma, belief: residual(reduced, sigma, belief))
    tied = jax.vmap(lambda sigma, belief: others_fit(reduced, sigma, belief, tolerance))
    action = start.argmax(-1)
    found = Equilibria(
        strategy=start,
        strategy_end=end,
        realised=(1 - exploration) * start + exploration / num_actions,
        belief=mu,
        atoms=None,
        atom_weight=None,
        best_fit=jnp.sum(mu[:, :, None] * theta, 1),
        others_fit=rows & tied(start, mu),
        is_pure=is_pure,
        stability=jnp.where(is_pure, pure_stability(reduced, tolerance)[action], 0),
        absorbing=is_pure,  # if it teaches nothing, see `solve`
        residual=jnp.where(rows, jnp.maximum(check(start, mu), check(end, mu)), 0.0),
        valid=rows,
        pure=supported.holds,
        complete=jnp.zeros((), bool),
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
        pure_undecided=~supported.holds & ~supported.fails,
    )
    return found, bounds(inside, excluded, tolerance)


def bounds(inside: Array, excluded: Array, tolerance: Tolerance) -> Rationalizable:
    """Bring what is shown to be in and out together."""
    out = jnp.where(excluded, int(Certainty.OUT), int(Certainty.UNDECIDED))
    certainty = jnp.where(inside, int(Certainty.IN), out)
    return Rationalizable(certainty != Certainty.OUT, certainty, tolerance.fit, tolerance.payoff)


def self_justified(
    plays: Bool[Array, "witnesses actions"], replies: Bool[Array, "witnesses actions"]
) -> Bool[Array, " actions"]:
    """The largest set each of whose members has a witness that plays only its members.

    Parameters
    ----------
    plays : [W, A] what each witness plays.
    replies : [W, A] what is optimal for a best fit to it.
    """

    def shrink(state):
        inside, _ = state
        available = ~jnp.any(plays & ~inside, axis=1)
        smaller = inside & jnp.any(replies & available[:, None], axis=0)
        return smaller, jnp.any(smaller != inside)

    start = jnp.ones(plays.shape[1], bool), jnp.ones((), bool)
    return jax.lax.while_loop(lambda state: state[1], shrink, start)[0]


def excluded_by_dominance(
    reduced: ReducedForm,
    tolerance: Tolerance,
    fit_margin: Float[Array, "models actions"],
    payoff_margin: Float[Array, ""] | Float[Array, "models actions actions"],
) -> Bool[Array, " actions"]:
    """Actions removed by rounds of dominance.

    Parameters
    ----------
    reduced : the problem with exploration already in it.
    tolerance : what counts as a tie.
    fit_margin : [M, A] what a model may fit better than it says (a node of a grid stands for
        its surroundings), in nats.
    payoff_margin : by how much an action must be better, [] or [M, action, other action].
    """
    usable = reduced.support[:, None] & ~reduced.ruled_out
    lead = reduced.payoffs[:, None, :] - reduced.payoffs[:, :, None]  # other minus action
    better = lead > payoff_margin
    own = jnp.where(usable, reduced.kl - fit_margin, jnp.inf)
    other = jnp.where(usable, reduced.kl, jnp.inf)

    def can_fit(model, remaining):
        # Against one other model at a time, on the actions that leave this one alive.
        matters = remaining & usable[model]
        beaten = jnp.all((other < own[model] - tolerance.fit) | ~matters, axis=1)
        return jnp.any(matters) & ~jnp.any(beaten & reduced.support)

    def round_(state):
        remaining, _ = state
        models = jnp.arange(reduced.kl.shape[0])
        fit = jax.lax.map(lambda m: can_fit(m, remaining), models) & reduced.support
        dominated = jnp.any(jnp.all(better | ~fit[:, None, None], axis=0), axis=-1)
        smaller = remaining & ~dominated
        return smaller, jnp.any(smaller != remaining)

    start = jnp.ones(reduced.kl.shape[1], bool), jnp.ones((), bool)
    return ~jax.lax.while_loop(lambda state: state[1], round_, start)[0]


def _candidates(
    reduced: ReducedForm, supported: SupportingBelief, tolerance: Tolerance
) -> tuple[Array, Array, Array, Array]:
    """Pure equilibria, and those on two actions that no third action upsets."""
    num_models, num_actions = reduced.kl.shape
    dtype = reduced.kl.dtype
    pure = jnp.eye(num_actions, dtype=dtype)
    most = largest_residual(reduced, tolerance)
    pairs = np.array(list(itertools.combinations(range(num_actions), 2)))
    # Whole blocks: a shorter last one would be compiled a second time.
    block = min(_PAIR_BLOCK, len(pairs))
    index = np.resize(np.arange(len(pairs)), -(-len(pairs) // block) * block)
    repeated = np.arange(len(index)) >= len(pairs)

    def on_pair(args):
        pair, again = args
        part = ReducedForm(
            reduced.kl[:, pair],
            reduced.ruled_out[:, pair],
            reduced.payoffs[:, pair],
            reduced.support,
        )
        none = jnp.zeros((num_models, 1), dtype)
        found, _, _ = solve_two_actions(part, none, jnp.zeros((), dtype), 2, tolerance)
        mixed = found.valid & ~found.is_pure & ~again
        rows = jnp.zeros((2, num_actions), dtype)
        start = rows.at[:, pair].set(found.strategy)
        end = rows.at[:, pair].set(found.strategy_end)
        check = jax.vmap(lambda sigma, belief: residual(reduced, sigma, belief))
        left_over = jnp.maximum(check(start, found.belief), check(end, found.belief))
        return start, end, found.belief, mixed & (left_over <= most)

    work = jnp.asarray(pairs[index]), jnp.asarray(repeated)
    parts = jax.lax.map(on_pair, work, batch_size=block)
    start, end, belief, valid = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
    return (
        jnp.concatenate([pure, start]),
        jnp.concatenate([pure, end]),
        jnp.concatenate([supported.belief, belief]),
        jnp.concatenate([supported.holds, valid]),
    )
