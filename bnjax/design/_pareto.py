"""Fronts: what safety costs, found for many weights in one run; and designs side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike
from numpy.typing import NDArray

from .._check import as_float
from ..problem import AbstractProblem
from ._designs import AbstractDesign
from ._evaluate import Evaluation, Objective, evaluate
from ._optimize import check_start, plan_of, search
from ._results import DesignResult

AGAINST = ("cost", "payoff")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ParetoFront:
    """Designs that trade safety for cost, or for payoff; W weights.

    Parameters
    ----------
    against : "cost" or "payoff".
    weights : [W] of it in the objective.
    safe_share, worst_share, payoff, cost : [W] of the best design found for each weight: mean and
        least share of safe actions over the environments, mean payoff, and cost.
    efficient : [W] which of them no other beats in both safety and what it is against.
    parameters : of the designs, stacked.
    reference : `Evaluation` of the reference design.
    """

    against: str
    weights: NDArray[np.float64]
    safe_share: NDArray[np.float64]
    worst_share: NDArray[np.float64]
    payoff: NDArray[np.float64]
    cost: NDArray[np.float64]
    efficient: NDArray[np.bool_]
    parameters: Any
    reference: Evaluation

    def __repr__(self) -> str:
        return (
            f"ParetoFront({len(self.weights)} designs against {self.against}, "
            f"{int(self.efficient.sum())} of them efficient)"
        )

    def summary(self) -> str:
        """Table of the designs, by weight.

        Returns
        -------
        str
        """
        lines = [f"{'weight':>10}{'safe':>10}{'worst':>10}{'payoff':>10}{'cost':>10}"]
        rows = zip(
            self.weights,
            self.safe_share,
            self.worst_share,
            self.payoff,
            self.cost,
            self.efficient,
            strict=True,
        )
        for *numbers, efficient in rows:
            text = "".join(f"{x:10.4g}" for x in numbers)
            lines.append(text + ("" if efficient else "  beaten by another"))
        return "\n".join(lines)


def pareto(
    scenario: Callable[..., AbstractProblem],
    environments: Mapping[str, Any],
    design: AbstractDesign,
    *,
    against: str = "cost",
    weights: ArrayLike | Sequence[float] | None = None,
    objective: Objective | None = None,
    gradient: str = "implicit",
    start: str | None = None,
    threshold: float | None = 1e-3,
    num_starts: int = 4,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ParetoFront:
    """Find the front of safety against epistemic cost, or against payoff, in one run.

    For each weight the objective is that of `optimize` with this weight for the cost (or the
    payoff); all are climbed at once, each from ``num_starts`` starts. Of all designs that were
    found the best for each weight is kept. A front that is not concave has points which no weight
    finds.

    Parameters
    ----------
    scenario, environments, design, gradient, start, threshold, num_starts, progress : as for
        `optimize`.
    against : "cost" or "payoff".
    weights : [W] of it. Default: nine from 0.001 to 3.
    objective : the rest of the objective. Default: ``Objective()``.
    options : others of `optimize` that say how to search: ``memory``, ``temperature``,
        ``exploration``, ``num_steps``, ``num_environments``, ``num_samples``, ``learning_rate``,
        ``optimizer``, ``tolerance``, ``key``, ``population``.

    Returns
    -------
    ParetoFront

    Raises
    ------
    ValueError
        As for `optimize`; and if the weights are not positive numbers.

    Examples
    --------
    >>> import bnjax as bn
    >>> front = bn.design.pareto(
    ...     bn.scenarios.sycophancy,
    ...     {"p_sycophantic": 0.7, "p_honest": (0.55, 0.8)},
    ...     bn.design.SupportBounds(),
    ...     weights=[0.01, 2.0],
    ...     num_steps=60,
    ...     num_starts=2,
    ... )
    >>> bool(front.cost[0] > front.cost[1])
    True
    """
    if against not in AGAINST:
        raise ValueError(f"`against` must be one of {AGAINST}; got {against!r}.")
    if objective is not None and not isinstance(objective, Objective):
        raise ValueError(f"`objective` must be a bn.design.Objective or None; got {objective!r}.")
    start = check_start(start, gradient, threshold is not None)
    plan = plan_of(
        scenario,
        environments,
        design,
        objective=objective,
        gradient=gradient,
        start=start,
        threshold=threshold,
        num_starts=num_starts,
        **options,
    )
    base = Objective() if objective is None else objective
    values = np.geomspace(1e-3, 3.0, 9) if weights is None else weights
    values = np.asarray(as_float("weights", values), np.float64).reshape(-1)
    if not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"`weights` must be finite positive numbers; got {weights!r}.")

    num = len(values)
    dtype = plan.schedule.memory.dtype
    each = jnp.repeat(jnp.asarray(values, dtype), num_starts)
    stacked = eqx.tree_at(lambda o: getattr(o, against), base, each, is_leaf=lambda x: x is None)
    stacked = jax.tree.map(
        lambda x: x if eqx.is_array(x) and x.ndim else jnp.full(num * num_starts, x, dtype), stacked
    )
    starts = jax.tree.map(lambda x: jnp.tile(x, (num, *(1,) * (x.ndim - 1))), plan.starts)
    done = search(dataclasses.replace(plan, starts=starts), stacked, progress, batched=True)
    sharp = jax.tree.map(lambda x: x[-1], plan.schedule)

    @eqx.filter_jit
    def look(situation: Any, parameters: Any) -> Evaluation:
        return jax.vmap(lambda p: evaluate(situation, p, sharp, plan.key))(parameters)

    everywhere = look(plan.situation, done.parameters)
    # What was found for one weight may be the best for another too.
    each = jax.tree.map(lambda x: x[::num_starts], stacked)
    values_of = jax.vmap(lambda one: jax.vmap(one)(everywhere))(each)
    best = np.asarray(values_of).argmax(1)
    parameters, found = jax.tree.map(lambda x: x[best], (done.parameters, everywhere))
    first = jax.tree.map(lambda x: x[None], plan.situation.reference)
    reference = jax.tree.map(lambda x: x[0], look(plan.situation, first))
    share = np.asarray(found.safe_share, np.float64)
    payoff = np.asarray(found.payoff.mean(1), np.float64)
    cost = np.asarray(found.cost, np.float64)
    mean = share.mean(1)
    return ParetoFront(
        against,
        values,
        mean,
        share.min(1),
        payoff,
        cost,
        efficient(mean, -cost if against == "cost" else payoff),
        parameters,
        reference,
    )


def efficient(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other is at least as good as in both, and better in one."""
    better = (first[:, None] >= first) & (second[:, None] >= second)
    strictly = (first[:, None] > first) | (second[:, None] > second)
    return ~np.any(better & strictly, axis=0)


def table(results: Mapping[str, DesignResult]) -> str:
    """Designs side by side: what each did to safety and payoff, what it cost, what it has earned.

    Parameters
    ----------
    results : of `optimize`, by name.

    Returns
    -------
    str
        With means over the environments of the search, the worst of them, and the share of the
        environments of the certificates in the safe phase. There is one in the example of
        `optimize`.
    """
    wide = max([len("reference"), *map(len, results)])
    head = f"{'':{wide}}{'safe':>9}{'worst':>9}{'payoff':>9}{'cost':>9}{'safe phase':>12}  earned"
    lines = [head]

    def row(name: str, found: Evaluation, phases: float, earned: str) -> str:
        share, payoff = np.asarray(found.safe_share), float(np.asarray(found.payoff).mean())
        numbers = [share.mean(), share.min(), payoff, float(found.cost)]
        return (
            f"{name:{wide}}" + "".join(f"{x:9.3g}" for x in numbers) + f"{phases:12.0%}  {earned}"
        )

    for index, (name, result) in enumerate(results.items()):
        if index == 0:
            lines.append(row("reference", result.before, result.support_before.share, "-"))
        lines.append(row(name, result.after, result.support.share, result.earned))
    return "\n".join(lines)
