"""The devices as a mesh with one axis, ``data``: rows of a batch are split over it, everything else is on each device."""

import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.errors import UsageError


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over ``num_devices`` devices (None: all). UsageError when there are fewer, with what JAX sees."""
    try:
        devices = jax.devices()
    except Exception as error:  # RuntimeError or AssertionError, by version
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise UsageError(
            f"JAX_PLATFORMS={wanted!r}: JAX finds no such device here; leave it unset, or use cpu"
        ) from error
    if num_devices is not None and not 1 <= num_devices <= len(devices):
        raise UsageError(
            f"num_devices={num_devices} must be in [1, {len(devices)}]: JAX sees {len(devices)} {devices[0].platform} device(s)"
        )
    return Mesh(np.array(devices[:num_devices]), ("data",))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """UsageError unless the devices divide the batch; names the nearest sizes that they do."""
    count = mesh.size
    if batch_size % count:
        below = batch_size // count * count
        near = " or ".join(str(size) for size in (below, below + count) if size)
        raise UsageError(f"{name}={batch_size} must be a multiple of the {count} devices, e.g. {near}")


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next multiple of the devices: for evaluation, whose result does not depend on the batch size."""
    return -(-batch_size // mesh.size) * mesh.size
