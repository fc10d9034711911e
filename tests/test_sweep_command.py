"""`bnjax sweep`: configurations, what it prints and writes, how it fails, how it goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import bnjax as bn
from bnjax.cli import main
from bnjax.cli._sweep import _duration, _share
from bnjax.sweeps import _config
from bnjax.sweeps._config import read_config
from bnjax.sweeps._functions import asked, complaint

ROOT = Path(__file__).parent.parent
MODULE = "functions_for_sweep_command_tests"
FUNCTIONS = """
import jax
import jax.numpy as jnp


number = 3


def rings(u, v, shift=0.0):
    r = jnp.sqrt(u**2 + (v - shift) ** 2)
    return {
        "radius": jnp.where(r > 1.2, jnp.nan, r),
        "ring": jnp.floor(2 * r).astype(jnp.int8),
        "both": jnp.stack([u, v]),
    }


def draw(u, key):
    return jax.random.normal(key) + u


def bets(p, q):
    import bnjax as bn

    rates = jnp.stack([jnp.stack([1 - p, p]), jnp.stack([1 - q, q])])
    return bn.Problem(
        rates,
        jnp.array([[[0.1, 0.9], [0.5, 0.5]], [[0.6, 0.4], [0.5, 0.5]]], p.dtype),
        jnp.array([[0.0, 1.0], [0.0, 1.0]], p.dtype),
        safe=jnp.array([False, True]),
        action_names=["bold", "shy"],
    )
"""
RINGS = f'''
function = "{MODULE}:rings"
chunk = 10
[axes]
u = "-1:1:6"
v = "0:1:5"
[fixed]
shift = 0.25
[dims]
both = ["which"]
[coords]
which = ["u", "v"]
[attrs.radius]
units = "metres"
'''


@pytest.fixture(scope="module", autouse=True)
def _own_process_settings(tmp_path_factory):
    """Keep the cache of the command out of the user's."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / f"{MODULE}.py").write_text(FUNCTIONS)
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    sys.modules.pop(MODULE, None)


def run(*args, width=100):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["sweep", *map(str, args)])


def succeed(*args, width=100, status=0):
    result = run(*args, width=width)
    assert result.exit_code == status, result.output
    assert result.stderr == ""
    return result.stdout


def fail(*args):
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def write(folder, text):
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """A finished store of 30 cells in chunks of 2 x 5, and what the command said of it."""
    folder = tmp_path_factory.mktemp("rings")
    store = folder / "rings.zarr"
    return store, succeed("run", write(folder, RINGS), "--store", store)


@pytest.fixture
def copy(rings, tmp_path):
    """The same store, to be spoilt."""
    import shutil

    store = tmp_path / "copy.zarr"
    shutil.copytree(rings[0], store)
    return store


# Configurations, without computing anything.

PHASE = 'scenario = "sycophancy"\n'
AXES = '[axes]\np_honest = "0:1:3"\n'
SIMULATE = f'function = "simulate"\n{PHASE}{AXES}[simulate]\n'


def test_config_of_a_phase():
    config = read_config(f"{PHASE}{AXES}[fixed]\nwidth = 1")
    assert (config.function, config.scenario, config.precision) == (
        "phase",
        "sycophancy",
        "float32",
    )
    assert config.axes == {"p_honest": "0:1:3"}
    assert config.fixed == {"width": 1}
    assert config.seed is config.chunk is config.simulate is None


def test_config_of_a_simulation():
    config = read_config(SIMULATE + 'policy = "logit"\ntemperature = 1\nsteps = 7')
    assert config.simulate is not None
    given = {name: value for name, value in config.simulate.items() if value is not None}
    assert given == {
        "agents": 100,
        "steps": 7,
        "policy": "logit",
        "temperature": 1,
        "memory": "perfect",
    }


def test_config_of_a_function_of_ones_own():
    config = read_config(RINGS)
    assert config.is_own
    assert config.dims == {"both": ("which",)}
    assert config.attrs == {"radius": {"units": "metres"}}


def test_example_is_valid_and_names_every_key():
    text = (ROOT / "experiments" / "sweep.toml").read_text()
    config = read_config(text)
    assert asked(config, ROOT)["chunk"] is None
    for key in [*_config._KEYS, *_config._SIMULATE]:
        assert re.search(rf"\b{key}\b", text), key
    # What is commented out is valid too, where it belongs.
    tables = text[text.index("# [simulate]") : text.index("# Of functions")]
    settings = "\n".join(line.removeprefix("# ") for line in tables.splitlines())
    assert read_config(f'function = "simulate"\nseed = 0\n{PHASE}{AXES}{settings}').simulate


