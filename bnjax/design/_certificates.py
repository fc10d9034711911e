"""What a design has earned: proofs over a grid of environments, or statistics of simulated play."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from ..belief import AbstractMemory, PerfectMemory
from ..equilibrium import Phase, certify
from ..equilibrium._public import solve_all
from ..learning import Outcome, simulate
from ..learning._outcome import share_of
from ..problem import AbstractFiniteProblem
from ..response import AbstractPolicy, BestResponse
from ._designs import with_prior
from ._evaluate import Situation

LEVEL, REQUIRED, _SAFE_PLAY = 0.99, 0.95, 0.99
_MOST_CERTIFIED = 9  # environments that are put to exact proof with more than two actions


@dataclasses.dataclass(frozen=True)
class SupportCertificate:
    """Whether perfect-memory best responders with this support are safe, exactly.

    The rationalizable set depends on the prior through its support alone. So if it is safe, every
    such learner with any prior on these models ends up safe, whatever it happens to observe.

    Parameters
    ----------
    axes : values along each side of the grid of environments.
    phase : [grid] codes of `bnjax.Phase`; UNDECIDED where no model is left.
    models_kept : [grid] how many models the hard design leaves. Where that is none, nothing is
        ruled out after all: agents have the weights as they were found, and no support to certify.
    exploration : with which it holds.
    method : "exact" for two actions; for more, that of `bnjax.phase`, and at how many environments
        `bnjax.certify` has proved it.
    models : [grid] how many the scenario's prior allows, of which the design may rule out some.
    """

    axes: dict[str, NDArray[np.float64]]
    phase: NDArray[np.int64]
    models_kept: NDArray[np.int64]
    exploration: float
    method: str
    models: NDArray[np.int64]

    @property
    def holds(self) -> bool:
        """Whether every environment of the grid is in the safe phase."""
        return bool((self.phase == Phase.SAFE).all())

    @property
    def share(self) -> float:
        """Share of the environments that are."""
        return float((self.phase == Phase.SAFE).mean())

    @property
    def rules_out(self) -> bool:
        """Whether some model is ruled out in some environment."""
        return bool((self.models_kept < self.models).any())


@dataclasses.dataclass(frozen=True)
class StatisticalCertificate:
    """Whether simulated learners with this prior, memory and policy play safe, up to a horizon.

    Parameters
    ----------
    axes : values along each side of the grid of environments.
    safe_share : [grid] mean share of safe actions that agents intend in the second half of the run
        (what is played, less the trembles to be expected).
    low, high : [grid] Clopper-Pearson interval for the probability that an agent plays safe: that
        it intends one safe action throughout the second half, or safe ones in at least 99 % of it;
        all intervals hold together with 99 % probability (Bonferroni).
    num_agents, num_steps : of the population in each environment.
    policy, memory : of its agents.
    required : what every ``low`` has to reach.
    """

    axes: dict[str, NDArray[np.float64]]
    safe_share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_agents: int
    num_steps: int
    policy: str
    memory: str
    required: float

    @property
    def holds(self) -> bool:
        """Whether in every environment the probability is at least what is required."""
        return bool((self.low >= self.required).all())


def hardened(
    situation: Situation, parameters: Any, point: dict[str, Array], threshold: float | None
) -> tuple[AbstractFiniteProblem, Array, Int[Array, ""]]:
    """The problem of a hard design in one environment, exploration, and how many models it keeps.

    Weights are left as they are where ``threshold`` is None, or where no model would be kept.
    """
    before, after, exploration = situation.learner(parameters, point)
    kept = after.support
    if threshold is not None:
        kept = kept & situation.design.hard(parameters, before, after, threshold)
    weights = jnp.where(kept | ~kept.any(), after.log_prior, -jnp.inf)
    return with_prior(after, weights), exploration, kept.sum(dtype=jnp.int32)


@eqx.filter_jit
def _phases(situation: Situation, parameters: Any, threshold: float | None) -> Any:
    """Phase, size of the support, exploration, and size of the scenario's support, everywhere."""

    def one(point: dict[str, Array]) -> tuple[Array, Array, Array, Array]:
        problem, exploration, kept = hardened(situation, parameters, point, threshold)
        _, _, phase = solve_all(problem, exploration, 1)
        assert phase is not None
        before = situation.learner(parameters, point)[0]
        return phase, kept, exploration, before.support.sum(dtype=jnp.int32)

    return situation.over_points(one)


def support_certificate(
    situation: Situation,
    parameters: Any,
    axes: dict[str, NDArray[np.float64]],
    threshold: float | None,
) -> SupportCertificate:
    """Exact phases of the hard design over the grid of environments."""
    shape = tuple(len(axis) for axis in axes.values())
    phase, kept, exploration, models = _phases(situation, parameters, threshold)
    empty = np.asarray(kept) == 0
    phases = np.asarray(phase, np.int64)
    method = "exact"
    if _num_actions(situation, parameters) > 2:
        phases, proved = _certified(situation, parameters, threshold, phases)
        method = f"bounds; {proved} of {len(phases)} proved by certify"
    phases = np.where(empty, int(Phase.UNDECIDED), phases)
    return SupportCertificate(
        axes,
        phases.reshape(shape),
        np.asarray(kept, np.int64).reshape(shape),
        float(exploration[0]),
        method,
        np.asarray(models, np.int64).reshape(shape),
    )


