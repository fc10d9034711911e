"""Certified rationalizable sets: exact, on the host, sharing no code with the JAX solver.

The question "is this action in Gamma(B)?" (DESIGN section 1.2) splits into two exact ones once
a set of tied models is named: is there play under which they all fit best, and is there a belief
over them under which the action is optimal? Both are small linear programs, solved here in
integers. With two actions the tied sets are intervals of play and are listed outright; with
more, a mixed-integer program proposes them, and only what survives the exact programs counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike
from numpy.typing import NDArray

from .._check import is_concrete
from ._codes import Certainty

TOL_FIT = 1e-9
"""Models whose fit is this close to the best, in nats, count as tied."""

TOL_PAYOFF = 1e-9
"""Actions this close to optimal, relative to the range of subjective payoffs, count as such."""

MILP_TOLERANCE = 1e-7
"""By how much the mixed-integer program is relaxed, relative to the range of its divergences and
payoffs, so that rounding inside HiGHS (feasible to 1e-7) cannot hide a witness."""

LEAST_PLAY = 1e-6
"""Play that refutes a model with less than this probability is below HiGHS's resolution."""

MAX_CUTS = 64
"""Proposals of the mixed-integer program that are refuted exactly before giving up."""

MILP_SECONDS = 60.0
"""Time limit of one mixed-integer program; reaching it leaves the action undecided."""

Integers = NDArray[np.object_]
"""Arrays of Python integers: exact, of any size."""


# What is returned


