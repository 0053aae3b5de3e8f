"""Where the examples of a dataset come from, and a cache of those that were decoded in bulk."""

import contextlib
import dataclasses
import hashlib
import pathlib
import re
import shutil
import zlib

import numpy as np

from jaxcnn import pulse
from jaxcnn.data import catalog, folder, npz, prepared
from jaxcnn.data.cached import Cached, Disk, Memory, kept_file
from jaxcnn.data.catalog import Dataset
from jaxcnn.data.reader import UNREADABLE, Examples, Reader
from jaxcnn.data.records import ArrayRecords, Arrays, Joined, Records
from jaxcnn.data.splits import spans
from jaxcnn.environment import cache_dir
from jaxcnn.errors import DataError, UsageError


def find(name: str, data_dir: str | None = None) -> Dataset:
    """The dataset called ``name``: of the catalog, or ``tfds:NAME[/CONFIG]``, ``folder:PATH`` or ``npz:FILE``.

    Raises:
      UsageError: there is no such dataset, folder or file.
      DataError: what is there cannot be used.
    """
    kind, _, place = name.partition(":")
    if kind == "tfds" and place:
        return prepared.describe(place, data_dir)
    if kind == "folder" and place:
        return folder.describe(place)
    if kind == "npz" and place:
        return npz.describe(place)
    return catalog.find(name)


def split_sizes(dataset: Dataset, data_dir: str | None = None) -> dict[str, int]:
    """Number of examples of each split, without reading any."""
    if dataset.origin not in ("tfds", "ours"):
        return dict(dataset.splits)
    return {name: info.num_examples for name, info in prepared.builder(dataset, data_dir).info.splits.items()}


def open_split(dataset: Dataset, split: str, data_dir: str | None = None) -> Records:
    """The examples of a split as they are stored.

    Args:
      dataset: a row of the catalog.
      split: in TFDS syntax: ``train``, ``train[:90%]``, ``train[1000:]+test``.
      data_dir: directory of prepared TFDS datasets; None for the user's cache.

    Raises:
      UsageError: an unknown or empty split, or a data_dir that is no directory.
      DataError: the dataset is not prepared there.
    """
    parts = spans(split_sizes(dataset, data_dir), split)
    whole: dict[str, Records] = {}
    if dataset.origin == "synthetic":
        whole |= {name: _fake(dataset, dataset.splits[name]) for name, _, _ in parts}
    elif dataset.origin in ("folder", "npz"):
        whole |= (folder if dataset.origin == "folder" else npz).splits(dataset.place)
    else:
        infos = prepared.builder(dataset, data_dir).info.splits
        for name in {name for name, _, _ in parts}:
            files = [pathlib.Path(path) for path in infos[name].filepaths]
            whole[name] = ArrayRecords(files, infos[name].shard_lengths, dataset.keys)
    return Joined([(whole[name], first, stop) for name, first, stop in parts])


def fingerprint(records: Records) -> str:
    """Tells other examples from these: their number, and a CRC-32 of up to 64 of them, evenly spaced, as they are stored.

    It does not depend on where the files lie, nor on how they are packed.
    """
    crc, places = 0, sorted({round(k * (len(records) - 1) / 63) for k in range(64)})
    for index in places:
        try:
            image, label, _ = records.read(index)
        except DataError:
            image, label = b"unreadable", -1
        pulse.beat()
        crc = zlib.crc32(image if isinstance(image, bytes) else np.ascontiguousarray(image).data, crc)
        crc = zlib.crc32(str(label).encode(), crc)
    return f"{len(records):,} examples, CRC-32 of {len(places)}: {crc:08x}"


def label_beyond(num_classes: int, dataset: Dataset, split: str, data_dir: str | None = None) -> str:
    """Names the first example whose label is none of so many classes, for a message; nothing, where none can be read."""
    with contextlib.suppress(UsageError, DataError):
        records = open_split(dataset, split, data_dir)
        for record in map(records.read, range(len(records))):
            if record.label >= num_classes:
                return f": {record.name} has the label {record.label}"
    return ""


def cached(dataset: Dataset, records: Records, where: str, length: int, channels: int) -> Cached:
    """The records with their images kept decoded and scaled: ``where`` is "ram" or "disk" (the user's cache)."""
    if where == "ram":
        return Cached(records, Memory(), length, channels)
    folder = _cache_name(dataset.name, (dataset, records.stamp(), length, channels))
    return Cached(records, Disk(cache_dir() / "scaled" / folder), length, channels)


