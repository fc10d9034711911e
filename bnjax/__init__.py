"""bnjax: what an agent ends up doing when it learns with a wrong model of its world.

Exact Berk-Nash equilibria and rationalizable sets of misspecified learning problems, as pure
functions of pytrees: one problem, or a million under `jax.vmap`.
"""

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
from .equilibrium import rationalizable as rationalizable
from .family import Family as Family
from .problem import FamilyProblem as FamilyProblem
from .problem import GaussianProblem as GaussianProblem
from .problem import Problem as Problem
from .problem import ReducedForm as ReducedForm

__version__ = "0.1.0"