@dataclasses.dataclass(frozen=True)
class Witness:
    """Play and a belief that justify an action: a proof that anyone can check.

    Parameters
    ----------
    action : the action that is justified.
    strategy : intended play, one exact probability an action (length A).
    belief : one exact probability a model (length M), positive only where the model fits the
        consequences of that play best.
    """

    action: int
    strategy: tuple[Fraction, ...]
    belief: tuple[Fraction, ...]

    @property
    def played(self) -> tuple[int, ...]:
        """Actions with positive probability."""
        return _positive(self.strategy)

    @property
    def believed(self) -> tuple[int, ...]:
        """Models with positive probability."""
        return _positive(self.belief)

    def check(
        self,
        problem: Any,
        exploration: ArrayLike = 0.0,
        tol_fit: ArrayLike | None = None,
        tol_payoff: ArrayLike | None = None,
    ) -> bool:
        """Whether the witness is right, in exact rational arithmetic.

        Parameters
        ----------
        problem, exploration, tol_fit, tol_payoff : as for `certify`.

        Returns
        -------
        bool
            True if the strategy and the belief are probability vectors, every believed model
            is in the prior's support, allows all that happens and fits within ``tol_fit``
            nats of the best such model, and the action is within ``tol_payoff`` times the
            payoff range of optimal under the belief.
        """
        return _holds(_exact_form(problem, *_terms(exploration, tol_fit, tol_payoff)), self)


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
    status : [A] int8 codes of `Certainty`.
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
    status: NDArray[np.int8]
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
        terms = _terms(self.exploration, self.tol_fit, self.tol_payoff)
        form = _exact_form(problem, *terms)
        return proved == set(np.flatnonzero(self.status == Certainty.IN).tolist()) and all(
            witness.action == a and proved.issuperset(witness.played) and _holds(form, witness)
            for a, witness in enumerate(self.witnesses)
            if witness is not None
        )

    def __repr__(self) -> str:
        names = [Certainty(int(code)).name for code in self.status]
        return (
            f"Certificate(status=[{', '.join(names)}], safe={self.safe}, "
            f"method={self.method!r}, rounds={self.rounds})"
        )

    def summary(self, problem: Any = None) -> str:
        """Return a plain-text table: each action, its status, and the reason for it.

        Parameters
        ----------
        problem : where the names of the actions come from. Default: their numbers.

        Returns
        -------
        str
        """
        names = _names(problem, len(self.status))
        statuses = [Certainty(int(code)).name for code in self.status]
        width = max(len("action"), *map(len, names))
        lines = [f"{'action':{width}}  {'status':9}  reason"]
        for action, (name, status) in enumerate(zip(names, statuses, strict=True)):
            lines.append(f"{name:{width}}  {status:9}  {self._reason(action, names)}")
        verdict = {True: "yes", False: "no", None: "not determined"}[self.safe]
        lines += [
            f"every rationalizable action is safe: {verdict}",
            f"method {self.method}, {self.rounds} round(s), exploration {self.exploration:g}, "
            f"tol_fit {self.tol_fit:g} nats, tol_payoff {self.tol_payoff:g} of the payoff range",
        ]
        return "\n".join(lines)

    def _reason(self, action: int, names: Sequence[str]) -> str:
        witness = self.witnesses[action]
        if witness is not None:
            play = ", ".join(
                f"{names[b]}: {float(witness.strategy[b]):.4g}" for b in witness.played
            )
            belief = ", ".join(f"{m}: {float(witness.belief[m]):.4g}" for m in witness.believed)
            return f"optimal if play is {{{play}}} and belief in models {{{belief}}}"
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
        Default: 1e-9.
    tol_payoff : how far from optimal an action may be, relative to the range of subjective
        payoffs over all supported models and actions. Default: 1e-9.

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
    Definitions: Esponda and Pouzo, *Berk-Nash Rationalizability* (2025); DESIGN sections 1.2
    and 1.4. All of it is relative to K and U as floating-point numbers. In a single-precision
    problem rounding breaks ties that hold in theory, by about 1e-7: widen the tolerances.
    """
    terms = _terms(exploration, tol_fit, tol_payoff)
    form = _exact_form(problem, *terms)
    search = _Search(form)
    left, exclusions, rounds = _eliminate(search)
    witnesses = _self_justified(search, left)
    status = np.full(form.num_actions, Certainty.OUT, np.int8)
    status[list(left)] = Certainty.UNDECIDED
    status[list(witnesses)] = Certainty.IN
    mask = status != Certainty.OUT
    for array in (mask, status):
        array.setflags(write=False)
    return Certificate(
        mask=mask,
        status=status,
        witnesses=tuple(witnesses.get(a) for a in range(form.num_actions)),
        exclusions=tuple(exclusions),
        safe=_safety(problem, status),
        exploration=float(terms[0]),
        tol_fit=float(terms[1]),
        tol_payoff=float(terms[2]),
        milp_tolerance=MILP_TOLERANCE,
        method="rational" if form.num_actions <= 2 else "milp",
        rounds=rounds,
    )


def _names(problem: Any, num_actions: int) -> tuple[str, ...]:
    if problem is None:
        return tuple(f"action {a}" for a in range(num_actions))
    names = tuple(problem.action_names)
    if len(names) != num_actions:
        raise ValueError(
            f"`problem` must be the certified one, with {num_actions} actions; got {names}."
        )
    return names


def _safety(problem: Any, status: NDArray[np.int8]) -> bool | None:
    mask = getattr(problem, "safe", None)
    if mask is None or not status.any():
        return None
    unsafe = ~np.asarray(mask, bool)
    if (unsafe & (status == Certainty.IN)).any():
        return False
    return None if (unsafe & (status == Certainty.UNDECIDED)).any() else True


# The problem in exact numbers


@dataclasses.dataclass(frozen=True)
class _Form:
    """K and U of the supported models, as integers: floats are multiples of a power of two.

    ``kl`` and ``tol_fit`` share one unit, ``payoffs`` and ``slack`` another; no decision
    depends on either.
    """

    kl: Integers
    allowed: NDArray[np.bool_]
    payoffs: Integers
    tol_fit: int
    slack: int
    models: NDArray[np.int_]
    num_models: int

    @property
    def num_actions(self) -> int:
        return self.kl.shape[1]

    def admissible(self, played: Iterable[int]) -> frozenset[int]:
        """Models that allow all that happens after these actions."""
        return frozenset(np.flatnonzero(self.allowed[:, list(played)].all(1)).tolist())

    def best_fits(self, strategy: Sequence[Fraction]) -> frozenset[int]:
        """Models within the tolerance of the best fit; none if all are refuted."""
        played = list(_positive(strategy))
        models = sorted(self.admissible(played))
        weights = np.array([strategy[b] for b in played], dtype=object)
        fit = dict(zip(models, self.kl[np.ix_(models, played)] @ weights, strict=True))
        bound = min(fit.values(), default=0) + self.tol_fit
        return frozenset(m for m, divergence in fit.items() if divergence <= bound)

    def witness(
        self, action: int, strategy: Sequence[Fraction], belief: dict[int, Fraction]
    ) -> Witness:
        """A witness in the caller's numbering of models."""
        full = [Fraction(0)] * self.num_models
        for m, probability in belief.items():
            full[self.models[m]] = probability
        return Witness(action, tuple(strategy), tuple(full))


