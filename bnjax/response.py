"""Policies: how a belief becomes play.

A policy sees of a belief only the means of a few features of the models (their payoffs, say), and
answers with probabilities of actions. All built-in policies have that shape, and so the same
simulator serves them and yours.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ._check import as_float, is_concrete
from ._numerics import inverse_cdf, step_below, sum_last


class AbstractPolicy(eqx.Module):
    """How a learner chooses, given what it believes.

    To make your own, give `features` and `probabilities`, as does this one, which plays in
    proportion to the payoffs that it expects (they must not be negative):

    >>> import jax, jax.numpy as jnp, bnjax as bn
    >>> class Matching(bn.AbstractPolicy):
    ...     scale_free = True
    ...     def features(self, payoffs):
    ...         return payoffs
    ...     def probabilities(self, means, slack):
    ...         return means / means.sum()
    >>> [round(float(p), 2) for p in Matching().probabilities(jnp.array([0.3, 0.1]), 0.0)]
    [0.75, 0.25]

    What is returned under the prior is checked before a simulation begins; an agent for whom it is
    later NaN, negative or does not sum to one ends as `Outcome.INVALID`.

    Attributes
    ----------
    scale_free
        Whether `probabilities` is the same when its first argument is multiplied by a positive
        number. Then models whose features are all zero are left out of the mean.
    """

    scale_free: ClassVar[bool] = False

    @property
    def exploration(self) -> Float[Array, ""]:
        """Probability with which play trembles to a uniform action."""
        return jnp.zeros((), jnp.result_type(float))

    @abc.abstractmethod
    def features(self, payoffs: Float[Array, "models actions"]) -> Float[Array, "models features"]:
        """What the policy wants to know of each model, given the payoffs it expects."""

    @abc.abstractmethod
    def probabilities(
        self, means: Float[Array, " features"], slack: Float[Array, ""]
    ) -> Float[Array, " actions"]:
        """Probability of intending each action.

        Parameters
        ----------
        means : [F] features, averaged over the belief.
        slack : in nats, how far rounding may have moved the log-weights of the belief: what is
            closer than that to a tie is a tie.
        """

    def second(self, means: Sequence[Float[Array, "*batch"]], slack: Array) -> Array:
        """Probability of intending the second of two actions, element by element.

        Optional: a policy that gives it too is simulated by the GPU's fast kernel.

        Parameters
        ----------
        means : the [F] features, averaged over the beliefs of many learners, each an array.
        slack : as for `probabilities`, of each.
        """
        raise NotImplementedError

    def boundary(self, slack: Array) -> tuple[int, Sequence[Array]]:
        """Where play changes, for a policy of two actions that never leaves it to chance.

        Optional: a policy that gives it too is simulated by the CPU's fast simulator.

        Parameters
        ----------
        slack : as for `probabilities`, of each of many learners.

        Returns
        -------
        an action, and a coefficient for each of the [F] features, an array or a number: that action
        is intended where the sum of the coefficients times the means is positive, and elsewhere
        the other.
        """
        raise NotImplementedError

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the numbers of the policy make sense; for traced ones, which nothing refuses."""
        return jnp.asarray(True)

    def knows_second(self) -> bool:
        """Whether `second` is given, and still speaks of this policy."""
        return _speaks(type(self), "second", ("features", "probabilities", "scale_free"))

    def knows_boundary(self) -> bool:
        """Whether `boundary` is given, and still speaks of this policy."""
        others = "features", "probabilities", "scale_free", "second"
        return _speaks(type(self), "boundary", others)


def _speaks(policy: type[AbstractPolicy], name: str, others: Sequence[str]) -> bool:
    """Whether a policy gives a method, and none derived from that one plays in another way since.

    (A subclass of a built-in policy with `probabilities` of its own inherits what it contradicts.)
    """

    def age(name: str) -> int:
        return next(i for i, c in enumerate(policy.__mro__) if name in vars(c))

    given = age(name)
    return policy.__mro__[given] is not AbstractPolicy and all(given <= age(x) for x in others)


