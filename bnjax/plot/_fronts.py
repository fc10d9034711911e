"""Designs beside one another: what safety costs, and what each kind of design earns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ..design import DesignResult, ParetoFront
from ._design import check_result
from ._page import canvas, dress, legend_below
from ._style import COLUMN, FONT, LINE

_MEAN, _WORST, _REFERENCE = "#00517F", "#D55E00", "#000000"
_CHARACTER = 0.02  # width of one, of the axes
_NAMED = 5  # weights that are written beside their designs
_MEASURES: dict[str, dict[str, Any]] = {
    "safe share, mean": {"marker": "o", "color": _MEAN},
    "safe share, worst": {"marker": "o", "color": _MEAN, "markerfacecolor": "white"},
    "share of environments in the safe phase": {"marker": "s", "color": "#4B2A85"},
    "simulated safe share, worst": {"marker": "^", "color": _WORST},
}


def pareto(front: ParetoFront, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw a front: safety against cost, or against payoff.

    Parameters
    ----------
    front : what `bnjax.design.pareto` returns.
    title : above the front.
    ax : axes to draw into. Default: a new figure, one column wide.

    Returns
    -------
    matplotlib.figure.Figure
        Efficient designs are joined, with some of their weights beside them; others are
        crosses. Dots are means over the environments, and open triangles the worst of them.

    Raises
    ------
    ValueError
        If it is no front.
    """
    if not isinstance(front, ParetoFront):
        raise ValueError(
            f"`front` must be what bn.design.pareto returns; got {type(front).__name__}."
        )
    figure, ax, _ = canvas(ax, COLUMN, 3.1)
    cost = front.against == "cost"
    at = front.cost if cost else front.payoff
    chosen = np.flatnonzero(front.efficient)
    chosen = chosen[np.argsort(at[chosen], kind="stable")]
    worst = {"marker": "v", "color": _WORST, "markerfacecolor": "white", "ms": 4, "lw": 0.7}
    ax.plot(at[chosen], front.worst_share[chosen], ls=(0, (4, 2)), zorder=2, **worst)
    mean = {"marker": "o", "color": _MEAN, "ms": 4, "lw": LINE}
    ax.plot(at[chosen], front.safe_share[chosen], zorder=3, **mean)
    handles = [
        Line2D([], [], label="mean over environments", **mean),
        Line2D([], [], label="worst environment", ls=(0, (4, 2)), **worst),
    ]
    if not front.efficient.all():
        beaten = {"marker": "x", "color": "#808080", "ms": 4, "ls": ""}
        ax.plot(at[~front.efficient], front.safe_share[~front.efficient], zorder=2, **beaten)
        handles.append(Line2D([], [], label="beaten by another", **beaten))
    first = front.reference
    place = float(first.cost) if cost else float(np.asarray(first.payoff).mean())
    mark = {"marker": "D", "color": _REFERENCE, "ms": 5, "ls": "", "markerfacecolor": "white"}
    share = float(np.asarray(first.safe_share).mean())
    ax.plot([place], [share], zorder=4, clip_on=False, **mark)
    handles.append(Line2D([], [], label="reference", **mark))
    # Enough room at the sides for the weights.
    ax.margins(x=0.16)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_ylim(-0.05, 1.08)
    _name_weights(ax, at[chosen], front.safe_share[chosen], front.weights[chosen])
    dress(ax, "cost of the design" if cost else "mean payoff", "safe share")
    if title:
        ax.set_title(title, fontsize=FONT)
    legend_below(ax, handles, columns=2)
    return figure


