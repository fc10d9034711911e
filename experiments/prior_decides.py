"""Prior decides: which habit an agent forms where two are possible.

Where both answers are approved of more often than not, both are equilibria of the agent that takes
flattery and truth for two ends of one axis. Chance and the prior decide between them. With two
models the probability of ending up sycophantic is known in closed form (a gambler's ruin), and
simulated agents meet it. How much the prior can do depends on how far approval rates are from 1/2:
near it, evidence is slow to part the two, and often overrules the prior.
"""

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main, shares_allowed

ENVIRONMENTS = ((0.7, 0.6), (0.6, 0.8), (0.55, 0.55))
Q = 0.75  # the two models: flattery is approved of with probability 1 - q or q
_ALARM = 0.001  # how often chance alone may refuse a true closed form, all dots together


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
    rows, alarm = [], _ALARM / (len(ENVIRONMENTS) * len(priors))
    for i, (p, q) in enumerate(ENVIRONMENTS):
        key = jax.random.fold_in(jax.random.key(SEED), i)
        done = bn.simulate(
            problem(p, q), key, num_agents=len(log_prior), num_steps=steps, log_prior=log_prior
        )
        shares = np.mean(np.asarray(done.intended).reshape(-1, each) == 0, 1)
        for k, found in zip(priors, shares, strict=True):
            expected = closed_form(p, q, int(k))
            low, high = shares_allowed(expected, each, alarm)
            rows.append(
                {
                    "p_sycophantic": p,
                    "p_honest": q,
                    "prior_log_odds": k * unit,
                    "steps_in_favour": k,
                    "closed_form": expected,
                    "simulated": found,
                    "least_allowed": low,
                    "most_allowed": high,
                }
            )
    inside = sum(row["least_allowed"] <= row["simulated"] <= row["most_allowed"] for row in rows)
    off = max(abs(row["simulated"] - row["closed_form"]) for row in rows)
    ends = {}  # with the prior most against flattery, and most in its favour
    for p, q in ENVIRONMENTS:
        mine = [r["simulated"] for r in rows if (r["p_sycophantic"], r["p_honest"]) == (p, q)]
        ends[p, q] = mine[0], mine[-1]
    far, near = ends[ENVIRONMENTS[0]], ends[ENVIRONMENTS[-1]]
    return Results(
        {"prior_decides": _draw(rows)},
        {
            "prior_decides": "Probability of ending up sycophantic against the prior's log-odds, "
            "in three environments in which both habits are stable: closed form (lines) and "
            f"{each:,} simulated agents each (dots). Bars round the closed form: exact binomial "
            "ranges that chance alone leaves, for any dot, once in a thousand such figures."
        },
        rows,
        [
            Finding(
                "Simulated lock-in probabilities are those of the closed form, all within exact "
                "binomial ranges that chance leaves once in a thousand runs.",
                f"{inside} of {len(rows)} are inside; the largest distance is {off:.4f}.",
                inside == len(rows),
            ),
            Finding(
                f"At approval rates {ENVIRONMENTS[0]} the prior moves the outcome from nearly "
                f"never to nearly always; near one half, at {ENVIRONMENTS[-1]}, by less.",
                "; ".join(f"from {a:.3f} to {b:.3f} at {rates}" for rates, (a, b) in ends.items())
                + f", over {priors[-1] - priors[0]} observations' worth of prior.",
                far[0] < 0.05 and far[1] > 0.95 and far[0] < near[0] < near[1] < far[1],
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
        at, low, high = (
            [r[name] for r in mine] for name in ("prior_log_odds", "least_allowed", "most_allowed")
        )
        axes.vlines(at, low, high, color=colour, lw=3.5, alpha=0.4)
        label = f"approval of flattery {p:g}, of honesty {q:g}"
        axes.plot(at, [r["simulated"] for r in mine], "o", color=colour, ms=3, label=label)
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
