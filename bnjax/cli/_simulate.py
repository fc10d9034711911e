"""``bnjax simulate``: what a population of learners does in a scenario."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table
from rich.text import Text

from .. import (
    BestResponse,
    FamilyProblem,
    Simulation,
    Stability,
    Trajectory,
    equilibria,
    simulate,
)
from .._consequence import Categorical
from .._provenance import provenance
from ..learning._outcome import mean_interval
from ._common import (
    MANY,
    SEED,
    assignments,
    defaults_of,
    find_scenario,
    json_text,
    make_folder,
    new_console,
    new_table,
    number_text,
    progress_bar,
    settings,
    write_atomically,
)
from ._learners import described, learner_options, memory_of, policy_of

_BEST = "best-response", "epsilon-greedy"  # which need a rule for ties
_LEVEL = 0.99
_SNAPSHOTS = 200  # at most, for the figure and the JSON
_PATHS = 40  # agents whose beliefs are kept one by one: those that the figure draws
_QUANTILES = 0.05, 0.5, 0.95
_EQUILIBRIA = 4  # these have a column each
_FIGURE = 55  # letters that a line above the figure has room for


@click.command("simulate", short_help="Let a population of learners live in a scenario.")
@click.argument("scenario")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--agents", type=int, default=1000, show_default=True, help="How many agents.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Observations of each.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same lives.")
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
    shows = out is not None or options["as_json"]
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
        if out is not None:
            make_folder(out)
        with progress_bar("agents", "simulating") as report:
            result = simulate(
                problem,
                jax.random.key(options["seed"]),
                num_agents=options["agents"],
                num_steps=options["steps"],
                policy=policy(),
                memory=memory(),
                exploration=options["exploration"],
                record=Trajectory(_every(options["steps"])) if shows else None,
                progress=report,
            )
        explores = float(1 - (1 - options["exploration"]) * (1 - (options["epsilon"] or 0.0)))
        report = _report(scenario, defaults_of(make) | given, options, family, result)
        report["equilibria"] = _predicted(family, explores)
        if out is not None:
            write_atomically(paths[0], lambda path: path.write_text(json_text(report) + "\n"))
            # Legend and caption of the figure say how many agents there are, and the grid.
            title = _heading(scenario, given, options, [_count(options["steps"], "step")], _FIGURE)
            figure = _figure(result, family, explores, title)
            write_atomically(paths[1], lambda path: figure.savefig(path, dpi=200))
    if options["as_json"]:
        click.echo(json_text(report))
    else:
        size = [_count(options[name], name.removesuffix("s")) for name in ("agents", "steps")]
        if isinstance(family, FamilyProblem):
            size.append(f"{report['models']:,} models")
        console = new_console()
        heading = _heading(scenario, given, options, size, console.width)
        console.print(Text(heading.replace("\xa0", " "), style="dim"))
        _print_report(report)
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
    """What is to be known; of the problem only names and payoffs: it may be the continuum."""
    names = problem.action_names
    shares = result.shares(_LEVEL)
    keys = {f"locked {a}": f"locked on {name}" for a, name in enumerate(names)}
    late = np.asarray(result.late_frequency, float)
    said = {} if options["policy"] not in _BEST else {"ties": BestResponse().ties}
    locked = np.asarray(result.outcome) == 0
    since = np.asarray(result.since)[locked]
    return {
        "scenario": scenario,
        "parameters": dict(parameters),
        "options": said | {k: v for k, v in options.items() if v is not None and k != "as_json"},
        "models": result.log_belief.shape[-1],
        "notes": _notes(options, problem, result),
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
        "late_frequency": {name: _mean(late[:, a], 0.0, 1.0) for a, name in enumerate(names)},
        "mean_payoff": _mean(np.asarray(result.mean_payoff, float), *_payoffs(problem)),
        "lock_in_step": None if not len(since) else float(np.median(since)),
        "mean_theta": dict(
            zip(
                problem.parameter_names,
                np.asarray(result.mean_theta, float).mean(0).tolist(),
                strict=True,
            )
        ),
        **_trajectory(problem, result),
        **provenance(),
    }


def _trajectory(problem: Any, result: Simulation) -> dict[str, Any]:
    """Play and beliefs over time, where they were asked for."""
    shots = result.trajectory
    if shots is None:
        return {}
    counts = np.asarray(shots.action_counts)
    return {
        "trajectory": {
            "step": counts[0].sum(-1).astype(int).tolist(),
            "action_counts": {
                name: counts[:, :, a].sum(0).astype(int).tolist()
                for a, name in enumerate(problem.action_names)
            },
            "mean_theta": {
                name: _over_time(np.asarray(shots.mean_theta, float)[..., dimension])
                for dimension, name in enumerate(problem.parameter_names)
            },
        }
    }


def _over_time(theta: np.ndarray) -> dict[str, Any]:
    """Means that agents believe [N, S]: of them all, and of those whom the figure shows."""

    def short(values: np.ndarray) -> list[float]:
        return [float(f"{x:.6g}") for x in values]

    quantiles = zip(_QUANTILES, np.quantile(theta, _QUANTILES, axis=0), strict=True)
    return {
        "mean": short(theta.mean(0)),
        "quantiles": {f"{level:g}": short(values) for level, values in quantiles},
        "agents": [short(path) for path in theta[:_PATHS]],
    }


def _notes(options: Mapping[str, Any], problem: Any, result: Simulation) -> list[str]:
    """How what was simulated differs from what the equilibria are equilibria of."""
    notes = []
    if isinstance(problem, FamilyProblem):
        models = result.log_belief.shape[-1]
        notes.append(
            f"Simulated on a grid of {models:,} models; equilibria are those of the continuum."
        )
    if options["policy"] not in _BEST or options["memory"] != "perfect":
        notes.append("Equilibria are those of best response with perfect memory.")
    return notes


def _mean(values: np.ndarray, least: float, most: float) -> dict[str, float | None]:
    """A mean over agents that are not invalid, and its interval, for which there must be bounds."""
    values = values[np.isfinite(values)]
    if not (len(values) and math.isfinite(most - least)):
        mean = float(values.mean()) if len(values) else None
        return {"mean": mean, "low": None, "high": None}
    found = mean_interval(values, least, most, _LEVEL)
    return dict(zip(("mean", "low", "high"), found, strict=True))


def _payoffs(problem: Any) -> tuple[float, float]:
    """Between what payoffs lie."""
    truth = problem.consequence
    if not isinstance(truth, Categorical):
        return -math.inf, math.inf
    possible = np.asarray(truth.payoff, float)[np.asarray(truth.probs) > 0]
    return float(possible.min()), float(possible.max())


def _predicted(problem: Any, exploration: float) -> list[dict[str, Any]]:
    """What the exact solver says may happen."""
    found = equilibria(problem, exploration)
    return [
        {
            "kind": "pure" if bool(found.is_pure[row]) else "not pure",
            "stability": Stability(int(found.stability[row])).name,
            "realised": dict(
                zip(
                    problem.action_names,
                    np.asarray(found.realised[row], float).tolist(),
                    strict=True,
                )
            ),
            "best_fit": dict(
                zip(
                    problem.parameter_names,
                    np.asarray(found.best_fit[row], float).tolist(),
                    strict=True,
                )
            ),
            "others_fit": bool(found.others_fit[row]),
        }
        for row in np.flatnonzero(np.asarray(found.valid))
    ]


def _figure(result: Simulation, problem: Any, exploration: float, title: str) -> Any:
    from .. import plot  # matplotlib takes a second to import

    return plot.learning(result, problem, exploration=exploration, title=title)


def _every(steps: int) -> int:
    """Steps between snapshots, so that the last one comes as close to the end as can be."""
    least = -(-steps // _SNAPSHOTS)
    # Beyond a few, others come no closer than matters in a figure.
    return min(range(least, least + min(least, _SNAPSHOTS)), key=lambda every: steps % every)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _heading(
    scenario: str,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    size: Sequence[str],
    width: int,
) -> str:
    """What was asked for, on two lines at most: as many parameters as fit beside the rest."""
    explores = options["exploration"]
    last = [f"exploration {explores:g}"] if explores else []
    values = [f"{name}\xa0=\xa0{number_text(x)}" for name, x in given.items()]
    text = ""
    for shown, short in itertools.product(range(len(values), -1, -1), (False, True)):
        left = len(values) - shown
        more = [f"and {left} more" if shown else _count(left, "parameter")] if left else []
        parameters = ", ".join([*values[:shown], *more])
        settings = [*size, f"seed {options['seed']}", *described(options, short), *last]
        text = f"{scenario}: {'; '.join(filter(None, [parameters, ', '.join(settings)]))}"
        if len(textwrap.wrap(text, width)) <= 2:
            break
    return text


def _print_report(report: Mapping[str, Any]) -> None:
    console = new_console()
    table = new_table("Where agents end, by the action that they intend")
    table.add_column("outcome")
    table.add_column("share", justify="right")
    table.add_column(f"{_LEVEL:.0%} interval", justify="right")
    table.add_column("agents", justify="right")
    for name, row in report["outcomes"].items():
        if row["agents"]:
            interval = f"{row['low']:.4f} to {row['high']:.4f}"
            table.add_row(name, f"{row['share']:.4f}", interval, f"{row['agents']:,}")
    console.print(table)
    if (step := report["lock_in_step"]) is not None:
        since = f"had settled by step {step:,.0f}" if step else "never left their first action"
        console.print(Text(f"Half of the locked agents {since}."))
    console.print()
    console.print(_play_table(report))
    found = len(report["equilibria"])
    if found > _EQUILIBRIA:
        console.print(Text(f"And {found - _EQUILIBRIA} more equilibria: see `bnjax solve`."))
    for line in [*report["notes"], *([] if found else ["No equilibrium was found."])]:
        console.print(Text(line))
    payoff = report["mean_payoff"]
    console.print(Text(f"Payoff per step: {payoff['mean']:.4f}.", style="dim"))


def _play_table(report: Mapping[str, Any]) -> Table:
    """Late play beside each equilibrium: the actions that matter in either, and the rest in sum."""
    played = {name: row["mean"] for name, row in report["late_frequency"].items()}
    found = report["equilibria"][:_EQUILIBRIA]
    columns = [played, *(row["realised"] for row in found)]
    table = new_table("Play in the second half")
    table.add_column("action")
    table.add_column("frequency", justify="right", vertical="bottom")
    for row in found:
        kind = row["stability"].lower().replace("unknown", "stability unknown")
        table.add_column(f"equilibrium\n({kind})", justify="right")
    most = {name: max(column[name] for column in columns) for name in played}
    order = sorted(played, key=lambda name: -most[name])
    shown = order if len(order) <= MANY else [name for name in order[: MANY - 2] if most[name]]
    for name in sorted(shown, key=lambda name: -played[name]):
        table.add_row(name, *(f"{column[name]:.4f}" for column in columns))
    if rest := order[len(shown) :]:
        sums = (sum(column[name] for name in rest) for column in columns)
        table.add_row(f"and {len(rest)} more", *(f"{x:.4f}" for x in sums))
    return table
