"""The ``bnjax`` command: what scenarios there are, what one of them does, and phase diagrams.

Process-wide settings of JAX (precision, CPU devices, compilation cache) are made here and
nowhere else in the library. Every error is one line on stderr, with exit status 2.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import equinox as eqx
import jax
import numpy as np
from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import (
    Certainty,
    Equilibria,
    FamilyProblem,
    Phase,
    Stability,
    __version__,
    certify,
    equilibria,
    phase,
    phase_diagram,
    rationalizable,
    scenarios,
)
from .problem import AbstractFiniteProblem, AbstractProblem

if TYPE_CHECKING:
    import xarray as xr

_AXES = {  # where it is obvious what a diagram of a scenario shows
    "sycophancy": ("p_sycophantic=0:1:201", "p_honest=0:1:201"),
    "hallucination": ("p_fabricate=0:1:201", "p_abstain=0:1:201"),
    "deception": ("p_detect=0:1:201", "detect_upper=0:1:201"),
}
_EXPLORATION = "exploration"
_GRID = 21  # models per coordinate in a certificate
_FEW_ACTIONS = 4  # these have a column each
_MANY = 12  # names that a list shows before it says how many more there are
_PHASE_COLOURS = {
    Phase.SAFE: "blue",
    Phase.UNSAFE: "red",
    Phase.MULTISTABLE: "yellow",
    Phase.OSCILLATORY: "magenta",
    Phase.INDETERMINATE: "yellow",
}


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


# bnjax scenarios


@main.command("scenarios", short_help="List the ready-made scenarios.")
def list_scenarios() -> None:
    """List the ready-made scenarios, their parameters and their actions."""
    console = _console()
    for name in scenarios.__all__:
        make = getattr(scenarios, name)
        names, safe = _actions_of(make)
        safe_names = [] if safe is None else [names[i] for i in np.flatnonzero(safe)]
        summary = (inspect.getdoc(make) or "").partition("\n\n")[0]
        console.print(Text(name, style="bold cyan"))
        console.print(Padding(" ".join(summary.split()), (0, 0, 0, 2), expand=False))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(style="dim")
        about = _parameters_section(make)
        last = ""
        for parameter, default in _defaults(make).items():
            meaning = about.get(parameter, "")
            table.add_row(
                parameter, f"= {_number(default)}", "(likewise)" if meaning == last else meaning
            )
            last = meaning
        safe_part = f" (safe: {_listed(safe_names)})" if safe_names else " (none called safe)"
        table.add_row("actions", "", Text(_listed(names) + safe_part))
        console.print(Padding(table, (0, 0, 0, 4), expand=False))
        console.print()


def _actions_of(scenario: Callable[..., AbstractProblem]) -> tuple[tuple[str, ...], Any]:
    """Names of the actions, and which are safe if the scenario says so.

    Compiled, and only for that: to build a problem operation by operation takes seconds.
    """

    @eqx.filter_jit
    def ask():
        problem = scenario()
        return problem.action_names, problem.safe

    names, safe = ask()
    return names, None if safe is None else np.asarray(safe)


def _parameters_section(function: Any) -> dict[str, str]:
    """Meaning of each parameter, from the Parameters section of a NumPy docstring."""
    entries = re.findall(
        r"^(\S[^:\n]*) : (.*(?:\n {4}.*)*)", _section(function, "Parameters"), re.MULTILINE
    )
    return {
        name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")
    }


# bnjax solve


@main.command(short_help="Find equilibria, rationalizable actions, phase.")
@click.argument("scenario")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--exploration",
    type=float,
    default=0.0,
    show_default=True,
    help="Probability with which play trembles to a uniform action.",
)
@click.option(
    "--max-equilibria", type=int, default=8, show_default=True, help="Equilibria to look for."
)
@click.option("--x64/--x32", default=True, show_default=True, help="Floating-point precision.")
@click.option(
    "--certify",
    "certified",
    is_flag=True,
    help="Also prove which actions are rationalizable, in exact arithmetic.",
)
@click.option(
    "--grid",
    type=click.IntRange(min=2),
    help="Models per coordinate for --certify, which needs finitely many: a continuum is "
    f"replaced by an even grid.  [default: {_GRID}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def solve(
    scenario: str,
    values: tuple[str, ...],
    exploration: float,
    max_equilibria: int,
    x64: bool,
    certified: bool,
    grid: int | None,
    as_json: bool,
) -> None:
    """Find what SCENARIO leads to: equilibria, rationalizable actions, phase.

    Parameters that are not given keep their defaults (see `bnjax scenarios`).

    \b
    Example:
      bnjax solve sycophancy p_sycophantic=0.7 p_honest=0.6
    """  # noqa: D301
    if grid is not None and not certified:
        raise click.UsageError("`--grid` is for `--certify`, which was not given")
    make = _scenario(scenario)
    given = _assignments(make, values)
    with _settings(x64):
        problem = make(**given)
        found = equilibria(problem, exploration, max_equilibria=max_equilibria)
        possible = rationalizable(problem, exploration)
        code = None if problem.safe is None else Phase(int(phase(problem, exploration)))
        proof = _certificate(problem, exploration, grid) if certified else {}
        report = {
            "scenario": scenario,
            "parameters": _defaults(make) | given,
            "exploration": exploration,
            "precision": "float64" if x64 else "float32",
            "actions": {
                name: {"safe": None if problem.safe is None else bool(problem.safe[i])}
                for i, name in enumerate(problem.action_names)
            },
            "phase": None if code is None else code.name,
            "equilibria": [
                _equilibrium(problem, found, row) for row in np.flatnonzero(found.valid).tolist()
            ],
            "complete": bool(found.complete),
            "rationalizable": _certainties(problem, possible.certainty),
            "tol_fit": float(str(np.asarray(found.tol_fit))),
            "tol_payoff": float(str(np.asarray(found.tol_payoff))),
            **proof,
        }
    if as_json:
        click.echo(json.dumps(_strict(report), indent=2, allow_nan=False))
    else:
        _print_report(report)


def _equilibrium(problem: AbstractProblem, found: Equilibria, row: int) -> dict[str, Any]:
    """One equilibrium in words and numbers."""
    start, end = np.asarray(found.strategy[row]), np.asarray(found.strategy_end[row])
    mixed = "mixed" if (start == end).all() else "continuum"
    if isinstance(problem, FamilyProblem):
        parameters = problem.family.parameter_names
        believed = zip(_row(found.atoms, row), _row(found.atom_weight, row), strict=True)
    else:
        assert isinstance(problem, AbstractFiniteProblem)
        theta = np.asarray(problem.theta)
        parameters = tuple(f"theta {i}" for i in range(theta.shape[1]))
        believed = zip(theta, _row(found.belief, row), strict=True)

    def by_action(values: Any) -> dict[str, float]:
        return dict(zip(problem.action_names, map(float, values), strict=True))

    def by_parameter(values: Any) -> dict[str, float]:
        return dict(zip(parameters, map(float, values), strict=True))

    return {
        "kind": "pure" if found.is_pure[row] else mixed,
        "strategy": by_action(start),
        "strategy_end": by_action(end),
        "realised": by_action(found.realised[row]),
        "best_fit": by_parameter(found.best_fit[row]),
        "belief": [
            {"weight": float(weight), "theta": by_parameter(theta)}
            for theta, weight in believed
            if weight > 0
        ],
        "stability": Stability(int(found.stability[row])).name,
        "absorbing": bool(found.absorbing[row]),
        "residual": float(found.residual[row]),
    }


def _row(array: Any, row: int) -> np.ndarray:
    return np.asarray(array[row])


def _certainties(problem: AbstractProblem, codes: Any) -> dict[str, str]:
    return {
        name: Certainty(int(code)).name
        for name, code in zip(problem.action_names, codes, strict=True)
    }


def _certificate(problem: Any, exploration: float, grid: int | None) -> dict[str, Any]:
    """Prove the rationalizable set, of a grid in place of a continuum."""
    if isinstance(problem, FamilyProblem):
        grid = _GRID if grid is None else grid
        problem = problem.discretize(grid)
    elif grid is not None:
        raise click.UsageError("`--grid` is for a continuum of models; this scenario is finite")
    certificate = certify(problem, exploration)
    return {
        "certificate": {
            "models": problem.num_models,
            "grid": grid,
            "rationalizable": _certainties(problem, certificate.status),
            "safe": certificate.safe,
            "method": certificate.method,
            "tol_fit": certificate.tol_fit,
            "tol_payoff": certificate.tol_payoff,
            "reasons": {
                name: certificate._reason(i, problem.action_names)
                for i, name in enumerate(problem.action_names)
            },
            # Exact numbers, as fractions: whoever doubts the certificate can check it.
            "witnesses": {
                problem.action_names[witness.action]: {
                    "strategy": dict(
                        zip(problem.action_names, map(str, witness.strategy), strict=True)
                    ),
                    "belief": [
                        {
                            "weight": str(witness.belief[m]),
                            "theta": np.asarray(problem.theta[m]).tolist(),
                        }
                        for m in witness.believed
                    ],
                }
                for witness in certificate.witnesses
                if witness is not None
            },
        }
    }


def _strict(value: Any) -> Any:
    """Replace what JSON has no word for, NaN and infinities, by null."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_report(report: Mapping[str, Any]) -> None:
    """Show a solution to people."""
    console = _console()
    console.print(Text(_settings_line(report), style="dim"))
    if report["phase"] is not None:
        code = Phase[report["phase"]]
        title = Text.assemble("Phase: ", (code.name, f"bold {_PHASE_COLOURS.get(code, '')}"))
        console.print(title)
        console.print(Text("  " + _attribute(Phase, code.name)))
    else:
        console.print(Text("No phase: the scenario calls no action safe."))
    console.print()
    console.print(_equilibria_table(report))
    console.print()
    console.print(_rationalizable_table(report["rationalizable"], "Rationalizable actions"))
    console.print()
    console.print(
        Text(
            f"At tolerances {report['tol_fit']:g} nats (fit) and {report['tol_payoff']:g} of the "
            "payoff range (payoff).",
            style="dim",
        )
    )
    if "certificate" in report:
        console.print()
        console.print(*_certificate_lines(report["certificate"]), sep="\n")


