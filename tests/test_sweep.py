"""Sweeps: the numbers, what a store says about itself, and what is refused before it begins."""

import functools
import json
import math
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr

import bnjax as bn
from bnjax.sweeps import CellStatus, _program, _sweep, _work
from bnjax.sweeps._axes import read_axes
from bnjax.sweeps._chunks import Chunks, cut
from bnjax.sweeps._program import compile_tile, default_block, trace
from bnjax.sweeps._store import Store, differences

from .sweep_worker import WRONG_TYPES, files

ROOT = Path(__file__).parent.parent
X = {"x": [1.0, 2.0, 3.0]}


class Pair(eqx.Module):
    first: jax.Array
    second: jax.Array


def everything(x, n, flag, low, high, key):
    """Arguments and results of all kinds."""
    draws = jax.random.uniform(key, (2, 3), minval=low, maxval=high)
    return {
        "sum": x * 2.0 + low,
        "pair": Pair(n * 3, jnp.logical_xor(flag, n > 1)),
        "several": (draws, jnp.zeros((0, 2)), jnp.asarray(1, jnp.uint8)),
        "wave": jax.lax.complex(x, low),
        "half": x.astype(jnp.float16),
        "whole": draws.sum() + jnp.exp(x),
    }


AXES = {
    "x": "0:1:5",
    "n": [2, -1, 7],
    "flag": [True, False],
    "range": {"low": [0.0, 0.5, 1.0], "high": [1.0, 2.0, 1.5]},
}
KEY = jax.random.key(11)


def cases(names, rows):
    """Parameters of a test that are told apart by their place."""
    return pytest.mark.parametrize(names, rows, ids=[str(i) for i in range(len(rows))])


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def swept(stores):
    """A sweep of 90 cells in one chunk."""
    return bn.sweep(everything, AXES, store=stores / "one", key=KEY, chunk=1000).load()


@pytest.fixture
def nothing_left(tmp_path):
    """The folder of a store, empty again after whatever is refused."""
    yield tmp_path / "store"
    assert list(tmp_path.iterdir()) == []


# The numbers.


def test_values_are_those_of_a_loop(swept):
    shape = (5, 3, 2, 3)
    x = np.linspace(0.0, 1.0, 5).astype(np.float32)
    low, high = np.float32([0.0, 0.5, 1.0]), np.float32([1.0, 2.0, 1.5])
    for number in range(math.prod(shape)):
        i, j, k, m = np.unravel_index(number, shape)
        got = swept.isel(x=i, n=j, flag=k, range=m)
        n, flag = AXES["n"][j], AXES["flag"][k]
        draws = jax.random.uniform(jax.random.fold_in(KEY, number), (2, 3))
        draws = low[m] + np.asarray(draws) * (high[m] - low[m])
        assert got["sum"] == x[i] * 2 + low[m]
        assert got["pair.first"] == n * 3
        assert got["pair.second"] == (flag != (n > 1))
        np.testing.assert_allclose(got["several.0"], draws, rtol=1e-6)
        assert got["several.2"] == 1
        assert got["wave"] == x[i] + 1j * low[m]
        assert got["half"] == x[i].astype(np.float16)
        np.testing.assert_allclose(got["whole"], draws.sum() + np.exp(x[i]), rtol=1e-5)
        assert got["status"] == CellStatus.OK


def test_types_names_and_labels(swept):
    types = {name: x.dtype for name, x in swept.data_vars.items()}
    assert types == {
        "sum": np.float32,
        "pair.first": np.int32,
        "pair.second": bool,
        "several.0": np.float32,
        "several.1": np.float32,
        "several.2": np.uint8,
        "wave": np.complex64,
        "half": np.float16,
        "whole": np.float32,
        "status": np.uint8,
    }
    assert swept["whole"].dims == ("x", "n", "flag", "range")
    assert swept["several.1"].shape == (5, 3, 2, 3, 0, 2)
    assert set(swept.coords) == {"x", "n", "flag", "low", "high"}
    np.testing.assert_array_equal(swept.x, np.linspace(0.0, 1.0, 5))
    np.testing.assert_array_equal(swept.high, [1.0, 2.0, 1.5])


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_chunks_make_no_difference(swept, stores, chunk):
    # Ninety chunks; some that are shorter than others; and what it chooses.
    other = bn.sweep(everything, AXES, store=stores / f"by-{chunk}", key=KEY, chunk=chunk).load()
    for name, values in swept.data_vars.items():
        assert values.values.tobytes() == other[name].values.tobytes(), name


