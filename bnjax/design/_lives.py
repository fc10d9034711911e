"""Lives of simulated agents, and the score of each, which is summed up as time goes by.

What an agent has seen is data: given that, the probability of its next action depends on
parameters directly, and on nothing that came of earlier actions. So the derivative of the log of
the probability of a whole life is a sum over steps that needs no recursion through time, and no
trajectory to go back along.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, UInt32

from .._consequence import Categorical, Consequence
from ..belief import AbstractMemory, Observation
from ..learning import Agent, AgentState, Running, Step
from ..learning._outcome import outcome_of
from ..learning._plain import run_plain
from ..learning._record import Tally, quarters
from ..response import PolicyTable


class Life(eqx.Module):
    """What happened to one agent: what a statistic may look at.

    Four of its numbers depend on parameters also when all that happened is given, smoothly. A
    statistic may be any smooth function of those, and any function at all of the others.

    Parameters
    ----------
    frequency : [A] share of the steps in which each action was played.
    late_frequency : [A] the same, of the second half.
    evidence : [A, F] sum of the features of all observations: how often each consequence came of
        each action (categorical); or number, sum of z and of z^2, where z is the consequence
        standardised by its true mean and sd (Gaussian).
    action : the action that was played last.
    mean_payoff : payoff a step. Smooth.
    log_belief : [M] log-probability of each model at the end. Smooth.
    intention : [A] probability of intending each action next. Smooth.
    play : [A] probability of playing each action next, trembles included. Smooth.
    intentions : what `intended`, `since`, `switches` and `outcome` are made from; None, unless
        the statistic was said to look at intentions.
    num_steps : steps taken.
    """

    frequency: Float[Array, " actions"]
    late_frequency: Float[Array, " actions"]
    evidence: Float[Array, "actions features"]
    action: Int[Array, ""]
    mean_payoff: Float[Array, ""]
    log_belief: Float[Array, " models"]
    intention: Float[Array, " actions"]
    play: Float[Array, " actions"]
    intentions: Tally | None
    num_steps: int = eqx.field(static=True)

    @property
    def belief(self) -> Float[Array, " models"]:
        """Probability of each model at the end. Smooth."""
        return jnp.exp(self.log_belief)

    @property
    def intended(self) -> Int[Array, ""]:
        """The action intended last."""
        return self._intentions().intended

    @property
    def since(self) -> Int[Array, ""]:
        """Step since which it has been intended."""
        return self._intentions().since

    @property
    def switches(self) -> Int[Array, "2"]:
        """How often the intended action changed in the third and the fourth quarter."""
        return self._intentions().switches

    @property
    def outcome(self) -> Int[Array, ""]:
        """Code of `bnjax.Outcome`."""
        return outcome_of(self._intentions(), self.num_steps, jnp.asarray(True))

    def _intentions(self) -> Tally:
        if self.intentions is None:
            raise ValueError(
                "`statistic` looks at what the agent intended, which the score of played actions "
                "would give a wrong derivative: pass `intentions=True`."
            )
        return self.intentions


class Inputs(NamedTuple):
    """All that the probability of a life, or a statistic of it, depends on.

    Of the same kind: derivatives with respect to it.

    Parameters
    ----------
    log_prior, log_ratio, table : [M], [M, A, F] and features of an `Agent`.
    policy : the numbers among the leaves of the policy.
    memory : the numbers of the memory in a row (the rate of a `DiscountedMemory`), [R]; None if
        it has none.
    exploration : besides that of the policy.
    truth : how consequences come about, and what they pay.
    """

    log_prior: Array
    log_ratio: Array
    table: PolicyTable
    policy: Any
    memory: Array | None
    exploration: Array
    truth: Consequence


def inputs_of(agent: Agent) -> Inputs:
    """What is differentiable of an agent."""
    return Inputs(
        agent.log_prior,
        agent.likelihood.log_ratio,
        agent.table,
        eqx.filter(agent.policy, eqx.is_inexact_array),
        _numbers(agent.memory, agent.likelihood.log_ratio.dtype),
        agent.exploration,
        agent.problem.consequence,
    )


def agent_with(agent: Agent, inputs: Inputs) -> Agent:
    """The agent with other numbers in the same places (the memory keeps its own)."""
    policy = eqx.combine(inputs.policy, eqx.filter(agent.policy, eqx.is_inexact_array, True))
    return eqx.tree_at(
        lambda a: (
            a.log_prior,
            a.likelihood.log_ratio,
            a.table,
            a.policy,
            a.exploration,
            a.problem.consequence,
        ),
        agent,
        (*inputs[:3], policy, *inputs[5:]),
    )


def _numbers(memory: AbstractMemory, dtype: Any) -> Array | None:
    """Parameters of a memory in a row [R]; None, and no empty array, if it has none."""
    flat = ravel_pytree(eqx.filter(memory, eqx.is_inexact_array))[0]
    return flat.astype(dtype) if flat.size else None


class Kept(NamedTuple):
    """What remains of a life: constants, from which `life_of` makes it.

    Parameters
    ----------
    tally : final statistics of the simulator.
    evidence, seen : what is remembered.
    slope : [R, A, F] derivative of the remembered evidence by each number of the memory, or None.
    action : played last.
    """

    tally: Tally
    evidence: Float[Array, "*batch actions features"]
    seen: Bool[Array, "*batch actions features"]
    slope: Float[Array, "*batch numbers actions features"] | None
    action: Int[Array, "*batch"]


def life_of(agent: Agent, kept: Kept, num_steps: int, intentions: bool) -> Life:
    """A life, differentiable with respect to the agent while all that happened is given."""
    truth, tally = agent.problem.consequence, kept.tally
    evidence = kept.evidence
    numbers = _numbers(agent.memory, evidence.dtype)
    if numbers is not None and kept.slope is not None:
        change = numbers - lax.stop_gradient(numbers)
        evidence = evidence + jnp.tensordot(change, kept.slope, 1)
    log_weight, intention = _intention(agent, evidence, kept.seen)
    tremble, late_steps = agent.trembles(), num_steps - quarters(num_steps)[0]
    return Life(
        truth.action_counts(tally.evidence) / num_steps,
        tally.late.astype(evidence.dtype) / late_steps,
        tally.evidence,
        kept.action,
        truth.total_payoff(tally.evidence) / num_steps,
        jax.nn.log_softmax(log_weight),
        intention,
        (1 - tremble) * intention + tremble / intention.shape[0],
        tally if intentions else None,
        num_steps,
    )


def _intention(agent: Agent, evidence: Array, seen: Array) -> tuple[Array, Array]:
    """Log-weights of the models, and the probability of intending each action."""
    chances, log_weight = agent.intention_after(evidence, seen)
    # As the simulator does, which draws from whatever adds up to something.
    return log_weight, chances / chances.sum()


def _log_chance_of_consequence(truth: Consequence, observation: Observation) -> Array:
    """Log-probability of what came of an action, as far as it depends on parameters.

    Of a normally distributed consequence that is nothing: the standardised z is what is seen, and
    it has the same distribution whatever the mean and the sd.
    """
    if not isinstance(truth, Categorical):
        return jnp.zeros((), truth.mean.dtype)
    total = truth.probs.sum(1, keepdims=True)
    happens = truth.probs > 0
    log = jnp.where(happens, jnp.log(jnp.where(happens, truth.probs, 1.0) / total), 0.0)
    return jnp.sum(observation.added(jnp.zeros_like(log)) * log)


def log_chance(
    inputs: Inputs, evidence: Array, agent: Agent, seen: Array, step: Step, intentions: bool
) -> tuple[Float[Array, ""], Float[Array, " actions"]]:
    """Log-probability of what happened in a step, given what was remembered; and the intention.

    Let f be a statistic of a life x_1, ..., x_T whose steps have probabilities p_t(x_t | before).
    Then dE[f] = sum_x d(f p) = E[df + f sum_t d log p_t], and E[d log p_t | before] = d(1) = 0.
    So x_t must tell all that f sees and all that later steps depend on, and nothing more need be
    told: played actions and consequences, with p(a) = (1 - e) pi(a) + e / A; and only where
    f sees intentions too, pairs with p(i, a) = pi(i) ((1 - e) [i = a] + e / A), a noisier score.
    """
    agent = agent_with(agent, inputs)
    _, intention = _intention(agent, evidence, seen)
    tremble, num = agent.trembles(), intention.shape[0]
    actions = jnp.arange(num, dtype=jnp.int32)
    if intentions:
        steady = jnp.where(step.intended == step.action, 1 - tremble, 0.0)
        chance = _at(intention, actions == step.intended) * (steady + tremble / num)
    else:
        chance = (1 - tremble) * _at(intention, actions == step.action) + tremble / num
    # What has happened is not impossible, however it is rounded.
    log = jnp.log(jnp.maximum(chance, jnp.finfo(chance.dtype).tiny))
    return log + _log_chance_of_consequence(inputs.truth, step.observation), intention


def _at(values: Array, where: Array) -> Array:
    """A gather's transpose is a scatter, which is slow on a CPU; this one's is a select."""
    return jnp.sum(jnp.where(where, values, 0.0))


class _Carry(NamedTuple):
    """What is summed up from step to step, and what is remembered before the next.

    Parameters
    ----------
    scores : `Inputs` of arrays [K, ...]: derivative of the log-probability of the life until now,
        each step of which is multiplied by K features of what was believed before it.
    evidence, seen, slope, action : as of `Kept`.
    memory, slopes : state of the memory, and its derivatives [R, ...]; None if it has no numbers.
    """

    scores: Inputs
    evidence: Array
    seen: Array
    slope: Array | None
    action: Array
    memory: Any
    slopes: Any


def _start(agent: Agent, critic: bool) -> _Carry:
    memory = agent.init().memory
    evidence, seen = agent.memory.evidence(memory)
    num_features = agent.problem.num_actions if critic else 1
    scores = jax.tree.map(lambda x: jnp.zeros((num_features, *x.shape), x.dtype), inputs_of(agent))
    slope = slopes = None
    numbers = _numbers(agent.memory, evidence.dtype)
    if numbers is None:
        memory = None  # may be large, and the simulator keeps it in place
    else:
        num = numbers.shape[0]
        slope = jnp.zeros((num, *evidence.shape), evidence.dtype)
        floats = eqx.filter(memory, eqx.is_inexact_array)
        slopes = jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), floats)
    return _Carry(scores, evidence, seen, slope, jnp.zeros((), jnp.int32), memory, slopes)


def _add(
    carry: _Carry, step: Step, state: AgentState, agent: Agent, critic: bool, intentions: bool
) -> _Carry:
    given = inputs_of(agent)
    derivatives = jax.grad(log_chance, argnums=(0, 1), has_aux=True)
    (score, by_evidence), intention = derivatives(
        given, carry.evidence, agent, carry.seen, step, intentions
    )
    if carry.slope is not None:
        score = score._replace(memory=jnp.tensordot(carry.slope, by_evidence, 2))
    features = intention if critic else jnp.ones(1, intention.dtype)
    wide = jax.tree.map(lambda x: features.reshape(-1, *(1,) * x.ndim).astype(x.dtype) * x, score)
    evidence, seen = agent.memory.evidence(state.memory)
    slope = memory = slopes = None
    if carry.memory is not None:
        slopes, slope = _slopes(agent.memory, carry.memory, carry.slopes, step)
        memory = state.memory
    scores = jax.tree.map(jnp.add, carry.scores, wide)
    return _Carry(scores, evidence, seen, slope, step.action, memory, slopes)


def _slopes(memory: AbstractMemory, state: Any, slopes: Any, step: Step) -> tuple[Any, Array]:
    """Derivatives, by the numbers of a memory, of its next state and of its evidence."""
    numbers, other = eqx.partition(memory, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(numbers)
    floats, rest = eqx.partition(state, eqx.is_inexact_array)

    def after(flat: Array, floats: Any) -> tuple[Any, Array]:
        mine = eqx.combine(unravel(flat), other)
        new = mine.update(eqx.combine(floats, rest), step.observation, step.time)
        return eqx.filter(new, eqx.is_inexact_array), mine.evidence(new)[0]

    def along(direction: Array, slope: Any) -> tuple[Any, Array]:
        return jax.jvp(after, (flat, floats), (direction, slope))[1]

    return jax.vmap(along)(jnp.eye(flat.shape[0], dtype=flat.dtype), slopes)


def live(
    agent: Agent, keys: UInt32[Array, "2 agents"], num_steps: int, critic: bool, intentions: bool
) -> tuple[Kept, Inputs]:
    """Simulate a tile of agents.

    Parameters
    ----------
    agent : what they have in common.
    keys : words of key of each agent.
    num_steps : observations of each.
    critic : whether each step of the scores is multiplied by the intention before it.
    intentions : whether intended actions are part of a life, and not only played ones.

    Returns
    -------
    what remains of each life; and the scores, arrays [agents, K, ...] with K = 1 or, for the
    critic, A: their sum over K is the score.
    """
    add = partial(_add, critic=critic, intentions=intentions)
    record = Running(partial(_start, critic=critic), add)
    done = run_plain(agent, agent.log_prior, keys, num_steps, record)
    end: _Carry = done.record
    return Kept(done.tally, end.evidence, end.seen, end.slope, end.action), end.scores