def _terms(
    exploration: ArrayLike, tol_fit: ArrayLike | None, tol_payoff: ArrayLike | None
) -> tuple[Fraction, Fraction, Fraction]:
    """Validate the arguments that come with a problem, and fill in the defaults."""
    return (
        _number("exploration", exploration, upper=1.0),
        _number("tol_fit", TOL_FIT if tol_fit is None else tol_fit),
        _number("tol_payoff", TOL_PAYOFF if tol_payoff is None else tol_payoff),
    )


def _exact_form(problem: Any, tremble: Fraction, tol_fit: Fraction, tol_payoff: Fraction) -> _Form:
    """Apply exploration, drop unsupported models, and leave floating point."""
    kl, ruled_out, payoffs, support = _reduced(problem)
    num_models, num_actions = kl.shape
    models = np.flatnonzero(support)
    kl, ruled_out, payoffs = kl[models], ruled_out[models], payoffs[models]
    exact_kl = _fractions(np.where(ruled_out, 0.0, kl))
    if tremble:
        mean = exact_kl.sum(1, keepdims=True) / num_actions
        exact_kl = (1 - tremble) * exact_kl + tremble * mean
        ruled_out = np.broadcast_to(ruled_out.any(1, keepdims=True), ruled_out.shape)
    exact_payoffs = _fractions(payoffs)
    slack = tol_payoff * (exact_payoffs.max() - exact_payoffs.min())
    kl_integers, tol_integer = _integers(exact_kl, tol_fit)
    payoff_integers, slack_integer = _integers(exact_payoffs, slack)
    return _Form(
        kl_integers,
        ~ruled_out,
        payoff_integers,
        tol_integer,
        slack_integer,
        models,
        num_models,
    )


def _number(name: str, value: Any, upper: float = math.inf) -> Fraction:
    """Return a concrete number in [0, upper] as it is: floats are rational."""
    wants = "a finite number >= 0" if upper == math.inf else f"a number in [0, {upper:g}]"
    if not is_concrete(value):
        raise ValueError(
            f"`{name}` must be {wants}; got a traced value: `certify` runs on the host, "
            "outside jit, vmap and grad."
        )
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be {wants}; got {value!r}.") from error
    if not (math.isfinite(number) and 0 <= number <= upper):
        raise ValueError(f"`{name}` must be {wants}; got {number}.")
    return Fraction(number)


def _reduced(problem: Any) -> tuple[NDArray[Any], ...]:
    """Return K, the ruled-out mask, U and the support as NumPy arrays, or say what is wrong."""
    reduced = problem.reduced_form()
    fields = [getattr(reduced, name) for name in ("kl", "ruled_out", "payoffs", "support")]
    if not is_concrete(fields):
        raise ValueError(
            "`problem` must hold concrete numbers; got traced arrays: `certify` runs on the "
            "host, outside jit, vmap and grad."
        )
    kl, payoffs = (np.asarray(fields[i], np.float64) for i in (0, 2))
    ruled_out, support = (np.asarray(fields[i], bool) for i in (1, 3))
    if kl.ndim != 2:
        raise ValueError(
            f"`problem` must be one problem, with divergences [models, actions]; got shape "
            f"{kl.shape}: certify the problems of a batch one at a time."
        )
    for name, array in (("divergences", kl), ("subjective payoffs", payoffs)):
        if not np.isfinite(array).all():
            raise ValueError(f"`problem` must have finite {name}; got NaN or infinity.")
    if not support.any():
        raise ValueError("`problem` must have a model in the prior's support; got none.")
    return kl, ruled_out, payoffs, support


