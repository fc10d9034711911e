"""The experiments: what they claim is found, and their page shows it and needs nothing else."""

import base64
import csv
import importlib
import json
import re
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments import _experiment
from experiments import all as experiments
from experiments._experiment import Finding, Results, title_and_claim

ROOT = Path(__file__).parent.parent
# Of those that take longest to compile, none; one that simulates, one with an exact answer.
CHEAP = ("prior_decides", "overconfidence")


class Page(HTMLParser):
    """What a page shows, and what it would load from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.pictures, self.verdicts, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [given["href"]] if "href" in given else []
        self.pictures += [(given["src"], given["alt"])] if tag == "img" else []
        if "verdict" in (given.get("class") or "").split():
            self.verdicts.append(given["class"])

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(CHEAP, id="cheap"),
        pytest.param(experiments.NAMES, id="all", marks=pytest.mark.slow),
    ],
)
def test_experiments_hold(names, tmp_path):
    only = [] if names == experiments.NAMES else ["--only", *names]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.all", "--quick", "--out", str(tmp_path), *only],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # nothing that matplotlib or JAX would rather not draw or compute
    assert "FAILS" not in done.stdout
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    reports = [json.loads((tmp_path / name / "result.json").read_text()) for name in names]
    for name, report in zip(names, reports, strict=True):
        check_report(name, report, tmp_path / name)
        assert report["title"] in page.text
        assert report["command"] in page.text
        for figure in report["figures"]:
            data = base64.b64encode((tmp_path / name / figure["file"]).read_bytes()).decode()
            assert (f"data:image/png;base64,{data}", figure["caption"]) in page.pictures
            assert page.text.count(figure["caption"]) == 1
        for finding in report["findings"]:
            assert finding["claim"] in page.text
            assert finding["found"] in page.text
    assert len(page.pictures) == sum(len(report["figures"]) for report in reports)
    assert page.verdicts == ["verdict"] * sum(len(report["findings"]) for report in reports)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    inside = {f"#{name}" for name in names}
    assert set(page.links) == inside | {"https://arxiv.org/abs/2602.17676"}
    assert "url(" not in html
    assert "@import" not in html


def check_report(name, report, folder, quick=True):
    assert report["holds"]
    assert report["findings"]
    assert all(finding["holds"] for finding in report["findings"])
    assert report["quick"] == quick
    assert report["command"] == f"python -m experiments.{name}{' --quick' * quick}"
    assert report["seed"] == 0
    assert report["figures"]
    assert all(report["machine"].values())
    for figure in report["figures"]:
        assert (folder / figure["file"]).read_bytes().startswith(b"\x89PNG")
    assert {file.name for file in folder.iterdir()} == {
        "result.json",
        "table.csv",
        *(figure["file"] for figure in report["figures"]),
    }
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["table"]) > 0
    for row, same in zip(rows, report["table"], strict=True):
        assert list(row) == list(same)
        assert None not in row
        assert not {"", "nan", "inf", None} & set(row.values())


def test_committed_results_are_those_of_the_scripts():
    """At full size, of what the scripts now claim, all holding, and on the page as they are."""
    results = ROOT / "experiments" / "results"
    reports = []
    for name in experiments.NAMES:
        report = json.loads((results / name / "result.json").read_text(encoding="utf-8"))
        check_report(name, report, results / name, quick=False)
        module = importlib.import_module(f"experiments.{name}")
        assert (report["title"], report["claim"]) == title_and_claim(module)
        reports.append(report)
    html = (results / "index.html").read_text(encoding="utf-8")
    assert html == experiments.page(reports, results)


@pytest.mark.parametrize("name", experiments.NAMES)
def test_a_reader_of_the_paper_finds_a_script(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"(experiments/{name}.py)" in readme
    script = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    assert script.count("\n") <= 170  # the library does the work
    assert f'main("{name}"' in script


# The page of experiments that fail or break, with stand-ins.


def stand_in(name, quick, out, holds=True):
    if name == "monopolist":
        raise ZeroDivisionError("no price")
    finding = {"claim": "2 < 3 & `so` on.", "found": f"{name} <b>", "holds": holds}
    report = {
        "name": name,
        "title": f"On {name}",
        "claim": "First, ``--points 5``.\n\nThe *lower* bound, 2 * 3 * 4.",
        "holds": holds,
        "findings": [finding],
        "figures": [],
        "command": name,
        "quick": quick,
        "seed": 0,
        "seconds": 1.0,
        "table": [{"a_b": "x < y", "c": 1 / 3}] * (13 if name == "prior_decides" else 2),
        "machine": {
            "num_devices": 2 if name == "gpu_sweep" else 1,
            "device": "cpu",
            "bnjax": "0",
            "jax": "0",
            "numpy": "2",
            "python": "3",
        },
    }
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / "result.json").write_text(json.dumps(report))
    return report


def run_all(monkeypatch, out, *words):
    monkeypatch.setattr(sys, "argv", ["all", "--out", str(out), *words])
    with pytest.raises(SystemExit) as exit_:
        experiments.main()
    return exit_.value.code, (out / "index.html").read_text(encoding="utf-8")


def test_the_page_of_what_fails_and_breaks(tmp_path, monkeypatch, capsys):
    def conduct(name, quick, out):
        return stand_in(name, quick, out, holds=name != "gpu_sweep")

    monkeypatch.setattr(experiments, "conduct", conduct)
    code, html = run_all(monkeypatch, tmp_path)
    assert code == 1
    said = capsys.readouterr()
    assert "ZeroDivisionError: no price" in said.err
    assert "not on the page: monopolist" in said.err
    assert Page(html).verdicts == ["verdict"] * 9 + ["verdict fails"]
    assert "Not all hold: On gpu_sweep." in html
    assert "2 &lt; 3 &amp; `so` on." in html
    assert "First, <code>--points 5</code>." in html
    assert "The <em>lower</em> bound, 2 * 3 * 4." in html
    # Tables, the long one behind a click; and all machines.
    page = Page(html)
    assert page.tags.count("table") == 10
    assert page.tags.count("details") == 1
    assert page.text.count("0.3333") == 9 * 2 + 13
    assert "<th>a b</th>" in html
    assert "<td>x &lt; y</td>" in html
    assert page.text.count("1 device (cpu)") == page.text.count("2 devices (cpu)") == 1
    # Some of them again: the page keeps the others, but not those of another size.
    code, html = run_all(monkeypatch, tmp_path, "--only", "oscillation")
    assert code == 0
    assert len(Page(html).verdicts) == 10
    code, html = run_all(monkeypatch, tmp_path, "--quick", "--only", "oscillation")
    assert code == 0
    assert Page(html).verdicts == ["verdict"]


def test_nothing_on_the_page_if_all_break(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "conduct", stand_in)
    monkeypatch.setattr(sys, "argv", ["all", "--out", str(tmp_path), "--only", "monopolist"])
    with pytest.raises(SystemExit, match="1"):
        experiments.main()
    assert "not on the page: monopolist" in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()


def test_quick_results_do_not_take_the_place_of_the_full_ones():
    tracked = ROOT / "experiments" / "results"
    assert _experiment.place_of(None, quick=False) == tracked
    assert _experiment.place_of(None, quick=True) == ROOT / "results" / "experiments"
    assert _experiment.place_of(Path("there"), quick=True) == Path("there")
    assert "/results/" in (ROOT / ".gitignore").read_text().splitlines()


def test_pictures_of_an_earlier_version_go(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    results = Results({"new": figure}, {"new": "."}, [{"a": 1}], [Finding("a", "b", True)])
    module = types.SimpleNamespace(__doc__="On and on.", run=lambda quick: results)
    monkeypatch.setitem(sys.modules, "experiments.oscillation", module)
    folder = tmp_path / "oscillation"
    folder.mkdir()
    for name in ("old.png", "notes.txt"):
        (folder / name).write_text("")
    _experiment.conduct("oscillation", True, tmp_path)
    names = {file.name for file in folder.iterdir()}
    assert names == {"new.png", "notes.txt", "table.csv", "result.json"}


def test_titles_and_claims():
    from experiments import oscillation

    title, claim = title_and_claim(oscillation)
    assert title == "Oscillation: where neither habit can last"
    assert re.match("Where both answers are disapproved of", claim)
    assert Finding("a", "b", 1 > 0).holds is True
