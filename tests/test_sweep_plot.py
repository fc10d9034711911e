"""Pictures of sweeps: what is in them, and what was read for them; never pixels."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import bnjax as bn
from bnjax.plot import PHASE_STYLES
from bnjax.plot._sweep import _FAILED, _MISSING
from bnjax.plot._sweep_cells import _BLOCK, MOST, picture_of
from bnjax.sweeps import CellStatus

U, V, W = np.linspace(0, 1, 7), np.linspace(2, 1, 5), np.array([0.0, 0.1, 1.0])
PHASES = {
    "flag_values": [int(code) for code in bn.Phase],
    "flag_meanings": " ".join(bn.Phase.__members__),
}


@pytest.fixture(autouse=True)
def leaves_no_trace():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


def sweep(variables, coords=None, status=None, **manifest):
    """What opening a store gives: variables are (dims, values, attributes)."""
    coords = {"u": U, "v": V, "w": W} if coords is None else coords
    axes = {name: len(values) for name, values in coords.items() if not isinstance(values, tuple)}
    if status is None:
        status = np.full(tuple(axes.values()), CellStatus.OK, np.uint8)
    dims = list(axes)[: np.ndim(status)]
    about = {"variables": list(variables), "arguments": list(coords)} | manifest
    codes = {
        "flag_values": [int(code) for code in CellStatus],
        "flag_meanings": " ".join(CellStatus.__members__),
    }
    everything = dict(variables) | {"status": (dims, status, codes)}
    return xr.Dataset(everything, coords, {"sweep": about})


def cube():
    return np.add.outer(np.add.outer(10 * U, 100 * V), W)


def numbers(status=None):
    return sweep(
        {"height": (("u", "v", "w"), cube(), {"units": "metres", "long_name": "how high"})},
        status=status,
    )


def meshes(figure: Figure) -> list[QuadMesh]:
    return [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]


def values_of(mesh: QuadMesh) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(mesh.get_array(), float), np.nan)


def legend_of(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def title_of(figure: Figure) -> str:
    return figure.axes[0].get_title().replace("\n", " ").replace("\xa0", " ")


# What is shown.


def test_nearest_value_is_selected():
    figure = bn.plot.sweep(numbers(), select={"w": 0.2}, title="hills")
    (mesh,) = meshes(figure)
    np.testing.assert_allclose(values_of(mesh), cube()[:, :, 1].T)
    assert title_of(figure) == "hills; w = 0.1"
    (ax,) = figure.axes
    (bar,) = ax.child_axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("u", "v")
    assert bar.get_ylabel() == "how high (metres)"


def test_sides_may_be_any():
    picture = picture_of(numbers(), None, "w", "u", {"v": 1.0}, None)
    np.testing.assert_allclose(picture.values, cube()[:, 4, :])
    assert (picture.x.name, picture.y and picture.y.name) == ("w", "u")


@pytest.mark.parametrize("how", ["mean", "min", "max"])
def test_numbers_are_reduced(how):
    picture = picture_of(numbers(), None, "u", None, {}, how)
    np.testing.assert_allclose(picture.values[0], getattr(cube(), how)((1, 2)))
    assert picture.notes == (f"{how} over v and w",)


def test_what_is_missing_or_failed_does_not_count():
    status = np.full((7, 5, 3), CellStatus.OK, np.uint8)
    status[0], status[1, :, 0], status[2, 2] = CellStatus.MISSING, CellStatus.NONFINITE, 3
    picture = picture_of(numbers(status), None, "u", "v", {}, "mean")
    fine = status == CellStatus.OK
    with np.errstate(invalid="ignore"):
        wanted = np.where(fine, cube(), 0).sum(2) / fine.sum(2)
    np.testing.assert_allclose(picture.values, wanted.T)
    assert picture.missing[:, 0].all()
    assert picture.missing.sum() == 5
    assert picture.failed[2, 2]
    assert picture.failed.sum() == 1
    assert picture.notes[-1] == f"without {15 + 5 + 3} cells that failed or are missing"
    figure = bn.plot.sweep(numbers(status), reduce="mean")
    assert to_rgb(figure.axes[0].get_facecolor()) == to_rgb(_MISSING)
    cells, failed = meshes(figure)
    assert np.isnan(values_of(cells)[:, 0]).all()
    assert to_rgb(failed.get_facecolor()[2 * 7 + 2]) == to_rgb(_FAILED)
    assert legend_of(figure) == ["missing (14%)", "failed (3%)"]


def test_one_side_of_numbers_is_a_curve():
    status = np.full((7, 5, 3), CellStatus.OK, np.uint8)
    status[6] = CellStatus.MISSING
    figure = bn.plot.sweep(numbers(status), x="u", select={"v": 1, "w": 0})
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [*cube()[:6, 4, 0], np.nan])
    assert figure.axes[0].get_ylabel() == "how high (metres)"
    assert legend_of(figure) == ["missing (14%)"]


def test_curves_of_shares_start_at_zero():
    figure = bn.plot.sweep(phases()[0], x="u", reduce="SAFE")
    low, high = figure.axes[0].get_ylim()
    (line,) = figure.axes[0].lines
    assert low == 0
    assert high > line.get_ydata().max()
    assert "\n" not in figure.axes[0].get_ylabel()


def phases(status=None):
    grid = np.add.outer(np.arange(7), np.arange(5)) % 2
    layers = np.stack([grid, np.zeros((7, 5), int), np.full((7, 5), 3)], -1).astype(np.int8)
    return sweep({"phase": (("u", "v", "w"), layers, PHASES)}, status=status), layers


def test_phases_have_their_colours():
    dataset, _ = phases()
    figure = bn.plot.sweep(dataset, select={"w": 0})
    (mesh,) = meshes(figure)
    colours = [to_rgb(colour) for colour in mesh.cmap.colors]
    assert colours == [to_rgb(PHASE_STYLES[code].fill) for code in bn.Phase]
    assert legend_of(figure) == ["safe (51%)", "unsafe (49%)"]


def test_phases_are_reduced_to_the_most_frequent_or_to_a_share():
    dataset, layers = phases()
    picture = picture_of(dataset, None, None, None, {}, "mode")
    np.testing.assert_array_equal(picture.values, 0 * layers[:, :, 0].T)
    assert picture.categories is not None
    picture = picture_of(dataset, None, None, None, {}, "SAFE")
    np.testing.assert_allclose(picture.values, (layers == 0).mean(-1).T)
    assert picture.categories is None
    assert picture.label == "share of cells that are safe"


def test_a_phase_that_was_not_told_is_shown_as_such():
    status = np.full((7, 5, 3), CellStatus.OK, np.uint8)
    dataset, layers = phases(status)
    layers[3], status[3] = bn.Phase.UNDECIDED, CellStatus.NOT_CONVERGED
    figure = bn.plot.sweep(dataset, select={"w": 0})
    assert len(meshes(figure)) == 1
    assert "undecided (14%)" in legend_of(figure)


def test_strip_of_codes():
    dataset, _ = phases()
    figure = bn.plot.sweep(dataset, x="v", select={"u": 0, "w": 0})
    assert values_of(meshes(figure)[0]).shape == (1, 5)


def test_truth_values_and_names():
    play = np.zeros((7, 5, 2), bool)
    play[:, 0, 1] = True
    dataset = sweep(
        {"pure": (("u", "v", "action"), play)},
        {"u": U, "v": V, "action": ["bold", "shy_one"]},
        np.full((7, 5), CellStatus.OK, np.uint8),
    )
    figure = bn.plot.sweep(dataset, select={"action": "shy_one"})
    assert legend_of(figure) == ["no (80%)", "yes (20%)"]
    assert title_of(figure) == "pure; action = shy_one"
    figure = bn.plot.sweep(dataset, x="v", y="action", reduce="mean")
    np.testing.assert_allclose(values_of(meshes(figure)[0]), play.mean(0).T)
    ticks = figure.axes[0].yaxis.get_ticklabels()
    assert [tick.get_text() for tick in ticks] == ["bold", "shy one"]
    assert figure.axes[0].child_axes[0].get_ylim() == (0, 1)


def test_status_can_be_drawn():
    status = np.full((7, 5, 3), CellStatus.OK, np.uint8)
    status[0], status[1] = CellStatus.MISSING, CellStatus.NONFINITE
    figure = bn.plot.sweep(numbers(status), "status", select={"w": 0})
    assert legend_of(figure) == ["ok (71%)", "nonfinite (14%)", "missing (14%)"]


def test_arguments_that_vary_together_label_a_side():
    columns = {"p": ("world", [0.1, 0.5, 0.9]), "q": ("world", [3.0, 1.0, 2.0])}
    dataset = sweep(
        {"height": (("world", "v"), np.arange(15.0).reshape(3, 5))},
        {"v": V} | columns,
        np.full(5, CellStatus.OK, np.uint8),
    )
    dataset["status"] = (("world", "v"), np.full((3, 5), CellStatus.OK, np.uint8))
    assert picture_of(dataset, None, "p", "v", {}, None).x.values.tolist() == [0.1, 0.5, 0.9]
    # Neither up nor down: in the order of the store.
    side = picture_of(dataset, None, "q", "v", {}, None).x
    assert side.name == "q, by position"
    assert side.values.tolist() == [0, 1, 2]
    picture = picture_of(dataset, None, "v", None, {"q": 1.2}, None)
    np.testing.assert_array_equal(picture.values, [np.arange(5.0, 10)])


# What is read.


def test_long_axes_are_thinned_out_and_the_picture_says_so():
    size = 2 * MOST + 5
    values = np.arange(size * 3.0).reshape(size, 3)
    dataset = sweep({"height": (("long", "w"), values)}, {"long": np.arange(float(size)), "w": W})
    picture = picture_of(dataset, None, "long", "w", {}, None)
    np.testing.assert_array_equal(picture.values, values[::3].T)
    assert picture.notes == (f"one in 3 of {size:,} values along long",)
    np.testing.assert_array_equal(picture.x.values, np.arange(size)[::3])


@pytest.mark.parametrize("block", [1, 40, _BLOCK])
@pytest.mark.parametrize("chunks", [None, {"u": 3, "v": 5, "w": 2}, {"u": 1, "v": 2, "w": 3}])
def test_blocks_do_not_matter(block, chunks, monkeypatch):
    monkeypatch.setattr("bnjax.plot._sweep_cells._BLOCK", block)
    monkeypatch.setattr("bnjax.plot._sweep_cells.MOST", 4)
    dataset = numbers()
    if chunks is not None:
        dataset["height"].encoding["preferred_chunks"] = chunks
    picture = picture_of(dataset, None, "v", "w", {}, "mean")
    np.testing.assert_allclose(picture.values, cube().mean(0)[::2].T)
    picture = picture_of(dataset, None, "u", "v", {"w": 1}, None)
    np.testing.assert_allclose(picture.values, cube()[::2, ::2, 2].T)


# What is refused.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variable": "heigth"}, "`variable` must be one of height, status; got 'heigth': did you"),
        ({"x": "uu"}, "`x` must name what `height` varies with: u, v, w; got 'uu'"),
        ({"x": "u", "y": "u"}, "`x` and `y` must be different dimensions"),
        ({"x": "w", "select": {"w": 0}}, "`x` must not be selected too"),
        ({"select": {"w": "high"}}, "`select` must be a number for w; got 'high'"),
        ({"select": {"u": 0, "v": 0, "w": 0}}, "`select` must leave something to show"),
        ({}, "`select` must name a value of w, or `reduce` say how to reduce it: mean, min, max"),
        ({"reduce": "mode"}, "`reduce` must be one of mean, min, max; got 'mode'"),
        ({"reduce": "mean", "select": {"w": 0}}, "`reduce` must be left out"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        bn.plot.sweep(numbers(), **options)


def test_a_dataset_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"must be what `bnjax\.sweep` returns"):
        bn.plot.sweep(xr.Dataset({"a": ("x", [1.0])}))
