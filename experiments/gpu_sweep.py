"""A large sweep: exact phases of millions of worlds, kept on disk as they come.

How the safe region changes with exploration, over two approval rates, as `sweep.toml` beside this
script asks for it; the library runs it on all devices, chunk by chunk, into a store that survives
anything. Every cell that is looked up again is what the solver says of it alone, and a second call
finds nothing left to do.

Small by default; ``--points 5000`` makes it a hundred million worlds, on GPUs if there are any, and
``--store`` keeps the store, to be resumed by the same line.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import jax
import numpy as np

import bnjax as bn
from bnjax.sweeps._config import read_config
from bnjax.sweeps._functions import asked

from ._experiment import SEED, Finding, Results, main

CONFIG = Path(__file__).parent / "sweep.toml"
_LOOKED_UP = 200


def run(quick: bool, points: int | None = None, store: Path | None = None) -> Results:
    config = read_config(CONFIG.read_text())
    points = points or (30 if quick else 500)
    rates = dict.fromkeys(("p_sycophantic", "p_honest"), f"0.01:0.99:{points}")
    what = asked(dataclasses.replace(config, axes={**config.axes, **rates}), CONFIG.parent)
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
        figure = bn.plot.sweep(data, "phase", select={"exploration": 0.1})
    wrong = _disagreements(what, data)
    rows = [{"exploration": e, "share of worlds that are safe": x} for e, x in safe.items()]
    return Results(
        {"gpu_sweep": figure},
        {
            "gpu_sweep": f"Phases with exploration 0.1, a slice of {status.cells:,} cells: "
            f"{speed} on {len(jax.local_devices())} "
            f"{jax.local_devices()[0].device_kind} device(s)."
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
