"""The site: what it shows of the library is what the library does."""

import ast
import inspect
from pathlib import Path

import pytest

import bnjax

ROOT = Path(__file__).parent.parent
PACKAGES = [bnjax, bnjax.design, bnjax.plot, bnjax.scenarios, bnjax.sweeps]


def documented():
    """Each public function and class, and what the site reads of it."""
    griffe = pytest.importorskip("griffe", reason="the site is not installed")
    extension = griffe.load_extensions(str(ROOT / ".docs" / "docstrings.py"))
    options = {"docstring_parser": griffe.Parser.numpy, "extensions": extension}
    loaded = griffe.load("bnjax", search_paths=[str(ROOT)], **options)
    for package in PACKAGES:
        place = package.__name__.removeprefix("bnjax").removeprefix(".")
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                shown = loaded[f"{place}.{name}".removeprefix(".")]
                yield value, shown.final_target if shown.is_alias else shown


def described(shown):
    """Parameters that the site describes, if any."""
    if shown.docstring is None:
        return []
    kinds = ("parameters", "attributes")
    sections = [part for part in shown.docstring.parsed if part.kind.value in kinds]
    return [parameter for section in sections for parameter in section.value]


def test_the_site_shows_every_parameter_with_its_own_default():
    shown_defaults = 0
    for value, shown in documented():
        parameters = inspect.signature(value).parameters if inspect.isfunction(value) else {}
        for entry in described(shown):
            assert "," not in entry.name, f"{value.__qualname__} has {entry.name} in one entry"
            default = getattr(entry, "default", None)
            parameter = parameters.get(entry.name)
            if parameter is None or default is None or parameter.kind is parameter.VAR_KEYWORD:
                continue
            try:
                found = ast.literal_eval(default)
            except ValueError:  # such as `jnp.inf`
                continue
            assert found == parameter.default, f"{value.__qualname__}({parameter})"
            shown_defaults += 1
    assert shown_defaults > 50


def test_what_is_said_of_two_names_is_said_of_each():
    entries = {
        entry.name: entry
        for value, shown in documented()
        if value is bnjax.scenarios.deception
        for entry in described(shown)
    }
    lower, upper = entries["detect_lower"], entries["detect_upper"]
    assert lower.description == upper.description
    assert (lower.default, upper.default) == ("0.0", "1.0")
