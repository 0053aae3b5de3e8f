"""What a run will cost, before any data is read: arithmetic, memory of the compiled update, and time at given speeds."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn import complexity, tree
from jaxcnn import mesh as meshes
from jaxcnn.config import total_steps
from jaxcnn.data.splits import split_size
from jaxcnn.errors import DataError, UsageError
from jaxcnn.task import Task


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while an update runs, as XLA plans them for this platform.

    Attributes:
      state: parameters, statistics and optimizer, and their new values where they do not take the old one's place.
      batch: images and labels.
      temporary: activations, gradients and scratch.
      dataset: the examples that live on the device.
    """

    state: int
    batch: int
    temporary: int
    dataset: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.batch + self.temporary + self.dataset


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
      num_params: trainable numbers.
      num_macs: multiply-adds of one image, forward.
      num_examples: training examples; of the official dataset where no prepared one is found.
      steps: updates in all.
      flops: of one update on one device: 2 for a multiply-add, times 3 for forward and both halves of backward.
      bytes_accessed: by one update on one device, as XLA counts them in its compiled program.
      memory: on one device.
    """

    num_params: int
    num_macs: int
    num_examples: int
    steps: int
    flops: float
    bytes_accessed: float
    memory: Memory


def make_plan(task: Task) -> Plan:
    """Compile the task's update for its devices, without running it, and read off what it takes."""
    layers = complexity.layers(task.model, task.image_shape)
    num_macs = sum(layer.num_macs for layer in layers)
    data = task.config.data
    num_examples = count_examples(task, data.train_split)
    splits = {True: num_examples, False: count_examples(task, data.eval_split)}
    num_resident = sum(count for train, count in splits.items() if task.is_resident(count, train=train))
    compiled = _compiled(task, data.batch_size)
    memory = _memory(task, compiled, data.batch_size)
    cost = compiled.cost_analysis() or {}
    return Plan(
        num_params=tree.num_elements(task.abstract.params),
        num_macs=num_macs,
        num_examples=num_examples,
        steps=total_steps(task.config, num_examples),
        flops=3 * 2 * num_macs * data.batch_size / task.mesh.size,
        bytes_accessed=float(cost.get("bytes accessed", 0.0)),
        memory=dataclasses.replace(memory, dataset=num_resident * _image_bytes(task)),
    )


def largest_batch(task: Task, num_bytes: float) -> int:
    """The largest batch, over all devices, whose update fits ``num_bytes`` on each, beside the dataset; else UsageError.

    Memory grows nearly linearly with the batch: the line through two compiled sizes says where to look, and the size that
    is returned was compiled and fits, while the next one up does not.
    """
    devices = meshes.num_rows(task.mesh)
    known: dict[int, int] = {}

    def needed(per_device: int) -> int:
        if per_device not in known:
            batch = per_device * devices
            known[per_device] = _memory(task, _compiled(task, batch), batch).total
        return known[per_device]

    return devices * _largest(needed, num_bytes, start=max(task.config.data.batch_size // devices, 2))


def _largest(needed: Callable[[int], int], limit: float, start: int) -> int:
    """The largest n >= 1 with ``needed(n) <= limit``, for a function that grows nearly linearly."""
    if needed(1) > limit:
        raise UsageError(f"a batch of 1 needs {needed(1) / 1e9:.3g} GB on each device, more than {limit / 1e9:.3g} GB")
    fits, too_large, before, guess = 1, math.inf, 1, start
    while too_large - fits > 1:
        if needed(guess) <= limit:
            fits = max(fits, guess)
        else:
            too_large = min(too_large, guess)
        slope = (needed(guess) - needed(before)) / (guess - before)
        aim = guess + int((limit - needed(guess)) // slope) if slope > 0 else 2 * guess
        before, guess = guess, int(min(max(aim, fits + 1), too_large - 1, 8 * guess))
        if guess == before:
            guess = fits + 1
    return fits


def seconds(flops: float, num_bytes: float, teraflops: float, gigabytes_per_second: float | None = None) -> float:
    """Least time for so many operations and so many bytes: what limits, arithmetic or memory, takes all the time."""
    arithmetic = flops / (teraflops * 1e12)
    return max(arithmetic, num_bytes / (gigabytes_per_second * 1e9)) if gigabytes_per_second else arithmetic


def count_examples(task: Task, split: str) -> int:
    """Examples of a split: of the prepared dataset, or of the official one where there is none."""
    try:
        return task.num_examples(split)
    except DataError:
        return split_size(dict(task.dataset.splits), split)


def _compiled(task: Task, batch_size: int) -> jax.stages.Compiled:
    usual = dataclasses.replace(task, config=dataclasses.replace(task.config, elastic_exact=False))  # one program
    step: Any = usual.train_step(1000)  # as the run jits it, so that the old state gives its memory to the new one
    return step.lower(task.abstract, task.abstract_batch(batch_size)).compile()


def _memory(task: Task, compiled: jax.stages.Compiled, batch_size: int) -> Memory:
    stats = compiled.memory_analysis()
    if stats is None:
        raise UsageError(
            f"{task.mesh.devices.flat[0].platform}: this platform does not tell what memory a program takes"
        )
    batch = batch_size // meshes.num_rows(task.mesh) * _image_bytes(task)
    moved = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        state=stats.argument_size_in_bytes - batch + moved,
        batch=batch,
        temporary=stats.temp_size_in_bytes,
    )


def _image_bytes(task: Task) -> int:
    """Bytes of a uint8 image and its label."""
    return math.prod(task.image_shape) + 4
