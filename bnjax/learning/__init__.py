"""Given a problem, a prior and a key: what learners do, one by one and on average."""

from ._agent import Agent as Agent
from ._agent import AgentState as AgentState
from ._agent import Step as Step
from ._basins import Basins as Basins
from ._basins import basins as basins
from ._best_fit import BestFitDynamics as BestFitDynamics
from ._best_fit import best_fit_dynamics as best_fit_dynamics
from ._mean_field import mean_field as mean_field
from ._mean_field_result import MeanField as MeanField
from ._mean_field_result import Motion as Motion
from ._outcome import Outcome as Outcome
from ._outcome import Share as Share
from ._record import Running as Running
from ._record import Snapshot as Snapshot
from ._record import Trajectory as Trajectory
from ._results import Simulation as Simulation
from ._simulate import simulate as simulate
