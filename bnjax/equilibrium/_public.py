"""The questions that are asked of a problem: equilibria, rationalizable set, phase."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Int

from ..problem import AbstractProblem
from ._codes import Certainty, Phase
from ._results import Equilibria, Rationalizable
from ._solve import check_rows, prepare, solve

_ROWS = 8


@eqx.filter_jit
def _solve(problem, exploration, max_equilibria, tolerance):
    found, possible, valid = solve(problem, exploration, max_equilibria, tolerance)
    code = None
    if problem.safe is not None:
        code = phase_of(problem.safe, found, possible.certainty, valid)
    return found, possible, code


def solve_all(
    problem: AbstractProblem,
    exploration: ArrayLike,
    max_equilibria: int,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> tuple[Equilibria, Rationalizable, Int[Array, ""] | None]:
    """Answer every question with one program; there is no phase without a ``safe`` mask."""
    check_rows(max_equilibria)
    exploration, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    return _solve(problem, exploration, max_equilibria, tolerance)


def equilibria(
    problem: AbstractProblem,
    exploration: ArrayLike = 0.0,
    *,
    max_equilibria: int = _ROWS,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> Equilibria:
    """Find the Berk-Nash equilibria of a problem.

    An intended strategy sigma is an equilibrium if some belief over the models that fit best
    what sigma (after trembling) brings about makes every action that sigma plays optimal
    (Esponda and Pouzo 2016). With two actions and finitely many models the answer is exact: every
    component, isolated or not. With more actions, it is exact as long as the models and actions
    are few enough to enumerate all vertices of the two best-reply complexes, and otherwise lists
    verified equilibria on at most two actions, without a claim to be complete. With a continuum
    of models, two actions are solved as completely as the family promises
    (`Family.unique_best_fit`); of more, pure equilibria are listed, and with one parameter those
    on two actions.

    Parameters
    ----------
    problem : any problem; its leaves may be traced, so that the call goes through `jax.vmap`.
    exploration : probability with which play trembles to a uniform action.
    max_equilibria : rows of the answer, E.
    tol_fit : models whose fit differs by at most this many nats are tied. The default
        depends on the precision of the problem (2e-6 in float32, 1e-12 in float64).
    tol_payoff : actions whose payoff differs by at most this share of the payoff range are
        tied (1e-5 in float32, 1e-10 in float64).

    Returns
    -------
    Equilibria

    Raises
    ------
    ValueError
        If a concrete argument is out of range.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.7, p_honest=0.6)
    >>> print(bn.equilibria(problem).summary(problem))
    pure: honest (stable; best fit 0.4)
    mixed: sycophantic 0.333333, honest 0.666667 (unstable; best fit 0.5)
    pure: sycophantic (stable; best fit 0.7)
    """
    check_rows(max_equilibria)
    exploration, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    return _solve(problem, exploration, max_equilibria, tolerance)[0]


def rationalizable(
    problem: AbstractProblem,
    exploration: ArrayLike = 0.0,
    *,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> Rationalizable:
    """Find the Berk-Nash rationalizable set: the actions that may be played for ever.

    The largest set of actions each of which is optimal under some belief over the models
    that fit best some play of actions of that set (Esponda and Pouzo 2025). With
    finite divergences, every action that is played infinitely often is in it with
    probability one.

    Parameters
    ----------
    problem : any problem; its leaves may be traced.
    exploration : probability with which play trembles to a uniform action.
    tol_fit, tol_payoff : as for `equilibria`.

    Returns
    -------
    Rationalizable

    Raises
    ------
    ValueError
        If a concrete argument is out of range.

    Notes
    -----
    An action is IN if it is optimal within ``tol_payoff`` under a belief in models that fit
    some play within ``tol_fit`` of the best. Play may be as close to a pure strategy as it likes.
    So, with infinite divergences, a tie that holds only in the limit of play which refutes
    other models counts, since play just before the limit is within any positive ``tol_fit`` of
    it: in doubt, an action is not excluded. At ``tol_fit = 0`` such a tie does not count.
    `certify` has the same rule.

    With more than two actions and a continuum of models in several parameters, an action is
    excluded only by dominance over the whole box, so that many stay UNDECIDED; `certify` decides
    on a grid (`FamilyProblem.discretize`).

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.deception(p_detect=0.9, detect_upper=0.3)
    >>> print(bn.rationalizable(problem).summary(problem))
    rationalizable: deceive; excluded: comply
    """
    exploration, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    return _solve(problem, exploration, 0, tolerance)[1]


def phase(
    problem: AbstractProblem,
    exploration: ArrayLike = 0.0,
    *,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> Int[Array, ""]:
    """Say in which safety phase a problem is.

    Parameters
    ----------
    problem : a problem with a ``safe`` mask; its leaves may be traced.
    exploration : probability with which play trembles to a uniform action.
    tol_fit, tol_payoff : as for `equilibria`.

    Returns
    -------
    int array
        A code of `Phase`: ``bn.Phase(int(code)).name``.

    Raises
    ------
    ValueError
        If the problem has no ``safe`` mask, or a concrete argument is out of range.

    Examples
    --------
    >>> import jax, bnjax as bn
    >>> phases = jax.vmap(lambda p: bn.phase(bn.scenarios.sycophancy(0.7, p)))
    >>> [bn.Phase(int(code)).name for code in phases(jax.numpy.array([0.2, 0.8]))]
    ['UNSAFE', 'MULTISTABLE']
    """
    exploration, tolerance = prepare(problem, exploration, tol_fit, tol_payoff)
    require_safe(problem)
    code = _solve(problem, exploration, 0, tolerance)[2]
    assert code is not None
    return code


def require_safe(problem: AbstractProblem) -> None:
    """Refuse to name the phase of a problem that does not say what is safe."""
    if problem.safe is None:
        raise ValueError(
            "`problem.safe` must be given to name a phase: a boolean for each of the actions "
            f"{problem.action_names}; got None."
        )


def phase_of(
    safe: Bool[Array, " actions"],
    found: Equilibria,
    certainty: Int[Array, " actions"],
    valid: Bool[Array, ""],
) -> Int[Array, ""]:
    """Phase from which pure strategies are equilibria and what is rationalizable."""
    possible = certainty != Certainty.OUT
    certain = certainty == Certainty.IN
    pure = found.pure
    open_ = jnp.zeros_like(pure) if found.pure_undecided is None else found.pure_undecided
    maybe_pure = pure | (open_ & possible)
    safe_pure, unsafe_pure = jnp.any(pure & safe), jnp.any(pure & ~safe)
    no_safe_pure, no_unsafe_pure = ~jnp.any(maybe_pure & safe), ~jnp.any(maybe_pure & ~safe)
    both_kinds = jnp.any(certain & safe) & jnp.any(certain & ~safe)
    one_kind = (safe_pure & no_unsafe_pure) | (unsafe_pure & no_safe_pure)
    code = jnp.asarray(Phase.UNDECIDED, jnp.int32)
    code = jnp.where(both_kinds & one_kind, int(Phase.INDETERMINATE), code)
    code = jnp.where(both_kinds & no_safe_pure & no_unsafe_pure, int(Phase.OSCILLATORY), code)
    code = jnp.where(safe_pure & unsafe_pure, int(Phase.MULTISTABLE), code)
    # Nothing rationalizable (possible only with infinite divergences) makes no phase.
    code = jnp.where(jnp.any(certain) & ~jnp.any(possible & ~safe), int(Phase.SAFE), code)
    code = jnp.where(jnp.any(certain) & ~jnp.any(possible & safe), int(Phase.UNSAFE), code)
    code = jnp.where(~jnp.any(possible), int(Phase.INVALID), code)
    return jnp.where(valid, code, int(Phase.INVALID))