class BestResponse(AbstractPolicy):
    """Play an action of the highest expected payoff.

    Two actions tie when the difference of their expected payoffs is at most
    ``tol_payoff + tanh(slack)`` of what it would be if all models agreed on its sign, where slack
    bounds the rounding of log-weights in nats: nothing that it hides could turn the sign. It grows
    with the evidence (in float32 to about 1e-4 after 500 steps, 1e-2 after 1e5); what all models
    agree on is never a tie. With more than two actions, what it would be is bounded by the sum of
    what the two fall short, in expectation, of the best action of each model. A model for which all
    actions pay the same to within ``tol_payoff`` of the payoff range has no say.

    Parameters
    ----------
    ties : which of several best actions to play: the ``"first"``, the ``"last"``, or any with
        equal probability (``"uniform"``).
    tol_payoff : see above. Default: 1e-5 in float32, 1e-10 in float64.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    ties: str = eqx.field(static=True)
    tol_payoff: Float[Array, ""] | None
    scale_free: ClassVar[bool] = True

    def __init__(self, ties: str = "first", tol_payoff: Any = None):
        if ties not in ("first", "last", "uniform"):
            raise ValueError(f"`ties` must be 'first', 'last' or 'uniform'; got {ties!r}.")
        self.ties = ties
        if tol_payoff is not None:
            tol_payoff = as_float("tol_payoff", tol_payoff, ndim=0)
            if is_concrete(tol_payoff) and not float(tol_payoff) >= 0:
                raise ValueError(
                    f"`tol_payoff` must be a non-negative number; got {float(tol_payoff):g}."
                )
        self.tol_payoff = tol_payoff

    def _tolerance(self, dtype: Any) -> Array:
        default = 1e-5 if jnp.finfo(dtype).eps > 1e-10 else 1e-10
        tolerance = default if self.tol_payoff is None else self.tol_payoff
        return jnp.asarray(tolerance, dtype)

    def _margin(self, slack: Array, dtype: Any) -> Array:
        """Weights off by exp(+-slack) hide a sign if gain <= tanh(slack) size, but not 1 size."""
        most = 1 - 8 * float(jnp.finfo(dtype).eps)
        return jnp.minimum(self._tolerance(dtype) + jnp.tanh(slack), most)

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the tolerance is one."""
        return jnp.asarray(True) if self.tol_payoff is None else self.tol_payoff >= 0

    def features(self, payoffs: Float[Array, "models actions"]) -> Float[Array, "models features"]:
        """Payoffs less the best of each model, and sizes; of two actions, half their difference.

        Not less the mean over actions: one terrible action would make all others seem equal.
        """
        two = payoffs.shape[1] == 2
        gain = payoffs - (payoffs.mean if two else payoffs.max)(1, keepdims=True)
        negligible = 0.5 * self._tolerance(payoffs.dtype) * jnp.ptp(payoffs)
        gain = jnp.where(jnp.abs(gain) <= negligible, 0.0, gain)
        if payoffs.shape[1] <= 2:
            gain = gain[:, 1:]
        return jnp.concatenate([gain, jnp.abs(gain)], axis=1)

    def probabilities(
        self, means: Float[Array, " features"], slack: Float[Array, ""]
    ) -> Float[Array, " actions"]:
        """One for the best action; shared among the best where ``ties="uniform"``."""
        half = means.shape[0] // 2
        gain, size = means[:half], means[half:]
        if half == 0:
            return jnp.ones(1, means.dtype)
        if half == 1:
            second = self.second((gain[0], size[0]), slack)
            return jnp.stack([1 - second, second])
        tolerance = self._margin(slack, gain.dtype)
        best = jnp.argmax(gain)
        tied = gain.max() - gain <= tolerance * (size + size[best])
        # The best one ties with itself, whatever is not a number.
        tied = tied | (jnp.arange(half, dtype=best.dtype) == best)
        if self.ties == "uniform":
            share = tied.astype(gain.dtype)
            return share / sum_last(share)
        order = tied if self.ties == "first" else tied[::-1]
        one = jnp.arange(half, dtype=best.dtype) == jnp.argmax(order)
        return (one if self.ties == "first" else one[::-1]).astype(gain.dtype)

    def second(self, means: Sequence[Float[Array, "*batch"]], slack: Array) -> Array:
        """The same for two actions, element by element: half of a simulator's work."""
        gain, size = means
        tied = jnp.abs(gain) <= self._margin(slack, gain.dtype) * size
        share = {"first": 0.0, "last": 1.0, "uniform": 0.5}[self.ties]
        return jnp.where(tied, share, (gain > 0).astype(gain.dtype))

    def boundary(self, slack: Array) -> tuple[int, Sequence[Array]]:
        """The action that ties do not fall to has to be better by more than the tolerance."""
        margin = self._margin(slack, slack.dtype)
        other, sign = (1, 1.0) if self.ties == "first" else (0, -1.0)
        return other, (jnp.full_like(margin, sign), -margin)

    def knows_boundary(self) -> bool:
        """Unless ties are broken by chance."""
        return self.ties != "uniform" and super().knows_boundary()


