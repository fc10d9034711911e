"""bnjax: what an agent ends up doing when it learns with a wrong model of its world.

Exact Berk-Nash equilibria and rationalizable sets of misspecified learning problems, and
populations that learn in them, as pure functions of pytrees: one problem, or a million under
`jax.vmap`. `bnjax.scenarios` has problems ready made, `bnjax.design` finds safe priors,
`bnjax.sweep` runs very large grids, `bnjax.plot` draws.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import scenarios as scenarios
from . import sweeps as sweeps
from .belief import AbstractMemory as AbstractMemory
from .belief import DiscountedMemory as DiscountedMemory
from .belief import Observation as Observation
from .belief import PerfectMemory as PerfectMemory
from .belief import WindowMemory as WindowMemory
from .diagram import phase_diagram as phase_diagram
from .equilibrium import Certainty as Certainty
from .equilibrium import Certificate as Certificate
from .equilibrium import Equilibria as Equilibria
from .equilibrium import Exclusion as Exclusion
from .equilibrium import Phase as Phase
from .equilibrium import Rationalizable as Rationalizable
from .equilibrium import SmoothEquilibrium as SmoothEquilibrium
from .equilibrium import SmoothPath as SmoothPath
from .equilibrium import SolveStatus as SolveStatus
from .equilibrium import Stability as Stability
from .equilibrium import Witness as Witness
from .equilibrium import certify as certify
from .equilibrium import equilibria as equilibria
from .equilibrium import phase as phase
from .equilibrium import rationalizable as rationalizable
from .equilibrium import smooth_equilibrium as smooth_equilibrium
from .equilibrium import smooth_path as smooth_path
from .family import Family as Family
from .learning import Agent as Agent
from .learning import AgentState as AgentState
from .learning import Basins as Basins
from .learning import BestFitDynamics as BestFitDynamics
from .learning import MeanField as MeanField
from .learning import Motion as Motion
from .learning import Outcome as Outcome
from .learning import Running as Running
from .learning import Share as Share
from .learning import Simulation as Simulation
from .learning import Snapshot as Snapshot
from .learning import Step as Step
from .learning import Trajectory as Trajectory
from .learning import basins as basins
from .learning import best_fit_dynamics as best_fit_dynamics
from .learning import mean_field as mean_field
from .learning import simulate as simulate
from .problem import AbstractFiniteProblem as AbstractFiniteProblem
from .problem import AbstractProblem as AbstractProblem
from .problem import FamilyProblem as FamilyProblem
from .problem import GaussianProblem as GaussianProblem
from .problem import Problem as Problem
from .problem import ReducedForm as ReducedForm
from .response import AbstractPolicy as AbstractPolicy
from .response import BestResponse as BestResponse
from .response import EpsilonGreedy as EpsilonGreedy
from .response import Logit as Logit
from .response import ThompsonSampling as ThompsonSampling
from .sweeps import sweep as sweep

if TYPE_CHECKING:
    from . import design as design
    from . import plot as plot

__all__ = [
    "AbstractFiniteProblem",
    "AbstractMemory",
    "AbstractPolicy",
    "AbstractProblem",
    "Agent",
    "AgentState",
    "Basins",
    "BestFitDynamics",
    "BestResponse",
    "Certainty",
    "Certificate",
    "DiscountedMemory",
    "EpsilonGreedy",
    "Equilibria",
    "Exclusion",
    "Family",
    "FamilyProblem",
    "GaussianProblem",
    "Logit",
    "MeanField",
    "Motion",
    "Observation",
    "Outcome",
    "PerfectMemory",
    "Phase",
    "Problem",
    "Rationalizable",
    "ReducedForm",
    "Running",
    "Share",
    "Simulation",
    "SmoothEquilibrium",
    "SmoothPath",
    "Snapshot",
    "SolveStatus",
    "Stability",
    "Step",
    "ThompsonSampling",
    "Trajectory",
    "WindowMemory",
    "Witness",
    "basins",
    "best_fit_dynamics",
    "certify",
    "design",
    "equilibria",
    "mean_field",
    "phase",
    "phase_diagram",
    "plot",
    "rationalizable",
    "scenarios",
    "simulate",
    "smooth_equilibrium",
    "smooth_path",
    "sweep",
    "sweeps",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `bnjax.plot` (matplotlib) and `bnjax.design` (optax) when they are first asked for."""
    if name in ("design", "plot"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
