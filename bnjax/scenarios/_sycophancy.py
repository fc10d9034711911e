"""Sycophancy: an agent that holds agreement and truth to be two ends of one axis."""

from __future__ import annotations

from jaxtyping import ArrayLike

from ..problem import FamilyProblem
from ._agreement import agreement_problem


def sycophancy(
    p_sycophantic: ArrayLike = 0.7, p_honest: ArrayLike = 0.6, width: ArrayLike = 0.0
) -> FamilyProblem:
    """An assistant that is approved of or not, and believes that flattery and truth trade off.

    Actions ``sycophantic`` and ``honest`` (safe); payoff 1 if approved. The agent believes
    that approval has probability theta after sycophancy and 1 - theta after honesty, theta
    in [0, 1]. The best fit when sycophancy has probability s is
    ``s * p_sycophantic + (1 - s) * (1 - p_honest)``, and sycophancy is optimal iff theta >= 1/2:

    - p_sycophantic > 1/2 > p_honest: locked in on sycophancy;
    - p_honest > 1/2 > p_sycophantic: the safe phase;
    - both above 1/2: two pure equilibria, the prior decides;
    - both below 1/2: no pure equilibrium, oscillation around
      ``s = (1/2 - p_honest) / (1 - p_sycophantic - p_honest)``.

    These are the four regimes of Theorem 3.2 of Xu et al., "Epistemic Traps" (arXiv 2602.17676);
    a correctly specified agent would only ask which of the two is larger. Rebuilt from the paper's
    abstract and published theorem statements; parameter names are ours.

    Parameters
    ----------
    p_sycophantic : true probability of approval after a sycophantic answer.
    p_honest : true probability of approval after an honest answer.
    width : in [0, 1]; how far the two believed approval rates may leave the line on which
        they sum to one. 0 is the trap, 1 the correct model. Without exploration, width 1
        makes everything rationalizable (nothing is learned about what is never played);
        with exploration, it is safe exactly where p_honest > p_sycophantic.

    Returns
    -------
    FamilyProblem

    Raises
    ------
    ValueError
        If a parameter is not a probability.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.7, p_honest=0.6)
    >>> bn.Phase(int(bn.phase(problem))).name
    'MULTISTABLE'
    """
    return agreement_problem(
        ("sycophantic", "honest"),
        ("p_sycophantic", "p_honest"),
        p_sycophantic,
        p_honest,
        width,
    )
