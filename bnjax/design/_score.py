"""The score-function gradient: unbiased derivatives of what really happens in simulated play."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from .._check import as_float, check_exploration, check_key, check_shape, whole
from .._numerics import one_by_one
from ..belief import AbstractMemory, PerfectMemory, check_memory
from ..learning import Agent
from ..learning._agent import as_finite
from ..learning._random import agent_keys
from ..learning._simulate import _lanes, _log_prior
from ..problem import AbstractProblem
from ..response import AbstractPolicy, BestResponse, EpsilonGreedy, check_policy
from ._lives import Inputs, Kept, Life, agent_with, inputs_of, life_of, live

_BASELINES = ("none", "mean", "critic")


class ScoreGradient(eqx.Module):
    """A gradient estimated from simulated lives, and how far to trust it.

    Parameters
    ----------
    value : mean of the statistic over agents.
    value_error : its standard error.
    gradient : derivatives of the expected statistic, a tree like the parameters (None where a
        leaf is no array of floating-point numbers).
    gradient_error : standard error of each entry.
    num_agents : how many lives this rests on.
    """

    value: Float[Array, "*batch"]
    value_error: Float[Array, "*batch"]
    gradient: Any
    gradient_error: Any
    num_agents: int = eqx.field(static=True)


def expected(
    problem: AbstractProblem,
    key: Array,
    statistic: Callable[[Life], ArrayLike],
    *,
    num_agents: int,
    num_steps: int,
    policy: AbstractPolicy,
    memory: AbstractMemory | None = None,
    log_prior: Any = None,
    exploration: ArrayLike = 0.0,
    baseline: str = "mean",
    intentions: bool = False,
) -> Float[Array, ""]:
    """Mean of a statistic over simulated agents, with an unbiased derivative.

    The value is a plain average over lives of `bnjax.simulate`, whose every choice is discrete; its
    derivative, by `jax.grad`, `jax.vjp` or `jax.jvp`, is the *score-function* (REINFORCE)
    estimator

        mean over agents of  d statistic + (statistic - baseline) * sum over steps of d log p,

    where p is the probability of what happened in a step given what happened before, and
    d statistic what the statistic itself owes to parameters when all that happened is given
    (payoffs, say). Its expectation is exactly the derivative of the expected statistic, for any
    number of agents and steps. Its noise grows with the steps, however, as long as play goes on to
    depend on the parameters: the standard error up to about as ``sqrt(num_steps / num_agents)``.
    `score_gradient` reports it.

    Differentiable are ``log_prior``, the arrays of the problem (models, payoffs, the true
    probabilities, or mean and sd), the parameters of the policy, ``exploration``, the rate of a
    `DiscountedMemory`, and whatever the statistic closes over. Memory does not grow with the number
    of steps: scores are summed up forwards, a tile of agents at a time.

    Parameters
    ----------
    problem : any problem. A continuum of models is replaced by ``problem.discretize()``.
    key : a JAX key: the lives are those that `bnjax.simulate` makes of it.
    statistic : `Life` of one agent -> a number. It may jump with what happened (counts, the last
        action), but must be smooth in what `Life` calls smooth. Pass the same function each time,
        so that it is compiled once.
    num_agents : how many agents.
    num_steps : observations of each.
    policy : how they play; its probabilities must be smooth in the belief.
    memory, exploration : as for `bnjax.simulate`.
    log_prior : [M] log-weights in nats, ``-inf`` outside the support. Default: the prior of the
        problem.
    baseline : what to subtract from the statistic. None of them adds a bias: the score of a step
        averages to zero whatever came before, and they rest on that and on other agents alone.

        - ``"none"``: nothing.
        - ``"mean"``: the mean over the other agents (leave-one-out).
        - ``"critic"``: a control variate, ``c @ pi`` with pi [A] the intention of the agent before
          the step, by which the outcome may be foreseen. The coefficients c are those for which
          the derivative by the log-prior varies least in one half of the agents, applied in the
          other. Scores take A times the memory.
    intentions : whether the statistic looks at intended actions; with the score of
        intended and played actions, which is noisier where play trembles.

    Returns
    -------
    the mean, a scalar.

    Raises
    ------
    ValueError
        If the policy is a best response, whose score is identically zero; if the statistic is not
        one real number; or an argument is out of range. At least 2 agents are needed for the
        baseline ``"mean"``, and 4 for ``"critic"``.
    NotImplementedError
        If it is differentiated twice.

    Notes
    -----
    A parameter must not change what is possible: at ``exploration = 0`` the derivative by
    exploration is right only where the policy gives every action a positive probability and
    ``intentions`` is false; the derivative by a probability that is zero, true or of a model, is
    not that of making it positive. A policy of your own that jumps is not refused, but what its
    jumps do is missing. For Thompson sampling payoffs matter only through jumps.

    One device does the work.

    Examples
    --------
    The more an assistant trusts flattery at first, the more it flatters after ten answers:

    >>> import jax, jax.numpy as jnp, bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.7, p_honest=0.6).discretize(9)
    >>> def flatters(life):
    ...     return life.play[0]
    >>> @jax.jit
    ... def share(tilt):
    ...     return bn.design.expected(
    ...         problem, jax.random.key(0), flatters, num_agents=1000, num_steps=10,
    ...         policy=bn.Logit(0.1), log_prior=tilt * problem.theta[:, 0],
    ...     )
    >>> bool(jax.grad(share)(0.0) > 0)
    True
    """
    check_smooth(policy)
    memory = PerfectMemory() if memory is None else memory
    check_memory(memory)
    agent = Agent(as_finite(problem), policy, memory, log_prior, exploration)
    agent = _checked(agent)
    check_key(key)
    plan = _plan(agent, num_agents, num_steps, baseline, intentions)
    return _expected(plan, agent, key, statistic)


def score_gradient(
    make: Callable[[Any], Agent],
    parameters: Any,
    key: Array,
    statistic: Callable[[Life], ArrayLike],
    *,
    num_agents: int,
    num_steps: int,
    baseline: str = "mean",
    intentions: bool = False,
) -> ScoreGradient:
    """Gradient of an expected statistic, with its standard errors.

    The gradient is what `jax.grad` makes of `expected` for the same key, up to rounding. For
    the errors, each agent's share of it is kept: ``num_agents`` times the number of parameters.

    Parameters
    ----------
    make : parameters -> `bnjax.Agent`: the problem, policy, memory, prior and exploration that
        belong to them.
    parameters : any pytree; its floating-point arrays are differentiated.
    key, statistic, num_agents, num_steps, baseline, intentions : as for `expected`. What the
        statistic closes over is not differentiated.

    Returns
    -------
    ScoreGradient

    Raises
    ------
    ValueError
        As for `expected`; and if ``make`` returns no agent, or there is only one to be simulated,
        from which no error can be told.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, bnjax as bn
    >>> problem = bn.scenarios.sycophancy(p_sycophantic=0.7, p_honest=0.6).discretize(9)
    >>> def make(p):
    ...     return bn.Agent(problem, bn.Logit(p["tau"]), log_prior=p["tilt"] * problem.theta[:, 0])
    >>> found = bn.design.score_gradient(
    ...     make, {"tau": jnp.array(0.1), "tilt": jnp.array(0.0)}, jax.random.key(0),
    ...     lambda life: life.play[0], num_agents=1000, num_steps=10,
    ... )
    >>> bool(found.gradient["tilt"] > 4 * found.gradient_error["tilt"])
    True
    """
    agent = make(parameters)
    if not isinstance(agent, Agent):
        raise ValueError(f"`make` must return a bnjax.Agent; got {type(agent).__name__}.")
    agent = _checked(agent)
    check_key(key)
    plan = _plan(agent, num_agents, num_steps, baseline, intentions)
    if num_agents < 2:
        raise ValueError("`num_agents` must be at least 2 for a standard error; got 1.")
    return _gradient(plan, make, parameters, key, statistic)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a compiled estimate depends on."""

    num_agents: int
    num_steps: int
    baseline: str
    intentions: bool
    lanes: int

    @property
    def num_tiles(self) -> int:
        return -(-self.num_agents // self.lanes)


def check_smooth(policy: Any) -> None:
    """Refuse what is no policy, or none that has a score."""
    check_policy(policy)
    jumps = BestResponse.probabilities, EpsilonGreedy.probabilities
    if type(policy).probabilities in jumps:
        raise ValueError(
            f"`policy` must be smooth in the belief, such as bn.Logit(0.1); the score of "
            f"{type(policy).__name__} is identically zero: its play jumps where beliefs cross a "
            "tie and does not move in between, so that no average of simulated lives shows "
            "a derivative."
        )


def _checked(agent: Agent) -> Agent:
    """The agent with a normalised prior, if all its parts can be differentiated."""
    check_smooth(agent.policy)
    check_memory(agent.memory)
    prior = as_float("log_prior", agent.log_prior)
    check_shape("log_prior", prior, (agent.problem.num_models,), "models")
    prior = _log_prior(prior, agent.problem, 1)
    dtype = agent.problem.log_prior.dtype
    exploration = check_exploration(agent.exploration).astype(dtype)
    return eqx.tree_at(lambda a: (a.log_prior, a.exploration), agent, (prior, exploration))


def _plan(agent: Agent, num_agents: Any, num_steps: Any, baseline: Any, intentions: Any) -> _Plan:
    num_agents, num_steps = whole("num_agents", num_agents), whole("num_steps", num_steps)
    most = 2 ** (jnp.finfo(agent.likelihood.log_ratio.dtype).nmant + 1)
    if num_steps > most:
        raise ValueError(f"`num_steps` must be at most {most}; got {num_steps}.")
    if baseline not in _BASELINES:
        raise ValueError(f"`baseline` must be one of {_BASELINES}; got {baseline!r}.")
    least = {"none": 1, "mean": 2, "critic": 4}[baseline]
    if num_agents < least:
        raise ValueError(
            f"`num_agents` must be at least {least} for the baseline {baseline!r}; got "
            f"{num_agents}."
        )
    # As many numbers a tile as a simulation has that only keeps weights of models.
    size = sum(x.size for x in jax.tree.leaves(inputs_of(agent)))
    copies = agent.problem.num_actions if baseline == "critic" else 1
    return _Plan(num_agents, num_steps, baseline, bool(intentions), _lanes(copies * size))


class _Tile(NamedTuple):
    """Lives of a tile, and what its agents weigh: 0 where they only fill the last tile."""

    kept: Kept
    scores: Inputs
    halves: Float[Array, "agents 2"]


def _live(plan: _Plan, agent: Agent, key: Array, index: Int[Array, ""]) -> _Tile:
    """Simulate tile number ``index``; many problems at once one after the other."""
    arrays, rest = eqx.partition((agent, key), eqx.is_array)
    numbers = index * plan.lanes + jnp.arange(plan.lanes, dtype=jnp.int32)

    @one_by_one
    def run(arrays: Any, numbers: Array) -> tuple[Kept, Inputs]:
        agent, key = eqx.combine(arrays, rest)
        keys = agent_keys(key, numbers)
        return live(agent, keys, plan.num_steps, plan.baseline == "critic", plan.intentions)

    kept, scores = run(arrays, numbers)
    half = jnp.stack([numbers % 2 == 0, numbers % 2 == 1], axis=1)
    mine = half & (numbers < plan.num_agents)[:, None]
    return _Tile(kept, scores, mine.astype(agent.likelihood.log_ratio.dtype))


def _number(plan: _Plan, agent: Agent, statistic: Callable[[Life], Any], kept: Kept) -> Array:
    """The statistic of one life."""
    value = jnp.asarray(statistic(life_of(agent, kept, plan.num_steps, plan.intentions)))
    if value.ndim or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError(
            f"`statistic` must return one real number; got {value.dtype}{list(value.shape)}."
        )
    return value.astype(agent.likelihood.log_ratio.dtype)


class _Sums(NamedTuple):
    """Sums over agents.

    Parameters
    ----------
    value : of the statistic.
    products : of statistic times score.
    scores : [2, K, ...] by half of the agents.
    gram, right : [2, K, K] and [2, K] normal equations of the critic, by half.
    """

    value: Array
    products: Inputs
    scores: Inputs
    gram: Array
    right: Array


def _pooled(scores: Inputs, values: Array) -> tuple[Array, Array]:
    """Of one agent, the normal equations of the critic: [K, K] and [K].

    They are those of least squares of the derivative by the log-prior: log-weights are all in
    nats, whatever the units of the other parameters.
    """
    by_prior = scores.log_prior
    gram = jnp.matmul(by_prior, by_prior.T, precision=lax.Precision.HIGHEST)
    return gram, values * gram.sum(1)


def _critics(gram: Float[Array, "2 K K"], right: Float[Array, "2 K"]) -> Float[Array, "2 K"]:
    """Coefficients for each half of the agents, from the other half; independent of it, hence."""
    size = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
    # Of features that no agent's score tells apart, the smallest coefficients.
    ridge = 1e-4 * jnp.where(size > 0, size, 1.0) * jnp.eye(gram.shape[1], dtype=gram.dtype)
    return jnp.linalg.solve(gram + ridge, right[..., None])[::-1, :, 0]


def _weighted(plan: _Plan, sums: _Sums) -> Inputs:
    """Mean over agents of (statistic - baseline) * score."""
    num = plan.num_agents
    both = jax.tree.map(lambda x: x.sum((0, 1)), sums.scores)
    if plan.baseline == "critic":
        critics = _critics(sums.gram, sums.right)
        foreseen = jax.tree.map(lambda x: jnp.tensordot(critics, x, 2), sums.scores)
        return jax.tree.map(lambda a, b: (a - b) / num, sums.products, foreseen)
    if plan.baseline == "none":
        return jax.tree.map(lambda a: a / num, sums.products)
    # f_i less the mean of the others is n / (n - 1) times f_i less the mean of all.
    mean = sums.value / num
    return jax.tree.map(lambda a, b: (a - mean * b) / (num - 1), sums.products, both)


def _summed(tile: _Tile, values: Array) -> _Sums:
    gram, right = jax.vmap(_pooled)(tile.scores, values)
    alive = tile.halves.sum(1)

    def by_half(x: Array) -> Array:
        return jnp.tensordot(tile.halves, x, [[0], [0]], precision=lax.Precision.HIGHEST)

    def product(x: Array) -> Array:
        return jnp.tensordot(alive * values, x.sum(1), 1, precision=lax.Precision.HIGHEST)

    return _Sums(
        jnp.sum(alive * values),
        jax.tree.map(product, tile.scores),
        jax.tree.map(by_half, tile.scores),
        by_half(gram),
        by_half(right),
    )


@eqx.filter_jit
def _expected(plan: _Plan, agent: Agent, key: Array, statistic: Callable[[Life], Any]) -> Array:
    still = lax.stop_gradient(agent)

    def run(index: Array) -> tuple[_Sums, Kept]:
        tile = _live(plan, still, key, index)
        values = jax.vmap(lambda kept: _number(plan, still, statistic, kept))(tile.kept)
        return _summed(tile, lax.stop_gradient(values)), tile.kept

    def add(sums: _Sums, index: Array) -> tuple[_Sums, Kept]:
        new, kept = run(index)
        return jax.tree.map(jnp.add, sums, new), kept

    # What a life leaves behind is kept, and looked at again with its own derivatives: the statistic
    # may close over parameters too.
    @jax.checkpoint
    def look(kept: Kept) -> Array:
        return jax.vmap(lambda kept: _number(plan, agent, statistic, kept))(kept)

    tiles = jnp.arange(plan.num_tiles, dtype=jnp.int32)
    shapes = jax.eval_shape(run, tiles[0])[0]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    sums, kept = lax.scan(add, nothing, tiles)
    values = lax.map(look, kept).reshape(-1)[: plan.num_agents]
    weights = lax.stop_gradient(_weighted(plan, sums))
    return _with_derivative(values.mean(), weights, inputs_of(agent))


@jax.custom_jvp
def _with_derivative(value: Array, weights: Inputs, inputs: Inputs) -> Array:
    """A value with one more derivative: ``weights``, by ``inputs``."""
    return value


@_with_derivative.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    value, weights, inputs = primals
    change, _, by_inputs = tangents
    weights = _only_once(weights, inputs)
    terms = jax.tree.map(lambda w, x: jnp.sum(w * x), weights, by_inputs)
    return value, functools.reduce(operator.add, jax.tree.leaves(terms), change)


@jax.custom_jvp
def _only_once(weights: Inputs, inputs: Inputs) -> Inputs:
    """The weights, which depend on inputs in a way that is not known."""
    return weights


@_only_once.defjvp
def _(primals: tuple, tangents: tuple) -> Any:
    raise NotImplementedError(
        "bn.design.expected can be differentiated once: its derivative is an average over lives, "
        "of whose own derivative nothing is known."
    )


@eqx.filter_jit
def _gradient(
    plan: _Plan,
    make: Callable[[Any], Agent],
    parameters: Any,
    key: Array,
    statistic: Callable[[Life], Any],
) -> ScoreGradient:
    free, rest = eqx.partition(parameters, eqx.is_inexact_array)
    agent = _checked(make(parameters))
    still = lax.stop_gradient(agent)
    given, pull = jax.vjp(lambda free: inputs_of(_checked(make(eqx.combine(free, rest)))), free)

    def run(index: Array) -> tuple:
        tile = _live(plan, still, key, index)

        def own(kept: Kept, scores: Inputs) -> tuple:
            value, direct = jax.value_and_grad(
                lambda inputs: _number(plan, agent_with(still, inputs), statistic, kept)
            )(given)
            both = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), direct, scores)
            return value, jax.vmap(pull)(both)[0], _pooled(scores, value)

        return jax.vmap(own)(tile.kept, tile.scores), tile.halves

    found, halves = lax.map(run, jnp.arange(plan.num_tiles, dtype=jnp.int32))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: plan.num_agents], (*found, halves))
    values, pulled, (gram, right), halves = flat
    num, mean = plan.num_agents, values.mean()
    if plan.baseline == "critic":
        critics = halves @ _critics(
            jnp.tensordot(halves, gram, [[0], [0]]), jnp.tensordot(halves, right, [[0], [0]])
        )
        factors = values[:, None] - critics
    else:
        # The mean of the others, and not of all: see `_weighted`.
        factors = values if plan.baseline == "none" else (values - mean) * (num / (num - 1))
        factors = factors[:, None]

    # The first is what the statistic owes to parameters itself.
    factors = jnp.concatenate([jnp.ones((num, 1), factors.dtype), factors], axis=1)

    def share(x: Array) -> Array:
        wide = factors.reshape(num, -1, *(1,) * (x.ndim - 2))
        return jnp.sum(wide.astype(x.dtype) * x, axis=1)

    shares = jax.tree.map(share, pulled)

    def error(x: Array) -> Array:
        return x.std(0, ddof=1) / jnp.sqrt(jnp.asarray(num, x.dtype))

    return ScoreGradient(
        mean,
        error(values),
        jax.tree.map(lambda x: x.mean(0), shares),
        jax.tree.map(error, shares),
        num,
    )
