"""The package as a stranger meets it: its import, its names, and every example it shows."""

import ast
import doctest
import io
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import bnjax

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def run_python(*args: str, cwd: Path, **environment: str) -> str:
    """Standard output of a fresh interpreter that finds bnjax as here, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(args)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# The import.


def test_import_loads_nothing_heavy(tmp_path):
    loaded = set(run_python("-c", "import bnjax, sys; print(*sys.modules)", cwd=tmp_path).split())
    heavy = {"matplotlib", "xarray", "pandas", "netCDF4", "zarr", "scipy", "diffrax", "optax"}
    assert loaded & (heavy | {"click", "rich"}) == set()


def test_import_leaves_the_devices_to_the_caller(tmp_path):
    # JAX refuses this setting once anything has been computed.
    code = "import bnjax, jax; jax.config.update('jax_num_cpu_devices', 2)"
    run_python("-c", code, cwd=tmp_path)


def test_import_is_quick(tmp_path):
    """Beside what it rests on: machines differ by five times, this ratio (0.44) hardly at all."""
    # Processor time, so that what else the machine is doing does not count.
    code = (
        "from time import process_time as now; start = now(); import jax, equinox; "
        "between = now(); import bnjax; print((now() - between) / (between - start))"
    )
    assert min(float(run_python("-c", code, cwd=tmp_path)) for _ in range(3)) <= 0.6


# The public names.


@pytest.mark.parametrize("name", bnjax.__all__)
def test_public_name(name):
    value = getattr(bnjax, name)
    if isinstance(value, str):
        return  # __version__
    doc = value.__doc__ or ""
    assert doc.strip(), f"bnjax.{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"bnjax.{name} has only a dataclass's signature"
    if not isinstance(value, ModuleType):
        modules = {module.name for module in pkgutil.iter_modules(bnjax.__path__)}
        assert name not in modules, f"bnjax.{name} hides the module of that name"


@pytest.mark.parametrize(
    "package", [n for n in bnjax.__all__ if isinstance(getattr(bnjax, n), ModuleType)]
)
def test_public_subpackage(package):
    """What `help` shows of a package is what `__all__` lists, as its modules are private."""
    module = getattr(bnjax, package)
    assert len((module.__doc__ or "").strip()) > 60
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert sorted(module.__all__) == sorted(re.findall(r"import (\w+) as \1$", source, re.M))
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("name", bnjax.scenarios.__all__)
def test_scenario_says_where_it_comes_from(name):
    """In the docstring of the function: the module is hidden by it."""
    doc = getattr(bnjax.scenarios, name).__doc__
    assert re.search(r"\b(19|20)\d\d\b|arXiv", doc), f"no source in bnjax.scenarios.{name}"
    assert ">>> " in doc, f"no example in bnjax.scenarios.{name}"


# The README.


class Block(NamedTuple):
    """A fenced block of Markdown: its language, and its lines with their numbers from 0."""

    language: str
    lines: list[tuple[int, str]]


def executed_blocks(markdown: str) -> Iterator[Block]:
    """Fenced blocks, without those right below a `<!-- not executed: reason -->`."""
    block, before = None, ""
    for number, line in enumerate(markdown.splitlines()):
        if block is None and (fence := re.match(r"```\s*(\w*)", line)):
            block = Block(fence[1], [])
        elif block is not None and line.startswith("```"):
            if not re.fullmatch(r"<!-- not executed: .+ -->", before):
                yield block
            block, before = None, ""
        elif block is not None:
            block.lines.append((number, line))
        elif line.strip():
            before = line.strip()


def bnjax_commands(markdown: str) -> list[list[str]]:
    """Arguments of each line that runs `bnjax` in the shell blocks."""
    shell = [b for b in executed_blocks(markdown) if b.language in ("bash", "sh", "console")]
    text = "\n".join(line for block in shell for _, line in block.lines)
    lines = [line.removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("bnjax ")]


def python_script(markdown: str) -> str:
    """Join the Python blocks into one script whose line numbers are those of the document."""
    script = [""] * len(markdown.splitlines())
    for block in executed_blocks(markdown):
        if block.language == "python":
            for number, line in block.lines:
                script[number] = line
    return "\n".join(script)


MARK = "=== the next block of the README"


def marked_script(markdown: str) -> str:
    """The same script, which says after each block that it has ended."""
    script = python_script(markdown).split("\n")
    for block in executed_blocks(markdown):
        if block.language == "python":
            script[block.lines[-1][0] + 1] = f"print({MARK!r})"  # where the fence is
    return "\n".join(script)


def shown_outputs(markdown: str) -> list[str]:
    """What the README shows of the output of each Python block: nothing, or the text below it."""
    shown: list[str] = []
    before = ""
    for block in executed_blocks(markdown):
        if block.language == "python":
            shown.append("")
        elif block.language == "text":
            assert before == "python", f"line {block.lines[0][0]}: the output of what?"
            shown[-1] = "\n".join(line for _, line in block.lines)
        before = block.language
    return shown


def same_words(found: str, shown: str) -> bool:
    """Whether two texts are one, up to rounding: sums run in another order on other machines."""

    def parts(text: str) -> list[str]:
        return re.findall(r"-?\d[\d.e+-]*|[^\s\d]+", text)

    def same(one: str, other: str) -> bool:
        if one == other:
            return True
        try:
            a, b = float(one), float(other)
        except ValueError:
            return False
        return abs(a - b) <= 0.02 + 0.02 * abs(b)

    pair = parts(found), parts(shown)
    return len(pair[0]) == len(pair[1]) and all(map(same, *pair))


def test_readme_is_read_right():
    markdown = """\
