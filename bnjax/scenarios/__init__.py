"""Ready-made problems: pure functions of scalars, so that a phase diagram is a `vmap`.

Each file says which claim of which paper it carries.
"""

from .coin import coin as coin
from .deception import deception as deception
from .hallucination import hallucination as hallucination
from .monopolist import monopolist as monopolist
from .overconfidence import overconfidence as overconfidence
from .sycophancy import sycophancy as sycophancy

__all__ = [
    "coin",
    "deception",
    "hallucination",
    "monopolist",
    "overconfidence",
    "sycophancy",
]
