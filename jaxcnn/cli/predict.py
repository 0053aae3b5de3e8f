"""``predict RUN_DIR IMAGES...``: the most likely classes of image files."""

import csv
import json
import pathlib
import sys

import numpy as np
from rich.table import Table

from jaxcnn import mesh as meshes
from jaxcnn.cli import saved
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.console import output
from jaxcnn.data import image
from jaxcnn.errors import DataError, UsageError
from jaxcnn.rundir import RunDir
from jaxcnn.streams import complain
from jaxcnn.task import Task

_FORMATS = ("table", "csv", "json")
_BATCH = 256


def main(arguments: list[str], stop: Stop) -> int:
    """Classify each file and print its top classes as a table, CSV or JSON."""
    flags = Flags(
        "predict RUN_DIR IMAGES... [--flag=value ...]\n\nIMAGES are image files, or folders that are searched for them."
    )
    flags.define("top", int, 3, "classes per image")
    flags.define("format", str, "table", "table, csv or json")
    flags.define(
        "invert", bool, False, "swap black and white, e.g. for ink on paper and a network trained on white strokes"
    )
    saved.define_flags(flags)
    rest = flags.parse(arguments)
    if len(rest) < 2:
        raise UsageError("predict takes a run directory and at least one image file or folder")
    if flags["format"] not in _FORMATS:
        raise UsageError(f"--format={flags['format']} must be one of {', '.join(_FORMATS)}")
    if flags["top"] < 1:
        raise UsageError(f"--top={flags['top']} must be >= 1")
    files = find_images(rest[1:])
    run_dir = RunDir(rest[0])
    task, state = saved.open_state(
        run_dir, saved.read_config(run_dir, flags), flags["checkpoint"], run_dir.read_dataset()
    )

    predict, size = task.predict_step(), meshes.round_up(min(_BATCH, len(files)), task.mesh)
    names, results, unread = task.dataset.class_names, [], []
    for start in range(0, len(files), size):
        read: list[tuple[pathlib.Path, np.ndarray]] = []
        for file in files[start : start + size]:
            try:
                read.append((file, _as_trained(file, task, flags["invert"])))
            except DataError as error:  # the other files are worth their answers
                unread.append(error)
        if not read:
            continue
        images = np.stack([pixels for _, pixels in read])
        padded = np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), np.uint8)])
        for (file, _), chance in zip(read, np.asarray(predict(state.variables(), padded)), strict=False):
            order = np.argsort(-chance[: len(names)], kind="stable")[: flags["top"]]
            results.append((str(file), [(names[k], float(chance[k])) for k in order]))
    if results:
        _print(results, flags["format"])
    if len(unread) > 1:
        for error in unread:
            complain(f"jaxcnn: {error}")
        raise DataError(
            f"{len(unread)} of {len(files)} files are no images that can be read, see above; they were left out"
        )
    if unread:
        raise unread[0]
    return 0


def _as_trained(file: pathlib.Path, task: Task, invert: bool) -> np.ndarray:
    """An image file as the dataset would hold it, then at the size that the network sees."""
    pixels = image.read_image(file, task.image_shape[2])
    if not task.dataset.varying:
        pixels = image.resize(pixels, *task.dataset.image_shape[:2])
    pixels = 255 - pixels if invert else pixels
    size, how = task.fit()
    if size is None or (pixels.shape[:2] == (size, size) and not task.dataset.varying):
        return pixels
    return image.fit(pixels, size, how, str(file))


def find_images(arguments: list[str]) -> list[pathlib.Path]:
    """The files that are named, and those with an image's ending in the folders that are; UsageError when there is none."""
    files: list[pathlib.Path] = []
    for argument in arguments:
        path = pathlib.Path(argument)
        if not path.exists():
            raise UsageError(f"{argument}: there is no such file or folder")
        found = (
            sorted(f for f in path.rglob("*") if f.suffix.lower() in image.ENDINGS and f.is_file())
            if path.is_dir()
            else [path]
        )
        if not found:
            raise UsageError(f"{argument}: no image in this folder (looked for {', '.join(sorted(image.ENDINGS))})")
        files += found
    return files


def _print(results: list[tuple[str, list[tuple[str, float]]]], how: str) -> None:
    if how == "json":
        listed = [
            {"image": file, "top": [{"class": name, "probability": p} for name, p in top]} for file, top in results
        ]
        print(json.dumps(listed, indent=2))
    elif how == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "rank", "class", "probability"])
        writer.writerows(
            [file, rank, name, f"{p:.6f}"] for file, top in results for rank, (name, p) in enumerate(top, 1)
        )
    else:
        table = Table(box=None, pad_edge=False)
        table.add_column("image", overflow="fold")
        for rank in range(1, len(results[0][1]) + 1):
            table.add_column(f"{rank}.", no_wrap=True)
        for file, top in results:
            table.add_row(file, *(f"{name} {p:.1%}" for name, p in top))
        output().print(table)
