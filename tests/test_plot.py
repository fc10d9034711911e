"""Figures: what is in them, where it lies, and that it can be read; never pixels."""

import dataclasses
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

import bnjax as bn
from bnjax.plot._best_fits import _lower_envelope, _play_curve
from bnjax.plot._cells import borders
from bnjax.plot._priors import Prior, parameter_names

pytestmark = pytest.mark.usefixtures("quick_compilation")

Phase = bn.Phase
AXIS = np.linspace(0, 1, 21)


@pytest.fixture(autouse=True)
def leaves_no_trace():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def dataset(codes, axes, scenario="sycophancy", **attrs):
    coords = {name: np.asarray(values, float) for name, values in axes.items()}
    variable = (
        tuple(axes),
        np.asarray(codes, np.int8),
        {"flag_meanings": " ".join(Phase.__members__)},
    )
    return xr.Dataset({"phase": variable}, coords, {"scenario": scenario, "fixed": "{}"} | attrs)


def sycophancy_regimes(**attrs):
    """The four regimes of the theorem; ties go to the smaller phase."""
    first, second = np.meshgrid(AXIS > 0.5, AXIS > 0.5, indexing="ij")
    codes = np.select(
        [first & second, first, second],
        [Phase.MULTISTABLE, Phase.UNSAFE, Phase.SAFE],
        Phase.OSCILLATORY,
    )
    return dataset(codes, {"p_sycophantic": AXIS, "p_honest": AXIS}, **attrs)


def checkered():
    """Nine regions with every phase there is."""
    codes = np.kron(np.arange(9).reshape(3, 3) % len(Phase), np.ones((7, 7), int))
    return dataset(codes, {"p_sycophantic": AXIS, "p_honest": AXIS})


