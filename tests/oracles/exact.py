"""Brute force in exact rational arithmetic: slow, obvious, and for small problems only.

Everything is decided by listing vertices. For a set T of played actions, the models that no
action in T refutes have fits that are linear in play, so where a set of models J is tied for
the best fit is a polytope in Delta(T). Its vertices are basic solutions: enough of the lines
"this action is not played" and "this model's fit touches the best one" hold with equality.
Play in the relative interior of that polytope uses exactly the actions that its vertices use,
so J can be believed under play of all of T if and only if those vertices between them use T.
Likewise, if any belief over a set of models justifies an action then a basic one does.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

Matrix = tuple[tuple[Fraction, ...], ...]
ONE = Fraction(1)


def solve(matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> list[Fraction] | None:
    """Solve a square linear system by Gauss-Jordan elimination; None if it is singular."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = next((r for r in range(column, size) if rows[r][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column][column]
        rows[column] = [x / lead for x in rows[column]]
        for r in range(size):
            factor = rows[r][column]
            if r != column and factor:
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[column], strict=True)]
    return [row[-1] for row in rows]


def dot(left: Iterable[Fraction], right: Iterable[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(left, right, strict=True)), Fraction(0))


@dataclasses.dataclass(frozen=True)
class Exact:
    """Supported models of a problem in rationals; ``slack`` is in payoff units."""

    kl: Matrix
    ruled_out: tuple[tuple[bool, ...], ...]
    payoffs: Matrix
    tol_fit: Fraction
    slack: Fraction

    @property
    def num_actions(self) -> int:
        return len(self.kl[0])

    def admissible(self, played: Iterable[int]) -> tuple[int, ...]:
        played = tuple(played)
        return tuple(m for m, out in enumerate(self.ruled_out) if not any(out[b] for b in played))


def exact_problem(
    kl: Any,
    ruled_out: Any,
    payoffs: Any,
    support: Any = None,
    exploration: Any = 0,
    tol_fit: Any = 0,
    tol_payoff: Any = 0,
) -> Exact:
    """Read arrays as exact numbers, drop unsupported models, and let play tremble."""
    count = len(kl)
    keep = [m for m in range(count) if support is None or support[m]]
    divergences = [[Fraction(x) for x in np.asarray(kl, object)[m]] for m in keep]
    refuted = [[bool(x) for x in ruled_out[m]] for m in keep]
    expected = [[Fraction(x) for x in np.asarray(payoffs, object)[m]] for m in keep]
    tremble = Fraction(exploration)
    if tremble:
        refuted = [[any(row)] * len(row) for row in refuted]
        divergences = [
            [(1 - tremble) * x + tremble * sum(row) / len(row) for x in row] for row in divergences
        ]
    spread = max(map(max, expected)) - min(map(min, expected))
    return Exact(
        tuple(map(tuple, divergences)),
        tuple(map(tuple, refuted)),
        tuple(map(tuple, expected)),
        Fraction(tol_fit),
        Fraction(tol_payoff) * spread,
    )


# Gamma and the rationalizable set


@functools.cache
def vertices(problem: Exact, played: tuple[int, ...]) -> tuple[tuple[frozenset, frozenset], ...]:
    """Vertices of the best-fit complex over Delta(played): (actions used, models tied) of each.

    Unknowns: the probabilities of ``played`` and a level t. A model touches from above if its
    fit is t, and, with a tolerance, from below if it is t + tol_fit.
    """
    models = problem.admissible(played)
    size = len(played)
    fits = [tuple(problem.kl[m][b] for b in played) for m in models]
    planes = [(*(Fraction(i == j) for j in range(size + 2)),) for i in range(size)]
    for offset in sorted({Fraction(0), problem.tol_fit}):
        planes += [(*fit, Fraction(-1), offset) for fit in fits]
    planes = list(dict.fromkeys(planes))
    total = [Fraction(1)] * size + [Fraction(0)]
    found = set()
    for chosen in itertools.combinations(planes, size):
        point = solve(
            [total, *(plane[:-1] for plane in chosen)], [ONE, *(plane[-1] for plane in chosen)]
        )
        if point is None or min(point[:-1]) < 0:
            continue
        *play, level = point
        values = {m: dot(play, fit) for m, fit in zip(models, fits, strict=True)}
        if level > min(values.values(), default=level):
            continue
        used = frozenset(b for b, p in zip(played, play, strict=True) if p)
        tied = frozenset(m for m, v in values.items() if v <= level + problem.tol_fit)
        if tied:
            found.add((used, tied))
    return tuple(found)


@functools.cache
def justifies(problem: Exact, models: tuple[int, ...], action: int) -> bool:
    """Whether a *basic* belief, positive on all of ``models``, makes ``action`` optimal.

    Basic: as many of the other actions are exactly on the edge of being better as it takes
    to determine the belief.
    """
    others = [b for b in range(problem.num_actions) if b != action]
    gain = {b: [problem.payoffs[m][action] - problem.payoffs[m][b] for m in models] for b in others}
    total = [Fraction(1)] * len(models)
    for edge in itertools.combinations(others, len(models) - 1):
        belief = solve([total, *(gain[b] for b in edge)], [ONE, *(-problem.slack for _ in edge)])
        if belief is None or min(belief) <= 0:
            continue
        if all(dot(belief, gain[b]) >= -problem.slack for b in others):
            return True
    return False


