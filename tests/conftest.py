"""What every test runs under: checked types, strict dtype promotion, reproducible examples."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

# What one process has compiled, the others load: all that pytest and the tests start, which inherit
# these settings, and a process that has forgotten its programs (`few_mappings`). Machine code that
# is loaded is the code that was compiled. Whoever sets the folder keeps it for the next run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bnjax-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Test processes share a GPU, where there is one: none may take its memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

# Before anything imports bnjax: from here on every annotated call in it is checked.
jaxtyping.install_import_hook("bnjax", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")

# What JAX traces and keeps is millions of objects, none of them garbage: an eighth of the time went
# into looking.
gc.set_threshold(100_000, 50, 1000)

# The first call of a jitted function compiles, so no example has a deadline, and `x64` holds for
# all the examples of a test alike. HYPOTHESIS_PROFILE=thorough searches further, at random.
settings.register_profile(
    "quick",
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("quick"), max_examples=1000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_modifyitems(items):
    """Begin with what takes longest: at the end, one process would wait for it alone."""
    items.sort(key=lambda item: item.name != "test_readme_runs")


@pytest.fixture
def x64():
    """64-bit JAX for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """Leave code as it comes, in a module to which solvers are only a means and run once.

    Afterwards programs are forgotten: JAX does not ask how the one that it remembers was compiled,
    and other tests are to run what users run.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def few_mappings():
    """Forget compiled programs before there are too many.

    Each takes some mappings of memory, of which Linux gives a process 65,530; whoever asks for more
    is killed by the compiler.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()
