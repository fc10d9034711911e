"""Given a problem: its equilibria, rationalizable set, phase and certificate."""

from ._certify import Certificate as Certificate
from ._certify import Exclusion as Exclusion
from ._certify import Witness as Witness
from ._certify import certify as certify
from ._codes import Certainty as Certainty
from ._codes import Phase as Phase
from ._codes import SolveStatus as SolveStatus
from ._codes import Stability as Stability
from ._public import equilibria as equilibria
from ._public import phase as phase
from ._public import rationalizable as rationalizable
from ._results import Equilibria as Equilibria
from ._results import Rationalizable as Rationalizable
from ._smooth import smooth_equilibrium as smooth_equilibrium
from ._smooth import smooth_path as smooth_path
from ._smooth_results import SmoothEquilibrium as SmoothEquilibrium
from ._smooth_results import SmoothPath as SmoothPath
