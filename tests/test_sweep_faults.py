"""Sweeps that are killed, starved, torn and disturbed: what is kept, what is said, what goes on."""

import contextlib
import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr
from filelock import FileLock

import bnjax as bn
from bnjax import _cores
from bnjax.sweeps import _program, _store, _sweep
from bnjax.sweeps._store import Log, Store

from .sweep_worker import CHUNKS, SLOW, files, leftovers, start

ROOT = Path(__file__).parent.parent
WORKER = [sys.executable, "-m", "tests.sweep_worker"]
VARIABLES = ("mean", "draws", "large", "code")


def worker(*args, within=(), **options):
    """What a process of its own prints as JSON."""
    told = [f"{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [*within, *WORKER, *map(str, args), *told],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    """Compile what these tests run once, not dozens of times: here it is not what is tested."""
    programs = {}
    compile_tile = _sweep.compile_tile

    def kept(cell, axes, key, may_be_nan, block):
        room = _program._SHARE_CELLS, _cores.usable_cores()
        what = cell.fingerprint, axes.shape, block, room
        if what not in programs:
            programs[what] = compile_tile(cell, axes, key, may_be_nan, block)
        return programs[what]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep, "compile_tile", kept)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store that nothing happened to."""
    store = tmp_path_factory.mktemp("whole") / "store"
    start(store)
    return store


@pytest.fixture
def store(whole, tmp_path):
    """A copy of it, to damage."""
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


def stopped(store, after=3, error=KeyboardInterrupt, **options):
    """Start the sweep and stop it after some chunks."""

    def stop(done, _):
        if done >= after * 8:
            raise error

    with pytest.raises(error):
        start(store, progress=stop, **options)


# Kills.


def check_kills(told, number):
    assert told["kills"] == number
    assert told["same"] == told["stores"]
    assert told["lost"] == 0
    # Of a chunk that was computed but not yet on the disk, and of no other, work is repeated; one
    # more may have been begun.
    assert told["most computed twice"] <= 1
    assert told["most begun twice"] <= 2


def test_kills_at_random_moments(tmp_path):
    check_kills(worker("kills", tmp_path, 5, 5, 0), 5)


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path):
    told = worker("kills", tmp_path, 200, 1, 1)
    print(told)
    check_kills(told, 200)
    assert told["stores"] == 200


def test_kills_at_some_touches_of_the_disk(tmp_path):
    told = worker("steps", tmp_path, 14, 50)
    assert len(told["same"]) > 1
    assert all(told["same"])


@pytest.mark.slow
def test_kills_at_every_touch_of_the_disk(tmp_path):
    told = worker("steps", tmp_path, 1, 1)
    assert len(told["same"]) > 50
    assert all(told["same"])


def test_what_was_left_of_a_store_that_was_being_made(whole, tmp_path):
    torn = tmp_path / ".store.making" / "store" / "mean"
    torn.mkdir(parents=True)
    (torn / "zarr.json").write_text('{"zarr')
    (tmp_path / ".store.making" / "lock").touch()
    start(tmp_path / "store")
    assert [x.name for x in tmp_path.iterdir()] == ["store"]
    assert files(tmp_path / "store") == files(whole)


def test_what_was_left_of_writing(store):
    # By one who was killed while a chunk was written, or after the store was made.
    (store / "mean" / "c" / "0" / "0.0123456789abcdef.partial").write_bytes(b"torn")
    workshop = store.with_name(f".{store.name}.making")
    workshop.mkdir()
    start(store)
    assert leftovers(store) == []


# Damage.


def truncated(file):
    file.write_bytes(file.read_bytes()[:-3])


def emptied(file):
    file.write_bytes(b"")


def zeroed(file):
    # What some file systems leave of the last files that were written before the power failed.
    file.write_bytes(bytes(file.stat().st_size))


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(bytes(content))


