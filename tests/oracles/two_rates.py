"""Sycophancy with width and the monopolist, solved by hand, as plain functions of numbers.

Two believed rates (first, second) with |first + second - 1| <= width, true rates ``p`` and
``q``, payoff the rate itself. After play r and 1 - r (trembles included) the divergence is
r K(p, first) + (1 - r) K(q, second), convex. If the truth is in the band it is the best fit,
whatever is played. Otherwise the best fit is on the edge first + second = c of the band that
is nearer to the truth. There the slope of the divergence, as first grows, has at
first = second = c/2 the sign of r (c/2 - p) - (1 - r) (c/2 - q), linear in r, and the best
fit has first > second exactly where that is negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, lsq_linear

STABLE, UNSTABLE = 1, 2


class Answer(NamedTuple):
    """What there is; ``margin`` is the distance to the next case in which there is something else.

    ``pure``, ``mask`` for either action; ``pure_stability`` where it is an equilibrium;
    ``mixed`` the share of action 0 in the isolated mixed equilibria; ``mixed_stability``.
    """

    pure: tuple[bool, bool]
    pure_stability: tuple[int, int]
    mask: tuple[bool, bool]
    mixed: tuple[float, ...]
    mixed_stability: tuple[int, ...]
    margin: float


def two_rates(p: float, q: float, width: float, exploration: float) -> Answer:
    """All equilibria of sycophancy at any width, off the boundaries between cases."""
    excess = p + q - 1
    inside = abs(excess) <= width
    edge = 1 + width if excess > 0 else 1 - width
    margins = [abs(abs(excess) - width)]

    def lead(r: float) -> float:
        """A number with the sign of first - second at the best fit, for 0 < r < 1 or its limit."""
        if inside:
            return p - q
        return -r * (edge / 2 - p) + (1 - r) * (edge / 2 - q)

    ends = 1 - exploration / 2, exploration / 2  # realised play when either is intended
    trembling = [lead(r) for r in ends]
    margins += [abs(x) for x in trembling]
    mixed: tuple[float, ...] = ()
    if not inside and trembling[0] * trembling[1] < 0:
        r = (edge / 2 - q) / (edge - p - q)
        mixed = ((r - exploration / 2) / (1 - exploration),)
        margins += [mixed[0], 1 - mixed[0]]
    rising = trembling[0] > trembling[1]
    # Which replies (0, 1) are optimal when one action is intended alone.
    replies = [(x >= 0, x <= 0) for x in trembling]
    if exploration == 0:
        replies = []
        for action, own in enumerate((p, q)):
            low, high = max(0.0, 1 - width - own), min(1.0, 1 + width - own)
            margins += [abs(own - low), abs(own - high)]
            itself, other = own >= low, own <= high
            replies.append((itself, other) if action == 0 else (other, itself))
    pure = replies[0][0], replies[1][1]
    towards = [trembling[0] > 0, trembling[1] < 0]
    interior = max(trembling) >= 0, min(trembling) <= 0
    return Answer(
        pure,
        tuple(STABLE if x else UNSTABLE for x in towards),
        _rationalizable(interior, replies),
        mixed,
        (UNSTABLE if rising else STABLE,) * len(mixed),
        min(margins),
    )


def _rationalizable(interior, replies) -> tuple[bool, bool]:
    mask = [True, True]
    for _ in range(3):
        mask = [
            mask[a]
            and ((all(mask) and interior[a]) or any(mask[b] and replies[b][a] for b in (0, 1)))
            for a in (0, 1)
        ]
    return mask[0], mask[1]


def linear_demand(low: float, high: float, exploration: float, points: int = 201) -> Answer:
    """The monopolist at any true mean demand: bounded least squares, play by play.

    Everything that changes between neighbours of a grid over play is found; ``margin`` is the
    smallest payoff difference at an end.
    """
    prices = np.array([2.0, 10.0])
    lower, upper = np.array([33.0, 3.0]), np.array([40.0, 3.5])
    demand = np.array([low, high])

    def lead(s: float) -> float:
        r = (1 - exploration) * s + exploration / 2
        root = np.sqrt([r, 1 - r])
        design = np.stack([np.ones(2), -prices], 1)
        # From the lower corner, so that the precision is that of the differences.
        target = demand - design @ lower
        shift = lsq_linear(
            root[:, None] * design, root * target, (np.zeros(2), upper - lower), tol=1e-14
        ).x
        mean = design @ (lower + shift)
        return float(prices[0] * mean[0] - prices[1] * mean[1])

    # Next to pure play without exploration: what is never played has a limit, not a fit.
    tiny = 0.0 if exploration > 0 else 1e-5
    grid = np.concatenate([[tiny], np.linspace(0, 1, points)[1:-1], [1 - tiny]])
    leads = np.array([lead(s) for s in grid])
    changes = np.flatnonzero(leads[:-1] * leads[1:] < 0)
    mixed = tuple(brentq(lead, grid[k], grid[k + 1], xtol=1e-13) for k in changes)
    trembling = leads[-1], leads[0]
    replies = [(x >= 0, x <= 0) for x in trembling]
    margins = [abs(x) for x in trembling]
    if exploration == 0:
        replies = []
        for price, mean in zip(prices, demand, strict=True):
            mean = np.clip(mean, lower[0] - upper[1] * price, upper[0] - lower[1] * price)
            slopes = np.array(
                [
                    max(lower[1], (lower[0] - mean) / price),
                    min(upper[1], (upper[0] - mean) / price),
                ]
            )
            intercepts = mean + slopes * price
            d = prices[0] * (intercepts - 2 * slopes) - prices[1] * (intercepts - 10 * slopes)
            margins += list(np.abs(d))
            replies.append((d.max() >= 0, d.min() <= 0))
    return Answer(
        (replies[0][0], replies[1][1]),
        (
            STABLE if trembling[0] > 0 else UNSTABLE,
            STABLE if trembling[1] < 0 else UNSTABLE,
        ),
        _rationalizable((leads.max() >= 0, leads.min() <= 0), replies),
        mixed,
        tuple(STABLE if leads[k] > 0 > leads[k + 1] else UNSTABLE for k in changes),
        float(min(margins)),
    )
