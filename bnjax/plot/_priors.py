"""Priors before and after a design, over the parameters of the models."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..design import DesignResult
from ..design._named import parameter_names
from ._cells import cell_edges
from ._page import dress
from ._runs import runs
from ._style import FONT, LINE

_BEFORE, _AFTER, _OUT = "#D55E00", "#00517F", "#CFCFCF"
_COLOURS, _DASHES = (_BEFORE, _AFTER), (0, (4, 1.5))
_HATCHES = "///", ""


class Prior(NamedTuple):
    """A prior over M models: theta [M, D], its weights [M], and which models it keeps [M]."""

    theta: np.ndarray
    weight: np.ndarray
    kept: np.ndarray


def priors_of(result: DesignResult) -> tuple[Prior, Prior]:
    """The reference's, and that of the hard design, in the middle of the box."""
    situation = result.situation
    dtype = jnp.result_type(float)
    box = situation.environments.box
    middle = {name: jnp.asarray(0.5 * (a + b), dtype) for name, (a, b) in box.items()}
    before = eqx.filter_jit(situation.learner)(situation.reference, middle)[1]
    after = result.learner()[0]
    return _prior(before), _prior(after)


def _prior(problem: Any) -> Prior:
    weight = np.exp(np.asarray(problem.log_prior, float))
    return Prior(np.asarray(problem.theta, float), weight, np.asarray(problem.support))


def draw_priors(figure: SubFigure, result: DesignResult) -> None:
    """Both priors: curves over one parameter, maps over two, or by the number of the model."""
    pair = priors_of(result)
    names = parameter_names(result)
    if len(names) == 2:
        _draw_maps(figure, pair, names)
        return
    ax = figure.subplots()
    ax.set_title("(b) prior", fontsize=FONT, loc="left")
    if len(names) == 1:
        handles = _draw_curves(ax, pair)
        dress(ax, names[0], "prior weight", 12)
    else:
        handles = _draw_by_number(ax, pair)
        dress(ax, "number of the model", "prior weight", 12)
    ax.set_ylim(bottom=0)
    if not pair[1].kept.all():
        handles.append(Patch(color=_OUT, lw=0, label="ruled out"))
    ax.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        fontsize=FONT,
        frameon=False,
        handlelength=1.0,
        handletextpad=0.3,
        columnspacing=0.6,
        borderaxespad=0.1,
        borderpad=0.0,
    )


def _draw_curves(ax: Axes, pair: tuple[Prior, Prior]) -> list[Artist]:
    """Steps over the one parameter, half-way to the neighbours wide."""
    # Dashes above the solid line: where both are one, both show.
    for prior, colour, dashes in zip(pair[::-1], _COLOURS[::-1], ("solid", _DASHES), strict=True):
        order = np.argsort(prior.theta[:, 0], kind="stable")
        at, height = prior.theta[order, 0], prior.weight[order]
        if len(np.unique(at)) == len(at) > 1:
            edges = cell_edges(at)
            edges[[0, -1]] = at[[0, -1]]
            ax.stairs(height, edges, baseline=None, color=colour, ls=dashes, lw=LINE, zorder=3)
            if colour == _AFTER:
                ax.stairs(height, edges, color=colour, fill=True, alpha=0.15, lw=0)
                for start, stop in runs(prior.kept[order]):
                    if not prior.kept[order][start]:
                        ax.axvspan(edges[start], edges[stop], color=_OUT, lw=0, zorder=0)
        else:
            ax.vlines(at, 0, height, color=colour, ls=dashes, lw=LINE)
    ends = np.concatenate([prior.theta[:, 0] for prior in pair])
    if np.ptp(ends):
        ax.set_xlim(ends.min(), ends.max())
    return [
        Line2D([], [], color=_BEFORE, lw=LINE, ls=_DASHES, label="before"),
        Line2D([], [], color=_AFTER, lw=LINE, label="after"),
    ]


def _draw_by_number(ax: Axes, pair: tuple[Prior, Prior]) -> list[Artist]:
    """Two bars for each model."""
    for prior, colour, hatch, side in zip(pair, _COLOURS, _HATCHES, (-1, 1), strict=True):
        at = np.arange(len(prior.weight)) + 0.2 * side
        ax.bar(at, prior.weight, 0.4, color=colour, hatch=hatch, edgecolor="white", lw=0)
    for model in np.flatnonzero(~pair[1].kept):
        ax.axvspan(model - 0.5, model + 0.5, color=_OUT, lw=0, zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", lw=0, label=name)
        for name, colour, hatch in zip(("before", "after"), _COLOURS, _HATCHES, strict=True)
    ]


def _draw_maps(figure: SubFigure, pair: tuple[Prior, Prior], names: list[str]) -> None:
    """A dot for each model, as dark as it is heavy."""
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    most = max(float(prior.weight.max()) for prior in pair)
    dots = None
    for ax, prior, name in zip(panels, pair, ("before", "after"), strict=True):
        ax.scatter(*prior.theta[~prior.kept].T, s=1.5, color=_OUT, lw=0)
        dots = ax.scatter(
            *prior.theta[prior.kept].T,
            s=5,
            c=prior.weight[prior.kept],
            cmap="viridis_r",
            vmin=0,
            vmax=most,
            lw=0,
        )
        dress(ax, "", "")
        ax.set_title(f"(b) prior {name}" if name == "before" else name, fontsize=FONT, loc="left")
    assert dots is not None
    figure.supxlabel(names[0], fontsize=FONT + 1)
    panels[0].set_ylabel(textwrap.fill(names[1], 14), fontsize=FONT + 1)
    bar = figure.colorbar(dots, ax=panels, fraction=0.06, pad=0.02)
    bar.set_label("prior weight", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT, length=2.5, width=0.6)
