"""What the experiments share: a claim is checked, drawn, written down, and reported.

An experiment is a module with a docstring (its first line is the title, the rest the claim) and a
function ``run(quick)`` that returns `Results`. The last line of the module hands it to `main`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import inspect
import io
import json
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import bnjax as bn
from bnjax.cli import settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = Path(__file__).parent.parent / "results" / "experiments"  # which git ignores
SEED = 0


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that an experiment claims, and whether it was found.

    Parameters
    ----------
    claim : what should hold, in a sentence.
    found : what was found, with its figures.
    holds : whether that is the same.
    """

    claim: str
    found: str
    holds: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", bool(self.holds))


@dataclasses.dataclass(frozen=True)
class Results:
    """What an experiment has to show.

    Parameters
    ----------
    figures : pictures, by name of the file.
    captions : what each shows, in a sentence or two.
    table : rows, each a mapping of column to value.
    findings : what was claimed and found.
    numbers : further figures for the JSON.
    """

    figures: Mapping[str, Figure]
    captions: Mapping[str, str]
    table: Sequence[Mapping[str, Any]]
    findings: Sequence[Finding]
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return all(finding.holds for finding in self.findings)


def shares_allowed(probability: float, number: int, alarm: float) -> tuple[float, float]:
    """Least and greatest share of ``number`` draws that an exact binomial test does not refuse.

    Each side is refused by chance with a probability of at most ``alarm / 2``.
    """
    from scipy.stats import binom

    tails = binom.ppf([alarm / 2, 1 - alarm / 2], number, probability) / number
    return float(tails[0]), float(tails[1])


def mean_allowed(values: Any, alarm: float) -> tuple[Any, Any]:
    """Mean over agents (the first axis), and how far off chance alone leaves it.

    By the normal approximation; it is further off with a probability of ``alarm``.
    """
    from scipy.stats import norm

    values = np.asarray(values, float)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return values.mean(0), norm.isf(alarm / 2) * error


def title_and_claim(module: Any) -> tuple[str, str]:
    """First line, and the rest, of what an experiment says of itself."""
    title, _, claim = (inspect.getdoc(module) or "").partition("\n")
    return title.strip().rstrip("."), claim.strip()


def conduct(name: str, quick: bool, out: Path, **more: Any) -> dict[str, Any]:
    """Run an experiment, write what it shows into ``out/name``, and return its report."""
    import matplotlib.pyplot as plt

    module = importlib.import_module(f"experiments.{name}")
    command = ["python", "-m", f"experiments.{name}", *["--quick"] * quick]
    command += [f"--{option}={value}" for option, value in more.items() if value is not None]
    began = time.perf_counter()
    results: Results = module.run(quick, **more)
    seconds = time.perf_counter() - began
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, figure in results.figures.items():
        save_small(figure, folder / f"{file}.png")
        plt.close(figure)
    write_table(folder / "table.csv", results.table)
    title, claim = title_and_claim(module)
    report = {
        "name": name,
        "title": title,
        "claim": claim,
        "holds": results.holds,
        "findings": [dataclasses.asdict(finding) for finding in results.findings],
        "figures": [
            {"file": f"{file}.png", "caption": results.captions[file]} for file in results.figures
        ],
        "table": [dict(row) for row in results.table],
        "numbers": dict(results.numbers),
        "command": shlex.join(command),
        "quick": quick,
        "seed": SEED,
        "seconds": round(seconds, 1),
        "machine": {
            "platform": platform.platform(),
            "device": _device(),
            "num_devices": len(jax.local_devices()),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "jax": jax.__version__,
            "bnjax": bn.__version__,
        },
    }
    text = json.dumps(report, indent=2, default=_plain, ensure_ascii=False)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    # What an earlier version drew would be taken for a result of this one.
    for file in folder.glob("*.png"):
        if file.stem not in results.figures:
            file.unlink()
    return report


def add_options(parser: argparse.ArgumentParser, quick: str) -> None:
    """What every experiment has: ``--quick``, which takes so long, and ``--out``."""
    parser.add_argument("--quick", action="store_true", help=f"smaller, in {quick}")
    parser.add_argument(
        "--out",
        type=Path,
        help="where the results go; default: experiments/results, and results/experiments if quick",
    )


def place_of(out: Path | None, quick: bool) -> Path:
    """Where results go; small ones not over those of full size, which belong to the project."""
    return out or (QUICK_RESULTS if quick else RESULTS)


def save_small(figure: Figure, path: Path) -> None:
    """A picture of 256 colours: a third of the bytes, and nobody sees a difference."""
    from PIL import Image

    memory = io.BytesIO()
    figure.savefig(memory, dpi=150)
    picture = Image.open(memory).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV; numbers with six digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: short(value) for name, value in row.items()})


def print_report(report: Mapping[str, Any]) -> None:
    """Say on the terminal what was claimed and found."""
    print(f"{report['title']}  ({report['seconds']:.0f} s)")
    for finding in report["findings"]:
        print(f"  {'holds' if finding['holds'] else 'FAILS'}: {finding['claim']}")
        print(f"         {finding['found']}")


def main(name: str, own: argparse.ArgumentParser | None = None) -> None:
    """The command line of one experiment: ``python -m experiments.NAME [--quick] [--out DIR]``.

    Options of its ``own`` are handed to its ``run``.
    """
    module = importlib.import_module(f"experiments.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=title_and_claim(module)[0],
        parents=[own] if own else [],
    )
    add_options(parser, "seconds")
    options = vars(parser.parse_args())
    quick = options.pop("quick")
    out = place_of(options.pop("out"), quick)
    with settings():  # all cores, and a cache of what is compiled, as in the command
        try:
            report = conduct(name, quick, out, **options)
        except ValueError as error:
            if own is None:
                raise
            parser.error(str(error))  # most likely of these options
    print_report(report)
    print(f"written to {out / name}")
    sys.exit(0 if report["holds"] else 1)


def _device() -> str:
    """What the first device is: the name of a GPU, the model of a CPU where Linux tells it."""
    kind = jax.local_devices()[0].device_kind
    told = Path("/proc/cpuinfo")
    if kind != "cpu" or not told.exists():
        return kind
    lines = told.read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu, {models[0]}" if models else kind


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    raise TypeError(f"JSON cannot hold {value!r}")


def short(value: Any, digits: int = 6) -> Any:
    """A number with so many digits; whatever else as it is."""
    return f"{value:.{digits}g}" if isinstance(value, (float, np.floating)) else value
