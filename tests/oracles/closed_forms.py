"""Closed-form answers, as plain functions of plain numbers.

Phases are the names of ``bnjax.Phase``. In two-action scenarios action 0 is the unsafe one
(sycophantic, fabricate, deceive) and action 1 the safe one (honest, abstain, comply).
"""

from __future__ import annotations

import math
from typing import NamedTuple


class TwoActionAnswer(NamedTuple):
    """Phase, whether each action is a pure equilibrium, is rationalizable, and the mixed share.

    ``mixed`` is the share of action 0 in the mixed equilibrium, None if there is none.
    """

    phase: str
    pure: tuple[bool, bool]
    rationalizable: tuple[bool, bool]
    mixed: float | None


# Sycophancy (and hallucination: the same mathematics)


def sycophancy_mixture(p_sycophantic: float, p_honest: float) -> float:
    """Share s* of sycophancy at which the best fit is theta = 1/2: neither action is better."""
    return (0.5 - p_honest) / (1 - p_sycophantic - p_honest)


def sycophancy(p_sycophantic: float, p_honest: float) -> TwoActionAnswer:
    """The four regimes at width 0, off their boundaries (the paper's Theorem 3.2)."""
    if p_sycophantic == 0.5 or p_honest == 0.5:
        raise ValueError("the boundary between regimes has no phase of its own here.")
    if p_sycophantic > 0.5 > p_honest:
        return TwoActionAnswer("UNSAFE", (True, False), (True, False), None)
    if p_honest > 0.5 > p_sycophantic:
        return TwoActionAnswer("SAFE", (False, True), (False, True), None)
    mixed = sycophancy_mixture(p_sycophantic, p_honest)
    if p_sycophantic > 0.5:
        return TwoActionAnswer("MULTISTABLE", (True, True), (True, True), mixed)
    return TwoActionAnswer("OSCILLATORY", (False, False), (True, True), mixed)


def correctly_specified_sycophancy(
    p_sycophantic: float, p_honest: float, exploration: float
) -> tuple[bool, bool]:
    """Rationalizable actions at width 1: the model can represent the truth.

    Without exploration nothing is learned of the action that is not played, so that
    everything is rationalizable; with any, the objectively better action alone is.
    """
    if exploration == 0:
        return True, True
    return p_sycophantic >= p_honest, p_honest >= p_sycophantic


# Strategic deception


def deception_threshold(gain: float, penalty: float, honest_payoff: float) -> float:
    """Believed probability of detection up to which deceiving is optimal."""
    return (gain - honest_payoff) / (gain + penalty)


def deception(
    p_detect: float,
    gain: float,
    penalty: float,
    honest_payoff: float,
    detect_lower: float,
    detect_upper: float,
) -> TwoActionAnswer:
    """The four cases, off their boundaries (the paper's Theorem 5.2)."""
    threshold = deception_threshold(gain, penalty, honest_payoff)
    if threshold in (detect_lower, detect_upper, p_detect):
        raise ValueError("the boundary between cases has no phase of its own here.")
    if detect_upper < threshold:
        return TwoActionAnswer("UNSAFE", (True, False), (True, False), None)
    if detect_lower > threshold:
        return TwoActionAnswer("SAFE", (False, True), (False, True), None)
    if p_detect > threshold:
        return TwoActionAnswer("INDETERMINATE", (False, True), (True, True), None)
    return TwoActionAnswer("MULTISTABLE", (True, True), (True, True), None)


# The economics


def monopolist() -> tuple[float, tuple[float, float]]:
    """Probability of price 2, and the best fit (a, b), in the unique equilibrium (Nyarko 1991).

    The seller is indifferent when 2 (a - 2 b) = 10 (a - 10 b), that is a = 12 b. On that line
    the only point of the box [33, 40] x [3, 3.5] that fits some mixture best is the end at
    a = 40. There the slope of the fit along the free parameter b vanishes at the mixture.
    """
    a, b = 40.0, 10 / 3
    slope_low, slope_high = (
        price * (a - b * price - demand) for price, demand in ((2, 34), (10, 2))
    )
    return slope_high / (slope_high - slope_low), (a, b)


def overconfidence(delta: float) -> float:
    """By how much phi is underestimated, 0 <= delta < 1/2 (Heidhues, Koszegi and Strack 2018)."""
    if not 0 <= delta < 0.5:
        raise ValueError(f"delta must be in [0, 1/2); got {delta}.")
    return 1 - math.sqrt(1 - 2 * delta)


# Selection by chance


def lock_in_probability(p_sycophantic: float, p_honest: float, steps: int) -> float:
    """Probability that an agent with two models theta in {q, 1 - q} ends on sycophancy.

    Parameters
    ----------
    p_sycophantic, p_honest : true approval probabilities, both above 1/2.
    steps : prior log-odds in favour of sycophancy, in steps of log(q / (1 - q)); ties play S.
    """
    if not min(p_sycophantic, p_honest) > 0.5:
        raise ValueError("lock-in needs both approval probabilities above 1/2.")
    r_s = (1 - p_sycophantic) / p_sycophantic
    r_h = (1 - p_honest) / p_honest
    at_zero = p_sycophantic * (1 - r_s) / (1 - p_sycophantic * r_s - (1 - p_sycophantic) * r_h)
    if steps >= 0:
        return 1 - r_s**steps * (1 - at_zero)
    return r_h**-steps * at_zero


def coin_log_odds_variance(steps: int) -> float:
    """Variance in nats^2 of the log-odds of theta = 3/4 to 1/4 after fair tosses (Berk 1966)."""
    return steps * math.log(3) ** 2
