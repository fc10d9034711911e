"""Populations of Bayesian learners in NumPy: the baseline for `bnjax.simulate`.

The same problems, policies, memories and statistics, vectorised over agents, in four forms, of
which the first three play alike when they are given the same random numbers, but for ties:

- ``naive``: a log-belief of every agent, updated and exponentiated at every step. It is how one
  writes it, and it serves everything: all memories, categorical and Gaussian consequences.
- ``counts``: what an agent has seen, and a matrix product that makes its log-belief at every step.
- ``blocked``: weights in blocks, as in `bnjax.learning._blocked`: made from counts now and then,
  and only multiplied in between.
- ``moments``: many decisions from one product of matrices, as in `bnjax.learning._moments`. Two
  actions, two consequences, perfect memory, best response.

All are written with care: single precision where bnjax has it, buffers that are allocated once,
agents in chunks that stay in the cache, and threads (NumPy lets go of the interpreter as it
computes). Arrays have agents first, so that a row of models is contiguous.
"""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[Any]
Form = Literal["naive", "counts", "blocked", "moments"]

LOCKED, MIXING, UNDECIDED = range(3)
_DRAWN = 2**17  # random numbers made at a time
_HELD = 64  # observations of an agent that wait until they are counted
_DEGREE = 16  # most decisions from one belief


# Problems


class Categorical(NamedTuple):
    """A problem of finitely many consequences: arrays as for `bnjax.Problem`.

    ``probs``, ``payoff`` [A, Y]; ``model_probs`` [M, A, Y]; ``log_prior`` [M].
    """

    probs: Floats
    model_probs: Floats
    payoff: Floats
    log_prior: Floats

    @property
    def num_actions(self) -> int:
        return self.probs.shape[0]

    def payoffs(self) -> Floats:
        """Payoff that each model expects of each action, [M, A]."""
        return (self.model_probs * self.payoff).sum(-1)

    def log_ratios(self) -> tuple[Floats, NDArray[np.bool_]]:
        """log(model / truth) [A Y, M], 0 where it is infinite, and where a model rules it out."""
        both = (self.model_probs > 0) & (self.probs > 0)
        log = np.log(np.where(both, self.model_probs, 1) / np.where(both, self.probs, 1))
        out = (self.model_probs <= 0) & (self.probs > 0)
        return _by_code(log), _by_code(out)


class Gaussian(NamedTuple):
    """A problem of normally distributed consequences: arrays as for `bnjax.GaussianProblem`.

    ``mean``, ``sd``, ``intercept``, ``slope`` [A]; ``model_mean``, ``model_sd`` [M, A];
    ``log_prior`` [M]. The payoff of y is intercept + slope * y.
    """

    mean: Floats
    sd: Floats
    model_mean: Floats
    model_sd: Floats
    intercept: Floats
    slope: Floats
    log_prior: Floats

    @property
    def num_actions(self) -> int:
        return self.mean.shape[0]

    def payoffs(self) -> Floats:
        """Payoff that each model expects of each action, [M, A]."""
        return self.intercept + self.slope * self.model_mean

    def log_ratios(self) -> Floats:
        """Coefficients [3, A, M] of 1, z and z^2 in log(model / truth), z standardised by truth."""
        ratio = self.sd / self.model_sd
        shift = (self.mean - self.model_mean) / self.model_sd
        terms = np.log(ratio) - 0.5 * shift**2, -ratio * shift, 0.5 * (1 - ratio**2)
        return np.ascontiguousarray(np.stack(terms).transpose(0, 2, 1))


def _by_code(array: NDArray[Any]) -> NDArray[Any]:
    """[M, A, Y] to rows of models, one a pair of action and consequence."""
    return np.ascontiguousarray(array.reshape(len(array), -1).T)


# Policies and memories


