"""Design: priors, and whatever else a designer can change, under which learners end up safe.

`optimize` searches for a design by gradients and certifies what it finds, `pareto` finds what
safety costs, and `table` puts designs side by side.

- Designs: `LogPrior`, `BetaPrior` and `GaussianPrior` weigh models, `SupportBounds` rules them out,
  `Width` and `Argument` set arguments of the scenario, `Exploration` sets trembles, `RewardScale`
  and `RewardBonus` what is paid, `Together` does several of these; `AbstractDesign` and
  `AbstractPriorDesign` are for your own, with the help of `with_prior` and `divergence`.
- Results: a `DesignResult` has an `Evaluation` before and after, the `History` of the search, and
  two certificates: `SupportCertificate`, by exact phases, and `StatisticalCertificate`, by
  simulated play; its `Situation` is what learners are made of. A `ParetoFront` has one design for
  each weight. `Objective` says what is looked for; `NonfiniteObjectiveError` is raised where it is
  no number.
- Gradients of simulated lives: `expected` is the mean of a function of a `Life`, with derivatives
  by the score function, which `score_gradient` returns with its standard error (`ScoreGradient`).
"""

from ._certificates import StatisticalCertificate as StatisticalCertificate
from ._certificates import SupportCertificate as SupportCertificate
from ._designs import AbstractDesign as AbstractDesign
from ._designs import AbstractPriorDesign as AbstractPriorDesign
from ._designs import Argument as Argument
from ._designs import BetaPrior as BetaPrior
from ._designs import Exploration as Exploration
from ._designs import GaussianPrior as GaussianPrior
from ._designs import LogPrior as LogPrior
from ._designs import RewardBonus as RewardBonus
from ._designs import RewardScale as RewardScale
from ._designs import SupportBounds as SupportBounds
from ._designs import Together as Together
from ._designs import Width as Width
from ._designs import divergence as divergence
from ._designs import with_prior as with_prior
from ._evaluate import Evaluation as Evaluation
from ._evaluate import Objective as Objective
from ._evaluate import Situation as Situation
from ._lives import Life as Life
from ._optimize import NonfiniteObjectiveError as NonfiniteObjectiveError
from ._optimize import optimize as optimize
from ._pareto import ParetoFront as ParetoFront
from ._pareto import pareto as pareto
from ._pareto import table as table
from ._results import DesignResult as DesignResult
from ._results import History as History
from ._score import ScoreGradient as ScoreGradient
from ._score import expected as expected
from ._score import score_gradient as score_gradient

__all__ = [
    "AbstractDesign",
    "AbstractPriorDesign",
    "Argument",
    "BetaPrior",
    "DesignResult",
    "Evaluation",
    "Exploration",
    "GaussianPrior",
    "History",
    "Life",
    "LogPrior",
    "NonfiniteObjectiveError",
    "Objective",
    "ParetoFront",
    "RewardBonus",
    "RewardScale",
    "ScoreGradient",
    "Situation",
    "StatisticalCertificate",
    "SupportBounds",
    "SupportCertificate",
    "Together",
    "Width",
    "divergence",
    "expected",
    "optimize",
    "pareto",
    "score_gradient",
    "table",
    "with_prior",
]
