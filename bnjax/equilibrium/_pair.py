"""Two actions and a continuous family: best fits and payoff differences as functions of play."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._numerics import implicit_root, sum_last
from ..problem import FamilyProblem
from ._continuum import BoxFit, Continuum, Fit
from ._envelope import MINUS, PLUS, TIE
from ._tolerance import Tolerance


class Reply(NamedTuple):
    """Best fits for one s: those where d is least and where it is greatest.

    ``doubt`` is by how much d may be wrong because a search did not converge: what one more
    step would change, inf where it is not known; ``unique`` whether nothing else fits as well.
    """

    least: Float[Array, " parameters"]
    most: Float[Array, " parameters"]
    d_least: Float[Array, ""]
    d_most: Float[Array, ""]
    doubt: Float[Array, ""]
    unique: Bool[Array, ""]


class Pair:
    """Best fits and their payoff differences, as functions of s."""

    def __init__(self, problem: FamilyProblem, exploration: Array, tolerance: Tolerance):
        self.problem = problem
        self.continuum = Continuum(problem, exploration)
        self.slack = tolerance.payoff * self.continuum.payoff_range
        thetas = jax.vmap(problem.family.theta)(self.continuum.nodes)
        self.scale = lax.stop_gradient(thetas.max(0) - thetas.min(0))
        self.mixed = jax.jit(self._mixed)  # traced once, wanted three times

    def gain(self, theta: Float[Array, " parameters"]) -> Float[Array, ""]:
        """How much better action 0 is than action 1 according to theta."""
        payoffs = self.problem.consequence.payoffs(self.problem.family.function(theta))
        return payoffs[0] - payoffs[1]

    def kl(self, theta: Float[Array, " parameters"]) -> Float[Array, " 2"]:
        """Divergences of theta after either action, inf where infinite."""
        kl, ruled_out = self.problem.consequence.divergence(self.problem.family.function(theta))
        return jnp.where(ruled_out, jnp.inf, kl)

    def balanced(self, change: Float[Array, " 2"]) -> Float[Array, ""]:
        """Intended play at which what changes with either action adds up to zero; zero if none.

        Trembles are part of what is played and not of what is intended.
        """
        tremble = self.continuum.exploration
        turn, kept = change[0] - change[1], 1 - tremble
        some = (turn != 0) & (kept > 0)
        weight = -change[1] / jnp.where(some, turn, 1.0)
        return jnp.where(some, (weight - 0.5 * tremble) / jnp.where(some, kept, 1.0), 0.0)

    def lead(self, first: Array, second: Array) -> Float[Array, " 2"]:
        """By how much worse the first of two thetas fits after either action, zero if infinite."""
        change = self.kl(first) - self.kl(second)
        return jnp.where(jnp.isfinite(change).all(), change, 0.0)

    def lines_cross(self, first: Array, second: Array) -> Float[Array, ""]:
        """Intended play at which two thetas fit equally well; zero where none is."""
        return self.balanced(self.lead(first, second))

    def fitted_by(self, first: Array, second: Array, way: Array) -> Float[Array, ""]:
        """Intended play at which the misfit is level some way along from one theta to another."""
        ahead = second - first

        def divergence(theta):
            return self.problem.consequence.divergence(self.problem.family.function(theta))[0]

        slope = jax.jvp(divergence, (first + way * ahead,), (ahead,))[1]
        return self.balanced(jnp.where(jnp.isfinite(slope).all(), slope, 0.0))

    def share(self, first: Array, second: Array) -> Float[Array, ""]:
        """Weight on the first of two thetas at which a belief in both is indifferent."""
        ahead, behind = self.gain(first), self.gain(second)
        spread = ahead - behind
        share = jnp.where(spread != 0, -behind / jnp.where(spread != 0, spread, 1.0), 1.0)
        return jnp.clip(share, 0.0, 1.0)

    def root(
        self, s: Array, first: Array, second: Array, jumps: Bool[Array, ""]
    ) -> Float[Array, ""]:
        """An equilibrium s that was found, with its derivatives.

        It is where two best fits tie, if the best fit jumps there, or else where the actions do.
        """

        def distance(s):
            lead = self.lead(first, second)
            weight = self.continuum.realised(jnp.stack([s, 1 - s]))
            return jnp.where(jumps, sum_last(weight * lead), self.mixed(s).d_least)

        return implicit_root(distance, s)

    def moving(self, theta: Array, s: Array, which: str) -> Float[Array, " parameters"]:
        """The best fit that was found at s, with its derivatives also as s moves."""

        def apart(theta):
            return theta - getattr(self.mixed(s), which)

        # That of an implicit function, so that nothing is searched again for the value alone.
        return lax.custom_root(apart, theta, lambda _, theta: theta, lambda _, change: change)

    def _mixed(self, s: Float[Array, ""]) -> Reply:
        """Both actions have positive probability."""
        play = jnp.stack([s, 1 - s])
        unidentified = self.continuum.never_identified
        if any(unidentified):
            return self._range(
                self.continuum.fit_in_box(play), jnp.asarray(unidentified), jnp.asarray(0)
            )
        fit = self.continuum.fit(play)
        d = self.gain(fit.theta)
        doubt = jnp.max(jnp.abs(jax.vmap(self.gain)(fit.following) - d))
        return Reply(fit.theta, fit.theta, d, d, self._doubt(fit, doubt), fit.unique)

    def _range(self, fit: BoxFit, free: Array, chart: Array) -> Reply:
        """Where d is least and greatest over the coordinates that are left open."""
        theta = jax.vmap(lambda x: self.continuum.theta(x, chart))
        ends = self.continuum.range_of(fit.point, free, lambda u: u[0] - u[1], chart)
        thetas = theta(ends.point)
        d = jax.vmap(self.gain)(thetas)
        # One more step in the coordinates that are identified, and in those that are not.
        moved = jnp.where(free, ends.following, fit.following)
        doubt = jnp.max(jnp.abs(jax.vmap(self.gain)(theta(moved)) - d))
        return Reply(thetas[0], thetas[1], d[0], d[1], self._doubt(fit, doubt), fit.unique)

    def _doubt(self, fit: Fit | BoxFit, doubt: Array) -> Array:
        # Without a promise the best fit may jump, and where it does two of them tie.
        found = fit.found & (fit.unique | (not self.problem.family.unique_best_fit))
        return lax.stop_gradient(jnp.where(found, doubt, jnp.inf))

    def pure(self, trembling: Reply) -> Reply:
        """Each action is intended alone, [2]; without exploration it is the only one played."""
        family = self.problem.family
        if not any(self.continuum.leaves_open) and not family.has_charts:
            return trembling  # the limit of mixed play, as it stands

        def alone(action):
            fit = self.continuum.fit_alone(action)
            free = ~self.continuum.identified_by(action)
            return self._range(fit, free, action)

        explores = self.continuum.exploration > 0
        replies = jax.vmap(alone)(jnp.arange(2))
        return jax.tree.map(lambda a, b: jnp.where(explores, a, b), trembling, replies)

    def next_to_pure(self, scan: Reply) -> Reply:
        """Replies to a scan whose ends are what play tends to there, and not pure play.

        What pure play leaves unidentified, and a model that the other action refutes, are other
        matters: there the ends are the replies next to them.
        """
        family = self.problem.family
        if any(self.continuum.leaves_open) or family.has_charts:
            refuted = jnp.ones(2, bool)
        else:
            ends = jnp.stack([scan.least[0], scan.least[-1]])
            refuted = jnp.any(jnp.isinf(jax.vmap(self.kl)(ends)), -1)

        def pull(x):
            first = jnp.where(refuted[0], x[1], x[0])
            return x.at[0].set(first).at[-1].set(jnp.where(refuted[1], x[-2], x[-1]))

        return jax.tree.map(pull, scan)

    def side(self, reply: Reply) -> Array:
        """Which action is the better reply to every best fit, if either is."""
        plus, minus = reply.d_least > self.slack, reply.d_most < -self.slack
        return jnp.where(plus, PLUS, jnp.where(minus, MINUS, TIE))

    def settled(self, reply: Reply) -> Bool[Array, "..."]:
        """Whether the side of a reply is beyond doubt."""
        distance = jnp.minimum(jnp.abs(reply.d_least), jnp.abs(reply.d_most))
        return reply.doubt <= jnp.maximum(self.slack, 0.5 * distance)
