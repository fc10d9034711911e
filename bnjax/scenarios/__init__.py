"""Ready-made problems: pure functions of scalars, so that a phase diagram is a `vmap`.

Each says which claim of which paper it carries.
"""

from ._coin import coin as coin
from ._deception import deception as deception
from ._hallucination import hallucination as hallucination
from ._monopolist import monopolist as monopolist
from ._overconfidence import overconfidence as overconfidence
from ._sycophancy import sycophancy as sycophancy

__all__ = [
    "coin",
    "deception",
    "hallucination",
    "monopolist",
    "overconfidence",
    "sycophancy",
]