def test_chunks_of_several_tiles(swept, stores, monkeypatch):
    # Two in a chunk, and one in the last, which is shorter.
    monkeypatch.setattr(_program, "_SHARE_CELLS", 32)
    for ahead in (1, 4):
        monkeypatch.setattr(_work, "_AHEAD", ahead)
        done = bn.sweep(everything, AXES, store=stores / f"tiles-{ahead}", key=KEY, chunk=45).load()
        assert Store(stores / f"tiles-{ahead}").chunks.box == (2, 3, 2, 3)
        for name, values in swept.data_vars.items():
            assert values.values.tobytes() == done[name].values.tobytes(), name


def computed(program, cells):
    results = program.room(len(cells))
    program.fetch(program.start(cells), results)
    return results


def test_order_makes_no_difference():
    axes = read_axes(AXES)
    program = compile_tile(trace(everything, axes, KEY), axes, KEY, [], block=32)
    dice = np.random.default_rng(0)
    in_order = computed(program, range(90))
    for size in (1, 5, 90):
        numbers = dice.permutation(90)[:size].astype(np.uint32)
        for name, values in computed(program, numbers).items():
            assert values.tobytes() == in_order[name][numbers].tobytes(), name
    for cells in (range(7, 8), range(37, 90)):
        for name, values in computed(program, cells).items():
            assert values.tobytes() == in_order[name][cells.start : cells.stop].tobytes(), name


@pytest.mark.parametrize("size", [(2**16, 2**15 + 1), (2**16, 2**16)])
def test_numbers_that_need_all_32_bits(size):
    axes = read_axes({"a": np.arange(size[0]), "b": np.arange(size[1])})
    program = compile_tile(trace(lambda a, b: (a, b), axes, None), axes, None, [], block=4)
    numbers = np.asarray([0, 2**31 - 1, 2**31, math.prod(size) - 1])
    last = range(math.prod(size) - 4, math.prod(size))
    for some in (numbers.astype(np.uint32), last):
        results = computed(program, some)
        for got, expected in zip("01", np.unravel_index(some, size), strict=True):
            np.testing.assert_array_equal(results[got], expected)


def test_double_precision(stores, x64):
    done = bn.sweep(lambda x: jnp.exp(x), {"x": "0:1:3"}, store=stores / "x64").load()
    assert done["result"].dtype == np.float64
    np.testing.assert_allclose(done["result"], np.exp([0.0, 0.5, 1.0]), rtol=1e-15)


def test_a_large_cell(stores):
    # More than a chunk is meant to hold: one cell a chunk and a block.
    def large(x):
        return jnp.broadcast_to(x, (2**24 + 1,))

    done = bn.sweep(large, {"x": [1.0, 2.0]}, store=stores / "large", attrs={}).isel(result_0=-1)
    np.testing.assert_array_equal(done["result"], [1.0, 2.0])
    assert Store(stores / "large").chunks.box == (1,)


@pytest.mark.parametrize(
    ("shape", "cells"),
    [((10,), 3), ((7, 5), 12), ((3, 4, 5), 1), ((4, 3), 100), ((2, 3, 7), 5), ((1, 1), 1)],
)
def test_chunks_are_a_partition(shape, cells):
    chunks = Chunks(shape, cut(shape, cells))
    assert math.prod(chunks.box) <= cells
    numbers = [chunks.cells(chunk) for chunk in range(chunks.number)]
    assert sorted(np.concatenate(numbers)) == list(range(math.prod(shape)))
    values = np.arange(math.prod(shape)).reshape(shape)
    for chunk, own in enumerate(numbers):
        np.testing.assert_array_equal(values[chunks.slices(chunk)].reshape(-1), own)


