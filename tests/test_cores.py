"""Threads that share work among the cores of a CPU, and the programs that they run."""

import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import bnjax as bn
from bnjax import _cores
from bnjax._devices import host_array, to_device

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")


@pytest.fixture
def three(monkeypatch):
    """Three cores."""
    monkeypatch.setattr(_cores, "usable_cores", lambda: 3)


@pytest.mark.parametrize("total", [1, 5, 97])
def test_each_thing_is_done_once(total, three):
    done = np.zeros(total, int)

    def work(share):
        done[share.start : share.stop] += 1

    _cores.on_cores(work, total, 8, unit=2)
    assert (done == 1).all()


def test_several_threads_are_at_work_at_a_time(three):
    together = threading.Barrier(3, timeout=60)
    _cores.on_cores(lambda share: together.wait(), 3, 1)
    assert not together.broken


def test_callers_share_the_threads(three):
    # More callers than threads: whoever finds none does all of its work alone.
    def call(_):
        done = np.zeros(40, int)

        def work(share):
            time.sleep(0.002)
            done[share.start : share.stop] += 1

        _cores.on_cores(work, len(done), 4)
        return done

    with ThreadPoolExecutor(6) as callers:
        for done in callers.map(call, range(12)):
            assert (done == 1).all()


@pytest.mark.parametrize("place", [0, 4])
def test_an_error_of_any_thread_is_the_callers(place, three):
    meet, begun = threading.Barrier(3, timeout=60), []

    def work(share):
        begun.append(share)
        if share.start < 6:
            meet.wait()
        if share.start == place:
            raise ZeroDivisionError(f"at {place}")
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError, match=f"at {place}"):
        _cores.on_cores(work, 1000, 2)
    assert len(begun) < 20  # nobody goes on
    _cores.on_cores(lambda share: None, 1000, 2)  # and the threads are there for others


def test_a_program_is_kept(monkeypatch):
    monkeypatch.setattr(_cores, "_programs", OrderedDict())
    monkeypatch.setattr(_cores, "_MOST_PROGRAMS", 2)
    few, problem = {"num_agents": 4, "num_steps": 3}, bn.scenarios.coin()
    bn.simulate(problem, jax.random.key(0), **few)
    (first,) = _cores._programs.values()
    bn.simulate(problem, jax.random.key(1), **few)
    assert list(_cores._programs.values()) == [first]
    for tile in (8, 16):  # no more than so many are
        bn.simulate(problem, jax.random.key(1), tile=tile, **few)
    assert first not in _cores._programs.values()
    assert len(_cores._programs) == 2


@pytest.mark.parametrize("size", [3, 2**21])
def test_arrays_of_the_host_become_jaxs(size):
    arrays = [host_array((size,), np.dtype(np.float32)), np.zeros(0, np.int32)]
    arrays[0][:] = np.arange(size)
    given, nothing = to_device(arrays)
    assert isinstance(given, jax.Array)
    assert nothing.dtype == np.int32
    assert not given.committed
    np.testing.assert_array_equal(given, np.arange(size, dtype=np.float32))
    # The large ones without a copy.
    assert np.shares_memory(np.asarray(given), arrays[0]) == (size > 3)
