"""The smooth map of play to play: the belief of a finite memory, and the logit reply to it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._numerics import sum_last
from ..problem import ReducedForm


def evidence_terms(
    reduced: ReducedForm,
) -> tuple[Bool[Array, "models *batch"], Float[Array, "models actions *batch"]]:
    """Which models can be believed at all, and how much worse than the best each fits.

    Logit play gives every action a positive probability, so that a model which any of them
    refutes has no weight. Only differences between models count, and they are small next to the
    divergences: these are relative, action by action, to the smallest (0 where not usable).
    """
    usable = reduced.support & ~reduced.ruled_out.any(1)
    base = lax.stop_gradient(jnp.where(usable[:, None], reduced.kl, jnp.inf).min(0))
    base = jnp.where(jnp.isfinite(base), base, 0.0)
    return usable, jnp.where(usable[:, None], reduced.kl - base, 0.0)


def quasi_belief(
    reduced: ReducedForm,
    log_prior: Float[Array, " models"],
    memory: Float[Array, ""],
    strategy: Float[Array, " actions"],
) -> Float[Array, " models"]:
    """Belief proportional to ``prior * exp(-memory * sigma @ K)``, [M].

    A model that any action refutes has no weight, also at a start that does not play it yet.
    """
    usable, kl = evidence_terms(reduced)
    logits = jnp.where(usable, log_prior, 0.0) - memory * sum_last(kl * strategy)
    return jax.nn.softmax(jnp.where(usable, logits, -jnp.inf))


def smooth_response(
    reduced: ReducedForm,
    log_prior: Float[Array, " models"],
    memory: Float[Array, ""],
    temperature: Float[Array, ""],
    strategy: Float[Array, " actions"],
) -> Float[Array, " actions"]:
    """Logit reply [A] to that belief."""
    belief = quasi_belief(reduced, log_prior, memory, strategy)
    expected = jnp.matmul(belief, reduced.payoffs, precision=lax.Precision.HIGHEST)
    return jax.nn.softmax(expected / temperature)


class SmoothMap(eqx.Module):
    """The map whose fixed points are smooth equilibria.

    Its unknown u holds A expected payoffs over temperature, or, with two actions, only their
    difference: play is a softmax of it.

    Parameters
    ----------
    reduced : the problem, trembles included.
    log_prior : [M] log-weights in nats.
    memory : effective number of observations.
    temperature : of logit play, in units of payoff.
    """

    reduced: ReducedForm
    log_prior: Float[Array, " models"]
    memory: Float[Array, ""]
    temperature: Float[Array, ""]

    @property
    def is_pair(self) -> bool:
        """Whether there are two actions, and hence one unknown."""
        return self.reduced.kl.shape[1] == 2

    def play(self, unknown: Float[Array, " unknowns"]) -> Float[Array, " actions"]:
        """Strategy [A]."""
        if self.is_pair:
            return jnp.concatenate([jax.nn.sigmoid(unknown), jax.nn.sigmoid(-unknown)])
        return jax.nn.softmax(unknown)

    def belief(self, play: Float[Array, " actions"]) -> Float[Array, " models"]:
        """Belief [M] that a strategy brings about."""
        return quasi_belief(self.reduced, self.log_prior, self.memory, play)

    def _of_belief(self, belief: Float[Array, " models"]) -> Float[Array, " unknowns"]:
        payoffs = self.reduced.payoffs
        if self.is_pair:
            return jnp.sum(belief * (payoffs[:, 0] - payoffs[:, 1]))[None] / self.temperature
        return jnp.matmul(belief, payoffs, precision=lax.Precision.HIGHEST) / self.temperature

    def __call__(self, unknown: Float[Array, " unknowns"]) -> Float[Array, " unknowns"]:
        """Expected payoffs over temperature once ``play(unknown)`` is learned from."""
        return self.scores(self.play(unknown))

    def scores(self, play: Float[Array, " actions"]) -> Float[Array, " unknowns"]:
        """Expected payoffs over temperature once a strategy is learned from."""
        return self._of_belief(self.belief(play))

    def prior_scores(self) -> Float[Array, " unknowns"]:
        """Those before anything is learned."""
        prior = jax.nn.softmax(jnp.where(self.reduced.support, self.log_prior, -jnp.inf))
        return self._of_belief(prior)

    def _turn(self, belief: Float[Array, " models"]) -> Float[Array, "actions actions"]:
        """How expected payoffs over temperature [a] change with the probability of [b].

        ``-memory / temperature`` times the covariance under the belief of U[:, a] and K[:, b].
        """
        _, kl = evidence_terms(self.reduced)
        highest = lax.Precision.HIGHEST
        payoffs, kl = (
            x - jnp.matmul(belief, x, precision=highest) for x in (self.reduced.payoffs, kl)
        )
        covariance = jnp.matmul((belief[:, None] * payoffs).T, kl, precision=highest)
        return -self.memory / self.temperature * covariance

    def reply(
        self, play: Float[Array, " actions"]
    ) -> tuple[Float[Array, " actions"], Float[Array, "actions actions"]]:
        """Logit reply [A] to a strategy, and its Jacobian [A, A]."""
        belief = self.belief(play)
        reply = self.play(self._of_belief(belief))
        turn = self._turn(belief)
        mean = jnp.matmul(reply, turn, precision=lax.Precision.HIGHEST)
        return reply, reply[:, None] * (turn - mean)

    def target(
        self, scores: Float[Array, " actions"]
    ) -> tuple[Float[Array, " actions"], Float[Array, "actions actions"]]:
        """The map, and its Jacobian, for more than two actions."""
        play = self.play(scores)
        belief = self.belief(play)
        turn = self._turn(belief)
        mean = jnp.matmul(turn, play, precision=lax.Precision.HIGHEST)
        return self._of_belief(belief), (turn - mean[:, None]) * play
