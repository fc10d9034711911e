"""The GPU's kernel against XLA's loop: agent-steps a second, without what surrounds either.

Run as ``python -m benchmarks.kernel [--out FILE] [--runs 5]`` on a machine with an NVIDIA GPU.
`bnjax.simulate` adds a call's worth of work on the host (`benchmarks.simulate` times that): here
both simulators get their agents ready made, and leave their results on the device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bnjax as bn
from bnjax.learning._agent import Agent
from bnjax.learning._blocked import in_blocks
from bnjax.learning._kernel import run_kernel
from bnjax.learning._lives import Known, live
from bnjax.learning._random import agent_keys

from . import _harness as harness
from .simulate import general_problem

_MODELS = 8, 64, 256
_SIZE = 65_536, 500  # agents, steps
_TINY = 32, 6  # for Pallas's interpreter


def measure(num_models: int, size: tuple[int, int], runs: int, interpret: bool) -> dict[str, Any]:
    """Time both simulators in turns on the same agents, and compare what these play."""
    num_agents, num_steps = size
    arrays = general_problem(num_models)
    problem = bn.Problem(*arrays[:3], log_prior=arrays.log_prior)
    agent = Agent(problem, exploration=jnp.zeros((), jnp.float32))
    keys = agent_keys(jax.random.key(0), jnp.arange(num_agents, dtype=jnp.int32))
    known = Known(excludes=False, trembles=False)

    @eqx.filter_jit
    def kernel(agent: Agent, keys: Any) -> Any:
        return run_kernel(agent, agent.log_prior, keys, num_steps, known, interpret)

    @eqx.filter_jit
    def loop(agent: Agent, keys: Any) -> Any:
        return live(in_blocks, agent, agent.log_prior, keys, num_steps, None, known)

    def peer(name: str, run: Callable[..., Any]) -> harness.Peer:
        def once() -> np.ndarray:
            done = jax.block_until_ready(run(agent, keys))
            return np.asarray(done.tally.evidence.sum(0))  # [A, Y] counts of all: little to copy

        return harness.Peer(name, once, num_agents * num_steps, True)

    peers = [peer("kernel", kernel), peer("XLA's loop", loop)]
    timings = harness.take_turns(peers, runs)
    counts = [timing.answer for timing in timings]
    rates = [num_agents * num_steps / timing.median for timing in timings]
    return {
        "models": num_models,
        "agents": num_agents,
        "steps": num_steps,
        "runs": runs,
        "kernel_agent_steps_per_second": rates[0],
        "loop_agent_steps_per_second": rates[1],
        "times_loop": rates[0] / rates[1],
        # A tie that is rounded otherwise changes a life, and few of them are ties.
        "share_that_differs": float(np.abs(counts[0] - counts[1]).sum() / counts[1].sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where JSON goes, if anywhere")
    parser.add_argument("--runs", type=int, default=5, help="runs of either (default: %(default)s)")
    parser.add_argument(
        "--interpret",
        action="store_true",
        help="without a GPU, for a few agents in Pallas's interpreter: a test of this script",
    )
    options = parser.parse_args(arguments)
    if jax.default_backend() != "gpu" and not options.interpret:
        parser.error("the kernel needs an NVIDIA GPU, and JAX sees none; see --interpret")
    machine = harness.machine()
    models, size = (_MODELS[:1], _TINY) if options.interpret else (_MODELS, _SIZE)
    results = [measure(number, size, options.runs, options.interpret) for number in models]
    rows = [
        [
            str(row["models"]),
            f"{row['kernel_agent_steps_per_second'] / 1e9:.3g}",
            f"{row['loop_agent_steps_per_second'] / 1e9:.3g}",
            f"{row['times_loop']:.1f}",
            f"{row['share_that_differs']:.0e}",
        ]
        for row in results
    ]
    print(
        f"{machine['device']}, JAX {machine['jax']}: {size[0]:,} agents x {size[1]} steps, two "
        f"actions, float32; G agent-steps a second, median of {options.runs}"
    )
    print(harness.table(["models", "kernel", "XLA's loop", "x", "differs"], rows))
    if options.out is not None:
        harness.write_json(options.out, {"machine": machine, "results": results})
        print(f"written to {options.out}")


if __name__ == "__main__":
    main()
