"""How fast a network trains or classifies on the devices here, and, beside it, the same network in PyTorch."""

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import complexity, execution
from jaxcnn import mesh as meshes
from jaxcnn.bench.beside import Beside, random_batch
from jaxcnn.config import Config, DataConfig, ModelConfig, OptimizerConfig
from jaxcnn.data.catalog import Dataset
from jaxcnn.data.reader import Examples
from jaxcnn.data.resident import Resident
from jaxcnn.errors import UsageError
from jaxcnn.flight import Flight
from jaxcnn.models.registry import input_shape
from jaxcnn.task import Task, build

MODES = ("train", "infer")
PEERS = ("torch", "torch channels_last", "torch compiled")
_LEARNING_RATE = 1e-3  # small: labels are random, and a loss that overflows is not what is timed
_TURN = 0.5  # seconds that a turn lasts at least

Run = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
      model, mode, dtype, batch_size, image_shape, num_classes: of what.
      device: kind of the devices.
      num_devices: how many share the batch.
      steps_per_execution: updates in one call.
      seconds: of a step, for each turn of each way; ours is ``jaxcnn``.
      failed: ways that did not run here, and why.
      compile_seconds: of our program, traced and compiled.
      flops: of a step: 2 for a multiply-add, in training three times that.
      bytes_accessed: by a step, as XLA counts.
      memory: bytes that our program takes on a device, as XLA plans them.
    """

    model: str
    mode: str
    dtype: str
    batch_size: int
    image_shape: tuple[int, int, int]
    num_classes: int
    device: str
    num_devices: int
    steps_per_execution: int
    seconds: dict[str, list[float]]
    failed: dict[str, str]
    compile_seconds: float
    flops: float
    bytes_accessed: float
    memory: int

    def median(self, way: str) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds[way])

    def images_per_second(self, way: str) -> float:
        """Of a way."""
        return self.batch_size / self.median(way)

    @property
    def peer(self) -> str | None:
        """The fastest other way."""
        return min((way for way in self.seconds if way != "jaxcnn"), key=self.median, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the peer: ratio of the medians."""
        return self.median(self.peer) / self.median("jaxcnn") if self.peer else None


def make_task(
    model: str,
    batch_size: int,
    image_size: int | None = None,
    num_classes: int | None = None,
    dtype: str = "float32",
    num_devices: int | None = 1,
    steps_per_execution: int = 1,
    **overrides: Any,
) -> Task:
    """A task on random images, of the size and channels that the network is meant for unless ``image_size`` says otherwise."""
    rows, columns, channels = input_shape(model)
    num_classes = num_classes or (1000 if rows > 100 else 10)
    if num_classes < 2:
        raise UsageError(f"--num_classes={num_classes} must be >= 2")
    names, half = tuple(f"class {i}" for i in range(num_classes)), (0.5,) * channels
    splits = {"train": batch_size, "test": batch_size}
    shape = (image_size or rows, image_size or columns, channels)
    dataset = Dataset("random", shape, names, half, half, splits, origin="synthetic", about="random images")
    config = Config(
        steps=10**6,
        steps_per_execution=steps_per_execution,
        model=ModelConfig(model, dtype=dtype, overrides=overrides),
        data=DataConfig("fake", batch_size=batch_size),
        optimizer=OptimizerConfig(learning_rate=_LEARNING_RATE),
    )
    return build(config, num_devices, dataset)