def test_read_gives_what_the_command_sweeps(tmp_path):
    text = f"chunk = 2\n{PHASE}{AXES}exploration = [0.0, 0.1]\n[fixed]\nwidth = 1"
    path = write(tmp_path, text)
    what = bn.sweeps.read(path)
    assert what["axes"] == {"p_honest": "0:1:3", "exploration": [0.0, 0.1]}
    assert (what["chunk"], what["key"]) == (2, None)
    succeed("run", path, "--store", tmp_path / "command.zarr")
    swept = bn.sweep(**what, store=tmp_path / "python.zarr")
    xr.testing.assert_equal(swept, xr.open_zarr(tmp_path / "command.zarr"))
    # Other values of an axis, in its place.
    fewer = bn.sweeps.read(path, axes={"p_honest": [0.8]})["axes"]
    assert list(fewer.items()) == [("p_honest", [0.8]), ("exploration", [0.0, 0.1])]


@pytest.mark.parametrize(
    ("text", "axes", "said"),
    [
        ("axes = ", None, "sweep.toml: this is no TOML: "),
        (PHASE + AXES, {"p_honset": [1]}, "`axes` must name axes of .*: did you mean `p_honest`?"),
        (f'precision = "float64"\n{PHASE}{AXES}', None, "jax.enable_x64.True"),
        (f"{PHASE}[axes]\np_honset = [1]", None, "`p_honset` of .axes. is no parameter"),
    ],
)
def test_read_says_what_is_wrong(text, axes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        bn.sweeps.read(write(tmp_path, text), axes=axes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axes = ", "sweep.toml: this is no TOML: "),
        (AXES, "`scenario` must be given; there are: coin,"),
        (PHASE, "`axes` must name at least one axis"),
        (f"{PHASE}[axes]", "`axes` must name at least one axis"),
        (f"{PHASE}[axis]\np_honest = [1]", "unknown table `axis`: did you mean `axes`?"),
        (f"precison = 1\n{PHASE}{AXES}", "unknown key `precison`: did you mean `precision`?"),
        (f"{PHASE}{AXES}[x]", "unknown table `x`. There are: function, scenario,"),
        (f"precision = 32\n{PHASE}{AXES}", "`precision` must be a string; got 32"),
        (
            f'precision = "float16"\n{PHASE}{AXES}',
            '`precision` must be one of "float32", "float64"',
        ),
        (f"seed = true\n{PHASE}{AXES}", "`seed` must be a whole number; got True"),
        (f"seed = 1\n{PHASE}{AXES}", "`seed` is for function ="),
        (f"chunk = 0\n{PHASE}{AXES}", "`chunk` must be at least 1; got 0"),
        (f"may_be_nan = [1]\n{PHASE}{AXES}", "`may_be_nan` must be a list of names; got [1]"),
        (f"axes = 3\n{PHASE}", "`axes` must be a table; got 3"),
        (f"{PHASE}[axes]\np_honest = 0.5", "`axes.p_honest` must be a range"),
        (f"{PHASE}[axes]\np_honest = '0:1'", 'a range "low:high:n" with n values'),
        (f"{PHASE}[axes.w]\nwidth = 3", "`axes.w.width` must be a range"),
        (f"{PHASE}[axes.w]\nwidth = [1]\np_honest = [1, 2]", "must zip values of one length"),
        (f"{PHASE}{AXES}[fixed]\np_honest = 1", "`p_honest` must be given once"),
        (f'{PHASE}{AXES}[fixed]\nwidth = "a"', "`fixed.width` must be a number; got 'a'"),
        (f"{PHASE}{AXES}[simulate]", "table [simulate] is for function"),
        (f"{PHASE}{AXES}[dims]", "table [dims] is for functions of your own"),
        (f'scenario = "sycofancy"\n{AXES}', "`sycofancy`: did you mean `sycophancy`?"),
        (f'function = "phases"\n{PHASE}{AXES}', "got 'phases': did you mean `phase`?"),
        (f'function = "a:b"\n{PHASE}{AXES}', "`scenario` is for function ="),
        (f'function = "a:b"\n{AXES}[attrs]\nx = 1', "`attrs.x` must be a table; got 1"),
        (f'function = "a:b"\n{AXES}[coords]\nx = 1', "`coords.x` must be a list; got 1"),
        (f"{SIMULATE}agent = 3", "unknown key `simulate.agent`: did you mean `agents`?"),
        (f"{SIMULATE}agents = 1.5", "`simulate.agents` must be a whole number; got 1.5"),
        (f"{SIMULATE}agents = 0", "`simulate.agents` must be at least 1; got 0"),
        (f'{SIMULATE}policy = "logits"', "`simulate.policy` must be one of"),
        (f'{SIMULATE}policy = "logit"', 'policy = "logit"` needs `simulate.temperature`'),
        (f"{SIMULATE}length = 3", '`simulate.length` is for simulate.memory = "window"'),
    ],
)
def test_bad_config(text, said, tmp_path):
    store = tmp_path / "s.zarr"
    error = fail("run", write(tmp_path, text), "--store", store)
    assert said in error
    assert not store.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{PHASE}[axes]\np_honset = [1]", "`p_honset` of [axes] is no parameter of sycophancy"),
        (f"{PHASE}[axes]\np_honset = [1]", "did you mean `p_honest`?"),
        (f"{PHASE}{AXES}[fixed]\nwidht = 1", "did you mean `width`?"),
        (
            'scenario = "overconfidence"\n[axes]\nnum_efforts = [5, 6]',
            "`num_efforts` cannot be an axis",
        ),
        (
            'scenario = "overconfidence"\n[axes]\ndelta = [0.1]\n[fixed]\nnum_efforts = 5.0',
            "must be a whole number; got 5.0",
        ),
        ('function = "not.there:f"\n[axes]\nu = [1]', "not.there:f cannot be imported from"),
        (f'function = "{MODULE}:ring"\n[axes]\nu = [1]', "did you mean `rings`?"),
        (f'function = "{MODULE}:number"\n[axes]\nu = [1]', "must be a function; got 3"),
        (f'seed = 1\nfunction = "{MODULE}:rings"\n[axes]\nu = [1]', "has no parameter `key`"),
        (f'function = "{MODULE}:rings"\n[axes]\nu = [1]\n[fixed]\nw = 1', "`w` of [fixed]"),
        (f'function = "{MODULE}:rings"\n[axes]\nu = [1]', "`v` must be given"),
    ],
)
def test_arguments_that_do_not_fit(text, said, tmp_path):
    store = tmp_path / "s.zarr"
    assert said in fail("run", write(tmp_path, text), "--store", store)
    assert not store.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--process-id", 1], "`--process-id` is for --distributed"),
        (["--distributed", "--num-processes", 2], "must be given together"),
        (
            ["--distributed", "--coordinator", "h:1", "--num-processes", 2, "--process-id", 2],
            "`--process-id` must be less than --num-processes; got 2",
        ),
    ],
)
def test_bad_cluster(options, said, tmp_path):
    assert said in fail("run", write(tmp_path, RINGS), "--store", tmp_path / "s", *options)


