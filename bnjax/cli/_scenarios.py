"""``bnjax scenarios``: what scenarios there are."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click
import numpy as np
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .. import scenarios
from ._common import (
    actions_of,
    defaults_of,
    find_scenario,
    listed,
    new_console,
    number_text,
    section,
)


@click.command("scenarios", short_help="List the ready-made scenarios.")
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
def list_scenarios(names: tuple[str, ...]) -> None:
    """List the ready-made scenarios, or some of them: their parameters and their actions."""
    console = new_console()
    for make in [find_scenario(name) for name in names or scenarios.__all__]:
        name = make.__name__
        actions, safe = actions_of(make)
        safe_names = [] if safe is None else [actions[i] for i in np.flatnonzero(safe)]
        summary = (inspect.getdoc(make) or "").partition("\n\n")[0]
        console.print(Text(name, style="bold cyan"))
        console.print(Padding(" ".join(summary.split()), (0, 0, 0, 2), expand=False))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(style="dim")
        about = _parameters_section(make)
        last = ""
        for parameter, default in defaults_of(make).items():
            meaning = about.get(parameter, "")
            table.add_row(
                parameter, f"= {number_text(default)}", "(likewise)" if meaning == last else meaning
            )
            last = meaning
        safe_part = f" (safe: {listed(safe_names)})" if safe_names else " (none called safe)"
        table.add_row("actions", "", Text(listed(actions) + safe_part))
        console.print(Padding(table, (0, 0, 0, 4), expand=False))
        console.print()


def _parameters_section(function: Any) -> dict[str, str]:
    """Meaning of each parameter, from the Parameters section of a NumPy docstring."""
    entries = re.findall(
        r"^(\S[^:\n]*) : (.*(?:\n {4}.*)*)", section(function, "Parameters"), re.MULTILINE
    )
    return {
        name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")
    }
