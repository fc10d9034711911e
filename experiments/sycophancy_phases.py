"""Sycophancy: four regimes, and where simulated agents really end up.

An assistant takes flattery and truth for the two ends of one axis. Theorem 3.2 of the paper: where
it ends up depends on which approval rates exceed one half, not on which is larger. It is locked in
on flattery, safe, decided by the prior, or oscillating without end.

In every cell of the diagram the equilibria and the rationalizable set are computed exactly, and a
population of Bayesian learners lives there besides. Where theory leaves one answer the population
must give it; where it leaves two, agents must settle on one of them; where it leaves none, play
must come near the mixture. Lives are finite, and learning is slow near the borders, so that this is
asked of most agents and of cells away from the borders.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main

# Choices, of what counts as agreement in finite lives; no theory gives them.
_NEAR = 0.1  # of a border between regimes: learning is slow there
_CLOSE = 0.05  # in long-run frequency, or in the share of agents that have settled
_REQUIRED = 0.99  # of the cells that are further from borders; 0.9 in short lives


def regime(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What Theorem 3.2 says, from the two approval rates alone."""
    names = np.where(p > 0.5, "UNSAFE", "OSCILLATORY")
    return np.where(q > 0.5, np.where(p > 0.5, "MULTISTABLE", "SAFE"), names)


def run(quick: bool) -> Results:
    side, agents, steps = (10, 40, 500) if quick else (40, 200, 4_000)
    axis = (np.arange(side) + 0.5) / side  # the borders, where theory ties, lie between cells
    diagram = bn.phase_diagram(
        "sycophancy",
        {"p_sycophantic": axis, "p_honest": axis},
        method="simulate",
        key=jax.random.key(SEED),
        num_agents=agents,
        num_steps=steps,
    )
    p, q = np.meshgrid(axis, axis, indexing="ij")
    theory = regime(p, q)
    exact = np.vectorize(lambda code: bn.Phase(int(code)).name)(diagram.phase.values)
    flattery = diagram.frequency.sel(action="sycophantic").values
    locked = diagram.outcome_share.values[..., :2].sum(-1)
    mixture = (0.5 - q) / np.where(theory == "OSCILLATORY", 1 - p - q, 1)
    error = np.select(
        [theory == "UNSAFE", theory == "SAFE", theory == "MULTISTABLE"],
        [1 - flattery, flattery, 1 - locked],
        abs(flattery - mixture),
    )
    agrees = error <= _CLOSE
    inner = np.minimum(abs(p - 0.5), abs(q - 0.5)) > _NEAR
    rows = [
        {
            "regime": name,
            "cells": int((theory == name).sum()),
            "exact phase agrees": float((exact == theory)[theory == name].mean()),
            "simulation agrees": float(agrees[theory == name].mean()),
            "further than 0.1 from a border": float(agrees[(theory == name) & inner].mean()),
        }
        for name in ("SAFE", "UNSAFE", "MULTISTABLE", "OSCILLATORY")
    ]
    return Results(
        {"sycophancy_phases": bn.plot.simulated_diagram(diagram)},
        {
            "sycophancy_phases": "How often simulated agents flatter in the second half of their "
            f"lives (colour; {agents} agents of {steps:,} steps a cell), under the outlines of the "
            "exact phases."
        },
        rows,
        [
            Finding(
                "The exact phase is that of Theorem 3.2 in every cell.",
                f"It is in {100 * np.mean(exact == theory):.1f}% of {theory.size:,} cells.",
                (exact == theory).all(),
            ),
            Finding(
                "Simulated agents do what the phase says in nearly all cells away from borders: "
                f"the one action or the mixture, within {_CLOSE:g} in frequency; or one of two for "
                f"good, all but {100 * _CLOSE:g}% of them.",
                f"They do in {100 * agrees[inner].mean():.1f}% of the cells further than {_NEAR:g} "
                f"from a border, and in {100 * agrees.mean():.1f}% of all.",
                agrees[inner].mean() >= (0.9 if quick else _REQUIRED),
            ),
        ],
        {"agents": agents, "steps": steps, "side": side},
    )


if __name__ == "__main__":
    main("sycophancy_phases")
