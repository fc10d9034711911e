"""The ``bnjax`` command: scenarios, where they lead, phase diagrams, populations, designs, sweeps.

Process-wide settings of JAX (precision, compilation cache) are made here and
nowhere else in the library. Every error is one line on stderr, with exit status 2.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from .. import __version__
from ._common import settings as settings
from ._design import search_design
from ._diagram import draw_phase_diagram
from ._scenarios import list_scenarios
from ._simulate import simulate_scenario
from ._solve import solve
from ._sweep import sweeps


class _Command(click.Group):
    """A group whose errors are one line each, with exit status 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except (click.ClickException, ValueError, OSError) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else error
            click.echo(f"error: {' '.join(str(message).split())}", err=True)
            sys.exit(2)
        except (click.Abort, KeyboardInterrupt):
            click.echo("error: interrupted", err=True)
            sys.exit(130)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bnjax")
def main() -> None:
    """What an agent ends up doing when it learns with a wrong model of its world."""


main.add_command(list_scenarios)
main.add_command(solve)
main.add_command(draw_phase_diagram)
main.add_command(simulate_scenario)
main.add_command(search_design)
main.add_command(sweeps)
