"""The devices that share the work."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("devices")


@functools.cache
def mesh() -> Mesh:
    """All devices of this process, in a row."""
    return Mesh(np.asarray(jax.local_devices()), ("devices",))


def everywhere() -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh(), EVERYWHERE)


def split() -> NamedSharding:
    """Equal shares, one a device, of the leading axis."""
    return NamedSharding(mesh(), SPLIT)