def _settings_line(report: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} = {_number(x)}" for name, x in report["parameters"].items())
    return (
        f"{report['scenario']}: {values}; exploration = {report['exploration']:g}; "
        f"{report['precision']}"
    )


def _equilibria_table(report: Mapping[str, Any]) -> RenderableType:
    rows = report["equilibria"]
    more = "" if report["complete"] else " (there may be more: not proved complete)"
    if not rows:
        return Text(f"No equilibrium found{more}.")
    explores = report["exploration"] > 0
    several = any(len(row["belief"]) > 1 for row in rows)
    actions = list(report["actions"])
    by_action = len(actions) <= _FEW_ACTIONS
    table = _table(f"Equilibria{more}")
    table.add_column("play" if explores or not by_action else "")
    for name in actions if by_action else [""]:
        table.add_column(name, no_wrap=True)
    for name in rows[0]["best_fit"]:
        table.add_column(f"believed {name}")
    if several:
        table.add_column("with probability")
    table.add_column("stability")
    table.add_column("residual", justify="right")
    for row in rows:
        start, end, realised = row["strategy"], row["strategy_end"], row["realised"]
        if by_action:
            play = [_range(start[name], end[name]) for name in actions]
        else:
            play = [
                "\n".join(
                    _few([f"{a}: {_range(p, end[a])}" for a, p in start.items() if p + end[a]])
                )
            ]
        atoms = row["belief"]
        table.add_row(
            row["kind"],
            *play,
            *("\n".join(f"{x['theta'][name]:.6g}" for x in atoms) for name in row["best_fit"]),
            *(["\n".join(f"{x['weight']:.6g}" for x in atoms)] if several else []),
            row["stability"].lower() + (", absorbing" if row["absorbing"] else ""),
            f"{row['residual']:.0e}",
        )
        if explores and by_action:
            table.add_row("realised", *(f"{realised[name]:.6g}" for name in actions), style="dim")
    return table