@dataclasses.dataclass(frozen=True)
class BestResponse:
    """Play an action of the highest expected payoff; ties as in `bnjax.BestResponse`.

    Parameters
    ----------
    ties : "first", "last" or "uniform".
    tolerance : None is bnjax's.
    epsilon : probability of a tremble to a uniform action (`bnjax.EpsilonGreedy`).
    """

    ties: Literal["first", "last", "uniform"] = "first"
    tolerance: float | None = None
    epsilon: float = 0.0

    @property
    def randomised(self) -> bool:
        return self.ties == "uniform" or self.epsilon > 0

    def tolerance_in(self, dtype: np.dtype) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return 1e-5 if np.finfo(dtype).eps > 1e-10 else 1e-10

    def table(self, payoffs: Floats) -> tuple[Floats, Floats]:
        """Features [M, F] of which a belief is asked for the means, and a log-weight [M] to add.

        Gains on the best payoff (two actions: on the mean) and their sizes, each model's scaled to
        at most one, and the scale moved to its weight: a model that does not matter cannot crowd
        out others.
        """
        two = payoffs.shape[1] == 2
        gain = payoffs - (payoffs.mean if two else payoffs.max)(1, keepdims=True)
        gain[np.abs(gain) <= 0.5 * self.tolerance_in(payoffs.dtype) * np.ptp(payoffs)] = 0
        if payoffs.shape[1] == 2:
            gain = gain[:, 1:]
        features = np.concatenate([gain, np.abs(gain)], axis=1)
        size = np.abs(features).max(1)
        scale = np.where(size > 0, size, 1)
        return features / scale[:, None], np.where(size > 0, np.log(scale), -np.inf)

    def intend(self, means: Floats, slack: Any, number: Floats) -> Ints:
        """Intended actions [n] from means [n, F] under the belief, times any positive number."""
        most = means.dtype.type(1 - 8 * np.finfo(means.dtype).eps)
        tolerance = np.tanh(slack) + means.dtype.type(self.tolerance_in(means.dtype))
        tolerance = np.minimum(tolerance, most)
        half = means.shape[1] // 2
        gain, size = means[:, :half], means[:, half:]
        if half == 1:  # two actions: the gain is that of the second
            gain, margin = gain[:, 0], tolerance * size[:, 0]
            if self.ties == "first":
                return (gain > margin).astype(np.intp)
            if self.ties == "last":
                return (gain >= -margin).astype(np.intp)
            return np.where(np.abs(gain) <= margin, number >= 0.5, gain > 0).astype(np.intp)
        agents = np.arange(len(gain))
        best = gain.argmax(1)
        margin = size + size[agents, best][:, None]
        gap = gain[agents, best][:, None] - gain
        tied = gap <= np.reshape(tolerance, (-1, 1)) * margin
        tied[agents, best] = True
        if self.ties == "first":
            return tied.argmax(1)
        if self.ties == "last":
            return half - 1 - tied[:, ::-1].argmax(1)
        return inverse_cdf(tied.astype(means.dtype), number)


@dataclasses.dataclass(frozen=True)
class Logit:
    """Play action a with probability proportional to exp(expected payoff / temperature)."""

    temperature: float
    randomised = True
    epsilon = 0.0

    def table(self, payoffs: Floats) -> tuple[Floats, Floats]:
        """Payoffs, and a column of ones: the total weight."""
        return _with_total(payoffs)

    def intend(self, means: Floats, slack: Any, number: Floats) -> Ints:
        """Actions [n] drawn with the numbers."""
        payoffs = means[:, :-1] / means[:, -1:]
        payoffs /= means.dtype.type(self.temperature)
        payoffs -= payoffs.max(1, keepdims=True)
        return inverse_cdf(np.exp(payoffs, out=payoffs), number)


@dataclasses.dataclass(frozen=True)
class Thompson:
    """Draw a model from the belief, and play what is best in it."""

    randomised = True
    epsilon = 0.0

    def table(self, payoffs: Floats) -> tuple[Floats, Floats]:
        """Which actions are best, and the total weight."""
        slight = 8 * np.finfo(payoffs.dtype).eps * np.abs(payoffs).max()
        best = (payoffs >= payoffs.max(1, keepdims=True) - slight).astype(payoffs.dtype)
        return _with_total(best / best.sum(1, keepdims=True))

    def intend(self, means: Floats, slack: Any, number: Floats) -> Ints:
        """Actions [n] drawn with the numbers."""
        return inverse_cdf(means[:, :-1], number)


Policy = BestResponse | Logit | Thompson


class Perfect(NamedTuple):
    """Remember everything."""


class Discounted(NamedTuple):
    """Forget a share ``rate`` of the evidence at each step."""

    rate: float


class Window(NamedTuple):
    """Remember the last ``length`` observations."""

    length: int


Memory = Perfect | Discounted | Window


def _with_total(features: Floats) -> tuple[Floats, Floats]:
    ones = np.ones((len(features), 1), features.dtype)
    return np.concatenate([features, ones], axis=1), np.zeros(len(features), features.dtype)


def inverse_cdf(weights: Floats, number: Floats) -> Ints:
    """Columns drawn in proportion to the weights [n, A] with numbers [n] in [0, 1)."""
    number = number * weights.sum(1)
    if weights.shape[1] == 2:
        return ((weights[:, 0] <= number) & (weights[:, 1] > 0)).astype(np.intp)
    passed = (np.cumsum(weights, axis=1) <= number[:, None]).sum(1)
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)
    return np.minimum(passed, last)


