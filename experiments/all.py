"""Every experiment, and one page that shows them: ``python -m experiments.all [--quick]``."""

from __future__ import annotations

import argparse
import base64
import gc
import html
import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from bnjax.cli import settings

from ._experiment import add_options, conduct, place_of, print_report, short

NAMES = (
    "sycophancy_phases",
    "hallucination_isomorphism",
    "deception_lock_in",
    "oscillation",
    "prior_decides",
    "reward_or_prior",
    "representation_and_exploration",
    "safe_prior_design",
    "monopolist",
    "overconfidence",
    "gpu_sweep",
)

_SHORT = 12  # rows that are shown at once
_VERSIONS = {"bnjax": "bnjax", "jax": "JAX", "numpy": "NumPy", "python": "Python"}

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --dim: #59636e; --line: #d8dee4; --good: #00517f;
  --bad: #b33c00; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 58rem; color: var(--ink);
  background: #fff; font: 17px/1.55 Georgia, "Times New Roman", serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 .5rem; }
a { color: var(--good); }
.dim, figcaption, footer { color: var(--dim); }
nav ol { columns: 2 20rem; column-gap: 3rem; padding-left: 2rem; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.75rem; }
figure { margin: 1.25rem 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { font-size: .92rem; margin-top: .5rem; }
.verdict { font: 600 .85rem/1 system-ui, sans-serif; padding: .25rem .5rem; border-radius: .25rem;
  color: #fff; background: var(--good); white-space: nowrap; }
.verdict.fails { background: var(--bad); }
ul.findings { list-style: none; padding: 0; }
ul.findings li { padding: .6rem 0; border-bottom: 1px solid var(--line); }
ul.findings .found { display: block; color: var(--dim); font-size: .95rem; }
pre { font: .85rem/1.4 ui-monospace, Menlo, monospace; background: #f6f8fa; padding: .6rem .8rem;
  overflow-x: auto; border-radius: .25rem; margin: .75rem 0; }
.table { overflow-x: auto; margin: 1rem 0; font: .8rem/1.4 system-ui, sans-serif; }
.table table { border-collapse: collapse; }
.table th, .table td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
.table th { text-align: left; vertical-align: bottom; color: var(--dim); font-weight: 600; }
.table td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; color: var(--good); font-size: .95rem; }
footer { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1rem;
  font-size: .9rem; }
@media (max-width: 40rem) { body { font-size: 16px; padding: 1.25rem 1rem 3rem; } }
"""


def page(reports: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """One HTML page that needs nothing else, pictures included."""
    links = "".join(
        f'<li><a href="#{r["name"]}">{_text(r["title"])}</a>{"" if r["holds"] else " (fails)"}</li>'
        for r in reports
    )
    machines = dict.fromkeys(_machine(r["machine"]) for r in reports)
    total = sum(r["seconds"] for r in reports)
    size = "small (--quick)" if reports[0]["quick"] else "full size"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bnjax: the claims of Epistemic Traps, checked</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Epistemic traps, checked</h1>
<p>What an agent ends up doing when it learns with a wrong model of its world: the claims of
<a href="https://arxiv.org/abs/2602.17676">arXiv 2602.17676</a>, each computed by bnjax, drawn, and
held against an answer. {_sentence(reports)}</p>
<nav><ol>{links}</ol></nav>
{"".join(_section(report, folder) for report in reports)}
<footer>Made by <code>python -m experiments.all{" --quick" * reports[0]["quick"]}</code> in
{total:.0f} s, {size}, with seed {reports[0]["seed"]}. On {"; and on ".join(machines)}.</footer>
</body>
</html>
"""


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine[key]}" for key, name in _VERSIONS.items())
    devices = f"{machine['num_devices']} device{'s' * (machine['num_devices'] != 1)}"
    return _text(f"{devices} ({machine['device']}), {versions}")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table, behind a click where it is long."""
    head = "".join(f"<th>{_text(name.replace('_', ' '))}</th>" for name in rows[0])
    cells = ("".join(_cell(value) for value in row.values()) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    table = f'<div class="table"><table><tr>{head}</tr>{body}</table></div>'
    if len(rows) <= _SHORT:
        return table
    return f"<details><summary>Table of {len(rows)} rows</summary>{table}</details>"


def _cell(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    start = '<td class="number">' if number else "<td>"
    return f"{start}{_text(short(value, 4))}</td>"


def _sentence(reports: Sequence[Mapping[str, Any]]) -> str:
    failed = [r["title"] for r in reports if not r["holds"]]
    number = sum(len(r["findings"]) for r in reports)
    if failed:
        return f"<strong>Not all hold: {_text('; '.join(failed))}.</strong>"
    return f"All {number} findings of {len(reports)} experiments hold."


def _section(report: Mapping[str, Any], folder: Path) -> str:
    figures = "".join(
        f'<figure><img alt="{_text(figure["caption"])}" src="data:image/png;base64,'
        f'{_encoded(folder / report["name"] / figure["file"])}">'
        f"<figcaption>{_text(figure['caption'])}</figcaption></figure>"
        for figure in report["figures"]
    )
    findings = "".join(
        f'<li><span class="verdict{"" if x["holds"] else " fails"}">'
        f"{'holds' if x['holds'] else 'fails'}</span> {_text(x['claim'])}"
        f'<span class="found">{_text(x["found"])}</span></li>'
        for x in report["findings"]
    )
    claim = "".join(f"<p>{_marked(part)}</p>" for part in report["claim"].split("\n\n"))
    return (
        f'<section id="{report["name"]}"><h2>{_text(report["title"])}</h2>{claim}{figures}'
        f'<ul class="findings">{findings}</ul>{_table(report["table"])}'
        f"<pre>{_text(report['command'])}</pre></section>\n"
    )


def _text(text: str) -> str:
    return html.escape(" ".join(str(text).split()))


def _marked(text: str) -> str:
    """Text of a docstring, in which `code` and *emphasis* are marked."""
    text = re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", _text(text))
    return re.sub(r"(?<!\w)\*(\w.*?)\*(?!\w)", r"<em>\1</em>", text)


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def main() -> None:
    """Run everything, say what holds, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    add_options(parser, "minutes")
    parser.add_argument(
        "--only",
        nargs="+",
        default=NAMES,
        choices=NAMES,
        metavar="NAME",
        help="some of them; the page keeps what is there of the others",
    )
    options = parser.parse_args()
    options.out = place_of(options.out, options.quick)
    broken = []
    with settings():
        for name in options.only:
            try:
                print_report(conduct(name, options.quick, options.out))
            except Exception:  # the others are not to be lost
                traceback.print_exc()
                broken.append(name)
            gc.collect()
    reports = _written(options.out, options.quick, set(NAMES) - set(broken))
    if reports:
        (options.out / "index.html").write_text(page(reports, options.out), encoding="utf-8")
        print(f"written to {options.out / 'index.html'}")
    if broken:
        print(f"ended by an error, and not on the page: {', '.join(broken)}", file=sys.stderr)
    ran = [report for report in reports if report["name"] in options.only]
    sys.exit(0 if not broken and all(report["holds"] for report in ran) else 1)


def _written(folder: Path, quick: bool, names: Set[str]) -> list[dict[str, Any]]:
    """Reports in a folder of experiments of one size, in their order."""
    files = [folder / name / "result.json" for name in NAMES if name in names]
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    return [report for report in reports if report["quick"] == quick]


if __name__ == "__main__":
    main()
