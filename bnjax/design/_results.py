"""What a search for a design returns: the design, how it went, and what it has earned."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..equilibrium import Phase
from ..problem import AbstractFiniteProblem
from ._certificates import StatisticalCertificate, SupportCertificate, hardened
from ._designs import AbstractDesign
from ._evaluate import Evaluation, Situation
from ._named import said


class History(NamedTuple):
    """How a search went: arrays [starts, steps].

    Parameters
    ----------
    objective : at the sharpness of the step.
    gradient_norm : Euclidean norm of its gradient.
    safe_share, payoff : means over the environments.
    cost : of the design.
    converged : share of the environments whose smooth equilibrium was found.
    """

    objective: Any
    gradient_norm: Any
    safe_share: Any
    payoff: Any
    cost: Any
    converged: Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DesignResult:
    """A design, and what it has earned.

    Parameters
    ----------
    design : what kind.
    parameters : of it, as found.
    reference : parameters of the reference design.
    situation : environments (those of the certificates), and the rest that a learner is made of.
    before : `Evaluation` of the reference, at full sharpness, in the environments of the search.
    after : the same of the design.
    history : `History` of all starts.
    best : which start led to the design.
    stretch : how many times as far from the reference as the search went the design lies, so that
        its support is certified; 1 where that was not needed, or did not help.
    threshold : of hard designs.
    support_before : `SupportCertificate` of the reference.
    support : of the design.
    statistical_before : `StatisticalCertificate` of the reference.
    statistical : of the design.
    """

    design: AbstractDesign
    parameters: Any
    reference: Any
    situation: Situation
    before: Evaluation
    after: Evaluation
    history: History
    best: int
    stretch: float
    threshold: float | None
    support_before: SupportCertificate
    support: SupportCertificate
    statistical_before: StatisticalCertificate
    statistical: StatisticalCertificate

    @property
    def earned(self) -> str:
        """The stronger of the certificates that the design has earned.

        "support", "statistical", or "none".
        """
        if self.support.holds:
            return "support"
        return "statistical" if self.statistical.holds else "none"

    @property
    def headline(self) -> str:
        """What has been earned, in words."""
        if self.support.holds and not self.support.rules_out:
            return _NOTHING_RULED_OUT
        empty = int((self.support.models_kept == 0).sum())
        if not empty:
            return _HEADLINE[self.earned]
        where = f"in {empty} of {self.support.models_kept.size} environments "
        return f"{_HEADLINE[self.earned]}; {where}NO MODEL would be left, and none is ruled out"

    def learner(self, hard: bool = True, **arguments: Any) -> tuple[AbstractFiniteProblem, Array]:
        """The designed problem and exploration, in one environment.

        Parameters
        ----------
        hard : with what the hard design rules out (nothing where that would be every model); or
            with the weights as they were found.
        arguments : of the scenario, for what varies between environments. Default: the middle.
        """
        box = self.situation.environments.box
        unknown = [name for name in arguments if name not in box]
        if unknown:
            raise ValueError(
                f"`arguments` must be among what varies between environments, "
                f"{', '.join(box) or 'nothing here'}; got {unknown[0]!r}."
            )
        middle = {name: 0.5 * (low + high) for name, (low, high) in box.items()}
        dtype = jnp.result_type(float)
        point = {k: jnp.asarray(v, dtype) for k, v in {**middle, **arguments}.items()}
        threshold = self.threshold if hard else None
        # Compiled, as in the search: some scenarios make other models of numbers that they can see.
        return eqx.filter_jit(hardened)(self.situation, self.parameters, point, threshold)[:2]

    def __repr__(self) -> str:
        share = float(np.asarray(self.after.safe_share).mean())
        return (
            f"DesignResult({type(self.design).__name__}, earned={self.earned!r}, safe={share:.3g})"
        )

    def summary(self) -> str:
        """Say in words what was found, what it costs, and what it has earned.

        Returns
        -------
        str
        """
        lines = [self.headline]
        lines += said(self)
        if self.stretch != 1:
            lines.append(f"stretched {self.stretch:g} times as far as the search went")
        lines.append(f"{'':28}{'before':>10}{'after':>10}")
        rows = {
            "safe share, mean": [
                np.asarray(x.safe_share).mean() for x in (self.before, self.after)
            ],
            "safe share, worst": [
                np.asarray(x.safe_share).min() for x in (self.before, self.after)
            ],
            "payoff, mean": [np.asarray(x.payoff).mean() for x in (self.before, self.after)],
            "payoff, best action": [
                np.asarray(x.best_payoff).mean() for x in (self.before, self.after)
            ],
            "cost": [float(x.cost) for x in (self.before, self.after)],
            "safe phase, share": [x.share for x in (self.support_before, self.support)],
            "safe play simulated, least": [
                x.safe_share.min() for x in (self.statistical_before, self.statistical)
            ],
        }
        lines += [f"{name:28}{a:10.4g}{b:10.4g}" for name, (a, b) in rows.items()]
        lines.append(f"support: {_support_text(self.support)}")
        lines.append(f"statistical: {_statistical_text(self.statistical)}")
        return "\n".join(lines)


_HEADLINE = {
    "support": "certified by its support: whoever best responds with these models ends up safe",
    "statistical": "certified by simulation only: safe for this prior, memory, policy and horizon",
    "none": "FAILED: the design has earned no certificate",
}
# Who bounds no models has changed the problem itself, and the models are those of the scenario.
_NOTHING_RULED_OUT = (
    "certified exactly: whoever best responds in the problem as designed ends up safe, whatever "
    "the prior on its models"
)


def _support_text(certificate: SupportCertificate) -> str:
    codes, counts = np.unique(certificate.phase, return_counts=True)
    phases = ", ".join(
        f"{Phase(int(code)).name} {count}" for code, count in zip(codes, counts, strict=True)
    )
    models = certificate.models_kept
    few, many = int(models.min()), int(models.max())
    size = f"{few}" if few == many else f"{few} to {many}"
    verdict = "holds" if certificate.holds else "does not hold"
    # With more actions than two, not every environment is proved on its own.
    how = "" if certificate.method == "exact" else f"; {certificate.method}"
    explored = f"exploration {certificate.exploration:.3g}"
    return f"{verdict} ({phases}; {size} models; {explored}{how})"


def _statistical_text(certificate: StatisticalCertificate) -> str:
    verdict = "holds" if certificate.holds else "does not hold"
    worst = int(certificate.low.argmin())
    low, high = certificate.low.flat[worst], certificate.high.flat[worst]
    return (
        f"{verdict} (agents that play safe in at least 99 % of the second half, in the worst "
        f"environment: {low:.4g} to {high:.4g}, {certificate.required:g} required; "
        f"{certificate.num_agents:,} agents x {certificate.num_steps:,} steps, "
        f"{certificate.policy}, {certificate.memory})"
    )
