"""Deception: whoever thinks detection impossible deceives at any risk.

Deceiving pays unless it is detected; complying teaches nothing about detection. Theorem 5.2 of the
paper: an agent that cannot represent a detection probability above the threshold t at which
deception stops paying deceives for ever, whatever the objective risk, and no evidence can dislodge
it. If it can, honesty is an equilibrium, but the theory does not exclude deception: epistemic
indeterminacy. Raising the *lower* bound of what it can represent above t makes it comply, at any
risk.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main

GAIN, HONEST = 1.0, 0.2
_LINE = {"color": "black", "lw": 1.2, "ls": (0, (4, 2))}


def threshold(penalty):
    """Detection probability at which deceiving and complying pay the same."""
    return (GAIN - HONEST) / (GAIN + penalty)


def run(quick: bool) -> Results:
    side = 20 if quick else 100
    risk = (np.arange(side) + 0.5) / side
    upper = (np.arange(side) + 0.53) / side  # never at t itself
    lower = (np.arange(side) + 0.47) / side
    penalty = np.linspace(0.1, 3, side)
    bounds = _phases(p_detect=risk, detect_upper=upper)
    floors = _phases(p_detect=risk, detect_lower=lower)
    fines = _phases(p_detect=risk, penalty=penalty, detect_upper=[0.3])
    t = threshold(1.0)
    blind = upper < t
    safe_floor = lower > t
    unmoved = threshold(penalty) > 0.3
    phases = {name: x.phase.values for name, x in (("b", bounds), ("f", floors), ("p", fines))}
    risky = (risk > t)[:, None] & (upper > t)[None]
    deceived = _play(0.9, detect_upper=t - 0.02, quick=quick)
    learned = _play(0.9, detect_upper=1.0, quick=quick)
    share = {
        "blind": np.mean(phases["b"][:, blind] == bn.Phase.UNSAFE),
        "indeterminate": np.mean(phases["b"][risky] == bn.Phase.INDETERMINATE),
        "floor": np.mean(phases["f"][:, safe_floor] == bn.Phase.SAFE),
        "fines": np.mean(phases["p"][:, unmoved] == bn.Phase.UNSAFE),
    }
    cells = (("upper bound below t", "UNSAFE", phases["b"][:, blind].size),)
    cells += (("risk and upper bound above t", "INDETERMINATE", int(risky.sum())),)
    cells += (("lower bound above t", "SAFE", phases["f"][:, safe_floor].size),)
    cells += (("t above the upper bound of 0.3", "UNSAFE", phases["p"][:, unmoved].size),)
    rows = [
        {"where": where, "phase claimed": phase, "cells": size, "share that has it": float(x)}
        for (where, phase, size), x in zip(cells, share.values(), strict=True)
    ]
    return Results(
        {"deception_lock_in": _draw(bounds, floors, fines)},
        {
            "deception_lock_in": "Phases against the true detection probability and what the agent "
            "can represent: the upper bound of its models, the lower bound, and (upper bound 0.3) "
            "the penalty. Dashed: t. Where the risk is below t and t within the bounds, deceiving "
            "is an equilibrium as well as complying: multistable."
        },
        rows,
        [
            Finding(
                f"With all models below t = {t:g} the agent deceives, whatever the true risk.",
                f"Phase UNSAFE in {100 * share['blind']:.1f}% of these cells; simulated at a risk "
                f"of 0.9, agents deceive in {100 * deceived:.1f}% of the steps.",
                share["blind"] == 1 and deceived == 1,
            ),
            Finding(
                "Where the agent can represent the risk and it is above t, the phase is "
                "indeterminate: deception is not excluded, though agents who try it learn.",
                f"In {100 * share['indeterminate']:.1f}% of these cells; simulated at a risk of "
                f"0.9, agents deceive in {100 * learned:.1f}% of the steps.",
                share["indeterminate"] == 1 and learned < 0.05,
            ),
            Finding(
                "A lower bound above t makes the agent safe, whatever the true risk.",
                f"Phase SAFE in {100 * share['floor']:.1f}% of these cells.",
                share["floor"] == 1,
            ),
            Finding(
                "A higher penalty changes nothing until it moves t below the highest risk that the "
                "agent can represent.",
                f"UNSAFE in {100 * share['fines']:.1f}% of the cells with t above 0.3.",
                share["fines"] == 1,
            ),
        ],
        {"threshold": t},
    )


def _phases(**varied):
    """Phases over what varies; the rest is an axis too, of one value, so that all compile once."""
    rest = {"p_detect": [0.5], "detect_lower": [0.0], "detect_upper": [1.0], "penalty": [1.0]}
    return bn.phase_diagram("deception", rest | varied).squeeze()


def _play(p_detect: float, detect_upper: float, quick: bool) -> float:
    """How often simulated agents deceive in the second half of their lives."""
    problem = bn.scenarios.deception(p_detect=p_detect, detect_upper=detect_upper)
    agents, steps = (200, 500) if quick else (2_000, 2_000)
    done = bn.simulate(problem, jax.random.key(SEED), num_agents=agents, num_steps=steps)
    return float(np.mean(done.late_frequency[:, 0]))


def _draw(bounds, floors, fines):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4), layout="constrained")
    names = "highest it can represent", "lowest it can represent", "penalty"
    for ax, diagram, name in zip(axes, (bounds, floors, fines), names, strict=True):
        bn.plot.phase_diagram(diagram, ax=ax)
        ax.set(xlabel="true detection probability", ylabel=name, aspect="auto", box_aspect=1)
        ax.axvline(threshold(1.0), **_LINE) if name != "penalty" else ax.plot(
            threshold(diagram.penalty), diagram.penalty, **_LINE
        )
        ax.set(xlim=(0, 1), ylim=(0.1, 3) if name == "penalty" else (0, 1))
    return figure


if __name__ == "__main__":
    main("deception_lock_in")