def mesh_of(ax) -> QuadMesh:
    (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return mesh


def legend_of(figure: Figure) -> list[str]:
    (legend,) = [
        legend for ax in figure.findobj(mpl.axes.Axes) if (legend := ax.get_legend()) is not None
    ]
    return [text.get_text() for text in legend.get_texts()]


def assert_readable(figure: Figure):
    """Nothing is cut off, and no letter is smaller than 8 points."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01
    assert width in (3.5, 7.0)
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 8


# The import.


def test_matplotlib_waits_until_it_is_needed():
    code = (
        "import sys, bnjax; assert 'matplotlib' not in sys.modules; bnjax.plot.phase_diagram; "
        "assert 'matplotlib.figure' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_still_errors():
    with pytest.raises(AttributeError, match="plots"):
        _ = bn.plots


# The colours.

# Machado, Oliveira and Fernandes (2009), full severity, linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def cielab(colour, seen=VISION["normal"]):
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = to_xyz @ np.clip(np.array(seen) @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_phases_differ_in_grey():
    lightness = sorted(cielab(style.fill)[0] for style in bn.plot.PHASE_STYLES.values())
    assert len(lightness) == len(Phase)
    assert np.diff(lightness).min() >= 8  # a step of 2 is just visible side by side


@pytest.mark.parametrize("vision", VISION)
def test_phases_differ_for_every_eye(vision):
    colours = [cielab(style.fill, VISION[vision]) for style in bn.plot.PHASE_STYLES.values()]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    assert min(apart) >= 20


@pytest.mark.parametrize("code", Phase)
def test_names_can_be_read_on_their_ground(code):
    style = bn.plot.PHASE_STYLES[code]
    luminance = [((cielab(colour)[0] + 16) / 116) ** 3 for colour in (style.fill, style.text)]
    contrast = (max(luminance) + 0.05) / (min(luminance) + 0.05)
    assert contrast >= 3.9  # WCAG asks for 3 from large letters, 4.5 from small ones


# Phase diagrams.


def test_cells_are_centred_at_their_coordinates():
    figure = bn.plot.phase_diagram(sycophancy_regimes())
    ax = figure.axes[0]
    mesh = mesh_of(ax)
    corners = mesh.get_coordinates()
    centres = 0.5 * (corners[1:, 1:] + corners[:-1, :-1])
    np.testing.assert_allclose(centres[..., 0], np.tile(AXIS, (21, 1)), atol=1e-12)
    np.testing.assert_allclose(centres[..., 1], np.tile(AXIS[:, None], (1, 21)), atol=1e-12)
    # Values of p_sycophantic run along x, hence along columns.
    np.testing.assert_array_equal(
        mesh.get_array().reshape(21, 21), sycophancy_regimes().phase.values.T
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("p_sycophantic", "p_honest")
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)
    assert ax.get_aspect() == 1
    assert_readable(figure)


def test_axes_of_other_kinds_show_every_cell_whole():
    codes = np.zeros((4, 3), int)
    data = dataset(codes, {"gain": [1, 2, 4, 8], "p_detect": [0.2, 0.4, 0.6]})
    ax = bn.plot.phase_diagram(data).axes[0]
    corners = mesh_of(ax).get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [0.5, 1.5, 3, 6, 10])
    assert ax.get_xlim() == (0.5, 10)
    np.testing.assert_allclose(ax.get_ylim(), [0.1, 0.7])
    assert ax.get_aspect() == "auto"


def test_dimensions_can_be_swapped():
    data = sycophancy_regimes()
    for chosen in ({"x": "p_honest"}, {"y": "p_sycophantic"}):
        ax = bn.plot.phase_diagram(data, **chosen).axes[0]
        assert ax.get_xlabel() == "p_honest"
        np.testing.assert_array_equal(mesh_of(ax).get_array().reshape(21, 21), data.phase)


def test_falling_coordinates_change_nothing():
    data = sycophancy_regimes()
    figure = bn.plot.phase_diagram(data.isel(p_honest=slice(None, None, -1)))
    assert figure.axes[0].get_ylim() == (0, 1)
    positions = [
        sorted((t.get_text(), *np.round(t.get_position(), 2)) for t in f.axes[0].texts)
        for f in (figure, bn.plot.phase_diagram(data))
    ]
    assert positions[0] == positions[1]


def test_legend_lists_the_phases_that_occur():
    assert legend_of(bn.plot.phase_diagram(sycophancy_regimes())) == [
        "safe (25%)",  # 110 of 441 cells
        "unsafe (25%)",
        "multistable (23%)",  # 100
        "oscillatory (27%)",  # 121
    ]


def test_every_phase_can_be_drawn():
    figure = bn.plot.phase_diagram(checkered())
    assert [entry.split()[0] for entry in legend_of(figure)] == [c.name.lower() for c in Phase]
    assert_readable(figure)


def test_a_cell_of_its_own_has_an_outline_and_a_line_of_cells_has_none():
    edges = np.arange(10.0)
    codes = np.select(
        [np.add.outer(np.arange(9), np.arange(9)) >= 9], [Phase.SAFE], Phase.UNSAFE
    ).astype(int)
    before = len(borders(edges, edges, codes))
    codes[2, 2] = codes[8, 4] = Phase.MULTISTABLE  # inside a region, and at the frame
    assert len(borders(edges, edges, codes)) == before + 4 + 3
    # The corner of a region, as where four regimes meet, but not a line of corners.
    codes[2, 2] = codes[8, 4] = Phase.UNSAFE
    codes[:2, :2] = codes[2, 2] = Phase.MULTISTABLE
    assert len(borders(edges, edges, codes)) == len(borders(edges, edges, codes.T))
    sides = {tuple(map(tuple, side)) for side in borders(edges, edges, codes)}
    assert {((2, 2), (2, 3)), ((2, 3), (3, 3))} <= sides
    line = np.where(np.eye(9, dtype=bool), Phase.OSCILLATORY, Phase.UNSAFE).astype(int)
    assert len(borders(edges, edges, line)) == 0


def test_small_shares_are_not_rounded_to_nothing():
    codes = np.zeros((50, 50), int)
    codes[3, 4] = Phase.INVALID
    figure = bn.plot.phase_diagram(dataset(codes, {"p_a": np.arange(50) / 50, "b": np.arange(50)}))
    assert legend_of(figure) == ["safe (>99%)", "invalid (0.04%)"]


@pytest.mark.parametrize("data", [sycophancy_regimes(), checkered()], ids=["four", "nine"])
def test_names_lie_inside_their_regions(data):
    figure = bn.plot.phase_diagram(data)
    ax = figure.axes[0]
    figure.draw_without_rendering()
    named = []
    for text in ax.texts:
        named.append(text.get_text())
        corners = text.get_window_extent().corners()
        for x, y in ax.transData.inverted().transform(corners):
            nearest = data.phase.sel(p_sycophantic=x, p_honest=y, method="nearest")
            assert Phase(int(nearest)).name.lower() == text.get_text()
    assert len(named) in (4, 9)
    assert {Phase[name.upper()] for name in named} == {Phase(c) for c in np.unique(data.phase)}


def test_narrow_regions_are_named_upright_and_tiny_ones_not_at_all():
    codes = np.zeros((21, 21), int)
    codes[:3] = Phase.UNSAFE  # a strip along y
    codes[10, 10] = Phase.UNSAFE
    figure = bn.plot.phase_diagram(dataset(codes, {"p_sycophantic": AXIS, "p_honest": AXIS}))
    names = {text.get_text(): text.get_rotation() for text in figure.axes[0].texts}
    assert names == {"safe": 0, "unsafe": 90}
    assert len(figure.axes[0].texts) == 2


def test_hatching_covers_its_region_and_no_more():
    ax = bn.plot.phase_diagram(sycophancy_regimes()).axes[0]
    patches = {p.get_hatch(): p for p in ax.patches if isinstance(p, PathPatch)}
    unsafe = patches[bn.plot.PHASE_STYLES[Phase.UNSAFE].hatch].get_path()
    inside = unsafe.contains_points([[0.9, 0.1], [0.53, 0.47]])
    outside = unsafe.contains_points([[0.1, 0.1], [0.9, 0.9], [0.52, 0.53], [0.1, 0.9]])
    assert inside.all()
    assert not outside.any()


def test_outlines_run_between_cells_of_different_phases():
    ax = bn.plot.phase_diagram(sycophancy_regimes()).axes[0]
    (outline,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    sides = np.array(outline.get_segments())
    on_border = np.isclose(sides, 0.525).all(1).any(1)  # half-way between 0.5 and 0.55
    assert on_border.all()
    assert len(sides) == 2 * 21


def test_a_line_of_single_cells_is_not_covered_by_outlines():
    codes = np.where(np.tri(21, k=-1), Phase.UNSAFE, Phase.SAFE)
    axes = {"p_sycophantic": AXIS, "p_honest": AXIS}

    def outlines(codes):
        ax = bn.plot.phase_diagram(dataset(codes, axes)).axes[0]
        return [len(c.get_segments()) for c in ax.collections if isinstance(c, LineCollection)]

    assert outlines(codes) == [2 * 18]  # the tips of both triangles are single cells
    codes[np.diag_indices(21)] = Phase.MULTISTABLE
    assert sum(outlines(codes)) == 0


def test_one_dimension_makes_a_strip():
    data = sycophancy_regimes().isel(p_honest=20)
    figure = bn.plot.phase_diagram(data, boundaries=True)
    ax = figure.axes[0]
    assert mesh_of(ax).get_coordinates().shape == (2, 22, 2)
    assert len(ax.get_yticks()) == 0
    assert [text.get_text() for text in ax.texts] == ["safe", "multistable"]
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), 0.5)
    assert_readable(figure)


def lines_of(data) -> list[np.ndarray]:
    return [
        line.get_xydata() for line in bn.plot.phase_diagram(data, boundaries=True).axes[0].lines
    ]


def test_boundaries_of_the_trap():
    upright, level = lines_of(sycophancy_regimes())
    np.testing.assert_allclose(upright[:, 0], 0.5, atol=1e-12)
    np.testing.assert_allclose(level[:, 1], 0.5, atol=1e-12)
    for line, along in ((upright, 1), (level, 0)):
        assert np.ptp(line[:, along]) == 1


def test_boundaries_of_hallucination_are_the_same():
    data = sycophancy_regimes(scenario="hallucination")
    data = data.rename(p_sycophantic="p_fabricate", p_honest="p_abstain")
    for line, known in zip(lines_of(data), lines_of(sycophancy_regimes()), strict=True):
        np.testing.assert_array_equal(line, known)


def test_boundary_of_the_correct_model():
    fixed = '{"width": 1.0}'
    (line,) = lines_of(sycophancy_regimes(fixed=fixed, exploration=0.1))
    np.testing.assert_allclose(line[:, 0], line[:, 1], atol=1e-12)
    # Without exploration everything is rationalizable everywhere.
    assert lines_of(sycophancy_regimes(fixed=fixed)) == []


def test_exploration_turns_the_boundaries_of_the_trap():
    rare = 0.15
    for line, (often, seldom) in zip(
        lines_of(sycophancy_regimes(exploration=2 * rare)), [(0, 1), (1, 0)], strict=True
    ):
        # The best fit to (nearly) always playing one action is 1/2.
        believed = (1 - rare) * line[:, often] + rare * (1 - line[:, seldom])
        np.testing.assert_allclose(believed, 0.5, atol=1e-9)


def test_boundaries_where_the_threshold_of_deception_lies():
    codes = np.zeros((21, 21), int)  # what is computed does not matter for the theory
    data = dataset(
        codes,
        {"p_detect": AXIS, "detect_upper": AXIS},
        "deception",
        fixed='{"gain": 2.0, "honest_payoff": 1.1}',
    )
    threshold = (2.0 - 1.1) / (2.0 + 1.0)
    level, upright = lines_of(data)
    np.testing.assert_allclose(level[:, 1], threshold, atol=1e-9)
    np.testing.assert_allclose(upright[:, 0], threshold, atol=1e-9)
    # The truth matters only to an agent that can imagine both.
    assert threshold <= upright[:, 1].min() <= threshold + 1 / 400
    assert upright[:, 1].max() == 1
    # With exploration: deceive iff min(p_detect, detect_upper) is at most the threshold.
    (corner,) = lines_of(data.assign_attrs(exploration=0.1))
    distance = np.abs(corner.min(axis=1) - threshold)
    assert distance.max() <= 1 / 400


def test_boundaries_follow_what_was_selected():
    codes = np.zeros((3, 21, 21), int)
    axes = {"honest_payoff": [0.0, 0.2, 0.6], "p_detect": AXIS, "detect_upper": AXIS}
    data = dataset(codes, axes, "deception")
    level, _ = lines_of(data.sel(honest_payoff=0.6))
    np.testing.assert_allclose(level[:, 1], 0.2, atol=1e-9)


def test_own_boundaries():
    own = [lambda x: x**2, np.array([[0.1, 0.2], [0.3, 0.4]]), lambda x: 0.3]
    figure = bn.plot.phase_diagram(sycophancy_regimes(), boundaries=own)
    square, pair, level = (line.get_xydata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(square[:, 1], square[:, 0] ** 2)
    np.testing.assert_array_equal(pair, own[1])
    assert np.all(level[:, 1] == 0.3)
    assert legend_of(figure)[-1] == "boundary"


def test_a_figure_of_its_own_says_what_does_not_vary():
    data = sycophancy_regimes(fixed='{"width": 0.25}', exploration=0.1)
    title = bn.plot.phase_diagram(data).axes[0].get_title()
    assert title == "sycophancy: width\xa0=\xa00.25, exploration\xa0=\xa00.1"
    strip = data.isel(p_honest=3)
    (ax,) = bn.plot.phase_diagram(strip).axes
    assert f"p_honest\xa0=\xa0{float(strip.p_honest):.6g}" in ax.get_title().replace("\n", " ")
    assert bn.plot.phase_diagram(data, title="").axes[0].get_title() == ""
    assert bn.plot.phase_diagram(data.drop_attrs()).axes[0].get_title() == ""


def test_draws_into_given_axes():
    figure = Figure(figsize=(7, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert bn.plot.phase_diagram(sycophancy_regimes(), ax=left, title="a") is figure
    assert bn.plot.phase_diagram(checkered(), ax=right) is figure
    assert left.get_title() == "a"
    assert right.get_title() == ""
    assert len(right.texts) >= 7
    assert tuple(figure.get_size_inches()) == (7, 4)
    figure.draw_without_rendering()
    assert figure.get_tightbbox().y0 >= -0.01


GOOD = sycophancy_regimes()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (GOOD.rename(phase="phases"), {}, "`dataset` must be .* `phase`"),
        (GOOD.expand_dims("width"), {}, r"`dataset` must have one or two.*isel"),
        (GOOD.isel(p_honest=0, p_sycophantic=0), {}, "`dataset` must have one or two"),
        (GOOD + 5, {}, "codes of bnjax.Phase .* got 8"),
        (GOOD.where(GOOD.p_honest > 0.5), {}, "codes of bnjax.Phase .* got nan"),
        (
            GOOD.assign_coords(p_honest=list("abcdefghijklmnopqrstu")),
            {},
            "numbers along 'p_honest'",
        ),
        (GOOD.assign_coords(p_honest=AXIS % 0.7), {}, "increasing or decreasing .*'p_honest'"),
        (GOOD, {"x": "width"}, "`x` must be one of"),
        (GOOD, {"y": "width"}, "`y` must be one of"),
        (GOOD, {"x": "p_honest", "y": "p_honest"}, "`x` and `y` must be different"),
        (GOOD.isel(p_honest=0), {"y": "p_sycophantic"}, "`y` must be left out"),
        (GOOD, {"boundaries": [np.zeros(3)]}, r"`boundaries\[0\]` must be"),
        (GOOD.assign_attrs(fixed='{"width": 0.5}'), {"boundaries": True}, "width 0 or 1"),
        (GOOD.assign_attrs(scenario="coin"), {"boundaries": True}, "'coin'"),
        (GOOD.assign_attrs(scenario="mine"), {"boundaries": True}, "`scenario` must be"),
        (GOOD.drop_attrs(), {"boundaries": True}, "attrs"),
    ],
)
def test_phase_diagram_says_what_is_wrong(data, options, message):
    with pytest.raises(ValueError, match=message):
        bn.plot.phase_diagram(data, **options)


# Bifurcations: problems of one shape, so that they share one compiled solver.


def three_models(p_sycophantic, p_honest, indifferent=0.0):
    """Approval rates theta and 1 - theta, theta in {1/5, 1/2, 4/5}; the middle one on request.

    By symmetry, the sign of the best fit against 1/2 is that of the continuous scenario.
    """
    first, second = jnp.asarray(p_sycophantic), jnp.asarray(p_honest)
    theta = jnp.asarray([0.2, 0.5, 0.8], first.dtype)
    rates = jnp.stack([theta, 1 - theta], -1)
    middle = jnp.where(jnp.asarray(indifferent) > 0, 0.0, -jnp.inf).astype(first.dtype)
    return bn.Problem(
        jnp.stack([jnp.stack([1 - first, 1 - second]), jnp.stack([first, second])], -1),
        jnp.stack([1 - rates, rates], -1),
        jnp.asarray([[0.0, 1.0], [0.0, 1.0]], first.dtype),
        log_prior=jnp.stack([jnp.zeros_like(middle), middle, jnp.zeros_like(middle)]),
        theta=theta,
        safe=[False, True],
        action_names=("deceive", "comply"),
    )


def silent_comply(p_detect):
    """Deception with rates {1/5, 1/2, 4/5} and a threshold of 0.4."""
    risk = jnp.asarray(p_detect)
    theta = jnp.asarray([0.2, 0.5, 0.8], risk.dtype)
    zero, zeros = jnp.zeros_like(risk), jnp.zeros_like(theta)
    return bn.Problem(
        jnp.stack([jnp.stack([1 - risk, risk]), jnp.stack([1 - zero, zero])]),
        jnp.stack([jnp.stack([1 - theta, theta], -1), jnp.stack([1 - zeros, zeros], -1)], 1),
        jnp.asarray([[1.0, -1.0], [0.2, 0.0]], risk.dtype),
        log_prior=zeros,
        theta=theta,
        safe=[False, True],
        action_names=("deceive", "comply"),
    )


VALUES = np.linspace(0.02, 0.98, 24)  # none of them 1/2


def styles_of(ax) -> list[tuple[str, np.ndarray]]:
    return [
        (line.get_linestyle(), line.get_xydata()) for line in ax.lines if len(line.get_xdata()) > 1
    ]


def test_branches_of_two_pure_equilibria_and_a_mixture():
    figure = bn.plot.bifurcation(three_models, "p_honest", VALUES, fixed={"p_sycophantic": 0.7})
    ax = figure.axes[0]
    solid = [xy for style, xy in styles_of(ax) if style == "-"]
    (dashed,) = [xy for style, xy in styles_of(ax) if style == "--"]
    always, half = sorted(solid, key=lambda xy: xy[0, 0])
    np.testing.assert_allclose(always, np.stack([VALUES, np.ones(24)], -1), atol=1e-6)
    assert half[:, 1].max() == 0
    assert half[0, 0] >= 0.5 - 0.04
    inner = dashed[dashed[:, 0] > 0.54]
    p_honest, s = inner.T
    np.testing.assert_allclose(s, (0.5 - p_honest) / (1 - 0.7 - p_honest), atol=1e-4)
    assert legend_of(figure) == ["stable", "unstable", "rationalizable"]
    assert ax.get_ylabel() == "probability of deceive"
    assert_readable(figure)


def test_a_mixture_and_the_pure_strategy_it_becomes_are_one_branch():
    figure = bn.plot.bifurcation(
        three_models, "p_honest", VALUES, fixed={"p_sycophantic": 0.3}, action="comply"
    )
    lines = styles_of(figure.axes[0])
    assert {style for style, _ in lines} <= {"-", "--"}
    joined = np.concatenate([xy for _, xy in lines])
    p_honest, share = joined.T
    grid = np.isin(np.round(p_honest, 6), np.round(VALUES, 6))
    expected = 1 - np.clip((0.5 - p_honest) / (0.7 - p_honest), 0, None)
    expected = np.where(p_honest > 0.5, 1, expected)
    np.testing.assert_allclose(share[grid], expected[grid], atol=1e-4)
    assert all(np.abs(np.diff(xy[:, 1])).max() < 0.25 for _, xy in lines)
    # One uninterrupted curve from end to end.
    assert {VALUES[0], VALUES[-1]} <= set(p_honest)
    ends = sorted((xy[0, 0], xy[-1, 0]) for _, xy in lines)
    assert all(a[1] >= b[0] for a, b in itertools.pairwise(ends))


def test_continua_are_bands():
    figure = bn.plot.bifurcation(
        three_models, "p_honest", VALUES, fixed={"p_sycophantic": 0.7, "indifferent": 1.0}
    )
    (band,) = [c for c in figure.axes[0].collections if not isinstance(c, QuadMesh)]
    corners = band.get_paths()[0].vertices
    # theta = 1/2 fits best while the mean rate, on the axis of theta, is between these two.
    low = np.log(0.5 / 0.8) / np.log(0.2 / 0.8)
    for p_honest in VALUES[VALUES > 0.7]:
        here = corners[np.isclose(corners[:, 0], p_honest), 1]
        ends = [(rate - (1 - p_honest)) / (0.7 - (1 - p_honest)) for rate in (low, 1 - low)]
        np.testing.assert_allclose([here.min(), here.max()], np.clip(ends, 0, 1), atol=1e-3)
    assert "continuum" in legend_of(figure)


def test_absorbing_equilibria_that_are_not_stable_are_open_circles():
    figure = bn.plot.bifurcation(silent_comply, "p_detect", VALUES)
    ax = figure.axes[0]
    circles = [
        line for line in ax.lines if line.get_marker() == "o" and line.get_linestyle() == "None"
    ]
    marked = np.concatenate([line.get_xdata() for line in circles])
    assert all(line.get_markerfacecolor() == "white" for line in circles)
    # Below this risk the rate 1/5 fits best, and deceiving is then better.
    turn = np.log(0.8 / 0.5) / np.log(4)
    np.testing.assert_allclose(np.sort(marked), VALUES[turn > VALUES])
    assert "absorbing, not stable" in legend_of(figure)


@pytest.mark.slow  # other strips have legends too
def test_legend_under_a_strip_of_many_actions_is_not_cut_off():
    figure = bn.plot.bifurcation(
        "overconfidence", "delta", [0.1, 0.2, 0.45], fixed={"num_efforts": 9}
    )
    assert_readable(figure)


def test_strip_shows_what_is_rationalizable():
    figure = bn.plot.bifurcation(three_models, "p_honest", VALUES, fixed={"p_sycophantic": 0.7})
    (strip,) = figure.axes[0].child_axes
    shown = mesh_of(strip).get_array().reshape(2, 24)
    np.testing.assert_array_equal(shown[0], bn.Certainty.IN)
    np.testing.assert_array_equal(shown[1], VALUES > 0.5)
    assert [label.get_text() for label in strip.get_yticklabels()] == ["deceive", "comply"]
    assert strip.get_xlim() == figure.axes[0].get_xlim() == (VALUES[0], VALUES[-1])


@pytest.mark.slow
def test_exploration_can_vary():
    fixed = {"p_sycophantic": 0.6, "p_honest": 0.7}
    figure = bn.plot.bifurcation(three_models, "exploration", VALUES, fixed=fixed)
    # Intending only the first action pays while (1 - e/2) 0.6 + e/2 0.3 >= 1/2.
    ends = [xy[-1, 0] for style, xy in styles_of(figure.axes[0]) if style == "-"]
    assert min(ends) == pytest.approx(2 / 3, abs=0.04)
    assert figure.axes[0].get_ylabel().startswith("intended probability")
    assert_readable(figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "flattery"}, "`scenario` must be"),
        ({"name": "p_kind"}, "`name` must be one of"),
        ({"values": [0.1]}, "`values` must hold at least two"),
        ({"values": [0.1, 0.1]}, "`values` must be finite and increasing"),
        ({"values": [0.1, np.nan]}, "`values` must be finite and increasing"),
        ({"fixed": {"p_kind": 0.1}}, "`fixed` must name some of"),
        ({"fixed": {"p_honest": 0.1}}, "`fixed` must not hold 'p_honest'"),
        ({"action": "lie"}, "`action` must be one of"),
        ({"action": 2}, "`action` must be in 0..1"),
        ({"exploration": 1.5}, "`exploration` must be a probability"),
    ],
)
def test_bifurcation_says_what_is_wrong(change, message):
    arguments = {"scenario": "sycophancy", "name": "p_honest", "values": [0.1, 0.2]} | change
    with pytest.raises(ValueError, match=message):
        bn.plot.bifurcation(**arguments)


# Divergences and best fits.


def test_divergences_of_a_list_of_models():
    problem = bn.Problem(
        probs=[[0.3, 0.7], [0.5, 0.5]],
        model_probs=[
            [[0.4, 0.6], [0.2, 0.8]],
            [[0.0, 1.0], [0.5, 0.5]],
            [[0.1, 0.9], [0.6, 0.4]],
            [[0.3, 0.7], [0.1, 0.9]],
        ],
        payoff=[[0.0, 1.0], [0.0, 1.0]],
        log_prior=[0.0, 0.0, 0.0, -jnp.inf],
        theta=[0.5, 0.2, 0.1, 0.7],
        action_names=["a", "b"],
    )
    figure = bn.plot.divergences(problem)
    ax = figure.axes[0]
    first, second = (line for line in ax.lines if line.get_label() in ("a", "b"))
    np.testing.assert_allclose(first.get_xdata(), [0.1, 0.2, 0.5])  # in order, in the support
    assert np.isnan(first.get_ydata()[1])  # infinite: the curve breaks
    np.testing.assert_allclose(
        second.get_ydata(), problem.kl_matrix()[jnp.array([2, 1, 0]), 1], rtol=1e-6
    )
    best = {line.get_color(): line.get_xdata() for line in ax.lines if line.get_marker() == "o"}
    np.testing.assert_allclose(best[first.get_color()], [0.5])
    np.testing.assert_allclose(best[second.get_color()], [0.2])
    (infinite,) = [line for line in ax.lines if line.get_marker() == "^"]
    np.testing.assert_allclose(infinite.get_xdata(), [0.2])
    assert legend_of(figure) == ["a", "b", "best fit", "infinite"]
    assert first.get_linestyle() != second.get_linestyle()
    assert_readable(figure)


def test_divergences_of_a_family():
    problem = bn.scenarios.deception(p_detect=0.3)
    figure = bn.plot.divergences(problem)
    ax = figure.axes[0]
    curve = ax.lines[0].get_xydata()
    theta, kl = curve[np.isfinite(curve[:, 1])].T
    np.testing.assert_allclose(
        kl, 0.3 * np.log(0.3 / theta) + 0.7 * np.log(0.7 / (1 - theta)), atol=1e-5
    )
    (best,) = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(best.get_xydata(), [[0.3, 0.0]], atol=1e-3)
    # Complying fits every theta, and says so.
    (flat,) = [line for line in ax.lines if line.get_linewidth() == 5]
    assert np.ptp(flat.get_xdata()) == 1
    assert legend_of(figure) == ["deceive", "comply", "best fit", "set of best fits", "infinite"]


def two_parameters():
    model = [[0.5, 0.5], [0.5, 0.5]]
    return bn.Problem(model, [model, model], [[0.0, 1.0]] * 2, theta=[[0.0, 0.0], [0.0, 1.0]])


def test_divergences_need_one_parameter():
    with pytest.raises(ValueError, match="`problem` must have a theta of at most one"):
        bn.plot.divergences(two_parameters())


def test_divergences_of_models_without_parameters_are_drawn_by_number():
    fair, good = [0.5, 0.5], [0.2, 0.8]
    problem = bn.Problem([fair, good], [[fair, fair], [good, good]], [[0.0, 1.0]] * 2)
    ax = bn.plot.divergences(problem).axes[0]
    assert ax.get_xlabel() == "number of the model"
    first = ax.lines[0]
    np.testing.assert_array_equal(first.get_xdata(), [0, 1])
    away = 0.5 * np.log(0.5 / 0.2) + 0.5 * np.log(0.5 / 0.8)
    np.testing.assert_allclose(first.get_ydata(), [0, away], atol=1e-6)
    assert first.get_linestyle() == "None"


def test_best_fits_of_a_list_of_models():
    problem = three_models(0.7, 0.6, 1.0)
    figure = bn.plot.best_fit_curve(problem)
    ax = figure.axes[0]
    low = np.log(0.5 / 0.8) / np.log(0.2 / 0.8)
    turns = [(rate - 0.4) / 0.3 for rate in (low, 1 - low)]  # below 0: theta = 1/5 never fits best
    for line in ax.lines:
        if len(line.get_xdata()) > 2:
            s, theta = line.get_xydata()[np.isfinite(line.get_ydata())].T
            between = (s[1:] != s[:-1]) & (theta[1:] == theta[:-1])
            middle = 0.5 * (s[1:] + s[:-1])[between]
            expected = np.where(middle < turns[0], 0.2, np.where(middle < turns[1], 0.5, 0.8))
            np.testing.assert_allclose(theta[1:][between], expected, atol=1e-6)
    jump = max(x for line in ax.lines for x in line.get_xdata() if x < 0.999)
    assert jump == pytest.approx(turns[1], abs=1e-4)
    names = legend_of(figure)
    assert {"deceive better", "indifferent", "stable equilibrium"} <= set(names)
    assert "comply better" not in names
    assert_readable(figure)


def test_a_pure_strategy_that_teaches_nothing_leaves_a_set_of_best_fits():
    figure = bn.plot.best_fit_curve(silent_comply(0.3))
    ax = figure.axes[0]
    dots = {
        float(line.get_xdata()[0]): line.get_markerfacecolor()
        for line in ax.lines
        if line.get_marker() == "o"
    }
    assert dots == {0.0: "white", 1.0: "black"}  # comply is not stable, deceive is
    (bar,) = [line for line in ax.lines if line.get_linewidth() == 5]
    np.testing.assert_allclose(bar.get_xydata(), [[0, 0.2], [0, 0.8]], atol=1e-6)
    assert_readable(figure)


@pytest.mark.slow
def test_best_fits_of_a_family():
    curves = _play_curve(bn.scenarios.deception(p_detect=0.3, detect_upper=0.9), 0.0)
    np.testing.assert_allclose(curves.theta, 0.3, atol=1e-3)
    assert curves.play.min() > 0  # where there is a set, and no value
    assert curves.play.max() == 1
    assert np.all(curves.reply == 0)
    ((s, tied),) = curves.open_sets
    assert s == 0
    np.testing.assert_allclose([tied.min(), tied.max()], [0, 0.9], atol=1e-6)


def test_lower_envelope_of_random_lines():
    rng = np.random.default_rng(0)
    for _ in range(20):
        level, slope = rng.normal(size=(2, 6))
        usable = rng.random(6) < 0.8
        usable[0] = True
        pieces = _lower_envelope(level, slope, usable)
        assert pieces[0][0] == 0
        assert pieces[-1][1] == 1
        for low, high, model in pieces:
            for s in np.linspace(low, high, 5):
                least = np.where(usable, level + s * slope, np.inf).min()
                assert level[model] + s * slope[model] <= least + 1e-9


def test_best_fit_curve_says_what_is_wrong():
    with pytest.raises(ValueError, match="`problem` must have two actions; got 1"):
        bn.plot.best_fit_curve(bn.scenarios.coin())
    ax = Figure().add_subplot()
    with pytest.raises(ValueError, match="`ax` must be left out"):
        bn.plot.best_fit_curve(two_parameters(), ax=ax)


@pytest.mark.slow
def test_best_fits_in_two_dimensions():
    figure = bn.plot.best_fit_curve(bn.scenarios.monopolist())
    assert len(figure.axes) == 2
    for panel, fit in zip(figure.axes, (40, 10 / 3), strict=True):
        (dot,) = [line for line in panel.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dot.get_xydata(), [[35 / 36, fit]], rtol=1e-3)
    assert_readable(figure)


# Populations


def population_of(problem, num_steps=60, every=10, beliefs=False):
    return bn.simulate(
        problem,
        jax.random.key(0),
        num_agents=50,
        num_steps=num_steps,
        record=bn.Trajectory(every, beliefs=beliefs),
        tile=64,
    )


def marks_of(ax):
    """How each equilibrium's marks are filled, and where they are."""
    return [
        (line.get_fillstyle(), *line.get_ydata()) for line in ax.lines if line.get_marker() == "<"
    ]


def test_learning_shows_play_and_beliefs():
    problem = bn.scenarios.sycophancy(0.3, 0.4)
    result = population_of(problem)
    figure = bn.plot.learning(result, problem, title="a population")
    assert_readable(figure)
    play, belief = figure.axes
    shares = np.stack([line.get_ydata() for line in play.lines[:2]])
    np.testing.assert_allclose(shares.sum(0), 1)
    total = np.asarray(result.trajectory.action_counts).sum(0)
    np.testing.assert_allclose(shares[0, 0], total[0, 0] / total[0].sum())
    np.testing.assert_allclose(
        shares[0, 3], (total[3, 0] - total[2, 0]) / (total[3] - total[2]).sum()
    )
    np.testing.assert_allclose(
        belief.lines[7].get_ydata(), result.trajectory.mean_theta[7, :, 0], atol=1e-5
    )
    theta = np.asarray(result.trajectory.mean_theta)[..., 0]
    np.testing.assert_allclose(belief.lines[40].get_ydata(), np.median(theta, 0), atol=1e-5)
    band = belief.collections[0].get_paths()[0].vertices
    for quantile in np.quantile(theta, (0.05, 0.95), axis=0):
        at = np.column_stack([result.trajectory.time[0], quantile])
        assert (np.abs(band[:, None] - at).max(-1).min(0) < 1e-5).all()
    names = ["sycophantic", "honest", "40 of 50 agents", "median and 90 %"]
    assert legend_of(figure) == [*names, "stable equilibrium"]
    # The mixture plays flattery one time in three and believes one half.
    np.testing.assert_allclose([height for _, height in marks_of(play)], [1 / 3, 2 / 3], atol=1e-3)
    ((fill, height),) = marks_of(belief)
    assert (fill, height) == ("full", pytest.approx(0.5, abs=1e-3))
    # The marks are of another problem than the population lived in, and the figure says so.
    assert "grid of 65 models" in " ".join(figure.get_supxlabel().split())
    with pytest.raises(ValueError, match="must have a trajectory"):
        bn.plot.learning(
            bn.simulate(problem, jax.random.key(0), num_agents=2, num_steps=2, tile=64), problem
        )
    with pytest.raises(
        ValueError, match="`problem` must be the one that was simulated, with 2 act"
    ):
        bn.plot.learning(result, bn.scenarios.coin())
    with pytest.raises(ValueError, match=r"65 models; got one with .* 5 models"):
        bn.plot.learning(result, problem.discretize(5))


def test_learning_draws_a_single_interval_and_no_mark_where_beliefs_fit_as_well():
    # The first action teaches the first parameter, and leaves the second open.
    model = [[[0.5, 0.5], [0.1, 0.9]], [[0.5, 0.5], [0.9, 0.1]], [[0.1, 0.9], [0.5, 0.5]]]
    problem = bn.Problem(
        [[0.5, 0.5], [0.5, 0.5]],
        model,
        [[0.6, 0.6], [0.0, 0.1]],
        theta=[[0.5, 0.9], [0.5, 0.1], [0.9, 0.5]],
    )
    figure = bn.plot.learning(population_of(problem, 1, 1), problem)
    play, first, second = figure.axes
    np.testing.assert_array_equal(play.lines[0].get_xdata(), [0, 1])
    assert first.lines[0].get_marker() == "."
    assert [height for _, height in marks_of(play)] == [1]
    assert [height for _, height in marks_of(first)] == [0.5]
    assert marks_of(second) == []
    assert "No mark where several beliefs fit as well" in " ".join(figure.get_supxlabel().split())
    assert_readable(figure)


def test_learning_shows_models_without_parameters_and_unknown_stability():
    def rates(*p):
        return [[1 - x, x] for x in p]

    problem = bn.Problem(
        rates(0.6, 0.5, 0.3),
        [rates(0.9, 0.5, 0.3), rates(0.4, 0.5, 0.7)],
        [[0.0, 1.0]] * 3,
        action_names=["fast", "steady", "risky"],
    )
    result = population_of(problem, beliefs=True)
    figure = bn.plot.learning(result, problem)
    play, belief = figure.axes
    mean = np.asarray(result.trajectory.belief).mean(0)
    last = int(mean[-1].argmax())
    lines = [line for line in belief.lines if line.get_marker() != "<"]
    np.testing.assert_allclose(lines[-1].get_ydata(), mean[:, last])
    names = ["fast", "steady", "risky", f"model {1 - last}", f"model {last}", "stability unknown"]
    assert legend_of(figure) == names
    assert {fill for fill, *_ in marks_of(play) + marks_of(belief)} == {"bottom"}
    assert_readable(figure)
    assert len(bn.plot.learning(population_of(problem), problem).axes) == 1


def test_learning_maps_many_actions():
    problem = bn.scenarios.overconfidence(num_efforts=9).discretize(5)
    result = population_of(problem)
    figure = bn.plot.learning(result, problem, title="word " * 25)
    share = mesh_of(figure.axes[0]).get_array().reshape(9, 6)
    np.testing.assert_allclose(share.sum(0), 1, rtol=1e-6)
    total = np.asarray(result.trajectory.action_counts).sum(0)
    np.testing.assert_allclose(share[:, 0], total[0] / total[0].sum(), rtol=1e-6)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["effort 0", "effort 2", "effort 4", "effort 6", "effort 8"]
    assert_readable(figure)


# Designs


@pytest.fixture(scope="module")
def designed():
    """What is drawn is real once; what varies between the tests below is put in its place."""
    return bn.design.optimize(
        bn.scenarios.sycophancy,
        {"p_sycophantic": (0.55, 0.9), "p_honest": (0.6, 0.8)},
        bn.design.SupportBounds(),
        num_steps=30,
        num_starts=2,
        num_agents=200,
        horizon=50,
        certified_environments=9,
    )


def with_phases(result, before, after, *sides):
    """The same design, certified elsewhere."""
    axes = {name: np.linspace(0.1, 0.9, n) for name, n in zip(sides, np.shape(before), strict=True)}
    models = {"models_kept": np.full(before.shape, 3), "models": np.full(before.shape, 65)}
    certificates = [
        dataclasses.replace(result.support, axes=axes, phase=np.asarray(codes), **models)
        for codes in (before, after)
    ]
    return dataclasses.replace(result, support_before=certificates[0], support=certificates[1])


def title_of(figure):
    return figure.get_suptitle()


def left_titles(figure):
    return [title for ax in figure.axes if (title := ax.get_title(loc="left"))]


def test_design_shows_phases_before_and_after(designed):
    figure = bn.plot.design(designed, title="sycophancy")
    assert_readable(figure)
    assert title_of(figure) == (
        "sycophancy\ncertified by its support: whoever best responds with these models ends up safe"
    )
    assert left_titles(figure) == [
        "(a) before: 0% safe",
        "after: 100% safe",
        "(b) prior",
        "(c) 2 starts, best thick",
    ]
    before, after = figure.axes[:2]
    for ax, certificate in ((before, designed.support_before), (after, designed.support)):
        np.testing.assert_array_equal(mesh_of(ax).get_array().reshape(3, 3), certificate.phase.T)
        # No further than the box, of which the environments are a grid.
        for limits, axis in zip(
            (ax.get_xlim(), ax.get_ylim()), certificate.axes.values(), strict=True
        ):
            np.testing.assert_allclose(limits, [axis.min(), axis.max()])
    # Without colour, hatching and names tell them apart.
    assert [text.get_text() for text in before.texts] == ["multistable"]
    assert [text.get_text() for text in after.texts] == ["safe"]
    assert before.get_xlabel() == after.get_xlabel() == "p_sycophantic"
    assert (before.get_ylabel(), after.get_ylabel()) == ("p_honest", "")
    names = [text.get_text() for legend in figure.subfigs[0].legends for text in legend.get_texts()]
    assert names == ["safe", "multistable"]


def test_design_shows_the_prior_and_the_search(designed):
    figure = bn.plot.design(designed)
    prior, objective, share = figure.axes[2:5]
    after, _, before = (patch.get_data() for patch in prior.patches if hasattr(patch, "get_data"))
    problem = designed.learner()[0]
    np.testing.assert_allclose(after.values, np.exp(problem.log_prior), rtol=1e-5)
    np.testing.assert_allclose(before.values, 1 / 65, rtol=1e-5)
    # Grey where nothing is left of it.
    out = [patch for patch in prior.patches if isinstance(patch, mpl.patches.Rectangle)]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in out]
    middle = problem.theta[:, 0]
    grey = np.any([(low < middle) & (middle < high) for low, high in spans], axis=0)
    inner = slice(1, -1)  # the ends lie on an edge
    np.testing.assert_array_equal(grey[inner], ~np.asarray(problem.support)[inner])
    assert [text.get_text() for text in prior.get_legend().get_texts()] == [
        "before",
        "after",
        "ruled out",
    ]
    assert prior.get_xlabel() == "theta sycophantic"
    for ax, values in (
        (objective, designed.history.objective),
        (share, designed.history.safe_share),
    ):
        for start, line in enumerate(ax.lines):
            np.testing.assert_allclose(line.get_ydata(), values[start])
            assert (line.get_linewidth() > 1) == (start == designed.best)


