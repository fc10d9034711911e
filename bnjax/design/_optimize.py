"""The search for a design: gradient ascent from several starts, annealed from smooth to sharp."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .._check import as_float, check_exploration, check_finite, check_key, number, whole
from ..belief import AbstractMemory, check_memory
from ..problem import AbstractProblem
from ..response import AbstractPolicy, check_policy
from ._certificates import (
    REQUIRED,
    SupportCertificate,
    check_enough,
    statistical_certificate,
    support_certificate,
)
from ._designs import (
    AbstractDesign,
    AbstractPriorDesign,
    Argument,
    Exploration,
    RewardBonus,
    RewardScale,
    Together,
)
from ._environments import Environments, check_domain, check_same_models, environments_of
from ._evaluate import GRADIENTS, STARTS, Evaluation, Objective, Sharpness, Situation, evaluate
from ._results import DesignResult, History

_CHUNK = 25  # steps between looks at how it goes
_ANNEALED = 0.6  # share of the steps after which play is as sharp as it gets
_COST = 0.01  # of going further than safety asks for, by default
_STRETCHES = 1.25, 1.5, 2.0, 3.0, 4.0
_SPREAD = 0.5  # standard deviation of the starts around the reference


class NonfiniteObjectiveError(ValueError):
    """The objective, or its gradient, stopped being a finite number.

    Attributes
    ----------
    step : at which it did.
    parameters : of the design at that step.
    history : `History` until then.
    """

    def __init__(self, step: int, parameters: Any, history: History):
        self.step, self.parameters, self.history = step, parameters, history
        shown = jax.tree.map(lambda x: np.asarray(x).tolist(), parameters)
        super().__init__(
            f"`objective` or its gradient is not finite at step {step}, with the parameters "
            f"{shown}; the error's `history` holds the steps before."
        )


def optimize(
    scenario: Callable[..., AbstractProblem],
    environments: Mapping[str, Any],
    design: AbstractDesign,
    *,
    objective: Callable[[Evaluation], Array] | None = None,
    gradient: str = "implicit",
    start: str | None = None,
    memory: ArrayLike | Sequence[float] = (2.0, 100.0),
    temperature: ArrayLike | Sequence[float] = (0.3, 0.03),
    exploration: ArrayLike = 0.0,
    num_steps: int = 200,
    num_starts: int = 8,
    num_environments: int = 16,
    num_samples: int | None = None,
    learning_rate: float = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    tolerance: float = 1e-4,
    key: Array | None = None,
    population: tuple[int, int] = (256, 200),
    threshold: float | None = 1e-3,
    certified_environments: int = 121,
    num_agents: int = 1000,
    horizon: int = 1000,
    policy: AbstractPolicy | None = None,
    agent_memory: AbstractMemory | None = None,
    required: float = REQUIRED,
    progress: Callable[[int, int], None] | None = None,
) -> DesignResult:
    """Search for a design whose learners end up safe, and say what it has earned.

    Gradient ascent on the objective, with play smooth at first (short memory, high temperature) and
    sharper and sharper for three fifths of the steps; from several starts at once: the reference,
    and random ones around it. It stops early when, at full sharpness, 25 more steps have raised the
    best objective by less than ``tolerance``. The best start is then put to two examinations, as is
    the reference: `SupportCertificate` and `StatisticalCertificate`. If the first fails, the
    design is stretched: up to four times as far from the reference, until it holds.

    Parameters
    ----------
    scenario : arguments -> a problem with a ``safe`` mask, such as `bnjax.scenarios.sycophancy`. A
        continuum of models is replaced by ``problem.discretize()``.
    environments : what is known of its arguments: a number, or bounds (low, high) between
        which the design has to work. Other arguments keep their defaults.
    design : what can be changed: `LogPrior`, `BetaPrior`, `GaussianPrior`, `SupportBounds`,
        `Width`, `Exploration`, `Argument`, `RewardScale`, `RewardBonus`, `Together` of several, or
        your own `AbstractDesign`.
    objective : `Evaluation` -> scalar, to be made large. Default: ``Objective(cost=0.01)``, the
        mean share of safe actions, less a little for going far from the reference.
    gradient : how play depends on the design:

        - ``"implicit"``: play is the smooth equilibrium that the prior's own play leads to;
          derivatives are those of that equilibrium, blind to which of several is reached. Cheap.
        - ``"unrolled"``: play is where the smooth mean field stands at time 5 (20 steps);
          derivatives see which equilibrium is selected, near the border between basins.
        - ``"score"``: play is simulated (logit policy, discounted memory, ``population``);
          unbiased derivatives of what really happens, and noisy.

    start : where smooth play starts: ``"prior"``, from the prior's own play; or ``"any"``, from
        that and from every action, of which the least safe result counts: what a certificate by
        support asks for. Default: "any", but "prior" where nothing can be ruled out
        (``threshold=None``) or play is simulated.
    memory : of smooth play, in observations: a number, or (first, last), between which it runs
        geometrically.
    temperature : likewise, as a share of the range of payoffs that the models expect (so that
        paying more is not by itself sharper play).
    exploration : probability of a tremble in the reference.
    num_steps : of the search.
    num_starts : of the search.
    num_environments : points of the box that the search looks at: at most so many, on a grid,
        corners included.
    num_samples : points drawn at random from the box, for the search to look at instead of that
        grid, which has few points a side where many arguments vary. Certificates are for a grid all
        the same.
    learning_rate : of Adam (with b2 = 0.9); or pass an ``optimizer`` of optax, which minimises.
    tolerance : see above.
    key : for random starts, samples and simulations. Default: ``jax.random.key(0)``.
    population : agents and steps in each environment, for ``gradient="score"``.
    threshold : how hard designs come about: models whose weight has fallen, relative to
        the one that rose most, below this share are ruled out (`AbstractDesign.hard`). None: they
        never are, and the design can only reweight.
    certified_environments : points of the grid of both certificates, at most.
    num_agents : simulated for the statistical certificate in each of them.
    horizon : for how many steps.
    policy : of these agents. Default: best response.
    agent_memory : of these agents. Default: perfect memory.
    required : probability of playing safe that the statistical certificate asks for.
    progress : called with (steps done, steps in all) now and then.

    Returns
    -------
    DesignResult

    Raises
    ------
    ValueError
        If an argument is out of range, the box leaves the domain of the scenario, or the reference
        is no design of this kind.
    NonfiniteObjectiveError
        If the objective or its gradient is not finite.

    Examples
    --------
    >>> import bnjax as bn
    >>> result = bn.design.optimize(
    ...     bn.scenarios.deception,
    ...     {"p_detect": (0.3, 0.9)},
    ...     bn.design.SupportBounds(),
    ...     num_steps=50,
    ...     num_starts=1,
    ...     num_agents=200,
    ...     horizon=100,
    ... )
    >>> result.earned
    'support'
    >>> print(bn.design.table({"bounds": result}))
                   safe    worst   payoff     cost  safe phase  earned
    reference   ...  -
    bounds      ... 100%  support
    """
    plan = plan_of(
        scenario,
        environments,
        design,
        objective=objective,
        gradient=gradient,
        start=check_start(start, gradient, threshold is not None),
        threshold=threshold,
        memory=memory,
        temperature=temperature,
        exploration=exploration,
        num_steps=num_steps,
        num_starts=num_starts,
        num_environments=num_environments,
        num_samples=num_samples,
        learning_rate=learning_rate,
        optimizer=optimizer,
        tolerance=tolerance,
        key=key,
        population=population,
    )
    wanted = "be a probability inside (0, 1)"
    required = number("required", required, wanted, lambda x: 0 < x < 1)
    examined = whole("certified_environments", certified_environments)
    counts = whole("num_agents", num_agents), whole("horizon", horizon)
    if policy is not None:
        check_policy(policy)
    if agent_memory is not None:
        check_memory(agent_memory)
    axes, points = plan.situation.environments.grid(examined)
    check_enough(counts[0], math.prod(len(axis) for axis in axes.values()), required)
    searched = search(plan, plan.objective, progress)
    best = int(np.nanargmax(searched.final))
    parameters = jax.tree.map(lambda x: x[best], searched.parameters)
    grid = _elsewhere(plan.situation, points)
    sharp = jax.tree.map(lambda x: x[-1], plan.schedule)
    compiled = eqx.filter_jit(evaluate)

    def look(parameters: Any) -> Evaluation:
        return compiled(plan.situation, parameters, sharp, plan.key)

    reference = plan.situation.reference
    given = grid, parameters, axes, threshold
    parameters, stretch, support = _stretched(*given, plan.objective, look)
    statistical = {
        name: statistical_certificate(
            grid,
            each,
            axes,
            threshold,
            plan.key,
            num_agents=counts[0],
            num_steps=counts[1],
            policy=policy,
            memory=agent_memory,
            required=required,
        )
        for name, each in (("before", reference), ("after", parameters))
    }
    return DesignResult(
        design=design,
        parameters=parameters,
        reference=reference,
        situation=grid,
        before=look(reference),
        after=look(parameters),
        history=searched.history,
        best=best,
        stretch=stretch,
        threshold=threshold,
        support_before=support_certificate(grid, reference, axes, threshold),
        support=support,
        statistical_before=statistical["before"],
        statistical=statistical["after"],
    )


def _stretched(
    situation: Situation,
    parameters: Any,
    axes: Any,
    threshold: float | None,
    objective: Any,
    look: Callable[[Any], Evaluation],
) -> tuple[Any, float, SupportCertificate]:
    """Go further along the way from the reference to the design, until its support is certified.

    Smooth play is safe a little before the hard design is. Only what weighs models goes further,
    and not beyond the limits of the objective. If no stretch will do, the design stays.
    """
    design, reference = situation.design, situation.reference

    def further(stretch: float) -> Any:
        def moved(part: AbstractDesign, first: Any, last: Any) -> Any:
            if isinstance(part, (Argument, Exploration, RewardScale, RewardBonus)):
                return last
            return jax.tree.map(lambda a, b: a + stretch * (b - a), first, last)

        if isinstance(design, Together):
            each = zip(design.designs, reference, parameters, strict=True)
            return design.project(tuple(moved(*part) for part in each))
        return design.project(moved(design, reference, parameters))

    first = support_certificate(situation, parameters, axes, threshold)
    for stretch in _STRETCHES if threshold is not None and not first.holds else ():
        tried = further(stretch)
        if isinstance(objective, Objective) and not objective.allows(look(tried)):
            break
        found = support_certificate(situation, tried, axes, threshold)
        if found.holds:
            return tried, stretch, found
    return parameters, 1.0, first


def _elsewhere(situation: Situation, points: dict[str, Array]) -> Situation:
    """The same situation at other points of the box."""
    return eqx.tree_at(lambda s: s.points, situation, points)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search, all arguments of which have been looked at."""

    situation: Situation
    objective: Callable[..., Any]
    optimizer: optax.GradientTransformation
    schedule: Sharpness
    starts: Any
    key: Array
    tolerance: float


