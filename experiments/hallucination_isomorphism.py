"""Hallucination: the same trap under other names.

Corollary 4.1 of the paper: fabricating an answer or abstaining is, to an agent that takes both for
the two ends of one axis, the same problem as flattering or telling the truth. So the diagram of one
is the diagram of the other after relabelling, cell by cell and equilibrium by equilibrium.
"""

import numpy as np

import bnjax as bn

from ._experiment import Finding, Results, main

_NAMES = {"p_fabricate": "p_sycophantic", "p_abstain": "p_honest"}


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
    equal = all(row["equal"] == row["cells"] for row in rows)
    return Results(
        {"hallucination_isomorphism": _draw(first, second)},
        {
            "hallucination_isomorphism": "Phases of sycophancy (left) and hallucination (right): "
            "the same diagram with other words on its axes."
        },
        rows,
        [
            Finding(
                "Phases, equilibria, their stability and rationalizable sets are the same in every "
                "cell, to the last bit.",
                f"Equal in {min(row['equal'] for row in rows):,} of {first.phase.size:,} cells.",
                equal,
            )
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
