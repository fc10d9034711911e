"""``bnjax phase-diagram``: a scenario solved on a grid, stored and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.text import Text

from .. import Phase, phase_diagram
from ._common import (
    EXPLORATION,
    PHASE_COLOURS,
    SEED,
    actions_of,
    assignments,
    check_parameter,
    defaults_of,
    find_scenario,
    make_folder,
    meaning_of,
    new_console,
    new_table,
    number_text,
    progress_bar,
    read_float,
    settings,
    write_atomically,
)
from ._learners import DEFAULTS, described, learner_options, memory_of, policy_of

if TYPE_CHECKING:
    import xarray as xr

_AXES = {  # where it is obvious what a diagram of a scenario shows
    "sycophancy": ("p_sycophantic=0:1:201", "p_honest=0:1:201"),
    "hallucination": ("p_fabricate=0:1:201", "p_abstain=0:1:201"),
    "deception": ("p_detect=0:1:201", "detect_upper=0.005:1:200"),
}


@click.command("phase-diagram", short_help="Solve on a grid, and draw the phases.")
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
    "--format",
    "kind",
    type=click.Choice(["netcdf", "zarr"]),
    default="netcdf",
    show_default=True,
    help="How to store the data; zarr needs the package of that name.",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="Simulate a population of learners in every cell too, and draw what they play as "
    "simulated_diagram.png.",
)
@click.option("--agents", type=int, help="Of --simulate: in each cell.  [default: 100]")
@click.option("--steps", type=int, help="Of --simulate: observations each.  [default: 1000]")
@click.option("--seed", type=SEED, help="Of --simulate.  [default: 0]")
@learner_options
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
    simulate: bool,
    agents: int | None,
    steps: int | None,
    seed: int | None,
    force: bool,
    x64: bool,
    boundaries: bool | None,
    **learners: Any,
) -> None:
    """Solve SCENARIO on a grid of one or two of its parameters, and draw its phases.

    Other parameters can be fixed by NAME=VALUE; the rest keep their defaults. With one of --x
    and --y, the diagram is a strip along it; without either, sycophancy, hallucination and
    deception are drawn over their two probabilities.

    \b
    Examples:
      bnjax phase-diagram sycophancy --out results
      bnjax phase-diagram sycophancy width=1 --x exploration=0:0.5:51 \\
          --y p_honest=0:1:101 --out results
      bnjax phase-diagram sycophancy --x p_sycophantic=0:1:51 --y p_honest=0:1:51 \\
          --exploration 0.02 --simulate --out results

    All processor cores that this process may use share the work. Compiled programs are kept in
    JAX_COMPILATION_CACHE_DIR, or else in bnjax/jax under XDG_CACHE_HOME (~/.cache), so that the
    next diagram starts sooner.
    """  # noqa: D301
    make = find_scenario(scenario)
    fixed = assignments(make, values)
    axes = _axes(make, x_axis, y_axis, fixed)
    if kind == "zarr" and find_spec("zarr") is None:
        raise click.UsageError("`--format zarr` needs the package zarr: pip install zarr")
    data = out / ("phase_diagram.nc" if kind == "netcdf" else "phase_diagram.zarr")
    pictures = [out / "phase_diagram.png"]
    if simulate:
        pictures.append(out / "simulated_diagram.png")
    with settings(x64):
        if actions_of(make)[1] is None:
            raise click.UsageError(f"{scenario} has no phases: it calls none of its actions safe")
        population = _population(simulate, agents, steps, seed, learners)
        # When all that was asked for makes sense.
        for path in (data, *pictures):
            if path.exists() and not force:
                raise click.UsageError(f"{path} exists; pass --force to overwrite it")
        with progress_bar("cells", "simulating" if simulate else "solving") as report:
            diagram = phase_diagram(
                make, axes, exploration=exploration, fixed=fixed, progress=report, **population
            )
        about = f"{scenario}: {_settings_of(diagram, exploration)}".replace(" = ", "\xa0=\xa0")
        figures = [_figure(diagram, boundaries, about)]
        if simulate:
            figures.append(_simulated_figure(diagram, about, learners, seed or 0))
        warning = _why_invalid(make, diagram, fixed)
    make_folder(out)
    write_atomically(data, lambda path: _save(diagram, path, kind))
    for picture, figure in zip(pictures, figures, strict=True):
        write_atomically(picture, lambda path, figure=figure: figure.savefig(path, dpi=200))
    _print_diagram(diagram, exploration, warning, (data, *pictures))


def _axes(
    make: Callable[..., Any], x_axis: str | None, y_axis: str | None, fixed: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Values along x and y. What is fixed by name does not become an axis by default."""
    # Whoever names one axis gets what was asked for.
    asked = x_axis is not None or y_axis is not None
    defaults = (None, None) if asked else _AXES.get(make.__name__, (None, None))
    chosen = {}
    for text, default in zip((x_axis, y_axis), defaults, strict=True):
        if text is None and default is not None and default.partition("=")[0] not in fixed:
            text = default
        if text is not None:
            name, values = _axis(text)
            check_parameter(make, name, [EXPLORATION])
            if name in fixed:
                raise click.UsageError(f"`{name}` is both an axis and fixed by NAME=VALUE")
            if name in chosen:
                raise click.UsageError(f"`{name}` is on both axes; choose another --x or --y")
            chosen[name] = values
    if not chosen:
        raise click.UsageError(
            f"{make.__name__} needs an axis: --x NAME=LOW:HIGH:N, where NAME is one of "
            f"{', '.join([*defaults_of(make), EXPLORATION])}"
        )
    return chosen