def _num_actions(situation: Situation, parameters: Any) -> int:
    point = {name: x[0] for name, x in situation.points.items()}
    return eqx.filter_eval_shape(situation.learner, parameters, point)[1].num_actions


def _certified(
    situation: Situation, parameters: Any, threshold: float | None, phases: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Phases in which what the batched solver calls safe, or cannot decide, is proved on the host.

    At up to nine environments, spread over the grid: a proof can take seconds.
    """
    phases = phases.copy()
    open_ = np.flatnonzero((phases == Phase.SAFE) | (phases == Phase.UNDECIDED))
    spread = np.linspace(0, len(open_) - 1, min(len(open_), _MOST_CERTIFIED)).astype(int)
    for index in open_[spread]:
        point = {name: x[index] for name, x in situation.points.items()}
        problem, exploration, _ = hardened(situation, parameters, point, threshold)
        proof = certify(problem, float(exploration))
        phases[index] = int(Phase.SAFE) if proof.safe else phases[index]
        if not proof.safe and phases[index] == Phase.SAFE:
            phases[index] = int(Phase.UNDECIDED)
    return phases, len(spread)


def check_enough(num_agents: int, num_environments: int, required: float) -> None:
    """Refuse populations so small that no result would do."""
    least = int(np.ceil(np.log((1 - LEVEL) / (2 * num_environments)) / np.log(required)))
    if num_agents < least:
        where = f" in all of {num_environments} environments" if num_environments > 1 else ""
        raise ValueError(
            f"`num_agents` must be at least {least}, or no outcome would show that {required:g} of "
            f"agents play safe{where}; got {num_agents}."
        )


def statistical_certificate(
    situation: Situation,
    parameters: Any,
    axes: dict[str, NDArray[np.float64]],
    threshold: float | None,
    key: Array,
    *,
    num_agents: int,
    num_steps: int,
    policy: AbstractPolicy | None = None,
    memory: AbstractMemory | None = None,
    required: float = REQUIRED,
) -> StatisticalCertificate:
    """Simulate the hard policy with the design's prior in every environment of the grid."""
    policy = BestResponse() if policy is None else policy
    memory = PerfectMemory() if memory is None else memory
    given = situation, parameters, threshold, key, policy, memory, num_agents, num_steps
    safe, locked = (np.asarray(x) for x in _safe_shares(*given))
    shape = tuple(len(axis) for axis in axes.values())
    level = 1 - (1 - LEVEL) / len(safe)
    shares = [share_of(row, level) for row in locked | (safe >= _SAFE_PLAY)]
    return StatisticalCertificate(
        axes,
        # Trembles that chance has made many of would leave less than nothing.
        np.clip(safe.mean(1, dtype=np.float64), 0.0, 1.0).reshape(shape),
        np.asarray([share.low for share in shares]).reshape(shape),
        np.asarray([share.high for share in shares]).reshape(shape),
        num_agents,
        num_steps,
        type(policy).__name__,
        type(memory).__name__,
        required,
    )


@eqx.filter_jit
def _safe_shares(
    situation: Situation,
    parameters: Any,
    threshold: float | None,
    key: Array,
    policy: AbstractPolicy,
    memory: AbstractMemory,
    num_agents: int,
    num_steps: int,
) -> tuple[Float[Array, "environments agents"], Bool[Array, "environments agents"]]:
    """Share of safe actions that each agent intends in the second half; which keep to one."""
    key = jax.random.fold_in(key, 3)  # other lives than those that the search has looked at

    def one(args: tuple[dict[str, Array], Array]) -> tuple[Array, Array]:
        point, index = args
        problem, exploration, _ = hardened(situation, parameters, point, threshold)
        done = simulate(
            problem,
            jax.random.fold_in(key, index),
            num_agents=num_agents,
            num_steps=num_steps,
            policy=policy,
            memory=memory,
            exploration=exploration,
        )
        assert problem.safe is not None
        played = jnp.sum(jnp.where(problem.safe, done.late_frequency, 0.0), -1)
        # Trembles are uniform: of what is intended, this many are left.
        even = exploration * problem.safe.mean(dtype=played.dtype)
        share = (played - even) / jnp.where(exploration < 1, 1 - exploration, 1.0)
        return share, (done.outcome == int(Outcome.LOCKED)) & problem.safe[done.intended]

    indices = jnp.arange(situation.num_points, dtype=jnp.int32)
    return lax.map(one, (situation.points, indices))
