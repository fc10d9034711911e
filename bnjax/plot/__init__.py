"""Figures, with matplotlib: phase diagrams, branches, best fits, populations, designs, sweeps.

Every function builds a `matplotlib.figure.Figure` of its own, at the width of a journal's
column, or draws into the axes it is given, and returns the figure; neither `pyplot` nor
`rcParams` is touched. Colours and hatching keep their meaning from figure to figure, and
survive colour blindness and grey printing.

`COLUMN` and `PAGE` are the widths of one and of two journal columns, in inches. `PHASE_STYLES` has
for each `bnjax.Phase` its `PhaseStyle`: fill, hatching, colour of the hatching, colour of text.

Examples
--------
>>> import bnjax as bn
>>> from matplotlib.figure import Figure
>>> figure = Figure(figsize=(bn.plot.PAGE, 3.0), layout="constrained")
>>> for ax, p_honest in zip(figure.subplots(1, 2), (0.4, 0.6)):
...     problem = bn.scenarios.sycophancy(0.7, p_honest).discretize(11)
...     _ = bn.plot.divergences(problem, ax=ax)
>>> figure.savefig("divergences.pdf")

Without ``ax`` each makes a figure: ``bn.plot.phase_diagram(dataset).savefig("phases.png")``.
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
