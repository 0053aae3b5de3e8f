"""The devices as a mesh of two axes: rows of a batch are split over ``data``, large weights over ``model``."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.errors import UsageError
from jaxcnn.typing import PyTree

_AXES = ("data", "model")
_LARGE = (
    2**20
)  # elements from which a leaf is split over the axis ``model``: smaller ones cost less to keep than to send


def make_mesh(num_devices: int | None = None, shape: str | None = None) -> Mesh:
    """The devices of all processes as a mesh with the axes ``data`` and ``model``.

    Args:
      num_devices: how many to use; None: all.
      shape: sizes of the axes, ``data:8`` or ``data:4,model:2``; None: all devices on ``data``.

    Raises:
      UsageError: there are fewer devices (says what JAX sees), or the shape is none.
    """
    # On a CPU a program runs in the thread that calls it, whose arena keeps what is freed (``environment``), not in one of
    # XLA's. It would compete with us for the same cores in any case. Takes effect if jax has not been asked for devices yet.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    except Exception as error:  # RuntimeError or AssertionError, by version
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise UsageError(
            f"JAX_PLATFORMS={wanted!r}: JAX finds no such device here; leave it unset, or use cpu"
        ) from error
    if num_devices is not None and not 1 <= num_devices <= len(devices):
        raise UsageError(
            f"num_devices={num_devices} must be in [1, {len(devices)}]: JAX sees {len(devices)} {devices[0].platform} device(s)"
        )
    if num_devices not in (None, len(devices)) and jax.process_count() > 1:
        raise UsageError(
            f"num_devices={num_devices} must be {len(devices)}, all devices of the {jax.process_count()} processes; start fewer"
        )
    devices = devices[:num_devices]
    sizes = parse_shape(shape, len(devices)) if shape else (len(devices), 1)
    return Mesh(np.array(devices).reshape(sizes), _AXES)


def of_devices(devices: Sequence[Any]) -> Mesh:
    """These devices, all on the axis ``data``."""
    return Mesh(np.array(devices).reshape(-1, 1), _AXES)


def parse_shape(shape: str, num_devices: int) -> tuple[int, int]:
    """Sizes of the axes (data, model) that ``data:4,model:2`` stands for; UsageError unless they make ``num_devices``."""
    sizes: dict[str, int] = {}
    for part in shape.split(","):
        axis, _, size = part.strip().partition(":")
        if axis not in _AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"mesh={shape!r} must be data:N or data:N,model:M with N and M >= 1")
        sizes[axis] = int(size)
    found = sizes.get("data", 1), sizes.get("model", 1)
    if math.prod(found) != num_devices:
        near = f"data:{num_devices}" + (
            f" or data:{num_devices // found[1]},model:{found[1]}"
            if found[1] > 1 and num_devices % found[1] == 0
            else ""
        )
        raise UsageError(
            f"mesh={shape!r} is a mesh of {math.prod(found)} devices, must be one of the {num_devices} in use, e.g. {near}"
        )
    return found


def num_rows(mesh: Mesh) -> int:
    """Parts into which the rows of a batch are split."""
    return mesh.shape["data"]


def everywhere(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over the axis ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))


def weights(mesh: Mesh, shapes: PyTree) -> PyTree:
    """The sharding of each leaf of a state: a large one is split over the axis ``model``, all others are on each device.

    Split is the last axis that the size of ``model`` divides: the outputs of a dense layer, the filters of a convolution. The
    optimizer's state has the shapes of the parameters, so it is split with them (Rajbhandari et al. 2020, "ZeRO").
    """
    parts = mesh.shape["model"]

    def of(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or math.prod(leaf.shape) < _LARGE or not axes:
            return everywhere(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axes[-1], "model"))

    return jax.tree.map(of, shapes)


def share(mesh: Mesh) -> tuple[int, int]:
    """(number, count): this process reads part ``number`` of the ``count`` equal parts of each batch's rows."""
    if jax.process_count() == 1:
        return 0, 1
    mine = [place for place, device in np.ndenumerate(mesh.devices) if device.process_index == jax.process_index()]
    rows = sorted({place[0] for place in mine})
    assert rows == list(range(rows[0], rows[-1] + 1)), "the devices of a process are neighbours in the mesh"
    return rows[0] // len(rows), num_rows(mesh) // len(rows)


def check_batch(name: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """UsageError unless the axis ``data`` divides each of ``parts`` of the batch; names the nearest sizes that it does."""
    over = f"{mesh.size} devices" if mesh.size == num_rows(mesh) else f"{num_rows(mesh)} parts of the mesh's axis data"
    check_multiple(name, batch_size, num_rows(mesh) * parts, over + (f" x {parts} parts" if parts > 1 else ""))


def check_multiple(name: str, batch_size: int, count: int, over: str) -> None:
    """UsageError unless ``count``, which ``over`` tells in words, divides the batch."""
    if batch_size % count:
        below = batch_size // count * count
        near = " or ".join(str(size) for size in (below, below + count) if size)
        raise UsageError(f"{name}={batch_size} must be a multiple of the {over}, e.g. {near}")


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next size that the axis ``data`` divides: for evaluation, whose result does not depend on the batch size."""
    return -(-batch_size // num_rows(mesh)) * num_rows(mesh)
