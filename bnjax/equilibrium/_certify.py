"""Certified rationalizable sets: exact, on the host, sharing no code with the JAX solver.

The question "is this action in Gamma(B)?" splits into two exact ones once
a set of tied models is named: is there play under which they all fit best, and is there a belief
over them under which the action is optimal? Both are small linear programs, solved here in
integers. With two actions the tied sets are intervals of play and are listed outright; with
more, a mixed-integer program proposes them, and only what survives the exact programs counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike
from numpy.typing import NDArray

from .._summary import theta_label
from ._certify_exact import Witness, exact_form, holds, read_terms
from ._certify_search import MILP_TOLERANCE, Search
from ._codes import Certainty


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """Why an action is not rationalizable.

    Parameters
    ----------
    action : the excluded action.
    round : the round of ``B <- Gamma(B)`` in which it went, from 1.
    available : B in that round: no play of these actions justifies the action.
    tolerance : relaxation of the mixed-integer program behind it, relative to the range of
        divergences and payoffs: no witness exists even so, but for proposals within that margin
        that exact arithmetic refuted. 0 if all of it was decided in exact arithmetic.
    least_play : play was only searched if it refutes the models that it has to refute with at
        least this probability; 0 (all play) but for degenerate problems.
    """

    action: int
    round: int
    available: tuple[int, ...]
    tolerance: float
    least_play: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """The Berk-Nash rationalizable set of one problem, with proofs.

    Parameters
    ----------
    mask : [A] booleans, the actions that are not excluded.
    certainty : [A] int8 codes of `Certainty`.
    witnesses : one `Witness` an action, None where it is not IN. Together they are
        self-justified: they play only actions that are IN.
    exclusions : one `Exclusion` for each action that is OUT, in order of removal.
    safe : whether every action that is not excluded is safe; None where an undecided action
        decides that, where nothing is rationalizable, or without a ``safe`` mask.
    exploration, tol_fit, tol_payoff : what the certificate is for, as given to `certify`.
    milp_tolerance : relaxation behind exclusions by the mixed-integer program (relative).
    method : "rational" (at most two actions: no floating point anywhere) or "milp".
    rounds : rounds of elimination, the last one included, in which nothing was removed.
    """

    mask: NDArray[np.bool_]
    certainty: NDArray[np.int8]
    witnesses: tuple[Witness | None, ...]
    exclusions: tuple[Exclusion, ...]
    safe: bool | None
    exploration: float
    tol_fit: float
    tol_payoff: float
    milp_tolerance: float
    method: Literal["rational", "milp"]
    rounds: int

    def check(self, problem: Any) -> bool:
        """Whether all witnesses are right and play only actions that have one themselves."""
        proved = {a for a, witness in enumerate(self.witnesses) if witness is not None}
        terms = read_terms(problem, self.exploration, self.tol_fit, self.tol_payoff)
        form = exact_form(problem, *terms)
        return proved == set(np.flatnonzero(self.certainty == Certainty.IN).tolist()) and all(
            witness.action == a and proved.issuperset(witness.played) and holds(form, witness)
            for a, witness in enumerate(self.witnesses)
            if witness is not None
        )

    def __repr__(self) -> str:
        names = [Certainty(int(code)).name for code in self.certainty]
        return (
            f"Certificate(certainty=[{', '.join(names)}], safe={self.safe}, "
            f"method={self.method!r}, rounds={self.rounds})"
        )

    def summary(self, problem: Any = None) -> str:
        """Return a plain-text table: each action, its certainty, and the reason for it.

        Parameters
        ----------
        problem : the certified problem, for names of actions and parameters of models. Default:
            their numbers.

        Returns
        -------
        str
        """
        names = _names(problem, len(self.certainty))
        certainties = [Certainty(int(code)).name for code in self.certainty]
        width = max(len("action"), *map(len, names))
        lines = [f"{'action':{width}}  {'certainty':9}  reason"]
        for action, (name, certainty) in enumerate(zip(names, certainties, strict=True)):
            lines.append(f"{name:{width}}  {certainty:9}  {self._reason(action, names, problem)}")
        if problem is None or getattr(problem, "safe", None) is not None:
            verdict = {True: "yes", False: "no", None: "not determined"}[self.safe]
            lines.append(f"every rationalizable action is safe: {verdict}")
        lines += [
            f"method {self.method}, {self.rounds} round(s), exploration {self.exploration:g}, "
            f"tol_fit {self.tol_fit:g} nats, tol_payoff {self.tol_payoff:g} of the payoff range",
        ]
        return "\n".join(lines)

    def _reason(self, action: int, names: Sequence[str], problem: Any) -> str:
        witness = self.witnesses[action]
        if witness is not None:
            play = {names[b]: witness.strategy[b] for b in witness.played}
            belief = {_model(m, problem): witness.belief[m] for m in witness.believed}
            return f"optimal if play is {_shares(play)} and belief is in {_shares(belief)}"
        for out in self.exclusions:
            if out.action == action:
                available = ", ".join(names[b] for b in out.available)
                how = f"relaxed by {out.tolerance:g}" if out.tolerance else "exact"
                return f"never optimal if play is within {{{available}}} (round {out.round}, {how})"
        return "neither a witness nor an exclusion was found"


def certify(
    problem: Any,
    exploration: ArrayLike = 0.0,
    *,
    tol_fit: ArrayLike | None = None,
    tol_payoff: ArrayLike | None = None,
) -> Certificate:
    """Certify the Berk-Nash rationalizable set of one finite problem.

    Every action that is IN comes with a `Witness`, verified in rational arithmetic; every
    action that is OUT with the round and the tolerance at which it was excluded. With one or
    two actions all decisions are exact. With more, exclusions rest on the mixed-integer solver
    HiGHS (see ``milp_tolerance``), and what it cannot settle is UNDECIDED.

    Parameters
    ----------
    problem : a problem with finitely many models. Its numbers are taken as exact.
    exploration : probability with which intended play trembles to a uniform action.
    tol_fit : how far from the best fit, in nats, a model may be and still be believed.
        Default: 1e-9 for a problem in double precision, that of `rationalizable` (2e-6) in single.
    tol_payoff : how far from optimal an action may be, relative to the range of subjective
        payoffs over all supported models and actions. Default: 1e-9, or 1e-5 in single precision.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If Theta is continuous, the problem is batched, an argument is traced or not finite,
        or the exploration is not a probability.

    Notes
    -----
    Definitions: Esponda and Pouzo, *Berk-Nash Rationalizability* (2025). All of it is
    relative to K and U as floating-point numbers. In a single-precision problem rounding
    breaks ties that hold in theory, by about 1e-7: hence the wider tolerances there.

    With infinite divergences, play that refutes a model does so however rarely it plays what
    refutes it, but not in the limit, where the model fits again. A tie of the models that are
    left, which holds only in that limit, is within ``tol_fit`` of holding just before it: it
    counts, with a witness that plays what refutes the model with a probability of about
    ``tol_fit``. At ``tol_fit = 0`` it does not count. `rationalizable` has the same rule.

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.Problem(
    ...     probs=[[0.5, 0.5], [0.25, 0.75]],
    ...     model_probs=[[[0.5, 0.5], [0.9, 0.1]]],
    ...     payoff=[[0.0, 1.0], [0.0, 1.0]],
    ...     safe=[True, False],
    ...     action_names=["known", "shunned"],
    ... )
    >>> certificate = bn.certify(problem)
    >>> certificate.safe, certificate.method
    (True, 'rational')
    """
    terms = read_terms(problem, exploration, tol_fit, tol_payoff)
    form = exact_form(problem, *terms)
    search = Search(form)
    left, exclusions, rounds = _eliminate(search)
    witnesses = _self_justified(search, left)
    certainty = np.full(form.num_actions, Certainty.OUT, np.int8)
    certainty[list(left)] = Certainty.UNDECIDED
    certainty[list(witnesses)] = Certainty.IN
    mask = certainty != Certainty.OUT
    for array in (mask, certainty):
        array.setflags(write=False)
    return Certificate(
        mask=mask,
        certainty=certainty,
        witnesses=tuple(witnesses.get(a) for a in range(form.num_actions)),
        exclusions=tuple(exclusions),
        safe=_safety(problem, certainty),
        exploration=float(terms[0]),
        tol_fit=float(terms[1]),
        tol_payoff=float(terms[2]),
        milp_tolerance=MILP_TOLERANCE,
        method="rational" if form.num_actions <= 2 else "milp",
        rounds=rounds,
    )


def _model(m: int, problem: Any) -> str:
    """What to call a model: by its parameters, if it has any and the problem is at hand."""
    theta = getattr(problem, "theta", np.zeros((m + 1, 0)))[m]
    if not len(theta):
        return f"model {m}"
    names = ", ".join(name.replace("_", " ") for name in problem.parameter_names)
    return f"{names if len(theta) == 1 else f'({names})'} {theta_label(theta)}"


def _shares(shares: Mapping[str, Fraction]) -> str:
    """Names and what each has of the whole, unless one has it all."""
    if len(shares) == 1:
        return next(iter(shares))
    return ", ".join(f"{name} ({float(share):.4g})" for name, share in shares.items())


def _names(problem: Any, num_actions: int) -> tuple[str, ...]:
    if problem is None:
        return tuple(f"action {a}" for a in range(num_actions))
    names = tuple(problem.action_names)
    if len(names) != num_actions:
        raise ValueError(
            f"`problem` must be the certified one, with {num_actions} actions; got {names}."
        )
    return names


def _safety(problem: Any, certainty: NDArray[np.int8]) -> bool | None:
    mask = getattr(problem, "safe", None)
    if mask is None or not certainty.any():
        return None
    unsafe = ~np.asarray(mask, bool)
    if (unsafe & (certainty == Certainty.IN)).any():
        return False
    return None if (unsafe & (certainty == Certainty.UNDECIDED)).any() else True


# Elimination


def _eliminate(search: Search) -> tuple[frozenset[int], list[Exclusion], int]:
    """Iterate B <- Gamma(B) from all actions; what is undecided stays."""
    left = frozenset(range(search.form.num_actions))
    exclusions: list[Exclusion] = []
    rounds = 0
    while True:
        rounds += 1
        verdicts = {a: search.decide(a, left) for a in sorted(left)}
        gone = [a for a, verdict in verdicts.items() if verdict.certainty == Certainty.OUT]
        for a in gone:
            verdict = verdicts[a]
            exclusions.append(
                Exclusion(a, rounds, tuple(sorted(left)), verdict.tolerance, verdict.least_play)
            )
        left -= frozenset(gone)
        if not gone:
            return left, exclusions, rounds


def _self_justified(search: Search, left: frozenset[int]) -> dict[int, Witness]:
    """The largest set found whose members all have witnesses that play only its members."""
    while True:
        verdicts = {a: search.decide(a, left) for a in sorted(left)}
        witnesses = {a: v.witness for a, v in verdicts.items() if v.witness is not None}
        if len(witnesses) == len(left):
            return witnesses
        left = frozenset(witnesses)