def _name_weights(ax: Axes, at: np.ndarray, share: np.ndarray, weights: np.ndarray) -> None:
    """Write a few weights beside their designs, far enough from one another to be read."""
    spread = np.ptp([*ax.get_xlim()]), np.ptp([*ax.get_ylim()])
    places = np.stack([at / spread[0], share / spread[1]], -1)
    written: list[tuple[float, float, float]] = []  # ends along x, and height
    # The ends first: the rest is between them.
    order = [0, len(at) - 1, *range(1, len(at) - 1)]
    for index in order[: len(at)]:
        same = weights[np.abs(places - places[index]).max(1) < 1e-3]
        ends = dict.fromkeys(f"{x:.2g}" for x in (same.min(), same.max()))
        text = f"{'' if written else 'weight '}{' to '.join(ends)}"
        across = (at[index] - ax.get_xlim()[0]) / spread[0]
        side = "left" if across < 0.2 else "right" if across > 0.8 else "center"
        width = _CHARACTER * len(text)
        low = across - {"left": 0, "center": 0.5, "right": 1}[side] * width
        height = places[index, 1]
        clear = all(
            low > right or low + width < left or abs(height - other) > 0.1
            for left, right, other in written
        )
        if len(written) < _NAMED and clear:
            written.append((low - 0.01, low + width + 0.01, height))
            ax.annotate(
                text,
                (at[index], share[index]),
                (0, -5),
                textcoords="offset points",
                fontsize=FONT,
                color=_MEAN,
                ha=side,
                va="top",
                path_effects=[withStroke(linewidth=2.0, foreground="white")],
                zorder=4,
            )


def designs(results: Mapping[str, DesignResult], *, title: str | None = None) -> Figure:
    """Draw designs side by side: how safe each makes its learners, and what it has earned.

    Parameters
    ----------
    results : of `bnjax.design.optimize`, by name; such as of a reward beside those of priors.
    title : above the figure.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each, below that of the reference of the first: shares of safe play in the
        environments of the search, share of the environments of the certificates in the safe phase,
        and safe share of simulated learners in the worst of them, with the 99 % interval for the
        probability that one of these plays safe (`bnjax.design.StatisticalCertificate`). At the
        right, in words, is the certificate that each has earned.

    Raises
    ------
    ValueError
        If these are not such results, by name.
    """
    if not isinstance(results, Mapping) or not results:
        raise ValueError(f"`results` must be results by name, at least one; got {results!r}.")
    for name, result in results.items():
        check_result(f"results[{name!r}]", result)
    first = next(iter(results.values()))
    rows = [("reference", _measures(first, before=True), _interval(first, before=True), "")]
    rows += [(name, _measures(r), _interval(r), r.earned) for name, r in results.items()]
    figure = Figure(figsize=(COLUMN, 1.5 + 0.42 * len(rows)), layout="constrained")
    ax = figure.add_subplot()
    across = ax.get_yaxis_transform()
    ax.text(1.05, -0.05, "certificate\nearned:", transform=across, fontsize=FONT, va="center")
    for row, (_, values, interval, earned) in enumerate(rows):
        if row:
            ax.axhline(row - 0.5, color="#CFCFCF", lw=0.6, zorder=0)
        for number, (style, value) in enumerate(zip(_MEASURES.values(), values, strict=True)):
            ax.plot(
                [value], [row + 0.2 * number - 0.3], ls="", ms=4, clip_on=False, zorder=3, **style
            )
        # At the height of the last mark.
        ax.plot(interval, [row + 0.3] * 2, color=_WORST, lw=LINE, marker="|", ms=5, clip_on=False)
        if earned:
            ax.text(1.05, row, earned, transform=across, fontsize=FONT, va="center")
    dress(ax, "share", "")
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    if title:
        ax.set_title(title, fontsize=FONT)
    handles = [Line2D([], [], ls="", ms=4, label=k, **style) for k, style in _MEASURES.items()]
    label = "99% interval, worst: agents that play safe"
    handles.append(Line2D([], [], color=_WORST, lw=LINE, marker="|", ms=5, label=label))
    legend_below(ax, handles, columns=1)
    return figure


def _measures(result: DesignResult, before: bool = False) -> tuple[float, ...]:
    found = result.before if before else result.after
    share = np.asarray(found.safe_share, float)
    support = result.support_before if before else result.support
    statistical = result.statistical_before if before else result.statistical
    return share.mean(), share.min(), support.share, float(statistical.safe_share.min())


def _interval(result: DesignResult, before: bool = False) -> list[float]:
    """For the probability that an agent plays safe, in the worst environment."""
    statistical = result.statistical_before if before else result.statistical
    worst = np.unravel_index(statistical.low.argmin(), statistical.low.shape)
    return [float(statistical.low[worst]), float(statistical.high[worst])]