@pytest.mark.parametrize("sides", [(), ("p_honest",), ("p_honest", "p_sycophantic", "width")])
def test_design_over_any_number_of_sides(designed, sides):
    safe = np.full((4,) * len(sides), int(Phase.SAFE))
    mixed = safe.copy()
    mixed[(slice(2),) * bool(sides)] = int(Phase.UNSAFE)
    result = with_phases(designed, mixed, safe, *sides)
    figure = bn.plot.design(result)
    assert_readable(figure)
    if len(sides) == 1:
        assert left_titles(figure)[:2] == ["(a) before: 50% safe", "after: 100% safe"]
        assert mesh_of(figure.axes[0]).get_array().shape == (1, 4)
        return
    bars = [patch for patch in figure.axes[0].patches if patch.get_fill()]
    widths = {(patch.get_y() > 0.5, patch.get_facecolor()): patch.get_width() for patch in bars}
    shares = [0.5, 0.5, 1.0] if sides else [0.0, 1.0, 1.0]
    assert sorted(width for width in widths.values() if width) == sorted(x for x in shares if x)


def test_a_design_that_earned_nothing_says_so(designed):
    codes = designed.support_before.phase
    result = with_phases(designed, codes, codes, "p_sycophantic", "p_honest")
    low = designed.statistical.low
    result = dataclasses.replace(
        result, statistical=dataclasses.replace(result.statistical, low=0 * low)
    )
    figure = bn.plot.design(result)
    assert title_of(figure).startswith("FAILED")
    assert figure._suptitle.get_color() == bn.plot.PHASE_STYLES[Phase.UNSAFE].fill


