"""Checks a certificate's witnesses in fractions, from the definitions and nothing else.

Shares no code with the library: plain arrays of floats (taken as exact) and fractions come in.
An action is justified by play sigma and a belief mu if, with tolerances,

- mu puts weight only on supported models that rule out nothing that sigma, after trembling,
  brings about, and whose expected divergence is within ``tol_fit`` of the least of such models;
- the action's expected payoff under mu is within ``tol_payoff`` times the range of payoffs, over
  supported models and all actions, of the best.

Witnesses are self-justified (1.4) if each plays only actions that have a witness themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

Vector = Sequence[Fraction]


class Case(NamedTuple):
    """Arrays of a finite problem, read as exact numbers, and the terms of a certificate."""

    kl: list[list[Fraction]]
    ruled_out: list[list[bool]]
    payoffs: list[list[Fraction]]
    support: list[bool]
    exploration: Fraction
    tol_fit: Fraction
    tol_payoff: Fraction


def case(
    kl: Any,
    ruled_out: Any,
    payoffs: Any,
    support: Any,
    exploration: float = 0.0,
    tol_fit: float = 0.0,
    tol_payoff: float = 0.0,
) -> Case:
    """Read [M, A] and [M] arrays; the divergence where a model is ruled out is not looked at."""
    return Case(
        [
            [Fraction(0) if out else Fraction(float(x)) for x, out in zip(*rows, strict=True)]
            for rows in zip(kl, ruled_out, strict=True)
        ],
        [[bool(x) for x in row] for row in ruled_out],
        [[Fraction(float(x)) for x in row] for row in payoffs],
        [bool(x) for x in support],
        *(Fraction(float(x)) for x in (exploration, tol_fit, tol_payoff)),
    )


def fault(given: Case, action: int, strategy: Vector, belief: Vector) -> str | None:
    """What is wrong with one witness; None if nothing is."""
    models, actions = range(len(given.kl)), range(len(given.kl[0]))
    if action not in actions:
        return "no such action"
    for name, weights, size in (
        ("strategy", strategy, len(actions)),
        ("belief", belief, len(models)),
    ):
        if len(weights) != size or sum(weights) != 1 or any(w < 0 for w in weights):
            return f"the {name} is no distribution"
    tremble = given.exploration / len(actions)
    realised = [(1 - given.exploration) * p + tremble for p in strategy]
    misfit: dict[int, Fraction] = {}
    for m in models:
        refuted = any(realised[a] > 0 and given.ruled_out[m][a] for a in actions)
        if given.support[m] and not refuted:
            misfit[m] = sum((realised[a] * given.kl[m][a] for a in actions), Fraction(0))
    for m in models:
        if belief[m] > 0 and m not in misfit:
            return f"model {m} is believed, although it is refuted or has no prior weight"
        if belief[m] > 0 and misfit[m] > min(misfit.values()) + given.tol_fit:
            return f"model {m} is believed, although another one fits better"
    expected = [
        sum((belief[m] * given.payoffs[m][a] for m in models), Fraction(0)) for a in actions
    ]
    range_ = [u for m in models if given.support[m] for u in given.payoffs[m]]
    if expected[action] < max(expected) - given.tol_payoff * (max(range_) - min(range_)):
        return "the action is not optimal"
    return None


def faults(given: Case, witnesses: Sequence[Any], inside: Sequence[bool]) -> list[str]:
    """What is wrong with the witnesses of a certificate that claims which actions are IN.

    Parameters
    ----------
    given : the problem and the terms.
    witnesses : one an action, with ``action``, ``strategy`` and ``belief``, or None.
    inside : which actions are claimed to be IN.
    """
    found = []
    for a, (witness, claimed) in enumerate(zip(witnesses, inside, strict=True)):
        if (witness is not None) != bool(claimed):
            found.append(f"action {a} has a witness and is not IN, or the other way round")
        if witness is None:
            continue
        if witness.action != a:
            found.append(f"the witness of action {a} is for another")
        wrong = fault(given, a, witness.strategy, witness.belief)
        if wrong is not None:
            found.append(f"action {a}: {wrong}")
        leans = [b for b, p in enumerate(witness.strategy) if p > 0 and not inside[b]]
        if leans:
            found.append(f"the witness of action {a} plays {leans}, which are not IN")
    return found
