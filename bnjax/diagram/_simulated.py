"""What a population of learners does in a cell."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..belief import AbstractMemory
from ..equilibrium._tolerance import Tolerance
from ..learning import Outcome, Simulation, simulate
from ..learning._agent import as_finite
from ..learning._outcome import clopper_pearson
from ..problem import AbstractProblem
from ..response import AbstractPolicy
from ._tiles import AbstractQuestion

_FULL_TILE = 512
_MOST_WEIGHTS = 2**28  # of the agents of all cells that an accelerator works on together


class SimulatedCell(NamedTuple):
    """Results of one cell, NaN where its problem makes no sense."""

    frequency: Float[Array, " actions"]
    outcome_share: Float[Array, " outcomes"]


def outcome_names(action_names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of what can become of an agent, in the order of ``outcome_share``."""
    return (*(f"locked on {name}" for name in action_names), "mixing", "undecided")


@dataclasses.dataclass(frozen=True)
class Simulated(AbstractQuestion):
    """Simulate a population in every cell, one cell after the other.

    Parameters
    ----------
    num_agents, num_steps : of each population.
    """

    num_agents: int
    num_steps: int

    def share(self, on_cpu: bool) -> int:
        """Cells that a device or a core gets at a time: each takes long enough for few."""
        return 64 if on_cpu else 4096

    def block(self, problem: AbstractProblem, on_cpu: bool) -> int:
        """On a CPU one cell: its agents already fill the vector lanes."""
        if on_cpu:
            return 1
        models = eqx.filter_eval_shape(as_finite, problem).num_models
        most = max(1, _MOST_WEIGHTS // (self.num_agents * models))
        return min(self.share(on_cpu), 1 << (most.bit_length() - 1))

    def answer(
        self,
        problem: AbstractProblem,
        exploration: Float[Array, ""],
        tolerance: Tolerance,
        index: Int[Array, ""],
        given: tuple[Array, AbstractPolicy | None, AbstractMemory | None],
    ) -> tuple[SimulatedCell, Bool[Array, ""]]:
        """Simulate the population of a cell, whose key is folded from the cell's number."""
        key, policy, memory = given
        done, valid = populate(
            problem,
            exploration,
            jax.random.fold_in(key, index),
            num_agents=self.num_agents,
            num_steps=self.num_steps,
            policy=policy,
            memory=memory,
        )
        return ended(problem, done, valid), valid


def populate(
    problem: AbstractProblem,
    exploration: Float[Array, ""],
    key: Array,
    *,
    num_agents: int,
    num_steps: int,
    policy: AbstractPolicy | None,
    memory: AbstractMemory | None,
) -> tuple[Simulation, Bool[Array, ""]]:
    """Simulate the population of a cell, and say whether its problem makes sense at all."""
    # No lanes for agents that are not there; a large population keeps the usual tile.
    few = 1 << (num_agents - 1).bit_length()
    done = simulate(
        problem,
        key,
        num_agents=num_agents,
        num_steps=num_steps,
        policy=policy,
        memory=memory,
        exploration=exploration,
        tile=few if few < _FULL_TILE else None,
    )
    return done, problem.is_valid() & (exploration >= 0) & (exploration <= 1)


def interval_of(
    share: Float[np.ndarray, "*shape"], num_agents: int
) -> Float[np.ndarray, "*shape 2"]:
    """What a share of simulated agents says of the probability behind it, at the level of 99 %."""
    valid = np.isfinite(share)
    count = np.rint(np.where(valid, share, 0.0) * num_agents)
    interval = np.stack(clopper_pearson(count, num_agents, 0.99), axis=-1)
    return np.where(valid[..., None], interval, np.nan).astype(share.dtype)


def ended(problem: AbstractProblem, done: Simulation, valid: Bool[Array, ""]) -> SimulatedCell:
    """What became of a population."""
    actions = jnp.arange(problem.num_actions, dtype=done.intended.dtype)
    locked = (done.outcome == Outcome.LOCKED)[:, None] & (done.intended[:, None] == actions)
    others = done.outcome[:, None] == jnp.asarray([Outcome.MIXING, Outcome.UNDECIDED])
    outcomes = jnp.concatenate([locked, others], axis=1)
    # Also a policy of the user's that returned no probabilities later on.
    valid = valid & (done.outcome != Outcome.INVALID).all()
    return SimulatedCell(
        frequency=jnp.where(valid, done.late_frequency.mean(0), jnp.nan),
        outcome_share=jnp.where(valid, outcomes.mean(0, dtype=done.frequency.dtype), jnp.nan),
    )