def some_priors(num_parameters):
    """Uniform over nine models, and over the first five."""
    grid = np.linspace(0, 1, 3)
    theta = np.stack(np.meshgrid(grid, grid), -1).reshape(9, 2)[:, :num_parameters]
    kept = np.arange(9) < 5
    return Prior(theta, np.full(9, 1 / 9), np.ones(9, bool)), Prior(theta, kept / 5, kept)


def test_priors_over_two_parameters_are_maps(designed, monkeypatch):
    monkeypatch.setattr("bnjax.plot._priors.priors_of", lambda result: some_priors(2))
    monkeypatch.setattr("bnjax.plot._priors.parameter_names", lambda result: ["first", "second"])
    figure = bn.plot.design(designed)
    assert_readable(figure)
    before, after = figure.axes[2:4]
    assert [len(dots.get_offsets()) for dots in before.collections] == [0, 9]
    ruled_out, kept = after.collections
    assert [len(dots.get_offsets()) for dots in (ruled_out, kept)] == [4, 5]
    np.testing.assert_allclose(kept.get_array(), 0.2)
    assert kept.get_clim() == before.collections[1].get_clim() == (0, 0.2)


def test_priors_of_models_without_parameters_are_bars(designed, monkeypatch):
    monkeypatch.setattr("bnjax.plot._priors.priors_of", lambda result: some_priors(0))
    monkeypatch.setattr("bnjax.plot._priors.parameter_names", lambda result: [])
    figure = bn.plot.design(designed)
    assert_readable(figure)
    ax = figure.axes[2]
    assert ax.get_xlabel() == "number of the model"
    before, after = ([bar.get_height() for bar in bars] for bars in ax.containers)
    np.testing.assert_allclose([before, after], [prior.weight for prior in some_priors(0)])


