"""``bnjax simulate``: what a population of learners does in a scenario."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.text import Text

from .. import (
    FamilyProblem,
    Simulation,
    Trajectory,
    __version__,
    equilibria,
    simulate,
)
from ..learning._outcome import mean_interval
from ._common import (
    assignments,
    defaults_of,
    few,
    find_scenario,
    make_folder,
    new_console,
    new_table,
    number_text,
    progress_bar,
    settings,
    write_atomically,
)
from ._learners import learner_options, memory_of, policy_of

_LEVEL = 0.99
_SNAPSHOTS = 200  # at most, for the figure and the JSON
_ROWS = 12


@click.command("simulate", short_help="Let a population of learners live in a scenario.")
@click.argument("scenario")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--agents", type=int, default=1000, show_default=True, help="How many agents.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Observations of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same lives.")
@learner_options
@click.option(
    "--exploration",
    type=float,
    default=0.0,
    show_default=True,
    help="Probability with which play trembles to a uniform action.",
)
@click.option(
    "--grid",
    type=click.IntRange(min=2),
    help="Models per coordinate that replace a continuum.  [default: the solver's grid]",
)
@click.option("--x64/--x32", default=False, show_default=True, help="Floating-point precision.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for simulation.png and simulation.json.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def simulate_scenario(
    scenario: str, values: tuple[str, ...], out: Path | None, force: bool, **options: Any
) -> None:
    """Let a population of Bayesian learners live in SCENARIO, and say where they end.

    Parameters that are not given keep their defaults (see `bnjax scenarios`). Every agent learns
    by itself; a continuum of models is replaced by an even grid with a uniform prior.

    \b
    Examples:
      bnjax simulate sycophancy p_sycophantic=0.7 p_honest=0.6 --out results
      bnjax simulate sycophancy p_sycophantic=0.3 p_honest=0.4 \\
          --policy logit --temperature 0.05 --memory window --length 50
    """  # noqa: D301
    make = find_scenario(scenario)
    given = assignments(make, values)
    policy, memory = policy_of(options), memory_of(options)
    paths = [] if out is None else [out / "simulation.json", out / "simulation.png"]
    for path in paths:
        if path.exists() and not force:
            raise click.UsageError(f"{path} exists; pass --force to overwrite it")
    for name in ("agents", "steps"):
        if options[name] < 1:
            raise click.UsageError(f"`--{name}` must be at least 1; got {options[name]}")
    with settings(options["x64"]):
        import jax

        problem = make(**given)
        family = problem
        if isinstance(problem, FamilyProblem):
            problem = problem.discretize(options["grid"])
        elif options["grid"] is not None:
            raise click.UsageError("`--grid` is for a continuum of models; this one is finite")
        with progress_bar("agents") as report:
            result = simulate(
                problem,
                jax.random.key(options["seed"]),
                num_agents=options["agents"],
                num_steps=options["steps"],
                policy=policy(),
                memory=memory(),
                exploration=options["exploration"],
                record=Trajectory(-(-options["steps"] // _SNAPSHOTS)),
                progress=report,
            )
        explores = float(1 - (1 - options["exploration"]) * (1 - (options["epsilon"] or 0.0)))
        report = _report(scenario, defaults_of(make) | given, options, problem, result)
        report["equilibria"] = _predicted(family, explores)
        if out is not None:
            make_folder(out)
            text = json.dumps(report, indent=2, allow_nan=False)
            write_atomically(paths[0], lambda path: path.write_text(text + "\n"))
            title = f"{scenario}: {_settings_line(report)}".replace(" = ", "\xa0=\xa0")
            figure = _figure(result, family, explores, title)
            write_atomically(paths[1], lambda path: figure.savefig(path, dpi=200))
    if options["as_json"]:
        click.echo(json.dumps(report, indent=2, allow_nan=False))
    else:
        _print_report(report, problem)
        for path in paths:
            new_console().print(Text(f"wrote {path}"), soft_wrap=True)


# What comes out.


def _report(
    scenario: str,
    parameters: Mapping[str, Any],
    options: Mapping[str, Any],
    problem: Any,
    result: Simulation,
) -> dict[str, Any]:
    names = problem.action_names
    shares = result.shares(_LEVEL)
    keys = {f"locked {a}": f"locked on {name}" for a, name in enumerate(names)}
    late = np.asarray(result.late_frequency, float)
    locked = np.asarray(result.outcome) == 0
    since = np.asarray(result.since)[locked]
    shots = result.trajectory
    assert shots is not None
    counts = np.asarray(shots.action_counts)
    return {
        "scenario": scenario,
        "parameters": dict(parameters),
        "options": {k: v for k, v in options.items() if v is not None and k != "as_json"},
        "precision": str(result.frequency.dtype),
        "models": problem.num_models,
        "confidence": _LEVEL,
        "outcomes": {
            keys.get(key, key): {
                "share": s.share,
                "low": s.low,
                "high": s.high,
                "agents": s.count,
            }
            for key, s in shares.items()
        },
        "late_frequency": {
            name: dict(
                zip(
                    ("mean", "low", "high"), _finite(mean_interval(late[:, a], _LEVEL)), strict=True
                )
            )
            for a, name in enumerate(names)
        },
        "mean_payoff": dict(
            zip(
                ("mean", "low", "high"),
                _finite(mean_interval(np.asarray(result.mean_payoff, float), _LEVEL)),
                strict=True,
            )
        ),
        "lock_in_step": None if not len(since) else float(np.median(since)),
        "mean_theta": dict(
            zip(
                problem.parameter_names,
                np.asarray(result.mean_theta, float).mean(0).tolist(),
                strict=True,
            )
        ),
        "trajectory": {
            "step": counts[0].sum(-1).astype(int).tolist(),
            "action_counts": {
                name: counts[:, :, a].sum(0).astype(int).tolist() for a, name in enumerate(names)
            },
        },
        "bnjax_version": __version__,
    }


def _finite(interval: tuple[float, float, float]) -> list[float | None]:
    return [x if math.isfinite(x) else None for x in interval]


def _predicted(problem: Any, exploration: float) -> list[dict[str, Any]]:
    """What the exact solver says may happen."""
    found = equilibria(problem, exploration)
    return [
        {
            "kind": "pure" if bool(found.is_pure[row]) else "not pure",
            "realised": dict(
                zip(
                    problem.action_names,
                    np.asarray(found.realised[row], float).tolist(),
                    strict=True,
                )
            ),
        }
        for row in np.flatnonzero(np.asarray(found.valid))
    ]


def _figure(result: Simulation, problem: Any, exploration: float, title: str) -> Any:
    from .. import plot  # matplotlib takes a second to import

    return plot.learning(result, problem, exploration=exploration, title=title)


def _settings_line(report: Mapping[str, Any]) -> str:
    values = [f"{name} = {number_text(x)}" for name, x in report["parameters"].items()]
    options = report["options"]
    values += [f"{options['agents']:,} agents, {options['steps']:,} steps"]
    values += [f"{options['policy']}, {options['memory']} memory"]
    return ", ".join(values)


def _print_report(report: Mapping[str, Any], problem: Any) -> None:
    console = new_console()
    console.print(Text(f"{report['scenario']}: {_settings_line(report)}", style="dim"))
    table = new_table("Where agents end")
    table.add_column("outcome")
    table.add_column("share", justify="right")
    table.add_column(f"{_LEVEL:.0%} interval", justify="right")
    table.add_column("agents", justify="right")
    for name, row in report["outcomes"].items():
        if row["agents"]:
            interval = f"{row['low']:.4f} to {row['high']:.4f}"
            table.add_row(name, f"{row['share']:.4f}", interval, f"{row['agents']:,}")
    console.print(table)
    if report["lock_in_step"] is not None:
        console.print(
            Text(f"Half of the locked agents had settled by step {report['lock_in_step']:,.0f}.")
        )
    console.print()
    played = {n: row for n, row in report["late_frequency"].items() if row["mean"]}
    most = dict(sorted(played.items(), key=lambda item: -item[1]["mean"])[:_ROWS])
    table = new_table("Play in the second half")
    table.add_column("action")
    table.add_column("frequency", justify="right")
    table.add_column("equilibria (as played)", justify="right")
    for name, row in most.items():
        predicted = few([f"{e['realised'][name]:.4f}" for e in report["equilibria"]])
        table.add_row(name, f"{row['mean']:.4f}", ", ".join(predicted) or "none")
    console.print(table)
    payoff = report["mean_payoff"]
    console.print(Text(f"Payoff per step: {payoff['mean']:.4f}.", style="dim"))
