"""How learners choose and remember: options of every command that has any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from .. import (
    BestResponse,
    DiscountedMemory,
    EpsilonGreedy,
    Logit,
    PerfectMemory,
    ThompsonSampling,
    WindowMemory,
)

DEFAULTS = {"policy": "best-response", "memory": "perfect"}
_OPTIONS = [
    click.option(
        "--policy",
        type=click.Choice(["best-response", "epsilon-greedy", "logit", "thompson"]),
        default=DEFAULTS["policy"],
        show_default=True,
        help="How agents choose, given what they believe.",
    ),
    click.option(
        "--ties",
        type=click.Choice(["first", "last", "uniform"]),
        help="Of best responses: which of several to play.  [default: first]",
    ),
    click.option("--temperature", type=float, help="Of --policy logit, in units of payoff."),
    click.option("--epsilon", type=float, help="Of --policy epsilon-greedy."),
    click.option(
        "--memory",
        type=click.Choice(["perfect", "discounted", "window"]),
        default=DEFAULTS["memory"],
        show_default=True,
        help="What agents remember.",
    ),
    click.option(
        "--rate", type=float, help="Of --memory discounted: share forgotten at each step."
    ),
    click.option("--length", type=int, help="Of --memory window: how many observations."),
]


def learner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def policy_of(options: Mapping[str, Any]) -> Callable[[], Any]:
    """The policy, made later: when the precision is set."""
    name = options["policy"]
    _belongs(options, "temperature", name == "logit", "--policy logit", True)
    _belongs(options, "epsilon", name == "epsilon-greedy", "--policy epsilon-greedy", True)
    _belongs(options, "ties", name in ("best-response", "epsilon-greedy"), "best responses", False)
    best = lambda: BestResponse(options["ties"] or "first")  # noqa: E731
    return {
        "best-response": best,
        "epsilon-greedy": lambda: EpsilonGreedy(options["epsilon"], best()),
        "logit": lambda: Logit(options["temperature"]),
        "thompson": ThompsonSampling,
    }[name]


def memory_of(options: Mapping[str, Any]) -> Callable[[], Any]:
    """The memory, made later."""
    name = options["memory"]
    _belongs(options, "rate", name == "discounted", "--memory discounted", True)
    _belongs(options, "length", name == "window", "--memory window", True)
    return {
        "perfect": PerfectMemory,
        "discounted": lambda: DiscountedMemory(options["rate"]),
        "window": lambda: WindowMemory(options["length"]),
    }[name]


def described(options: Mapping[str, Any], short: bool = False) -> list[str]:
    """Policy and memory in words, with their numbers; what these are too, unless it is short."""
    kinds = [
        (options["policy"].replace("-r", " r"), ("ties", "temperature", "epsilon")),
        (f"{options['memory']} memory", ("rate", "length")),
    ]
    texts = []
    for kind, names in kinds:
        given = [n for n in names if options[n] is not None]
        if short:
            texts.append(" ".join([kind, *(str(options[n]) for n in given)]))
        else:
            named = ", ".join(f"{n}\xa0{options[n]}" for n in given)
            texts.append(f"{kind} ({named})" if given else kind)
    return texts


def _belongs(options: Mapping[str, Any], name: str, applies: bool, to: str, required: bool) -> None:
    """An option that another one calls for must be given, and only then."""
    if applies and required and options[name] is None:
        raise click.UsageError(f"`{to}` needs `--{name}`")
    if not applies and options[name] is not None:
        raise click.UsageError(f"`--{name}` is for {to}, which was not asked for")
