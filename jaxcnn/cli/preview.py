"""``preview EXPERIMENT``: a picture of what the network sees in one update, beside the images as they are stored."""

import contextlib
import pathlib

import jax
import numpy as np

from jaxcnn import plots
from jaxcnn.augment import pipeline
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.cli.train import read_experiment
from jaxcnn.config import replace
from jaxcnn.console import output, table
from jaxcnn.errors import UsageError
from jaxcnn.task import Task, build
from jaxcnn.typing import Batch

_MOST = 24  # images on a sheet


def main(arguments: list[str], stop: Stop) -> int:
    """Augment the batch of update ``--step`` as training does, and draw it."""
    _, config, flags = read_experiment(arguments, _flags)
    path, step = pathlib.Path(flags["out"]), flags["step"]
    if step < 0:
        raise UsageError(f"--step={step} must be >= 0, the number of updates before it")
    if path.suffix != ".png":
        raise UsageError(f"--out={path} must end in .png")
    task = build(config, 1)  # examples and choices do not depend on the number of devices
    whole = build(replace(config, {"augment.crop": "none"}), 1)  # the host may make the crops, while it decodes
    before, read = (_batch(one, step) for one in (whole, task))
    after = jax.jit(pipeline.make_augment(config.augment, config.seed, task.crops_on_host))(read, step)
    captions = labels(after, task.dataset.class_names)[:_MOST]
    images = [np.asarray(batch["image"][:_MOST], np.float32) for batch in (before, after)]
    title = f"{config.experiment}, update {step}: as stored | as the network sees it"
    plots.contact_sheet(path, images[0], images[1], captions, title)
    rows = {"picture": path, "images": f"{len(captions)} of the {config.data.batch_size} of update {step:,}"}
    output().print(table(f"preview of {config.experiment}", rows))
    return 0


def _batch(task: Task, step: int) -> Batch:
    """The images of an update, before the device changes them."""
    config = task.config
    with contextlib.closing(task.load(config.data.train_split, train=True)) as split:
        return next(split.train_batches(config.seed, config.data.batch_size, step))


def labels(batch: Batch, class_names: tuple[str, ...]) -> list[str]:
    """The classes of each image in words: ``cat``, or ``0.7 cat + 0.3 dog`` where two images are mixed."""
    if "weight" not in batch:
        return [class_names[label] for label in np.asarray(batch["label"])]
    names = [f"“{name}”" if name[0].isdigit() else name for name in class_names]  # not to be read as a factor
    both = (np.asarray(batch[name]) for name in ("label", "label_b", "weight"))
    return [_mixed(names[a], names[b], float(weight)) for a, b, weight in zip(*both, strict=True)]


def _mixed(first: str, second: str, weight: float) -> str:
    if first == second or weight >= 0.995:
        return first
    if weight <= 0.005:
        return second
    digits = 1 if 0.05 <= weight < 0.95 else 2
    return f"{weight:.{digits}f} {first} + {1 - weight:.{digits}f} {second}"


def _flags() -> Flags:
    flags = Flags("preview EXPERIMENT [--flag=value ...]\n\nAll flags of train, and:")
    flags.define("out", str, "preview.png", "picture to write")
    flags.define("step", int, 0, "update whose batch is drawn; 0: the first")
    flags.define("config", str | None, None, "draw the run of this config.json; other flags change it")
    return flags