def _axis(text: str) -> tuple[str, np.ndarray]:
    """Read NAME=LOW:HIGH:N."""
    name, equals, interval = text.partition("=")
    parts = interval.split(":")
    if not (name and equals and len(parts) == 3):
        raise click.UsageError(f"an axis must be NAME=LOW:HIGH:N; got `{text}`")
    low, high = (read_float(name, part) for part in parts[:2])
    if not parts[2].isdecimal() or int(parts[2]) < 2:
        raise click.UsageError(
            f"axis `{name}` must have a whole number of points, at least 2; got `{parts[2]}`"
        )
    if not low < high:
        raise click.UsageError(f"axis `{name}` must run upwards; got {low:g} to {high:g}")
    return name, np.linspace(low, high, int(parts[2]))


def _settings_of(diagram: xr.Dataset, exploration: float) -> str:
    """What is not an axis."""
    values = json.loads(diagram.attrs["fixed"])
    if EXPLORATION in diagram.attrs:
        values[EXPLORATION] = exploration
    return ", ".join(f"{name} = {number_text(x)}" for name, x in values.items())


def _figure(diagram: xr.Dataset, boundaries: bool | None, title: str) -> Any:
    from .. import plot  # matplotlib takes a second to import

    if boundaries is not None:
        return plot.phase_diagram(diagram, boundaries=boundaries, title=title)
    try:
        return plot.phase_diagram(diagram, boundaries=True, title=title)
    except ValueError:  # nobody asked for boundaries that theory does not give
        return plot.phase_diagram(diagram, boundaries=False, title=title)


def _population(
    simulate: bool,
    agents: int | None,
    steps: int | None,
    seed: int | None,
    learners: Mapping[str, Any],
) -> dict[str, Any]:
    """What to simulate in every cell, if anything."""
    numbers = {"agents": agents, "steps": steps, "seed": seed}
    for name, value in [*numbers.items(), *learners.items()]:
        if value not in (None, DEFAULTS.get(name)) and not simulate:
            raise click.UsageError(f"`--{name}` is for --simulate")
    for name in ("agents", "steps"):
        if (number := numbers[name]) is not None and number < 1:
            raise click.UsageError(f"`--{name}` must be at least 1; got {number}")
    if not simulate:
        return {}
    import jax

    return {
        "method": "simulate",
        "key": jax.random.key(seed or 0),
        "num_agents": agents,
        "num_steps": steps,
        "policy": policy_of(learners)(),
        "memory": memory_of(learners)(),
    }


