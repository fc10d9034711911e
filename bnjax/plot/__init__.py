"""Figures, with matplotlib: phase diagrams, branches, best fits, populations, designs, sweeps.

Every function builds a `matplotlib.figure.Figure` of its own, at the width of a journal's
column, or draws into the axes it is given, and returns the figure; neither `pyplot` nor
`rcParams` is touched. Colours and hatching keep their meaning from figure to figure, and
survive colour blindness and grey printing.
"""

from ._best_fits import best_fit_curve as best_fit_curve
from ._branches import bifurcation as bifurcation
from ._design import design as design
from ._diagram import phase_diagram as phase_diagram
from ._divergences import divergences as divergences
from ._fronts import designs as designs
from ._fronts import pareto as pareto
from ._learning import learning as learning
from ._simulated import simulated_diagram as simulated_diagram
from ._style import COLUMN as COLUMN
from ._style import PAGE as PAGE
from ._style import PHASE_STYLES as PHASE_STYLES
from ._style import PhaseStyle as PhaseStyle
from ._sweep import sweep as sweep

__all__ = [
    "COLUMN",
    "PAGE",
    "PHASE_STYLES",
    "PhaseStyle",
    "best_fit_curve",
    "bifurcation",
    "design",
    "designs",
    "divergences",
    "learning",
    "pareto",
    "phase_diagram",
    "simulated_diagram",
    "sweep",
]
