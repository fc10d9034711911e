"""Beliefs: what a learner remembers, and what it therefore believes.

What a learner has seen enters its belief only through sums of a few features of each
observation (counts of consequences; powers of a standardised number): its *evidence*. A memory
says how these sums are kept, and the belief is the prior times the exponential of evidence times
log-likelihood ratios, all in log space.
"""

from __future__ import annotations

import abc
import math
from functools import partial, reduce
from operator import add
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._check import as_float, is_concrete, whole
from ._numerics import added_product, added_up, fast_exp
from .problem import AbstractFiniteProblem


class Likelihood(eqx.Module):
    """How much each feature of an observation speaks for each model.

    Parameters
    ----------
    log_ratio : [M, A, F] log-likelihood in nats by unit of each feature, relative to something in
        the middle of the models, so that sums stay small; 0 where infinite.
    ruled_out : [M, A, F] which features a model says cannot be.
    """

    log_ratio: Float[Array, "models actions features"]
    ruled_out: Bool[Array, "models actions features"]

    def log_belief(
        self,
        log_prior: Float[Array, "models *#batch"],
        evidence: Float[Array, "actions features *batch"],
        seen: Bool[Array, "actions features *batch"],
    ) -> Float[Array, "models *batch"]:
        """Log-weights of the models after some evidence, not normalised.

        Parameters
        ----------
        log_prior : [M] in nats; a trailing batch dimension holds many learners.
        evidence : [A, F] sums of features.
        seen : [A, F] which features have ever been seen (by this memory): a model that rules
            one of them out is dead.

        Returns
        -------
        log-weights in nats (``-inf`` for dead models), up to what all models share.
        """
        flat = self.log_ratio.reshape(self.log_ratio.shape[0], -1)
        batch = evidence.shape[2:]
        sums = evidence.reshape(flat.shape[1], *batch)
        log_weight = added_product(log_prior, flat, sums)
        if self.ruled_out.size:
            # Not zero, which a compiler would leave out.
            least = jnp.full((flat.shape[0], *(1,) * len(batch)), jnp.finfo(flat.dtype).tiny)
            against = self.ruled_out.reshape(flat.shape).astype(flat.dtype)
            hits = added_product(least, against, seen.reshape(sums.shape).astype(flat.dtype))
            log_weight = jnp.where(hits > 0.5, -jnp.inf, log_weight)
        return log_weight

    def rounding(
        self,
        weight: Float[Array, "models *batch"],
        evidence: Float[Array, "actions features *batch"],
    ) -> Float[Array, "*batch"]:
        """How far rounding may have moved `log_belief`, in nats: mean over models by ``weight``.

        The sizes of all terms of a sum, as sums over the models first: a product of matrices; and
        something for the prior and the exponential, which are rounded before anything is seen.
        """
        flat = jnp.abs(self.log_ratio.reshape(self.log_ratio.shape[0], -1))
        # Weights may be so large that only a sum of them is in range, and no multiple of it.
        scale = flat.max(initial=1.0)
        flat = flat / scale
        sums = scale * jnp.abs(evidence.reshape(flat.shape[1], *evidence.shape[2:]))
        rows = jnp.concatenate([jnp.ones_like(flat[:, 0])[None], flat.T])
        means = jnp.dot(rows, weight, precision=lax.Precision.HIGHEST)
        total = jnp.maximum(means[0], jnp.finfo(flat.dtype).tiny)
        moved = [sums[k] * (means[k + 1] / total) for k in range(flat.shape[1])]
        return self._unit() * reduce(add, moved) + 8 * float(jnp.finfo(flat.dtype).eps)

    def _unit(self) -> float:
        """Rounding of a log-weight, as a share of the sizes of what it is the sum of.

        Half a unit for each sum and each product, and five for the logarithms themselves.
        """
        terms = math.prod(self.log_ratio.shape[1:])
        return 0.5 * (terms + 6) * float(jnp.finfo(self.log_ratio.dtype).eps)


def likelihood(problem: AbstractFiniteProblem) -> Likelihood:
    """Log-likelihoods of the models of a problem, up to what they share."""
    # Numbers that are the same wherever they are used: a compiler that computes them anew for each
    # use may round them in another way.
    return Likelihood(*lax.optimization_barrier(problem.consequence.log_ratio(problem.models)))


class Observation(eqx.Module):
    """What one step shows.

    Parameters
    ----------
    action : which action was played.
    features : [F] features of its consequence.
    """

    action: Int[Array, ""]
    features: Float[Array, " features"]

    def added(
        self, evidence: Float[Array, "actions features"], times: float = 1.0
    ) -> Float[Array, "actions features"]:
        """Evidence to which this observation has been added (or taken away, ``times=-1``).

        Thousands of real numbers, added up so, lose digits; the memories that come with bnjax keep
        beside a sum what rounding takes from it.
        """
        played = jnp.arange(evidence.shape[0], dtype=jnp.int32) == self.action
        return evidence + jnp.where(played[:, None], times * self.features, 0.0)


