"""Deception: whoever cannot conceive of being caught often enough deceives at any risk.

Deceiving pays unless it is detected; complying teaches nothing about detection. Theorem 5.2 of the
paper: an agent that cannot represent a detection probability above the threshold t at which
deception stops paying deceives for ever, whatever the objective risk, and no evidence can dislodge
it. If it can, complying is an equilibrium, but the theory does not exclude deception: epistemic
indeterminacy where the risk is above t, and a second equilibrium where it is below. Raising the
*lower* bound of what it can represent above t makes it comply, at any risk.

The phase of every cell is held against these rules, as one formula. Simulated agents deceive only
while their mean belief is at most t; how many never stop follows, without sampling, from the Beta
distribution.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main, shares_allowed

GAIN, HONEST = 1.0, 0.2
_LINE = {"color": "black", "lw": 1.2, "ls": (0, (4, 2))}
CLAIMS = {  # of what is varied beside the risk
    "upper bound": "With all models below t the phase is unsafe at any risk; above, it is "
    "indeterminate where the risk is above t and multistable where it is below.",
    "lower bound": "A lower bound above t makes the agent safe at any risk; one below is no help.",
    "penalty": "A penalty changes nothing until it moves t below the highest risk that the agent "
    "can represent, here 0.3; then deception is no longer locked in, but not excluded either.",
}
# Risk and upper bound of agents to be simulated; their models are uniform from 0 to that.
BLIND, LEARN, _, SPLIT = LIVES = ((0.9, 0.38), (0.9, 0.7), (0.9, 1.0), (0.3, 0.75))


def threshold(penalty):
    """Detection probability at which deceiving and complying pay the same."""
    return (GAIN - HONEST) / (GAIN + penalty)


def theory(risk, lower, upper, t):
    """The phase, from the risk, what can be represented, and the threshold alone."""
    between = np.where(risk > t, bn.Phase.INDETERMINATE, bn.Phase.MULTISTABLE)
    return np.where(upper < t, bn.Phase.UNSAFE, np.where(lower > t, bn.Phase.SAFE, between))


def never_stop(risk, upper, steps):
    """Probability that an agent, uniform on [0, upper], still deceives after so many steps."""
    from scipy.special import betainc

    chance = np.zeros(steps + 1)  # of having always deceived, by the number of detections
    chance[0] = 1
    for n in range(steps):
        k = np.flatnonzero(chance > 1e-15)  # what is less does not count
        first, zeroth = (betainc(k + i, n - k + 1, upper) for i in (2, 1))
        mean = (k + 1) / (n + 2) * first / zeroth
        k, go_on = k[mean <= threshold(1.0)], np.zeros_like(chance)
        go_on[k] += chance[k] * (1 - risk)
        go_on[k + 1] += chance[k] * risk
        chance = go_on
    return chance.sum()


def run(quick: bool) -> Results:
    side, agents, steps = (20, 200, 500) if quick else (100, 2_000, 2_000)
    risk = (np.arange(side) + 0.5) / side  # neither a risk nor a bound is t itself
    upper, lower = (np.arange(side) + 0.53) / side, (np.arange(side) + 0.47) / side
    penalty = np.linspace(0.1, 3, side)
    t, at = threshold(1.0), risk[:, None]
    diagrams = (
        _phases(p_detect=risk, detect_upper=upper),
        _phases(p_detect=risk, detect_lower=lower),
        _phases(p_detect=risk, penalty=penalty, detect_upper=[0.3]),
    )
    theories = (
        theory(at, 0, upper, t),
        theory(at, lower, 1, t),
        theory(at, 0, 0.3, threshold(penalty)),
    )
    equal = [x.phase.values == y for x, y in zip(diagrams, theories, strict=True)]
    rows = [
        {
            "beside the risk": name,
            "phase by the formula": bn.Phase(code).name,
            "cells": int((expected == code).sum()),
            "share that has it": float(right[expected == code].mean()),
        }
        for name, expected, right in zip(CLAIMS, theories, equal, strict=True)
        for code in np.unique(expected)
    ]
    often, ended = np.stack([_live(*life, agents, steps) for life in LIVES], 1)
    blind, learn, _, split = 100 * ended.mean(1)
    tried = 100 * (often > 0).mean(1)
    last = never_stop(*SPLIT, steps)
    low, high = shares_allowed(last, agents, 0.001)
    return Results(
        {"deception_lock_in": _draw(*diagrams)},
        {
            "deception_lock_in": "Phases against the true detection probability and what the agent "
            "can represent: the upper bound of its models, the lower bound, and (upper bound 0.3) "
            "the penalty. Dashed: t. Where the risk is below t and t within the bounds, deceiving "
            "is an equilibrium as well as complying: multistable."
        },
        rows,
        [
            *(
                Finding(claim, f"So in {right.sum():,} of {right.size:,} cells.", right.all())
                for claim, right in zip(CLAIMS.values(), equal, strict=True)
            ),
            Finding(
                f"Simulated agents whose models are all below t = {t:g} never stop deceiving.",
                f"At a risk of {BLIND[0]:g} they deceive in {100 * often[0].mean():.1f}% of "
                f"{steps:,} steps, and {blind:.1f}% intend to at the end.",
                (often[0] == 1).all() and blind == 100,
            ),
            Finding(
                "Where the phase is indeterminate, agents whose prior mean is below t try it and "
                "learn; the others never try.",
                f"At a risk of {LEARN[0]:g}, {tried[1]:.1f}% of the former try, "
                f"{steps * often[1].mean():.2f} times on average, and {learn:.1f}% deceive at the "
                f"end; {tried[2]:.1f}% of the latter try.",
                tried[1] == 100 and learn == tried[2] == 0,
            ),
            Finding(
                "Where both are equilibria, as many agents end up deceiving as the Beta "
                "distribution says, within a range that chance leaves once in a thousand runs.",
                f"At a risk of {SPLIT[0]:g} and an upper bound of {SPLIT[1]:g}, {split:.1f}% of "
                f"{agents:,} agents; {100 * last:.1f}% by the distribution, {100 * low:.1f}% to "
                f"{100 * high:.1f}% allowed.",
                low <= split / 100 <= high,
            ),
        ],
        {"threshold": t, "agents": agents, "steps": steps},
    )


def _phases(**varied):
    """Phases over what varies; the rest is an axis too, of one value, so that all compile once."""
    rest = {"p_detect": [0.5], "detect_lower": [0.0], "detect_upper": [1.0], "penalty": [1.0]}
    return bn.phase_diagram("deception", rest | varied).squeeze()


def _live(risk, upper, agents, steps):
    """How often each agent deceives, and whether it intends to at the end (1) or not (0)."""
    problem = bn.scenarios.deception(p_detect=risk, detect_upper=upper)
    done = bn.simulate(problem, jax.random.key(SEED), num_agents=agents, num_steps=steps)
    return np.stack([done.frequency[:, 0], done.intended == 0])


def _draw(*diagrams):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4), layout="constrained")
    names = "highest it can represent", "lowest it can represent", "penalty"
    for ax, diagram, name in zip(axes, diagrams, names, strict=True):
        bn.plot.phase_diagram(diagram, ax=ax)
        ax.set(xlabel="true detection probability", ylabel=name, aspect="auto", box_aspect=1)
        fine = np.linspace(0.1, 3, 200)
        where = (threshold(fine), fine) if name == "penalty" else ((threshold(1.0),) * 2, (0, 1))
        ax.plot(*where, **_LINE)
        ax.set(xlim=(0, 1), ylim=(0.1, 3) if name == "penalty" else (0, 1))
    return figure


if __name__ == "__main__":
    main("deception_lock_in")
