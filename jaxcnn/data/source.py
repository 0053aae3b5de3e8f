"""From prepared TFDS directories to arrays, without TensorFlow.

A small dataset is read in bulk (all ArrayRecords of a split, decoded in threads), because record by record it would take
a minute, and the arrays are kept in the user's cache, where the next run finds them.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import math
import os
import pathlib
import shutil
import tempfile
import zlib
from typing import Any

import numpy as np

from jaxcnn.data import image
from jaxcnn.data.catalog import Dataset
from jaxcnn.environment import cache_dir, num_cores
from jaxcnn.errors import DataError, UsageError, nearest

MOST_BYTES = 20e9  # of one split in memory


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images ``[N, H, W, C]`` uint8 and labels ``[N]`` int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load(
    dataset: Dataset, split: str, data_dir: str | None = None, size: int | None = None, fit: str = "resize"
) -> Examples:
    """All examples of a split.

    Args:
      dataset: a row of the catalog.
      split: in TFDS syntax: ``train``, ``train[:90%]``, ``train[1000:]+test``.
      data_dir: directory of prepared TFDS datasets; None for the user's cache.
      size: rows and columns of the images; None: as stored (of varying images: the catalog's).
      fit: how an image of another size gets there (``image.fit``).

    Raises:
      UsageError: an unknown or empty split, a data_dir that is no directory, or more images than memory holds.
      DataError: the dataset is not prepared there, or a record is damaged.
    """
    if dataset.origin == "synthetic":
        return _fitted(_slice({name: _fake(dataset, n) for name, n in dataset.splits.items()}, split), size, fit)
    stored = dataset  # with the size to which varying images are brought while they are decoded
    if dataset.varying:
        stored = dataclasses.replace(
            dataset, image_shape=(size or dataset.image_shape[0],) * 2 + dataset.image_shape[2:]
        )
    try:
        examples = _load(stored, split, data_dir, fit)
    except DataError:
        if dataset.origin != "ours":
            raise
        shutil.rmtree(cache_dir() / "tfds" / dataset.name, ignore_errors=True)  # ours to make again
        examples = _load(stored, split, data_dir, fit)
    return _fitted(examples, size, fit)


def _load(dataset: Dataset, split: str, data_dir: str | None, fit: str) -> Examples:
    builder = _builder(dataset, data_dir)
    wanted = _instructions({name: info.num_examples for name, info in builder.info.splits.items()}, split)
    infos = {name: builder.info.splits[name] for name in {name for name, _, _ in wanted}}
    count = sum(info.num_examples for info in infos.values())
    if (need := count * math.prod(dataset.image_shape)) > MOST_BYTES:
        raise UsageError(
            f"{dataset.name} {split}: {count:,} images are {need / 1e9:.0f} GB as uint8 and are held in memory, at most "
            f"{MOST_BYTES / 1e9:.0f} GB; use a part, e.g. --data.train_split=train[:1%], or a smaller --image_size"
        )
    return _slice({name: _cached(dataset, info, fit) for name, info in infos.items()}, split)


def _fitted(examples: Examples, size: int | None, fit: str) -> Examples:
    """The images at the size that the network sees."""
    if size is None or examples.images.shape[1:3] == (size, size):
        return examples
    return Examples(np.stack([image.fit(one, size, fit) for one in examples.images]), examples.labels)


def split_sizes(dataset: Dataset, data_dir: str | None = None) -> dict[str, int]:
    """Number of examples of each split, without reading any."""
    if dataset.origin == "synthetic":
        return dict(dataset.splits)
    return {name: info.num_examples for name, info in _builder(dataset, data_dir).info.splits.items()}


def split_size(sizes: dict[str, int], split: str) -> int:
    """Number of examples in a split given in TFDS syntax; UsageError when it is unknown or empty."""
    return sum(stop - start for _, start, stop in _instructions(sizes, split))


def _builder(dataset: Dataset, data_dir: str | None) -> Any:
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
        f"dataset {dataset.name!r} is not prepared in {directory}; point --data_dir at a prepared copy, or make one (this "
        f"step alone needs the package tensorflow): tfds build {dataset.name} --file_format=array_record --data_dir={directory}"
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


def _instructions(sizes: dict[str, int], split: str) -> list[tuple[str, int, int]]:
    """``[(split name, first, stop), ...]`` for a split in TFDS syntax."""
    from tensorflow_datasets.core import splits as tfds_splits

    infos = {name: tfds_splits.SplitInfo(name=name, shard_lengths=[n], num_bytes=0) for name, n in sizes.items()}
    try:
        parts = tfds_splits.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else "not in TFDS syntax"
        hint = "" if split.split("[")[0] in sizes else nearest(split.split("[")[0], sizes)
        raise UsageError(
            f"split={split!r} must be made of {', '.join(sizes)}, e.g. train[:90%] ({reason}){hint}"
        ) from None
    spans = [(p.splitname, p.from_ or 0, sizes[p.splitname] if p.to is None else p.to) for p in parts]
    if sum(stop - start for _, start, stop in spans) < 1:
        raise UsageError(
            f"split={split!r} holds no example; the splits are {', '.join(f'{k} ({n:,})' for k, n in sizes.items())}"
        )
    return spans


def _slice(whole: dict[str, Examples], split: str) -> Examples:
    spans = _instructions({name: len(examples) for name, examples in whole.items()}, split)
    parts = [(whole[name].images[start:stop], whole[name].labels[start:stop]) for name, start, stop in spans]
    if len(parts) == 1:
        return Examples(*parts[0])
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _cached(dataset: Dataset, split_info: Any, fit: str) -> Examples:
    """The decoded split from the cache; a missing or damaged entry is made anew."""
    files = [pathlib.Path(path) for path in split_info.filepaths]
    if missing := [path for path in files if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing; prepare the dataset again")
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    how = fit if dataset.varying else ""
    name = hashlib.sha256(repr((dataset, stamps, how)).encode()).hexdigest()[:16]
    path = cache_dir() / "decoded" / f"{dataset.name}-{split_info.name}-{name}.npy"
    if (examples := _read_cache(path, dataset, split_info.num_examples)) is not None:
        return examples
    examples = _decode_split(dataset, files, split_info.num_examples, fit)
    _write_cache(path, examples)
    return examples


def _decode_split(dataset: Dataset, files: list[pathlib.Path], num_examples: int, fit: str) -> Examples:
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]  (made at import)

    records: list[tuple[str, bytes]] = []
    for path in files:
        try:
            reader = ArrayRecordReader(str(path))
            records += [(f"{path}: record {i}", record) for i, record in enumerate(reader.read_all())]
            reader.close()
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"{path}: damaged ArrayRecord file ({str(error).splitlines()[0]}); prepare it again"
            ) from None
    if len(records) != num_examples:
        raise DataError(f"{files[0].parent}: {len(records)} records, but dataset_info.json promises {num_examples}")
    images = np.empty((num_examples, *dataset.image_shape), np.uint8)
    labels = np.empty(num_examples, np.int32)

    def decode_one(position: int) -> None:
        what, record = records[position]
        try:
            features = parse(record).features.feature
            data, label = features["image"].bytes_list.value[0], features["label"].int64_list.value[0]
        except (IndexError, ValueError, TypeError) as error:  # protobuf's DecodeError is a ValueError
            raise DataError(f"{what}: not an image with a label ({error})") from None
        pixels = image.decode(data, dataset.image_shape[2], what)
        if dataset.varying:
            pixels = image.fit(pixels, dataset.image_shape[0], fit)
        if pixels.shape != dataset.image_shape:
            raise DataError(f"{what}: image of shape {pixels.shape}, expected {dataset.image_shape}")
        if not 0 <= label < dataset.num_classes:
            raise DataError(f"{what}: label {label} is not in [0, {dataset.num_classes})")
        images[position], labels[position] = pixels, label

    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        for _ in pool.map(decode_one, range(num_examples), chunksize=512):
            pass
    return Examples(images, labels)


def _read_cache(path: pathlib.Path, dataset: Dataset, num_examples: int) -> Examples | None:
    """One uint8 array: images, then labels as 4 bytes each, then a CRC-32 of both."""
    try:
        flat = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    size = num_examples * int(np.prod(dataset.image_shape))
    if flat.dtype != np.uint8 or flat.shape != (size + 4 * num_examples + 4,):
        return None
    if zlib.crc32(flat[:-4].data) != int(flat[-4:].view("<u4")[0]):
        return None
    return Examples(flat[:size].reshape(num_examples, *dataset.image_shape), flat[size:-4].view("<i4").astype(np.int32))


def _write_cache(path: pathlib.Path, examples: Examples) -> None:
    flat = np.concatenate([examples.images.ravel(), examples.labels.astype("<i4").view(np.uint8)])
    crc = np.array([zlib.crc32(flat.data)], "<u4").view(np.uint8)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.save(file, np.concatenate([flat, crc]))
        os.replace(file.name, path)  # readers see the whole file or none
    except OSError:  # a full or read-only cache costs time, not the run
        return


def _fake(dataset: Dataset, num_examples: int) -> Examples:
    """Learnable noise: class k is a bright square at the k-th place of a 4 x 4 grid."""
    rng = np.random.default_rng(num_examples)
    rows, columns, channels = dataset.image_shape
    images = rng.integers(0, 160, (num_examples, rows, columns, channels), np.uint8)
    labels = rng.integers(0, dataset.num_classes, num_examples, np.int32)
    for pixels, label in zip(images, labels, strict=True):
        top, left = (label // 4) * rows // 4, (label % 4) * columns // 4
        pixels[top : top + rows // 4, left : left + columns // 4] += 80
    return Examples(images, labels)
