"""``bnjax design``: search for a prior under which learners end up safe, and certify it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.text import Text

from .. import Phase, __version__, design
from ..design import DesignResult
from ..design._named import named, parameter_names, plain
from ._common import (
    PHASE_COLOURS,
    SEED,
    actions_of,
    assignments,
    check_parameter,
    defaults_of,
    find_scenario,
    json_text,
    make_folder,
    new_console,
    new_table,
    number_text,
    progress_bar,
    read_float,
    settings,
    write_atomically,
)

_KINDS: dict[str, Callable[[], design.AbstractDesign]] = {
    "log_prior": design.LogPrior,
    "beta": design.BetaPrior,
    "gaussian": design.GaussianPrior,
    "support": design.SupportBounds,
    "width": design.Width,
    "exploration": design.Exploration,
    "reward_scale": design.RewardScale,
    "reward_bonus": design.RewardBonus,
}
_STEPS = 200  # of the history that the JSON keeps, at most
_FAILED = 1  # exit status
_COUNT = click.IntRange(min=1)


@click.command("design", short_help="Search for a safe prior, and certify it.")
@click.argument("scenario")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--vary",
    multiple=True,
    required=True,
    metavar="WHAT",
    help=f"What may change: {', '.join(_KINDS)}; or NAME=LOW:HIGH, an argument of the scenario. "
    "Several together, if given several times.",
)
@click.option(
    "--environments",
    "boxes",
    multiple=True,
    metavar="NAME=LOW:HIGH",
    help="For what the design has to be good; can be given several times.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for design.json and design.png.",
)
@click.option(
    "--gradient",
    type=click.Choice(["implicit", "unrolled", "score"]),
    default="implicit",
    show_default=True,
    help="How play depends on the design: as an equilibrium, as the path to it, as simulated.",
)
@click.option(
    "--start",
    type=click.Choice(["prior", "any"]),
    help="Where play starts: as the prior has it, or anywhere, of which the worst counts.  "
    "[default: any, where models can be ruled out]",
)
@click.option("--steps", type=_COUNT, default=200, show_default=True, help="Of the search.")
@click.option("--starts", type=_COUNT, default=8, show_default=True, help="Of the search.")
@click.option(
    "--exploration",
    type=float,
    default=0.0,
    show_default=True,
    help="Probability with which play trembles to a uniform action, before any design.",
)
@click.option("--cost", type=float, default=0.01, show_default=True, help="Weight of the cost.")
@click.option("--payoff", type=float, default=0.0, show_default=True, help="Weight of the payoff.")
@click.option("--worst-case", is_flag=True, help="Count the worst environment, and not the mean.")
@click.option(
    "--reweight-only", is_flag=True, help="Rule out no model: a certificate by simulation at best."
)
@click.option(
    "--certified",
    type=_COUNT,
    default=121,
    show_default=True,
    help="Environments, on a grid, in which the design is certified; at most.",
)
@click.option(
    "--agents", type=_COUNT, default=1000, show_default=True, help="Simulated in each of these."
)
@click.option("--horizon", type=_COUNT, default=1000, show_default=True, help="Steps of theirs.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same design.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--x64/--x32", default=False, show_default=True, help="Floating-point precision.")
def search_design(
    scenario: str,
    values: tuple[str, ...],
    vary: tuple[str, ...],
    boxes: tuple[str, ...],
    out: Path,
    force: bool,
    **options: Any,
) -> None:
    """Search for a design under which learners in SCENARIO end up safe, and certify it.

    Other parameters can be fixed by NAME=VALUE; the rest keep their defaults. The design is put to
    two examinations: by its support (the exact phase in every environment, whatever agents observe)
    and by simulation. If it passes neither, the exit status is 1.

    \b
    Examples:
      bnjax design sycophancy --vary support \\
          --environments p_sycophantic=0.55:0.9 --environments p_honest=0.55:0.9 --out results
      bnjax design deception --vary beta --reweight-only \\
          --environments p_detect=0.6:0.9 --out results
      bnjax design sycophancy --vary width --vary exploration --vary support \\
          --environments p_honest=0.6:0.9 --out results
    """  # noqa: D301
    make = find_scenario(scenario)
    given = assignments(make, values)
    box = _boxes(make, boxes, given)
    kinds = _designs(make, vary, box)
    for name in ("cost", "payoff"):
        if not (math.isfinite(options[name]) and options[name] >= 0):
            raise click.UsageError(f"`--{name}` must be a weight, not less than 0")
    paths = [out / "design.json", out / "design.png"]
    for path in paths:
        if path.exists() and not force:
            raise click.UsageError(f"{path} exists; pass --force to overwrite it")
    with settings(options["x64"]):
        import jax

        names, safe = actions_of(make)
        if safe is None:
            raise click.UsageError(
                f"{scenario} calls none of its actions safe: nothing to design for"
            )
        with progress_bar("steps", "designing") as report_progress:
            result = design.optimize(
                make,
                {**given, **box},
                kinds[0] if len(kinds) == 1 else design.Together(*kinds),
                objective=design.Objective(
                    payoff=options["payoff"],
                    cost=options["cost"],
                    worst_case=options["worst_case"],
                ),
                gradient=options["gradient"],
                start=options["start"],
                exploration=options["exploration"],
                num_steps=options["steps"],
                num_starts=options["starts"],
                key=jax.random.key(options["seed"]),
                threshold=None if options["reweight_only"] else 1e-3,
                certified_environments=options["certified"],
                num_agents=options["agents"],
                horizon=options["horizon"],
                progress=report_progress,
            )
        report = _report(make, given, vary, options, names, result)
        figure = _figure(result, _about(scenario, given))
    make_folder(out)
    write_atomically(paths[0], lambda path: path.write_text(json_text(report) + "\n"))
    write_atomically(paths[1], lambda path: figure.savefig(path, dpi=200))
    _print_report(report)
    for path in paths:
        new_console().print(Text(f"wrote {path}"), soft_wrap=True)
    if result.earned == "none":
        raise click.exceptions.Exit(_FAILED)


# What is asked for.


def _interval(make: Callable[..., Any], option: str, text: str) -> tuple[str, float, float]:
    """Read NAME=LOW:HIGH of a parameter that is not a whole number."""
    name, equals, interval = text.partition("=")
    parts = interval.split(":")
    if not (name and equals and len(parts) == 2):
        raise click.UsageError(f"`{option}` must be NAME=LOW:HIGH; got `{text}`")
    check_parameter(make, name)
    if isinstance(defaults_of(make)[name], int):
        raise click.UsageError(f"`{option}` cannot have `{name}`, which is a whole number")
    low, high = (read_float(name, part) for part in parts)
    if not low < high:
        raise click.UsageError(f"`{name}` must run upwards; got {low:g} to {high:g}")
    return name, low, high


def _boxes(
    make: Callable[..., Any], texts: Sequence[str], given: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """What varies between environments."""
    box: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, low, high = _interval(make, "--environments", text)
        if name in box:
            raise click.UsageError(f"`{name}` is given twice")
        if name in given:
            raise click.UsageError(f"`{name}` is both in --environments and fixed by NAME=VALUE")
        box[name] = low, high
    return box


def _designs(
    make: Callable[..., Any], texts: Sequence[str], box: Mapping[str, Any]
) -> list[design.AbstractDesign]:
    """What may change, in the order given."""
    found: dict[str, design.AbstractDesign] = {}
    for text in texts:
        if "=" in text:
            name, low, high = _interval(make, "--vary", text)
            kind: design.AbstractDesign = design.Argument(name, low, high)
        elif text in _KINDS:
            name = text
            if name == "width":
                check_parameter(make, name)
            kind = _KINDS[name]()
        else:
            raise click.UsageError(
                f"`--vary` must be one of {', '.join(_KINDS)} or NAME=LOW:HIGH; got `{text}`"
            )
        if name in found:
            raise click.UsageError(f"`{name}` is given twice")
        if name in box:
            raise click.UsageError(f"`{name}` is both in --environments and in --vary")
        found[name] = kind
    return list(found.values())


# What comes out.


def _about(scenario: str, given: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name}\xa0=\xa0{number_text(x)}" for name, x in given.items())
    return f"{scenario}: {values}" if values else scenario


def _figure(result: DesignResult, title: str) -> Any:
    from .. import plot  # matplotlib takes a second to import

    return plot.design(result, title=title)


def _report(
    make: Callable[..., Any],
    given: Mapping[str, Any],
    vary: Sequence[str],
    options: Mapping[str, Any],
    actions: Sequence[str],
    result: DesignResult,
) -> dict[str, Any]:
    """All that is to be known of a design."""
    import jax

    from ..plot._priors import priors_of

    names = parameter_names(result)
    priors: dict[str, Any] = dict(zip(("before", "after"), priors_of(result), strict=True))
    # In the order in which they were given.
    box = {name: result.situation.environments.box[name] for name in result.support.axes}
    found = {"before": result.reference, "after": result.parameters}
    fixed = {k: v for k, v in {**defaults_of(make), **given}.items() if k not in box}
    support = {"before": result.support_before, "after": result.support}
    statistical = {"before": result.statistical_before, "after": result.statistical}
    return {
        "scenario": make.__name__,
        "parameters": fixed,
        "environments": {name: list(bounds) for name, bounds in box.items()},
        "vary": list(vary),
        "options": {k: v for k, v in options.items() if v is not None},
        "seed": options["seed"],
        "precision": str(result.situation.exploration.dtype),
        "versions": {"bnjax": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "earned": result.earned,
        "verdict": result.headline,
        "design": {
            # What is designed may move the range of the parameters too.
            when: named(result.design, parameters, priors[when].theta, names, actions)
            for when, parameters in found.items()
        },
        "stretch": result.stretch,
        "outcome": {"before": _outcome(result.before), "after": _outcome(result.after)},
        "certificates": {
            "support": {when: _support(one) for when, one in support.items()},
            "statistical": {when: _statistical(one) for when, one in statistical.items()},
        },
        "prior": {
            "theta_names": names,
            **{
                when: {
                    "theta": plain(prior.theta),
                    "weight": plain(prior.weight),
                    "kept": prior.kept.tolist(),
                }
                for when, prior in priors.items()
            },
        },
        "history": _history(result),
    }


def _outcome(found: design.Evaluation) -> dict[str, Any]:
    share, payoff = np.asarray(found.safe_share, float), np.asarray(found.payoff, float)
    return {
        "safe_share": plain(share.mean()),
        "worst_safe_share": plain(share.min()),
        "payoff": plain(payoff.mean()),
        "best_payoff": plain(np.asarray(found.best_payoff, float).mean()),
        "cost": plain(found.cost),
    }


def _axes(certificate: Any) -> dict[str, Any]:
    return {name: plain(axis) for name, axis in certificate.axes.items()}


def _support(certificate: design.SupportCertificate) -> dict[str, Any]:
    codes = np.unique(certificate.phase)
    return {
        "holds": certificate.holds,
        "safe_phase_share": certificate.share,
        "exploration": plain(certificate.exploration),
        "method": certificate.method,
        "axes": _axes(certificate),
        "phase_names": {str(code): Phase(int(code)).name for code in codes},
        "phase": certificate.phase.tolist(),
        "models_kept": certificate.models_kept.tolist(),
    }


def _statistical(certificate: design.StatisticalCertificate) -> dict[str, Any]:
    return {
        "holds": certificate.holds,
        "required": certificate.required,
        "agents": certificate.num_agents,
        "steps": certificate.num_steps,
        "policy": certificate.policy,
        "memory": certificate.memory,
        "axes": _axes(certificate),
        "safe_share": plain(certificate.safe_share),
        "low": plain(certificate.low),
        "high": plain(certificate.high),
    }


def _history(result: DesignResult) -> dict[str, Any]:
    """Some of the steps of every start, the last among them."""
    history = result.history
    last = np.shape(history.objective)[1] - 1
    steps = np.unique(np.linspace(0, last, min(_STEPS, last + 1)).round().astype(int))
    curves = {
        name: plain(np.asarray(values)[:, steps]) for name, values in history._asdict().items()
    }
    return {"best_start": result.best, "step": steps.tolist(), **curves}


# What is printed.

_ROWS = {
    "safe_share": "safe share, mean",
    "worst_safe_share": "safe share, worst",
    "payoff": "payoff, mean",
    "best_payoff": "payoff, best action",
    "cost": "cost",
}


def _print_report(report: Mapping[str, Any]) -> None:
    console = new_console()
    box = [f"{name} in [{low:g}, {high:g}]" for name, (low, high) in report["environments"].items()]
    given = [f"{name} = {number_text(x)}" for name, x in report["parameters"].items()]
    about = f"{report['scenario']}: {', '.join([*box, *given])}; seed {report['seed']}"
    console.print(Text(about, style="dim"))
    console.print(_comparison(report))
    console.print()
    console.print(_certificates(report))
    for line in _explained(report):
        console.print(Text(line, style="dim"))
    style = "bold red" if report["earned"] == "none" else "bold blue"
    console.print(Text(report["verdict"], style=style))


def _comparison(report: Mapping[str, Any]) -> Any:
    """Design and outcome, before and after."""
    table = new_table("Design")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    first, second = report["design"]["before"], report["design"]["after"]
    for name in second:
        if name.startswith("nats"):  # one for each model
            table.add_row("log-weights of models", "", "see design.json")
        else:
            table.add_row(name, _short(first[name]), _short(second[name]))
    table.add_section()
    first, second = report["outcome"]["before"], report["outcome"]["after"]
    for key, name in _ROWS.items():
        table.add_row(name, *(_short(x[key], ".4f") for x in (first, second)))
    return table


def _certificates(report: Mapping[str, Any]) -> Any:
    """What each examination found."""
    support, statistical = (report["certificates"][n] for n in ("support", "statistical"))
    table = new_table("Certificates")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("certificate holds?")
    table.add_row(
        "support: share in the safe phase",
        *(f"{support[when]['safe_phase_share']:.0%}" for when in ("before", "after")),
        _verdict(support["after"]["holds"]),
    )
    table.add_row(
        "simulation: least safe play",
        *(f"{np.min(statistical[when]['safe_share']):.4f}" for when in ("before", "after")),
        _verdict(statistical["after"]["holds"]),
    )
    return table


def _explained(report: Mapping[str, Any]) -> list[str]:
    """Of what the certificates of the design are."""
    support, statistical = (
        report["certificates"][name]["after"] for name in ("support", "statistical")
    )
    kept = np.asarray(support["models_kept"])
    environments = f"{kept.size:,} environments" if kept.size > 1 else "the one environment"
    size = f"{kept.min():,}" if kept.min() == kept.max() else f"{kept.min():,} to {kept.max():,}"
    low, high = np.ravel(statistical["low"]), np.ravel(statistical["high"])
    worst = int(low.argmin())
    stretch = report["stretch"]
    stretched = f"Stretched {stretch:g} times as far as the search went, to be certified."
    # With more actions than two, not every environment is proved on its own.
    how = "" if support["method"] == "exact" else f" ({support['method']})"
    return [
        *([] if stretch == 1 else [stretched]),
        f"Support: {size} of {len(report['prior']['after']['weight']):,} models, in "
        f"{environments}{how}.",
        f"Simulation: agents that play safe in at least 99 % of the second half, in the worst "
        f"environment: {low[worst]:.4f} to {high[worst]:.4f}, {statistical['required']:g} required "
        f"({statistical['agents']:,} agents, {statistical['steps']:,} steps).",
    ]


def _verdict(holds: bool) -> Text:
    phase = Phase.SAFE if holds else Phase.UNSAFE
    return Text("yes" if holds else "no", style=PHASE_COLOURS[phase])


def _short(value: Any, style: str = ".4g") -> str:
    if isinstance(value, list):
        return ", ".join(_short(x) for x in value)
    return "infinite" if value is None else format(value, style)