def load(
    dataset: Dataset,
    split: str,
    data_dir: str | None = None,
    size: int | None = None,
    fit: str = "resize",
    max_bad: int = 0,
) -> Examples:
    """All examples of a split in memory, decoded once and then read from the user's cache.

    Args:
      dataset, split, data_dir: as in ``open_split``.
      size: rows and columns of the images; None: as stored (of varying images: the catalog's).
      fit: how an image of another size gets there (``image.fit``).
      max_bad: how many unreadable examples are left out.

    Raises:
      UsageError: as ``open_split``.
      DataError: the dataset is not prepared there, or a record is damaged.
    """
    try:
        return _load(dataset, split, data_dir, size, fit, max_bad)
    except DataError:
        if dataset.origin != "ours":
            raise
        shutil.rmtree(cache_dir() / "tfds" / dataset.name, ignore_errors=True)  # ours to make again
        return _load(dataset, split, data_dir, size, fit, max_bad)


def _load(dataset: Dataset, split: str, data_dir: str | None, size: int | None, fit: str, max_bad: int) -> Examples:
    records = open_split(dataset, split, data_dir)
    reader = Reader(dataset, records, size, fit, max_bad)
    if (stamp := records.stamp()) is None:
        return reader.read_all()
    name = _cache_name(f"{dataset.name}-{split}", (dataset, stamp, reader.image_shape, fit))
    try:
        path = cache_dir() / "decoded" / f"{name}.npy"
    except OSError:  # no home to write to: decoded for each run
        return reader.read_all()
    examples = _read_cache(path, len(reader), reader.image_shape)
    if examples is None or np.count_nonzero(examples.labels == UNREADABLE) > max_bad:
        examples = reader.read_all()
        _write_cache(path, examples)
        return examples
    out = np.empty(reader.image_shape, np.uint8)
    for index in np.flatnonzero(examples.labels == UNREADABLE).tolist():
        reader.read(index, out)  # says once more what is wrong
        reader.bad.setdefault(index, "was unreadable")
    return dataclasses.replace(examples, bad=reader.bad)


def _cache_name(about: str, what: object) -> str:
    """A name for people with a hash of all that the entry depends on."""
    slug = re.sub("[^A-Za-z0-9-]+", "_", about)[-60:]
    return f"{slug}-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"


def _read_cache(path: pathlib.Path, num_examples: int, image_shape: tuple[int, ...]) -> Examples | None:
    """One uint8 array: images, then labels as 4 bytes each, then a CRC-32 of both. None when missing or damaged."""
    try:
        flat = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    size = num_examples * int(np.prod(image_shape))
    if flat.dtype != np.uint8 or flat.shape != (size + 4 * num_examples + 4,):
        return None
    if zlib.crc32(flat[:-4].data) != int(flat[-4:].view("<u4")[0]):
        return None
    return Examples(flat[:size].reshape(num_examples, *image_shape), flat[size:-4].view("<i4").astype(np.int32))


def _write_cache(path: pathlib.Path, examples: Examples) -> None:
    flat = np.concatenate([examples.images.ravel(), examples.labels.astype("<i4").view(np.uint8)])
    crc = np.array([zlib.crc32(flat.data)], "<u4").view(np.uint8)
    with contextlib.suppress(OSError), kept_file(path) as file:  # a full or read-only cache costs time, not the run
        np.save(file, np.concatenate([flat, crc]))


def _fake(dataset: Dataset, num_examples: int) -> Arrays:
    """Learnable noise: class k is a bright square at the k-th place of a 4 x 4 grid."""
    rng = np.random.default_rng(num_examples)
    rows, columns, channels = dataset.image_shape
    images = rng.integers(0, 160, (num_examples, rows, columns, channels), np.uint8)
    labels = rng.integers(0, dataset.num_classes, num_examples, np.int32)
    for pixels, label in zip(images, labels, strict=True):
        top, left = (label // 4) * rows // 4, (label % 4) * columns // 4
        pixels[top : top + rows // 4, left : left + columns // 4] += 80
    return Arrays(images, labels, dataset.name)