def _simulated_figure(
    diagram: xr.Dataset, about: str, learners: Mapping[str, Any], seed: int
) -> Any:
    from .. import plot

    agents, steps = diagram.attrs["num_agents"], diagram.attrs["num_steps"]
    population = f"{agents:,} learners in each cell, {steps:,} steps, seed {seed}"
    usual = described(dict.fromkeys(learners) | DEFAULTS)
    kinds = [text for text in described(learners) if text not in usual]
    return plot.simulated_diagram(diagram, title=f"{about}; {', '.join([population, *kinds])}")


def _save(diagram: xr.Dataset, path: Path, kind: str) -> None:
    if kind == "netcdf":
        diagram.to_netcdf(path, engine="netcdf4")
    else:
        diagram.to_zarr(path, mode="w", zarr_format=2)


def _why_invalid(
    make: Callable[..., Any], diagram: xr.Dataset, fixed: Mapping[str, Any]
) -> str | None:
    """What the scenario itself says of a cell in which it makes no sense."""
    invalid = np.argwhere(diagram.phase.values == Phase.INVALID)
    if not len(invalid):
        return None
    dims = [str(dim) for dim in diagram.phase.dims]
    # One in the middle: the first is often a corner, which makes no sense for reasons of its own.
    chosen = invalid[len(invalid) // 2]
    cell = {d: float(diagram[d][i]) for d, i in zip(dims, chosen, strict=True)}
    where = ", ".join(f"{name} = {value:g}" for name, value in cell.items())
    try:
        make(**fixed, **{name: value for name, value in cell.items() if name != EXPLORATION})
    except ValueError as error:
        return f"INVALID at {where}, for example: {error}"
    return f"INVALID at {where}, for example."


def _print_diagram(
    diagram: xr.Dataset, exploration: float, warning: str | None, paths: Iterable[Path]
) -> None:
    """Say what was computed: shares of the phases, and where the files are."""
    console = new_console()
    over = " x ".join(f"{dim} ({diagram.sizes[dim]})" for dim in diagram.phase.dims)
    about = f"{diagram.attrs['scenario']} over {over}; {_settings_of(diagram, exploration)}"
    console.print(Text(about, style="dim"))
    table = new_table("Phases")
    table.add_column("phase")
    table.add_column("share", justify="right")
    table.add_column("cells", justify="right")
    table.add_column("meaning")
    codes, counts = np.unique(diagram.phase.values, return_counts=True)
    for code, count in zip(map(Phase, codes), counts, strict=True):
        table.add_row(
            Text(code.name, style=PHASE_COLOURS.get(code, "")),
            f"{count / counts.sum():.1%}",
            f"{count:,}",
            meaning_of(Phase, code.name),
        )
    console.print(table)
    if "outcome_share" in diagram:
        console.print(_populations_table(diagram))
    if warning is not None:
        console.print(Text(warning, style="red"))
    incomplete = int((~diagram.complete & (diagram.phase != Phase.INVALID)).sum())
    if incomplete:
        console.print(Text(f"In {incomplete:,} cells there may be more equilibria than listed."))
    for path in paths:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def _populations_table(diagram: xr.Dataset) -> Any:
    """Where simulated learners end, in the cells of each phase."""
    agents, steps = diagram.attrs["num_agents"], diagram.attrs["num_steps"]
    table = new_table(f"{agents:,} learners in each cell, {steps:,} steps")
    table.add_column("phase")
    outcomes = [str(name) for name in diagram.outcome.values]
    for outcome in outcomes:
        table.add_column(outcome, justify="right")
    for code in map(Phase, np.unique(diagram.phase.values)):
        share = diagram.outcome_share.where(diagram.phase == code).mean(diagram.phase.dims)
        row = (f"{x:.1%}" if np.isfinite(x) else "" for x in share.values)
        table.add_row(Text(code.name, style=PHASE_COLOURS.get(code, "")), *row)
    return table
