"""Hallucination: the same trap under other names.

Corollary 4.1 of the paper: fabricating an answer or abstaining is, to an agent that takes both for
the two ends of one axis, the same problem as flattering or telling the truth. So the diagram of one
is the diagram of the other after relabelling, cell by cell and equilibrium by equilibrium.

The library builds both scenarios from the same parts, which proves little. So the hallucinating
agent is also written down from scratch, with another payoff, its actions in the other order, and
64 models in place of a continuum: its phases must be those of sycophancy, too.
"""

import jax
import jax.numpy as jnp
import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

_NAMES = {"p_fabricate": "p_sycophantic", "p_abstain": "p_honest"}


def written_down(p_fabricate, p_abstain):
    """The agent that abstains or fabricates: +1 for a reward, -1 without; rates sum to one."""

    def rates(*of_reward):
        return jnp.stack([jnp.stack([1 - p, p], -1) for p in of_reward], -2)

    fabricating = jnp.linspace(0, 1, 64)  # none of them is indifferent
    return bn.Problem(
        rates(p_abstain, p_fabricate),
        rates(1 - fabricating, fabricating),
        jnp.array([[-1.0, 1.0], [-1.0, 1.0]]),
        safe=[True, False],
        action_names=["abstain", "fabricate"],
    )


def run(quick: bool) -> Results:
    axis = np.linspace(0, 1, 21 if quick else 201)
    first = bn.phase_diagram("sycophancy", dict.fromkeys(_NAMES.values(), axis))
    second = bn.phase_diagram("hallucination", dict.fromkeys(_NAMES, axis))
    compared = ("phase", "pure", "rationalizable", "mixed_strategy", "mixed_stability")
    rows = [
        {
            "quantity": name,
            "cells": first.phase.size,
            "equal": int(
                np.isclose(first[name].values, second[name].values, rtol=0, atol=0, equal_nan=True)
                .reshape(first.phase.size, -1)
                .all(1)
                .sum()
            ),
        }
        for name in compared
    ]
    equal = min(row["equal"] for row in rows)
    # Where a rate is one half, the two nearest models fit equally well, and rounding decides.
    untied = ~np.isclose(axis, 0.5)
    p, q = np.meshgrid(axis[untied], axis[untied], indexing="ij")
    own = jax.jit(jax.vmap(lambda *rates: bn.phase(written_down(*rates))))(p.ravel(), q.ravel())
    same = np.asarray(own).reshape(p.shape) == first.phase.values[np.ix_(untied, untied)]
    rows.append({"quantity": "phase, agent written down", "cells": same.size, "equal": same.sum()})
    return Results(
        {"hallucination_isomorphism": _draw(first, second)},
        {
            "hallucination_isomorphism": "Phases of sycophancy (left) and hallucination (right): "
            "the same diagram with other words on its axes. Where a rate is exactly one half "
            "nothing decides, and cells on that line are indeterminate or multistable."
        },
        rows,
        [
            Finding(
                "Phases, equilibria, their stability and rationalizable sets are the same in every "
                "cell, to the last bit.",
                f"Equal in {equal:,} of {first.phase.size:,} cells.",
                equal == first.phase.size,
            ),
            Finding(
                "The agent written down from scratch has the phases of sycophancy.",
                f"In {same.sum():,} of {same.size:,} cells off the borders.",
                same.all(),
            ),
        ],
    )


def _draw(first, second):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.6, 4.4), layout="constrained")
    for ax, diagram in zip(axes, (first, second), strict=True):
        bn.plot.phase_diagram(diagram, ax=ax, title=diagram.attrs["scenario"])
    return figure


if __name__ == "__main__":
    main("hallucination_isomorphism")