@functools.cache
def justified(problem: Exact, played: tuple[int, ...]) -> frozenset[int]:
    """Actions that are optimal under some belief that play of exactly ``played`` allows."""
    corners = vertices(problem, played)
    largest = problem.num_actions
    believable = {
        models
        for _, tied in corners
        for size in range(1, largest + 1)
        for models in itertools.combinations(sorted(tied), size)
    }
    reached = set()
    for models in sorted(believable, key=len):
        used = frozenset().union(*(u for u, tied in corners if tied.issuperset(models)))
        if used != frozenset(played):
            continue
        reached |= {
            a
            for a in range(problem.num_actions)
            if a not in reached and justifies(problem, models, a)
        }
    return frozenset(reached)


def gamma(problem: Exact, available: Iterable[int]) -> frozenset[int]:
    """Gamma(B): actions justified by some play of the available ones."""
    available = sorted(available)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(available, size) for size in range(1, len(available) + 1)
    )
    return frozenset().union(*(justified(problem, played) for played in subsets))


def rationalizable(problem: Exact) -> np.ndarray:
    """Mask [A] of the Berk-Nash rationalizable set."""
    left = frozenset(range(problem.num_actions))
    while True:
        smaller = left & gamma(problem, left)
        if smaller == left:
            return np.array([a in left for a in range(problem.num_actions)])
        left = smaller


# All equilibria of two actions


@dataclasses.dataclass(frozen=True)
class Component:
    """A maximal interval of equilibria in the share s of action 0; a point if its ends agree.

    ``sign_left`` and ``sign_right`` are the signs of h_plus - h_minus next to it on either
    side: negative where action 0 is the better one. None where play cannot go, or where no
    model survives.
    """

    start: Fraction
    end: Fraction
    start_closed: bool
    end_closed: bool
    sign_left: int | None
    sign_right: int | None


def best_fits(problem: Exact, share: Fraction) -> tuple[int, ...]:
    """Best-fitting models at one share of action 0 (tolerance zero)."""
    models = problem.admissible(b for b, p in enumerate((share, 1 - share)) if p)
    fits = {m: share * problem.kl[m][0] + (1 - share) * problem.kl[m][1] for m in models}
    return tuple(m for m, v in fits.items() if v == min(fits.values()))


def advantage(problem: Exact, model: int) -> Fraction:
    """What the model expects action 0 to pay more than action 1."""
    return problem.payoffs[model][0] - problem.payoffs[model][1]


def is_equilibrium(problem: Exact, share: Fraction) -> bool:
    """Whether some belief over the best fits makes every played action optimal."""
    gains = [advantage(problem, m) for m in best_fits(problem, share)]
    if not gains:
        return False
    return (share == 0 or max(gains) >= 0) and (share == 1 or min(gains) <= 0)


def envelope_sign(problem: Exact, share: Fraction) -> int | None:
    """Sign of h_plus - h_minus inside (0, 1); None if no model survives both actions."""
    gains = [advantage(problem, m) for m in best_fits(problem, share)]
    if not gains:
        return None
    return int(max(gains) < 0) - int(min(gains) > 0)


def equilibrium_components(problem: Exact) -> list[Component]:
    """All equilibria of a two-action problem, at tolerance zero, in order of s.

    Best-fit sets change only where two fits cross, so it is enough to look at the crossings,
    at both ends, and at one point between each two neighbours.
    """
    if problem.num_actions != 2 or problem.tol_fit or problem.slack:
        raise ValueError("equilibrium_components is for two actions and tolerance zero.")
    shares = {Fraction(0), Fraction(1)}
    for m, k in itertools.combinations(problem.admissible((0, 1)), 2):
        first, second = (problem.kl[m][b] - problem.kl[k][b] for b in (0, 1))
        if first * second < 0:
            shares.add(second / (second - first))
    breaks = sorted(shares)
    # Alternate points and open pieces: an even index is a point.
    cells = [(breaks[0], breaks[0])]
    for low, high in itertools.pairwise(breaks):
        cells += [(low, high), (high, high)]
    holds = [is_equilibrium(problem, (low + high) / 2) for low, high in cells]
    signs = [
        envelope_sign(problem, (low + high) / 2) if 0 < low + high < 2 else None
        for low, high in cells
    ]
    components = []
    for run, group in itertools.groupby(range(len(cells)), key=lambda i: holds[i]):
        if run:
            index = list(group)
            first, last = index[0], index[-1]
            components.append(
                Component(
                    cells[first][0],
                    cells[last][1],
                    first % 2 == 0,
                    last % 2 == 0,
                    signs[first - 1] if first > 0 else None,
                    signs[last + 1] if last + 1 < len(cells) else None,
                )
            )
    return components