```python
x = 1
```
<!-- not executed: takes an hour -->

```bash
bnjax everything
```
Then, in the shell,
```console
$ cd results
$ bnjax phase-diagram sycophancy \\
    --out "a b"  # the map
done
```
```python
print(x)
```
"""
    assert bnjax_commands(markdown) == [["phase-diagram", "sycophancy", "--out", "a b"]]
    lines = python_script(markdown).splitlines()
    assert [(n, line) for n, line in enumerate(lines) if line] == [(1, "x = 1"), (16, "print(x)")]
    markdown += "```text\n1\n```\n"
    assert shown_outputs(markdown) == ["", "1"]
    lines = marked_script(markdown).splitlines()
    assert [n for n, line in enumerate(lines) if MARK in line] == [2, 17]


def test_outputs_are_compared_up_to_rounding():
    assert same_words("mixed:  a 0.331, b", "mixed: a 0.333, b")
    assert same_words("('a', 'b')", "('a', 'b')")
    assert not same_words("mixed: a 0.5, b", "mixed: a 0.333, b")
    assert not same_words("mixed: a 0.333", "mixed: a 0.333, b")
    assert not same_words("pure: a", "pure: b")


def test_readme_runs(tmp_path):
    """As a reader would: the commands in order, then the Python, all in one folder."""
    markdown = README.read_text(encoding="utf-8")
    commands, script = bnjax_commands(markdown), marked_script(markdown)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    assert commands
    assert script.strip()
    # What runs once and on little, unlike maps, is done sooner if code is left as it comes.
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    for command in commands:
        few = command[0] in ("solve", "simulate")
        run_python("-m", "bnjax", *command, cwd=tmp_path, **quickly if few else {})
    (tmp_path / "README.py").write_text(script, encoding="utf-8")
    output = run_python("README.py", cwd=tmp_path, **quickly)
    found = [part.strip("\n") for part in output.split(f"{MARK}\n")[:-1]]
    for number, pair in enumerate(zip(found, shown_outputs(markdown), strict=True)):
        assert same_words(*pair), f"Python block {number}: {pair[0]}\n\nis shown as\n\n{pair[1]}"


# The docstrings.


def docstring_examples() -> Iterator[doctest.DocTest]:
    """Every docstring with an example, read from the source so that no decorator hides one."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in sorted((ROOT / "bnjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, documented) and (text := ast.get_docstring(node, clean=False)):
                line = node.body[0].lineno
                where = f"{path.relative_to(ROOT)}:{line}"
                test = doctest.DocTestParser().get_doctest(text, {}, where, str(path), line - 1)
                if test.examples:
                    yield test


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("example", list(docstring_examples()), ids=lambda test: test.name)
def test_docstring_example(example, tmp_path, monkeypatch):
    """Each runs on its own, so that it works when copied."""
    monkeypatch.chdir(tmp_path)
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=report.write).failed == 0, report.getvalue()