def test_parameters_are_those_that_a_design_can_give_the_models(designed):
    assert parameter_names(designed) == ["theta sycophantic"]
    width = dataclasses.replace(designed, design=bn.design.Width(), parameters=jnp.zeros(()))
    assert parameter_names(width) == ["theta sycophantic", "theta honest"]


def front_of(designed, against="cost"):
    share = np.array([0.99, 0.9, 0.7, 0.69])
    return bn.design.ParetoFront(
        against=against,
        weights=np.array([0.01, 0.1, 1.0, 2.0]),
        safe_share=share,
        worst_share=share**2,
        payoff=np.array([0.5, 0.6, 0.7, 0.65]),
        cost=np.array([3.0, 1.5, 0.5, 0.6]),
        efficient=np.array([True, True, True, False]),
        parameters=None,
        reference=designed.before,
    )


def test_pareto_joins_what_is_efficient_and_marks_the_reference(designed):
    for against in ("cost", "payoff"):
        front = front_of(designed, against)
        figure = bn.plot.pareto(front, title="a front")
        assert_readable(figure)
        ax = figure.axes[0]
        worst, mean, beaten, reference = (line.get_xydata() for line in ax.lines)
        at = getattr(front, against)
        order = [2, 1, 0] if against == "cost" else [0, 1, 2]
        np.testing.assert_array_equal(mean, np.stack([at, front.safe_share], -1)[order])
        np.testing.assert_array_equal(worst, np.stack([at, front.worst_share], -1)[order])
        np.testing.assert_array_equal(beaten, [[at[3], front.safe_share[3]]])
        first = designed.before
        place = float(first.cost) if against == "cost" else float(first.payoff.mean())
        np.testing.assert_allclose(reference[0], [place, float(first.safe_share.mean())], rtol=1e-6)
        assert legend_of(figure) == [
            "mean over environments",
            "worst environment",
            "beaten by another",
            "reference",
        ]
        names = [text.get_text() for text in ax.texts]
        assert names[0].startswith("weight ")
        assert len(names) == 3
    figure = Figure()
    ax = figure.add_subplot()
    assert bn.plot.pareto(front_of(designed), ax=ax) is figure
    # Weights that found one design are written as one.
    same = dataclasses.replace(front_of(designed), cost=np.full(4, 0.5), safe_share=np.full(4, 0.9))
    figure = bn.plot.pareto(dataclasses.replace(same, efficient=np.full(4, True)))
    assert [text.get_text() for text in figure.axes[0].texts] == ["weight 0.01 to 2"]
    # Long names keep their distance from their neighbours.
    many = dataclasses.replace(
        same,
        weights=np.array([3, 1.1, 0.15, 0.055, 0.02, 0.0074, 0.0027, 0.001]),
        cost=np.array([0.007, 0.06, 0.54, 0.54, 0.54, 0.83, 1.11, 1.3]),
        safe_share=np.array([0.81, 0.87, 0.995, 0.995, 0.995, 0.998, 1, 1]),
        worst_share=np.array([0, 0, 0.98, 0.98, 0.98, 0.99, 1, 1]),
        efficient=np.full(8, True),
    )
    figure = bn.plot.pareto(many)
    assert_readable(figure)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ["weight 3", "0.001", "0.02 to 0.15"]


