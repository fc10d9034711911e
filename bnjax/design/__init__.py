"""Design: how what learners do depends on what they believe at first, and what to do about it."""

from ._lives import Life as Life
from ._score import ScoreGradient as ScoreGradient
from ._score import expected as expected
from ._score import score_gradient as score_gradient
