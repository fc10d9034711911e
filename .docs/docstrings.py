"""Docstrings say ``name : meaning`` where numpydoc expects a type: types are in the signatures."""

import re

import griffe

_ENTRY = re.compile(r"^(\*{0,2}\w[\w*, ]*) : (.+)$")


class Meanings(griffe.Extension):
    """Move what stands after the colon to where numpydoc has descriptions.

    What is said of several names at once is said of each, so that each is shown with the type and
    the default that are its own.
    """

    def on_object(self, *, obj, **kwargs):
        """Rewrite the docstring of an object."""
        if obj.docstring is None:
            return
        lines, names, meaning, inside = [], [], [], False

        def finish():
            for name in names:
                lines.extend([name, *meaning])
            names.clear()
            meaning.clear()

        text = obj.docstring.value.splitlines()
        for line, after in zip(text, [*text[1:], ""], strict=True):
            if re.fullmatch(r"-{3,}", after):
                finish()
                inside = line in ("Parameters", "Attributes")
            found = _ENTRY.match(line) if inside else None
            if found:
                finish()
                names += found[1].split(", ")
                meaning.append(f"    {found[2]}")
            else:
                (meaning if names else lines).append(line)
        finish()
        obj.docstring.value = "\n".join(lines)
