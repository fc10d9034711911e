"""Given a problem, a prior and a key: what learners do, one by one and on average."""

from ._agent import Agent as Agent
from ._agent import AgentState as AgentState
from ._agent import Step as Step
from ._outcome import Outcome as Outcome
from ._outcome import Share as Share
from ._record import Running as Running
from ._record import Snapshot as Snapshot
from ._record import Trajectory as Trajectory
from ._results import Simulation as Simulation
from ._simulate import simulate as simulate
