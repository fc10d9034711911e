"""A continuous family and any number of actions but two: verified equilibria and bounds.

Pure equilibria follow from polished best fits. With one parameter, an equilibrium on two
actions sits where the optimal action changes along theta, and the first-order condition of
the best fit, linear in play, gives its probabilities. The rationalizable set is bounded by
dominance. With one parameter and a unique best fit, theta* of any mixture lies between the
theta* of the actions that it mixes (along an edge, theta* is monotone, because the first-order
condition can be solved for the mixing probability), so an interval is all that can be believed.
Otherwise the nodes of the grid stand for their surroundings, by first-order margins.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import FamilyProblem, ReducedForm
from ._codes import Stability
from ._continuum import Continuum
from ._relaxation import bounds, excluded_by_dominance, self_justified
from ._results import Equilibria, Rationalizable
from ._tolerance import Tolerance

# Points along theta at which the optimal action is looked at, at least, and for each action.
_POINTS, _POINTS_PER_ACTION = 257, 8
_BISECTIONS = 60


def solve_continuous_many(
    problem: FamilyProblem,
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable]:
    """Verified equilibria on at most two actions, and bounds on the rationalizable set.

    Parameters
    ----------
    problem : continuous Theta.
    exploration : tremble.
    max_equilibria : rows of the answer.
    tolerance : what counts as a tie.
    """
    continuum = Continuum(problem, exploration)
    num_actions = problem.num_actions
    slack = tolerance.payoff * continuum.payoff_range
    eye = jnp.eye(num_actions, dtype=continuum.lower.dtype)
    fit, theta, payoffs = _pure_best_fits(continuum, eye)
    replies = payoffs >= payoffs.max(-1, keepdims=True) - slack  # [played, reply]
    pure = jnp.diagonal(replies)
    margin = payoffs - jnp.where(eye > 0, -jnp.inf, payoffs).max(-1, keepdims=True)
    strict = jnp.diagonal(margin) > slack
    strategy, atoms, expected, valid = eye, theta, payoffs, pure
    if problem.family.dimension == 1 and num_actions > 1 and not problem.family.has_charts:
        mixed = _mixed_on_pairs(continuum, slack, tolerance)
        parts = zip((strategy, atoms, expected, valid), mixed, strict=True)
        strategy, atoms, expected, valid = (jnp.concatenate(part) for part in parts)
    optimal = (expected >= expected.max(-1, keepdims=True) - slack) & valid[:, None]
    inside = self_justified(
        jnp.concatenate([eye > 0, strategy > 0]), jnp.concatenate([replies, optimal])
    )
    excluded = _excluded(continuum, fit, tolerance, slack)

    order = jnp.argsort(~valid, stable=True)[:max_equilibria]
    strategy, atoms, valid = strategy[order], atoms[order], valid[order]
    is_pure = valid & (strategy.max(-1) >= 1)
    loss = expected[order].max(-1) - jnp.where(strategy > 0, expected[order], jnp.inf).min(-1)
    width = jnp.where(continuum.payoff_range > 0, continuum.payoff_range, 1.0)
    stable = strict[strategy.argmax(-1)] & is_pure & problem.family.unique_best_fit
    uninformative = jnp.asarray([not any(problem.family.identifies(a)) for a in range(num_actions)])
    weight = jnp.zeros((len(order), num_actions), strategy.dtype).at[:, 0].set(1.0)
    found = Equilibria(
        strategy=strategy,
        strategy_end=strategy,
        realised=(1 - exploration) * strategy + exploration / num_actions,
        belief=None,
        atoms=jnp.repeat(atoms[:, None], num_actions, axis=1),
        atom_weight=weight,
        best_fit=atoms,
        others_fit=valid & jax.vmap(continuum.others_fit)(strategy, is_pure),
        is_pure=is_pure,
        stability=jnp.where(stable, int(Stability.STABLE), int(Stability.UNKNOWN)),
        absorbing=is_pure & uninformative[strategy.argmax(-1)] & (exploration == 0),
        residual=jnp.where(valid, loss / width, 0.0),
        valid=valid,
        pure=pure,
        complete=jnp.zeros((), bool),
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )
    return found, bounds(inside, excluded, tolerance)


def _pure_best_fits(continuum: Continuum, eye: Array) -> tuple[Array, Array, Array]:
    """Box point, theta and payoffs of the best fit to each pure strategy, [A, ...]."""
    problem = continuum.problem
    family = problem.family
    trembling = jax.vmap(continuum.best_fit)(eye)
    theta = jax.vmap(family.theta)(trembling)
    payoffs = jax.vmap(problem.payoffs)(trembling)
    if family.identified is None:
        return trembling, theta, payoffs
    # What pure play leaves open is settled in favour of the action that is played.
    alone = [_favourable(continuum, action) for action in range(problem.num_actions)]
    explores = continuum.exploration > 0
    alone_theta, alone_payoffs = (jnp.stack(part) for part in zip(*alone, strict=True))
    return (
        trembling,
        jnp.where(explores, theta, alone_theta),
        jnp.where(explores, payoffs, alone_payoffs),
    )


def _favourable(continuum: Continuum, action: int) -> tuple[Array, Array]:
    """Theta and payoffs where, among the best fits to an action, it does best by comparison."""
    problem = continuum.problem
    unidentified = tuple(not known for known in problem.family.identifies(action))
    point = continuum.best_fit_alone(action)

    def lead(payoffs):
        rivals = payoffs.at[action].set(-jnp.inf)
        return payoffs[action] - rivals.max() if payoffs.shape[0] > 1 else payoffs[0]

    _, most = continuum.extremes(point, unidentified, lead, action)
    return problem.family.theta(most, action), problem.payoffs(most, action)


def _mixed_on_pairs(
    continuum: Continuum, slack: Array, tolerance: Tolerance
) -> tuple[Array, Array, Array, Array]:
    """Equilibria on two actions, one for each change of the optimal action along theta."""
    problem = continuum.problem
    num_actions = problem.num_actions
    num = max(_POINTS, _POINTS_PER_ACTION * num_actions)
    share = jnp.linspace(0.0, 1.0, num, dtype=continuum.lower.dtype)[:, None]
    points = continuum.lower + share * (continuum.upper - continuum.lower)
    best = jnp.argmax(jax.vmap(problem.payoffs)(points), -1)
    changes = best[:-1] != best[1:]
    at = jnp.argsort(~changes, stable=True)[: min(num - 1, 2 * num_actions)]

    def solve(at, real):
        first, second = best[at], best[at + 1]

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            payoffs = problem.payoffs(middle)
            still = payoffs[first] >= payoffs[second]
            return jnp.where(still, middle, low), jnp.where(still, high, middle)

        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (points[at], points[at + 1]))
        theta = 0.5 * (low + high)
        slope = jax.jacfwd(lambda x: problem.divergence(x)[0])(theta)[:, 0]
        explored = continuum.exploration * slope.mean()
        weight = 1 - continuum.exploration
        turn = weight * (slope[first] - slope[second])
        s = -(explored + weight * slope[second]) / jnp.where(turn != 0, turn, 1.0)
        real &= (turn != 0) & (s > 0) & (s < 1)
        play = jnp.zeros(num_actions, s.dtype).at[first].set(s).at[second].set(1 - s)
        play = jnp.where(real, play, jnp.zeros_like(play).at[0].set(1))
        # A stationary point is a best fit if nothing fits better.
        value, refuted = continuum.misfit_at(theta, continuum.realised(play))
        rival, _ = continuum.misfit_at(continuum.best_fit(play), continuum.realised(play))
        real &= ~refuted & (value <= rival + tolerance.fit)
        payoffs = problem.payoffs(theta)
        played = jnp.where(play > 0, payoffs, jnp.inf).min()
        return play, theta, payoffs, real & (played >= payoffs.max() - slack)

    return jax.vmap(solve)(at, changes[at])


def _excluded(continuum: Continuum, fit: Array, tolerance: Tolerance, slack: Array) -> Array:
    """Actions that dominance removes."""
    problem, family = continuum.problem, continuum.problem.family
    if family.dimension == 1 and family.unique_best_fit and family.identified is None:
        return _excluded_by_interval(continuum, fit, slack)
    reduced = ReducedForm(
        continuum.kl,
        continuum.ruled_out,
        continuum.payoffs,
        jnp.ones(len(continuum.nodes), bool),
    ).explored(continuum.exploration)
    if family.has_charts or len(continuum.nodes) < 2:
        spacing = continuum.upper - continuum.lower  # no claim about what lies between
    else:
        per_axis = len(continuum.nodes) ** (1 / family.dimension)
        spacing = (continuum.upper - continuum.lower) / max(round(per_axis) - 1, 1)
    kl_slope = jax.vmap(jax.jacfwd(lambda x: problem.divergence(x)[0]))(continuum.nodes)
    fit_margin = jnp.sum(jnp.abs(kl_slope) * spacing, -1)
    payoff_slope = jax.vmap(jax.jacfwd(problem.payoffs))(continuum.nodes)
    difference = payoff_slope[:, None] - payoff_slope[:, :, None]
    payoff_margin = slack + jnp.sum(jnp.abs(difference) * spacing, -1)
    return excluded_by_dominance(reduced, tolerance, fit_margin, payoff_margin)


def _excluded_by_interval(continuum: Continuum, fit: Array, slack: Array) -> Array:
    """One identified parameter: what can be believed is an interval."""
    problem = continuum.problem
    points = jnp.concatenate([fit, continuum.nodes])
    payoffs = jax.vmap(problem.payoffs)(points)
    better = payoffs[:, None, :] - payoffs[:, :, None] > slack  # other better than action

    def round_(state):
        remaining, _ = state
        low = jnp.where(remaining, fit[:, 0], jnp.inf).min()
        high = jnp.where(remaining, fit[:, 0], -jnp.inf).max()
        believed = (points[:, 0] >= low) & (points[:, 0] <= high)
        dominated = jnp.any(jnp.all(better | ~believed[:, None, None], axis=0), axis=-1)
        smaller = remaining & ~dominated
        return smaller, jnp.any(smaller != remaining)

    start = jnp.ones(problem.num_actions, bool), jnp.ones((), bool)
    return ~jax.lax.while_loop(lambda state: state[1], round_, start)[0]