def plan_of(
    scenario: Any,
    environments: Any,
    design: Any,
    *,
    objective: Any,
    gradient: str,
    start: str,
    threshold: float | None,
    num_starts: Any,
    memory: Any = (2.0, 100.0),
    temperature: Any = (0.3, 0.03),
    exploration: Any = 0.0,
    num_steps: Any = 200,
    num_environments: Any = 16,
    num_samples: Any = None,
    learning_rate: float = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    tolerance: float = 1e-4,
    key: Array | None = None,
    population: tuple[int, int] = (256, 200),
) -> Plan:
    """Check what `optimize` is given, and make the situation of it."""
    if not isinstance(design, AbstractDesign):
        raise ValueError(
            f"`design` must be a design, such as bn.design.LogPrior(); got {design!r}."
        )
    if threshold is not None:
        threshold = number(
            "threshold", threshold, "lie inside (0, 1) or be None", lambda x: 0 < x < 1
        )
    if gradient not in GRADIENTS:
        raise ValueError(f"`gradient` must be one of {GRADIENTS}; got {gradient!r}.")
    if objective is None:
        objective = Objective(cost=_COST)
    if not callable(objective):
        raise ValueError(f"`objective` must be a function of an Evaluation; got {objective!r}.")
    num_steps, num_starts = whole("num_steps", num_steps), whole("num_starts", num_starts)
    wanted = "be a positive number"
    learning_rate = number("learning_rate", learning_rate, wanted, lambda x: x > 0)
    if not (optimizer is None or isinstance(optimizer, optax.GradientTransformation)):
        raise ValueError(
            f"`optimizer` must be one of optax, such as optax.adam(0.1), or None; got "
            f"{optimizer!r}."
        )
    wanted = "be a number, not less than 0"
    tolerance = number("tolerance", tolerance, wanted, lambda x: x >= 0)
    if not isinstance(population, tuple) or len(population) != 2:
        raise ValueError(f"`population` must be (agents, steps); got {population!r}.")
    agents, steps = population
    population = whole("population[0]", agents), whole("population[1]", steps)
    key = jax.random.key(0) if key is None else key
    check_key(key)
    given = environments_of(scenario, environments)
    _, points = given.grid(whole("num_environments", num_environments))
    problem = _reference_problem(given, design)
    if num_samples is None:
        check_domain(given, points)
    else:
        corners = points
        points = given.sample(whole("num_samples", num_samples), jax.random.fold_in(key, 4))
        check_domain(given, {k: jnp.concatenate([corners[k], x]) for k, x in points.items()})
    dtype = problem.log_prior.dtype
    tremble = check_exploration(exploration).astype(dtype)
    reference = _parameters(design.init(problem, given.arguments(), tremble))
    _check_arguments(given, design, reference)
    if any(isinstance(part, AbstractPriorDesign) for part in _parts(design)):
        check_same_models(given, points, design.arguments(reference))
    situation = Situation(
        given, points, design, reference, tremble, gradient, start, threshold, population
    )
    schedule = Sharpness(
        _annealed("memory", memory, num_steps, dtype),
        _annealed("temperature", temperature, num_steps, dtype),
    )
    if gradient == "score" and not (np.asarray(schedule.memory) > 1).all():
        raise ValueError(
            "`memory` must be above 1 for gradient='score', where agents forget at the rate "
            f"1 / memory; got {memory!r}."
        )
    if optimizer is None:
        # Where play is sharp, gradients shrink by orders of magnitude without losing their sense:
        # a short memory of their size, and hardly any constant beside it.
        optimizer = optax.adam(learning_rate, b2=0.9, eps=1e-15)
    starts = _starts(design, reference, num_starts, jax.random.fold_in(key, 1))
    return Plan(situation, objective, optimizer, schedule, starts, key, tolerance)