def test_words():
    assert [_duration(x) for x in (0.2, 61.0, 7325.0, 90_000.0)] == [
        "1 s",
        "1 min 1 s",
        "2 h 2 min",
        "1 d 1 h",
    ]
    assert [_share(n, 10_000) for n in (0, 1, 5_000, 9_999, 10_000)] == [
        "0.0%",
        "<0.1%",
        "50.0%",
        ">99.9%",
        "100.0%",
    ]


# Functions.


def test_phase_is_that_of_a_diagram(tmp_path):
    text = f'''
scenario = "{MODULE}:bets"
[axes]
p = "0:1:5"
q = [0.3, 0.6]
exploration = [0.0, 0.2]
'''
    config = read_config(text)
    what = asked(config, Path.cwd())
    done = bn.sweep(**what, store=tmp_path / "s").load()
    import importlib

    bets = importlib.import_module(MODULE).bets
    axes = {"p": np.linspace(0, 1, 5), "q": [0.3, 0.6], "exploration": [0.0, 0.2]}
    diagram = bn.phase_diagram(bets, axes)
    for name in ("phase", "pure", "rationalizable"):
        np.testing.assert_array_equal(done[name], diagram[name])
        assert done[name].dims == diagram[name].dims
        assert done[name].dtype == diagram[name].dtype
    assert done.phase.attrs["flag_meanings"] == diagram.phase.attrs["flag_meanings"]
    known = ~np.isin(diagram.phase, [bn.Phase.UNDECIDED, bn.Phase.INVALID])
    np.testing.assert_array_equal(done.converged, known)
    assert list(done.action.values) == ["bold", "shy"]