def test_blocks_are_no_larger_than_small_grids_ask_for():
    # A cell that takes a minute must not be computed a thousand times over to fill a block.
    cell = trace(lambda x: x, read_axes(X), None)
    blocks = [default_block(cell, cells, on_cpu=True) for cells in (1, 3, 20, 1000, 10**4, 10**7)]
    assert blocks == [1, 4, 32, 32, 64, 1024]
    assert [default_block(cell, cells, on_cpu=False) for cells in (3, 1000)] == [4, 1024]


def test_a_few_slow_cells_are_not_computed_for_a_measurement(tmp_path, monkeypatch):
    sizes = []
    start = _sweep.Program.start
    monkeypatch.setattr(
        _sweep.Program, "start", lambda self, cells: sizes.append(len(cells)) or start(self, cells)
    )
    bn.sweep(lambda x: x, {"x": "0:1:100"}, store=tmp_path / "store")
    assert sum(sizes) == 100


# One compilation.


def test_one_compilation_whatever_happens(tmp_path):
    compiled = []

    def listen(event, _, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(about.get("fun_name"))

    def doubled(x):
        return jnp.sin(x) * 2.0

    axes = {"x": "0:1:50"}
    bn.sweep(lambda x: x, X, store=tmp_path / "warm")  # whatever else JAX compiles by the way
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        bn.sweep(doubled, axes, store=tmp_path / "store", chunk=8)  # the last has 2 cells
        assert len(compiled) == 1
        for chunk in range(2, 5):
            Store(tmp_path / "store").discard(chunk)
        bn.sweep(doubled, axes, store=tmp_path / "store")
        assert len(compiled) == 2
        # None for what is complete, and has no failed cells.
        bn.sweep(doubled, axes, store=tmp_path / "store")
        bn.sweep(doubled, axes, store=tmp_path / "store", rerun_failed=True)
        assert len(compiled) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


# What a store says.


def test_labels_and_attributes_are_kept(tmp_path):
    def scores(x):
        return {"score": jnp.ones(2) * x, "gap": x}

    bn.sweep(
        scores,
        X,
        store=tmp_path / "store",
        dims={"score": ["model"]},
        coords={"model": ["right", "wrong"]},
        attrs={"gap": {"units": "nats"}, "x": {"long_name": "payoff", "units": "seconds"}},
    )
    with xr.open_zarr(tmp_path / "store") as store:
        assert store["score"].dims == ("x", "model")
        np.testing.assert_array_equal(store["score"].sel(model="wrong"), [1.0, 2.0, 3.0])
        assert store["gap"].attrs == {"units": "nats"}
        assert store["x"].attrs == {"long_name": "payoff", "units": "seconds"}
        assert store["x"].dtype == np.float64
        assert store.attrs["bnjax_version"] == bn.__version__
        assert store["status"].attrs["flag_meanings"].split()[0] == "MISSING"


def test_a_store_is_open_to_readers_while_it_is_written(tmp_path):
    seen = []

    def look(done, _):
        with xr.open_zarr(tmp_path / "store") as store:
            seen.append((done, store.load()))
        assert bn.sweeps.status(tmp_path / "store").writers == (0,)

    def kinds(x, n):
        return {"f": x, "i": n, "b": x > -1.0, "u": n.astype(jnp.uint8), "c": jax.lax.complex(x, x)}

    axes = {"x": [0.0, 1.0], "n": [0, 1]}
    bn.sweep(kinds, axes, store=tmp_path / "store", chunk=2, progress=look)
    done, store = seen[0]
    assert done == 2
    missing = store.isel(x=1, n=0)
    assert store.isel(x=0)["status"].values.tolist() == [CellStatus.OK] * 2
    assert missing["status"] == CellStatus.MISSING
    assert np.isnan(missing["f"])
    assert np.isnan(missing["c"])
    assert missing["i"] == np.iinfo(np.int32).min
    assert missing["u"] == 255
    assert not missing["b"]
    assert seen[1][0] == 4
    assert (seen[1][1]["status"] == CellStatus.OK).all()


def test_status_of_a_sweep_that_was_stopped(tmp_path):
    def stop(done, cells):
        assert cells == 6
        if done == 4:
            raise KeyboardInterrupt

    call = functools.partial(bn.sweep, lambda x: x, {"x": "0:1:6"}, store=tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        call(chunk=2, progress=stop)
    # The chunk that was being written is finished, although nobody was told.
    state = bn.sweeps.status(tmp_path / "store")
    assert state.cells == 6
    assert state.chunks == 3
    assert state.done in (2, 3)
    assert state.writers == state.torn == state.torn_labels == ()
    assert state.rate > 0
    call()
    state = bn.sweeps.status(tmp_path / "store")
    assert state.complete
    assert state.seconds_left == 0
    assert state.failed == 0
    assert state.counts[CellStatus.OK] == 6


def test_status_of_what_is_no_sweep(tmp_path):
    for call in (bn.sweeps.status, bn.sweeps.failed):
        with pytest.raises(ValueError, match="must be a sweep"):
            call(tmp_path)


def test_a_complete_sweep_is_not_computed_again(tmp_path, monkeypatch):
    bn.sweep(lambda x: x, X, store=tmp_path / "store")
    before = files(tmp_path / "store")
    monkeypatch.setattr(Store, "write", None)
    bn.sweep(lambda x: x, X, store=tmp_path / "store")
    assert files(tmp_path / "store") == before


def test_zarr_is_left_as_it_was(tmp_path):
    seen = []
    bn.sweep(
        lambda x: x,
        X,
        store=tmp_path / "store",
        chunk=1,
        progress=lambda *_: seen.append(zarr.config.get("array.write_empty_chunks")),
    )
    assert seen == [False] * 3


def test_a_sweep_in_another_thread(tmp_path):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(bn.sweep(lambda x: x, X, store=tmp_path / "store"))
    )
    thread.start()
    thread.join()
    np.testing.assert_array_equal(done[0]["result"], X["x"])


def test_a_link_to_an_empty_directory_is_a_place_for_a_store(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    bn.sweep(lambda x: x, X, store=tmp_path / "link")
    assert bn.sweeps.status(tmp_path / "real").complete


def test_values_between_the_same_ends_are_told_without_checksums():
    was = {"axes": {"x": {"x": {"size": 3, "first": 0.0, "last": 1.0, "values": "5d1b"}}}}
    now = {"axes": {"x": {"x": {"size": 3, "first": 0.0, "last": 1.0, "values": "9f02"}}}}
    assert differences(was, now) == ["axes.x.x has other values, between the same ends"]


# Cells that fail.


def shaky(x, n):
    return {"value": 1.0 / x, "solve": {"converged": n < 2}, "free": jnp.log(x - 5.0)}


@pytest.fixture(scope="module")
def failing(stores):
    axes = {"x": [0.0, 1.0, 2.0, 4.0], "n": [1, 2]}
    call = functools.partial(
        bn.sweep, shaky, axes, store=stores / "shaky", may_be_nan=["free"], chunk=2
    )
    with pytest.warns(RuntimeWarning, match=r"5 of 8 .* \(2 NONFINITE, 3 NOT_CONVERGED; at "):
        done = call().load()
    return call, done


def test_failed_cells_are_marked_and_listed(failing, stores):
    _, done = failing
    assert done["status"].values.tolist() == [[2, 2], [1, 3], [1, 3], [1, 3]]
    assert done["value"].values.tolist() == [[np.inf] * 2, [1.0] * 2, [0.5] * 2, [0.25] * 2]
    table = bn.sweeps.failed(stores / "shaky")
    assert table["number"].values.tolist() == [0, 1, 3, 5, 7]
    assert table["status"].values.tolist() == [2, 2, 3, 3, 3]
    assert table["x"].values.tolist() == [0.0, 0.0, 1.0, 2.0, 4.0]
    assert table["n"].values.tolist() == [1, 2, 2, 2, 2]
    state = bn.sweeps.status(stores / "shaky")
    assert state.failed == 5
    assert state.complete


def test_failed_cells_are_a_sweep_of_their_own(failing, stores, tmp_path):
    table = bn.sweeps.failed(stores / "shaky")
    axes = {"cell": {name: table[name] for name in ("x", "n")}}
    done = bn.sweep(lambda x, n: x + n.astype(x.dtype), axes, store=tmp_path / "store")
    np.testing.assert_array_equal(done["result"], table["x"] + table["n"])


def test_failed_cells_alone_are_computed_again(failing, stores, monkeypatch):
    call, before = failing
    again = []
    start = _sweep.Program.start

    def note(self, numbers):
        again.extend(numbers.tolist())
        return start(self, numbers)

    def mended(self, tile, results):
        fetch(self, tile, results)
        results["value"][~np.isfinite(results["value"])] = 99.0
        results["status"][:] = CellStatus.OK

    fetch = _sweep.Program.fetch
    monkeypatch.setattr(_sweep.Program, "start", note)
    with pytest.warns(RuntimeWarning, match="5 of 8"):
        call(rerun_failed=True)  # a pure function fails again
    assert sorted(again) == [0, 1, 3, 5, 7]
    xr.testing.assert_identical(xr.open_zarr(stores / "shaky").load(), before)
    monkeypatch.setattr(_sweep.Program, "fetch", mended)
    with pytest.warns(RuntimeWarning, match="5 of 8"):
        call()  # nothing is missing
    after = call(rerun_failed=True).load()
    assert (after["status"] == CellStatus.OK).all()
    assert after["value"].values.tolist() == [[99.0] * 2, [1.0] * 2, [0.5] * 2, [0.25] * 2]
    assert bn.sweeps.failed(stores / "shaky").sizes["cell"] == 0


def test_many_failed_cells_are_put_back_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(_program, "_SHARE_CELLS", 32)  # less than a chunk

    def never(x):
        return {"v": x, "converged": x < 0.2}

    call = functools.partial(bn.sweep, never, {"x": "0:1:99"}, store=tmp_path / "store", chunk=99)
    with pytest.warns(RuntimeWarning, match="79 of 99"):
        call()
    before = files(tmp_path / "store")
    with pytest.warns(RuntimeWarning, match="79 of 99"):
        call(rerun_failed=True)
    assert files(tmp_path / "store") == before


# Another sweep in the same store.


def line(x, n, key, *, slope=2.0, table=None, sign=1):
    x, n = x.astype(jnp.float32), n.astype(jnp.float32)
    table = jnp.zeros(5000) if table is None else table
    return {"y": sign * slope * x + n + table.sum() + jax.random.normal(key)}


LINE = {"x": [0.0, 1.0], "n": [1, 2]}
OTHER_TABLE = jnp.zeros(5000).at[2500].set(1.0)


@pytest.fixture(scope="module")
def kept(stores):
    bn.sweep(line, LINE, store=stores / "line", key=KEY, chunk=2)
    return stores / "line"


@cases(
    ("change", "told"),
    [
        ({"axes": {"x": [0.0, 1.5], "n": [1, 2]}}, r"axes\.x\.x\.last is 1\.0 there and 1\.5 here"),
        ({"axes": {"x": [0.0, 0.5, 1.0], "n": [1, 2]}}, r"axes\.x\.x\.size is 2 there and 3 here"),
        ({"axes": {"x": [0.0, 1.0], "n": [1, 1]}}, r"axes\.n\.n\.last is 2 there and 1 here[;.]"),
        ({"axes": {"n": [1, 2], "x": [0.0, 1.0]}}, r"order is \['x', 'n'\] there and \['n', 'x'\]"),
        ({"axes": {"x": [0, 1], "n": [1, 2]}}, r"axes\.x\.x\.dtype is float64 there and int64"),
        ({"key": jax.random.key(12)}, r"key\.words is \[0, 11\] there and \[0, 12\] here"),
        ({"key": jax.random.key(11, impl="rbg")}, r"key\.impl is threefry2x32 there and rbg here"),
        (
            {"function": functools.partial(line, slope=3.0)},
            r"another sweep: function\.program is another: what .* computes has changed, .*\. Make",
        ),
        ({"function": functools.partial(line, sign=-1)}, r"function\.program is"),
        ({"function": functools.partial(line, table=OTHER_TABLE)}, r"function\.program is"),
        (
            {"dims": {"y": []}, "attrs": {"y": {"units": "nats"}}},
            r"attrs\.y\.units is absent there",
        ),
        ({"may_be_nan": ["y"]}, r"may_be_nan is \[\] there and \['y'\] here"),
        ({"chunk": 1}, r"`chunk` must be left out .* chunks of 1x2 cells; got 1"),
    ],
)
def test_another_sweep_is_refused(kept, change, told):
    before = files(kept)
    call = {"function": line, "axes": LINE, "key": KEY} | change
    with pytest.raises(ValueError, match=told):
        bn.sweep(call.pop("function"), call.pop("axes"), store=kept, **call)
    assert files(kept) == before


def test_another_precision_is_refused(tmp_path):
    call = functools.partial(bn.sweep, lambda x: x, X, store=tmp_path / "store")
    call()
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="precision is float32 there and float64 here"),
    ):
        call()


