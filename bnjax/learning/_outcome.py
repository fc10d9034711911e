"""Where learners end up: locked on an action, mixing for ever, or undecided at the horizon."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._record import Steps, Tally, quarters


class Outcome(enum.IntEnum):
    """What a learner has settled into by the horizon, judged by the actions that it intends.

    A finite run can only suggest what happens in the limit. Who changes after the horizon is
    counted as locked, so that lock-in is overstated, by less the longer the run; a policy that
    chooses at random at every step (logit, Thompson sampling) counts as mixing while it
    still changes at all.

    Attributes
    ----------
    LOCKED
        It intended one action in the whole second half, and in the step before that.
    MIXING
        It changed the action it intends in the third quarter and again in the fourth: it
        cycles, or mixes; its frequencies say how.
    UNDECIDED
        Neither: it changed its action late, and then stopped, or began to; or there were too few
        steps (one or two) for either quarter to show anything.
    INVALID
        What it was given makes no sense (only where values were traced, so that nothing could
        refuse them): a probability outside [0, 1], NaN, a prior without support, ...
    """

    LOCKED = 0
    MIXING = 1
    UNDECIDED = 2
    INVALID = 3


def outcome_of(
    tally: Tally, num_steps: Steps, valid: Bool[Array, "*#batch"]
) -> Int[Array, "*batch"]:
    """Code of `Outcome` from the final statistics."""
    half, late = quarters(num_steps)
    third, fourth = tally.switches[..., 0], tally.switches[..., 1]
    code = jnp.where((third > 0) & (fourth > 0), int(Outcome.MIXING), int(Outcome.UNDECIDED))
    shown = (half < late) & (late < num_steps)
    code = jnp.where(shown & (third == 0) & (fourth == 0), int(Outcome.LOCKED), code)
    return jnp.where(valid, code, int(Outcome.INVALID)).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of a population, with a confidence interval.

    Parameters
    ----------
    share : of the agents.
    low, high : Clopper-Pearson interval of the probability behind it: covers it with at least
        the confidence level, whatever the number of agents.
    count : how many agents.
    """

    share: float
    low: float
    high: float
    count: int


def share_of(mask: np.ndarray, level: float) -> Share:
    """How many of a population, and what that says of the probability."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie inside (0, 1); got {level!r}.")
    count, total = int(mask.sum()), int(mask.size)
    low, high = clopper_pearson(np.asarray(count), total, level)
    return Share(count / total, float(low), float(high), count)


def clopper_pearson(
    count: np.ndarray, total: int, level: float
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Exact confidence interval of a probability, from how many of ``total`` it happened to.

    Clopper and Pearson (1934): each bound is the probability at which a count so extreme would
    have a chance of half of what the level leaves, a quantile of a beta distribution.
    """
    from scipy.special import betaincinv  # slow to import

    tail, others = (1 - level) / 2, total - count
    low = betaincinv(np.maximum(count, 1), others + 1, tail)
    high = betaincinv(count + 1, np.maximum(others, 1), 1 - tail)
    return np.where(count == 0, 0.0, low), np.where(others == 0, 1.0, high)


def mean_interval(
    values: Float[np.ndarray, " agents"], least: float, most: float, level: float
) -> tuple[float, float, float]:
    """Mean over agents, and a confidence interval of the expectation behind it.

    It covers that with at least the confidence level, whatever the distribution between ``least``
    and ``most``: where agents lock in, a mean of few that agree says little of those who might
    not. The nearer of two bounds on either side, each of which has half of the chance to be wrong:
    Chernoff's (Hoeffding 1963, theorem 1: about that of a share), and the empirical Bernstein
    bound (Maurer and Pontil 2009, theorem 4), near where agents differ little.
    """
    from scipy.optimize import brentq
    from scipy.special import rel_entr

    num, width = len(values), most - least
    mean = float(np.mean(values))
    if width <= 0:
        return mean, mean, mean
    scaled = np.clip((np.asarray(values, float) - least) / width, 0.0, 1.0)
    center, wrong = float(scaled.mean()), (1 - level) / 4

    def excess(p: float) -> float:
        """Divergence of the mean from a probability, less what chance may bring."""
        kl = rel_entr(center, p) + rel_entr(1 - center, 1 - p)
        return float(kl + np.log(wrong) / num)

    def edge(end: float) -> float:
        """Where the excess is zero, between the mean and an end; the end if it is not."""
        if center == end or excess(end) <= 0:
            return end
        root: Any = brentq(excess, center, end, xtol=1e-18)
        return float(root)

    near = np.inf
    if num > 1:
        log = float(np.log(2 / wrong))
        near = np.sqrt(2 * scaled.var(ddof=1) * log / num) + 7 * log / (3 * (num - 1))
    low, high = max(edge(0.0), center - near), min(edge(1.0), center + near)
    return mean, min(least + width * low, mean), max(least + width * high, mean)
