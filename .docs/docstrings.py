"""Docstrings say ``name : meaning`` where numpydoc expects a type: types are in the signatures."""

import re

import griffe

_ENTRY = re.compile(r"^(\*{0,2}\w[\w*, ]*) : (.+)$")


class Meanings(griffe.Extension):
    """Move what stands after the colon to where numpydoc has descriptions."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite the docstring of an object."""
        if obj.docstring is None:
            return
        lines, inside = [], False
        text = obj.docstring.value.splitlines()
        for line, after in zip(text, [*text[1:], ""], strict=True):
            if re.fullmatch(r"-{3,}", after):
                inside = line in ("Parameters", "Attributes")
            found = _ENTRY.match(line) if inside else None
            lines += [found[1], f"    {found[2]}"] if found else [line]
        obj.docstring.value = "\n".join(lines)
