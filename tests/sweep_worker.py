"""What the tests of sweeps do in processes of their own: run one, kill many, fill a disk.

``python -m tests.sweep_worker COMMAND ...``; prints a line of JSON.
"""

import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh

import bnjax as bn
from bnjax import _cores, _devices
from bnjax.sweeps import _others, _program, _sweep, _work

CHUNK, CHUNKS = 8, 16
SLOW = 200_000  # steps of a loop that make a chunk take some milliseconds


def cell(x, n, key, steps=0):
    """All kinds of outputs, with a loop that does not change them."""
    turned = jax.lax.fori_loop(0, steps, lambda _, y: jnp.cos(y), x)
    draws = jax.random.normal(key, (3,))
    return {
        "mean": jnp.exp(x) * draws.mean() + 0.0 * turned,
        "draws": draws,
        "large": x > 1.0,
        "code": n * 2,
    }


def start(store, *, chunks=CHUNKS, chunk=CHUNK, steps=0, **options):
    """The sweep that all the tests of faults run."""
    axes = {"x": f"0:2:{2 * chunks}", "n": list(range(4))}
    function = functools.partial(cell, steps=steps)
    return bn.sweep(function, axes, store=store, key=jax.random.key(7), chunk=chunk, **options)


def files(store):
    """Everything a store holds, but not who wrote it."""
    store = Path(store)
    found = {str(x.relative_to(store)): x for x in sorted(store.rglob("*")) if x.is_file()}
    return {name: x.read_bytes() for name, x in found.items() if x.suffix not in (".log", ".lock")}


def leftovers(store):
    """What ought not to lie in or beside a store that is done."""
    store = Path(store)
    beside = [x.name for x in store.parent.iterdir() if x.name.startswith(f".{store.name}")]
    return beside + [name for name in files(store) if name.endswith(".partial")]


# Processes that are killed. JAX has only been imported in the process that forks.


