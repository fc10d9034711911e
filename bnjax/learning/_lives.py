"""The lives of a tile of agents, for simulators that keep agents in the vector lanes.

Everything has the agents last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from .._numerics import added_product, fast_exp
from ._agent import Agent
from ._plain import Tile, snapshot
from ._record import Record, Snapshot, Steps, Tally, Trajectory


class Lives(NamedTuple):
    """Where agents are: what simulators carry from step to step.

    Parameters
    ----------
    counts : of pairs of action and consequence.
    late : how often each action was played in the second half.
    intended : the action intended last.
    since : the step at which that last changed.
    switches : how often it did so in the third and the fourth quarter.
    time : steps made.
    """

    counts: Float[Array, "codes agents"]
    late: Int[Array, "actions agents"]
    intended: Int[Array, " agents"]
    since: Int[Array, " agents"]
    switches: Int[Array, "quarters agents"]
    time: Int[Array, " agents"]


class Believer(NamedTuple):
    """Agents who remember all that they have counted.

    Parameters
    ----------
    agent : what they have in common.
    prior : [M, 1] log-weights for all, or [M, N] for each.
    """

    agent: Agent
    prior: Float[Array, "models agents"]

    @staticmethod
    def of(agent: Agent, log_prior: Float[Array, "*agents models"]) -> Believer:
        """From a prior [M] for all, or [N, M] for each."""
        return Believer(agent, log_prior[:, None] if log_prior.ndim == 1 else log_prior.T)

    def log_belief(self, counts: Float[Array, "codes agents"]) -> Float[Array, "models agents"]:
        """Log-weights of the models, not normalised; counts are of pairs (action, consequence)."""
        evidence = self._evidence(counts)
        return self.agent.likelihood.log_belief(self.prior, evidence, evidence > 0)

    def weights(
        self, counts: Float[Array, "codes agents"], top: float, excludes: bool
    ) -> tuple[
        Float[Array, "models agents"], Float[Array, " agents"], Bool[Array, "models agents"]
    ]:
        """Weights of the models, each times the size of its features; the largest is ``top``.

        Parameters
        ----------
        counts : of pairs (action, consequence).
        top : a positive number.
        excludes : whether some model may rule out what happens.

        Returns
        -------
        the weights; how far rounding may have moved their logs, in nats, on average; and which
        models are alive.
        """
        likelihood = self.agent.likelihood
        flat = likelihood.log_ratio.reshape(self.prior.shape[0], -1)
        start = self.prior + self.agent.table.log_size[:, None]
        log = added_product(start, flat, counts)
        if excludes:
            seen = (counts > 0).astype(counts.dtype)
            out = likelihood.ruled_out.reshape(flat.shape).astype(counts.dtype)
            log = jnp.where(jnp.dot(out, seen) > 0, -jnp.inf, log)
        peak = log.max(0)
        weight = fast_exp(log + (math.log(top) - jnp.where(peak > -jnp.inf, peak, 0.0)))
        slack = likelihood.rounding(weight, self._evidence(counts))
        return weight, slack, log > -jnp.inf

    def deadly(self, alive: Bool[Array, "models agents"]) -> Bool[Array, "codes agents"]:
        """Which pairs of action and consequence would rule out a model that is alive."""
        out = self.agent.likelihood.ruled_out.reshape(alive.shape[0], -1)
        return jnp.dot(out.T.astype(self.prior.dtype), alive.astype(self.prior.dtype)) > 0

    def by_agent(
        self, counts: Float[Array, "codes agents"]
    ) -> Float[Array, "agents actions features"]:
        """Counts as evidence, agents first."""
        return jnp.moveaxis(self._evidence(counts), -1, 0)

    def trajectory(
        self,
        counts: Float[Array, "times codes agents"],
        intended: Int[Array, "times agents"],
        record: Trajectory,
    ) -> Snapshot:
        """Snapshots [agents, times, ...]."""

        def look(at: tuple[Array, Array]) -> Snapshot:
            counts, intended = at
            mapped = jax.vmap(lambda log, seen, last: snapshot(self.agent, log, seen, last, record))
            return mapped(self.log_belief(counts).T, self.by_agent(counts), intended)

        looked = lax.map(look, (counts, intended))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), looked)

    def _evidence(self, counts: Array) -> Float[Array, "actions features agents"]:
        problem = self.agent.problem
        return counts.reshape(problem.num_actions, problem.consequence.num_features, -1)


class Known(NamedTuple):
    """What a program may rely on; what is not known when it is compiled is true.

    Parameters
    ----------
    excludes : whether some model may rule out what happens. Then weights are made anew after an
        observation that does so for the first time: what is left may be far below what was.
    trembles : whether play may tremble.
    """

    excludes: bool
    trembles: bool


Advance = Callable[[Lives, Array, Array], tuple[Lives, Array]]
Way = Callable[[Believer, UInt32[Array, "2 agents"], Steps, Record, Known], Advance]


def idle(*_: Any) -> Advance:
    """A way to `live` in which nothing happens."""
    return lambda lives, start, until: (lives, until)


def live(
    way: Way,
    agent: Agent,
    log_prior: Float[Array, "*agents models"],
    keys: UInt32[Array, "2 agents"],
    num_steps: Steps,
    record: Record,
    known: Known,
    used: Int[Array, ""] | None = None,
) -> Tile:
    """Simulate agents.

    Parameters
    ----------
    way : (believer, keys, num_steps, record, known) -> advance; and that is (lives, start,
        until) -> (lives, stop), which takes all agents from step ``start`` to ``stop``, which is
        later, and ``until`` at most.
    agent, log_prior, keys, num_steps, record : as for `run_plain`; steps may be traced, but for a
        trajectory.
    known : what is known of the problem and of play, so that a program may be shorter.
    used : how many of the agents are wanted (default: all); other lives end before they begin.
    """
    believer, num_agents = Believer.of(agent, log_prior), keys.shape[1]
    advance = way(believer, keys, num_steps, record, known)
    num_actions, num_features = believer.agent.nothing().shape

    def segment(state: tuple, until: Array) -> tuple[tuple, Lives | None]:
        state = lax.while_loop(
            lambda state: state[1] < until,
            lambda state: advance(state[0], state[1], until),
            state,
        )
        return state, state[0] if isinstance(record, Trajectory) else None

    def zeros(*rows: int) -> Array:
        return jnp.zeros((*rows, num_agents), jnp.int32)

    lives = Lives(
        counts=zeros(num_actions * num_features).astype(believer.prior.dtype),
        late=zeros(num_actions),
        intended=zeros(),
        since=zeros(),
        switches=zeros(2),
        time=zeros(),
    )
    if used is not None:
        wanted = jnp.arange(num_agents, dtype=jnp.int32) < used
        lives = lives._replace(time=jnp.where(wanted, 0, jnp.asarray(num_steps, jnp.int32)))
    stops: list[Steps] = [num_steps]
    if isinstance(record, Trajectory):
        assert isinstance(num_steps, int)
        stops = sorted({*range(record.every, num_steps + 1, record.every), num_steps})
    start = lives, jnp.zeros((), jnp.int32)
    (lives, _), shots = lax.scan(segment, start, jnp.asarray(stops, jnp.int32))
    tally = Tally(
        believer.by_agent(lives.counts),
        lives.late.T,
        lives.intended,
        lives.since,
        lives.switches.T,
    )
    trajectory = None
    if isinstance(record, Trajectory):
        assert isinstance(num_steps, int)
        kept = jax.tree.map(lambda x: x[: num_steps // record.every], shots)
        trajectory = believer.trajectory(kept.counts, kept.intended, record)
    return Tile(tally, believer.log_belief(lives.counts).T, trajectory, None)
