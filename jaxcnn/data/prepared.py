"""Prepared TFDS directories, opened without TensorFlow; our own digits are prepared at first use."""

import contextlib
import dataclasses
import fcntl
import io
import pathlib
import shutil
from typing import Any

from jaxcnn.data.catalog import CATALOG, IMAGENET_MEAN, IMAGENET_STD, Dataset
from jaxcnn.environment import cache_dir
from jaxcnn.errors import DataError, UsageError


def builder(dataset: Dataset, data_dir: str | None) -> Any:
    """The TFDS builder of a prepared dataset.

    Args:
      dataset: a row of the catalog of origin ``tfds`` or ``ours``.
      data_dir: directory of prepared TFDS datasets; None for the user's cache.

    Raises:
      UsageError: data_dir is no directory.
      DataError: the dataset is not prepared there, or its description is damaged.
    """
    import tensorflow_datasets as tfds

    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
        kind = "is a file" if pathlib.Path(data_dir).exists() else "does not exist"
        raise UsageError(f"data.data_dir={data_dir!r} {kind}; it must be a directory of prepared TFDS datasets")
    directory, place = pathlib.Path(data_dir) if data_dir else cache_dir() / "tfds", dataset.place or dataset.name
    if dataset.origin == "ours":
        try:
            lock = (cache_dir() / "digits.lock").open("a")  # several first starts at once: one prepares
        except OSError:  # a cache that is not ours to write: it holds them, or cannot
            return _prepared_digits()
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _prepared_digits()
    try:
        builder = tfds.builder(place, data_dir=directory, try_gcs=False)
        if builder.info.splits:
            return builder
    except Exception as error:  # TFDS raises many kinds on damaged descriptions
        raise DataError(
            f"dataset {dataset.name!r} in {directory} cannot be read ({_first_line(error)}); prepare it again"
        ) from None
    raise DataError(
        f"dataset {dataset.name!r} is not prepared in {directory}; point --data_dir at a prepared copy, or make one: "
        f"prepare {dataset.name}" + (f" --data_dir={directory}" if data_dir else "")
    )


def describe(place: str, data_dir: str | None) -> Dataset:
    """Any prepared TFDS dataset of images with a class, ``NAME[/CONFIG]``, as a row of the catalog.

    Raises:
      UsageError: data_dir is no directory, or TFDS has no such dataset.
      DataError: it is not prepared there, or holds no image with a class.
    """
    import tensorflow_datasets as tfds

    for row in CATALOG.values():  # its mean and deviation are known
        if row.origin == "tfds" and place == (row.place or row.name):
            return row
    name = f"tfds:{place}"
    blank = Dataset(name, (224, 224, 3), (), IMAGENET_MEAN, IMAGENET_STD, {}, "tfds", "", place=place)
    info = builder(blank, data_dir).info
    found: Any = info.features
    features = {key: found[key] for key in found}
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    keys: Any = info.supervised_keys
    if not isinstance(keys, tuple) or len(keys) != 2:
        keys = tuple(next((key for key, one in features.items() if isinstance(one, kind)), "") for kind in wanted)
    image, label = (features.get(key) for key in keys)
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(f"data.dataset={name}: it holds {', '.join(features)}; it must hold an image and a class")
    shape: Any = image.shape
    rows, columns, channels = shape
    if channels not in (1, 3):
        raise DataError(f"data.dataset={name}: images of {channels} channels; it must be 1 or 3")
    varying = rows is None or columns is None
    return dataclasses.replace(
        blank,
        image_shape=(224, 224, channels) if varying else (rows, columns, channels),
        class_names=tuple(label.names),
        mean=IMAGENET_MEAN if channels == 3 else (0.5,),
        std=IMAGENET_STD if channels == 3 else (0.5,),
        splits={split: part.num_examples for split, part in info.splits.items()},
        about=(info.description or "").strip().partition("\n")[0],
        varying=varying,
        keys=keys,
    )


def _prepared_digits() -> Any:
    """The builder of our digits; a damaged copy is removed and made anew."""
    import tensorflow_datasets as tfds

    from jaxcnn.data.digits import Digits

    for attempt in (1, 2):
        try:
            builder = Digits(data_dir=cache_dir() / "tfds", file_format="array_record")
            if not builder.is_prepared() or not builder.info.splits:
                shutil.rmtree(builder.data_dir, ignore_errors=True)
                tfds.disable_progress_bar()
                with contextlib.redirect_stdout(
                    io.StringIO()
                ):  # it takes a second; TFDS would print six lines about it
                    builder = Digits(data_dir=cache_dir() / "tfds", file_format="array_record")
                    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
            return builder
        except Exception as error:
            if attempt == 2:
                raise DataError(f"digits cannot be made in {cache_dir() / 'tfds'}: {_first_line(error)}") from None
            shutil.rmtree(cache_dir() / "tfds" / "digits", ignore_errors=True)
    raise AssertionError("unreachable")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