def fork(work):
    """Start a process that does something and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of JAX, which fears for threads that are not there yet
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(child):
    return os.waitpid(child, 0)[1]


def is_running(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def note_what_is_computed(path):
    """Have chunks noted when they are begun and when they are computed but not yet written."""
    begin, write = _work.Program.start, _work.Work._write

    def note(word):
        with open(path, "a") as file:
            file.write(f"{word}\n")

    def begins(self, cells):  # a tile, which here is a chunk
        note("begun")
        return begin(self, cells)

    def writes(self, chunk, results):
        note("computed")
        return write(self, chunk, results)

    _work.Program.start, _work.Work._write = begins, writes


def noted(path):
    words = Path(path).read_text().split() if Path(path).exists() else []
    return words.count("begun"), words.count("computed")


def kills(folder, number, each, seed):
    """Kill sweeps at random moments, some in one store before it may end; then compare all."""
    folder, dice = Path(folder), random.Random(int(seed))
    number, each = int(number), int(each)
    sweep = functools.partial(start, steps=SLOW)
    began = time.monotonic()
    assert ended(fork(lambda: sweep(folder / "whole"))) == 0
    whole_seconds, whole = time.monotonic() - began, files(folder / "whole")
    told = {"kills": 0, "ended before": 0, "same": 0, "stores": 0, "lost": 0}
    repeated, begun_again, in_between = [], [], 0
    while told["kills"] < number:
        store = folder / f"store-{told['stores']}"
        safe = 0
        for _ in range(min(each, number - told["kills"])):
            if safe == CHUNKS:  # a kill came too late: there is nothing left to disturb
                break
            notes = folder / "notes"
            notes.unlink(missing_ok=True)

            def work(store=store, notes=notes):
                note_what_is_computed(notes)
                sweep(store)

            child = fork(work)
            # Most of the moments ought to be among the chunks rather than in the compiler.
            if dice.random() < 0.8:
                words = dice.randrange(1, max(2, 2 * (CHUNKS - safe) + 1))  # it may be complete
                while sum(noted(notes)) < words and is_running(child):
                    time.sleep(0.001)
                time.sleep(dice.random() * 0.03)
            else:
                time.sleep(dice.random() * whole_seconds)
            os.kill(child, signal.SIGKILL)
            if os.WIFEXITED(ended(child)):
                told["ended before"] += 1
            told["kills"] += 1
            if store.exists():
                state = bn.sweeps.status(store)
                told["lost"] += state.done < safe  # what was safe is never lost
                begun, computed = noted(notes)
                repeated.append(computed - (state.done - safe))
                begun_again.append(begun - (state.done - safe))
                in_between += 0 < state.done < state.chunks
                safe = state.done
        assert ended(fork(lambda store=store: sweep(store))) == 0
        told["stores"] += 1
        told["same"] += files(store) == whole and not leftovers(store)
    told["in between"] = in_between
    told["most computed twice"] = max(repeated, default=0)
    told["computed twice"] = sum(repeated)
    told["most begun twice"] = max(begun_again, default=0)
    print(json.dumps(told))


def steps(folder, first, stride):
    """Kill a sweep at its first, second, ... touch of the disk, and have the next one complete."""
    folder, stride = Path(folder), int(stride)
    sweep = functools.partial(start, chunks=3)
    assert ended(fork(lambda: sweep(folder / "whole"))) == 0
    whole, at, same = files(folder / "whole"), int(first), []
    while True:
        store = folder / f"store-{at}"

        def work(store=store, at=at):
            kill_at(at)
            sweep(store)

        killed = os.WIFSIGNALED(ended(fork(work)))
        assert ended(fork(lambda store=store: sweep(store))) == 0
        same.append(files(store) == whole and not leftovers(store))
        if not killed:
            break
        at += stride
    print(json.dumps({"same": same}))


def kill_at(touch):
    """Kill this process at its n-th touch of the disk: before, or after it, by turns."""
    count = 0

    def fatal(function):
        def touches(*args, **options):
            nonlocal count
            count += 1
            if count == touch and count % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = count == touch
            try:
                return function(*args, **options)
            finally:
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return touches

    for owner, name in [
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "rmdir"),
        (os, "fsync"),
    ]:
        setattr(owner, name, fatal(getattr(owner, name)))


# A disk of its own: in a namespace of its own, so that nothing of it is left.


def full_disk(disk):
    """Fill a disk, make it larger, make it read-only, and look at each step."""
    store = Path(disk) / "sweep"
    sweep = functools.partial(start, store, chunks=64)
    told = {}

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)

    try:
        sweep()
    except OSError as error:
        told["full"] = str(error)
    state = bn.sweeps.status(store)
    told["done"], told["left"] = state.done, leftovers(store)
    try:
        sweep()
    except (OSError, ValueError) as error:
        told["still full"] = f"{type(error).__name__}: {error}"
    remount("size=50M")
    sweep()
    told["complete"] = bn.sweeps.status(store).complete
    told["values"] = xr.open_zarr(store)["mean"].values.tobytes().hex()
    remount("ro")
    try:
        sweep()
    except ValueError as error:
        told["read-only"] = str(error)
    told["read"] = bn.sweeps.status(store).complete
    try:
        start(Path(disk) / "other")
    except ValueError as error:
        told["none there"] = str(error)
    print(json.dumps(told))


def peak(store, cells):
    """The most memory that a sweep of a grid takes."""
    side = int(cells) // 100
    function = functools.partial(cell, key=jax.random.key(0))
    axes = {"x": f"0:1:{side}", "n": range(100)}
    bn.sweep(lambda x, n: function(x, n)["mean"] + jnp.sin(x), axes, store=store)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


WRONG_TYPES = [
    ({"function": 5}, "`function` must be a function of scalars; got 5"),
    ({"axes": None}, "`axes` must map at least one name"),
    ({"axes": [("x", [1.0])]}, "`axes` must map at least one name"),
    ({"axes": {1: [1.0]}}, "names that Python can call; got 1"),
    ({"key": 3}, "`key` must be one JAX key"),
    ({"chunk": 1.5}, "`chunk` must be a positive number of cells or None; got 1.5"),
    ({"progress": 5}, "`progress` must be a function or None; got 5"),
    ({"dims": {"v": 5}}, "`dims` must hold several names; got 5"),
    ({"dims": ["m"]}, "`dims` must map names to what they get; got ['m']"),
    ({"coords": ["m"]}, "`coords` must map names"),
    ({"attrs": {"x": "metres"}}, "`attrs['x']` must map names"),
    ({"may_be_nan": 5}, "`may_be_nan` must hold several names; got 5"),
    ({"store": None}, "`store` must be a directory of this machine; got None"),
    ({"store": 5}, "`store` must be a directory of this machine; got 5"),
]


def refuse(store):
    """Give `bnjax.sweep` what is of the wrong type."""
    told = []
    for wrong, _ in WRONG_TYPES:
        call = {"function": lambda x: {"v": jnp.ones(2) * x}, "axes": {"x": [1.0]}, "store": store}
        call |= wrong
        try:
            bn.sweep(call.pop("function"), call.pop("axes"), **call)
        except ValueError as error:
            told.append(str(error))
    print(json.dumps(told))


def run(store, **options):
    """One sweep, in as many processes as the options say."""
    port, process, of = (options.pop(name, None) for name in ("port", "process", "of"))
    if port is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"localhost:{port}",
            int(of),
            int(process),
            heartbeat_timeout_seconds=int(options.pop("heartbeat", 100)),
        )
    if cores := options.pop("cores", None):
        _cores.usable_cores = lambda: int(cores)
    if options.pop("apart", None):  # devices of CPUs, as if they were others
        devices = Mesh(np.asarray(jax.local_devices()), ("devices",))
        _devices.mesh = _program.mesh = lambda: devices
        _program.num_workers = jax.local_device_count
        _program.ThreadPoolExecutor = lambda _: None
    _others.VISIBLE_SECONDS = float(options.pop("visible", 60.0))
    check, seconds = _sweep.Store.done, float(options.pop("check", 0.0))
    _sweep.Store.done = lambda *args: time.sleep(seconds) or check(*args)
    numbers = {name: int(value) for name, value in options.items()}
    start(store, progress=lambda done, _: print(done, flush=True), **numbers)
    found = {"shares": _program.num_workers(), "devices": _program.mesh().size}
    print(json.dumps(found | {"processes": jax.process_count()}))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    given = [x for x in arguments if "=" not in x]
    named = dict(x.split("=", 1) for x in arguments if "=" in x)
    commands = {x.__name__: x for x in (full_disk, kills, peak, refuse, run, steps)}
    commands[command](*given, **named)