def _parameters(reference: Any) -> Any:
    """What a design starts from, as floating arrays."""
    leaves, structure = jax.tree.flatten(reference)
    if not leaves:
        raise ValueError(
            f"`design.init` must return arrays, which the search may change; got {reference!r}."
        )
    arrays = [as_float("design.init(...)", leaf) for leaf in leaves]
    for array in arrays:
        check_finite("design.init(...)", array)
    return jax.tree.unflatten(structure, arrays)


def _check_arguments(environments: Environments, design: AbstractDesign, reference: Any) -> None:
    """Refuse designs of what the environments decide, or beyond the domain of the scenario."""
    names = [name for part in _parts(design) if isinstance(part, Argument) for name in [part.name]]
    if len(set(names)) < len(names):
        raise ValueError(f"`design` must set each argument once; got {', '.join(names)}.")
    for name in design.arguments(reference):
        if name in environments.box:
            raise ValueError(
                f"`{name}` cannot be both designed and given bounds in `environments`: either the "
                "designer sets it, or the world does."
            )
    values = environments.arguments()
    middle = {name: values[name] for name in environments.box}
    for part in _parts(design):
        if isinstance(part, Argument):
            for bound in (part.low, part.high):
                # At the host, where the scenario can say what is wrong with it.
                environments.make(middle, {part.name: bound})