def _fractions(array: NDArray[np.float64]) -> NDArray[np.object_]:
    return np.array([[Fraction(x) for x in row] for row in array.tolist()], dtype=object)


def _integers(values: NDArray[np.object_], tolerance: Fraction) -> tuple[Integers, int]:
    """Return the values and a tolerance as integers, in a common unit."""
    unit = math.lcm(tolerance.denominator, *(x.denominator for x in values.ravel().tolist()))
    return np.vectorize(lambda x: int(x * unit), otypes=[object])(values), int(tolerance * unit)


def _positive(weights: Sequence[Fraction]) -> tuple[int, ...]:
    return tuple(i for i, weight in enumerate(weights) if weight > 0)


def _is_distribution(weights: Sequence[Fraction], length: int) -> bool:
    return len(weights) == length and min(weights) >= 0 and sum(weights) == 1


def _holds(form: _Form, witness: Witness) -> bool:
    """The definition, word for word, in rationals: the only way for an action to be IN."""
    if not _is_distribution(witness.strategy, form.num_actions):
        return False
    if not _is_distribution(witness.belief, form.num_models):
        return False
    fits = sorted(form.best_fits(witness.strategy))
    belief = np.array([witness.belief[form.models[m]] for m in fits], dtype=object)
    if sum(belief) != 1:
        return False
    expected = belief @ form.payoffs[fits]
    return 0 <= witness.action < form.num_actions and bool(
        expected[witness.action] >= expected.max() - form.slack
    )


# Linear programs in integers


def _maximise(
    objective: Sequence[int], rows: Integers, bounds: Sequence[int], total: Sequence[int]
) -> list[Fraction] | None:
    """Maximise objective.x over x >= 0, rows.x <= bounds and total.x = 1, exactly.

    The objective is bounded, and all ``bounds`` are >= 0: x = 0 meets every constraint but
    the last, whose slack is driven out first.

    Returns
    -------
    list of Fraction, or None if there is no such x.
    """
    table = _Tableau(objective, rows, bounds, total)
    while table.equation_is_open:
        if not table.improve(table.TOTAL):
            return None
    while table.improve(table.OBJECTIVE):
        pass
    return table.solution()


class _Tableau:
    """Fraction-free simplex tableau (Edmonds): integers over one common denominator.

    Its last two rows are what is still to gain in ``total`` and in ``objective``.
    """

    TOTAL, OBJECTIVE = -2, -1

    def __init__(
        self, objective: Sequence[int], rows: Integers, bounds: Sequence[int], total: Sequence[int]
    ):
        self.size, self.count = len(total), len(rows) + 1
        table = np.zeros((self.count + 2, self.size + self.count + 1), dtype=object)
        table[0, : self.size], table[0, -1] = total, 1
        table[1 : self.count, : self.size], table[1 : self.count, -1] = rows, bounds
        table[: self.count, self.size : -1] = np.eye(self.count, dtype=int).astype(object)
        table[self.TOTAL, : self.size] = total
        table[self.OBJECTIVE, : self.size] = objective
        self.table, self.denominator = table, 1
        self.basis = list(range(self.size, self.size + self.count))

    @property
    def equation_is_open(self) -> bool:
        """Whether the slack of ``total.x = 1``, the first one, is still in the basis."""
        return self.size in self.basis

    def improve(self, goal: int) -> bool:
        """Pivot so that the goal cannot fall; False if it is at its maximum."""
        # Bland's rule: the first column that helps. The equation's slack never comes back.
        columns = (c for c in range(self.size + self.count) if c != self.size)
        column = next((c for c in columns if self.table[goal, c] > 0), None)
        if column is None:
            return False
        row = self._leaving(column)
        pivot, kept = self.table[row, column], self.table[row].copy()
        shifted = self.table * pivot - np.outer(self.table[:, column], kept)
        self.table = shifted // self.denominator  # always without remainder
        self.table[row], self.basis[row], self.denominator = kept, column, pivot
        return True

    def _leaving(self, column: int) -> int:
        """Return the row that limits the column; ties go to the equation, then by Bland's rule."""
        rows = [r for r in range(self.count) if self.table[r, column] > 0]
        ratio = {r: Fraction(self.table[r, -1], self.table[r, column]) for r in rows}
        return min(rows, key=lambda r: (ratio[r], self.basis[r] != self.size, self.basis[r]))

    def solution(self) -> list[Fraction]:
        values = dict(zip(self.basis, self.table[: self.count, -1], strict=True))
        return [Fraction(values.get(c, 0), self.denominator) for c in range(self.size)]


