"""How learners choose and remember: options of every command that has any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from .._learners import DEFAULTS, MEMORIES, POLICIES, TIES
from .._learners import memory_of as memory_of
from .._learners import policy_of as policy_of

_OPTIONS = [
    click.option(
        "--policy",
        type=click.Choice(POLICIES),
        default=DEFAULTS["policy"],
        show_default=True,
        help="How agents choose: what they expect to pay best; that, but any action now and then; "
        "each the more often, the more it pays; or what a model drawn from the belief likes best.",
    ),
    click.option(
        "--ties",
        type=click.Choice(TIES),
        help="Of best responses: which of several to play.  [default: first]",
    ),
    click.option(
        "--temperature", type=float, help="Of --policy logit, in units of payoff, above 0."
    ),
    click.option("--epsilon", type=float, help="Of --policy epsilon-greedy, from 0 to 1."),
    click.option(
        "--memory",
        type=click.Choice(MEMORIES),
        default=DEFAULTS["memory"],
        show_default=True,
        help="What agents remember.",
    ),
    click.option(
        "--rate",
        type=float,
        help="Of --memory discounted: share forgotten at each step, between 0 and 1.",
    ),
    click.option(
        "--length", type=int, help="Of --memory window: how many observations, at least 1."
    ),
]


def learner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


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