def check_start(start: str | None, gradient: str, can_rule_out: bool) -> str:
    """Where smooth play starts, by default or as asked."""
    if start is None:
        return "any" if can_rule_out and gradient != "score" else "prior"
    if start not in STARTS:
        raise ValueError(f"`start` must be one of {STARTS} or None; got {start!r}.")
    if start == "any" and gradient == "score":
        raise ValueError("`start` must be 'prior' for gradient='score': agents have a prior.")
    return start


def _parts(design: AbstractDesign) -> tuple[AbstractDesign, ...]:
    return design.designs if isinstance(design, Together) else (design,)


def _reference_problem(environments: Environments, design: AbstractDesign) -> Any:
    """The problem in the middle of the box, at the host, where it can say what is wrong with it.

    What is to be designed is traced, as in the search: some scenarios make other models of numbers
    that they can see (of a width of 0).
    """
    arguments = environments.arguments()
    middle = {name: arguments[name] for name in environments.box}
    problem = environments.make(middle, {})
    names = [part.name for part in _parts(design) if isinstance(part, Argument)]
    designed = {
        n: jnp.asarray(arguments[n], jnp.result_type(float)) for n in names if n in arguments
    }
    if designed:
        problem = eqx.filter_jit(lambda given: environments.make(middle, given))(designed)
    if problem.safe is None:
        raise ValueError(
            "`scenario` must say which actions are safe (`safe`); without that there is nothing "
            "to design for."
        )
    return problem


