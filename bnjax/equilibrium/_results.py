"""What the solvers return: arrays of fixed shape, with a summary in words."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._summary import NO_SENSE, check_one, is_one, shape_label, theta_label
from ..problem import FamilyProblem
from ._codes import Certainty, Stability


class Equilibria(eqx.Module):
    """Berk-Nash equilibria of a problem: components, not only points.

    E is `max_equilibria`; rows past the last equilibrium are padding (``valid`` is False).
    Every field goes through `jax.jit` and `jax.vmap`.

    Parameters
    ----------
    strategy, strategy_end : [E, A] intended play. They differ where a whole segment of
        strategies are equilibria, and are then its two ends, both equilibria under ``belief``.
        A continuum along which no single belief holds throughout is listed in pieces that meet.
        One that leads up to a pure strategy without holding there (which takes a model that
        play next to it refutes) ends at the number next to it.
    realised : [E, A] what is actually played at ``strategy``, trembles included.
    belief : [E, M] a belief that supports the equilibrium (finite Theta; None otherwise).
    atoms, atom_weight : [E, A, D], [E, A] the same for continuous Theta: parameters believed
        and their probabilities (None for finite Theta).
    best_fit : [E, D] mean parameter under that belief (D = 0 for models without ``theta``).
    others_fit : [E] whether models that are not believed fit as well, so that the belief (and
        ``best_fit``) is one of several.
    is_pure : [E] whether the component is one pure strategy and nothing else.
    stability : [E] codes of `Stability` under the mean-field dynamics with small trembles;
        pieces of one continuum have that of the whole.
    absorbing : [E] whether it is pure and what is played there, trembles included, teaches
        nothing at all: models of the support agree on its consequences, so that no belief moves.
    residual : [E] the larger of the misfit (nats) and the loss (share of the payoff range)
        that verification left, at the worse end of a segment (in between it is no larger).
    valid : [E] which rows are equilibria.
    pure : [A] which pure strategies are equilibria, also as the end of a continuum.
    complete : whether every equilibrium is provably listed.
    tol_fit, tol_payoff : tolerances at which all of this holds.
    pure_undecided : [A] which pure strategies are neither shown to be equilibria nor shown not
        to be; None where that cannot happen (two actions and finitely many models).

    Notes
    -----
    Where (traced) numbers make no sense, so that the phase would be INVALID, ``valid``,
    ``complete`` and ``pure`` are False, the tolerances are NaN and other fields mean nothing.
    """

    strategy: Float[Array, "equilibria actions"]
    strategy_end: Float[Array, "equilibria actions"]
    realised: Float[Array, "equilibria actions"]
    belief: Float[Array, "equilibria models"] | None
    atoms: Float[Array, "equilibria actions parameters"] | None
    atom_weight: Float[Array, "equilibria actions"] | None
    best_fit: Float[Array, "equilibria parameters"]
    others_fit: Bool[Array, " equilibria"]
    is_pure: Bool[Array, " equilibria"]
    stability: Int[Array, " equilibria"]
    absorbing: Bool[Array, " equilibria"]
    residual: Float[Array, " equilibria"]
    valid: Bool[Array, " equilibria"]
    pure: Bool[Array, " actions"]
    complete: Bool[Array, ""]
    tol_fit: Float[Array, ""]
    tol_payoff: Float[Array, ""]
    pure_undecided: Bool[Array, " actions"] | None = None

    def __repr__(self) -> str:
        if not is_one(self.valid, 1):
            return f"Equilibria({shape_label(self.valid, 'slots')})"
        if _is_invalid(self):
            return f"Equilibria({NO_SENSE})"
        num = int(np.asarray(self.valid).sum())
        return f"Equilibria({num} found, complete={bool(self.complete)})"

    def summary(self, problem: Any = None) -> str:
        """Say in words, with the names of the problem, which equilibria there are.

        Parameters
        ----------
        problem : the problem they were computed from.

        Returns
        -------
        str
            One line an equilibrium.
        """
        check_one("Equilibria", self.valid, 1, problem, self.strategy.shape[-1])
        models = None if self.belief is None else self.belief.shape[-1]
        num_models = getattr(problem, "num_models", None)
        if num_models != models or len(problem.parameter_names) != self.best_fit.shape[-1]:
            raise ValueError(
                f"`problem` must be the one that was solved, with {_models(models)}; got one with "
                f"{_models(num_models)} and parameters {problem.parameter_names}."
            )
        if _is_invalid(self):
            return f"equilibria: none, because {NO_SENSE}"
        rows = [e for e in range(self.valid.shape[0]) if bool(self.valid[e])]
        lines = [self._describe(e, problem) for e in rows] or ["no equilibrium found"]
        if not bool(self.complete):
            lines.append(f"(there may be more: {_what_is_open(problem)})")
        return "\n".join(lines)

    def _describe(self, e: int, problem: Any) -> str:
        names = problem.action_names
        start, end = np.asarray(self.strategy[e]), np.asarray(self.strategy_end[e])
        segment = bool((start != end).any())
        if bool(self.is_pure[e]):
            play = f"pure: {names[int(start.argmax())]}"
        else:
            kind = "continuum" if segment else "mixed"
            play = f"{kind}: " + ", ".join(
                f"{name} {_share(low)}" + (f" to {_share(high)}" if segment else "")
                for name, low, high in zip(names, start, end, strict=True)
                if low > 0 or high > 0
            )
        notes = [Stability(int(self.stability[e])).name.lower()]
        notes += ["absorbing"] if bool(self.absorbing[e]) else []
        return f"{play} ({', '.join(notes)}; {self._describe_belief(e, problem)})"

    def _describe_belief(self, e: int, problem: Any) -> str:
        """Where it puts all its weight, or its weights, named by parameters if there are any."""
        if self.belief is not None:
            weights, theta = np.asarray(self.belief[e]), np.asarray(problem.theta)
            labels = [theta_label(x) if len(x) else f"model {m}" for m, x in enumerate(theta)]
        else:
            assert self.atoms is not None
            assert self.atom_weight is not None
            weights = np.asarray(self.atom_weight[e])
            labels = [theta_label(theta) for theta in np.asarray(self.atoms[e])]
        weight = {labels[i]: 0.0 for i in np.flatnonzero(weights)}
        for i in np.flatnonzero(weights):
            weight[labels[i]] += float(weights[i])
        others = ", among others" if bool(self.others_fit[e]) else ""
        if len(weight) == 1:
            return f"best fit {next(iter(weight))}{others}"
        return "belief " + ", ".join(f"{w:.4g} in {name}" for name, w in weight.items()) + others


class Rationalizable(eqx.Module):
    """The Berk-Nash rationalizable set: what may be played forever.

    Parameters
    ----------
    mask : [A] which actions are not excluded.
    certainty : [A] codes of `Certainty`: OUT (provably not in the set), IN (in it, with a
        verified self-justified set), UNDECIDED.
    tol_fit, tol_payoff : tolerances at which that holds.

    Notes
    -----
    Where (traced) numbers make no sense, so that the phase would be INVALID, all of ``certainty``
    is UNDECIDED, hence ``mask`` True, and the tolerances are NaN.
    """

    mask: Bool[Array, " actions"]
    certainty: Int[Array, " actions"]
    tol_fit: Float[Array, ""]
    tol_payoff: Float[Array, ""]

    def __repr__(self) -> str:
        if not is_one(self.mask, 1):
            return f"Rationalizable({shape_label(self.mask, 'actions')})"
        if _is_invalid(self):
            return f"Rationalizable({NO_SENSE})"
        return f"Rationalizable({[Certainty(int(c)).name for c in np.asarray(self.certainty)]})"

    def summary(self, problem: Any = None) -> str:
        """Say in words, with the names of the problem, which actions are rationalizable."""
        check_one("Rationalizable", self.mask, 1, problem, self.mask.shape[-1])
        if _is_invalid(self):
            return f"rationalizable: not determined, because {NO_SENSE}"
        by_code = {
            code: [
                name
                for name, c in zip(problem.action_names, self.certainty, strict=True)
                if int(c) == code
            ]
            for code in Certainty
        }
        text = "rationalizable: " + (", ".join(by_code[Certainty.IN]) or "none for certain")
        if by_code[Certainty.UNDECIDED]:
            text += "; undecided: " + ", ".join(by_code[Certainty.UNDECIDED])
        if by_code[Certainty.OUT]:
            text += "; excluded: " + ", ".join(by_code[Certainty.OUT])
        return text


def _share(probability: Any) -> str:
    """A probability in words, which says if it is not quite the 0 or 1 that rounding makes it."""
    nearly = 2 * np.finfo(probability.dtype).eps
    if 0 < probability <= nearly:
        return "more than 0"
    return "less than 1" if 1 - nearly <= probability < 1 else f"{probability:.6g}"


def _what_is_open(problem: Any) -> str:
    """Why a list of equilibria is not known to be complete."""
    if not isinstance(problem, FamilyProblem) or problem.num_actions == 2:
        return "completeness is not proved here"
    pairs = problem.family.dimension == 1 and not problem.family.has_charts
    mixtures = "of three actions or more" if pairs else "of actions"
    return f"of a continuum of models, mixtures {mixtures} are not searched"


def _is_invalid(result: Equilibria | Rationalizable) -> bool:
    return bool(np.isnan(np.asarray(result.tol_fit)))


def _models(number: int | None) -> str:
    return "a continuum of models" if number is None else f"{number} models"