# Classes of play


@dataclasses.dataclass(frozen=True)
class _Play:
    """All play that leaves exactly ``models`` standing: it uses only ``actions``.

    Sets of played actions with the same surviving models make one such class, whose largest
    member is ``actions``. ``refuted`` lists, for every other supported model, the actions
    among them that refute it; play must give each list positive probability. ``contenders``
    are the models that no single other one beats after every action: nobody believes the rest.
    """

    actions: tuple[int, ...]
    models: tuple[int, ...]
    contenders: tuple[int, ...]
    refuted: tuple[tuple[int, ...], ...]


def _plays(form: _Form, available: Iterable[int]) -> list[_Play]:
    """All classes of play of the available actions, those with most models first."""
    columns = {form.admissible([b]) for b in available}
    closed: set[frozenset[int]] = set()
    for column in columns:
        closed |= {column} | {column & other for other in closed}
    plays = []
    for models in sorted(closed - {frozenset()}, key=lambda s: (-len(s), sorted(s))):
        actions = tuple(b for b in sorted(available) if form.allowed[sorted(models), b].all())
        others = set(range(len(form.models))) - models
        refuted = {tuple(b for b in actions if not form.allowed[m, b]) for m in others}
        contenders = _contenders(form, sorted(models), actions)
        plays.append(_Play(actions, tuple(sorted(models)), contenders, tuple(sorted(refuted))))
    return plays


def _strategy(form: _Form, play: _Play, tied: Iterable[int]) -> tuple[Fraction, ...] | None:
    """Play of this class under which all of ``tied`` fit best, exactly; None if there is none.

    Variables: the probabilities, the best fit t, and the least probability with which
    a model that has to be refuted is refuted, which is maximised.
    """
    # Relative to the best model for each action, t is never negative.
    kl = form.kl[:, play.actions] - form.kl[np.ix_(play.contenders, play.actions)].min(0)
    refuting = [[-int(b in some) for b in play.actions] for some in play.refuted]
    parts = (
        (kl[sorted(tied)].tolist(), [-1, 0], form.tol_fit),
        ((-kl[list(play.contenders)]).tolist(), [1, 0], 0),
        (refuting or [[-1] * len(play.actions)], [0, 1], 0),
    )
    rows = [line + others for lines, others, _ in parts for line in lines]
    bounds = [bound for lines, _, bound in parts for _ in lines]
    total = [1] * len(play.actions) + [0, 0]
    objective = [0] * len(play.actions) + [0, 1]
    solution = _maximise(objective, np.array(rows, dtype=object), bounds, total)
    if solution is None or solution[-1] == 0:
        return None
    strategy = [Fraction(0)] * form.num_actions
    for b, probability in zip(play.actions, solution, strict=False):
        strategy[b] = probability
    return tuple(strategy)


def _contenders(form: _Form, models: Sequence[int], actions: Sequence[int]) -> tuple[int, ...]:
    """Models that no other one fits better than, by more than the tolerance, after each action."""
    beaten = np.ones((len(models), len(models)), bool)
    for b in actions:
        fit = form.kl[models, b]
        beaten &= np.asarray(fit[:, None] > fit[None, :] + form.tol_fit, bool)
    return tuple(m for m, by in zip(models, beaten, strict=True) if not by.any())


# The search for a witness


@dataclasses.dataclass(frozen=True)
class _Verdict:
    """IN with a witness, OUT with the tolerance behind it, or UNDECIDED."""

    status: Certainty
    witness: Witness | None = None
    tolerance: float = 0.0
    least_play: float = 0.0