def _annealed(name: str, value: Any, num_steps: int, dtype: Any) -> Float[Array, " steps"]:
    """From the first value to the last, geometrically, for three fifths of the steps."""
    array = np.asarray(as_float(name, value), np.float64).reshape(-1)
    if array.size not in (1, 2) or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"`{name}` must be a positive number, or (first, last); got {value!r}.")
    # At least one step, the last, is as sharp as it gets.
    place = np.minimum(np.arange(num_steps) / max(1, round(_ANNEALED * num_steps) - 1), 1.0)
    place[-1] = 1.0
    return jnp.asarray(array[0] * (array[-1] / array[0]) ** place, dtype)


def _starts(design: AbstractDesign, reference: Any, num: int, key: Array) -> Any:
    """The reference, and others around it, stacked."""
    leaves, structure = jax.tree.flatten(reference)

    def start(index: Array) -> Any:
        keys = jax.random.split(jax.random.fold_in(key, index), max(1, len(leaves)))
        spread = jnp.where(index > 0, _SPREAD, 0.0)
        moved = [
            x + spread.astype(x.dtype) * jax.random.normal(k, x.shape, x.dtype)
            for x, k in zip(leaves, keys, strict=False)
        ]
        return design.project(jax.tree.unflatten(structure, moved))

    return jax.vmap(start)(jnp.arange(num))


class Searched(NamedTuple):
    """Where a search has got to.

    Parameters
    ----------
    parameters : of every start, stacked.
    final : [starts] objective there, at full sharpness.
    history : of every start.
    """

    parameters: Any
    final: np.ndarray
    history: History


