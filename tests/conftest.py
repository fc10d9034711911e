"""What every test runs under: checked types, strict dtype promotion, reproducible examples."""

import gc
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
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


@pytest.fixture
def x64():
    """64-bit JAX for the length of one test."""
    with jax.enable_x64(True):
        yield


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
