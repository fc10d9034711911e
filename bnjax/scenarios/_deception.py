"""Strategic deception: an agent that cannot conceive of being caught often enough."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import finite_number, is_concrete
from .._consequence import Categorical
from ..family import Family
from ..problem import FamilyProblem
from ._agreement import probability


def _detection(theta: Float[Array, "1"]) -> Float[Array, "2 3"]:
    """Undetected, detected, complied: complying shows nothing about detection."""
    zero, one = jnp.zeros_like(theta[0]), jnp.ones_like(theta[0])
    deceive = jnp.stack([1 - theta[0], theta[0], zero])
    comply = jnp.stack([zero, zero, one])
    return jnp.stack([deceive, comply])


def deception(
    p_detect: ArrayLike = 0.5,
    gain: ArrayLike = 1.0,
    penalty: ArrayLike = 1.0,
    honest_payoff: ArrayLike = 0.2,
    detect_lower: ArrayLike = 0.0,
    detect_upper: ArrayLike = 1.0,
) -> FamilyProblem:
    """An agent that may deceive and be detected, or comply and learn nothing.

    Actions ``deceive`` and ``comply`` (safe). Deceiving pays ``gain``, or ``-penalty`` when
    it is detected; complying pays ``honest_payoff``. The agent believes that detection has a
    probability in [detect_lower, detect_upper], and deceiving is optimal iff it is at most
    ``t = (gain - honest_payoff) / (gain + penalty)``:

    - detect_upper < t: deceiving is the only equilibrium and the whole rationalizable set;
    - detect_lower > t: complying is: safe by construction;
    - t inside, p_detect > t: complying is the only equilibrium, yet deceiving is not excluded
      (epistemic indeterminacy);
    - t inside, p_detect < t: both are equilibria; complying is absorbing but not stable.

    The first is Theorem 5.2 of Xu et al., "Epistemic Traps" (arXiv 2602.17676): an agent whose
    model bounds the probability of detection below its threshold deceives for ever, whatever the
    true risk. Rebuilt from the paper's abstract and published theorem statements; parameter names
    are ours.

    Parameters
    ----------
    p_detect : true probability that deception is detected.
    gain : payoff of undetected deception.
    penalty : what detection costs (the payoff is its negative).
    honest_payoff : payoff of complying.
    detect_lower, detect_upper : bounds of the detection probabilities that the agent can
        represent.

    Returns
    -------
    FamilyProblem

    Raises
    ------
    ValueError
        If a probability is not in [0, 1], the bounds are out of order or rule out what
        happens, or a payoff is not finite.

    Examples
    --------
    >>> import bnjax as bn
    >>> for most in (0.3, 1.0):
    ...     problem = bn.scenarios.deception(p_detect=0.9, detect_upper=most)
    ...     print(bn.Phase(int(bn.phase(problem))).name)
    UNSAFE
    INDETERMINATE
    """
    p_detect = probability("p_detect", p_detect)
    lower = probability("detect_lower", detect_lower)
    upper = probability("detect_upper", detect_upper)
    if is_concrete(lower, upper) and float(lower) > float(upper):
        raise ValueError(
            f"`detect_lower` must not exceed `detect_upper`; got {float(lower):g} and "
            f"{float(upper):g}."
        )
    if is_concrete(p_detect, lower, upper):
        truth, low, high = float(p_detect), float(lower), float(upper)
        if (truth > 0 and high == 0) or (truth < 1 and low == 1):
            name, bound = ("detect_upper", high) if high == 0 else ("detect_lower", low)
            raise ValueError(
                f"`{name}` = {bound:g} rules out what happens, as `p_detect` = {truth:g}: no "
                "belief of this agent would survive."
            )
    payoffs = {"gain": gain, "penalty": penalty, "honest_payoff": honest_payoff}
    gain, penalty, honest = (finite_number(name, value) for name, value in payoffs.items())
    zero, one = jnp.zeros_like(p_detect), jnp.ones_like(p_detect)
    probs = jnp.stack([jnp.stack([1 - p_detect, p_detect, zero]), jnp.stack([zero, zero, one])])
    payoff = jnp.stack([jnp.stack([gain, -penalty, zero]), jnp.stack([zero, zero, honest])])
    family = Family(_detection, lower[None], upper[None], [[True], [False]], True, ("detection",))
    return FamilyProblem(Categorical(probs, payoff), family, [False, True], ("deceive", "comply"))