def tremble(policy: Policy, means: Floats, slack: Any, number: Floats) -> tuple[Ints, Ints]:
    """Actions that are intended, and that are played, from one number each."""
    epsilon = number.dtype.type(policy.epsilon)
    if epsilon == 0:
        intended = policy.intend(means, slack, number)
        return intended, intended
    num = 2 if means.shape[1] == 2 else means.shape[1] // 2
    trembles = number >= 1 - epsilon
    scaled = np.maximum(number - (1 - epsilon), 0) / epsilon * num
    some = np.minimum(scaled.astype(np.intp), num - 1)
    calm = number / (1 - epsilon) if epsilon < 1 else number
    intended = policy.intend(means, slack, np.where(trembles, scaled - some, calm))
    return intended, np.where(trembles, some, intended)


# What comes out


@dataclasses.dataclass(frozen=True)
class Result:
    """Final statistics, as in `bnjax.Simulation`.

    Parameters
    ----------
    frequency, late_frequency : [N, A] share of all steps, and of the second half.
    log_belief : [N, M] log-probability of each model.
    mean_payoff : [N] a step.
    intended, since : [N] the action intended last, and since when.
    switches : [N, 2] changes of it in the third and the fourth quarter.
    actions : [T, N] every action, if asked for.
    """

    frequency: Floats
    late_frequency: Floats
    log_belief: Floats
    mean_payoff: Floats
    intended: Ints
    since: Ints
    switches: Ints
    actions: Ints | None = None

    @property
    def outcome(self) -> Ints:
        """[N] codes of `bnjax.Outcome`."""
        return outcome_of(self.switches)


def outcome_of(switches: Ints) -> Ints:
    """Locked, mixing or undecided, from changes in the third and the fourth quarter [N, 2]."""
    code = np.where((switches > 0).all(1), MIXING, UNDECIDED)
    return np.where((switches == 0).all(1), LOCKED, code)


def quarters(num_steps: int) -> tuple[int, int]:
    """First steps of the third and of the fourth quarter."""
    half = num_steps // 2
    return half, half + (num_steps - half) // 2


