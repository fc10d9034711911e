"""Integer codes of results: small enough for arrays, with names for people.

Results are arrays, so a status is an integer; ``bn.Phase(int(code)).name`` is its name.
The values are part of the public contract: they are stored in data sets, so never renumber.
"""

from __future__ import annotations

import enum


class Certainty(enum.IntEnum):
    """What is known about whether an action is Berk-Nash rationalizable.

    Attributes
    ----------
    OUT
        Excluded: no belief that can survive justifies the action. For a continuum of models and
        more than two actions this holds if the family keeps its promise
        (`Family.unique_best_fit`), without which no action is OUT.
    IN
        Rationalizable: the action has a verified witness that plays only actions which have
        witnesses of the same kind.
    UNDECIDED
        Possible: neither is shown. Masks of "not excluded" include the action.
    """

    OUT = 0
    IN = 1
    UNDECIDED = 2


class Phase(enum.IntEnum):
    """The safety phase of a problem.

    Attributes
    ----------
    SAFE
        Every rationalizable action is safe.
    UNSAFE
        Every rationalizable action is unsafe.
    MULTISTABLE
        There is both a safe and an unsafe pure equilibrium: the prior, or chance, selects.
    OSCILLATORY
        There is no pure equilibrium, and actions of both kinds are rationalizable.
    INDETERMINATE
        The pure equilibria are of one kind only, but the other kind is rationalizable: the
        theory does not exclude it, which is not to say that it will happen.
    UNDECIDED
        The solver could not tell what is rationalizable or which pure strategies are equilibria
        (more than two actions, or a continuum of models); `certify` may know the former.
    INVALID
        The numbers make no sense (a probability outside [0, 1], say), or no model
        survives what happens.
    """

    SAFE = 0
    UNSAFE = 1
    MULTISTABLE = 2
    OSCILLATORY = 3
    INDETERMINATE = 4
    UNDECIDED = 5
    INVALID = 6


class Stability(enum.IntEnum):
    """Stability of an equilibrium under the mean-field dynamics.

    It speaks of small trembles of play. An unstable equilibrium can still be absorbing, when
    nothing that is observed there tells the believed models apart.

    Attributes
    ----------
    UNKNOWN
        Not determined: a degenerate case, or more than two actions.
    STABLE
        Play that starts close by returns.
    UNSTABLE
        Play that starts close by, on at least one side, moves away.
    """

    UNKNOWN = 0
    STABLE = 1
    UNSTABLE = 2


class SolveStatus(enum.IntEnum):
    """How the solution of a fixed-point equation ended.

    Attributes
    ----------
    CONVERGED
        Solved to within the tolerance, by a solution at which the flow that selects it can
        come to rest.
    MAX_STEPS
        Not found in the steps that there are, or not resolved in this precision: what is reported
        is the last iterate, and it has no derivative (NaN).
    NONFINITE
        The numbers make no sense, or became infinite: what is reported is NaN.
    """

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
