"""Prepared TFDS directories, opened without TensorFlow; our own digits are prepared at first use."""

import contextlib
import fcntl
import io
import pathlib
import shutil
from typing import Any

from jaxcnn.data.catalog import Dataset
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
    directory = pathlib.Path(data_dir) if data_dir else cache_dir() / "tfds"
    if dataset.origin == "ours":
        with (cache_dir() / "digits.lock").open("a") as lock:  # several first starts at once: one prepares
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _prepared_digits()
    try:
        builder = tfds.builder(dataset.name, data_dir=directory, try_gcs=False)
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
