"""A large sweep: exact phases of millions of worlds, kept on disk as they come.

How the safe region changes with exploration, over two approval rates, as `sweep.toml` beside this
script asks for it; the library runs it on all devices, chunk by chunk, into a store that the same
call goes on with wherever it was stopped. Every cell is held against a closed form, some are
computed again one by one, and a second call finds nothing left to do.

Small by default, and then on a CPU as well as on GPUs; ``--points 5000`` makes it a hundred million
worlds, on GPUs if there are any, and ``--store`` keeps the store, to be resumed by the same line.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np

import bnjax as bn

from ._experiment import SEED, Finding, Results, main

CONFIG = Path(__file__).parent / "sweep.toml"
_LOOKED_UP = 200
_BORDER = 1e-6  # distance of a best fit from 1/2 that single precision cannot tell from none
_SLICE = 0.1  # the exploration that is drawn


def theory(p, q, e):
    """The phase, and how near its border is: what best fits say of the two pure intentions.

    Of all play 1 - e / 2 is flattery where it is intended and e / 2 where it is not; the best fit
    is linear in that, and flattery is a best reply where it is at least 1/2.
    """
    intended, not_intended = (s * p + (1 - s) * (1 - q) for s in (1 - e / 2, e / 2))
    flatter, correct = intended > 0.5, not_intended < 0.5  # which habits can last
    both = np.where(correct, bn.Phase.MULTISTABLE, bn.Phase.UNSAFE)
    neither = np.where(correct, bn.Phase.SAFE, bn.Phase.OSCILLATORY)
    border = np.minimum(abs(intended - 0.5), abs(not_intended - 0.5))
    return np.where(flatter, both, neither), border


def _where() -> str:
    devices = jax.local_devices()
    kind = devices[0].device_kind
    return "the cores of a CPU" if kind == "cpu" else f"{len(devices)} {kind} device(s)"


def run(quick: bool, points: int | None = None, store: Path | None = None) -> Results:
    points = points or (30 if quick else 500)
    rates = dict.fromkeys(("p_sycophantic", "p_honest"), f"0.01:0.99:{points}")
    what = bn.sweeps.read(CONFIG, axes=rates)
    with tempfile.TemporaryDirectory() as folder:
        place = store or Path(folder) / "sweep.zarr"
        swept, repeated = (_sweep(what, place) for _ in range(2))
        status = bn.sweeps.status(place)
        rate = swept[1]
        speed = "computed before" if np.isnan(rate) else f"{rate:,.0f} of them a second"
        data = swept[0].load()
        safe = {
            float(e): float((data.phase.sel(exploration=e) == bn.Phase.SAFE).mean())
            for e in data.exploration
        }
        figure = bn.plot.sweep(data, "phase", select={"exploration": _SLICE})
    wrong = _disagreements(what, data)
    off, borders, cells = _against_theory(data)
    rows = [{"exploration": e, "share of worlds that are safe": x} for e, x in safe.items()]
    return Results(
        {"gpu_sweep": figure},
        {
            "gpu_sweep": f"Phases with exploration {_SLICE:g}, a slice of {status.cells:,} cells: "
            f"{speed} on {_where()}. Cells on a border itself, where the "
            "best fit is exactly one half, are indeterminate."
        },
        rows,
        [
            Finding(
                "The store is whole, and no cell failed.",
                f"{status.cells:,} cells, {status.done} of {status.chunks} chunks whole, "
                f"{status.failed} cells failed; {speed}.",
                status.complete and not status.failed,
            ),
            Finding(
                "Cells off the borders have the phase of the closed form.",
                f"{off} of {cells - borders:,} differ; {borders:,} more are on a border.",
                off == 0 and borders < cells / 20,
            ),
            Finding(
                "Cells are what the solver says of them one by one.",
                f"{wrong} of {_LOOKED_UP} cells differ.",
                wrong == 0,
            ),
            Finding(
                "The same call again computes nothing.",
                f"Chunks computed: {repeated[2]}.",
                repeated[2] == 0,
            ),
        ],
        {
            "cells_per_second": None if np.isnan(rate) else rate,
            "cells": status.cells,
            "bytes": data.nbytes,
        },
    )


def _sweep(what, store):
    """The results, cells a second (NaN if there was nothing to do), and chunks computed."""
    steps = []
    data = bn.sweep(**what, store=store, progress=lambda done, total: steps.append(done))
    return data, bn.sweeps.status(store).rate, len(steps)


def _against_theory(data) -> tuple[int, int, int]:
    """Cells off the borders whose phase is not that of the closed form, cells on them, and all."""
    off = borders = cells = 0
    for i, e in enumerate(data.exploration.values):  # a slice at a time: there may be many
        p, q = data.p_sycophantic.values[:, None], data.p_honest.values[None]
        expected, border = theory(p.astype(float), q.astype(float), float(e))
        near = border < _BORDER
        off += int(((data.phase.values[..., i] != expected) & ~near).sum())
        borders, cells = borders + int(near.sum()), cells + near.size
    return off, borders, cells


def _disagreements(what, data) -> int:
    """How many of some cells, drawn at random, are not what the function gives one by one."""
    rng = np.random.default_rng(SEED)
    where = [rng.integers(0, n, _LOOKED_UP) for n in data.phase.shape]
    values = {
        name: np.asarray(data[name].values[i], np.float32)
        for name, i in zip(data.phase.dims, where, strict=True)
    }
    one = jax.jit(lambda cell: what["function"](**cell)["phase"])
    found = [int(one({k: x[i] for k, x in values.items()})) for i in range(_LOOKED_UP)]
    return int((np.array(found) != data.phase.values[tuple(where)]).sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--points", type=int, help="values along each approval rate")
    parser.add_argument("--store", type=Path, help="keep the store there")
    main("gpu_sweep", parser)
