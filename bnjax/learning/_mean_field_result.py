"""What a mean-field solve returns: a trajectory, where it was heading, and how far to trust it."""

from __future__ import annotations

import enum
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._summary import NO_SENSE, batch_of, check_one, is_one


class Motion(enum.IntEnum):
    """How a mean-field trajectory ended.

    The values are part of the public contract: they are stored in data sets, so never renumber.

    Attributes
    ----------
    MOVING
        Still on its way at the end of the duration.
    SETTLED
        At rest, to within the tolerance.
    SLIDING
        On a switching surface, where the best replies on either side push it back: at rest on
        a stable mixture (two actions), or along the surface (more than two).
    NOT_UNIQUE
        Reached a point from which the inclusion has several solutions (an unstable mixture, a
        continuum of equilibria, a pure strategy that beliefs may keep or leave). Nothing is
        said of what follows.
    UNRESOLVED
        Reached a point where more than two actions are best replies: it may have one
        continuation or many. Nothing is said of what follows.
    MAX_STEPS
        The solver used up its steps.
    INVALID
        The numbers make no sense, or became infinite.
    """

    MOVING = 0
    SETTLED = 1
    SLIDING = 2
    NOT_UNIQUE = 3
    UNRESOLVED = 4
    MAX_STEPS = 5
    INVALID = 6


class MeanField(eqx.Module):
    """A trajectory of time-average play.

    Every field goes through `jax.jit` and `jax.vmap`.

    Parameters
    ----------
    times : [T] from 0 to the duration; time is the logarithm of the number of observations.
    strategy : [T, A] time-average of intended play; NaN past the time up to which it is
        determined (see ``result``).
    final : [A] the last strategy that is determined.
    target : [A] what play is drawn to there: d sigma/dt = target - sigma. NaN where several
        directions are open (NOT_UNIQUE, UNRESOLVED).
    result : a code of `Motion`.
    converged : whether the trajectory is determined to the end and at rest there.
    residual : the largest entry of |target - final|.
    last_event : the last time at which the target changed or the trajectory stopped being
        determined (hard version; 0 if never).
    complete : whether every switching point on the way is provably known (hard version; see
        `bnjax.Equilibria`).
    """

    times: Float[Array, " times"]
    strategy: Float[Array, "times actions"]
    final: Float[Array, " actions"]
    target: Float[Array, " actions"]
    result: Int[Array, ""]
    converged: Bool[Array, ""]
    residual: Float[Array, ""]
    last_event: Float[Array, ""]
    complete: Bool[Array, ""]

    def __repr__(self) -> str:
        if not is_one(self.result, 0):
            batch, saved = batch_of(self.result, 0), self.times.shape[-1]
            return f"MeanField(batch={batch}, num_saved={saved})"
        final = ", ".join(f"{x:.4g}" for x in np.asarray(self.final))
        return (
            f"MeanField({Motion(int(self.result)).name}, final=[{final}], "
            f"converged={bool(self.converged)}, residual={float(self.residual):.2g})"
        )

    def summary(self, problem: Any) -> str:
        """Say in words, with the names of the problem, how the trajectory ended.

        Parameters
        ----------
        problem : the problem it was computed from.

        Returns
        -------
        str
        """
        check_one("MeanField", self.result, 0, problem, self.final.shape[-1])
        names = problem.action_names
        ending = Motion(int(self.result))
        if ending == Motion.INVALID:
            return NO_SENSE
        horizon = float(self.times[-1])
        stopped = ending in (Motion.NOT_UNIQUE, Motion.UNRESOLVED, Motion.MAX_STEPS)
        time = float(self.last_event) if stopped else horizon
        lines = [
            f"start: {_play(names, self.strategy[0] if horizon > 0 else self.final)}",
            f"time {time:.6g}: {_play(names, self.final)} ({_WORDS[ending]})",
        ]
        if not stopped and float(self.last_event) > 0:
            lines.insert(1, f"last change of direction: time {float(self.last_event):.6g}")
        if not bool(self.converged) and not stopped:
            lines.append(f"heading for: {_play(names, self.target)}")
        if not bool(self.complete):
            lines.append("(there may be more switching points than are known here)")
        return "\n".join(lines)


_WORDS = {
    Motion.MOVING: "still moving",
    Motion.SETTLED: "settled",
    Motion.SLIDING: "held between best replies",
    Motion.NOT_UNIQUE: "several continuations: stopped",
    Motion.UNRESOLVED: "more than two best replies: stopped",
    Motion.MAX_STEPS: "out of steps: stopped",
}


def _play(names: tuple[str, ...], strategy: Any) -> str:
    shares = [
        f"{name} {x:.6g}"
        for name, x in zip(names, np.asarray(strategy), strict=True)
        if not x < 5e-7
    ]
    return ", ".join(shares)
