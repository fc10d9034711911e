"""The search for witnesses: exact where it can be, a mixed-integer program where it has to be.

The program proposes models that might be tied; only what exact arithmetic confirms counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._certify_exact import (
    ExactForm,
    PlayClass,
    Witness,
    best_share,
    holds,
    justifying_belief,
    play_classes,
    tied_play,
)
from ._codes import Certainty

MILP_TOLERANCE = 1e-7
"""By how much the mixed-integer program is relaxed, relative to the range of its divergences and
payoffs, so that rounding inside HiGHS (feasible to 1e-7) cannot hide a witness."""

LEAST_PLAY = 1e-6
"""Play that refutes a model with less than this probability is below HiGHS's resolution."""

MAX_CUTS = 64
"""Proposals of the mixed-integer program that are refuted exactly before giving up."""

MILP_SECONDS = 60.0
"""Time limit of one mixed-integer program; reaching it leaves the action undecided."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """IN with a witness, OUT with the tolerance behind it, or UNDECIDED."""

    certainty: Certainty
    witness: Witness | None = None
    tolerance: float = 0.0
    least_play: float = 0.0


class Search:
    """Decides whether an action is in Gamma(B), and remembers what carries over to smaller B."""

    def __init__(self, form: ExactForm):
        self.form = form
        self._witnesses: dict[int, list[Witness]] = {}
        self._refuted: dict[tuple[int, tuple[int, ...]], Verdict] = {}
        self._beliefs: dict[tuple[int, frozenset[int]], dict[int, Fraction] | None] = {}
        self._plays: dict[frozenset[int], list[PlayClass]] = {}
        everything = range(form.num_actions)
        self._pure = [tuple(Fraction(int(a == b)) for a in everything) for b in everything]
        self._pure_fits = [form.best_fits(strategy) for strategy in self._pure]

    def decide(self, action: int, available: frozenset[int]) -> Verdict:
        """Whether some play of ``available`` justifies ``action``."""
        for witness in self._witnesses.get(action, []):
            if available.issuperset(witness.played):
                return Verdict(Certainty.IN, witness)
        verdict = self._pure_verdict(action, available)
        if verdict is None:
            verdict = self._mixed_verdict(action, available)
        if verdict.witness is not None:
            self._witnesses.setdefault(action, []).append(verdict.witness)
        return verdict

    def _pure_verdict(self, action: int, available: frozenset[int]) -> Verdict | None:
        for b in sorted(available):
            belief = self.belief(action, self._pure_fits[b])
            if belief is not None:
                return self._proved(action, self._pure[b], belief)
        return None

    def _mixed_verdict(self, action: int, available: frozenset[int]) -> Verdict:
        if available not in self._plays:
            self._plays[available] = play_classes(self.form, available)
        tolerance, least_play, undecided = 0.0, 0.0, False
        for play in self._plays[available]:
            verdict = self._class_verdict(action, play)
            if verdict.certainty == Certainty.IN:
                return verdict
            undecided |= verdict.certainty == Certainty.UNDECIDED
            tolerance = max(tolerance, verdict.tolerance)
            least_play = max(least_play, verdict.least_play)
        status = Certainty.UNDECIDED if undecided else Certainty.OUT
        return Verdict(status, None, tolerance, least_play)

    def _class_verdict(self, action: int, play: PlayClass) -> Verdict:
        # With fewer actions available the same models survive fewer strategies, so that an
        # exclusion stays one.
        known = self._refuted.get((action, play.models))
        if known is not None:
            return known
        if len(play.actions) == 1 or self.belief(action, frozenset(play.models)) is None:
            verdict = Verdict(Certainty.OUT)
        elif self.form.num_actions == 2:
            verdict = self._two_action_verdict(action, play)
        else:
            verdict = self._milp_verdict(action, play)
        if verdict.certainty == Certainty.OUT:
            self._refuted[action, play.models] = verdict
        return verdict

    def belief(self, action: int, models: frozenset[int]) -> dict[int, Fraction] | None:
        """A belief over ``models`` under which ``action`` is optimal, exactly; None if none is."""
        key = (action, models)
        if key not in self._beliefs:
            self._beliefs[key] = justifying_belief(self.form, action, sorted(models))
        return self._beliefs[key]

    def _two_action_verdict(self, action: int, play: PlayClass) -> Verdict:
        """Two actions: one model is belief enough, and it fits best on one interval of play."""
        for model in play.models:
            belief = self.belief(action, frozenset([model]))
            share = None if belief is None else best_share(self.form, play, model)
            if belief is None or share is None:
                continue
            strategy = (share, 1 - share)
            if model in self.form.best_fits(strategy):
                return self._proved(action, strategy, belief)
        return Verdict(Certainty.OUT)

    def _milp_verdict(self, action: int, play: PlayClass) -> Verdict:
        """Have the program propose tied models until one set is right or none is left."""
        program = _Program(self.form, action, play)
        least = math.inf
        for _ in range(MAX_CUTS):
            proposal = program.propose()
            if not isinstance(proposal, _Proposal):
                return Verdict(proposal, tolerance=MILP_TOLERANCE)
            found = self._examine(action, play, proposal, program)
            if found is not None:
                return found
            least = proposal.least
        if least < LEAST_PLAY:
            return Verdict(Certainty.OUT, None, MILP_TOLERANCE, LEAST_PLAY)
        return Verdict(Certainty.UNDECIDED)

    def _examine(
        self, action: int, play: PlayClass, proposal: _Proposal, program: _Program
    ) -> Verdict | None:
        """Decide a proposal exactly: a witness, or a cut that no witness violates."""
        tied: frozenset[int] = frozenset()
        for models in dict.fromkeys((proposal.believed, proposal.tied)):
            strategy = tied_play(self.form, play, models)
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
    ) -> Verdict:
        witness = self.form.witness(action, strategy, belief)
        if not holds(self.form, witness):
            raise AssertionError(f"a witness failed its own check: {witness}")
        return Verdict(Certainty.IN, witness)


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

    def __init__(self, form: ExactForm, action: int, play: PlayClass):
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
