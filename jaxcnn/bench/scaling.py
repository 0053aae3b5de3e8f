"""What the devices of a run say to each other in an update, what that costs on many, and how fast several really are."""

import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import complexity, tree
from jaxcnn import mesh as meshes
from jaxcnn.collectives import Collective, collectives, num_donated
from jaxcnn.config import Config, replace
from jaxcnn.flight import Flight
from jaxcnn.task import Task, build

SIZES = (8, 16, 64, 256, 1024, 4096)
_SCALARS = 64  # bytes of an update that are neither gradients nor moments: losses, hits, counts


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Communication of one update.

    Attributes:
      found: the collectives of the compiled program.
      optimum: bytes that must be summed over the devices: each gradient once, and the moments of BatchNorm.
      num_donated: arrays of the new state that take the memory of the old.
      num_leaves: arrays of the state.
    """

    found: list[Collective]
    optimum: int
    num_donated: int
    num_leaves: int

    @property
    def num_bytes(self) -> int:
        """Of all collectives."""
        return sum(one.num_bytes for one in self.found)

    @property
    def is_optimal(self) -> bool:
        """Whether nothing but sums is communicated, and no more of them than needed, but for a few scalars."""
        kinds = {one.kind for one in self.found}
        return kinds <= {"all-reduce"} and self.optimum <= self.num_bytes <= self.optimum + _SCALARS


def traffic(task: Task) -> Traffic:
    """Compile the task's update, without running it, and read what its devices exchange."""
    step: Any = task.train_step(1000)
    text = step.lower(task.abstract, task.abstract_batch(task.config.data.batch_size)).compile().as_text()
    optimum = 4 * (tree.num_elements(task.abstract.params) + tree.num_elements(task.abstract.batch_stats))
    found = collectives(text) if task.mesh.size > 1 else []
    return Traffic(found, optimum, num_donated(text), len(jax.tree.leaves(task.abstract)))


@dataclasses.dataclass(frozen=True)
class Network:
    """Accelerators in groups, e.g. eight GPUs of a machine, and what connects them.

    Attributes:
      group: accelerators of a group.
      inside: GB/s that each sends within its group.
      between: GB/s that each sends to other groups.
      latency: microseconds of a message.
      tflops: what an accelerator reaches in training, TFLOP/s.
    """

    group: int = 8
    inside: float = 450.0
    between: float = 50.0
    latency: float = 5.0
    tflops: float = 150.0

    def all_reduce_seconds(self, num_bytes: float, count: int) -> float:
        """Time to sum ``num_bytes`` over ``count`` accelerators.

        A ring within each group and one between groups on the group-th part each (Patarasuk & Yuan 2009): the first moves
        2 (g - 1) / g of the bytes, the second 2 (m - 1) / m of its part. Latency as of a tree: 2 log2(count) messages.
        """
        g = min(self.group, count)
        m = count // g
        inside = 2 * (g - 1) / g * num_bytes / (self.inside * 1e9)
        between = 2 * (m - 1) / m * num_bytes / g / (self.between * 1e9)
        return inside + between + 2 * math.log2(count) * self.latency * 1e-6


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Efficiency, 1 for no loss, with ``count`` accelerators of ``per_device`` images each.

    Attributes:
      count: accelerators.
      waiting: every collective is waited for.
      hidden: the gradients' sums run beside the backward pass, two thirds of the arithmetic; those of BatchNorm are
        waited for.
    """

    count: int
    waiting: float
    hidden: float


def predict(task: Task, found: list[Collective], network: Network) -> list[Prediction]:
    """Weak scaling with the task's images per device: from arithmetic and bytes alone, so an upper bound."""
    num_macs = sum(layer.num_macs for layer in complexity.layers(task.model, task.image_shape))
    per_device = task.config.data.batch_size / meshes.num_rows(task.mesh)
    compute = 6 * num_macs * per_device / (network.tflops * 1e12)
    largest = max((one.num_bytes for one in found), default=0)
    predictions = []
    for count in SIZES:
        gradients = network.all_reduce_seconds(largest, count)
        waits = sum(network.all_reduce_seconds(one.num_bytes, count) for one in found) - gradients
        beside = waits + max(0.0, gradients - compute * 2 / 3)
        predictions.append(Prediction(count, compute / (compute + waits + gradients), compute / (compute + beside)))
    return predictions


@dataclasses.dataclass(frozen=True)
class Measured:
    """Speed of ``count`` devices with the same images each, and what share that is of ``count`` times the speed of one."""

    count: int
    images_per_second: float
    efficiency: float


def measure(config: Config, turns: int, steps: int = 10) -> list[Measured]:
    """Train on 1, 2, 4, ... devices, resident random images; medians of ``turns``, each of which goes through all counts."""
    counts = [2**k for k in range(jax.device_count().bit_length()) if 2**k <= jax.device_count()]
    runs = {
        count: _Run(replace(config, {"data.batch_size": config.data.batch_size * count}), count) for count in counts
    }
    for run in runs.values():
        run.seconds(2)  # compiles
    seconds = {count: [] for count in counts}
    for _ in range(turns):
        for count, run in runs.items():
            seconds[count].append(run.seconds(steps) / steps)
    rates = {count: config.data.batch_size * count / statistics.median(times) for count, times in seconds.items()}
    return [Measured(count, rate, rate / (count * rates[1])) for count, rate in rates.items()]


class _Run:
    """An update on so many devices, to be repeated."""

    def __init__(self, config: Config, count: int):
        task = build(config, count)
        self._step, self._state = task.train_step(1000), task.initial_state()
        shapes = task.abstract_batch(config.data.batch_size)
        shardings = {name: leaf.sharding for name, leaf in shapes.items()}

        def batch() -> dict[str, jax.Array]:
            made = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
            image = jax.random.randint(jax.random.key(0), shapes["image"].shape, 0, 256, jnp.int32)
            return made | {"image": image.astype(jnp.uint8)}

        self._batch = jax.jit(batch, out_shardings=shardings)()

    def seconds(self, steps: int) -> float:
        begin, flight = time.perf_counter(), Flight()
        for _ in range(steps):
            self._state, sums = self._step(self._state, self._batch)
            flight.add(sums["count"])
        jax.block_until_ready(self._state)
        return time.perf_counter() - begin
