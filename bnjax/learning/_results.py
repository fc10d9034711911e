"""What a simulation returns: arrays by agent, with a summary in words."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._summary import check_one
from ..problem import AbstractFiniteProblem
from ._outcome import Outcome, Share, share_of
from ._record import Snapshot


def check_lived(simulation: Simulation, problem: Any) -> None:
    """Raise unless a problem could be the one that was simulated."""
    fields = "frequency", "mean_theta", "log_belief"
    lived = [getattr(simulation, name).shape[-1] for name in fields]
    models = problem.num_models if isinstance(problem, AbstractFiniteProblem) else lived[2]
    given = [problem.num_actions, len(problem.parameter_names), models]
    if lived != given:
        kinds = "actions", "parameters", "models"
        texts = (
            ", ".join(f"{n} {kind}" for n, kind in zip(numbers, kinds, strict=True))
            for numbers in (lived, given)
        )
        raise ValueError(
            "`problem` must be the one that was simulated, with {}; got one with {}.".format(*texts)
        )


class Simulation(eqx.Module):
    """What a population of learners did, and what it believes.

    N is the number of agents. Every field goes through `jax.jit` and `jax.vmap`.

    Parameters
    ----------
    frequency, late_frequency : [N, A] share of the steps, of all and of the second half, in which
        each action was played.
    log_belief : [N, M] log-probability of each model at the end.
    mean_theta : [N, D] mean parameter at the end.
    mean_payoff : [N] payoff a step.
    intended : [N] the action intended last.
    since : [N] step since which it has been intended: the first time of lock-in, for who is
        locked.
    switches : [N, 2] how often the intended action changed in the third and the fourth quarter.
    outcome : [N] codes of `Outcome`.
    trajectory : `Snapshot` of arrays [N, S, ...], one after every so many steps of a `Trajectory`
        (`Snapshot.time` says which), or None.
    record : final carry of a `Running` statistic, or None.
    num_steps : steps taken.
    """

    frequency: Float[Array, "*batch agents actions"]
    late_frequency: Float[Array, "*batch agents actions"]
    log_belief: Float[Array, "*batch agents models"]
    mean_theta: Float[Array, "*batch agents parameters"]
    mean_payoff: Float[Array, "*batch agents"]
    intended: Int[Array, "*batch agents"]
    since: Int[Array, "*batch agents"]
    switches: Int[Array, "*batch agents 2"]
    outcome: Int[Array, "*batch agents"]
    trajectory: Snapshot | None
    record: Any
    num_steps: int = eqx.field(static=True)

    def __repr__(self) -> str:
        return (
            f"Simulation({' x '.join(map(str, self.outcome.shape))} agents, {self.num_steps} steps)"
        )

    @property
    def belief(self) -> Float[Array, "*batch agents models"]:
        """Probability of each model at the end."""
        return jnp.exp(self.log_belief)

    def shares(self, level: float = 0.99) -> dict[str, Share]:
        """Shares of the outcomes in the population, with confidence intervals.

        Parameters
        ----------
        level : confidence level of each interval (Clopper-Pearson).

        Returns
        -------
        dict
            ``"locked 0"``, ``"locked 1"``, ... by number of the action, in the order of
            ``problem.action_names``; ``"mixing"`` and ``"undecided"``; and
            ``"invalid"``, if there are such.

        Raises
        ------
        ValueError
            If the level is outside (0, 1), or this is a batch of populations.
        """
        outcome, intended = self._one(self.outcome), self._one(self.intended)
        locked = outcome == Outcome.LOCKED
        masks = {f"locked {a}": locked & (intended == a) for a in range(self.frequency.shape[-1])}
        masks["mixing"] = outcome == Outcome.MIXING
        masks["undecided"] = outcome == Outcome.UNDECIDED
        if (invalid := outcome == Outcome.INVALID).any():
            masks["invalid"] = invalid
        return {name: share_of(mask, level) for name, mask in masks.items()}

    def summary(self, problem: Any, level: float = 0.99) -> str:
        """Say in words, with the names of the problem, where the population ended.

        Parameters
        ----------
        problem : the problem that was simulated.
        level : confidence level of each interval.

        Returns
        -------
        str
            A line an outcome that occurs, then frequencies of the second half and the payoff, over
            all agents that are not invalid.
        """
        check_one("Simulation", self.outcome, 1, problem, self.frequency.shape[-1])
        check_lived(self, problem)
        shares = self.shares(level)
        names = {f"locked {a}": f"locked on {n}" for a, n in enumerate(problem.action_names)}
        lines = [
            f"{names.get(key, key)}: {s.share:.4g} ({s.low:.4g} to {s.high:.4g})"
            for key, s in shares.items()
            if s.count
        ]
        fine = np.asarray(self.outcome) != Outcome.INVALID
        if not fine.any():
            return "\n".join(lines)
        late = np.asarray(self.late_frequency)[fine].mean(0)
        order = np.argsort(-late)[:4]
        played = ", ".join(f"{problem.action_names[a]} {late[a]:.4g}" for a in order if late[a])
        payoff = np.asarray(self.mean_payoff)[fine].mean()
        lines.append(f"second half: {played}; payoff {payoff:.4g}")
        return "\n".join(lines)

    def _one(self, array: Array) -> np.ndarray:
        if array.ndim != 1:
            raise ValueError(
                f"this Simulation holds a batch of {array.shape[:-1]} populations: index it first, "
                "for example with `jax.tree.map(lambda x: x[0], result)`."
            )
        return np.asarray(array)
