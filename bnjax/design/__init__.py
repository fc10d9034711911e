"""Design: how what learners do depends on what they believe at first, and what to do about it."""

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
from ._lives import Life as Life
from ._optimize import NonfiniteObjectiveError as NonfiniteObjectiveError
from ._optimize import optimize as optimize
from ._results import DesignResult as DesignResult
from ._results import History as History
from ._score import ScoreGradient as ScoreGradient
from ._score import expected as expected
from ._score import score_gradient as score_gradient
