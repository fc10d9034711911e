"""The benchmark of sweeps runs, and its bare peer computes the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_benchmark_runs(tmp_path):
    out = tmp_path / "sweep.json"
    command = [sys.executable, "-m", "benchmarks.sweep", "--quick", "--out", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=600)
    report = json.loads(out.read_text())
    assert {"1 core", "2 processes"} <= {x["what"] for x in report["rates"]}
    assert all(x["sweep"] > 0 for x in report["rates"])