def _range(start: float, end: float) -> str:
    return f"{start:.6g}" if start == end else f"{start:.6g} to {end:.6g}"


def _rationalizable_table(certainties: Mapping[str, str], title: str) -> RenderableType:
    table = _table(title)
    table.add_column("certainty")
    table.add_column("actions")
    table.add_column("meaning")
    for code in (Certainty.IN, Certainty.UNDECIDED, Certainty.OUT):
        names = [name for name, certainty in certainties.items() if certainty == code.name]
        if names:
            table.add_row(code.name, _listed(names), _attribute(Certainty, code.name))
    return table


def _certificate_lines(certificate: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Show what was proved, of which problem, and why."""
    verdict = {True: "yes", False: "no", None: "not determined"}[certificate["safe"]]
    table = _table("Certificate")
    for column in ("action", "certainty", "reason"):
        table.add_column(column)
    for name, certainty in certificate["rationalizable"].items():
        table.add_row(name, certainty, certificate["reasons"][name])
    yield table
    yield Text(f"Every rationalizable action is safe: {verdict}.")
    if certificate["grid"] is not None:
        yield Text(
            f"This is proved of a grid of {certificate['grid']} points per coordinate "
            f"({certificate['models']} models) in place of the continuum: a certificate needs "
            "finitely many models."
        )
    yield Text(
        f"Method {certificate['method']}, at tolerances {certificate['tol_fit']:g} nats and "
        f"{certificate['tol_payoff']:g} of the payoff range.",
        style="dim",
    )


# bnjax phase-diagram


@main.command("phase-diagram", short_help="Solve on a grid, and draw the phases.")
@click.argument("scenario")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--x", "x_axis", metavar="NAME=LOW:HIGH:N", help="What varies along x.")
@click.option("--y", "y_axis", metavar="NAME=LOW:HIGH:N", help="What varies along y.")
@click.option(
    "--exploration",
    type=float,
    default=0.0,
    show_default=True,
    help="Probability with which play trembles to a uniform action. `exploration` can also be "
    "the NAME of an axis.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for phase_diagram.nc (or .zarr) and phase_diagram.png.",
)
@click.option(
    "--format", "kind", type=click.Choice(["netcdf", "zarr"]), default="netcdf", show_default=True
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--x64/--x32", default=False, show_default=True, help="Floating-point precision.")
@click.option(
    "--boundaries/--no-boundaries",
    default=None,
    help="Draw the boundaries that theory gives.  [default: where it gives them]",
)
def draw_phase_diagram(
    scenario: str,
    values: tuple[str, ...],
    x_axis: str | None,
    y_axis: str | None,
    exploration: float,
    out: Path,
    kind: str,
    force: bool,
    x64: bool,
    boundaries: bool | None,
) -> None:
    """Solve SCENARIO on a grid of one or two of its parameters, and draw its phases.

    Other parameters can be fixed by NAME=VALUE; the rest keep their defaults. Without --x
    and --y, sycophancy, hallucination and deception are drawn over their two probabilities.

    \b
    Examples:
      bnjax phase-diagram sycophancy --out results
      bnjax phase-diagram sycophancy width=1 --x exploration=0:0.5:51 \\
          --y p_honest=0:1:101 --out results

    JAX is made to see every processor core that this process may use as a device of its own,
    and keeps compiled programs in JAX_COMPILATION_CACHE_DIR, or else in bnjax/jax under
    XDG_CACHE_HOME (~/.cache), so that the next diagram starts sooner.
    """  # noqa: D301
    make = _scenario(scenario)
    fixed = _assignments(make, values)
    axes = _axes(make, x_axis, y_axis, fixed)
    if kind == "zarr" and find_spec("zarr") is None:
        raise click.UsageError("`--format zarr` needs the package zarr: pip install zarr")
    data = out / ("phase_diagram.nc" if kind == "netcdf" else "phase_diagram.zarr")
    picture = out / "phase_diagram.png"
    for path in (data, picture):
        if path.exists() and not force:
            raise click.UsageError(f"{path} exists; pass --force to overwrite it")
    with _settings(x64):
        if _actions_of(make)[1] is None:
            raise click.UsageError(f"{scenario} has no phases: it calls none of its actions safe")
        with _progress() as report:
            diagram = phase_diagram(
                make, axes, exploration=exploration, fixed=fixed, progress=report
            )
        figure = _figure(diagram, boundaries)
    out.mkdir(parents=True, exist_ok=True)
    _write(data, lambda path: _save(diagram, path, kind))
    _write(picture, lambda path: figure.savefig(path, dpi=200))
    _print_diagram(diagram, exploration, fixed, (data, picture))


def _axes(
    make: Callable[..., Any], x_axis: str | None, y_axis: str | None, fixed: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Values along x and y. What is fixed by name does not become an axis by default."""
    defaults = _AXES.get(make.__name__, (None, None))
    chosen = {}
    for text, default in zip((x_axis, y_axis), defaults, strict=True):
        if text is None and default is not None and default.partition("=")[0] not in fixed:
            text = default
        if text is not None:
            name, values = _axis(text)
            if name != _EXPLORATION:
                _check_parameter(make, name)
            if name in fixed:
                raise click.UsageError(f"`{name}` is both an axis and fixed by NAME=VALUE")
            if name in chosen:
                raise click.UsageError(f"`{name}` is on both axes; choose another --x or --y")
            chosen[name] = values
    if not chosen:
        raise click.UsageError(
            f"{make.__name__} needs an axis: --x NAME=LOW:HIGH:N, where NAME is one of "
            f"{', '.join([*_defaults(make), _EXPLORATION])}"
        )
    return chosen


def _axis(text: str) -> tuple[str, np.ndarray]:
    """Read NAME=LOW:HIGH:N."""
    name, equals, interval = text.partition("=")
    parts = interval.split(":")
    if not (name and equals and len(parts) == 3):
        raise click.UsageError(f"an axis must be NAME=LOW:HIGH:N; got `{text}`")
    low, high = (_float(name, part) for part in parts[:2])
    if not parts[2].isdecimal() or int(parts[2]) < 2:
        raise click.UsageError(
            f"axis `{name}` must have a whole number of points, at least 2; got `{parts[2]}`"
        )
    if not low < high:
        raise click.UsageError(f"axis `{name}` must run upwards; got {low:g} to {high:g}")
    return name, np.linspace(low, high, int(parts[2]))


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr: compiling until the first cells are there, then a bar."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[cells]}")
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=quiet
    ) as bar:
        task = bar.add_task("compiling", total=None, cells="")

        def report(done: int, total: int) -> None:
            cells = f"{done:,} of {total:,} cells"
            bar.update(task, description="solving", total=total, completed=done, cells=cells)

        yield report


