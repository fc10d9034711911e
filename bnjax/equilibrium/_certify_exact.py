"""A finite problem in exact numbers, and what can be decided of it without floating point.

Whether models can be tied for the best fit, and whether a belief over them justifies an action,
are linear programs: they are solved here in integers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import ArrayLike
from numpy.typing import NDArray

from .._check import is_concrete
from ._tolerance import SINGLE, least_payoff_range

# Tolerances of fit, in nats, and of payoff, relative to the range of subjective payoffs, in double
# and in single precision; the latter are those of `rationalizable`, because rounding to single
# precision breaks ties that hold in theory.
_TOLERANCES = (1e-9, 1e-9), SINGLE

Integers = NDArray[np.object_]
"""Arrays of Python integers: exact, of any size."""


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
        return positive(self.strategy)

    @property
    def believed(self) -> tuple[int, ...]:
        """Models with positive probability."""
        return positive(self.belief)

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
        return holds(
            exact_form(problem, *read_terms(problem, exploration, tol_fit, tol_payoff)), self
        )


# The problem in exact numbers


@dataclasses.dataclass(frozen=True)
class ExactForm:
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
        played = list(positive(strategy))
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


def read_terms(
    problem: Any,
    exploration: ArrayLike,
    tol_fit: ArrayLike | None,
    tol_payoff: ArrayLike | None,
) -> tuple[Fraction, Fraction, Fraction]:
    """Validate the arguments that come with a problem, and fill in the defaults."""
    tremble = _number("exploration", exploration, upper=1.0)
    if tol_fit is None or tol_payoff is None:
        fit, payoff = _TOLERANCES[_reduced(problem)[-1] == np.float32]
        tol_fit = fit if tol_fit is None else tol_fit
        tol_payoff = payoff if tol_payoff is None else tol_payoff
    return tremble, _number("tol_fit", tol_fit), _number("tol_payoff", tol_payoff)


def exact_form(
    problem: Any, tremble: Fraction, tol_fit: Fraction, tol_payoff: Fraction
) -> ExactForm:
    """Apply exploration, drop unsupported models, and leave floating point."""
    kl, ruled_out, payoffs, support, dtype = _reduced(problem)
    num_models, num_actions = kl.shape
    models = np.flatnonzero(support)
    kl, ruled_out, payoffs = kl[models], ruled_out[models], payoffs[models]
    exact_kl = _fractions(np.where(ruled_out, 0.0, kl))
    if tremble:
        mean = exact_kl.sum(1, keepdims=True) / num_actions
        exact_kl = (1 - tremble) * exact_kl + tremble * mean
        ruled_out = np.broadcast_to(ruled_out.any(1, keepdims=True), ruled_out.shape)
    exact_payoffs = _fractions(payoffs)
    least = Fraction(least_payoff_range(dtype)) * abs(exact_payoffs).max()
    slack = tol_payoff * max(exact_payoffs.max() - exact_payoffs.min(), least)
    kl_integers, tol_integer = _integers(exact_kl, tol_fit)
    payoff_integers, slack_integer = _integers(exact_payoffs, slack)
    return ExactForm(
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


def _reduced(problem: Any) -> tuple[Any, ...]:
    """Return K, the ruled-out mask, U, the support and U's own type, or say what is wrong."""
    if not hasattr(problem, "reduced_form"):
        raise ValueError(f"`problem` must be a bnjax problem; got {type(problem).__name__}.")
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
    return kl, ruled_out, payoffs, support, np.asarray(fields[2]).dtype


def _fractions(array: NDArray[np.float64]) -> NDArray[np.object_]:
    return np.array([[Fraction(x) for x in row] for row in array.tolist()], dtype=object)


def _integers(values: NDArray[np.object_], tolerance: Fraction) -> tuple[Integers, int]:
    """Return the values and a tolerance as integers, in a common unit."""
    unit = math.lcm(tolerance.denominator, *(x.denominator for x in values.ravel().tolist()))
    return np.vectorize(lambda x: int(x * unit), otypes=[object])(values), int(tolerance * unit)


def positive(weights: Sequence[Fraction]) -> tuple[int, ...]:
    return tuple(i for i, weight in enumerate(weights) if weight > 0)


def _is_distribution(weights: Sequence[Fraction], length: int) -> bool:
    return len(weights) == length and min(weights) >= 0 and sum(weights) == 1


def holds(form: ExactForm, witness: Witness) -> bool:
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


def maximise(
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


# Play and beliefs


@dataclasses.dataclass(frozen=True)
class PlayClass:
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


def play_classes(form: ExactForm, available: Iterable[int]) -> list[PlayClass]:
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
        plays.append(PlayClass(actions, tuple(sorted(models)), contenders, tuple(sorted(refuted))))
    return plays


def _contenders(form: ExactForm, models: Sequence[int], actions: Sequence[int]) -> tuple[int, ...]:
    """Models that no other one fits better than, by more than the tolerance, after each action."""
    beaten = np.ones((len(models), len(models)), bool)
    for b in actions:
        fit = form.kl[models, b]
        beaten &= np.asarray(fit[:, None] > fit[None, :] + form.tol_fit, bool)
    return tuple(m for m, by in zip(models, beaten, strict=True) if not by.any())


def tied_play(form: ExactForm, play: PlayClass, tied: Iterable[int]) -> tuple[Fraction, ...] | None:
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
    solution = maximise(objective, np.array(rows, dtype=object), bounds, total)
    if solution is None or solution[-1] == 0:
        return None
    strategy = [Fraction(0)] * form.num_actions
    for b, probability in zip(play.actions, solution, strict=False):
        strategy[b] = probability
    return tuple(strategy)


def best_share(form: ExactForm, play: PlayClass, model: int) -> Fraction | None:
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


def justifying_belief(
    form: ExactForm, action: int, models: Sequence[int]
) -> dict[int, Fraction] | None:
    if not models:
        return None
    payoffs = form.payoffs[list(models)]
    loss = payoffs - payoffs[:, [action]]
    alone = np.flatnonzero(loss.max(1) <= form.slack)
    if len(alone):
        return {models[alone[0]]: Fraction(1)}
    rows = np.delete(loss, action, 1).T
    solution = maximise([0] * len(models), rows, [form.slack] * len(rows), [1] * len(models))
    if solution is None:
        return None
    return {m: p for m, p in zip(models, solution, strict=True) if p > 0}