def simulate(
    problem: Categorical | Gaussian,
    seed: int,
    *,
    num_agents: int,
    num_steps: int,
    form: Form = "naive",
    policy: Policy | None = None,
    memory: Memory | None = None,
    chunk: int | None = None,
    num_threads: int = 1,
    avoid_denormals: bool = True,
    keep_actions: bool = False,
) -> Result:
    """Simulate a population.

    Parameters
    ----------
    problem : arrays of one dtype, in which everything is computed.
    seed : agents of a chunk share a generator, spawned from it: threads do not change results.
    num_agents, num_steps : N and T.
    form : see the module.
    policy, memory : default: `BestResponse` and `Perfect`.
    chunk : agents that go together. Default: all.
    num_threads : threads that chunks are dealt out to.
    avoid_denormals : raise log-weights that cannot matter to where the exponential is a normal
        number. One line; without it the naive form, as one first writes it, is three times slower.
    keep_actions : also return every action that was played.
    """
    policy = BestResponse() if policy is None else policy
    memory = Perfect() if memory is None else memory
    problem = type(problem)(*(np.asarray(x) for x in problem))
    chunk = num_agents if chunk is None else min(chunk, num_agents)
    starts = range(0, num_agents, chunk)
    if form == "moments" and not serves_moments(problem, policy, memory):
        raise ValueError(
            "the form 'moments' is for two actions with two consequences, a best response and a "
            "perfect memory."
        )
    if form == "moments" and keep_actions:
        raise ValueError("the form 'moments' keeps no actions.")

    def run(start: int) -> Result:
        spawned = np.random.SeedSequence(seed, spawn_key=(start // chunk,))
        rng = np.random.Generator(np.random.SFC64(spawned))
        size = min(chunk, num_agents - start)
        if form == "moments":
            assert isinstance(problem, Categorical)
            return _run_moments(_Moments(problem, policy, size), rng, size, num_steps)
        believer = _believer(form, problem, policy, memory, size, avoid_denormals)
        return _run(problem, policy, believer, rng, size, num_steps, keep_actions)

    if num_threads == 1 or len(starts) == 1:
        parts = [run(start) for start in starts]
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            parts = list(pool.map(run, starts))
    return joined(parts)


def joined(parts: list[Result]) -> Result:
    """One population of several."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in dataclasses.fields(Result)]
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    actions = columns.pop("actions")
    whole = {name: np.concatenate(column) for name, column in columns.items()}
    kept = None if actions[0] is None else np.concatenate(actions, axis=1)
    return Result(**whole, actions=kept)


def _believer(
    form: Form,
    problem: Categorical | Gaussian,
    policy: Policy,
    memory: Memory,
    size: int,
    avoid_denormals: bool,
) -> Any:
    if form == "naive":
        return _Naive(problem, policy, memory, size, avoid_denormals)
    if isinstance(problem, Gaussian):
        raise ValueError(f"Gaussian problems have the form 'naive' only; got {form!r}.")
    if form == "counts":
        return _Counts(problem, policy, memory, size)
    if not isinstance(memory, Perfect):
        raise ValueError(f"the form 'blocked' has a perfect memory only; got {memory!r}.")
    return _Blocked(problem, policy, size)


def _run(
    problem: Categorical | Gaussian,
    policy: Policy,
    believer: Any,
    rng: np.random.Generator,
    size: int,
    num_steps: int,
    keep_actions: bool,
) -> Result:
    """A chunk of agents, step by step."""
    dtype = problem.log_prior.dtype
    each = 2 if policy.randomised else 1
    gaussian = isinstance(problem, Gaussian)
    half, fourth = quarters(num_steps)
    tally = _Tally(problem, size)
    numbers = np.empty((max(1, min(num_steps, _DRAWN // (each * size))), each, size), dtype)
    normals = np.empty((len(numbers), size), dtype) if gaussian else None
    kept = np.empty((num_steps, size), np.int8) if keep_actions else None
    late = None
    third_switches = fourth_switches = np.zeros(size, np.int32)
    for time in range(num_steps):
        place = time % len(numbers)
        if place == 0:
            rng.random(out=numbers, dtype=dtype.type)
            if normals is not None:
                rng.standard_normal(out=normals, dtype=dtype.type)
        if time == half:
            late = tally.counted().copy()
            third_switches = tally.switches.copy()
        if time == fourth:
            fourth_switches = tally.switches.copy()
        means, slack = believer.means(time)
        intended, action = tremble(policy, means, slack, numbers[place, -1])
        seen = (
            tally.draw(action, numbers[place, 0]) if normals is None else (action, normals[place])
        )
        believer.observe(seen, time)
        tally.count(intended, seen, time)
        if kept is not None:
            kept[time] = action
    counts = tally.counted()
    by_action = counts.reshape(size, problem.num_actions, -1).sum(2)
    before = 0 if late is None else late.reshape(size, problem.num_actions, -1).sum(2)
    return Result(
        by_action.astype(dtype) / num_steps,
        (by_action - before).astype(dtype) / (num_steps - half),
        believer.log_belief(counts),
        tally.payoff() / dtype.type(num_steps),
        tally.intended,
        tally.since,
        np.stack([fourth_switches - third_switches, tally.switches - fourth_switches], axis=1),
        kept,
    )


class _Tally:
    """Draws consequences and counts: of a pair of action and consequence, or of an action."""

    def __init__(self, problem: Categorical | Gaussian, size: int):
        self.problem = problem
        self.num_codes = problem.num_actions
        if isinstance(problem, Categorical):
            self.num_consequences = problem.probs.shape[1]
            self.num_codes *= self.num_consequences
            cdf = np.cumsum(problem.probs, axis=1) / problem.probs.sum(1, keepdims=True)
            # What comes after the last consequence that happens is never reached.
            last = self.num_consequences - 1 - (problem.probs[:, ::-1] > 0).argmax(1)
            cdf[np.arange(cdf.shape[1]) >= last[:, None]] = 2
            self.cdf = np.ascontiguousarray(cdf[:, :-1].T)
        self.first = np.arange(size) * self.num_codes
        self.held = np.empty((_HELD, size), np.intp)
        self.num_held = 0
        self.counts = np.zeros((size, self.num_codes), np.int64)
        self.total = np.zeros(size)
        self.intended = np.zeros(size, np.intp)
        self.since = np.zeros(size, np.int32)
        self.switches = np.zeros(size, np.int32)

    def draw(self, action: Ints, number: Floats) -> Ints:
        """Codes of the pairs of an action and a consequence drawn from the truth."""
        code = action * self.num_consequences
        for row in self.cdf:
            code += number >= row.take(action)
        return code

    def count(self, intended: Ints, seen: Any, time: int) -> None:
        """Take note of a step; counting waits until there is much to count."""
        if isinstance(self.problem, Gaussian):
            code, z = seen
            consequence = self.problem.mean.take(code) + self.problem.sd.take(code) * z
            self.total += self.problem.intercept.take(code)
            self.total += self.problem.slope.take(code) * consequence
        else:
            code = seen
        np.add(code, self.first, out=self.held[self.num_held])
        self.num_held += 1
        if self.num_held == _HELD:
            self.counted()
        if time > 0:
            changed = intended != self.intended
            self.since[changed] = time
            self.switches += changed
        self.intended = intended

    def counted(self) -> Ints:
        """[n, codes] counts of all that was noted."""
        if self.num_held:
            noted = self.held[: self.num_held].ravel()
            self.counts += np.bincount(noted, minlength=self.counts.size).reshape(self.counts.shape)
            self.num_held = 0
        return self.counts

    def payoff(self) -> Floats:
        """[n] sum of payoffs."""
        if isinstance(self.problem, Gaussian):
            return self.total.astype(self.problem.mean.dtype)
        return self.counted().astype(self.problem.payoff.dtype) @ self.problem.payoff.ravel()


def _log_softmax(log: Floats) -> Floats:
    log = log - log.max(1, keepdims=True)
    return log - np.log(np.exp(log).sum(1, keepdims=True))


def _least_log(dtype: np.dtype) -> float:
    """Where the exponential is about to become denormal: slow, and too small to matter."""
    return math.log(float(np.finfo(dtype).tiny)) + 8


# The forms


class _Naive:
    """A log-belief for every agent, [n, M]."""

    def __init__(
        self, problem: Any, policy: Policy, memory: Memory, size: int, avoid_denormals: bool
    ):
        self.problem, self.memory = problem, memory
        self.least = _least_log(problem.log_prior.dtype) if avoid_denormals else None
        self.features, log_size = policy.table(problem.payoffs())
        self.log_size = log_size if log_size.any() else None
        dtype = problem.log_prior.dtype
        self.eps = np.finfo(dtype).eps
        shape = size, len(problem.log_prior)
        self.prior = problem.log_prior
        perfect = isinstance(memory, Perfect)
        # Discounted evidence stands beside the prior, which does not fade.
        self.log = np.zeros(shape, dtype) + (self.prior if perfect else 0)
        self.weight, self.buffer = np.empty(shape, dtype), np.empty(shape, dtype)
        self.gaussian = isinstance(problem, Gaussian)
        if self.gaussian:
            self.terms = problem.log_ratios()
        else:
            log, out = problem.log_ratios()
            self.hits = None
            if isinstance(memory, Window):
                # What a window has forgotten no longer rules a model out: count it apart.
                if out.any():
                    self.out, self.hits = out.astype(np.int32), np.zeros(shape, np.int32)
                self.terms = log
            else:
                self.terms = np.where(out, -np.inf, log).astype(dtype)
        if isinstance(memory, Window):
            self.ring: list[Any] = []

    def means(self, time: int) -> tuple[Floats, float]:
        """Means of the features times the total weight, and the rounding of log-weights."""
        weight = self.weight
        if isinstance(self.memory, Perfect):
            source = self.log
        else:
            source = np.add(self.log, self.prior, out=weight)
            if isinstance(self.memory, Window) and not self.gaussian and self.hits is not None:
                weight[self.hits > 0] = -np.inf
        if self.log_size is not None:
            source = np.add(source, self.log_size, out=weight)
        peak = source.max(1, keepdims=True)
        np.subtract(source, np.where(peak > -np.inf, peak, 0), out=weight)
        if self.least is not None:
            np.maximum(weight, self.least, out=weight)
        np.exp(weight, out=weight)
        # Log-likelihoods have the size of one nat, and a running sum rounds at every step.
        return weight @ self.features, weight.dtype.type(self.eps * time)

    def _terms(self, seen: Any) -> Floats:
        if not self.gaussian:
            return self.terms.take(seen, axis=0, out=self.buffer, mode="clip")
        action, z = seen
        z = z[:, None]
        constant, linear, square = (term.take(action, axis=0) for term in self.terms)
        square *= z
        square += linear
        square *= z
        return np.add(square, constant, out=self.buffer)

    def observe(self, seen: Any, time: int) -> None:
        """Bayes' rule."""
        if isinstance(self.memory, Discounted):
            self.log *= self.log.dtype.type(1 - self.memory.rate)
        if isinstance(self.memory, Window):
            if len(self.ring) == self.memory.length:
                self.log -= self._terms(self.ring[time % self.memory.length])
                if not self.gaussian and self.hits is not None:
                    self.hits -= self.out.take(self.ring[time % self.memory.length], axis=0)
                self.ring[time % self.memory.length] = seen
            else:
                self.ring.append(seen)
            if not self.gaussian and self.hits is not None:
                self.hits += self.out.take(seen, axis=0)
        self.log += self._terms(seen)

    def log_belief(self, counts: Ints) -> Floats:
        """Normalised, [n, M]."""
        log = self.log if isinstance(self.memory, Perfect) else self.log + self.prior
        if isinstance(self.memory, Window) and not self.gaussian and self.hits is not None:
            log = np.where(self.hits > 0, -np.inf, log)
        return _log_softmax(log)


class _Counts:
    """Sums of what was seen, [n, A Y], and a matrix product."""

    def __init__(self, problem: Categorical, policy: Policy, memory: Memory, size: int):
        self.problem, self.memory = problem, memory
        self.features, self.log_size = policy.table(problem.payoffs())
        self.log, out = problem.log_ratios()
        dtype = self.log.dtype
        self.least = _least_log(dtype)
        self.out = out.astype(dtype) if out.any() else None
        self.prior = problem.log_prior
        self.offset = self.prior + self.log_size
        codes, models = self.log.shape
        self.factor = 0.5 * (codes + 6) * np.finfo(dtype).eps
        self.evidence = np.zeros((size, codes), dtype)
        self.flat = self.evidence.reshape(-1)
        self.first = np.arange(size) * codes
        self.ever = np.zeros((size, codes), bool) if isinstance(memory, Discounted) else None
        self.weight = np.empty((size, models), dtype)
        # Weighed by the belief, the size of all that was added up says how it was rounded.
        self.wanted = np.concatenate(
            [self.features, np.abs(self.log).T, np.ones((models, 1), dtype)], axis=1
        )
        if isinstance(memory, Window):
            self.ring: list[Ints] = []

    def _log_weights(self, evidence: Floats, offset: Floats) -> Floats:
        weight = np.matmul(evidence, self.log, out=self.weight)
        weight += offset
        if self.out is not None:
            seen = evidence > 0 if self.ever is None else self.ever
            weight[seen.astype(weight.dtype) @ self.out > 0] = -np.inf
        return weight

    def _weights(self) -> Floats:
        weight = self._log_weights(self.evidence, self.offset)
        peak = weight.max(1, keepdims=True)
        weight -= np.where(peak > -np.inf, peak, 0)
        np.maximum(weight, self.least, out=weight)
        return np.exp(weight, out=weight)

    def _means(self, weight: Floats) -> tuple[Floats, Floats]:
        num = self.features.shape[1]
        means = weight @ self.wanted
        size = np.einsum("nk,nk->n", np.abs(self.evidence), means[:, num:-1])
        slack = self.factor * size / np.maximum(means[:, -1], np.finfo(size.dtype).tiny)
        return means[:, :num], slack.astype(size.dtype)

    def means(self, time: int) -> tuple[Floats, Floats]:
        """Means of the features times the total weight, and the rounding of log-weights."""
        return self._means(self._weights())

    def observe(self, seen: Ints, time: int) -> None:
        """Count."""
        if isinstance(self.memory, Discounted):
            self.evidence *= self.evidence.dtype.type(1 - self.memory.rate)
            assert self.ever is not None
            self.ever.reshape(-1)[self.first + seen] = True
        if isinstance(self.memory, Window):
            if len(self.ring) == self.memory.length:
                self.flat[self.first + self.ring[time % self.memory.length]] -= 1
                self.ring[time % self.memory.length] = seen
            else:
                self.ring.append(seen)
        self.flat[self.first + seen] += 1

    def log_belief(self, counts: Ints) -> Floats:
        """Normalised, [n, M]."""
        return _log_softmax(self._log_weights(self.evidence, self.prior))


class _Blocked(_Counts):
    """Weights [n, M] that are multiplied, and made anew from counts before they could vanish."""

    def __init__(self, problem: Categorical, policy: Policy, size: int):
        super().__init__(problem, policy, Perfect(), size)
        dtype = self.log.dtype
        out = np.zeros(self.log.shape, bool) if self.out is None else self.out > 0
        log = np.where(out, -np.inf, self.log)
        peak = log.max(1, keepdims=True)
        self.factors = np.exp(log - np.where(peak > -np.inf, peak, 0)).astype(dtype)
        self.kills = out.any(1)
        plan = plan_blocks(self.log, out)
        self.steps, self.top, self.floor = plan.steps, dtype.type(plan.top), dtype.type(plan.floor)
        self.buffer = np.empty_like(self.weight)
        self.held = np.empty((self.steps, size), np.intp)
        self.num_held = 0
        self.slack = np.zeros(size, dtype)
        self.stale = True
        self.met = np.zeros(self.evidence.size, bool)

    def _count(self) -> None:
        if self.num_held:
            held = self.held[: self.num_held].ravel()
            self.flat += np.bincount(held, minlength=self.flat.size).astype(self.flat.dtype)
            self.num_held = 0

    def means(self, time: int) -> tuple[Floats, Floats]:
        """Means of the features times the total weight, and the rounding of log-weights."""
        if not self.stale:
            return self.weight @ self.features, self.slack
        self._count()
        means, self.slack = self._means(self._weights())
        self.weight *= self.top
        # Too small to matter before the next refresh, and slow, were it to become denormal.
        self.weight[self.weight < self.floor] = 0
        self.stale = False
        return means, self.slack

    def observe(self, seen: Ints, time: int) -> None:
        """Multiply, and take note."""
        place = np.add(seen, self.first, out=self.held[self.num_held])
        self.num_held += 1
        if self.num_held == self.steps:
            self.stale = True
        elif self.kills.any():
            new = self.kills.take(seen) & ~self.met[place]
            self.met[place] = True
            self.stale = bool(new.any())
        if not self.stale:
            self.weight *= self.factors.take(seen, axis=0, out=self.buffer, mode="clip")

    def log_belief(self, counts: Ints) -> Floats:
        """Normalised, [n, M]."""
        self._count()
        return super().log_belief(counts)


def serves_moments(
    problem: Categorical | Gaussian, policy: Policy | None, memory: Memory | None
) -> bool:
    """Whether the form ``moments`` does."""
    return (
        isinstance(problem, Categorical)
        and problem.probs.shape == (2, 2)
        and policy in (None, BestResponse(), BestResponse("last"))
        and memory in (None, Perfect())
    )


class _Moments(_Counts):
    """Sums over models of weight times gain times r^(D-i) q^i, where r = 1 - q is a likelihood.

    What r and q may be to the power of D, weights that are dropped where they cannot matter may be
    once more: nothing becomes denormal.
    """

    def __init__(self, problem: Categorical, policy: Policy, size: int):
        assert isinstance(policy, BestResponse)
        super().__init__(problem, policy, Perfect(), size)
        dtype = self.log.dtype
        info = np.finfo(dtype)
        models = problem.model_probs.astype(float)
        probs = models / models.sum(-1, keepdims=True)
        nats = -math.log(float(info.tiny)) - _DEGREE * math.log(2)
        least = math.log(probs[probs > 0].min())
        self.degree = int(np.clip(0.5 * nats / max(-least, 1e-3), 1, _DEGREE))
        self.floor = dtype.type(info.tiny * math.exp(-self.degree * least))
        i = np.arange(self.degree + 1)[:, None, None]
        powers = probs[..., 0] ** (self.degree - i) * probs[..., 1] ** i  # [D + 1, M, 2]
        self.powers = np.ascontiguousarray(np.vstack([*powers.transpose(2, 0, 1)]), dtype)
        self.binomials = [
            np.array([math.comb(n, i) for i in range(n + 1)], dtype) for n in range(self.degree + 1)
        ]
        # Rounding of the powers, and what likelihoods lack of one.
        self.unsure = self.degree * (4 * info.eps + np.abs(models.sum(-1) - 1).max())
        self.sign = -1 if policy.ties == "last" else 1
        self.tolerance = policy.tolerance_in(dtype)
        self.kills = np.zeros(4, bool) if self.out is None else self.out.any(1)

    def _hold(self, counts: Floats) -> None:
        """Take these for what was seen, by as many agents as there are rows."""
        self.evidence, self.weight = counts, np.empty((len(counts), len(self.prior)), counts.dtype)

    def log_belief(self, counts: Ints) -> Floats:
        """Normalised, [n, M]."""
        self._hold(counts)
        return super().log_belief(counts)

    def moments(self, counts: Floats) -> Floats:
        """Moments [2, D + 1, n] of what speaks for the action that does not win ties."""
        self._hold(counts)
        weight = self._weights()
        _, slack = self._means(weight)
        tolerance = np.minimum(np.tanh(slack + self.unsure) + self.tolerance, 1)
        gain, size = self.sign * self.features[:, 0], self.features[:, 1]
        weight[weight < self.floor] = 0
        weight *= gain - tolerance[:, None].astype(weight.dtype) * size
        return (self.powers @ weight.T).reshape(2, self.degree + 1, -1)


def _run_moments(believer: _Moments, rng: np.random.Generator, size: int, num_steps: int) -> Result:
    """A chunk of agents, each at its own pace: in blocks that end where its action changes."""
    problem, degree, dtype = believer.problem, believer.degree, believer.log.dtype
    (cut,) = _Tally(problem, 0).cdf
    half, fourth = quarters(num_steps)
    ends = np.array([half, fourth, num_steps])
    counts, late = np.zeros((size, 4), dtype), np.zeros((size, 4), dtype)
    time, intended, since = (np.zeros(size, np.int32) for _ in range(3))
    switches = np.zeros((size, 3), np.int32)
    steps = np.arange(degree)[:, None]
    agents = np.arange(size)
    while agents.size:
        mine, now, own = intended[agents], time[agents], counts[agents]
        each = np.arange(len(agents))
        moments = believer.moments(own)
        row = np.where(mine == 1, moments[1], moments[0])
        numbers = rng.random((degree, len(agents)), dtype=dtype.type)
        seen = numbers >= cut[mine]
        favours = np.empty((degree, len(agents)), bool)
        for step in range(degree):
            left = degree - step
            np.greater(believer.binomials[left] @ row, 0, out=favours[step])
            row = np.where(seen[step], row[1:], row[:-1])
        intends = favours if believer.sign == 1 else ~favours
        quarter = (now >= half).astype(np.intp) + (now >= fourth)
        room = np.minimum(ends[quarter] - now, degree)
        stops = intends != (mine == 1)
        if believer.kills.any():
            fatal = believer.kills & (own == 0)
            stops |= np.where(seen, fatal[each, 2 * mine + 1], fatal[each, 2 * mine])
        stops[room - 1, each] = True
        before = stops.argmax(0)
        last = intends[before, each].astype(np.int32)
        outcome = numbers[before, each] >= cut[last]
        ones = (seen & (steps < before)).sum(0)
        late[agents[now == half]] = own[now == half]
        counts[agents, 2 * mine] += before - ones
        counts[agents, 2 * mine + 1] += ones
        counts[agents, 2 * last + outcome] += 1
        changed = (last != mine) & (now + before > 0)
        since[agents[changed]] = (now + before)[changed]
        switches[agents, quarter] += changed
        intended[agents], time[agents] = last, now + before + 1
        agents = agents[now + before + 1 < num_steps]
    by_action = counts.reshape(size, 2, 2).sum(2)
    return Result(
        by_action / dtype.type(num_steps),
        (by_action - late.reshape(size, 2, 2).sum(2)) / dtype.type(num_steps - half),
        believer.log_belief(counts),
        counts @ problem.payoff.astype(dtype).ravel() / dtype.type(num_steps),
        intended,
        since,
        switches[:, 1:],
    )


class Plan(NamedTuple):
    """How weights are kept: steps between refreshes, where they start, what is dropped then."""

    steps: int
    top: float
    floor: float


def plan_blocks(log: Floats, out: NDArray[np.bool_], flushes: bool = False) -> Plan:
    """How many steps unnormalised weights survive: as `bnjax.belief.steps_between_refreshes`.

    Parameters
    ----------
    log, out : [A Y, M] log-likelihood ratios, and what is ruled out.
    flushes : whether the processor flushes denormal numbers to zero. If not, a block has half
        as many steps: weights below ``floor`` cannot matter within the block and are dropped
        at its start, and what is left stays normal to its end. Denormal numbers would be right,
        but take a hundred times as long.
    """
    info = np.finfo(log.dtype)
    num_models = log.shape[1]
    exponent = int(info.maxexp) - 2 - math.ceil(math.log2(num_models))
    digits = int(info.nmant) + 1
    nats = (exponent - int(info.minexp) - digits) * math.log(2) - math.log(num_models)
    high = np.where(out, -np.inf, log).max(1)
    low = np.where(out, np.inf, log).min(1)
    log_range = max(float(np.where(high > low, high - low, 0).max()), 1e-6 * nats)
    if flushes:
        return Plan(max(1, int(nats / log_range)), 2.0**exponent, 0.0)
    nats = min(0.5 * nats, -_least_log(log.dtype) - digits * math.log(2) - math.log(num_models))
    steps = max(1, int(nats / log_range))
    smallest = math.log(float(info.tiny)) + steps * log_range
    return Plan(steps, 2.0**exponent, math.exp(min(smallest, 0.0)))


# Outcomes, for a comparison


def compare(first: dict[str, Any], second: dict[str, Any], errors: float = 5.0) -> dict[str, Any]:
    """Whether two populations differ by more than chance.

    Parameters
    ----------
    first, second : as `describe` returns them.
    errors : combined standard errors that are allowed for each mean.
    """
    worst = 0.0
    for name, (mean, error) in first.items():
        other, other_error = second[name]
        gap, scale = abs(mean - other), math.hypot(error, other_error)
        worst = max(worst, gap / scale if scale > 0 else (0.0 if gap < 1e-6 else math.inf))
    return {"standard_errors": worst, "agrees": bool(worst <= errors)}


def describe(
    late_frequency: Floats, mean_payoff: Floats, outcome: Ints, intended: Ints
) -> dict[str, tuple[float, float]]:
    """Means over agents with standard errors: shares locked on each action, play and payoff."""
    num = len(outcome)

    def of(values: Floats) -> tuple[float, float]:
        values = np.asarray(values, np.float64)
        return float(values.mean()), float(values.std() / math.sqrt(num))

    def share(mask: NDArray[np.bool_]) -> tuple[float, float]:
        # A share near 0 or 1 says too little of its own error: one more of each kind (Agresti).
        smooth = (float(mask.sum()) + 2) / (num + 4)
        return float(mask.mean()), math.sqrt(smooth * (1 - smooth) / num)

    found: dict[str, tuple[float, float]] = {"payoff": of(mean_payoff)}
    for action in range(late_frequency.shape[1]):
        found[f"late {action}"] = of(late_frequency[:, action])
        found[f"locked {action}"] = share((outcome == LOCKED) & (intended == action))
    found["mixing"] = share(outcome == MIXING)
    return found
