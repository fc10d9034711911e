"""Hallucination: the mathematics of sycophancy under other names."""

from __future__ import annotations

from jaxtyping import ArrayLike

from ..problem import FamilyProblem
from ._agreement import agreement_problem


def hallucination(
    p_fabricate: ArrayLike = 0.6, p_abstain: ArrayLike = 0.4, width: ArrayLike = 0.0
) -> FamilyProblem:
    """A model that makes something up or says that it does not know, and is rewarded or not.

    Actions ``fabricate`` and ``abstain`` (safe); payoff 1 if rewarded. The agent believes
    that the reward has probability theta after fabricating and 1 - theta after abstaining.
    The four regimes are those of `sycophancy`.

    Corollary 4.1 of Xu et al., "Epistemic Traps" (arXiv 2602.17676): fabricating and abstaining
    stand to each other as flattery and honesty do. Rebuilt from the paper's abstract and published
    theorem statements; parameter names are ours.

    Parameters
    ----------
    p_fabricate : true probability of reward after a made-up answer.
    p_abstain : true probability of reward after abstaining.
    width : in [0, 1]; how far the two believed rates may leave the line on which they sum
        to one. 0 is the trap, 1 the correct model.

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
    >>> problem = bn.scenarios.hallucination(p_fabricate=0.7, p_abstain=0.4)
    >>> bn.Phase(int(bn.phase(problem))).name
    'UNSAFE'
    """
    return agreement_problem(
        ("fabricate", "abstain"), ("p_fabricate", "p_abstain"), p_fabricate, p_abstain, width
    )