def _figure(diagram: xr.Dataset, boundaries: bool | None) -> Any:
    from . import plot  # matplotlib takes a second to import

    if boundaries is not None:
        return plot.phase_diagram(diagram, boundaries=boundaries)
    try:
        return plot.phase_diagram(diagram, boundaries=True)
    except ValueError:  # nobody asked for boundaries that theory does not give
        return plot.phase_diagram(diagram, boundaries=False)


def _save(diagram: xr.Dataset, path: Path, kind: str) -> None:
    if kind == "netcdf":
        diagram.to_netcdf(path, engine="netcdf4")
    else:
        diagram.to_zarr(path, mode="w", zarr_format=2)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the target and move it there, so that nobody ever sees half of it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bnjax-") as folder:
        new, old = Path(folder) / path.name, Path(folder) / "old"
        write(new)
        if path.is_dir():  # only a file can be replaced by a rename
            path.rename(old)
        new.replace(path)


def _print_diagram(
    diagram: xr.Dataset, exploration: float, fixed: Mapping[str, Any], paths: Iterable[Path]
) -> None:
    """Say what was computed: shares of the phases, and where the files are."""
    console = _console()
    values = json.loads(diagram.attrs["fixed"])
    if _EXPLORATION in diagram.attrs:
        values[_EXPLORATION] = exploration
    over = " x ".join(f"{dim} ({diagram.sizes[dim]})" for dim in diagram.phase.dims)
    others = ", ".join(f"{name} = {_number(x)}" for name, x in values.items())
    console.print(Text(f"{diagram.attrs['scenario']} over {over}; {others}", style="dim"))
    table = _table("Phases")
    table.add_column("phase")
    table.add_column("share", justify="right")
    table.add_column("cells", justify="right")
    table.add_column("meaning")
    codes, counts = np.unique(diagram.phase.values, return_counts=True)
    for code, count in zip(map(Phase, codes), counts, strict=True):
        table.add_row(
            Text(code.name, style=_PHASE_COLOURS.get(code, "")),
            f"{count / counts.sum():.1%}",
            f"{count:,}",
            _attribute(Phase, code.name),
        )
    console.print(table)
    incomplete = int((~diagram.complete).sum())
    if incomplete:
        console.print(Text(f"In {incomplete:,} cells there may be more equilibria than listed."))
    for path in paths:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


