"""Prior decides: which habit an agent forms where two are possible.

Where both answers are approved of more often than not, both are equilibria of the agent that takes
flattery and truth for two ends of one axis. Chance and the prior decide between them. With two
models the probability of ending up sycophantic is known in closed form (a gambler's ruin), and
simulated agents meet it.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main

ENVIRONMENTS = ((0.7, 0.6), (0.6, 0.8), (0.55, 0.55))
Q = 0.75  # the two models: flattery is approved of with probability 1 - q or q
_Z = 3.29  # of a 99.9% interval


def closed_form(p_sycophantic: float, p_honest: float, k: int) -> float:
    """P(end on sycophantic) when the prior is ``k`` observations in its favour, ties included."""
    r_s, r_h = (1 - p_sycophantic) / p_sycophantic, (1 - p_honest) / p_honest
    at_0 = p_sycophantic * (1 - r_s) / (1 - p_sycophantic * r_s - (1 - p_sycophantic) * r_h)
    return 1 - r_s**k * (1 - at_0) if k >= 0 else r_h**-k * at_0


def problem(p_sycophantic: float, p_honest: float) -> bn.Problem:
    """Two models, theta = 1 - q and theta = q, of approval (theta, 1 - theta)."""

    def rates(first, second):
        return [[1 - first, first], [1 - second, second]]

    return bn.Problem(
        rates(p_sycophantic, p_honest),
        [rates(1 - Q, Q), rates(Q, 1 - Q)],
        [[0.0, 1.0], [0.0, 1.0]],
        safe=[False, True],
        action_names=["sycophantic", "honest"],
    )


def run(quick: bool) -> Results:
    each, steps = (2_000, 300) if quick else (20_000, 600)
    unit, priors = np.log(Q / (1 - Q)), np.arange(-8, 9, 2)
    log_prior = np.repeat(np.stack([0 * priors, priors * unit], -1), each, 0)  # one an agent
    rows = []
    for i, (p, q) in enumerate(ENVIRONMENTS):
        key = jax.random.fold_in(jax.random.key(SEED), i)
        done = bn.simulate(
            problem(p, q), key, num_agents=len(log_prior), num_steps=steps, log_prior=log_prior
        )
        shares = np.mean(np.asarray(done.intended).reshape(-1, each) == 0, 1)
        for k, found in zip(priors, shares, strict=True):
            expected = closed_form(p, q, int(k))
            rows.append(
                {
                    "p_sycophantic": p,
                    "p_honest": q,
                    "prior_log_odds": k * unit,
                    "steps_in_favour": k,
                    "closed_form": expected,
                    "simulated": found,
                    "allowed": _Z * np.sqrt(expected * (1 - expected) / each) + 1 / each,
                }
            )
    off = [abs(row["simulated"] - row["closed_form"]) / row["allowed"] for row in rows]
    inside = sum(x <= 1 for x in off)
    worst = rows[int(np.argmax(off))]
    return Results(
        {"prior_decides": _draw(rows)},
        {
            "prior_decides": "Probability of ending up sycophantic against the prior's log-odds, "
            "in three environments in which both habits are stable: closed form (lines) and "
            f"{each:,} simulated agents each (dots, 99.9% intervals)."
        },
        rows,
        [
            Finding(
                "Simulated lock-in probabilities are within 99.9% intervals of the closed form.",
                f"{inside} of {len(rows)} are; the largest distance is "
                f"{abs(worst['simulated'] - worst['closed_form']):.4f}.",
                inside == len(rows),
            ),
            Finding(
                "The prior alone moves the outcome from nearly never to nearly always.",
                f"At approval rates {ENVIRONMENTS[0]}, from {rows[0]['simulated']:.3f} to "
                f"{rows[8]['simulated']:.3f}.",
                rows[0]["simulated"] < 0.05 and rows[8]["simulated"] > 0.95,
            ),
        ],
        {"agents": each, "steps": steps},
    )


def _draw(rows):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (p, q), colour in zip(ENVIRONMENTS, ("#0072b2", "#d55e00", "#009e73"), strict=True):
        mine = [r for r in rows if (r["p_sycophantic"], r["p_honest"]) == (p, q)]
        unit, steps = np.log(Q / (1 - Q)), np.arange(-8, 9)
        line = [closed_form(p, q, int(k)) for k in steps]
        axes.plot(steps * unit, line, color=colour, lw=1.2)
        axes.errorbar(
            [r["prior_log_odds"] for r in mine],
            [r["simulated"] for r in mine],
            [r["allowed"] for r in mine],
            fmt="o",
            color=colour,
            ms=4,
            capsize=2,
            label=f"approval of flattery {p:g}, of honesty {q:g}",
        )
    axes.set(
        xlabel="prior log-odds in favour of flattery (nats)",
        ylabel="probability of ending up sycophantic",
        ylim=(-0.03, 1.03),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("prior_decides")