def measure(task: Task, mode: str, turns: int, peers: Sequence[str] = (), trace: str | None = None) -> Speed:
    """Run the task's step on one batch that is on the device already; the clock covers neither compilation nor its input.

    Args:
      task: from ``make_task``.
      mode: "train": an update; "infer": the forward pass in evaluation.
      turns: how often each way is measured, in turns, for half a second or one step.
      peers: of ``PEERS``, measured too.
      trace: folder for a trace of a turn of ours, to be read with TensorBoard, XProf or Perfetto.
    """
    config = task.config
    meshes.check_batch("batch_size", config.data.batch_size, task.mesh)
    begin = time.perf_counter()
    compiled, run = _ours(task, mode)
    compile_seconds = time.perf_counter() - begin
    ways, failed = {"jaxcnn": run}, {}
    steps = {"jaxcnn": _steps_of_a_turn(run)}
    if peers and task.mesh.size > 1:
        raise UsageError(f"--vs=torch: PyTorch runs on one device here, not on {task.mesh.size}; use --num_devices=1")
    with Beside() if peers else contextlib.nullcontext() as beside:
        for way in peers:
            assert beside is not None
            try:
                ways[way] = _theirs(beside, way, task, mode)
                steps[way] = _steps_of_a_turn(ways[way])
            except UsageError:
                raise
            except RuntimeError as error:  # torch.compile needs a compiler; whatever it says is reported
                failed[way] = str(error)
                ways.pop(way, None)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(turns):
            for way, call in ways.items():
                begin = time.perf_counter()
                call(steps[way])
                seconds[way].append((time.perf_counter() - begin) / steps[way])
    if trace is not None:
        with jax.profiler.trace(trace):
            run(steps["jaxcnn"])
    cost, stats = compiled.cost_analysis() or {}, compiled.memory_analysis()
    if stats is None:
        raise UsageError(
            f"{task.mesh.devices.flat[0].platform}: this platform does not tell what memory a program takes"
        )
    macs = sum(layer.num_macs for layer in complexity.layers(task.model, task.image_shape))
    return Speed(
        config.model.name,
        mode,
        config.model.dtype,
        config.data.batch_size,
        task.image_shape,
        task.num_classes,
        task.mesh.devices.flat[0].device_kind,
        task.mesh.size,
        config.steps_per_execution,
        seconds,
        failed,
        compile_seconds,
        flops=2 * macs * config.data.batch_size * (3 if mode == "train" else 1),
        bytes_accessed=float(cost.get("bytes accessed", 0.0)) * task.mesh.size,
        memory=stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes,
    )


def on_devices(task: Task) -> dict[str, jax.Array]:
    """The random images and labels that all ways see, as a batch of the task."""
    image, label = random_batch(task.config.data.batch_size, task.image_shape, task.num_classes)
    numbers = {"image": image, "label": label, "example": np.arange(len(image)), "epoch": np.zeros(len(image))}
    abstract = task.abstract_batch(len(image))
    return {name: jax.device_put(numbers[name].astype(leaf.dtype), leaf.sharding) for name, leaf in abstract.items()}


def _ours(task: Task, mode: str) -> tuple[jax.stages.Compiled, Run]:
    batch, abstract = on_devices(task), task.abstract_batch(task.config.data.batch_size)
    state, normalise = task.initial_state(), task.normalise()
    if mode == "train":
        size = task.config.steps_per_execution
        step: Any = execution.grouped(task, task.train_step(10**6), size)
        update = step.lower(task.abstract, execution.abstract_batch(task, task.config.data.batch_size, size)).compile()
        calls = _calls(task, batch, size)

        def train(steps: int) -> None:
            nonlocal state
            flight = Flight()
            for call in calls(steps):
                state, sums = update(state, call)
                flight.add(sums["count"])
            jax.block_until_ready(state)

        return update, train

    @jax.jit
    def forward(params: Any, batch_stats: Any, image: jax.Array) -> jax.Array:
        logits: Any = task.model.apply({"params": params, "batch_stats": batch_stats}, normalise(image), train=False)
        return logits

    classify = forward.lower(task.abstract.params, task.abstract.batch_stats, abstract["image"]).compile()

    def infer(steps: int) -> None:
        logits, flight = jnp.zeros(()), Flight()
        for _ in range(steps):
            logits = classify(state.params, state.batch_stats, batch["image"])
            flight.add(logits)
        jax.block_until_ready(logits)

    return classify, infer


def _calls(task: Task, batch: dict[str, Any], size: int) -> Callable[[int], Iterator[Any]]:
    """``number of updates -> what each call for them takes``; where a call makes several, each reads the images for itself."""
    if size == 1:
        return lambda steps: itertools.repeat(batch, steps)
    examples = Examples(np.asarray(batch["image"]), np.asarray(batch["label"]))
    split = Resident(examples, meshes.everywhere(task.mesh), meshes.rows(task.mesh))
    return lambda steps: (taken for _, taken in execution.calls(split, task.config, 0, steps, size, ()))


def _steps_of_a_turn(run: Run) -> int:
    run(1)  # compiles, chooses algorithms
    begin = time.perf_counter()
    run(1)
    return max(1, math.ceil(_TURN / (time.perf_counter() - begin)))


def _theirs(beside: Beside, way: str, task: Task, mode: str) -> Run:
    model, dataset = task.config.model, task.dataset
    return beside.make_run(
        way,
        model=model.name,
        fields=dict(model.overrides),
        image_shape=task.image_shape,
        num_classes=task.num_classes,
        batch_size=task.config.data.batch_size,
        mean=dataset.mean,
        std=dataset.std,
        dtype=model.dtype,
        train=mode == "train",
        learning_rate=_LEARNING_RATE,
    )