def test_the_same_sweep_is_known_by_what_it_computes(kept):
    # Another object, and a chunk that comes to the same.
    bn.sweep(functools.partial(line, slope=2.0), LINE, store=kept, key=KEY, chunk=3)


def test_constants_are_told_apart_wherever_they_hide():
    a, b = jnp.zeros(5000), OTHER_TABLE
    axes = read_axes(X)

    def held(c):
        function = jax.custom_jvp(lambda x: (x * c).sum())
        function.defjvp(lambda p, t: (function(*p), t[0]))
        return function

    ways = [
        lambda c: lambda x: x * c.sum(),
        lambda c: jax.jit(lambda x: (x * c).sum()),
        lambda c: lambda x: jax.lax.cond(x > 0.0, lambda: (x * c).sum(), lambda: x),
        lambda c: lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + c[2500], x),
        lambda c: jax.checkpoint(lambda x: (x * c).sum()),
        held,
    ]
    for way in ways:
        prints = [trace(way(c), axes, None).fingerprint for c in (a, b, a)]
        assert prints[0] == prints[2] != prints[1]


def test_fingerprints_outlive_processes(kept):
    code = """
import functools, jax
from bnjax.sweeps._axes import read_axes
from bnjax.sweeps._program import trace
from tests.test_sweep import KEY, LINE, line
print(trace(line, read_axes(LINE), KEY).fingerprint)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == Store(kept).configuration["function"]["program"]


# What is refused before anything is computed, and leaves nothing behind.


@cases(
    "function",
    [
        lambda n: jnp.zeros(n),
        lambda n: jnp.arange(n),
        lambda n: jnp.arange(5)[:n],
        lambda n: jnp.arange(3)[jnp.arange(3) > n],
        lambda n: [1.0 for _ in range(n)],
        lambda n: n if n > 1 else -n,
        lambda n: float(n),
        lambda n: np.sin(n),
    ],
)
def test_functions_that_look_at_their_arguments(nothing_left, function):
    with pytest.raises(ValueError, match="`function` must work for arguments that are traced"):
        bn.sweep(function, {"n": [1, 2]}, store=nothing_left)


def _fails(x):
    raise TypeError("my own")


@cases(
    ("function", "told"),
    [
        (lambda x: None, "at least one array"),
        (lambda x: "a", "pytree of arrays; got 'a'"),
        (lambda x: object(), "pytree of arrays; got <object"),
        (lambda x: jax.random.key(0), "output `result` is a key"),
        (lambda x: x.astype(jnp.bfloat16), "output `result` is bfloat16. Convert it"),
        (lambda x: {"x": x}, "must not call an output `x`"),
        (lambda x: {"status": x}, "must not call an output `status`"),
        (lambda x: {"a": {"b": x}, "a.b": x}, "two are `a.b`"),
        (lambda x: {"a/b": x}, "got 'a/b'"),
        (lambda x: {"..": x}, "got '..'"),
        (lambda x: {"__a": x}, "got '__a'"),
        (lambda x: {"zarr": {"json": x}}, "got 'zarr.json'"),
        (lambda x: {"a" * 300: x}, "up to 100 letters"),
        (lambda x: {"a": jnp.ones(2), "a_0": x}, "must not use the name of an output"),
        (lambda y: y, "`x` of `axes` is no parameter of <lambda>; it has: y"),
        (lambda xx: xx, "did you mean `xx`"),
        (lambda x, y: x, "`y` must be given"),
        (lambda x, /: x, "`x` of `axes` is no parameter"),
        (lambda x, key: x, "`key` must be given"),
    ],
)
def test_functions_that_do_not_fit(nothing_left, function, told):
    with pytest.raises(ValueError, match=told):
        bn.sweep(function, X, store=nothing_left)


def test_errors_of_the_function_are_its_own(nothing_left):
    with pytest.raises(TypeError, match="my own"):
        bn.sweep(_fails, X, store=nothing_left)


@cases(
    ("axes", "told"),
    [
        ({}, "at least one name"),
        ({"x": []}, "not empty"),
        ({"x": 1.0}, "one-dimensional"),
        ({"x": [[1.0]]}, "one-dimensional"),
        ({"x": [[1.0], [1.0, 2.0]]}, "array of numbers"),
        ({"x": [1.0, math.nan]}, "must be finite; got nan at index 1"),
        ({"x": [1e300]}, "fit float32"),
        ({"x": [2**40]}, "fit int32"),
        ({"x": [1j]}, "real numbers"),
        ({"x": ["a"]}, "real numbers"),
        ({"x": [None]}, "real numbers"),
        ({"x": "0:1"}, "low:high:n"),
        ({"x": "0:1:0"}, "low:high:n"),
        ({"x": "0:inf:3"}, "low:high:n"),
        ({"x": "0:1:99999999999"}, "at most 2\\^32 cells"),
        ({"x": np.zeros(2**17), "n": np.zeros(2**16)}, "at most 2\\^32 cells"),
        ({"a b": [1.0]}, "names that Python can call"),
        ({"key": [1.0]}, "reserved name"),
        ({"status": [1.0]}, "reserved name"),
        ({"x": {"x": [1.0]}}, "argument of its own name"),
        ({"x": [1.0], "z": {"x": [1.0]}}, "each name once; got `x`"),
        ({"z": {}}, "zip at least one"),
        ({"z": {"x": [1.0], "n": [1, 2]}}, "got x 1, n 2"),
    ],
)
def test_axes_that_are_none(nothing_left, axes, told):
    with pytest.raises(ValueError, match=told):
        bn.sweep(lambda x, n=0: x, axes, store=nothing_left)


@cases(
    ("options", "told"),
    [
        ({"key": KEY}, "has no parameter `key`"),
        ({"key": jnp.zeros(3, jnp.uint32)}, "`key` must be one JAX key"),
        ({"chunk": 0}, "`chunk` must be a positive number"),
        ({"chunk": True}, "`chunk` must be a positive number"),
        ({"dims": {"v": "m"}}, "`dims` must hold several names"),
        ({"dims": {"w": ["m"]}}, "`dims` must name what is there; got 'w'"),
        ({"dims": {"v": ["m", "n"]}}, "must name each dimension of `v`"),
        ({"dims": {"v": ["x"]}}, "must not use the name of an axis"),
        ({"dims": {"v": ["s"]}}, "must not use the name of an output"),
        ({"dims": {"v": ["status"]}}, "must not use the name of an output"),
        ({"dims": {"v": ["m/n"]}}, "got 'm/n'"),
        ({"coords": {"m": [1, 2]}}, "`coords` must name what is there; got 'm'"),
        ({"coords": {"v_0": [1]}}, "must label `v_0` with 2 numbers"),
        ({"coords": {"v_0": [1.0, math.nan]}}, "must be finite"),
        ({"attrs": {"w": {}}}, "`attrs` must name what is there; got 'w'"),
        ({"attrs": {"x": {"a": object()}}}, "numbers, strings and lists"),
        ({"attrs": {"x": {"a": math.nan}}}, "numbers, strings and lists"),
        ({"attrs": {"v": {"scale_factor": 2.0}}}, "`scale_factor` 2.0 of `v`"),
        ({"attrs": {"x": {"units": "days since 2000-01-01"}}}, "what numbers mean"),
        ({"may_be_nan": "v"}, "`may_be_nan` must hold several names"),
        ({"may_be_nan": ["w"]}, "`may_be_nan` must name what is there; got 'w'"),
    ],
)
def test_options_that_do_not_fit(nothing_left, options, told):
    def function(x):
        return {"v": jnp.ones(2) * x, "s": x}

    with pytest.raises(ValueError, match=told):
        bn.sweep(function, X, store=nothing_left, **options)


def test_wrong_types(nothing_left):
    """Without the checks of types that these tests run under, as users have it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep_worker", "refuse", str(nothing_left)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert len(told) == len(WRONG_TYPES)
    for got, (_, expected) in zip(told, WRONG_TYPES, strict=True):
        assert expected in got


