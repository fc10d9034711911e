"""Policies and memories by their names, as options and configurations spell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .belief import AbstractMemory, DiscountedMemory, PerfectMemory, WindowMemory
from .response import AbstractPolicy, BestResponse, EpsilonGreedy, Logit, ThompsonSampling

POLICIES = ("best-response", "epsilon-greedy", "logit", "thompson")
MEMORIES = ("perfect", "discounted", "window")
TIES = ("first", "last", "uniform")
DEFAULTS = {"policy": "best-response", "memory": "perfect"}

Spelling = Callable[[str, str | None], str]


def as_option(name: str, value: str | None = None) -> str:
    """How the command spells a setting."""
    return f"--{name}" if value is None else f"--{name} {value}"


def policy_of(
    options: Mapping[str, Any], spelling: Spelling = as_option
) -> Callable[[], AbstractPolicy]:
    """The policy, made later: when the precision is set."""
    name = options["policy"]
    _belongs(options, "temperature", ("policy", "logit"), spelling)
    _belongs(options, "epsilon", ("policy", "epsilon-greedy"), spelling)
    if options["ties"] is not None and name not in ("best-response", "epsilon-greedy"):
        raise ValueError(f"`{spelling('ties', None)}` is for best responses, not asked for")
    best = lambda: BestResponse(options["ties"] or "first")  # noqa: E731
    return {
        "best-response": best,
        "epsilon-greedy": lambda: EpsilonGreedy(options["epsilon"], best()),
        "logit": lambda: Logit(options["temperature"]),
        "thompson": ThompsonSampling,
    }[name]


def memory_of(
    options: Mapping[str, Any], spelling: Spelling = as_option
) -> Callable[[], AbstractMemory]:
    """The memory, made later."""
    name = options["memory"]
    _belongs(options, "rate", ("memory", "discounted"), spelling)
    _belongs(options, "length", ("memory", "window"), spelling)
    return {
        "perfect": PerfectMemory,
        "discounted": lambda: DiscountedMemory(options["rate"]),
        "window": lambda: WindowMemory(options["length"]),
    }[name]


def _belongs(
    options: Mapping[str, Any], name: str, to: tuple[str, str], spelling: Spelling
) -> None:
    """An option that another one calls for must be given, and only then."""
    applies = options[to[0]] == to[1]
    if applies and options[name] is None:
        raise ValueError(f"`{spelling(*to)}` needs `{spelling(name, None)}`")
    if not applies and options[name] is not None:
        raise ValueError(f"`{spelling(name, None)}` is for {spelling(*to)}, not asked for")
