"""Very large runs, which survive interruptions: a function in every cell of a grid."""

from ._program import CellStatus as CellStatus
from ._read import read as read
from ._status import SweepStatus as SweepStatus
from ._status import failed as failed
from ._status import status as status
from ._sweep import sweep as sweep

__all__ = ["CellStatus", "SweepStatus", "failed", "read", "status", "sweep"]
