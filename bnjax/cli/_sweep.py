"""``bnjax sweep``: very large grids, in a store that survives interruptions."""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..sweeps import CellStatus, status
from ..sweeps._config import SweepConfig, read_config
from ..sweeps._status import one_failure, place, rate_of
from ._common import (
    json_text,
    listed,
    meaning_of,
    new_console,
    new_table,
    number_text,
    settings,
    write_atomically,
)

_INCOMPLETE = 1  # exit status
_CLUSTER = [
    click.option(
        "--distributed",
        is_flag=True,
        help="Be one of several processes, all started with this command: Slurm, Open MPI and "
        "Kubernetes say which, or the next three options.",
    ),
    click.option("--coordinator", metavar="HOST:PORT", help="Where the first process listens."),
    click.option("--num-processes", type=click.IntRange(min=1), help="How many there are."),
    click.option("--process-id", type=click.IntRange(min=0), help="Which one this is."),
]
_STORE = click.Path(exists=True, file_okay=False, path_type=Path)


def _cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_CLUSTER):
        command = option(command)
    return command


@click.group("sweep", short_help="Compute very large grids, and survive interruptions.")
def sweeps() -> None:
    """Compute a function in every cell of a very large grid, into a Zarr store.

    Cells are written chunk by chunk, each as a whole or not at all, so that a sweep goes on where
    it was stopped, by whatever. `xarray.open_zarr` opens the store, also while it is written.
    """


@sweeps.command("run", short_help="Start a sweep, or go on with it.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--store",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the Zarr store: made if it is not there, continued if it is.",
)
@_cluster_options
def run_sweep(config: Path, store: Path, **cluster: Any) -> None:
    """Compute what CONFIG, a TOML file, asks for.

    \b
    A configuration (`experiments/sweep.toml` says more):
      function = "phase"          # or "simulate", or your own "package.module:name"
      scenario = "sycophancy"
      [axes]
      p_sycophantic = "0:1:101"   # low:high:n, or a list
      p_honest = "0:1:101"
      exploration = [0.0, 0.1]
      [fixed]
      width = 0

    All devices of this process share the work, or all processor cores that it may use.
    SIGTERM, which schedulers send before they preempt, ends the sweep after the chunk that is
    being written. The same command, or `bnjax sweep resume`, goes on.

    \b
    Examples:
      bnjax sweep run experiments/sweep.toml --store results/sweep.zarr
      srun bnjax sweep run sweep.toml --store sweep.zarr --distributed
    """  # noqa: D301
    _go(_read(config), Path.cwd(), store, False, cluster)


@sweeps.command("resume", short_help="Go on with a sweep that was stopped.")
@click.argument("store", type=_STORE)
@click.option("--rerun-failed", is_flag=True, help="Compute failed cells again, too.")
@_cluster_options
def resume_sweep(store: Path, rerun_failed: bool, **cluster: Any) -> None:
    """Compute what is missing in STORE, which knows all that it takes.

    A function of your own is imported from where it was when the sweep began, or else from the
    current directory.
    """
    opened = _open(store)
    command = opened.attributes.get("command")
    if command is None:
        function = opened.attributes.get("function", "the function")
        raise click.UsageError(
            f"{store} was made from Python: to go on with it, call `bnjax.sweep` with {function} "
            f"and the same arguments again, and store={str(store)!r}"
            f"{', rerun_failed=True' if rerun_failed else ''}"
        )
    folder = Path(command["folder"])
    folder = folder if folder.is_dir() else Path.cwd()
    _go(read_config(command["toml"]), folder, store, rerun_failed, cluster)