class _Search:
    """Decides whether an action is in Gamma(B), and remembers what carries over to smaller B."""

    def __init__(self, form: _Form):
        self.form = form
        self._witnesses: dict[int, list[Witness]] = {}
        self._refuted: dict[tuple[int, tuple[int, ...]], _Verdict] = {}
        self._beliefs: dict[tuple[int, frozenset[int]], dict[int, Fraction] | None] = {}
        self._plays: dict[frozenset[int], list[_Play]] = {}
        everything = range(form.num_actions)
        self._pure = [tuple(Fraction(int(a == b)) for a in everything) for b in everything]
        self._pure_fits = [form.best_fits(strategy) for strategy in self._pure]

    def decide(self, action: int, available: frozenset[int]) -> _Verdict:
        """Whether some play of ``available`` justifies ``action``."""
        for witness in self._witnesses.get(action, []):
            if available.issuperset(witness.played):
                return _Verdict(Certainty.IN, witness)
        verdict = self._pure_verdict(action, available)
        if verdict is None:
            verdict = self._mixed_verdict(action, available)
        if verdict.witness is not None:
            self._witnesses.setdefault(action, []).append(verdict.witness)
        return verdict

    def _pure_verdict(self, action: int, available: frozenset[int]) -> _Verdict | None:
        for b in sorted(available):
            belief = self.belief(action, self._pure_fits[b])
            if belief is not None:
                return self._proved(action, self._pure[b], belief)
        return None

    def _mixed_verdict(self, action: int, available: frozenset[int]) -> _Verdict:
        if available not in self._plays:
            self._plays[available] = _plays(self.form, available)
        tolerance, least_play, undecided = 0.0, 0.0, False
        for play in self._plays[available]:
            verdict = self._class_verdict(action, play)
            if verdict.status == Certainty.IN:
                return verdict
            undecided |= verdict.status == Certainty.UNDECIDED
            tolerance = max(tolerance, verdict.tolerance)
            least_play = max(least_play, verdict.least_play)
        status = Certainty.UNDECIDED if undecided else Certainty.OUT
        return _Verdict(status, None, tolerance, least_play)

    def _class_verdict(self, action: int, play: _Play) -> _Verdict:
        # With fewer actions available the same models survive fewer strategies, so that an
        # exclusion stays one.
        known = self._refuted.get((action, play.models))
        if known is not None:
            return known
        if len(play.actions) == 1 or self.belief(action, frozenset(play.models)) is None:
            verdict = _Verdict(Certainty.OUT)
        elif self.form.num_actions == 2:
            verdict = self._two_action_verdict(action, play)
        else:
            verdict = self._milp_verdict(action, play)
        if verdict.status == Certainty.OUT:
            self._refuted[action, play.models] = verdict
        return verdict

    def belief(self, action: int, models: frozenset[int]) -> dict[int, Fraction] | None:
        """A belief over ``models`` under which ``action`` is optimal, exactly; None if none is."""
        key = (action, models)
        if key not in self._beliefs:
            self._beliefs[key] = _belief(self.form, action, sorted(models))
        return self._beliefs[key]

    def _two_action_verdict(self, action: int, play: _Play) -> _Verdict:
        """Two actions: one model is belief enough, and it fits best on one interval of play."""
        for model in play.models:
            belief = self.belief(action, frozenset([model]))
            share = None if belief is None else _best_share(self.form, play, model)
            if belief is None or share is None:
                continue
            strategy = (share, 1 - share)
            if model in self.form.best_fits(strategy):
                return self._proved(action, strategy, belief)
        return _Verdict(Certainty.OUT)

    def _milp_verdict(self, action: int, play: _Play) -> _Verdict:
        """Have the program propose tied models until one set is right or none is left."""
        program = _Program(self.form, action, play)
        least = math.inf
        for _ in range(MAX_CUTS):
            proposal = program.propose()
            if not isinstance(proposal, _Proposal):
                return _Verdict(proposal, tolerance=MILP_TOLERANCE)
            found = self._examine(action, play, proposal, program)
            if found is not None:
                return found
            least = proposal.least
        if least < LEAST_PLAY:
            return _Verdict(Certainty.OUT, None, MILP_TOLERANCE, LEAST_PLAY)
        return _Verdict(Certainty.UNDECIDED)

    def _examine(
        self, action: int, play: _Play, proposal: _Proposal, program: _Program
    ) -> _Verdict | None:
        """Decide a proposal exactly: a witness, or a cut that no witness violates."""
        tied: frozenset[int] = frozenset()
        for models in dict.fromkeys((proposal.believed, proposal.tied)):
            strategy = _strategy(self.form, play, models)
            if strategy is None:
                program.forbid_all_of(models)
                return None
            tied = self.form.best_fits(strategy)
            belief = self.belief(action, tied)
            if belief is not None:
                return self._proved(action, strategy, belief)
        program.demand_outside(tied)
        return None

    def _proved(
        self, action: int, strategy: Sequence[Fraction], belief: dict[int, Fraction]
    ) -> _Verdict:
        witness = self.form.witness(action, strategy, belief)
        if not _holds(self.form, witness):
            raise AssertionError(f"a witness failed its own check: {witness}")
        return _Verdict(Certainty.IN, witness)


