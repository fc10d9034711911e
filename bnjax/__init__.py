"""bnjax: what an agent ends up doing when it learns with a wrong model of its world.

Exact Berk-Nash equilibria and rationalizable sets of misspecified learning problems, as pure
functions of pytrees: one problem, or a million under `jax.vmap`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import scenarios as scenarios
from .equilibrium import Certainty as Certainty
from .equilibrium import Certificate as Certificate
from .equilibrium import Equilibria as Equilibria
from .equilibrium import Phase as Phase
from .equilibrium import Rationalizable as Rationalizable
from .equilibrium import Stability as Stability
from .equilibrium import Witness as Witness
from .equilibrium import certify as certify
from .equilibrium import equilibria as equilibria
from .equilibrium import phase as phase
from .equilibrium import phase_diagram as phase_diagram
from .equilibrium import rationalizable as rationalizable
from .family import Family as Family
from .problem import FamilyProblem as FamilyProblem
from .problem import GaussianProblem as GaussianProblem
from .problem import Problem as Problem
from .problem import ReducedForm as ReducedForm

if TYPE_CHECKING:
    from . import plot as plot

__all__ = [
    "Certainty",
    "Certificate",
    "Equilibria",
    "Family",
    "FamilyProblem",
    "GaussianProblem",
    "Phase",
    "Problem",
    "Rationalizable",
    "ReducedForm",
    "Stability",
    "Witness",
    "certify",
    "equilibria",
    "phase",
    "phase_diagram",
    "plot",
    "rationalizable",
    "scenarios",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `bnjax.plot`, and matplotlib with it, when it is first asked for."""
    if name == "plot":
        return importlib.import_module(".plot", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
