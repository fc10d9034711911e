"""Where results come from, for the attributes of what is kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from ._check import is_typed_key


def provenance() -> dict[str, Any]:
    """Precision, platform and versions."""
    from . import __version__

    return {
        "precision": jnp.result_type(float).name,
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "bnjax_version": __version__,
        "jax_version": jax.__version__,
    }


def words_of(key: Array) -> tuple[NDArray[np.uint32], str]:
    """What makes a key again: ``jax.random.wrap_key_data(words, impl=impl)``."""
    words = jax.random.key_data(key) if is_typed_key(key) else key
    return np.asarray(words), str(jax.random.key_impl(key))
