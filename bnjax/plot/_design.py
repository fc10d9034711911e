"""Designs: the phases of the environments, the prior and the search, before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from ..design import DesignResult, SupportCertificate
from ..equilibrium import Phase
from ._cells import cell_edges
from ._diagram import draw_borders, draw_cells, phase_patch, share_text
from ._page import dress, frame_cells
from ._priors import draw_priors
from ._regions import name_regions
from ._style import FONT, LINE, PAGE, PHASE_STYLES

_SEARCH = {"objective": "#000000", "safe share": "#00517F"}
_WIDTHS = 4.1, 2.9  # inches: of phases, and of what is beside them


def design(result: DesignResult, *, title: str | None = None) -> Figure:
    """Draw what a search for a design has found: before and after, the prior, and the search.

    Parameters
    ----------
    result : what `bnjax.design.optimize` returns.
    title : above what the design has earned.

    Returns
    -------
    matplotlib.figure.Figure
        Two columns wide. (a) Phases of the environments of the certificates under the
        reference and under the hard design: a diagram over two sides of the box, a strip along
        one, and shares of the environments with more, or with one environment. (b) The prior in the
        middle of the box, before and after, over the models' parameters (over their numbers, if
        they have none or more than two); grey is what the hard design rules out. (c) The objective
        of the search (if nothing else was asked for, the mean safe share less a hundredth of the
        cost) and the safe share at each of its steps, of the best start thick and of the others
        thin.

    Raises
    ------
    ValueError
        If it is not such a result.
    """
    check_result("result", result)
    sides = len(result.support.axes)
    titles = textwrap.wrap(title or "", 100)
    height = (3.7 if sides == 2 else 3.5) + 0.17 * len(titles)
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=_WIDTHS, wspace=0.02, squeeze=False)[0]
    upper, lower = right.subfigures(2, 1, height_ratios=[1.0, 1.25], squeeze=False)[:, 0]
    named = _draw_phases(left, result)
    draw_priors(upper, result)
    _draw_search(lower, result)
    earned = result.headline
    lines = [*titles, *textwrap.wrap(earned, 100)]
    above = figure.suptitle("\n".join(lines), fontsize=FONT + 1)
    if result.earned == "none":
        above.set(color=PHASE_STYLES[Phase.UNSAFE].fill, fontweight="bold")
    figure.draw_without_rendering()
    for ax, *cells in named:
        name_regions(figure, ax, *cells)
    return figure


def check_result(name: str, result: object) -> None:
    """Refuse what is no result of a search."""
    if not isinstance(result, DesignResult):
        raise ValueError(
            f"`{name}` must be what bn.design.optimize returns; got {type(result).__name__}."
        )


def heading(ax: Axes, letter: str, text: str) -> None:
    """Letter and text at the left above a panel."""
    ax.set_title(f"({letter}) {text}" if letter else text, fontsize=FONT, loc="left")


# Phases


def _draw_phases(figure: SubFigure, result: DesignResult) -> list[tuple]:
    """Phases before and after; returns what their regions are named by, panel by panel."""
    pair = result.support_before, result.support
    codes = [np.asarray(c.phase, int) for c in pair]
    present = [code for code in Phase if any((c == code).any() for c in codes)]
    axes = result.support.axes
    if len(axes) in (1, 2):
        named = _draw_diagrams(figure, pair, codes, present)
    else:
        _draw_shares(figure, codes, present, len(axes))
        named = []
    handles: list[Artist] = [phase_patch(code, code.name.lower()) for code in present]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=FONT, frameon=False
    )
    return named


def _draw_diagrams(
    figure: SubFigure,
    pair: Sequence[SupportCertificate],
    codes: Sequence[np.ndarray],
    present: Sequence[Phase],
) -> list[tuple]:
    """Diagrams side by side, or strips one above the other."""
    x, y = [*pair[0].axes, None][:2]
    axis_x = pair[0].axes[x]
    axis_y = np.zeros(1) if y is None else pair[0].axes[y]
    shape = (2, 1) if y is None else (1, 2)
    panels = figure.subplots(*shape, sharex=True, sharey=True).ravel()
    edges = _within(axis_x), cell_edges(axis_y) if y is None else _within(axis_y)
    named = []
    for ax, name, grid in zip(panels, ("before", "after"), codes, strict=True):
        grid = np.atleast_2d(grid.T)
        draw_cells(ax, *edges, grid, present)
        draw_borders(ax, *edges, grid)
        frame_cells(ax, x, axis_x, y, axis_y, [])
        ax.set_aspect("auto")  # as high as what stands beside them
        ax.set_xlim(*edges[0][[0, -1]])
        ax.set_ylim(*edges[1][[0, -1]])
        _head(ax, name, grid)
        named.append((ax, *edges, grid, present))
    for ax in panels:
        ax.label_outer()
    return named


def _within(axis: np.ndarray) -> np.ndarray:
    """Edges of cells, of which the first and the last end where the box does."""
    edges = cell_edges(axis)
    edges[[0, -1]] = axis[[0, -1]]
    return edges


def _head(ax: Axes, name: str, codes: np.ndarray) -> None:
    letter = "a" if name == "before" else ""
    heading(ax, letter, f"{name}: {share_text(codes == Phase.SAFE)} safe")


def _draw_shares(
    figure: SubFigure, codes: Sequence[np.ndarray], present: Sequence[Phase], sides: int
) -> None:
    """Bars of the shares of the phases; with one environment, all of the bar is its phase."""
    ax = figure.subplots()
    for row, grid in enumerate(codes):
        start = 0.0
        for code in present:
            share = float((grid == code).mean())
            style = PHASE_STYLES[code]
            (bar,) = ax.barh(
                row,
                share,
                left=start,
                height=0.6,
                color=style.fill,
                hatch=style.hatch,
                edgecolor=style.ink,
                linewidth=0,
            )
            bar.set_hatch_linewidth(0.5)
            start += share
        ax.add_patch(Rectangle((0, row - 0.3), 1, 0.6, fill=False, lw=0.6))
    dress(ax, "share of the environments", "")
    ax.set_yticks([0, 1], ["before", "after"])
    ax.set_xlim(0, 1)
    ax.set_ylim(1.5, -0.5)
    about = f"environments over {sides} sides" if sides else "the one environment"
    heading(ax, "a", f"phases, {about}")


# The search


def _draw_search(figure: SubFigure, result: DesignResult) -> None:
    """Objective and safe share of every start, step by step."""
    panels = figure.subplots(2, 1, sharex=True)
    history = result.history
    curves = np.asarray(history.objective), np.asarray(history.safe_share)
    for ax, name, values in zip(panels, _SEARCH, curves, strict=True):
        steps = np.arange(values.shape[1])
        for start, path in enumerate(values):
            best = start == result.best
            style = {"lw": LINE, "zorder": 3} if best else {"lw": 0.5, "alpha": 0.6}
            ax.plot(steps, path, color=_SEARCH[name], **style)
        dress(ax, "", name, 9)
        ax.yaxis.label.set_fontsize(FONT)
        ax.set_xlim(0, max(values.shape[1] - 1, 1))
    panels[1].set_ylim(-0.06, 1.06)
    panels[1].set_xlabel("step", fontsize=FONT + 1)
    heading(panels[0], "c", _starts(len(curves[0])))
    figure.align_ylabels()


def _starts(number: int) -> str:
    return "one start" if number == 1 else f"{number} starts, best thick"