def flipped_in_its_checksum(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def deleted(file):
    file.unlink()


def made_a_directory(file):
    file.unlink()
    file.mkdir()


DAMAGES = [truncated, emptied, zeroed, flipped, flipped_in_its_checksum, deleted]


@pytest.mark.parametrize("variable", ["draws", "status"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_chunks_are_found(store, damage, variable):
    damage(Store(store).file(variable, 5))
    state = bn.sweeps.status(store)
    assert not state.complete
    assert state.torn == (5,)
    assert state.done == CHUNKS - 1
    assert state.counts[bn.sweeps.CellStatus.MISSING] == 8
    assert bn.sweeps.failed(store).sizes["cell"] == 0


def test_damaged_chunks_are_computed_again(store, whole):
    # A chunk each, and in the last all files.
    for chunk, damage in enumerate(DAMAGES):
        damage(Store(store).file(VARIABLES[chunk % 4], chunk))
    for variable in (*VARIABLES, "status"):
        deleted(Store(store).file(variable, 9))
    assert bn.sweeps.status(store).torn == tuple(range(len(DAMAGES)))
    start(store)
    assert files(store) == files(whole)
    start_, chunks = Log(store / "status" / "process-0.log").last_run()
    assert start_["chunks"] == len(chunks) == len(DAMAGES) + 1
    assert {said["chunk"] for said in chunks} == {*range(len(DAMAGES)), 9}


@pytest.mark.parametrize("damage", [truncated, flipped, deleted], ids=lambda x: x.__name__)
def test_damaged_labels_are_written_again(store, whole, damage):
    damage(store / "x" / "c" / "0")
    state = bn.sweeps.status(store)
    assert state.torn_labels == ("x",)
    assert state.done == state.chunks
    assert not state.complete
    start(store)
    assert files(store) == files(whole)
    assert bn.sweeps.status(store).complete


def test_labels_of_nothing_but_zeros_are_files(tmp_path):
    # Zarr leaves out what holds nothing but fill values, which would look like damage.
    def function(x, n):
        return {"v": jnp.zeros(2)}

    bn.sweep(
        function,
        {"x": [0.0], "n": [False]},
        store=tmp_path / "store",
        dims={"v": ["m"]},
        coords={"m": ["", ""]},
    )
    assert bn.sweeps.status(tmp_path / "store").complete


# A disk that is full.


def can_mount():
    try:
        done = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no file system may be mounted here")
def test_a_disk_that_is_full_and_one_that_is_read_only(tmp_path):
    mount = f"mount -t tmpfs -o size=400k none {tmp_path} && exec " + '"$@"'
    told = worker("full_disk", tmp_path, within=["unshare", "-rm", "sh", "-c", mount, "sh"])
    assert "could not be written: No space left on device" in told["full"]
    assert "cells are done and safe" in told["full"]
    assert 0 < told["done"] < 64
    assert told["left"] == []
    assert "No space left on device" in told["still full"]
    assert told["complete"]
    expected = tmp_path / "expected"
    start(expected, chunks=64)
    assert told["values"] == xr.open_zarr(expected)["mean"].values.tobytes().hex()
    assert "`store` must be writable" in told["read-only"]
    assert "Read-only file system" in told["read-only"]
    assert "Read-only file system" in told["none there"]
    assert told["read"]


def test_a_write_that_fails(tmp_path, whole, monkeypatch):
    replace, count = Path.replace, 0

    def fails(self, target):
        nonlocal count
        count += 1
        if count == 18:  # in the fourth chunk, of which two files are there
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    stopped(tmp_path / "store", 1)
    before = bn.sweeps.status(tmp_path / "store").done
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(
        OSError, match=r"No space left on device; \d+ of 128 cells are done"
    ) as told:
        start(tmp_path / "store")
    assert told.value.errno == errno.ENOSPC
    state = bn.sweeps.status(tmp_path / "store")
    assert state.done == before + 3
    assert len(state.torn) == 1
    assert leftovers(tmp_path / "store") == []
    start(tmp_path / "store")
    assert files(tmp_path / "store") == files(whole)


def test_a_log_that_fails(tmp_path, whole, monkeypatch):
    def fails(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(Log, "chunk", fails)
        with pytest.raises(OSError, match=r"Disk quota exceeded; .* the same call goes on"):
            start(tmp_path / "store")
    start(tmp_path / "store")
    assert files(tmp_path / "store") == files(whole)


def test_stores_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"`store` must be writable; .*: Not a directory"):
        start(tmp_path / "file" / "store")
    assert [x.name for x in tmp_path.iterdir()] == ["file"]


def test_a_lease_that_cannot_be_taken(store):
    lock = store / "status" / "process-0.lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(ValueError, match="`store` must be writable"):
        start(store)


# Several who want to write.


def test_a_second_writer_is_refused(store):
    deleted(Store(store).file("mean", 5))
    with (
        Store(store).lease(0),
        pytest.raises(
            ValueError, match=rf"being written by another sweep \(process {os.getpid()} on"
        ),
    ):
        start(store)
    assert bn.sweeps.status(store).done == CHUNKS - 1


def test_a_second_writer_within_the_first_is_refused(tmp_path):
    refused = []

    def again(*_):
        with pytest.raises(ValueError, match="is being written by another sweep") as told:
            start(tmp_path / "store")
        refused.append(told)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "store", progress=again)
    assert len(refused) == 1


def test_another_process_of_an_earlier_sweep_is_waited_for(store):
    with (
        Store(store).lease(3),
        pytest.raises(ValueError, match="still being written by process 3 of an earlier sweep"),
    ):
        start(store)


def test_a_glance_at_the_leases_disturbs_nobody(store):
    # `bnjax.sweeps.status` holds a lease for a moment.
    seen = threading.Event()

    def glance():
        with FileLock(store / "status" / "process-0.lock"):
            seen.set()
            time.sleep(0.1)

    thread = threading.Thread(target=glance)
    thread.start()
    assert seen.wait(10)
    start(store)
    thread.join()


def test_a_store_that_another_is_making(tmp_path):
    workshop = tmp_path / ".store.making"
    workshop.mkdir()
    with (
        FileLock(workshop / "lock"),
        pytest.raises(ValueError, match="is being made by another sweep at this moment"),
    ):
        start(tmp_path / "store")


def test_a_store_that_another_has_just_made(whole, tmp_path, monkeypatch):
    # It was not there when this one looked, and is when this one wants to make it.
    build = _store._build

    def builds(path, *args):
        shutil.copytree(whole, tmp_path / "store")
        return build(path, *args)

    monkeypatch.setattr(_store, "_build", builds)
    with pytest.raises(ValueError, match=r"`store` must be writable; .*: Directory not empty"):
        start(tmp_path / "store")
    assert files(tmp_path / "store") == files(whole)
    assert leftovers(tmp_path / "store") == []


# Signals, clocks and callers.


def test_sigterm_ends_the_process_and_says_how_to_go_on(tmp_path, whole):
    command = [*WORKER, "run", str(tmp_path / "store"), f"steps={SLOW}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert "bnjax: terminated; " in said
    assert f"of 128 cells are done in {tmp_path / 'store'}. The same call goes on." in said
    state = bn.sweeps.status(tmp_path / "store")
    assert 0 < state.done < CHUNKS
    assert state.torn == state.writers == ()
    start(tmp_path / "store", steps=SLOW)
    assert (
        xr.open_zarr(tmp_path / "store")["draws"].values.tobytes()
        == xr.open_zarr(whole)["draws"].values.tobytes()
    )


@contextlib.contextmanager
def on_sigterm(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        assert signal.signal(signal.SIGTERM, before) == handler


def terminate(*_):
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_where_the_caller_lives_on(tmp_path, whole):
    handled = []
    with (
        on_sigterm(lambda *_: handled.append(True)),
        pytest.raises(RuntimeError, match=r"terminated; \d+ of 128 cells are done"),
    ):
        start(tmp_path / "store", progress=terminate)
    assert handled == [True]
    assert bn.sweeps.status(tmp_path / "store").done in (1, 2)
    start(tmp_path / "store")
    assert files(tmp_path / "store") == files(whole)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
@pytest.mark.parametrize("how", [terminate, interrupt])
def test_who_is_told_to_stop_begins_nothing_more(how, tmp_path, monkeypatch):
    monkeypatch.setattr(_program, "_SHARE_CELLS", 32)  # four tiles, none of which is awaited yet
    monkeypatch.setattr(_cores, "usable_cores", lambda: 1)
    begun, begin = [], _program.Program.start

    def record(program, cells):
        if len(begun) == 3:
            how()
        begun.append(begin(program, cells))
        return begun[-1]

    monkeypatch.setattr(_program.Program, "start", record)
    with on_sigterm(lambda *_: None), pytest.raises((RuntimeError, KeyboardInterrupt)):
        start(tmp_path / "store", chunk=128, steps=SLOW)
    assert begun[-1].parts[0].cancelled()


def test_sigterm_that_the_caller_ignores(tmp_path):
    with on_sigterm(signal.SIG_IGN):
        start(tmp_path / "store", progress=terminate)
    assert bn.sweeps.status(tmp_path / "store").complete


def test_errors_of_progress_are_the_callers(tmp_path, whole):
    for _ in range(3):
        stopped(tmp_path / "store", after=1, error=ZeroDivisionError)
    start(tmp_path / "store")
    assert files(tmp_path / "store") == files(whole)


def test_what_is_left_is_computed_once(tmp_path, whole):
    stopped(tmp_path / "store", after=5)
    done = bn.sweeps.status(tmp_path / "store").done
    assert done in (5, 6)
    told = []
    start(tmp_path / "store", progress=lambda done, cells: told.append((done, cells)))
    assert told == [(8 * chunk, 128) for chunk in range(done + 1, CHUNKS + 1)]
    assert files(tmp_path / "store") == files(whole)


def test_a_clock_that_jumps(tmp_path, whole, monkeypatch):
    dice = np.random.default_rng(0)
    monkeypatch.setattr(time, "time", lambda: float(dice.uniform(-1e9, 4e9)))
    stopped(tmp_path / "store")
    start(tmp_path / "store")
    assert files(tmp_path / "store") == files(whole)
    assert bn.sweeps.status(tmp_path / "store").rate > 0


def test_a_directory_that_changes(tmp_path, monkeypatch):
    # A relative path stays what it was.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    done = start(Path("store"), progress=lambda *_: os.chdir(tmp_path / "elsewhere"))
    assert (done["status"].values == bn.sweeps.CellStatus.OK).all()
    assert leftovers(tmp_path / "store") == []


def test_logs_that_were_cut_off_are_read(store):
    log = store / "status" / "process-0.log"
    with log.open("a") as file:
        file.write('\n{"pid": 1, "ho')
    assert bn.sweeps.status(store).rate > 0
    start(store)
    assert Log(log).last_run()[0]["pid"] == os.getpid()


def test_logs_of_processes_of_old_do_not_count(store):
    rate = bn.sweeps.status(store).rate
    old = Log(store / "status" / "process-1.log")
    old.start()
    old.chunk(1, 10**9, 1.0)
    assert bn.sweeps.status(store).rate == rate


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_what_others_add_to_a_store_is_left_alone(store):
    mine = {"shape": (3,), "dtype": "f4", "dimension_names": ("mine",)}
    zarr.create_array(store / "mine", **mine)[:] = 1.0
    zarr.consolidate_metadata(store)
    assert bn.sweeps.status(store).complete
    deleted(Store(store).file("mean", 5))
    start(store)
    assert bn.sweeps.status(store).complete
    np.testing.assert_array_equal(zarr.open_array(store / "mine")[:], [1.0] * 3)


def test_interrupted_repeats_keep_failures_marked(tmp_path, monkeypatch):
    call = functools.partial(
        bn.sweep, lambda x: {"a": 1.0 / x, "b": x}, {"x": [0.0, 1.0]}, store=tmp_path / "store"
    )
    with pytest.warns(RuntimeWarning, match="1 of 2 cells"):
        call()
    before = files(tmp_path / "store")
    replace, count = Path.replace, 0

    def fails(self, target):
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.raises(OSError, match="Input/output error"):
            call(rerun_failed=True)
    assert bn.sweeps.failed(tmp_path / "store")["number"].values.tolist() == [0]
    with pytest.warns(RuntimeWarning, match="1 of 2 cells"):
        call(rerun_failed=True)
    assert files(tmp_path / "store") == before


@pytest.mark.slow
def test_memory_does_not_grow_with_cells(tmp_path):
    peaks = {n: worker("peak", tmp_path / str(n), cells=n)["peak"] for n in (10**5, 10**6, 10**7)}
    print(peaks)
    assert max(peaks.values()) <= 1.1 * peaks[10**5]
