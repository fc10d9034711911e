"""Sizes, colours, dashes and hatching, which keep their meaning from figure to figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib import colormaps

from ..equilibrium import Phase

COLUMN, PAGE = 3.5, 7.0  # widths of one and of two journal columns, inches
FONT = 8.0  # points, at the size of the figure: the least that journals print
LINE = 1.4
DOT = 4.5


class PhaseStyle(NamedTuple):
    """How a phase is drawn: fill, hatching (sparse), colour of the hatching and of text."""

    fill: str
    hatch: str
    ink: str
    text: str


# Lightness (CIE L*) falls in steps of at least 8 from INVALID (100) to OSCILLATORY (26), so that
# grey printing keeps the phases apart; hues keep them apart for dichromats.
PHASE_STYLES: Mapping[Phase, PhaseStyle] = {
    Phase.SAFE: PhaseStyle("#8FD0F5", "", "#5FA8D3", "black"),
    Phase.UNSAFE: PhaseStyle("#B33C00", "//", "#D98A63", "white"),
    Phase.MULTISTABLE: PhaseStyle("#F5EA6B", ".", "#A89B1C", "black"),
    Phase.OSCILLATORY: PhaseStyle("#4B2A85", "\\\\", "#8E76BB", "white"),
    Phase.INDETERMINATE: PhaseStyle("#E0951A", "-", "#9C6200", "black"),
    Phase.UNDECIDED: PhaseStyle("#808080", "x", "#B5B5B5", "white"),
    Phase.INVALID: PhaseStyle("#FFFFFF", "xx", "#B0B0B0", "black"),
}
# Actions, in order: colours of Okabe and Ito (2008) or darker, and dashes for grey printing.
ACTION_COLOURS = ("#D55E00", "#00517F", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (4, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (1, 1)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    "solid",
)


def action_style(action: int, num_actions: int) -> tuple[Any, Any]:
    if num_actions <= len(ACTION_COLOURS):
        return ACTION_COLOURS[action], DASHES[action]
    return colormaps["cividis"](action / (num_actions - 1)), "solid"


def is_named(action: int, num_actions: int) -> bool:
    """Whether the legend names an action: with many, only the ends and the middle."""
    few = num_actions <= len(ACTION_COLOURS)
    return few or action in (0, num_actions // 2, num_actions - 1)
