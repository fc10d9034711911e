"""What to keep of a simulation: final statistics always, and more on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._check import whole
from ._agent import Agent, AgentState, Step


class Trajectory(eqx.Module):
    """Also keep a snapshot of every agent after every so many steps.

    Parameters
    ----------
    every : steps between snapshots; those after its last multiple are in none.
    beliefs : whether to keep the probability of every model, and not only the mean parameter.

    Raises
    ------
    ValueError
        If ``every`` is not a positive whole number.
    """

    every: int = eqx.field(static=True)
    beliefs: bool = eqx.field(static=True)

    def __init__(self, every: Any, beliefs: bool = False):
        self.every = whole("every", every)
        self.beliefs = bool(beliefs)


class Running(eqx.Module):
    """Also keep a statistic of your own, updated at every step of every agent.

    Parameters
    ----------
    init : agent -> carry, any pytree of arrays (keys as `jax.random.key_data`) and numbers.
    update : (carry, step, state, agent) -> carry, given what happened (`Step`) and the state of
        the agent afterwards. Both are functions of one agent and go through `jax.vmap`.

    Examples
    --------
    The longest time that an agent keeps to one action:

    >>> import jax, jax.numpy as jnp, bnjax as bn
    >>> def start(agent):
    ...     return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    >>> def longer(carry, step, state, agent):
    ...     action, run, longest = carry
    ...     run = jnp.where(step.action == action, run + 1, 1)
    ...     return step.action, run, jnp.maximum(run, longest)
    >>> problem = bn.scenarios.sycophancy(0.4, 0.4)
    >>> result = bn.simulate(
    ...     problem, jax.random.key(0), num_agents=8, num_steps=50, record=bn.Running(start, longer)
    ... )
    >>> result.record[2].shape
    (8,)
    """

    init: Callable[[Agent], Any] = eqx.field(static=True)
    update: Callable[[Any, Step, AgentState, Agent], Any] = eqx.field(static=True)

    def __init__(self, init: Callable[..., Any], update: Callable[..., Any]):
        for name, function in (("init", init), ("update", update)):
            if not callable(function):
                raise ValueError(f"`{name}` must be a function; got {function!r}.")
        self.init = init
        self.update = update

    def start(self, agent: Agent) -> Any:
        """What ``init`` gives, as arrays."""
        return jax.tree.map(jnp.asarray, self.init(agent))


Record = Trajectory | Running | None
Steps = int | Int[Array, ""]  # how many of a life; traced, one program serves all of them


class Tally(eqx.Module):
    """Running statistics of one agent.

    Parameters
    ----------
    evidence : [A, F] sum of the features of all observations, whatever is remembered of them.
    late : [A] how often each action was played in the second half.
    intended : the action intended last.
    since : the step at which the agent last changed the action it intends; 0 if never.
    switches : [2] how often it did so in the third and the fourth quarter.
    """

    evidence: Float[Array, "*batch actions features"]
    late: Int[Array, "*batch actions"]
    intended: Int[Array, "*batch"]
    since: Int[Array, "*batch"]
    switches: Int[Array, "*batch 2"]


def quarters(num_steps: Steps) -> tuple[Steps, Steps]:
    """First steps of the third and of the fourth quarter."""
    half = num_steps >> 1  # a division would ask for signs
    return half, half + ((num_steps - half) >> 1)


def in_quarters(time: Int[Array, "*batch"], num_steps: Steps) -> Bool[Array, "2 *batch"]:
    """Whether a step belongs to the third and the fourth quarter."""
    third, fourth = quarters(num_steps)
    return jnp.stack([(time >= third) & (time < fourth), time >= fourth])


def end_of_quarter(time: Int[Array, "*batch"], num_steps: Steps) -> Int[Array, "*batch"]:
    """The next step with which statistics begin anew: that of the third or fourth, or the end."""
    third, fourth = quarters(num_steps)
    return jnp.where(time < third, third, jnp.where(time < fourth, fourth, num_steps))


def new_tally(nothing: Float[Array, "actions features"]) -> Tally:
    """Nothing counted yet."""
    zero = jnp.zeros((), jnp.int32)
    late, switches = jnp.zeros(nothing.shape[0], jnp.int32), jnp.zeros(2, jnp.int32)
    return Tally(nothing, late, zero, zero, switches)


def tallied(tally: Tally, step: Step, num_steps: int) -> Tally:
    """Count one more step."""
    quarter = in_quarters(step.time, num_steps)
    changed = (step.intended != tally.intended) & (step.time > 0)
    played = jnp.arange(tally.late.shape[0], dtype=jnp.int32) == step.action
    return Tally(
        step.observation.added(tally.evidence),
        tally.late + (played & quarter.any()).astype(jnp.int32),
        step.intended,
        jnp.where(changed, step.time, tally.since),
        tally.switches + (changed & quarter).astype(jnp.int32),
    )


class Snapshot(eqx.Module):
    """Where agents stand at some time; in a `Simulation`, [N, S, ...] of N agents at S times.

    ``time``, a property, says how many steps they have made by then.

    Parameters
    ----------
    action_counts : [A] how often each action has been played.
    intended : the action intended last.
    mean_theta : [D] mean parameter under the belief.
    belief : [M] probability of each model, or None.
    """

    action_counts: Float[Array, "*batch actions"]
    intended: Int[Array, "*batch"]
    mean_theta: Float[Array, "*batch parameters"]
    belief: Float[Array, "*batch models"] | None

    @property
    def time(self) -> Int[Array, "*batch"]:
        """Steps made by then."""
        return jnp.round(self.action_counts.sum(-1)).astype(jnp.int32)
