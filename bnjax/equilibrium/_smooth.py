"""Smooth equilibria: rest points of logit play against the belief of a finite memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from .._check import (
    as_float,
    check_positive,
    check_probabilities,
    check_shape,
)
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem, as_log_prior
from ._codes import SolveStatus, Stability
from ._smooth_many import list_many, select_many
from ._smooth_map import SmoothMap
from ._smooth_pair import list_pair, select_pair
from ._smooth_results import SmoothEquilibrium, SmoothPath
from ._smooth_root import NEAR_FOLD, Verdict, differentiable, judge_many, judge_pair
from ._solve import check_rows, prepare, problem_dtype

_ROWS = 8


def smooth_equilibrium(
    problem: AbstractProblem,
    memory: ArrayLike,
    temperature: ArrayLike,
    *,
    log_prior: ArrayLike | Sequence[Any] | None = None,
    exploration: ArrayLike = 0.0,
    start: ArrayLike | Sequence[Any] | None = None,
    max_equilibria: int = _ROWS,
) -> SmoothEquilibrium:
    """Find where logit play against the belief of a finite memory comes to rest.

    A fixed point of ``f(sigma) = softmax(belief(sigma) @ U / temperature)`` with
    ``belief(sigma)[m]`` proportional to ``prior[m] exp(-memory * sigma @ K[m])``:
    the rest points of the smooth `bnjax.mean_field`. It depends smoothly on the prior and on
    everything else, and as memory grows and the temperature falls it tends to Berk-Nash
    equilibria. Of several, the one is selected that ``d sigma/dt = f(sigma) - sigma`` reaches
    from the prior's own play, ``softmax(prior @ U / temperature)``.

    With two actions the flow runs along a line, and the solution it reaches is the next one: exact,
    but for pairs of solutions within one of 24 intervals of s, the probability of the first action,
    which end where ``logit(s) = 2.5 logit(i / 24)`` (0.0004 wide next to pure play, 0.1 in the
    middle). Of such pairs it sees those in whose middle the flow is slowest, as next to a fold; of
    the solutions of random problems it misses 1 in 200 where memory is in the thousands, and
    hardly any where it is less. ``strategies`` lists one solution for each change of direction and
    two for such a pair. With more actions the flow is followed in steps that may err by 0.01 of
    play each, and ``strategies`` lists what flow and Newton's method find from 25 starts or fewer.
    Neither list is proved complete.

    Differentiable in forward and reverse mode and to any order, with respect to the leaves of the
    problem, ``log_prior``, ``memory``, ``temperature`` and ``exploration``, by the implicit
    function theorem: the derivative is that of the solution selected, and is blind to which one
    is selected and to ``start``. Where the code is not CONVERGED it is NaN, unless the solution
    is masked out, as ``jnp.where(found.converged, found.strategy, 0)`` does. Diagnostics
    (``residual``, ``condition``) have zero derivatives.

    Parameters
    ----------
    problem : any problem; its leaves may be traced, so that the call goes through `jax.vmap`.
        Continuous Theta is replaced by ``problem.discretize()``.
    memory : effective number of observations that a belief rests on; positive.
    temperature : of logit play, in units of payoff (as in `bnjax.Logit`); positive.
    log_prior : [M] log-weights in nats, ``-inf`` outside the support; normalised. Default: those
        of the problem.
    exploration : probability with which play trembles to a uniform action. Strategies are of
        intended play throughout.
    start : [A] strategy from which to follow the flow instead.
    max_equilibria : rows of the list, E. With 1, the list is the selected solution, and no others
        are looked for.

    Returns
    -------
    SmoothEquilibrium

    Raises
    ------
    ValueError
        If a concrete argument is out of range.

    Notes
    -----
    CONVERGED means that the next Newton step would move no probability by more than 1e-5 (float32)
    or 1e-10 (float64), and, with more than two actions, that the solution is not one from which
    the flow runs away. A start at rest, up to rounding, stays there, even if it is unstable.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.7, p_honest=0.6)
    >>> found = bn.smooth_equilibrium(problem, memory=40.0, temperature=0.1, start=[0.8, 0.2])
    >>> f"{found.strategy[0]:.3f}", bool(found.converged), int(found.valid.sum())
    ('0.975', True, 1)
    """
    check_rows(max_equilibria)
    exploration, _ = prepare(problem, exploration, None, None)
    dtype = problem_dtype(problem)
    memory, temperature = (
        _positive(name, value, dtype, 0)
        for name, value in (("memory", memory), ("temperature", temperature))
    )
    problem = _finite(problem, log_prior)
    if start is not None:
        start = _strategy(start, problem.num_actions, dtype)
    return _solve(problem, memory, temperature, exploration, start, max_equilibria)


def smooth_path(
    problem: AbstractProblem,
    memory: ArrayLike | Sequence[Any],
    temperature: ArrayLike | Sequence[Any],
    *,
    log_prior: ArrayLike | Sequence[Any] | None = None,
    exploration: ArrayLike = 0.0,
    start: ArrayLike | Sequence[Any] | None = None,
) -> SmoothPath:
    """Follow a smooth equilibrium from smooth to sharp: as memory grows and temperature falls.

    The first point is the `smooth_equilibrium` that the flow reaches from ``start`` (default: the
    prior's own play); each of the next is the one that the flow reaches, at the new memory and
    temperature, from the one before. So a branch is followed as long as it is stable and the
    steps of the path are small next to how far the next unstable solution is; where it ends at
    a fold, play moves on to where the flow leads. As memory goes to infinity and temperature to
    zero, strategies tend to Berk-Nash equilibria if all models are finite (`bnjax.equilibria`).

    Parameters
    ----------
    problem, log_prior, exploration, start : as for `smooth_equilibrium`.
    memory, temperature : [T] each, positive.

    Returns
    -------
    SmoothPath

    Raises
    ------
    ValueError
        If a concrete argument is out of range.

    Examples
    --------
    >>> import jax.numpy as jnp, bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.3, p_honest=0.2)
    >>> path = bn.smooth_path(problem, jnp.geomspace(10, 1e5, 30), jnp.geomspace(1, 1e-3, 30))
    >>> [f"{share:.3f}" for share in path.strategy[jnp.array([0, 15, 29]), 0]]
    ['0.517', '0.590', '0.586']
    """
    exploration, _ = prepare(problem, exploration, None, None)
    dtype = problem_dtype(problem)
    memory = _positive("memory", memory, dtype, 1)
    temperature = _positive("temperature", temperature, dtype, 1)
    check_shape("temperature", temperature, memory.shape, "points, as many as of `memory`")
    problem = _finite(problem, log_prior)
    if start is not None:
        start = _strategy(start, problem.num_actions, dtype)
    return _follow(problem, memory, temperature, exploration, start)


def _positive(name: str, value: Any, dtype: Any, ndim: int) -> Array:
    array = as_float(name, value, ndim=ndim).astype(dtype)
    check_positive(name, array)
    return array


def _strategy(start: Any, num_actions: int, dtype: Any) -> Array:
    array = as_float("start", start, ndim=1)
    check_shape("start", array, (num_actions,), "actions")
    check_probabilities("start", array)
    return array.astype(dtype)


def _finite(problem: AbstractProblem, log_prior: Any) -> AbstractFiniteProblem:
    """The problem with finitely many models, and with the prior that was asked for."""
    finite = problem.discretize() if isinstance(problem, FamilyProblem) else problem
    assert isinstance(finite, AbstractFiniteProblem)
    if log_prior is None:
        return finite
    log_prior = as_log_prior(log_prior, finite.num_models).astype(finite.log_prior.dtype)
    return eqx.tree_at(lambda p: p.log_prior, finite, log_prior)


class _Asked(NamedTuple):
    """What a solution is asked for: the problem, and the map that it makes."""

    problem: AbstractFiniteProblem
    memory: Float[Array, ""]
    temperature: Float[Array, ""]
    exploration: Float[Array, ""]

    def smooth_map(self) -> SmoothMap:
        reduced = self.problem.reduced_form().explored(self.exploration)
        return SmoothMap(reduced, self.problem.log_prior, self.memory, self.temperature)

    def is_sensible(self) -> Bool[Array, ""]:
        """Whether the numbers make sense, but for those of the problem."""
        sensible = (self.memory > 0) & (self.temperature > 0)
        sensible &= jnp.isfinite(self.memory) & jnp.isfinite(self.temperature)
        return sensible & (self.exploration >= 0) & (self.exploration <= 1)


class _Selected(NamedTuple):
    """The solution that the flow reaches: unknown, verdict, and whether it is reached at all."""

    unknown: Array
    verdict: Verdict
    sensible: Array
    reached: Array
    code: Array


def _select(asked: _Asked, smooth: SmoothMap, start: Float[Array, " actions"] | None) -> _Selected:
    """Follow the flow and judge where it leads; differentiable from there on."""
    sensible, facts = asked.is_sensible(), None
    if smooth.is_pair:
        logit = None if start is None else _log(start[0]) - _log(start[1])
        unknown, measures, facts, valid = select_pair(*asked, logit)
        unknown, verdict = unknown[None], judge_pair(measures)
        # The flow along a line stops at the next solution, which attracts it unless it started
        # there.
        reached = verdict.found
    else:
        unknown, measures, valid = select_many(*asked, start)
        verdict = judge_many(measures)
        reached = verdict.found & (verdict.stability != int(Stability.UNSTABLE))
    sensible &= valid
    reached &= sensible
    finite = sensible & jnp.isfinite(verdict.residual)
    code = jnp.where(finite, int(SolveStatus.MAX_STEPS), int(SolveStatus.NONFINITE))
    code = jnp.where(reached, int(SolveStatus.CONVERGED), code).astype(jnp.int32)
    unknown = jnp.where(finite, differentiable(smooth, unknown, reached, facts), jnp.nan)
    return _Selected(unknown, verdict, sensible, reached, code)


def _log(share: Array) -> Array:
    """Logarithm, of zero too."""
    return jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1.0)), -jnp.inf)


@eqx.filter_jit
def _solve(problem, memory, temperature, exploration, start, max_equilibria) -> SmoothEquilibrium:
    asked = _Asked(problem, memory, temperature, exploration)
    smooth = asked.smooth_map()
    chosen = _select(asked, smooth, start)
    strategy = smooth.play(chosen.unknown)
    rows = _list(asked, smooth, chosen, max_equilibria)
    return SmoothEquilibrium(
        strategy=strategy,
        realised=(1 - exploration) * strategy + exploration / strategy.shape[0],
        belief=smooth.belief(strategy),
        code=chosen.code,
        residual=chosen.verdict.residual,
        condition=chosen.verdict.condition,
        near_fold=chosen.verdict.condition < NEAR_FOLD,
        **rows,
    )


def _list(asked: _Asked, smooth: SmoothMap, chosen: _Selected, num: int) -> dict[str, Array]:
    """Every solution found, each once, in order; the selected one is among the first found."""
    fixed = lax.stop_gradient(smooth)
    first = lax.stop_gradient((chosen.unknown, chosen.verdict, chosen.reached))
    unknowns, verdict, found = jax.tree.map(lambda x: x[None], first)
    if num > 1:
        if smooth.is_pair:
            others, measures, there = list_pair(*asked, num)
            others = others[:, None], judge_pair(measures), there
        else:
            others, measures = list_many(*asked)
            others = others, judge_many(measures), jnp.ones(others.shape[0], bool)
        unknowns, verdict, found = jax.tree.map(
            lambda x, y: jnp.concatenate([x, y]), (unknowns, verdict, found), others
        )
    play = jax.vmap(fixed.play)(unknowns)
    found &= verdict.found & chosen.sensible
    kept = _each_once(play, found)
    kept &= jnp.cumsum(kept) <= num
    place = _rank(jnp.where(kept, play[:, 0], jnp.inf))
    order = jnp.argmax(place == jnp.arange(max(num, 1), dtype=place.dtype)[:, None], axis=1)
    if num > unknowns.shape[0]:
        order = jnp.minimum(order, unknowns.shape[0] - 1)
    filled = jnp.arange(num, dtype=jnp.int32) < kept.sum(dtype=jnp.int32)

    def row(index, there):
        # What is not there has some other row's numbers, and no say in derivatives.
        unknown = differentiable(smooth, unknowns[index], found[index])
        return jnp.where(there, smooth.play(unknown), jnp.nan)

    strategies = jax.vmap(row)(order, filled)
    return {
        "strategies": strategies,
        "valid": filled,
        "stability": jnp.where(filled, verdict.stability[order], int(Stability.UNKNOWN)),
        "residuals": jnp.where(filled, verdict.residual[order], 0.0),
        "conditions": jnp.where(filled, verdict.condition[order], 0.0),
        "selected": jnp.where(chosen.reached, place[0], -1),
    }


def _each_once(play: Float[Array, "found actions"], found: Array) -> Bool[Array, " found"]:
    """Which are solutions that do not repeat an earlier one."""
    single = jnp.finfo(play.dtype).eps > 1e-10
    same = jnp.max(jnp.abs(play[:, None] - play), -1) <= (1e-4 if single else 1e-7)
    index = jnp.arange(play.shape[0], dtype=jnp.int32)
    earlier = (index[None] < index[:, None]) & found
    return found & ~jnp.any(same & earlier, 1)


def _rank(keys: Float[Array, " found"]) -> Array:
    """Place of each in ascending order."""
    index = jnp.arange(keys.shape[0], dtype=jnp.int32)
    before = (keys < keys[:, None]) | ((keys == keys[:, None]) & (index < index[:, None]))
    return before.sum(1, dtype=jnp.int32)


@eqx.filter_jit
def _follow(problem, memory, temperature, exploration, start) -> SmoothPath:
    def point(start, terms):
        memory, temperature = terms
        asked = _Asked(problem, memory, temperature, exploration)
        smooth = asked.smooth_map()
        chosen = _select(asked, smooth, start)
        strategy = smooth.play(chosen.unknown)
        # Never from nowhere: where nothing was found, the next search starts where this one did.
        onwards = jnp.where(chosen.code == int(SolveStatus.NONFINITE), start, strategy)
        verdict = chosen.verdict
        belief = smooth.belief(strategy)
        return lax.stop_gradient(onwards), (strategy, belief, chosen.code, *verdict[:3:2])

    if start is None:
        smooth = _Asked(problem, memory[0], temperature[0], exploration).smooth_map()
        start = smooth.play(smooth.prior_scores())
    _, found = lax.scan(point, lax.stop_gradient(start), (memory, temperature))
    strategy, belief, code, residual, condition = found
    change = jnp.max(jnp.abs(jnp.diff(strategy, axis=0)), -1)
    return SmoothPath(
        memory=memory,
        temperature=temperature,
        strategy=strategy,
        realised=(1 - exploration) * strategy + exploration / strategy.shape[1],
        belief=belief,
        code=code,
        residual=residual,
        condition=condition,
        near_fold=condition < NEAR_FOLD,
        change=jnp.concatenate([jnp.zeros_like(change[:1]), change])
        if change.shape[0]
        else jnp.zeros_like(memory),
    )
