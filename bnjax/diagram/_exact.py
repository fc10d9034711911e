"""What there is to say of a cell exactly: its equilibria, rationalizable set and phase."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..equilibrium._lanes import block_lanes
from ..equilibrium._public import phase_of
from ..equilibrium._solve import solve
from ..equilibrium._tolerance import Tolerance
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem
from ._dataset import NO_MIXED
from ._tiles import AbstractQuestion

# Nodes of a family's grid in a block of cells on a CPU: 1024 cells of one parameter, which is
# twice as fast on sycophancy in single precision as 64.
_BLOCK_NODES = 65 * 1024
_BLOCK_MANY = 64  # cells of a block with more than two actions


class ExactCell(NamedTuple):
    """Results of one cell in small types: a large diagram is made of nothing else."""

    phase: Array | None
    pure: Array
    certainty: Array
    mixed_strategy: Array
    mixed_strategy_end: Array
    mixed_stability: Array
    mixed_best_fit: Array
    pure_best_fit: Array
    num_equilibria: Array
    complete: Array


@dataclasses.dataclass(frozen=True)
class Exact(AbstractQuestion):
    """Solve every cell.

    Parameters
    ----------
    max_equilibria : rows of which the first that is mixed is kept.
    """

    max_equilibria: int

    def share(self, on_cpu: bool) -> int:
        """Cells that a device or a core gets at a time.

        Small enough for a progress bar to move, large enough that handing a tile over costs
        nothing next to computing it.
        """
        return 2048 if on_cpu else 16384

    def block(self, problem: AbstractProblem, on_cpu: bool) -> int:
        """Cells that are worked on together: a power of two that divides the share."""
        share = self.share(on_cpu)
        if not on_cpu:
            return share
        if isinstance(problem, AbstractFiniteProblem):
            return block_lanes(problem.num_models) if problem.num_actions == 2 else _BLOCK_MANY
        assert isinstance(problem, FamilyProblem)
        if problem.num_actions != 2:
            return _BLOCK_MANY
        nodes = problem.family.unit_nodes().shape[0]
        return max(16, min(share, 1 << (_BLOCK_NODES // nodes).bit_length() - 1))

    def answer(
        self,
        problem: AbstractProblem,
        exploration: Float[Array, ""],
        tolerance: Tolerance,
        index: Int[Array, ""],
        given: None,
    ) -> tuple[ExactCell, Bool[Array, ""]]:
        """Solve one cell, and say whether its problem makes sense at all."""
        found, possible, valid = solve(problem, exploration, self.max_equilibria, tolerance)
        code = None
        if problem.safe is not None:
            code = phase_of(problem.safe, found, possible.certainty, valid).astype(jnp.int8)
        is_mixed = found.valid & ~found.is_pure
        row, exists = jnp.argmax(is_mixed), is_mixed.any()
        start, end, fit = (
            jnp.where(exists, field[row], jnp.nan)
            for field in (found.strategy, found.strategy_end, found.best_fit)
        )
        plays = (found.valid & found.is_pure)[:, None] & (found.strategy > 0.5)  # [rows, actions]
        pure_fit = found.best_fit[jnp.argmax(plays, axis=0)]
        cell = ExactCell(
            phase=code,
            pure=found.pure,
            certainty=possible.certainty.astype(jnp.int8),
            mixed_strategy=start,
            mixed_strategy_end=end,
            mixed_stability=jnp.where(exists, found.stability[row], NO_MIXED).astype(jnp.int8),
            mixed_best_fit=fit,
            pure_best_fit=jnp.where(plays.any(0)[:, None], pure_fit, jnp.nan),
            num_equilibria=found.valid.sum().astype(jnp.int16),
            complete=found.complete,
        )
        return cell, valid