def _belief(form: _Form, action: int, models: Sequence[int]) -> dict[int, Fraction] | None:
    if not models:
        return None
    payoffs = form.payoffs[list(models)]
    loss = payoffs - payoffs[:, [action]]
    alone = np.flatnonzero(loss.max(1) <= form.slack)
    if len(alone):
        return {models[alone[0]]: Fraction(1)}
    rows = np.delete(loss, action, 1).T
    solution = _maximise([0] * len(models), rows, [form.slack] * len(rows), [1] * len(models))
    if solution is None:
        return None
    return {m: p for m, p in zip(models, solution, strict=True) if p > 0}


def _best_share(form: _Form, play: _Play, model: int) -> Fraction | None:
    """Middle of the interval of shares s of the first action at which ``model`` fits best."""
    low, high = Fraction(0), Fraction(1)
    first, second = play.actions
    for other in play.models:
        # Here s * at_one + (1 - s) * at_zero <= tol_fit.
        at_one = form.kl[model, first] - form.kl[other, first] - form.tol_fit
        at_zero = form.kl[model, second] - form.kl[other, second] - form.tol_fit
        if at_one > 0 and at_zero > 0:
            return None
        if at_one > 0:
            high = min(high, Fraction(-at_zero, at_one - at_zero))
        elif at_zero > 0:
            low = max(low, Fraction(at_zero, at_zero - at_one))
    return (low + high) / 2 if low <= high else None


# The mixed-integer program


@dataclasses.dataclass(frozen=True)
class _Proposal:
    """Models that are tied for the best fit, those believed, and the least refuting play."""

    tied: frozenset[int]
    believed: frozenset[int]
    least: float


