"""Best fits in a continuous family, as a point or as the set that is left unidentified."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._numerics import sum_last
from ..problem import FamilyProblem
from ._basins import Cells, search_basins
from ._box import Minimum, minimise, search_in_box, values_of
from ._tolerance import least_payoff_range, rounding_of

# Starts along each coordinate of a piece of a chart.
_NODES_PER_PIECE = 7


class Fit(NamedTuple):
    """A best fit ``theta`` [D], and ``following`` [P, D], where it might be after one more step.

    One of them for each piece that was searched: its own, those of others that fit as well up to
    rounding, and itself for the rest. ``found`` is whether nothing else can fit better, and
    ``unique`` whether nothing else can fit as well, as far as first-order conditions tell.
    """

    theta: Float[Array, " parameters"]
    following: Float[Array, "pieces parameters"]
    found: Bool[Array, ""]
    unique: Bool[Array, ""]


class BoxFit(NamedTuple):
    """A best-fitting point [D] of the box, where one more step would go, and the rest as above."""

    point: Float[Array, " parameters"]
    following: Float[Array, " parameters"]
    found: Bool[Array, ""]
    unique: Bool[Array, ""]


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
        self._huge = float(jnp.finfo(self.kl.dtype).max) / 4
        self._finite_kl = jnp.where(self.ruled_out, self._huge, self.kl)
        # Where the family promises nothing, slopes at the nodes say whether another basin may be
        # deeper; with one parameter they cost next to nothing and are looked at in any case.
        promised = family.unique_best_fit
        even = not family.has_charts and family.has_grid
        self._looks = even and (family.dimension == 1 or not promised)
        self._trusts = promised or self._looks
        if self._looks:
            slope = jax.jacfwd(lambda x: problem.divergence(x)[0])
            self._slopes = lax.stop_gradient(jnp.swapaxes(jax.vmap(slope)(self.nodes), 1, 2))
        self.payoffs = jax.vmap(problem.payoffs)(self.nodes)
        least = least_payoff_range(self.payoffs.dtype) * jnp.abs(self.payoffs).max()
        self.payoff_range = jnp.maximum(self.payoffs.max() - self.payoffs.min(), least)
        self.never_identified = tuple(not known for known in family.identifies_jointly())
        # Actions that, played alone, leave a set of best fits.
        self.leaves_open = [not all(family.identifies(a)) for a in range(problem.num_actions)]
        self._pieces = self._all_pieces() if family.has_charts else []

    def realised(self, strategy: Float[Array, " actions"]) -> Float[Array, " actions"]:
        """Play after trembling."""
        return (1 - self.exploration) * strategy + self.exploration / strategy.shape[0]

    def misfit(
        self, theta: Float[Array, " parameters"], weights: Float[Array, " actions"]
    ) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """Weighted divergence of a theta, and whether what is played refutes it."""
        problem = self.problem
        kl, ruled_out = problem.consequence.divergence(problem.family.function(theta))
        return sum_last(weights * kl), jnp.any(ruled_out & (weights > 0))

    def misfit_at_nodes(self, weights: Float[Array, " actions"]) -> Float[Array, " nodes"]:
        """Weighted divergence at every node, huge where what is played refutes it."""
        # Huge and not infinite: 0 * inf would be NaN, and masks cost more than the product.
        return sum_last(self._finite_kl * weights)

    def shortfall(
        self,
        strategy: Float[Array, " actions"],
        atoms: Float[Array, "atoms parameters"],
        weight: Float[Array, " atoms"],
    ) -> Float[Array, ""]:
        """By how much the worst of the thetas believed fits worse than the best node."""
        play = self.realised(strategy)
        value, refuted = jax.vmap(lambda theta: self.misfit(theta, play))(atoms)
        value = jnp.where(refuted, jnp.inf, value) - self.misfit_at_nodes(play).min()
        return jnp.max(jnp.where(weight > 0, jnp.maximum(value, 0.0), 0.0))

    def fit_in_box(self, strategy: Float[Array, " actions"]) -> BoxFit:
        """Best fit when every action has positive probability, in the first action's chart.

        Coordinates that no action identifies are left at the middle of the box.
        """
        known = jnp.logical_not(jnp.asarray(self.never_identified))
        return self._fit_in_box(self.realised(strategy), known, jnp.asarray(0))

    def fit_alone(self, action: Int[Array, ""]) -> BoxFit:
        """Best fit, in the chart of an action that may be traced, when only that is played.

        Coordinates that the action does not identify are left at the middle of the box.
        """
        weights = (jnp.arange(self.problem.num_actions) == action).astype(self.lower.dtype)
        return self._fit_in_box(weights, self.identified_by(action), action)

    def _fit_in_box(self, weights: Array, known: Array, chart: Int[Array, ""]) -> BoxFit:
        """Search the basin of the best node, and where slopes are known all that may be deeper."""
        middle = 0.5 * (self.lower + self.upper)
        lower, upper = (jnp.where(known, x, middle) for x in (self.lower, self.upper))
        nodes = jnp.where(known, self.nodes, middle)

        def function(x):
            return self.misfit(self.theta(x, chart), weights)

        search = search_in_box(function, nodes, lower, upper)
        if self.problem.family.has_charts:
            values = values_of(function, nodes)
        else:
            values = self.misfit_at_nodes(weights)
        if not self._looks:
            low = search.settle(search.from_node(jnp.argmin(values)))
            trusts = jnp.asarray(self._trusts)
            return BoxFit(low.point, low.following, low.converged & trusts, trusts)

        def cells(weights):
            walls = sum_last(jnp.where(self.ruled_out, weights, 0.0)) > 0
            values, slopes = self.misfit_at_nodes(weights), sum_last(self._slopes * weights)
            return Cells(self.nodes, values, slopes, walls, known)

        low, found, unique = search_basins(search, cells, *lax.stop_gradient((weights, values)))
        return BoxFit(low.point, low.following, found, unique)

    def fit(self, strategy: Float[Array, " actions"]) -> Fit:
        """Best-fitting theta when every action has positive probability.

        With one parameter, and where the family promises nothing about best fits, it is checked
        that, by values and slopes at the nodes, nothing between them can fit better; otherwise
        it is the minimum in whose basin the best node lies.

        In charts, that of the action which is played most: its data place the first coordinates,
        however little the others say. Every piece in which the chart is smooth is searched.
        """
        if not self.problem.family.has_charts:
            low = self.fit_in_box(strategy)
            return Fit(low.point, low.following[None], low.found, low.unique)
        weights = self.realised(strategy)
        chart = jnp.argmax(weights)

        def value(x):
            return self.misfit(self.theta(x, chart), weights)

        lower, upper, nodes, kl = self._select(self._pieces, chart)
        lows = jax.vmap(lambda *args: minimise(value, *args))(
            nodes, lower, upper, sum_last(kl * weights)
        )
        best = jnp.argmin(lows.value)
        low = jax.tree.map(lambda x: x[best], lows)
        # Another piece that is not done yet may still come to lie lower. Where an optimum lies
        # on the border of two pieces, both find it, and only rounding says which is lower.
        nexts, refuted = jax.vmap(value)(lows.following)
        gain = jnp.where(refuted, 0.0, lows.value - nexts)
        rivals = (gain > 0) & (lows.value - 2 * gain < low.value)
        rivals = rivals.at[best].set(False)
        candidates = (rivals & (gain <= rounding_of(low.value))).at[best].set(True)
        theta = self.theta(low.point, chart)
        following = jax.vmap(lambda x: self.theta(x, chart))(lows.following)
        following = jnp.where(candidates[:, None], following, theta)
        found = low.converged & ~jnp.any(rivals & ~candidates) & self._trusts
        return Fit(theta, *lax.stop_gradient((following, found, jnp.asarray(self._trusts))))

    def _all_pieces(self) -> list[tuple[Array, Array, Array, Array]]:
        """Of the chart of each action: bounds [P, D], nodes [P, G, D], divergences [P, G, A]."""
        family = self.problem.family
        unit = jnp.asarray(family.unit_nodes(_NODES_PER_PIECE), self.lower.dtype)
        pieces = []
        for action in range(self.problem.num_actions):
            lower, upper = family.pieces(action)
            nodes = (1 - unit) * lower[:, None] + unit * upper[:, None]
            each = jax.vmap(lambda x, action=action: self.problem.divergence(x, action))
            kl, ruled_out = jax.vmap(each)(nodes)
            pieces.append((lower, upper, nodes, jnp.where(ruled_out, self._huge, kl)))
        return pieces

    def theta(self, point: Float[Array, " parameters"], chart: Int[Array, ""]) -> Array:
        """Parameters [D] at a point of the box, in the chart of an action that may be traced."""
        family = self.problem.family
        if not family.has_charts:
            return point
        return self._select(
            [family.theta(point, action) for action in range(self.problem.num_actions)], chart
        )

    def _select(self, choices, index: Int[Array, ""]):
        """One of a few pytrees by a traced index, without a gather."""
        chosen = choices[0]
        for i, choice in enumerate(choices[1:], 1):
            chosen = jax.tree.map(lambda a, b, i=i: jnp.where(index == i, b, a), chosen, choice)
        return chosen

    def identified_by(self, action: Int[Array, ""]) -> Bool[Array, " parameters"]:
        """Which coordinates, in its own chart, an action identifies when played alone."""
        family = self.problem.family
        rows = [family.identifies(a) for a in range(self.problem.num_actions)]
        return jnp.asarray(rows)[action]

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
        ends = self.range_of(point, jnp.asarray(unidentified), score, jnp.asarray(chart))
        return ends.point[0], ends.point[1]

    def range_of(
        self,
        point: Float[Array, " parameters"],
        free: Bool[Array, " parameters"],
        score,
        chart: Int[Array, ""],
    ) -> Minimum:
        """The same for traced flags and chart: both ends of the range, [2, ...]."""
        problem = self.problem
        nodes = jnp.where(free, self.nodes, point)
        lower = jnp.where(free, self.lower, point)
        upper = jnp.where(free, self.upper, point)

        def signed(sign):
            def value(x):
                payoffs = problem.consequence.payoffs(problem.family.function(self.theta(x, chart)))
                return sign * score(payoffs), jnp.zeros((), bool)

            return minimise(value, nodes, lower, upper)

        return jax.vmap(signed)(jnp.asarray([1.0, -1.0], self.lower.dtype))