@pytest.mark.parametrize("store", ["", "s3://bucket/sweep"])
def test_stores_that_are_no_directories(store):
    with pytest.raises(ValueError, match="must be a directory of this machine"):
        bn.sweep(lambda x: x, X, store=store)


@pytest.mark.parametrize("kind", ["file", "things", "group", "torn", "version 2"])
def test_stores_that_are_something_else(tmp_path, kind):
    store = tmp_path / "store"
    if kind == "file":
        store.write_text("mine")
    elif kind == "things":
        store.mkdir()
        (store / "thing").write_text("mine")
    elif kind == "group":
        zarr.create_group(store, attributes={"sweep": "mine"})
    elif kind == "torn":
        store.mkdir()
        (store / "zarr.json").write_text('{"zarr')
    else:
        zarr.create_group(store, zarr_format=2)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"must be a sweep, or not exist; .* is something else"):
        bn.sweep(lambda x: x, X, store=store)
    assert files(tmp_path) == before
    for look in (bn.sweeps.status, bn.sweeps.failed):
        with pytest.raises(ValueError, match=r"must be a sweep; there is nothing at .*nowhere"):
            look(tmp_path / "nowhere")


def test_stores_of_a_later_format(kept, tmp_path):
    root = tmp_path / "zarr.json"
    text = (kept / "zarr.json").read_text()
    for file in kept.rglob("zarr.json"):
        (tmp_path / file.relative_to(kept)).parent.mkdir(exist_ok=True)
        (tmp_path / file.relative_to(kept)).write_bytes(file.read_bytes())
    root.write_text(re.sub(r'"format": 1\b', '"format": 99', text))
    assert json.loads(root.read_text())["attributes"]["sweep"]["format"] == 99
    with pytest.raises(ValueError, match="written in format 99; this version of bnjax reads"):
        bn.sweeps.status(tmp_path)


def test_opening_gives_no_warnings(kept):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.open_zarr(kept).load().close()
