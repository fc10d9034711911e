"""Random finite categorical problems as plain NumPy arrays, and their reduced form."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["generic", "infinite", "ties", "unsupported", "thirds"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def random_problem(
    seed: int | np.random.Generator,
    kind: Kind = "generic",
    *,
    num_actions: int | None = None,
    num_models: int | None = None,
    num_consequences: int | None = None,
) -> dict[str, np.ndarray]:
    """Draw probs [A, Y], model_probs [M, A, Y], payoff [A, Y], log_prior [M] and safe [A].

    - ``generic``: all probabilities from Dirichlet distributions.
    - ``infinite``: some models give probability zero to what happens; model 0, always in the
      support, rules nothing out.
    - ``ties``: small integer ratios, repeated models, and actions that teach nothing because
      they have the same consequences according to every model.
    - ``unsupported``: some models have prior weight zero.
    - ``thirds``: multiples of 1/3, zeros among them, in the truth and in all models but model 0,
      which rules nothing out; and an action about which all agree with model 0 but model 1, which
      is right. Makes ties that hold only in the limit of play which refutes model 1.

    Sizes that are not given are drawn: A from 2 to 5, M from 2 to 12, Y from 2 to 4.
    """
    rng = np.random.default_rng(seed)
    a = int(rng.integers(2, 6)) if num_actions is None else num_actions
    m = int(rng.integers(2, 13)) if num_models is None else num_models
    y = int(rng.integers(2, 5)) if num_consequences is None else num_consequences
    draw = {"ties": _tied, "thirds": _thirds}.get(kind, _dirichlet)
    probs, model_probs, payoff = draw(rng, a, m, y)
    if kind == "infinite":
        model_probs = _with_zeros(rng, model_probs)
    log_prior = np.log(rng.dirichlet(np.ones(m)))
    if kind == "unsupported":
        log_prior[rng.permutation(m)[: rng.integers(1, m)]] = -np.inf
    safe = rng.random(a) < 0.5
    return {
        "probs": probs,
        "model_probs": model_probs,
        "payoff": payoff,
        "log_prior": log_prior,
        "safe": safe,
    }


def _dirichlet(
    rng: np.random.Generator, a: int, m: int, y: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Concentrated at random: sharp models tell actions apart, flat ones hardly do.
    concentration = rng.choice([0.5, 1.0, 4.0])
    probs = rng.dirichlet(np.full(y, concentration), size=a)
    model_probs = rng.dirichlet(np.full(y, concentration), size=(m, a))
    # Away from zero, where divergences are dominated by a single rare consequence.
    probs, model_probs = (0.98 * p + 0.02 / y for p in (probs, model_probs))
    return probs, model_probs, rng.normal(size=(a, y))


def _tied(
    rng: np.random.Generator, a: int, m: int, y: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def ratios(*shape: int) -> np.ndarray:
        counts = 1 + rng.multinomial(4, np.full(y, 1 / y), size=shape)
        return counts / counts.sum(-1, keepdims=True)

    probs, model_probs = ratios(a), ratios(m, a)
    dull = np.flatnonzero(rng.random(a) < 0.4)
    model_probs[:, dull] = probs[dull] if rng.random() < 0.5 else ratios(len(dull))
    copies = rng.random(m) < 0.3
    model_probs[copies] = model_probs[rng.integers(0, m, size=copies.sum())]
    return probs, model_probs, rng.integers(-2, 3, size=(a, y)).astype(float)


def _thirds(
    rng: np.random.Generator, a: int, m: int, y: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probs, model_probs = (rng.multinomial(3, np.full(y, 1 / y), size) / 3 for size in (a, (m, a)))
    model_probs[0] = (1 + rng.multinomial(3, np.full(y, 1 / y), a)) / (3 + y)
    agreed = rng.integers(a)
    model_probs[:, agreed] = model_probs[0, agreed]
    model_probs[1, agreed] = probs[agreed]
    return probs, model_probs, rng.integers(-2, 3, size=(a, y)).astype(float)


def _with_zeros(rng: np.random.Generator, model_probs: np.ndarray) -> np.ndarray:
    zero = rng.random(model_probs.shape) < rng.choice([0.1, 0.25])
    zero[0] = False
    # At least one consequence stays possible everywhere.
    keep = rng.integers(0, model_probs.shape[-1], size=model_probs.shape[:-1])
    np.put_along_axis(zero, keep[..., None], False, axis=-1)
    left = np.where(zero, 0.0, model_probs)
    return left / left.sum(-1, keepdims=True)


def reduced_form(problem: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return kl, ruled_out and payoffs [M, A], and support [M], straight from the definitions."""
    probs, models = problem["probs"], problem["model_probs"]
    happens = probs > 0
    ruled_out = (happens & (models == 0)).any(-1)
    ratio = np.where(happens & (models > 0), probs / np.where(models > 0, models, 1.0), 1.0)
    kl = (probs * np.log(ratio)).sum(-1)
    return {
        # Rounding can leave a divergence of -1e-17.
        "kl": np.where(ruled_out, 0.0, np.maximum(kl, 0.0)),
        "ruled_out": ruled_out,
        "payoffs": (models * problem["payoff"]).sum(-1),
        "support": problem["log_prior"] > -np.inf,
    }
