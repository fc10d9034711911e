"""Best fits in a continuous family, as a point or as the set that is left unidentified."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._numerics import sum_last
from ..problem import FamilyProblem
from ._box import minimise
from ._tolerance import least_payoff_range


class Continuum:
    """A family problem with its grid evaluated once.

    Parameters
    ----------
    problem : continuous Theta.
    exploration : tremble of intended play.
    """

    def __init__(self, problem: FamilyProblem, exploration: Float[Array, ""]):
        self.problem = problem
        self.exploration = exploration
        family = problem.family
        self.lower, self.upper = family.lower, family.upper
        self.nodes = family.nodes()
        self.kl, self.ruled_out = jax.vmap(problem.divergence)(self.nodes)
        huge = float(jnp.finfo(self.kl.dtype).max) / 4
        self._finite_kl = jnp.where(self.ruled_out, huge, self.kl)
        self.payoffs = jax.vmap(problem.payoffs)(self.nodes)
        least = least_payoff_range(self.payoffs.dtype) * jnp.abs(self.payoffs).max()
        self.payoff_range = jnp.maximum(self.payoffs.max() - self.payoffs.min(), least)
        self.never_identified = tuple(not known for known in family.identifies_jointly())
        # Actions that, played alone, leave a set of best fits.
        self.leaves_open = [not all(family.identifies(a)) for a in range(problem.num_actions)]

    def realised(self, strategy: Float[Array, " actions"]) -> Float[Array, " actions"]:
        """Play after trembling."""
        return (1 - self.exploration) * strategy + self.exploration / strategy.shape[0]

    def misfit_at(
        self, point: Float[Array, " parameters"], weights: Float[Array, " actions"], chart: int = 0
    ) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """Weighted divergence at a point of the box, and whether what is played refutes it."""
        kl, ruled_out = self.problem.divergence(point, chart)
        return sum_last(weights * kl), jnp.any(ruled_out & (weights > 0))

    def misfit_at_nodes(self, weights: Float[Array, " actions"]) -> Float[Array, " nodes"]:
        """Weighted divergence at every node, huge where what is played refutes it."""
        # Huge and not infinite: 0 * inf would be NaN, and masks cost more than the product.
        return sum_last(self._finite_kl * weights)

    def best_fit(self, strategy: Float[Array, " actions"]) -> Float[Array, " parameters"]:
        """Best-fitting point [D] of the box when every action has positive probability."""
        weights = self.realised(strategy)
        return minimise(
            lambda x: self.misfit_at(x, weights),
            self.nodes,
            self.lower,
            self.upper,
            self.misfit_at_nodes(weights),
        )

    def best_fit_alone(self, action: int) -> Float[Array, " parameters"]:
        """Best-fitting point [D], in the chart of an action, when only that action is played.

        Coordinates that the action does not identify are left at the middle of the box.
        """
        known = jnp.asarray(self.problem.family.identifies(action))
        middle = 0.5 * (self.lower + self.upper)
        nodes = jnp.where(known, self.nodes, middle)
        lower = jnp.where(known, self.lower, middle)
        upper = jnp.where(known, self.upper, middle)
        weights = jnp.zeros(self.problem.num_actions, self.lower.dtype).at[action].set(1)
        return minimise(lambda x: self.misfit_at(x, weights, action), nodes, lower, upper)

    def others_fit(
        self, strategy: Float[Array, " actions"], is_pure: Bool[Array, ""]
    ) -> Bool[Array, ""]:
        """Whether what is played leaves more than one best fit, as the family says."""
        alone = is_pure & (self.exploration == 0) & jnp.asarray(self.leaves_open)[strategy.argmax()]
        return alone | any(self.never_identified)

    def extremes(
        self,
        point: Float[Array, " parameters"],
        unidentified: tuple[bool, ...],
        score,
        chart: int = 0,
    ) -> tuple[Float[Array, " parameters"], Float[Array, " parameters"]]:
        """Points [D] where a function of payoffs is least and greatest over what is unidentified.

        Parameters
        ----------
        point : a best fit; its identified coordinates stay.
        unidentified : which coordinates are free.
        score : payoffs [A] -> number.
        chart : whose coordinates these are.
        """
        if not any(unidentified):
            return point, point
        free = jnp.asarray(unidentified)
        nodes = jnp.where(free, self.nodes, point)
        lower = jnp.where(free, self.lower, point)
        upper = jnp.where(free, self.upper, point)

        def signed(sign):
            def value(x):
                return sign * score(self.problem.payoffs(x, chart)), jnp.zeros((), bool)

            return minimise(value, nodes, lower, upper)

        return signed(1.0), signed(-1.0)