def test_population_is_that_of_a_diagram(tmp_path):
    text = f'''
function = "simulate"
scenario = "{MODULE}:bets"
seed = 5
[axes]
p = [0.2, 0.8, 0.9]
q = [0.3, 0.6]
[fixed]
exploration = 0.1
[simulate]
agents = 5
steps = 20
'''
    store = tmp_path / "s"
    succeed("run", write(tmp_path, text), "--store", store)
    done = xr.open_zarr(store).load()
    import importlib

    diagram = bn.phase_diagram(
        importlib.import_module(MODULE).bets,
        {"p": [0.2, 0.8, 0.9], "q": [0.3, 0.6]},
        exploration=0.1,
        method="simulate",
        key=jax.random.key(5),
        num_agents=5,
        num_steps=20,
    )
    # The same lives: keys are folded from the same numbers.
    for name in ("frequency", "outcome_share"):
        np.testing.assert_allclose(done[name], diagram[name], rtol=1e-6)
        assert done[name].dims == diagram[name].dims
    np.testing.assert_array_equal(done.outcome, diagram.outcome)
    assert done.payoff.dims == ("p", "q")
    assert ((done.payoff > 0) & (done.payoff < 1)).all()


def test_function_with_a_key_gets_one_from_the_seed(tmp_path):
    text = f'function = "{MODULE}:draw"\nprecision = "float64"\n[axes]\nu = [0.0, 10.0]'
    drawn = []
    for seed in (0, 1):
        store = tmp_path / str(seed)
        succeed("run", write(tmp_path, f"seed = {seed}\n{text}"), "--store", store)
        drawn.append(xr.open_zarr(store).result.values)
    with jax.enable_x64(True):
        keys = [jax.random.fold_in(jax.random.key(1), i) for i in range(2)]
        wanted = [float(jax.random.normal(key)) + u for key, u in zip(keys, (0, 10), strict=True)]
    np.testing.assert_allclose(drawn[1], wanted)
    assert drawn[1].dtype == np.float64
    assert (drawn[0] != drawn[1]).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"p_honest": 2.0}, "`p_honest` must be a probability in [0, 1]; got 2."),
        ({"p_honest": 0.5, "exploration": 2.0}, "`exploration` must be a probability"),
        ({"p_honest": 0.5}, None),
    ],
)
def test_a_scenario_says_what_makes_no_sense_to_it(arguments, told):
    found = complaint(read_config(f"{PHASE}[axes]\np_honest = [0.5, 2]"), arguments)
    assert found is None if told is None else told in found


# Run, status, resume.


def test_run_fills_a_store(rings):
    store, said = rings
    done = xr.open_zarr(store).load()
    u, v = np.meshgrid(np.linspace(-1, 1, 6), np.linspace(0, 1, 5), indexing="ij")
    radius = np.hypot(u, v - 0.25)
    np.testing.assert_allclose(done.radius, np.where(radius > 1.2, np.nan, radius), rtol=1e-5)
    assert done.radius.attrs["units"] == "metres"
    assert done.both.dims == ("u", "v", "which")
    failed = int((radius > 1.2).sum())
    assert "rings over u (6) x v (5); float32 on" in said
    assert re.search(rf"NONFINITE +{failed} ", said)
    assert "3 chunks of 2x5 cells; " in said
    assert f"{failed} cells failed: bnjax.sweeps.failed(" in said
    assert re.search(r"For example at u = \S+, v = \S+: `radius` is not finite\.", said)
    assert f"xarray.open_zarr('{store}')" in said


def test_status_of_a_finished_sweep(rings):
    store, _ = rings
    said = succeed("status", store)
    assert "3 of 3 chunks of 2x5 cells are whole" in said
    assert "Complete and whole." in said
    assert "MISSING" not in said
    report = json.loads(succeed("status", store, "--json"))
    assert report["complete"]
    assert report["whole"]
    assert report["axes"] == {"u": 6, "v": 5}
    assert report["counts"]["OK"] + report["failed"] == report["cells"] == 30
    assert report["writers"] == []
    assert report["seconds_left"] == 0


def test_what_is_torn_or_missing_is_listed_and_resumed(rings, copy):
    torn, missing = copy / "radius" / "c" / "1" / "0", copy / "status" / "c" / "2" / "0"
    torn.write_bytes(torn.read_bytes()[:-3])
    for name in ("radius/c/2/0", "ring/c/2/0", "both/c/2/0/0", "status/c/2/0"):
        (copy / name).unlink()
    assert not missing.exists()
    said = succeed("status", copy, status=1)
    assert "1 of 3 chunks of 2x5 cells are whole" in said
    assert "Torn chunks, to be computed again: 1." in said
    assert "20 cells remain" in said
    assert f"To go on: `bnjax sweep resume {copy}`." in said
    assert json.loads(succeed("status", copy, "--json", status=1))["torn"] == [1]
    succeed("resume", copy)
    assert xr.open_zarr(copy).identical(xr.open_zarr(rings[0]))
    succeed("status", copy)