@sweeps.command("status", short_help="Say how far a sweep has come, and whether it is whole.")
@click.argument("store", type=_STORE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def show_status(store: Path, as_json: bool) -> None:
    """Say what is done in STORE, what failed, what remains, and whether it is whole.

    Every byte is read and every checksum tested; the sweep may be running. The exit status is 0 if
    all chunks are there and whole, whatever became of their cells, and 1 if one is missing or torn.
    """
    report = _report(store)
    if as_json:
        click.echo(json_text(report))
    else:
        _print_report(report)
    if not report["complete"]:
        raise click.exceptions.Exit(_INCOMPLETE)


@sweeps.command("show", short_help="Draw an output of a sweep over one or two axes.")
@click.argument("store", type=_STORE)
@click.option("--variable", metavar="NAME", help="Which output.  [default: phase, or the first]")
@click.option("--x", "x", metavar="AXIS", help="What goes along x.  [default: the first axis]")
@click.option("--y", "y", metavar="AXIS", help="What goes along y.  [default: the second axis]")
@click.option(
    "--select",
    "selections",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of another axis the nearest value; can be given several times.",
)
@click.option(
    "--reduce",
    metavar="HOW",
    help="Of all that is left: mean, min or max of numbers; of codes mode, the most frequent, or "
    "the name of one for its share.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The picture; its kind is that of the name: .png, .pdf or .svg.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def draw_sweep(
    store: Path,
    variable: str | None,
    x: str | None,
    y: str | None,
    selections: tuple[str, ...],
    reduce: str | None,
    out: Path,
    force: bool,
) -> None:
    """Draw an output in STORE over any one or two axes; the others are selected or reduced.

    The sweep may be running: what is missing is grey, what failed is pink. Of a long axis, evenly
    spaced values are shown, and the picture says so.

    \b
    Examples:
      bnjax sweep show sweep.zarr --out phases.png --select exploration=0.1
      bnjax sweep show sweep.zarr --variable pure --x p_honest --select action=honest \\
          --reduce mean --out pure.png
    """  # noqa: D301
    if out.suffix not in (".png", ".pdf", ".svg"):
        raise click.UsageError(f"`--out` must end in .png, .pdf or .svg; got {out.name}")
    if out.exists() and not force:
        raise click.UsageError(f"{out} exists; pass --force to overwrite it")
    title = _open(store).attributes.get("function")
    import xarray as xr

    from .. import plot  # matplotlib takes a second to import

    # Not in chunks of dask, whether it is installed or not: what is read is read once.
    dataset = xr.open_zarr(store, chunks=None)
    options = {"select": _selections(selections), "reduce": reduce, "title": title}
    try:
        figure = plot.sweep(dataset, variable, x=x, y=y, **options)
    except ValueError:
        # Zarr leaves what else it was reading to be complained about, at length.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"`--out` must be a file; {out}: {error.strerror}") from error
    write_atomically(out, lambda path: figure.savefig(path, dpi=200))
    new_console().print(Text(f"wrote {out}"), soft_wrap=True)


def _read(path: Path) -> SweepConfig:
    try:
        return read_config(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise click.UsageError(f"{path}: {error}") from error


def _open(store: Path) -> Any:
    from ..sweeps._store import Store  # zarr takes a second to import

    return Store(store)


def _selections(texts: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"`--select` must be NAME=VALUE; got `{text}`")
        if name in given:
            raise click.UsageError(f"`{name}` is selected twice")
        given[name] = value
    return given


# Going.


def _go(
    config: SweepConfig,
    folder: Path,
    store: Path,
    rerun_failed: bool,
    cluster: Mapping[str, Any],
) -> None:
    """Compute what there is to compute, and say what came of it."""
    _check_cluster(cluster)
    again = f"`{_resume_command(store, rerun_failed, cluster)}`"
    with _interruptible(store, again) as say, settings(config.precision == "float64"):
        import jax

        from ..sweeps._functions import asked
        from ..sweeps._sweep import run

        if cluster["distributed"]:
            _join(cluster)
        what = asked(config, folder)
        number, of = jax.process_index(), jax.process_count()
        with warnings.catch_warnings(), _progress(number, of) as report:
            # The summary tells of failed cells.
            warnings.filterwarnings("ignore", ".* cells of .* failed", RuntimeWarning)
            try:
                run(
                    **what,
                    store=store,
                    rerun_failed=rerun_failed,
                    progress=report,
                    extra={"command": {"toml": config.text, "folder": str(folder)}},
                    again=again,
                    say=say,
                )
            except RuntimeError as error:
                if isinstance(error, jax.errors.JaxRuntimeError):
                    raise
                raise click.ClickException(str(error)) from error
    if number == 0:
        _print_summary(store)


def _check_cluster(cluster: Mapping[str, Any]) -> None:
    names = ("coordinator", "num_processes", "process_id")
    given = [name for name in names if cluster[name] is not None]
    if given and not cluster["distributed"]:
        raise click.UsageError(f"`--{given[0].replace('_', '-')}` is for --distributed")
    if given and len(given) < len(names):
        raise click.UsageError(
            "`--coordinator`, `--num-processes` and `--process-id` must be given together"
        )
    if given and cluster["process_id"] >= cluster["num_processes"]:
        raise click.UsageError(
            f"`--process-id` must be less than --num-processes; got {cluster['process_id']}"
        )


def _join(cluster: Mapping[str, Any]) -> None:
    """Meet the other processes, before anything touches a device."""
    import jax

    try:
        jax.distributed.initialize(
            cluster["coordinator"], cluster["num_processes"], cluster["process_id"]
        )
    except (RuntimeError, ValueError) as error:
        hint = ""
        if cluster["coordinator"] is None:
            hint = (
                " Nothing here says who is who: give --coordinator, --num-processes, --process-id"
            )
        raise click.ClickException(f"--distributed failed: {error}{hint}") from error


def _resume_command(store: Path, rerun_failed: bool, cluster: Mapping[str, Any]) -> str:
    words = ["bnjax", "sweep", "resume", str(store)]
    words += ["--rerun-failed"] if rerun_failed else []
    words += ["--distributed"] if cluster["distributed"] else []
    for name in ("coordinator", "num_processes", "process_id"):
        if cluster[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(cluster[name])]
    return shlex.join(words)


class _Terminated(BaseException):
    """SIGTERM came."""


@contextlib.contextmanager
def _interruptible(store: Path, again: str) -> Iterator[Callable[[str], None]]:
    """Whatever signal ends the sweep, leave the terminal in order and say how to go on.

    While chunks are computed the sweep itself minds SIGTERM and raises it anew when the store is
    whole; at any other time there is nothing to finish. Either way the stack unwinds, and then the
    process ends as the signal has it.
    """
    said: list[str] = []

    def unwind(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the next one means it
        raise _Terminated

    before = None
    # Only the main thread may ask for signals, and who ignores one has a reason.
    minds = threading.current_thread() is threading.main_thread()
    minds = minds and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    if minds:
        before = signal.signal(signal.SIGTERM, unwind)

    def how(what: str) -> str:
        known = store.exists()
        return f"bnjax: {what}. {f'{again} goes on' if known else 'Nothing was computed'}."

    try:
        yield said.append
    except _Terminated:
        click.echo(said[-1] if said else how("terminated"), err=True)
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        click.echo(how("interrupted"), err=True)
        raise click.exceptions.Exit(130) from None
    finally:
        if minds:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class _Rate(ProgressColumn):
    """Cells a second, lately."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


@contextlib.contextmanager
def _progress(number: int, of: int) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr, of the first process: compiling, then cells, their rate, time left."""
    console = Console(stderr=True)
    mine = "" if of == 1 else f"process 0 of {of}: "
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}", markup=False),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        disable=number != 0 or not console.is_terminal,
        # Chunks may take ten seconds each.
        speed_estimate_period=600,
    ) as bar:
        task = bar.add_task(f"{mine}compiling", total=None, count="")

        def report(done: int, total: int) -> None:
            count = f"{done:,} of {total:,}"
            bar.update(task, description=f"{mine}cells", total=total, completed=done, count=count)

        yield report


# What is said.


def _report(store: Path) -> dict[str, Any]:
    """All that is to be known of how a sweep is."""
    found = status(store)
    opened = _open(store)
    starts = {
        int(log.path.stem.removeprefix("process-")): log.last_run()[0] for log in opened.logs()
    }
    return {
        **_about(opened),
        "cells": found.cells,
        "counts": {code.name: number for code, number in found.counts.items()},
        "failed": found.failed,
        "failure": _one_failure(opened, False) if found.failed else None,
        "chunks": found.chunks,
        "chunks_done": found.done,
        "torn": list(found.torn),
        "torn_labels": list(found.torn_labels),
        "complete": found.complete,
        "whole": not (found.torn or found.torn_labels),
        "rate": _finite(found.rate),
        "seconds_left": _finite(found.seconds_left),
        "writers": [
            {"process": process, **{k: starts.get(process, {}).get(k) for k in ("pid", "host")}}
            for process in found.writers
        ],
    }


def _about(opened: Any) -> dict[str, Any]:
    configuration = opened.configuration
    shape = dict(zip(configuration["order"], opened.chunks.shape, strict=True))
    attributes = opened.attributes
    return {
        "store": str(opened.path),
        "function": attributes["function"],
        "axes": shape,
        "chunk": dict(zip(shape, opened.chunks.box, strict=True)),
        "precision": attributes["precision"],
        "device": attributes["device"],
        "resumable": "command" in attributes,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _one_failure(opened: Any, ask: bool) -> str | None:
    """One failed cell, and what is wrong with it; if wanted, the scenario is asked.

    That takes a device, of which whoever only looks at a sweep that is running keeps clear.
    """
    from ..sweeps._functions import complaint

    found = one_failure(opened)
    if found is None:
        return None
    arguments, what = found
    command = opened.attributes.get("command")
    if ask and command is not None:
        what = complaint(read_config(command["toml"]), arguments) or what
    return f"at {place(arguments)}: {what.rstrip('.')}."


def _print_summary(store: Path) -> None:
    """What came of a sweep that has ended well."""
    opened = _open(store)
    counts = opened.count(opened.begun())
    report = {
        **_about(opened),
        "counts": {code.name: number for code, number in counts.items()},
        "failure": _one_failure(opened, True),
        "rate": _finite(rate_of(opened)),
        "chunks": opened.chunks.number,
    }
    console = _print_cells(report)
    box = "x".join(f"{n:,}" for n in report["chunk"].values())
    chunks = f"{report['chunks']:,} chunk{'s' * (report['chunks'] != 1)}"
    console.print(Text(f"{chunks} of {box} cells; {_rate_text(report)}."))
    _print_failed(console, report)
    console.print(Text(f"wrote {store}"), soft_wrap=True)
    console.print(Text(f"To open it: xarray.open_zarr({str(store)!r})"), soft_wrap=True)


def _print_report(report: Mapping[str, Any]) -> None:
    console = _print_cells(report)
    box = "x".join(f"{n:,}" for n in report["chunk"].values())
    many = report["chunks"] != 1
    done = f"{report['chunks_done']:,} of {report['chunks']:,} chunk{'s' * many} of {box} cells "
    done += "are whole" if many else "is whole"
    console.print(Text(f"{done}; {_rate_text(report)}."))
    if report["torn"]:
        torn = listed([f"{chunk:,}" for chunk in report["torn"]])
        console.print(
            Text(f"Torn chunks, to be computed again: {torn}.", style="red"), soft_wrap=True
        )
    if report["torn_labels"]:
        torn = listed(report["torn_labels"])
        console.print(
            Text(f"Torn labels, to be written again: {torn}.", style="red"), soft_wrap=True
        )
    for writer in report["writers"]:
        where = f" (pid {writer['pid']} on {writer['host']})" if writer["pid"] else ""
        console.print(Text(f"Process {writer['process']}{where} is writing."), soft_wrap=True)
    _print_failed(console, report)
    if report["complete"]:
        verdict = "Complete and whole."
    else:
        left = report["seconds_left"]
        time = "" if left is None else f", about {_duration(left)} at this rate"
        verdict = f"{report['counts']['MISSING']:,} cells remain{time}."
        if not report["writers"]:
            how = f"`bnjax sweep resume {shlex.quote(report['store'])}`"
            how = how if report["resumable"] else "the same call of bnjax.sweep in Python"
            verdict = f"{verdict} To go on: {how}."
    style = "bold blue" if report["complete"] else "bold"
    console.print(Text(verdict, style=style), soft_wrap=True)


def _print_cells(report: Mapping[str, Any]) -> Console:
    console = new_console()
    over = " x ".join(f"{dim} ({n:,})" for dim, n in report["axes"].items())
    where = f"{report['precision']} on {report['device']}"
    console.print(Text(f"{report['function']} over {over}; {where}", style="dim"))
    total = sum(report["counts"].values())
    table = new_table(f"{total:,} cells")
    table.add_column("status")
    table.add_column("cells", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("meaning")
    for name, number in report["counts"].items():
        code = CellStatus[name]
        if number or code == CellStatus.OK:
            style = "red" if code.is_failure else ""
            meaning = meaning_of(CellStatus, name).replace("``", "")
            table.add_row(Text(name, style=style), f"{number:,}", _share(number, total), meaning)
    console.print(table)
    return console


def _print_failed(console: Console, report: Mapping[str, Any]) -> None:
    number = sum(n for name, n in report["counts"].items() if CellStatus[name].is_failure)
    if number:
        console.print(
            Text(
                f"{number:,} cell{'s' * (number != 1)} failed: "
                f"bnjax.sweeps.failed({report['store']!r}) lists them.",
                style="red",
            ),
            soft_wrap=True,
        )
        if report["failure"]:
            console.print(Text(f"For example {report['failure']}", style="red"), soft_wrap=True)


def _share(number: int, total: int) -> str:
    """Percent, in which neither a few cells become none nor nearly all of them all."""
    percent = 100 * number / total
    if 0 < percent < 0.1:
        return "<0.1%"
    return ">99.9%" if 99.9 < percent < 100 else f"{percent:.1f}%"


def _rate_text(report: Mapping[str, Any]) -> str:
    rate = report["rate"]
    if rate is None:
        return "nothing was computed in the last run"
    return f"{number_text(float(f'{rate:.3g}')) if rate < 100 else f'{rate:,.0f}'} cells a second"


def _duration(seconds: float) -> str:
    """A time in two units at most."""
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    left = max(1, round(seconds))
    parts = []
    for name, size in units:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])