class _Program:
    """The program for one action and one class of play; variables sigma, t, delta, mu, z.

    sigma is play, t its best fit, delta the least refuting play, mu the belief, and z marks
    the models that may be believed because they are tied. Divergences are relative to the best
    model for each action and scaled to a range of 1, payoffs are scaled likewise.
    """

    def __init__(self, form: _Form, action: int, play: _Play):
        self._candidates = play.contenders
        kl = form.kl[np.ix_(self._candidates, play.actions)]
        kl = kl - kl.min(0)
        scale = max(int(kl.max()), 1)
        # Integers of any size divide to the nearest float.
        divergence = np.array(kl / scale, np.float64)
        payoffs = form.payoffs[list(self._candidates)]
        spread = max(int(payoffs.max() - payoffs.min()), 1)
        loss = np.array((payoffs - payoffs[:, [action]]) / spread, np.float64)
        self._num_candidates, self._num_played = divergence.shape
        self._strict = bool(play.refuted)
        self._blocks: list[NDArray[np.float64]] = []
        self._bounds: list[float] = []
        self._add_fit(divergence, form.tol_fit / scale + MILP_TOLERANCE)
        self._add_belief(np.delete(loss, action, 1).T, form.slack / spread + MILP_TOLERANCE)
        for refuting in play.refuted:
            sigma = [-float(b in refuting) for b in play.actions]
            self._add(sigma=sigma, delta=1.0)

    def _add(
        self,
        bound: Any = 0.0,
        *,
        sigma: Any = 0.0,
        best: Any = 0.0,
        delta: Any = 0.0,
        belief: Any = 0.0,
        tied: Any = 0.0,
    ) -> None:
        """Add rows ``coefficients . variables <= bound``; each argument is a block of columns."""
        played, candidates = self._num_played, self._num_candidates
        count = max(np.atleast_2d(x).shape[0] for x in (sigma, belief, tied))
        widths = ((sigma, played), (best, 1), (delta, 1), (belief, candidates), (tied, candidates))
        block = np.hstack([np.broadcast_to(x, (count, width)) for x, width in widths])
        self._blocks.append(block)
        self._bounds += np.broadcast_to(bound, count).tolist()

    def _add_fit(self, divergence: NDArray[np.float64], tolerance: float) -> None:
        # A model's fit exceeds the best by at most its own largest relative divergence.
        most = divergence.max(1)
        self._add(tolerance + most, sigma=divergence, best=-1.0, tied=np.diag(most))
        self._add(sigma=-divergence, best=1.0)

    def _add_belief(self, loss: NDArray[np.float64], tolerance: float) -> None:
        self._add(belief=np.eye(self._num_candidates), tied=-np.eye(self._num_candidates))
        self._add(tolerance, belief=loss)

    def forbid_all_of(self, models: frozenset[int]) -> None:
        """No play makes all of these fit best."""
        self._add(len(models) - 1.0, tied=[float(m in models) for m in self._candidates])

    def demand_outside(self, models: frozenset[int]) -> None:
        """No belief over these alone justifies the action."""
        self._add(-1.0, tied=[-float(m not in models) for m in self._candidates])

    def propose(self) -> _Proposal | Certainty:
        """Solve: a proposal, OUT if there is none, UNDECIDED if HiGHS could not tell."""
        # SciPy's solver takes long to import, and most users never certify.
        from scipy.optimize import Bounds, milp

        played, candidates = self._num_played, self._num_candidates
        size = played + 2 + 2 * candidates
        total = np.zeros((2, size))
        total[0, :played] = total[1, played + 2 : played + 2 + candidates] = 1
        cost, integrality = np.zeros(size), np.zeros(size)
        cost[played + 1] = -float(self._strict)
        integrality[size - candidates :] = 1
        result = milp(
            cost,
            integrality=integrality,
            bounds=Bounds(0, 1),
            constraints=[(np.concatenate(self._blocks), -np.inf, self._bounds), (total, 1, 1)],
            # Presolve gains nothing at this size, and near-ties make it print to the terminal.
            options={"time_limit": MILP_SECONDS, "presolve": False},
        )
        if result.status == 2:
            return Certainty.OUT
        if result.status != 0 or result.x is None:
            return Certainty.UNDECIDED
        # Up to 1e-6 of belief may be an artefact of HiGHS's integrality tolerance.
        belief, mark = np.split(result.x[played + 2 :], 2)
        tied = frozenset(m for m, z in zip(self._candidates, mark, strict=True) if z > 0.5)
        believed = frozenset(
            m for m, p in zip(self._candidates, belief, strict=True) if p > 1e-6 and m in tied
        )
        least = -result.mip_dual_bound if self._strict else 1.0
        return _Proposal(tied, believed or tied, least)


# Elimination


def _eliminate(search: _Search) -> tuple[frozenset[int], list[Exclusion], int]:
    """Iterate B <- Gamma(B) from all actions; what is undecided stays."""
    left = frozenset(range(search.form.num_actions))
    exclusions: list[Exclusion] = []
    rounds = 0
    while True:
        rounds += 1
        verdicts = {a: search.decide(a, left) for a in sorted(left)}
        gone = [a for a, verdict in verdicts.items() if verdict.status == Certainty.OUT]
        for a in gone:
            verdict = verdicts[a]
            exclusions.append(
                Exclusion(a, rounds, tuple(sorted(left)), verdict.tolerance, verdict.least_play)
            )
        left -= frozenset(gone)
        if not gone:
            return left, exclusions, rounds


def _self_justified(search: _Search, left: frozenset[int]) -> dict[int, Witness]:
    """The largest set found whose members all have witnesses that play only its members."""
    while True:
        verdicts = {a: search.decide(a, left) for a in sorted(left)}
        witnesses = {a: v.witness for a, v in verdicts.items() if v.witness is not None}
        if len(witnesses) == len(left):
            return witnesses
        left = frozenset(witnesses)
