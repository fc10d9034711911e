"""``bnjax solve``: what one scenario leads to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import click
import numpy as np
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from .. import Certainty, Equilibria, FamilyProblem, Phase, Stability, certify
from ..equilibrium._public import solve_all
from ..problem import AbstractFiniteProblem, AbstractProblem
from ._common import (
    PHASE_COLOURS,
    assignments,
    defaults_of,
    few,
    find_scenario,
    listed,
    meaning_of,
    new_console,
    new_table,
    number_text,
    settings,
)

_GRID = 21  # models per coordinate in a certificate
_FEW_ACTIONS = 4  # these have a column each


@click.command(short_help="Find equilibria, rationalizable actions, phase.")
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
    make = find_scenario(scenario)
    given = assignments(make, values)
    with settings(x64):
        problem = make(**given)
        proof = _certificate(problem, exploration, grid) if certified else {}
        # At the tolerances of what is to confirm the answer, or a near-tie could set them at odds.
        ties = [proof["certificate"][name] for name in ("tol_fit", "tol_payoff") if certified]
        found, possible, code = solve_all(problem, exploration, max_equilibria, *ties)
        report = {
            "scenario": scenario,
            "parameters": defaults_of(make) | given,
            "exploration": exploration,
            "precision": "float64" if x64 else "float32",
            "actions": {
                name: {"safe": None if problem.safe is None else bool(problem.safe[i])}
                for i, name in enumerate(problem.action_names)
            },
            "phase": None if code is None else Phase(int(code)).name,
            "equilibria": [
                _equilibrium(problem, found, row) for row in np.flatnonzero(found.valid).tolist()
            ],
            "max_equilibria": max_equilibria,
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
    parameters = problem.parameter_names
    if isinstance(problem, FamilyProblem):
        believed = zip(_row(found.atoms, row), _row(found.atom_weight, row), strict=True)
    else:
        assert isinstance(problem, AbstractFiniteProblem)
        believed = zip(np.asarray(problem.theta), _row(found.belief, row), strict=True)

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
        "others_fit": bool(found.others_fit[row]),
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
            "rationalizable": _certainties(problem, certificate.certainty),
            "safe": certificate.safe,
            "method": certificate.method,
            "tol_fit": certificate.tol_fit,
            "tol_payoff": certificate.tol_payoff,
            "reasons": {
                name: certificate._reason(i, problem.action_names, problem)
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
    console = new_console()
    console.print(Text(_settings_line(report), style="dim"))
    if report["phase"] is not None:
        code = Phase[report["phase"]]
        title = Text.assemble("Phase: ", (code.name, f"bold {PHASE_COLOURS.get(code, '')}"))
        console.print(title)
        console.print(Padding(meaning_of(Phase, code.name), (0, 0, 0, 2)))
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
            f"payoff range (payoff){_residuals(report)}.",
            style="dim",
        )
    )
    if "certificate" in report:
        console.print()
        console.print(
            *_certificate_lines(report["certificate"], report["phase"] is not None), sep="\n"
        )


def _settings_line(report: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} = {number_text(x)}" for name, x in report["parameters"].items())
    return (
        f"{report['scenario']}: {values}; exploration = {report['exploration']:g}; "
        f"{report['precision']}"
    )


def _equilibria_table(report: Mapping[str, Any]) -> RenderableType:
    rows = report["equilibria"]
    more = "" if report["complete"] else " (there may be more: not proved complete)"
    if len(rows) == report["max_equilibria"] and more:
        more = f" (there may be more than these {len(rows)}: see --max-equilibria)"
    if not rows:
        return Text(f"No equilibrium found{more}.")
    explores = report["exploration"] > 0
    several = any(len(row["belief"]) > 1 for row in rows)
    actions = list(report["actions"])
    by_action = len(actions) <= _FEW_ACTIONS
    table = new_table(f"Equilibria{more}")
    table.add_column("play" if explores or not by_action else "")
    for name in actions if by_action else [""]:
        table.add_column(name, no_wrap=True)
    for name in rows[0]["best_fit"]:
        # Words, so that a narrow terminal folds the header between them.
        table.add_column(f"believed {name.replace('_', ' ')}", overflow="fold")
    if several:
        table.add_column("with probability")
    table.add_column("stability")
    for row in rows:
        start, end, realised = row["strategy"], row["strategy_end"], row["realised"]
        if by_action:
            play = [_range(start[name], end[name]) for name in actions]
        else:
            play = [
                "\n".join(
                    few([f"{a}: {_range(p, end[a])}" for a, p in start.items() if p + end[a]])
                )
            ]
        atoms = row["belief"]
        table.add_row(
            row["kind"],
            *play,
            *(_believed(row, name) for name in row["best_fit"]),
            *(["\n".join(f"{x['weight']:.6g}" for x in atoms)] if several else []),
            row["stability"].lower() + (", absorbing" if row["absorbing"] else ""),
        )
        if explores and by_action:
            table.add_row("realised", *(f"{realised[name]:.6g}" for name in actions), style="dim")
    return table


def _believed(row: Mapping[str, Any], name: str) -> str:
    """Values of one parameter under the belief; it may be one belief of several."""
    values = [f"{x['theta'][name]:.6g}" for x in row["belief"]]
    return "\n".join([*values, "(or others)"] if row["others_fit"] else values)


def _residuals(report: Mapping[str, Any]) -> str:
    """How well the worst of the equilibria that are listed passes its check."""
    worst = max((row["residual"] for row in report["equilibria"]), default=0.0)
    return f"; residuals at most {worst:.0e}" if worst else ""


def _range(start: float, end: float) -> str:
    return f"{start:.6g}" if start == end else f"{start:.6g} to {end:.6g}"


def _rationalizable_table(certainties: Mapping[str, str], title: str) -> RenderableType:
    table = new_table(title)
    table.add_column("certainty", no_wrap=True)
    table.add_column("actions")
    for code in (Certainty.IN, Certainty.UNDECIDED, Certainty.OUT):
        names = [name for name, certainty in certainties.items() if certainty == code.name]
        if names:
            meaning = meaning_of(Certainty, code.name).partition(":")[0].lower()
            table.add_row(f"{code.name} ({meaning})", listed(names))
    return table


def _certificate_lines(certificate: Mapping[str, Any], any_safe: bool) -> Iterator[RenderableType]:
    """Show what was proved, of which problem, and why."""
    verdict = {True: "yes", False: "no", None: "not determined"}[certificate["safe"]]
    table = new_table("Certificate")
    for column in ("action", "certainty", "reason"):
        table.add_column(column)
    for name, certainty in certificate["rationalizable"].items():
        table.add_row(name, certainty, certificate["reasons"][name])
    yield table
    if any_safe:
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