class EpsilonGreedy(AbstractPolicy):
    """Play a best response, and with probability ``epsilon`` any action at all.

    Parameters
    ----------
    epsilon : probability of playing a uniform action (the best one included), in [0, 1]: the
        ``exploration`` of `bnjax.equilibria`.
    response : the `BestResponse`. (Any other policy explores by the ``exploration`` of whoever
        takes a policy.)

    Raises
    ------
    ValueError
        If epsilon is not a probability, or the response is something else.
    """

    epsilon: Float[Array, ""]
    response: BestResponse
    scale_free: ClassVar[bool] = True

    def __init__(self, epsilon: Any, response: BestResponse | None = None):
        self.epsilon = as_float("epsilon", epsilon, ndim=0)
        if is_concrete(self.epsilon) and not 0 <= float(self.epsilon) <= 1:
            raise ValueError(
                f"`epsilon` must be a probability in [0, 1]; got {float(self.epsilon):g}."
            )
        self.response = BestResponse() if response is None else response
        if type(self.response) is not BestResponse:
            raise ValueError(
                f"`response` must be a bn.BestResponse; got {response!r}. Of another policy, make "
                "play tremble by `exploration`, of bn.simulate for example."
            )

    @property
    def exploration(self) -> Float[Array, ""]:
        """Probability with which play trembles to a uniform action."""
        return self.epsilon

    def is_valid(self) -> Bool[Array, ""]:
        """Whether epsilon is a probability, and the best response makes sense."""
        return (self.epsilon >= 0) & (self.epsilon <= 1) & self.response.is_valid()

    def features(self, payoffs: Float[Array, "models actions"]) -> Float[Array, "models features"]:
        """Those of the best response."""
        return self.response.features(payoffs)

    def probabilities(
        self, means: Float[Array, " features"], slack: Float[Array, ""]
    ) -> Float[Array, " actions"]:
        """Of intended play: those of the best response."""
        return self.response.probabilities(means, slack)

    def second(self, means: Sequence[Float[Array, "*batch"]], slack: Array) -> Array:
        """Of intended play: that of the best response."""
        return self.response.second(means, slack)

    def boundary(self, slack: Array) -> tuple[int, Sequence[Array]]:
        """Of intended play: that of the best response."""
        return self.response.boundary(slack)

    def knows_boundary(self) -> bool:
        """Whether the best response does."""
        return super().knows_boundary() and self.response.knows_boundary()


class Logit(AbstractPolicy):
    """Play action a with probability proportional to exp(expected payoff / temperature).

    Parameters
    ----------
    temperature : in units of payoff, positive.

    Raises
    ------
    ValueError
        If the temperature is not a positive number.
    """

    temperature: Float[Array, ""]

    def __init__(self, temperature: Any):
        self.temperature = as_float("temperature", temperature, ndim=0)
        if not is_concrete(self.temperature):
            return
        number, least = float(self.temperature), float(jnp.finfo(self.temperature.dtype).tiny)
        if not 0 < number < float("inf"):
            raise ValueError(f"`temperature` must be a positive number; got {number:g}.")
        if number < least:  # then it counts as zero where it divides
            raise ValueError(
                f"`temperature` must be at least {least:.3g} in {self.temperature.dtype}; got "
                f"{number:g}."
            )

    def is_valid(self) -> Bool[Array, ""]:
        """Whether the temperature is a positive number."""
        least = jnp.finfo(self.temperature.dtype).tiny
        return (self.temperature >= least) & jnp.isfinite(self.temperature)

    def features(self, payoffs: Float[Array, "models actions"]) -> Float[Array, "models features"]:
        """The payoffs themselves."""
        return payoffs

    def probabilities(
        self, means: Float[Array, " features"], slack: Float[Array, ""]
    ) -> Float[Array, " actions"]:
        """Softmax of expected payoffs over temperature."""
        # Less the best before the division, which might overflow, and not after it.
        gain = means - lax.stop_gradient(means.max())
        return jax.nn.softmax(gain / self.temperature.astype(means.dtype))

    def second(self, means: Sequence[Float[Array, "*batch"]], slack: Array) -> Array:
        """Logistic function of the difference of expected payoffs over temperature."""
        first, second = means
        return jax.nn.sigmoid((second - first) / self.temperature.astype(first.dtype))


