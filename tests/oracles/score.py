"""Exact derivatives of what short-lived learners do, in float64 and without a simulator.

Every probability here is an analytic function of its parameters, so that its derivative is the
imaginary part at a parameter with a tiny imaginary step, to the last digit (complex step).
Arguments are mappings of numbers: ``log_odds`` (prior), ``q``, ``p_s``, ``p_h``, ``temperature``,
``pay`` (of approval after the first action; after the second it is 1), ``exploration``, ``rate``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_STEP = 1e-30


def derivatives(function: Callable[[dict], complex], point: Mapping[str, float]) -> dict[str, Any]:
    """Value under ``""``, and derivative by each parameter under its name."""
    found = {"": float(np.real(function(dict(point))))}
    for name, value in point.items():
        moved = {**point, name: complex(value, _STEP)}
        found[name] = float(np.imag(function(moved))) / _STEP
    return found


def _rates(at: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Truth [A, Y], and both models [M, A, Y]: theta is q or 1 - q, approval theta or 1 - theta."""
    truth = np.array([[1 - at["p_s"], at["p_s"]], [1 - at["p_h"], at["p_h"]]])
    theta = np.array([at["q"], 1 - at["q"]])
    good = np.stack([theta, 1 - theta], axis=1)
    return truth, np.stack([1 - good, good], axis=-1)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _intention(belief: np.ndarray, at: Mapping[str, Any], policy: str) -> np.ndarray:
    """Probabilities of intending [..., A], given the belief in theta = q [...]."""
    if policy == "thompson":  # with q > 1/2 and pay 1, flattery is the best in the first model
        first = belief
    else:
        up, down = at["pay"] * at["q"] - (1 - at["q"]), at["pay"] * (1 - at["q"]) - at["q"]
        first = _sigmoid((belief * up + (1 - belief) * down) / at["temperature"])
    return np.stack([first, 1 - first], axis=-1)


def by_transfer_matrix(at: Mapping[str, Any], num_steps: int) -> complex:
    """P(the first action is intended after T observations), perfect memory, logit.

    Each observation moves log-odds by one step of log(q / (1 - q)), up if flattery is approved
    of or truth is not: of 2 T + 1 reachable places, with a matrix of what moves where.
    """
    places = np.arange(-num_steps, num_steps + 1)
    log_odds = at["log_odds"] + places * np.log(at["q"] / (1 - at["q"]))
    first = _intention(_sigmoid(log_odds), at, "logit")[:, 0]
    up = first * at["p_s"] + (1 - first) * (1 - at["p_h"])
    move = np.diag(up[:-1], 1) + np.diag(1 - up[1:], -1)  # row: from, column: to
    mass = np.zeros(len(places), complex)
    mass[num_steps] = 1.0
    for _ in range(num_steps):
        mass = mass @ move
    return complex(mass @ first)


def by_histories(
    at: Mapping[str, Any],
    num_steps: int,
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    *,
    policy: str = "logit",
    memory: str = "perfect",
    window: int = 0,
) -> complex:
    """Expected statistic, by listing every history of intended and played actions.

    Parameters
    ----------
    statistic : (intended [H, T], played [H, T], consequences [H, T]) -> [H].
    memory : ``"perfect"``, ``"discounted"`` or ``"window"`` (of that length).
    """
    steps = list(itertools.product(range(2), range(2), range(2)))
    histories = np.array(list(itertools.product(steps, repeat=num_steps)))  # [H, T, 3]
    intended, played, came = (histories[..., i] for i in range(3))
    chance = np.exp(log_chance(at, intended, played, came, policy, memory, window))
    return complex(np.sum(chance * statistic(intended, played, came)))


def log_chance(
    at: Mapping[str, Any],
    intended: np.ndarray,
    played: np.ndarray,
    came: np.ndarray,
    policy: str = "logit",
    memory: str = "perfect",
    window: int = 0,
    only_played: bool = False,
) -> np.ndarray:
    """Log-probability of lives [H, T] of (intended, played, consequence), one after the other.

    With ``only_played``, of what is played and comes of it, whatever was intended.
    """
    truth, models = _rates(at)
    log_ratio = np.log(models[0] / models[1])
    keep = 1 - at["rate"] if memory == "discounted" else 1.0
    tremble = at["exploration"]
    total = np.zeros(len(played), complex)
    seen: list[np.ndarray] = []
    for t in range(played.shape[1]):
        ages = [keep ** (t - 1 - s) for s in range(t)]
        if memory == "window":
            ages = [age if t - s <= window else 0.0 for s, age in enumerate(ages)]
        evidence = sum((age * x for age, x in zip(ages, seen, strict=True)), 0.0)
        belief = _sigmoid(at["log_odds"] + evidence * np.ones(len(played)))
        chances = _intention(belief, at, policy)
        a = played[:, t, None]
        if only_played:
            here = (1 - tremble) * np.take_along_axis(chances, a, 1)[:, 0] + tremble / 2
        else:
            here = np.take_along_axis(chances, intended[:, t, None], 1)[:, 0]
            here = here * ((1 - tremble) * (intended[:, t] == played[:, t]) + tremble / 2)
        with np.errstate(divide="ignore"):
            total = total + np.log(here * truth[played[:, t], came[:, t]])
        seen.append(log_ratio[played[:, t], came[:, t]])
    return total


def gaussian_after_two(at: Mapping[str, Any], num_nodes: int = 48) -> complex:
    """P(the first action is intended after two observations), two Gaussian models, logit.

    The consequence of action a is normal with ``mean_a`` and ``sd``; model m holds it to be normal
    with mean ``model_m`` after the first action and 0 after the second, and sd 1.
    An action pays its consequence, and ``bonus`` for the first. Averages over z by Gauss-Hermite
    quadrature.
    """
    z, weight = np.polynomial.hermite_e.hermegauss(num_nodes)
    weight = weight / weight.sum()
    believed = np.array([at["model_0"], at["model_1"]])

    def log_ratio(action: int, y: np.ndarray) -> np.ndarray:
        if action == 1:
            return 0 * y
        return -0.5 * (y - believed[0]) ** 2 + 0.5 * (y - believed[1]) ** 2

    def first(evidence: np.ndarray) -> np.ndarray:
        belief = _sigmoid(at["log_odds"] + evidence)
        mean = belief * believed[0] + (1 - belief) * believed[1]
        return _sigmoid((mean + at["bonus"]) / at["temperature"])

    total: complex = 0.0
    start = first(np.zeros(()))
    for a, b in itertools.product(range(2), repeat=2):
        moves = [log_ratio(x, at[f"mean_{x}"] + at["sd"] * z) for x in (a, b)]
        after = moves[0][:, None]
        second = first(after)
        chance = (start if a == 0 else 1 - start) * (second if b == 0 else 1 - second)
        total += np.sum(weight[:, None] * weight * chance * first(after + moves[1][None, :]))
    return complex(total)
