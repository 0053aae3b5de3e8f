"""Images per second of the input pipeline, stage by stage, and of torchvision with Pillow doing the same.

The stages run one after the other on one thread, in turns, several times over, because machines are shared and noisy;
ratios are taken within a turn. The first turn warms up and does not count.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn import mesh as meshes
from jaxcnn.augment import pipeline
from jaxcnn.config import AugmentConfig
from jaxcnn.data import crop, image, order, source
from jaxcnn.data.reader import Reader
from jaxcnn.data.records import Record
from jaxcnn.data.stream import Stream
from jaxcnn.environment import num_cores
from jaxcnn.task import Task

_MOST_IMAGES = 512  # held in memory as they are stored


@dataclasses.dataclass(frozen=True)
class Rates:
    """Images per second.

    Attributes:
      stages: of one thread, by stage: each number is the median of the turns.
      pipeline: of the whole, by number of threads.
      ratios: of one of these to another, median of the ratios within a turn.
      torchvision: its version; "" where it is not installed.
    """

    stages: dict[str, float]
    pipeline: dict[int, float]
    ratios: dict[str, float]
    torchvision: str


def measure(task: Task, turns: int = 5, threads: tuple[int, ...] = ()) -> Rates:
    """Measure the training split of a task.

    Args:
      task: its config says dataset, size, crops, augmentation and batch size.
      turns: how often everything is measured.
      threads: numbers of threads to read with; none: 1, 2, 4, ... up to the cores.
    """
    data = task.config.data
    threads = threads or tuple(n for n in (1, 2, 4, 8, 16, 32, 64) if n <= max(num_cores(), 1))
    records = source.open_split(task.dataset, data.train_split, data.data_dir)
    stored = [records.read(index) for index in range(min(len(records), _MOST_IMAGES))]
    stages: dict[str, Callable[[], int]] = {
        "read": lambda: sum(1 for index in range(len(stored)) if records.read(index)),
        **_decoding(task, stored),
        **_on_device(task),
    }
    version = ""
    if (peer := _torchvision(task, stored)) is not None:
        version, stages["torchvision"] = peer
    found: dict[str | int, list[float]] = {name: [] for name in (*stages, *threads)}
    for turn in range(turns + 1):
        for name, stage in stages.items():
            begin = time.perf_counter()
            count = stage()
            if turn:
                found[name].append(count / (time.perf_counter() - begin))
        for number in threads:
            rate = _stream_rate(task, records, number)
            if turn:
                found[number].append(rate)
    ratios = {
        f"{number} threads / 1": _median_ratio(found[number], found[threads[0]])
        for number in threads[1:]
        if threads[0] == 1
    }
    if peer is not None and "decode and crop" in found:
        ratios["decode and crop / torchvision"] = _median_ratio(found["decode and crop"], found["torchvision"])
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Rates({n: medians[n] for n in stages}, {n: medians[n] for n in threads}, ratios, version)


def _decoding(task: Task, stored: list[Record]) -> dict[str, Callable[[], int]]:
    """Decoding whole, and what a training batch needs: the crop decoded, resized, mirrored at random, put into the batch."""
    if not isinstance(stored[0].image, bytes):
        return {}
    size, channels = task.image_shape[0], task.image_shape[2]
    files: list[bytes] = [record.image for record in stored if isinstance(record.image, bytes)]

    def whole() -> int:
        for data in files:
            image.decode(data, channels, "")
        return len(files)

    if not task.crops_on_host:
        return {"decode": whole}
    config = task.config.augment
    index = np.arange(len(files))
    uniforms = order.uniforms(0, index, index * 0, crop.NUM_UNIFORMS).tolist()

    def crops() -> int:
        for batch in _batches(len(files), task.config.data.batch_size):
            pixels = np.empty((len(batch), size, size, channels), np.uint8)
            for row, place in enumerate(batch):
                choose = functools.partial(crop.choose, size=size, config=config, uniform=uniforms[place])
                image.decode_crop(files[place], choose, pixels[row], "")
                if uniforms[place][-1] < 0.5:
                    image.mirror(pixels[row])
        return len(files)

    return {"decode": whole, "decode and crop": crops}


def _on_device(task: Task) -> dict[str, Callable[[], int]]:
    size = task.config.data.batch_size
    rows = meshes.rows(task.mesh)
    batch = np.random.default_rng(0).integers(0, 255, (size, *task.image_shape), np.uint8)
    placed = jax.device_put(batch, rows)
    normalise, label = task.normalise(), jax.device_put(np.zeros(size, np.int32), rows)
    change = pipeline.make_augment(task.config.augment, 0, task.crops_on_host)

    @jax.jit
    def augment(images: jax.Array, step: int) -> jax.Array:
        return normalise(change({"image": images, "label": label, "example": label, "epoch": label}, step)["image"])

    def transferred() -> int:
        jax.block_until_ready(jax.device_put(batch.copy(), rows))
        return size

    def augmented() -> int:
        jax.block_until_ready(augment(placed, 1))
        return size

    return {"transfer": transferred, "augment and normalise": augmented}


def _stream_rate(task: Task, records: Any, threads: int, num_batches: int = 8) -> float:
    """Images per second from the files to the device, without what the step does."""
    data = task.config.data
    reader = Reader(task.dataset, records, task.image_shape[0], data.fit)
    crops = task.config.augment if task.crops_on_host else None
    stream = Stream(reader, meshes.rows(task.mesh), crops, threads, data.ahead)
    with contextlib.closing(stream):
        batches = stream.train_batches(0, data.batch_size, 0)
        jax.block_until_ready(next(batches))
        begin = time.perf_counter()
        jax.block_until_ready(list(itertools.islice(batches, num_batches)))
        seconds = time.perf_counter() - begin
    return num_batches * data.batch_size / seconds


def _torchvision(task: Task, stored: list[Record]) -> tuple[str, Callable[[], int]] | None:
    """(version, the same work as "decode and crop" by torchvision and Pillow); None where it is not installed."""
    if not task.crops_on_host or task.config.augment.crop != "resized" or not isinstance(stored[0].image, bytes):
        return None
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from PIL import Image

        torchvision = import_torchvision()
    except ImportError:
        return None
    config: AugmentConfig = task.config.augment
    transforms = torchvision.transforms
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(task.image_shape[0], config.crop_area, config.crop_ratio),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    mode = "RGB" if task.image_shape[2] == 3 else "L"

    def crops() -> int:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for batch in _batches(len(stored), task.config.data.batch_size):
            files = (stored[place].image for place in batch)
            torch.stack([transform(Image.open(io.BytesIO(data)).convert(mode)) for data in files])  # pyright: ignore[reportArgumentType]
        torch.set_num_threads(threads)
        return len(stored)

    return torchvision.__version__, crops


@functools.cache
def _declare_operators() -> Any:
    """Two that a torchvision without its compiled part asks for; they live as long as what is returned."""
    from torch import library  # pyright: ignore[reportMissingImports]

    operators = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators


def import_torchvision() -> Any:
    """torchvision, also where its compiled part does not fit the installed torch; its transforms need none of that.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        _declare_operators()
        return importlib.import_module("torchvision")


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
