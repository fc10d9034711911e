"""Sweeps on several devices and in several processes: the same bytes, whoever lives and dies."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import bnjax as bn
from bnjax.sweeps._store import Store

from .sweep_worker import CHUNKS, SLOW, files, leftovers, start

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a store that one process with one device made."""
    store = tmp_path_factory.mktemp("whole") / "store"
    start(store)
    return files(store)


def free_port():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def processes(store, *, number=1, devices=1, **options):
    """Processes that run the sweep together, and are ended with the test."""
    if number > 1:
        options |= {"port": free_port(), "of": number}
    with contextlib.ExitStack() as stack:
        started = []
        for process in range(number):
            own = options | ({"process": process} if number > 1 else {})
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.sweep_worker", "run", str(store)]
                    + [f"{name}={value}" for name, value in own.items()],
                    cwd=ROOT,
                    env=os.environ
                    | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.enter_context(started[-1])
            stack.callback(started[-1].kill)
        yield started


def succeed(process):
    out, said = process.communicate()
    assert process.returncode == 0, said
    return out.split("\n")


def wait_for_a_chunk(process):
    for line in process.stdout:
        if line.strip().isdigit():  # Gloo has things to say too
            return
    raise AssertionError(process.communicate()[1])


def test_cores_and_devices_make_no_difference(tmp_path, whole):
    with (
        processes(tmp_path / "2", cores=2) as (two,),
        processes(tmp_path / "4", devices=4, apart=1) as (four,),
    ):
        assert '"shares": 2, "devices": 1' in succeed(two)[-2]
        assert '"shares": 4, "devices": 4' in succeed(four)[-2]
    assert files(tmp_path / "2") == files(tmp_path / "4") == whole


def test_two_processes_make_no_difference(tmp_path, whole):
    with processes(tmp_path / "store", number=2) as both:
        told = [succeed(process) for process in both]
    assert all('"processes": 2' in lines[-2] for lines in told)
    # Each computed half.
    assert all(str(8 * CHUNKS // 2) in lines for lines in told)
    assert files(tmp_path / "store") == whole
    assert leftovers(tmp_path / "store") == []
    assert len(list((tmp_path / "store" / "status").glob("process-*.log"))) == 2


def test_one_of_two_processes_is_killed(tmp_path):
    store = tmp_path / "store"
    slow = {"steps": 4 * SLOW, "visible": 1, "heartbeat": 5}
    with processes(store, number=2, **slow) as (first, second):
        wait_for_a_chunk(second)
        second.kill()
        # The first does what is its own, and then it says what is missing, unless JAX ends it
        # before: its coordinator ends all processes when one has been silent for long.
        _, said = first.communicate()
        second.communicate()
    assert first.returncode != 0
    assert "because the process that was to compute them ended" in said or (
        "JAX distributed service detected fatal errors" in said
    )
    state = bn.sweeps.status(store)
    assert 0 < state.done < CHUNKS
    assert state.writers == ()
    start(store, steps=4 * SLOW)  # alone
    start(tmp_path / "whole", steps=4 * SLOW)
    assert files(store) == files(tmp_path / "whole")
    assert leftovers(store) == []


@pytest.mark.slow
def test_a_process_that_takes_long_to_open_the_store(tmp_path, whole):
    # Longer than Gloo would wait, because what is there is checked byte by byte.
    with processes(tmp_path / "store", number=2, check=35) as both:
        for process in both:
            succeed(process)
    assert files(tmp_path / "store") == whole


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_first_of_two_processes_ends(tmp_path, how):
    # It is the one that holds JAX's coordinator: the other is ended by JAX at once.
    store = tmp_path / "store"
    with processes(store, number=2, steps=4 * SLOW) as (first, second):
        wait_for_a_chunk(first)
        first.send_signal(how)
        _, said = first.communicate()
        second.communicate()
    assert first.returncode == -how
    assert ("bnjax: terminated" in said) == (how == signal.SIGTERM)
    assert second.returncode != 0
    assert len(bn.sweeps.status(store).torn) <= 2  # one a process
    with processes(store, number=2, steps=4 * SLOW) as both:
        for process in both:
            succeed(process)
    start(tmp_path / "whole", steps=4 * SLOW)
    assert files(store) == files(tmp_path / "whole")


@pytest.mark.slow
def test_a_process_that_cannot_open_the_store(tmp_path):
    # Both say so, rather than one and the other waiting for ever.
    (tmp_path / "file").write_text("mine")
    with processes(tmp_path / "file", number=2) as both:
        said = [process.communicate()[1] for process in both]
    assert all("must be a sweep, or not exist" in each for each in said)
    assert all(process.returncode != 0 for process in both)
    start(tmp_path / "store")
    with Store(tmp_path / "store").lease(1), processes(tmp_path / "store", number=2) as both:
        said = [process.communicate()[1] for process in both]
    assert "still being written by process 1 of an earlier sweep" in said[0]
    assert "the sweep's first process could not open the store" in said[1]
    lease = tmp_path / "store" / "status" / "process-1.lock"
    lease.unlink()
    lease.mkdir()  # the second cannot have it
    with processes(tmp_path / "store", number=2) as both:
        said = [process.communicate()[1] for process in both]
    assert "another process of the sweep could not open the store" in said[0]
    assert "`store` must be writable" in said[1]
    assert all(process.returncode != 0 for process in both)
