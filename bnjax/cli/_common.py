"""What the commands share: reading arguments, settings of the process, text and tables."""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import equinox as eqx
import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from .. import Phase, scenarios
from ..problem import AbstractProblem

EXPLORATION = "exploration"
MANY = 12  # names that a list shows before it says how many more there are
_FIRST_LINE, _LINES = 10.0, 30.0  # seconds before a log hears of progress, and between lines
# What a key of JAX takes: beyond, two seeds would be one, or none at all.
SEED = click.IntRange(0, 2**32 - 1)
PHASE_COLOURS = {
    Phase.SAFE: "blue",
    Phase.UNSAFE: "red",
    Phase.MULTISTABLE: "yellow",
    Phase.OSCILLATORY: "magenta",
    Phase.INDETERMINATE: "yellow",
}


# Scenarios and their parameters.


def find_scenario(name: str) -> Callable[..., AbstractProblem]:
    if name not in scenarios.__all__:
        raise click.UsageError(
            f"unknown scenario `{name}`; there are: {', '.join(scenarios.__all__)}"
        )
    return getattr(scenarios, name)


def defaults_of(make: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(make).parameters.items()}


def actions_of(scenario: Callable[..., AbstractProblem]) -> tuple[tuple[str, ...], Any]:
    """Names of the actions, and which are safe if the scenario says so.

    Compiled, and only for that: to build a problem operation by operation takes seconds.
    """

    @eqx.filter_jit
    def ask():
        problem = scenario()
        return problem.action_names, problem.safe

    names, safe = ask()
    return names, None if safe is None else np.asarray(safe)


def check_parameter(make: Callable[..., Any], name: str, others: Sequence[str] = ()) -> None:
    """Refuse a name that is no parameter of a scenario, nor one of others."""
    known = [*defaults_of(make), *others]
    if name not in known:
        hint = "; for exploration use --exploration" if name == EXPLORATION else ""
        raise click.UsageError(
            f"unknown parameter `{name}` of {make.__name__}; it has: {', '.join(known)}{hint}"
        )


def make_folder(out: Path) -> None:
    """Make the folder that ``--out`` names, or say that it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"`--out` must be a folder; {out}: {error.strerror}") from error


def assignments(make: Callable[..., Any], texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE, each name once."""
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"a parameter must be NAME=VALUE; got `{text}`")
        check_parameter(make, name)
        if name in given:
            raise click.UsageError(f"`{name}` is given twice")
        whole = isinstance(defaults_of(make)[name], int)
        given[name] = read_int(name, value) if whole else read_float(name, value)
    return given


def read_float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise click.UsageError(f"`{name}` must be a finite number; got `{text}`")
    return value


def read_int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"`{name}` must be a whole number; got `{text}`") from None


# The process.


@contextlib.contextmanager
def settings(x64: bool = False) -> Iterator[None]:
    """Settings of the process: a cache of compiled programs, precision.

    Those of the cache are taken back afterwards, for whoever calls the command from Python.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = {
        "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or str(home / "bnjax" / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    # Tracing makes millions of small objects and hardly any garbage: collecting it takes a
    # second of a command that takes ten.
    collects = gc.isenabled()
    gc.disable()
    for name, value in wanted.items():
        jax.config.update(name, value)
    try:
        with jax.enable_x64(x64):
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        if collects:
            gc.enable()


@contextlib.contextmanager
def progress_bar(things: str, doing: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr: a pulse until something is said, then a bar.

    Where stderr is no terminal (a log, a job), a line now and then of what takes long.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    console = Console(stderr=True, highlight=False)
    start = time.monotonic()
    said, waits = start, _FIRST_LINE
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"compiling and {doing}", total=None, count="")

        def report(done: int, total: int) -> None:
            nonlocal said, waits
            count = f"{done:,} of {total:,} {things}"
            bar.update(task, description=doing, total=total, completed=done, count=count)
            now = time.monotonic()
            if not console.is_terminal and now - said >= waits:
                said, waits = now, _LINES
                console.print(f"{doing}: {count}, {now - start:,.0f} s elapsed", soft_wrap=True)

        yield report


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the target and move it there, so that nobody ever sees half of it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bnjax-") as folder:
        new, old = Path(folder) / path.name, Path(folder) / "old"
        write(new)
        if path.is_dir():  # only a file can be replaced by a rename
            path.rename(old)
        new.replace(path)


# Text and tables.


def json_text(report: Mapping[str, Any]) -> str:
    """JSON with a row of numbers on a line of its own, and not a line for each number."""
    text = json.dumps(report, indent=2, allow_nan=False)
    return re.sub(r"\[\n[-+.\deE,\s]*\]", lambda row: " ".join(row[0].split()), text)


def new_console() -> Console:
    return Console(highlight=False)


def new_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )


def number_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def few(items: Sequence[str]) -> list[str]:
    """The first of many, and how many there are beyond."""
    if len(items) <= MANY:
        return list(items)
    return [*items[: MANY - 2], f"and {len(items) - MANY + 2} more"]


def listed(names: Sequence[str]) -> str:
    return ", ".join(few(names))


def meaning_of(codes: Any, name: str) -> str:
    """Meaning of a code, from the Attributes section of its class."""
    found = re.search(rf"^{name}\n((?:    .*\n?)+)", section(codes, "Attributes"), re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def section(documented: Any, title: str) -> str:
    """Text of one section of a NumPy docstring."""
    text = inspect.getdoc(documented) or ""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^[A-Z]\w*\n---|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""
