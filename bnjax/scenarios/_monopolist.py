"""The monopolist who never settles (Nyarko 1991)."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import finite_number
from .._consequence import Gaussian
from ..family import Family
from ..problem import FamilyProblem

_PRICES = (2.0, 10.0)
_INTERCEPT, _SLOPE = (33.0, 40.0), (3.0, 3.5)


def _demand_range(price: float) -> tuple[float, float]:
    """Lowest and highest mean demand that the model can believe in at a price."""
    return _INTERCEPT[0] - _SLOPE[1] * price, _INTERCEPT[1] - _SLOPE[0] * price


class _LinearDemand(eqx.Module):
    """Mean demand ``a - b * price`` with unit noise, (a, b) in a box.

    Selling at one price identifies mean demand there and nothing else. In the chart of a
    price, the first coordinate places that mean in its range and the second places b in the
    interval that the mean leaves.
    """

    def __call__(self, theta: Float[Array, "2"]) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        prices = jnp.asarray(_PRICES, theta.dtype)
        return theta[0] - theta[1] * prices, jnp.ones_like(prices)

    def kinks(self, action: int) -> Float[Array, "2"]:
        price = _PRICES[action]
        lowest, highest = _demand_range(price)
        corners = [_INTERCEPT[0] - _SLOPE[0] * price, _INTERCEPT[1] - _SLOPE[1] * price]
        return jnp.asarray([(mean - lowest) / (highest - lowest) for mean in corners])

    def chart(self, action: int, coordinates: Float[Array, "2"]) -> Float[Array, "2"]:
        price = _PRICES[action]
        lowest, highest = _demand_range(price)
        mean = lowest + coordinates[0] * (highest - lowest)
        low = jnp.maximum(_SLOPE[0], (_INTERCEPT[0] - mean) / price)
        high = jnp.minimum(_SLOPE[1], (_INTERCEPT[1] - mean) / price)
        slope = low + coordinates[1] * (high - low)
        return jnp.stack([mean + slope * price, slope])


def monopolist(demand_low: ArrayLike = 34.0, demand_high: ArrayLike = 2.0) -> FamilyProblem:
    """A monopolist who believes in a linear demand curve and cannot represent the true one.

    Prices 2 and 10; demand is its mean plus normal noise with sd 1; payoff price * demand. The
    monopolist believes that mean demand is ``a - b * price`` with (a, b) in
    [33, 40] x [3, 3.5]. Neither price is called safe, so that there is no phase.

    The example of Nyarko, "Learning in mis-specified models and the possibility of cycles" (JET
    1991), as solved by Esponda and Pouzo, "Berk-Nash equilibrium" (Econometrica 2016): no pure
    equilibrium; the unique equilibrium plays the low price with probability 35/36 and fits
    (40, 10/3).

    Parameters
    ----------
    demand_low : true mean demand at price 2.
    demand_high : true mean demand at price 10.

    Returns
    -------
    FamilyProblem

    Examples
    --------
    >>> import bnjax as bn
    >>> problem = bn.scenarios.monopolist()
    >>> print(bn.equilibria(problem).summary(problem))
    mixed: price 2 0.97222..., price 10 0.0277... (stable; best fit (40, 3.33333))
    """
    mean = jnp.stack(
        [finite_number("demand_low", demand_low), finite_number("demand_high", demand_high)]
    )
    prices = jnp.asarray(_PRICES, mean.dtype)
    truth = Gaussian(mean, jnp.ones_like(mean), jnp.zeros_like(mean), prices)
    identified = [[True, False], [True, False]]
    family = Family(_LinearDemand(), [0.0, 0.0], [1.0, 1.0], identified, True, ("a", "b"))
    return FamilyProblem(truth, family, None, ("price 2", "price 10"))