# What the commands share


def _scenario(name: str) -> Callable[..., AbstractProblem]:
    if name not in scenarios.__all__:
        raise click.UsageError(
            f"unknown scenario `{name}`; there are: {', '.join(scenarios.__all__)}"
        )
    return getattr(scenarios, name)


def _defaults(make: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(make).parameters.items()}


def _check_parameter(make: Callable[..., Any], name: str) -> None:
    if name not in _defaults(make):
        hint = "; for exploration use --exploration" if name == _EXPLORATION else ""
        raise click.UsageError(
            f"unknown parameter `{name}` of {make.__name__}; it has: "
            f"{', '.join(_defaults(make))}{hint}"
        )


def _assignments(make: Callable[..., Any], texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE, each name once."""
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"a parameter must be NAME=VALUE; got `{text}`")
        _check_parameter(make, name)
        if name in given:
            raise click.UsageError(f"`{name}` is given twice")
        whole = isinstance(_defaults(make)[name], int)
        given[name] = _int(name, value) if whole else _float(name, value)
    return given


def _float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise click.UsageError(f"`{name}` must be a finite number; got `{text}`")
    return value


def _int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"`{name}` must be a whole number; got `{text}`") from None


@contextlib.contextmanager
def _settings(x64: bool) -> Iterator[None]:
    """Settings of the process: all cores as devices, a cache of compiled programs, precision.

    Those of the cache are taken back afterwards, for whoever calls the command from Python.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Too late where JAX has started already: then its devices are the caller's choice.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = {
        "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or str(home / "bnjax" / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    try:
        with jax.enable_x64(x64):
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _console() -> Console:
    return Console(highlight=False)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _few(items: Sequence[str]) -> list[str]:
    """The first of many, and how many there are beyond."""
    if len(items) <= _MANY:
        return list(items)
    return [*items[: _MANY - 2], f"and {len(items) - _MANY + 2} more"]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_few(names))


def _attribute(codes: Any, name: str) -> str:
    """Meaning of a code, from the Attributes section of its class."""
    found = re.search(rf"^{name}\n((?:    .*\n?)+)", _section(codes, "Attributes"), re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _section(documented: Any, title: str) -> str:
    """Text of one section of a NumPy docstring."""
    text = inspect.getdoc(documented) or ""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^[A-Z]\w*\n---|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""