def search(
    plan: Plan, objective: Any, progress: Callable[[int, int], None] | None, batched: bool = False
) -> Searched:
    """Climb from every start; ``batched``: with an objective of its own each."""
    if progress is not None and not callable(progress):
        raise ValueError(f"`progress` must be a function or None; got {progress!r}.")
    parameters = plan.starts
    given = plan.situation, objective, plan.optimizer, jax.random.fold_in(plan.key, 2)
    state = jax.vmap(plan.optimizer.init)(parameters)
    num_steps = plan.schedule.memory.shape[0]
    annealed = round(_ANNEALED * num_steps)
    parts: list[History] = []
    best_before = -np.inf
    kept: Any = None
    # Chunks of one length: one compilation, and a second for a last one that is shorter.
    for begin in range(0, num_steps, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        sharp = Sharpness(plan.schedule.memory[part], plan.schedule.temperature[part])
        carry = parameters, state
        carry, history, seen = _climb(*given, carry, sharp, jnp.int32(begin), batched)
        parts.append(jax.tree.map(np.asarray, history))
        _check_finite(parts, seen, begin)
        parameters, state = carry
        done = min(begin + _CHUNK, num_steps)
        if progress is not None:
            progress(done, num_steps)
        if begin >= annealed:
            kept = _better(kept, parts[-1].objective, seen)
        best = float(parts[-1].objective[:, -1].max())
        if begin >= annealed and best - best_before < plan.tolerance:
            break
        best_before = best if begin >= annealed else -np.inf
    sharp = Sharpness(plan.schedule.memory[-1:], plan.schedule.temperature[-1:])
    last, seen = _climb(*given, (parameters, state), sharp, jnp.int32(num_steps), batched)[1:]
    kept = _better(kept, np.asarray(last.objective), seen)
    whole_history = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
    return Searched(kept[1], kept[0], whole_history)


def _better(kept: Any, objective: np.ndarray, seen: Any) -> tuple[np.ndarray, Any]:
    """The best objective of every start at full sharpness, and where: play may jump at the end."""
    step, starts = objective.argmax(1), np.arange(len(objective))
    value, where = objective[starts, step], jax.tree.map(lambda x: x[starts, step], seen)
    if kept is None:
        return value, where
    new = value > kept[0]

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(new.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return np.where(new, value, kept[0]), jax.tree.map(pick, where, kept[1])


@eqx.filter_jit
def _climb(
    situation: Situation,
    objective: Any,
    optimizer: optax.GradientTransformation,
    key: Array,
    carry: Any,
    sharp: Sharpness,
    begin: Array,
    batched: bool,
) -> Any:
    """Some steps of every start: parameters and state, history, and parameters seen."""

    def run(objective: Any, parameters: Any, state: Any) -> Any:
        def step(carry: Any, at: tuple[Sharpness, Array]) -> Any:
            parameters, state = carry
            sharp, number = at

            def loss(parameters: Any) -> tuple[Array, Evaluation]:
                # Another population at every step.
                found = evaluate(situation, parameters, sharp, jax.random.fold_in(key, number))
                return -as_float("objective(evaluation)", objective(found), ndim=0), found

            (value, found), slope = jax.value_and_grad(loss, has_aux=True)(parameters)
            # optax mixes dtypes, which some forbid.
            with jax.numpy_dtype_promotion("standard"):
                change, state = optimizer.update(slope, state, parameters)
                later = optax.apply_updates(parameters, change)
            later = situation.design.project(later)
            seen = History(
                -value,
                optax.tree.norm(slope),
                found.safe_share.mean(),
                found.payoff.mean(),
                found.cost,
                found.converged.mean(dtype=value.dtype),
            )
            return (later, state), (seen, parameters)

        numbers = begin + jnp.arange(sharp.memory.shape[0], dtype=jnp.int32)
        carry, (history, seen) = lax.scan(step, (parameters, state), (sharp, numbers))
        return carry, history, seen

    arrays, rest = eqx.partition(objective, eqx.is_array)
    axes = 0 if batched else None
    mapped = jax.vmap(lambda a, p, s: run(eqx.combine(a, rest), p, s), in_axes=(axes, 0, 0))
    return mapped(arrays, *carry)


def _check_finite(parts: Sequence[History], seen: Any, begin: int) -> None:
    """Stop where an objective or a gradient is not finite."""
    last = parts[-1]
    bad = ~(np.isfinite(last.objective) & np.isfinite(last.gradient_norm))
    if bad.any():
        step, start = np.argwhere(bad.T)[0]
        history = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
        until = jax.tree.map(lambda x: x[:, : begin + int(step)], history)
        parameters = jax.tree.map(lambda x: np.asarray(x)[start, step], seen)
        raise NonfiniteObjectiveError(begin + int(step), parameters, until)
