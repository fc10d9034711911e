"""What the smooth solvers return: arrays of fixed shape, with a summary in words."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._summary import NO_SENSE, batch_of, check_one, is_one
from ._codes import SolveStatus, Stability


class SmoothEquilibrium(eqx.Module):
    """The smooth equilibrium that play reaches, and the others that were found.

    E is `max_equilibria`. Every field goes through `jax.jit` and `jax.vmap`; ``strategy``,
    ``realised``, ``belief`` and ``strategies`` through `jax.grad` as well.

    Parameters
    ----------
    strategy : [A] intended play, selected by the flow of the mean field.
    realised : [A] what is actually played, trembles included.
    belief : [M] the belief that this play brings about.
    code : of `SolveStatus`.
    residual : largest entry of |f(sigma) - sigma|, f being the smooth reply.
    condition : how well the equation determines the solution: with two actions ``|1 - f'(s)|``;
        with more, one over the Frobenius norm of the inverse of ``I - df/dsigma`` on changes of
        play that sum to zero, which is the smallest singular value or up to sqrt(A - 1) times
        less. Derivatives grow as ``1 / condition``. (1 for a single action.)
    near_fold : whether ``condition`` is below 0.02: two solutions are about to merge, and the
        derivative, though that of the equation, says little of what a change would do.
    strategies : [E, A] every solution found, the selected one included, in ascending order of the
        probability of the first action; NaN where there is none.
    valid : [E] which rows hold one.
    stability : [E] codes of `Stability` under the flow: UNKNOWN near a fold.
    residuals, conditions : [E] as ``residual`` and ``condition``; 0 where not valid.
    selected : the row of ``strategy``; -1 if it is not CONVERGED.
    """

    strategy: Float[Array, " actions"]
    realised: Float[Array, " actions"]
    belief: Float[Array, " models"]
    code: Int[Array, ""]
    residual: Float[Array, ""]
    condition: Float[Array, ""]
    near_fold: Bool[Array, ""]
    strategies: Float[Array, "equilibria actions"]
    valid: Bool[Array, " equilibria"]
    stability: Int[Array, " equilibria"]
    residuals: Float[Array, " equilibria"]
    conditions: Float[Array, " equilibria"]
    selected: Int[Array, ""]

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether ``strategy`` is a solution."""
        return self.code == int(SolveStatus.CONVERGED)

    def __repr__(self) -> str:
        if not is_one(self.code, 0):
            shape, rows = batch_of(self.code, 0), self.valid.shape[-1]
            return f"SmoothEquilibrium(batch={shape}, slots={rows})"
        play = ", ".join(f"{x:.4g}" for x in np.asarray(self.strategy))
        return (
            f"SmoothEquilibrium({SolveStatus(int(self.code)).name}, strategy=[{play}], "
            f"condition={float(self.condition):.3g}, {int(np.asarray(self.valid).sum())} found)"
        )

    def summary(self, problem: Any = None) -> str:
        """Say in words, with the names of the problem, what was found.

        Parameters
        ----------
        problem : the problem it was computed from.

        Returns
        -------
        str
            A line for the selected equilibrium, and one for each of the others.
        """
        check_one("SmoothEquilibrium", self.code, 0, problem, self.strategy.shape[-1])
        status = SolveStatus(int(self.code))
        if status == SolveStatus.NONFINITE:
            return NO_SENSE
        names = problem.action_names
        if status == SolveStatus.MAX_STEPS:
            lines = [f"not converged (residual {float(self.residual):.2g}): last iterate "]
            lines[0] += _play(names, self.strategy)
        else:
            kind = Stability(int(self.stability[int(self.selected)])).name.lower()
            fold = "; near a fold" if bool(self.near_fold) else ""
            lines = [f"selected: {_play(names, self.strategy)} ({kind}{fold})"]
        for row in np.flatnonzero(np.asarray(self.valid)):
            if row != int(self.selected):
                kind = Stability(int(self.stability[row])).name.lower()
                lines.append(f"also: {_play(names, self.strategies[row])} ({kind})")
        return "\n".join(lines)


class SmoothPath(eqx.Module):
    """Smooth equilibria along a path of memories and temperatures, each followed from the last.

    Every field goes through `jax.jit` and `jax.vmap`; ``strategy``, ``realised`` and ``belief``
    through `jax.grad` as well.

    Parameters
    ----------
    memory, temperature : [T] the path.
    strategy, realised : [T, A] as in `SmoothEquilibrium`.
    belief : [T, M] as in `SmoothEquilibrium`.
    code, residual, condition, near_fold : [T] as in `SmoothEquilibrium`.
    change : [T] largest change of an entry of ``strategy`` since the point before (0 at the
        first): a jump is where the branch ended at a fold and play went to another.
    """

    memory: Float[Array, " points"]
    temperature: Float[Array, " points"]
    strategy: Float[Array, "points actions"]
    realised: Float[Array, "points actions"]
    belief: Float[Array, "points models"]
    code: Int[Array, " points"]
    residual: Float[Array, " points"]
    condition: Float[Array, " points"]
    near_fold: Bool[Array, " points"]
    change: Float[Array, " points"]

    @property
    def converged(self) -> Bool[Array, "*batch points"]:
        """Which points are solutions."""
        return self.code == int(SolveStatus.CONVERGED)

    def __repr__(self) -> str:
        if not is_one(self.code, 1):
            return f"SmoothPath(batch={batch_of(self.code, 1)}, points={self.code.shape[-1]})"
        solved = int(np.asarray(self.converged).sum())
        return f"SmoothPath({solved} of {self.code.shape[0]} points converged)"

    def summary(self, problem: Any = None) -> str:
        """Say in words, with the names of the problem, where the path starts, jumps and ends.

        Parameters
        ----------
        problem : the problem it was computed from.

        Returns
        -------
        str
        """
        check_one("SmoothPath", self.code, 1, problem, self.strategy.shape[-1])
        if (np.asarray(self.code) == SolveStatus.NONFINITE).all():
            return NO_SENSE
        last = self.code.shape[0] - 1
        jump = int(np.asarray(self.change).argmax())
        lines = []
        told = {0, last, jump} if float(self.change[jump]) > 0.1 else {0, last}
        for point in sorted(told):
            code = SolveStatus(int(self.code[point]))
            notes = "" if code == SolveStatus.CONVERGED else f" ({code.name.lower()})"
            if 0 < point == jump and float(self.change[jump]) > 0.1:
                notes += f" (changed by {float(self.change[jump]):.3g})"
            where = f"memory {float(self.memory[point]):g}, temperature "
            where += f"{float(self.temperature[point]):g}"
            lines.append(f"{where}: {_play(problem.action_names, self.strategy[point])}{notes}")
        return "\n".join(lines)


def _play(names: tuple[str, ...], strategy: Any) -> str:
    shares = zip(names, np.asarray(strategy), strict=True)
    return ", ".join(f"{name} {x:.6g}" for name, x in shares if not x < 5e-7)