class AbstractMemory(eqx.Module):
    """What a learner keeps of what it has seen: sums of features, and how they age.

    Evidence is [A, F]: for each action the sum of the features of what came of it. Features of a
    categorical consequence say which one it is (1 there, 0 elsewhere), so that evidence counts;
    those of a normally distributed one are 1, z and z^2, with z standardised by the true mean and
    standard deviation. The log-belief in a model is its log-prior, plus evidence times the model's
    log-likelihood of each feature.

    To make your own, give `init`, `update` and `evidence`; the state is any pytree of arrays, and
    all go through `jax.vmap`.

    Examples
    --------
    Start afresh after every ``period`` observations:

    >>> import equinox as eqx, jax, jax.numpy as jnp, bnjax as bn
    >>> class Fresh(bn.AbstractMemory):
    ...     period: int = eqx.field(static=True)
    ...     def init(self, nothing):
    ...         return nothing
    ...     def update(self, state, observation, time):
    ...         return observation.added(jnp.where(time % self.period == 0, 0.0, state))
    ...     def evidence(self, state):
    ...         return state, state != 0
    >>> problem = bn.scenarios.coin()
    >>> few = {"num_agents": 4, "num_steps": 25}
    >>> done = bn.simulate(problem, jax.random.key(0), memory=Fresh(10), **few)
    >>> done.belief.shape
    (4, 2)
    """

    @abc.abstractmethod
    def init(self, nothing: Float[Array, "actions features"]) -> Any:
        """State before the first observation; ``nothing`` is evidence full of zeros."""

    @abc.abstractmethod
    def update(self, state: Any, observation: Observation, time: Int[Array, ""]) -> Any:
        """State after one more observation, made at step ``time`` = 0, 1, ..."""

    @abc.abstractmethod
    def evidence(
        self, state: Any
    ) -> tuple[Float[Array, "actions features"], Bool[Array, "actions features"]]:
        """Evidence, and which features of it are remembered to have been seen at all."""

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the numbers of the memory make sense; for traced ones, which nothing refuses."""
        return jnp.asarray(True)


class PerfectMemory(AbstractMemory):
    """Remember everything, for ever: exact Bayesian updating.

    Examples
    --------
    >>> import bnjax as bn
    >>> bn.PerfectMemory()
    PerfectMemory()
    """

    def init(self, nothing: Float[Array, "actions features"]) -> Any:
        """Nothing seen: sums, and what rounding has taken from them."""
        return nothing, nothing

    def update(self, state: Any, observation: Observation, time: Int[Array, ""]) -> Any:
        """Add the observation."""
        return added_up(state, observation.added(jnp.zeros_like(state[0])))

    def evidence(
        self, state: Any
    ) -> tuple[Float[Array, "actions features"], Bool[Array, "actions features"]]:
        """All of it."""
        evidence = state[0] + state[1]
        return evidence, evidence != 0


class DiscountedMemory(AbstractMemory):
    """Let evidence fade: each step keeps ``1 - rate`` of it. The prior is never forgotten.

    The effective memory is ``1 / rate`` observations. What a model rules out stays ruled out: an
    infinite log-likelihood does not fade.

    Parameters
    ----------
    rate : share of the evidence that each step forgets, in (0, 1).

    Raises
    ------
    ValueError
        If the rate is not inside (0, 1).
    """

    rate: Float[Array, ""]

    def __init__(self, rate: Any):
        self.rate = as_float("rate", rate, ndim=0)
        if is_concrete(self.rate) and not 0 < float(self.rate) < 1:
            raise ValueError(f"`rate` must lie inside (0, 1); got {float(self.rate):g}.")

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the rate lies inside (0, 1)."""
        return (self.rate > 0) & (self.rate < 1)

    def init(self, nothing: Float[Array, "actions features"]) -> Any:
        """Nothing seen: sums, what rounding has taken from them, and what was ever seen."""
        return (nothing, nothing), nothing != 0

    def update(self, state: Any, observation: Observation, time: Int[Array, ""]) -> Any:
        """Fade, then add the observation."""
        sums, seen = state
        new = observation.added(jnp.zeros_like(sums[0]))
        # What fades is taken away: of 1 - rate, floating point keeps few digits of a small rate. Of
        # what is so little that no share of it is left, all does.
        kept = sums[0] + sums[1]
        fades = self.rate.astype(new.dtype) * kept
        fades = jnp.where(fades == 0, kept, fades)
        return added_up(sums, new - fades), seen | (new != 0)

    def evidence(
        self, state: Any
    ) -> tuple[Float[Array, "actions features"], Bool[Array, "actions features"]]:
        """Faded sums; what was ever seen."""
        sums, seen = state
        return sums[0] + sums[1], seen