def test_picture_of_a_torn_store_says_what_to_do(copy, tmp_path):
    torn = copy / "radius" / "c" / "1" / "0"
    torn.write_bytes(b"0" * 40)
    error = fail("show", copy, "--variable", "radius", "--out", tmp_path / "a.png")
    assert "a chunk of `radius` cannot be read" in error
    assert "going on with the sweep computes them again" in error


def test_resume_of_a_finished_sweep_computes_nothing(copy):
    before = (copy / "radius" / "c" / "0" / "0").stat().st_mtime_ns
    assert "nothing was computed in the last run" in succeed("resume", copy)
    assert (copy / "radius" / "c" / "0" / "0").stat().st_mtime_ns == before
    succeed("resume", copy, "--rerun-failed")  # fails again in the same cells
    assert (copy / "radius" / "c" / "0" / "0").stat().st_mtime_ns > before


def test_run_again_continues_and_another_configuration_is_refused(copy, tmp_path):
    succeed("run", write(tmp_path, RINGS + "\n# a comment more\n"), "--store", copy)
    other = RINGS.replace("0.25", "0.5")
    assert "holds another sweep" in fail("run", write(tmp_path, other), "--store", copy)


def test_resume_of_a_store_from_python_says_how(tmp_path):
    store = tmp_path / "s"

    def double(u):
        return 2 * u

    bn.sweep(double, {"u": [1.0, 2.0]}, store=store)
    error = fail("resume", store, "--rerun-failed")
    assert "was made from Python: to go on with it, call `bnjax.sweep` with double" in error
    assert "rerun_failed=True" in error
    next(store.glob("status/c/*")).unlink()
    assert "the same call of bnjax.sweep in Python" in succeed("status", store, status=1)


def test_no_sweep(tmp_path):
    assert "does not exist" in fail("status", tmp_path / "none")
    for command in (["status"], ["resume"], ["show", "--out", tmp_path / "a.png"]):
        assert "must be a sweep" in fail(*command, tmp_path)


def test_termination_leaves_a_whole_store_and_says_how_to_go_on(tmp_path):
    many = RINGS.replace("-1:1:6", "-1:1:40000").replace("chunk = 10", "chunk = 200")
    config, store = write(tmp_path, many), tmp_path / "many"
    process = subprocess.Popen(
        [sys.executable, "-m", "bnjax", "sweep", "run", str(config), "--store", str(store)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < give_up:
        if list((store / "status").glob("c/3/0")):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, said
    assert re.search(
        rf"^bnjax: terminated; [\d,]+ of 200,000 cells are done in {store}\. "
        rf"`bnjax sweep resume {store}` goes on\.$",
        said,
        re.MULTILINE,
    )
    report = json.loads(succeed("status", store, "--json", status=1))
    assert report["whole"]
    assert report["counts"]["OK"] > 0


def test_interruption_says_how_to_go_on(copy, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bnjax.sweeps._sweep.run", interrupt)
    before = signal.getsignal(signal.SIGTERM)
    result = run("resume", copy)
    assert result.exit_code == 130
    assert result.stderr == f"bnjax: interrupted. `bnjax sweep resume {copy}` goes on.\n"
    assert signal.getsignal(signal.SIGTERM) == before


# Show.


def test_show_draws_a_picture(rings, tmp_path):
    out = tmp_path / "new" / "ring.png"
    said = succeed("show", rings[0], "--variable", "both", "--select", "which=v", "--out", out)
    assert said == f"wrote {out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "exists; pass --force" in fail("show", rings[0], "--out", out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--variable", "rings"], "did you mean `ring`?"),
        (["--x", "w"], "`x` must name what `both` varies with: u, v, which"),
        (["--select", "u"], "`--select` must be NAME=VALUE"),
        (["--select", "u=1", "--select", "u=2"], "`u` is selected twice"),
        (["--select", "u=one"], "`select` must be a number for u"),
        ([], "`select` must name a value of which, or `reduce` say how to reduce it: mean"),
        (["--reduce", "median"], "`reduce` must be one of mean, min, max; got 'median'"),
    ],
)
def test_bad_show(options, said, rings, tmp_path):
    assert said in fail("show", rings[0], *options, "--out", tmp_path / "a.png")


def test_picture_of_another_kind(rings, tmp_path):
    assert "must end in .png, .pdf or .svg" in fail("show", rings[0], "--out", tmp_path / "a.gif")


def test_help_shows_the_commands():
    said = succeed("--help")
    for name in ("run", "status", "resume", "show"):
        assert re.search(rf"^  {name} ", said, re.MULTILINE)
