"""Smooth equilibria in plain NumPy and SciPy: scans, brackets and a stiff integrator, in float64.

Written from the definition, one problem at a time, without anything of bnjax.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, root
from scipy.special import expit, softmax

from .random_problems import reduced_form


@dataclasses.dataclass(frozen=True)
class Smooth:
    """A problem in reduced form, trembles included, with a memory and a temperature."""

    kl: np.ndarray  # [M, A], inf where ruled out
    payoffs: np.ndarray  # [M, A]
    log_prior: np.ndarray  # [M]
    memory: float
    temperature: float

    def belief(self, sigma: np.ndarray) -> np.ndarray:
        """Posterior [M]; every action is played with positive probability."""
        possible = np.isfinite(self.kl).all(1) & np.isfinite(self.log_prior)
        log = np.full(len(self.kl), -np.inf)
        log[possible] = self.log_prior[possible] - self.memory * self.kl[possible] @ sigma
        return softmax(log)

    def reply(self, sigma: np.ndarray) -> np.ndarray:
        """Logit reply [A]."""
        return softmax(self.belief(sigma) @ self.payoffs / self.temperature)

    def start(self) -> np.ndarray:
        """What the prior plays."""
        return softmax(softmax(self.log_prior) @ self.payoffs / self.temperature)

    def start_logit(self) -> float:
        """With two actions: the logit of that, which may be too large for a probability."""
        return (
            softmax(self.log_prior) @ (self.payoffs[:, 0] - self.payoffs[:, 1]) / self.temperature
        )

    def pull(self, x: float) -> float:
        """With two actions: logit of the reply to the play of logit x, less x."""
        belief = self.belief(np.array([expit(x), expit(-x)]))
        return belief @ (self.payoffs[:, 0] - self.payoffs[:, 1]) / self.temperature - x

    def roots(self, points: int = 4001) -> np.ndarray:
        """With two actions: logits of all solutions that a fine scan brackets, ascending."""
        gain = (self.payoffs[:, 0] - self.payoffs[:, 1]) / self.temperature
        low, high = gain.min() - 1e-9, gain.max() + 1e-9
        share = np.sin(np.linspace(0, np.pi / 2, points)[1:-1]) ** 2
        grid = np.concatenate(
            [[low, high], np.linspace(low, high, points), np.log(share / (1 - share))]
        )
        grid = np.unique(grid[(grid >= low) & (grid <= high)])
        pulls = np.array([self.pull(x) for x in grid])
        at = np.flatnonzero(np.sign(pulls[:-1]) != np.sign(pulls[1:]))
        return np.array([brentq(self.pull, grid[i], grid[i + 1], xtol=1e-14) for i in at])

    def selected_root(self, roots: np.ndarray, x: float) -> float:
        """With two actions: the solution that the flow from logit x reaches."""
        return min(roots[roots >= x]) if self.pull(x) > 0 else max(roots[roots <= x])

    def rest(self, start: np.ndarray, time: float = 200.0) -> np.ndarray:
        """Where a stiff integrator, and then a root finder, get from a start."""

        def flow(_, sigma):
            return self.reply(sigma) - sigma

        end = solve_ivp(flow, (0, time), start, "LSODA", rtol=1e-8, atol=1e-10).y[:, -1]
        found = root(lambda sigma: self.reply(sigma) - sigma, end, tol=1e-14)
        return found.x


def smooth(
    arrays: dict[str, np.ndarray], memory: float, temperature: float, exploration: float = 0.0
) -> Smooth:
    """From arrays as `random_problem` draws them."""
    reduced = reduced_form(arrays)
    kl = np.where(reduced["ruled_out"], np.inf, reduced["kl"])
    if exploration > 0:
        kl = (1 - exploration) * kl + exploration * kl.mean(1, keepdims=True)
    return Smooth(kl, reduced["payoffs"], arrays["log_prior"], memory, temperature)


def two_models(
    odds: float, learned: np.ndarray, gain: np.ndarray, temperature: float, s: float
) -> tuple[float, float, float]:
    """Solution for two models near s, and its first two derivatives in the prior's log-odds.

    Log-odds ``l = odds + s learned[0] + (1 - s) learned[1]`` of the first model, which gains
    ``gain[0]`` by action 0 where the second gains ``gain[1]``; ``s = sigmoid(u(l) / temperature)``.
    """
    width = gain[0] - gain[1]
    slope = learned[0] - learned[1]

    def reply(s):
        return expit((gain[1] + width * expit(odds + learned[1] + s * slope)) / temperature)

    low, high = s - 1e-3, s + 1e-3
    s = brentq(lambda s: reply(s) - s, low, high, xtol=1e-16, rtol=8.9e-16)
    for _ in range(3):  # to the last digit
        mu = expit(odds + learned[1] + s * slope)
        first = s * (1 - s) * width * mu * (1 - mu) / temperature
        s = s + (reply(s) - s) / (1 - first * slope)
    mu = expit(odds + learned[1] + s * slope)
    # R(l) = sigmoid((gain[1] + width sigmoid(l)) / temperature), R' and R''.
    inner = width * mu * (1 - mu) / temperature
    first = s * (1 - s) * inner
    second = s * (1 - s) * (1 - 2 * s) * inner**2 + first * (1 - 2 * mu)
    # s = R(odds + s slope + ...): s' = R' (1 + slope s'), and once more.
    rate = first / (1 - first * slope)
    return s, rate, second * (1 + slope * rate) ** 2 / (1 - first * slope)