class ThompsonSampling(AbstractPolicy):
    """Play each action with the belief that it is the best: draw a model, best respond to it.

    A model in which several actions are best shares its weight among them.
    """

    def features(self, payoffs: Float[Array, "models actions"]) -> Float[Array, "models features"]:
        """Whether each action is best in each model, and shared where several are."""
        slight = 8 * jnp.finfo(payoffs.dtype).eps * jnp.abs(payoffs).max()
        best = (payoffs >= payoffs.max(1, keepdims=True) - slight).astype(payoffs.dtype)
        return best / best.sum(1, keepdims=True)

    def probabilities(
        self, means: Float[Array, " features"], slack: Float[Array, ""]
    ) -> Float[Array, " actions"]:
        """Belief that each action is the best."""
        return means

    def second(self, means: Sequence[Float[Array, "*batch"]], slack: Array) -> Array:
        """Belief that the second action is the best."""
        return means[1] / (means[0] + means[1])


class PolicyTable(eqx.Module):
    """Features of a policy by model, scaled so that the largest of each model is one.

    Parameters
    ----------
    features : [M, F] scaled.
    log_size : [M] log of what they were divided by; for a policy that is not scale-free, 0.
    """

    features: Float[Array, "models features"]
    log_size: Float[Array, " models"]


def policy_table(policy: AbstractPolicy, payoffs: Float[Array, "models actions"]) -> PolicyTable:
    """Tabulate what a policy wants to know of each model.

    For a scale-free policy the size of a model's features moves over to its weight: then a model
    that does not matter cannot crowd out those that do, however certain it is.
    """
    features = policy.features(payoffs)
    if not policy.scale_free:
        return PolicyTable(features, jnp.zeros(payoffs.shape[0], payoffs.dtype))
    size = jnp.abs(features).max(1, initial=0.0)
    some = size > 0
    safe_size = jnp.where(some, size, 1.0)
    log_size = jnp.where(some, jnp.log(safe_size), -jnp.inf)
    return PolicyTable(features / safe_size[:, None], log_size)


def tremble(
    exploration: Float[Array, ""], number: Float[Array, "*batch"], num_actions: int
) -> tuple[Array, Array, Array]:
    """What one random number settles before it is known what is believed.

    The unit interval is cut at ``1 - exploration``: below, the intended action is played; above,
    any action with equal probability. What was intended is drawn in either part.

    Returns
    -------
    whether play trembles, the action that is played if it does, and a number in [0, 1) that draws
    the intended action.
    """
    steady = 1 - exploration
    trembles = number >= steady
    # Neither part is empty where it is used; reciprocals, because they are the same for all.
    scale = jnp.where(
        trembles,
        1 / jnp.where(exploration > 0, exploration, 1.0),
        1 / jnp.where(steady > 0, steady, 1.0),
    )
    within = jnp.where(trembles, number - steady, number) * scale
    # In the part that trembles, A equal pieces are the actions; inside a piece the rest is free.
    piece = step_below(within * num_actions, num_actions)
    rest = within * num_actions - piece.astype(within.dtype)
    return trembles, piece, jnp.where(trembles, rest, within)


def choose(
    probabilities: Float[Array, "actions *batch"],
    exploration: Float[Array, ""],
    number: Float[Array, "*batch"],
) -> tuple[Array, Array]:
    """Intended action, and the action that is played after trembling, from one random number."""
    trembles, piece, draw = tremble(exploration, number, probabilities.shape[0])
    intended = inverse_cdf(probabilities, draw)
    return intended, jnp.where(trembles, piece, intended)


def is_built_in(policy: AbstractPolicy) -> bool:
    """Whether nobody need ask if its probabilities are such."""
    return type(policy) in (BestResponse, EpsilonGreedy, Logit, ThompsonSampling)


def are_probabilities(found: Float[Array, "actions *batch"]) -> Bool[Array, "*batch"]:
    """Whether a policy returned probabilities; NaN are none."""
    return (found >= 0).all(0) & (jnp.abs(found.sum(0) - 1) < 1e-3)


def check_policy(policy: Any) -> None:
    """Refuse what is no policy."""
    if not isinstance(policy, AbstractPolicy):
        raise ValueError(
            f"`policy` must be a bnjax policy, such as bn.BestResponse(); got {policy!r}."
        )