class WindowMemory(AbstractMemory):
    """Remember the last observations only: a context window.

    Parameters
    ----------
    length : how many observations.

    Raises
    ------
    ValueError
        If the length is not a positive whole number.
    """

    length: int = eqx.field(static=True)

    def __init__(self, length: Any):
        self.length = whole("length", length)

    def init(self, nothing: Float[Array, "actions features"]) -> Any:
        """Empty places, which hold an observation without features; the next to be forgotten."""
        places = jnp.zeros((self.length, nothing.shape[1]), nothing.dtype)
        oldest = Observation(jnp.zeros((), jnp.int32), places[0])
        return nothing, nothing, jnp.zeros(self.length, jnp.int32), places, oldest

    def update(self, state: Any, observation: Observation, time: Int[Array, ""]) -> Any:
        """Put the observation in the place of the oldest."""
        evidence, rest, actions, features, oldest = state
        place = jnp.mod(time, self.length)
        nothing = jnp.zeros_like(evidence)
        for change in (oldest.added(nothing, times=-1.0), observation.added(nothing)):
            evidence, rest = added_up((evidence, rest), change)
        # Written first, then read for the next step: a compiler that has to read first, and for a
        # value that is used after the writing, makes a copy of the whole window.
        put = partial(lax.dynamic_update_index_in_dim, index=place, axis=0)
        actions = put(actions, observation.action)
        features = put(features, observation.features)
        following = jnp.mod(place + 1, self.length)
        at = partial(lax.dynamic_index_in_dim, index=following, axis=0, keepdims=False)
        return evidence, rest, actions, features, Observation(at(actions), at(features))

    def evidence(
        self, state: Any
    ) -> tuple[Float[Array, "actions features"], Bool[Array, "actions features"]]:
        """Sums over the window; what is in it."""
        evidence = state[0] + state[1]
        return evidence, evidence != 0


def expected(
    log_weight: Float[Array, "models *batch"],
    log_size: Float[Array, " models"],
    features: Float[Array, "models features"],
) -> tuple[Float[Array, "features *batch"], Float[Array, "models *batch"]]:
    """Means of features of the models under a belief, and the weights of the models in them.

    Each model counts by its weight times ``exp(log_size)``. Where all of that is zero, so are
    the means.
    """
    wide = (..., *(None,) * (log_weight.ndim - 1))
    log = log_weight + log_size[wide]
    # It cancels, and a maximum has a derivative of 0 / 0 where a compiler computes its argument
    # twice, and rounds in two ways: then no entry equals it.
    peak = lax.stop_gradient(log.max(0))
    weight = fast_exp(log - jnp.where(peak > -jnp.inf, peak, 0.0))
    total = jnp.maximum(weight.sum(0), jnp.finfo(weight.dtype).tiny)
    mean = jnp.einsum("mf,m...->f...", features, weight, precision=lax.Precision.HIGHEST) / total
    return mean, weight


def largest_log_range(likelihood: Likelihood) -> Float[Array, ""]:
    """By how much one observation may change log-odds: the largest finite range over models."""
    log, out = likelihood.log_ratio, likelihood.ruled_out
    high = jnp.where(out, -jnp.inf, log).max(0)
    low = jnp.where(out, jnp.inf, log).min(0)
    return jnp.max(jnp.where(high > low, high - low, 0.0), initial=0.0)


def steps_between_refreshes(
    log_range: Float[Array, ""], num_models: int
) -> tuple[Int[Array, ""], float]:
    """How many observations unnormalised weights survive, and the weight to start the largest at.

    Weights that start at most at ``top = 2^e`` and shrink by at most ``exp(log_range)`` a step.
    After k steps the largest is at least ``top exp(-k R)``, and whatever was flushed to zero on
    the way was below the smallest normal number ``2^-s``. Of the total, all M models flushed
    make a share of at most ``2^-p`` (p binary digits) as long as
    ``k R <= (e + s - p) ln 2 - ln M``. Sums of M weights stay below the largest number.
    """
    nats, top = weight_range(log_range.dtype, num_models)
    steps = jnp.floor(nats / jnp.maximum(log_range, nats * 1e-6))
    return jnp.maximum(steps, 1).astype(jnp.int32), top


def weight_range(dtype: Any, num_models: int) -> tuple[float, float]:
    """Nats by which weights may shrink before what matters is flushed; and where to start them."""
    info = jnp.finfo(dtype)
    exponent = int(info.maxexp) - 2 - math.ceil(math.log2(num_models))
    digits = int(info.nmant) + 1
    nats = (exponent - int(info.minexp) - digits) * math.log(2) - math.log(num_models)
    return nats, 2.0**exponent


def check_memory(memory: Any) -> None:
    """Refuse what is no memory."""
    if not isinstance(memory, AbstractMemory):
        raise ValueError(
            f"`memory` must be a bnjax memory, such as bn.PerfectMemory(); got {memory!r}."
        )