def test_designs_stand_side_by_side(designed):
    codes = designed.support_before.phase
    poor = with_phases(designed, codes, codes, "p_sycophantic", "p_honest")
    low = designed.statistical.low
    failed = dataclasses.replace(
        poor, statistical=dataclasses.replace(poor.statistical, low=0 * low)
    )
    passed = dataclasses.replace(
        poor, statistical=dataclasses.replace(poor.statistical, low=0 * low + 0.99)
    )
    figure = bn.plot.designs({"models": designed, "rewards": failed, "weights": passed}, title="a")
    assert_readable(figure)
    ax = figure.axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["reference", "models", "rewards", "weights"]
    head, *earned = [text.get_text() for text in ax.texts]
    assert head == "certificate\nearned:"
    assert earned == ["support", "none", "statistical"]
    dots = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_xdata()[0] <= 1.03]
    share = np.asarray(designed.after.safe_share)
    drawn = [line.get_xdata()[0] for line in dots[4:8]]
    np.testing.assert_allclose(
        drawn, [share.mean(), share.min(), 1, designed.statistical.safe_share.min()], rtol=1e-6
    )
    assert [line.get_xdata()[0] for line in dots[2::4]] == [0, 1, 0, 0]
    assert len(legend_of(figure)) == 5
    bars = [line.get_xdata() for line in ax.lines if line.get_marker() == "|"]
    certificate = designed.statistical
    worst = certificate.low == certificate.low.min()
    assert bars[1][0] == certificate.low.min()
    assert bars[1][1] in certificate.high[worst]


def test_figures_of_designs_say_what_is_wrong(designed, monkeypatch):
    # As it is for users, whose calls nobody checks.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"`result` must be what bn.design.optimize returns; got"):
        bn.plot.design(front_of(designed))
    with pytest.raises(ValueError, match=r"`front` must be what bn.design.pareto returns; got"):
        bn.plot.pareto(designed)
    for results in ({}, [designed]):
        with pytest.raises(ValueError, match=r"`results` must be results by name, at least one"):
            bn.plot.designs(results)
    with pytest.raises(ValueError, match=r"`results\['a'\]` must be what bn.design.optimize"):
        bn.plot.designs({"a": 1})
