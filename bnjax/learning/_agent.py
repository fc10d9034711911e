"""A learner as ``init`` and ``step``: the whole contract of simulation."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from .._check import as_float, check_exploration, check_shape, is_concrete
from .._numerics import uniform
from ..belief import (
    AbstractMemory,
    Likelihood,
    Observation,
    PerfectMemory,
    check_memory,
    expected,
    likelihood,
)
from ..problem import AbstractFiniteProblem, AbstractProblem, FamilyProblem, check_problem
from ..response import (
    AbstractPolicy,
    BestResponse,
    PolicyTable,
    are_probabilities,
    check_policy,
    choose,
    is_built_in,
    policy_table,
)
from ._random import key_words, words


def as_finite(problem: AbstractProblem) -> AbstractFiniteProblem:
    """The problem itself, or on the solver's grid if its models are a continuum."""
    check_problem(problem)
    if isinstance(problem, FamilyProblem):
        return problem.discretize()
    assert isinstance(problem, AbstractFiniteProblem)
    return problem


def check_log_prior(log_prior: Float[Array, "*agents models"], problem: Any) -> None:
    """Refuse concrete log-weights that are none, or that leave an agent nothing to believe."""
    if not is_concrete(log_prior, problem):
        return
    values = np.asarray(log_prior)
    if np.isnan(values).any() or (values == np.inf).any():
        raise ValueError("`log_prior` must hold finite log-weights or -inf; got NaN or +inf.")
    with jax.ensure_compile_time_eval():  # also inside a function that is being traced
        survives = ~np.asarray(problem.reduced_form().ruled_out).any(1)
    if not (values[..., survives] > -np.inf).any(-1).all():
        raise ValueError(
            "`log_prior` must support, for every agent, a model that allows everything that "
            "can happen; otherwise no belief would survive."
        )


class AgentState(eqx.Module):
    """What an agent carries from step to step: never a trajectory.

    Parameters
    ----------
    time : steps taken.
    memory : whatever its memory keeps.
    """

    time: Int[Array, ""]
    memory: Any


class Step(eqx.Module):
    """What happened in one step.

    Parameters
    ----------
    time : number of the step, from 0.
    intended : the action that the policy chose.
    action : the action that was played: another one if play trembled.
    consequence : what came of it: an index (categorical) or a number (Gaussian).
    payoff : what it paid.
    observation : the action and the features of the consequence, which is all that is learned.
    """

    time: Int[Array, ""]
    intended: Int[Array, ""]
    action: Int[Array, ""]
    consequence: Array
    payoff: Float[Array, ""]
    observation: Observation


class Agent(eqx.Module):
    """A Bayesian learner in a problem: a prior, a policy and a memory.

    Parameters
    ----------
    problem : any problem; a continuum of models is replaced by ``problem.discretize()``.
    policy : how it plays, given what it believes. Default: best response.
    memory : what it remembers. Default: everything.
    log_prior : [M] log-weights in nats. Default: those of the problem.
    exploration : probability with which play trembles to a uniform action, besides what the
        policy itself explores.

    Examples
    --------
    >>> import jax, bnjax as bn
    >>> agent = bn.Agent(bn.scenarios.coin(), memory=bn.WindowMemory(10))
    >>> state, key = agent.init(), jax.random.key(0)
    >>> for _ in range(3):
    ...     state, step = agent.step(key, state)
    >>> int(state.time), agent.belief(state).shape
    (3, (2,))

    To compile a step, use ``equinox.filter_jit(agent.step)``: an agent is a pytree, and
    `jax.jit` does not take methods of one.
    """

    problem: AbstractFiniteProblem
    policy: AbstractPolicy
    memory: AbstractMemory
    log_prior: Float[Array, " models"]
    exploration: Float[Array, ""]
    likelihood: Likelihood
    table: PolicyTable

    def __init__(
        self,
        problem: AbstractProblem,
        policy: AbstractPolicy | None = None,
        memory: AbstractMemory | None = None,
        log_prior: Any = None,
        exploration: Any = 0.0,
    ):
        self.problem = problem = as_finite(problem)
        self.policy = BestResponse() if policy is None else policy
        check_policy(self.policy)
        self.memory = PerfectMemory() if memory is None else memory
        check_memory(self.memory)
        if log_prior is not None:
            log_prior = as_float("log_prior", log_prior).astype(problem.log_prior.dtype)
            check_shape("log_prior", log_prior, problem.log_prior.shape, "models")
            check_log_prior(log_prior, problem)
        self.log_prior = problem.log_prior if log_prior is None else log_prior
        self.exploration = check_exploration(exploration)
        self.likelihood = likelihood(problem)
        self.table = policy_table(self.policy, problem.subjective_payoffs())

    def trembles(self) -> Float[Array, ""]:
        """Probability with which play trembles, for either reason."""
        dtype = self.likelihood.log_ratio.dtype
        steady = (1 - self.exploration.astype(dtype)) * (1 - self.policy.exploration.astype(dtype))
        return 1 - steady

    def nothing(self) -> Float[Array, "actions features"]:
        """Evidence before the first observation."""
        shape = self.problem.num_actions, self.problem.consequence.num_features
        return jnp.zeros(shape, self.likelihood.log_ratio.dtype)

    def init(self) -> AgentState:
        """State before the first step."""
        return AgentState(jnp.zeros((), jnp.int32), self.memory.init(self.nothing()))

    def belief(self, state: AgentState) -> Float[Array, " models"]:
        """Probability of each model, [M]."""
        return jax.nn.softmax(
            self.likelihood.log_belief(self.log_prior, *self.memory.evidence(state.memory))
        )

    def intention(self, state: AgentState) -> Float[Array, " actions"]:
        """Probability of intending each action next, [A]."""
        return self.intention_after(*self.memory.evidence(state.memory))[0]

    def intention_after(
        self, evidence: Float[Array, "actions features"], seen: Bool[Array, "actions features"]
    ) -> tuple[Float[Array, " actions"], Float[Array, " models"]]:
        """`intention` after some evidence (see `AbstractMemory`), and log-weights of the models."""
        log_weight = self.likelihood.log_belief(self.log_prior, evidence, seen)
        means, weight = expected(log_weight, self.table.log_size, self.table.features)
        slack = self.likelihood.rounding(weight, evidence)
        return self.policy.probabilities(means, slack), log_weight

    def step(self, key: Array, state: AgentState) -> tuple[AgentState, Step]:
        """Choose, observe, remember.

        Parameters
        ----------
        key : the agent's key, the same at every step: a step takes the random words that belong to
            ``state.time``.
        state : where it stands.

        Returns
        -------
        the next state, and what happened.
        """
        return self.step_with(key_words(key), state)

    def step_with(self, key: UInt32[Array, "2"], state: AgentState) -> tuple[AgentState, Step]:
        """`step` from the two words of an agent's key."""
        bits = words(key, state.time, 1)[0]
        probabilities = self.intention(state)
        number = uniform(bits[1], probabilities.dtype)
        intended, action = choose(probabilities, self.trembles(), number)
        truth = self.problem.consequence
        consequence = truth.draw(action, bits[0])
        features = truth.features(action, consequence)
        if not is_built_in(self.policy):  # what follows from no probabilities makes no sense
            features = jnp.where(are_probabilities(probabilities), features, jnp.nan)
        observation = Observation(action, features)
        memory = self.memory.update(state.memory, observation, state.time)
        payoff = truth.payoff_of(action, consequence)
        happened = Step(state.time, intended, action, consequence, payoff, observation)
        return AgentState(state.time + 1, memory), happened
