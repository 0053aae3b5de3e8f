"""Photographs kept decoded and scaled down, in memory or on disk, so that later epochs need not decode them again."""

import contextlib
import os
import pathlib
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Protocol

import numpy as np

from jaxcnn.data import image
from jaxcnn.data.records import Record, Records
from jaxcnn.errors import UsageError

_HEADER = struct.Struct("<IIIiI")  # rows, columns, channels, label, CRC-32 of the pixels
_USUAL_SHAPE = 4 / 3  # longer over shorter side of a photograph, for estimates


@contextlib.contextmanager
def kept_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file of a cache, to be written: readers see the whole of it or none, and nothing stays of one that failed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, suffix=".tmp") as folder:
        with pathlib.Path(folder, "new").open("wb") as file:
            yield file
        os.replace(file.name, path)


class Store(Protocol):
    """Where scaled photographs are kept, by index."""

    def get(self, index: int) -> tuple[np.ndarray, int] | None:
        """(pixels, label), or None when they are not there."""
        ...

    def put(self, index: int, pixels: np.ndarray, label: int) -> None: ...

    def free(self) -> int:
        """Bytes that it can take."""
        ...

    def held(self) -> int:
        """Number of images that are there already."""
        ...


class Memory:
    """The host's memory."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[np.ndarray, int]] = {}

    def get(self, index: int) -> tuple[np.ndarray, int] | None:
        return self._held.get(index)

    def put(self, index: int, pixels: np.ndarray, label: int) -> None:
        self._held[index] = pixels, label

    def free(self) -> int:
        with contextlib.suppress(OSError, StopIteration):  # Linux says what it would free for it, too
            lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
            return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def held(self) -> int:
        return len(self._held)


class Disk:
    """One file per photograph, each written as a whole: runs may share it, and a kill leaves it usable."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, index: int) -> tuple[np.ndarray, int] | None:
        try:
            data = self._path(index).read_bytes()
            rows, columns, channels, label, crc = _HEADER.unpack_from(data)
        except (OSError, struct.error):
            return None
        pixels = np.frombuffer(data, np.uint8, offset=_HEADER.size)
        if pixels.size != rows * columns * channels or zlib.crc32(pixels.data) != crc:
            return None  # cut or damaged: made anew
        return pixels.reshape(rows, columns, channels), label

    def put(self, index: int, pixels: np.ndarray, label: int) -> None:
        with contextlib.suppress(OSError), kept_file(self._path(index)) as file:  # a full disk costs time, not the run
            file.write(_HEADER.pack(*pixels.shape, label, zlib.crc32(pixels.data)))
            file.write(pixels.data)

    def free(self) -> int:
        return shutil.disk_usage(self._folder).free

    def held(self) -> int:
        return sum(name.isdigit() for _, _, names in os.walk(self._folder) for name in names)

    def _path(self, index: int) -> pathlib.Path:
        return self._folder / str(index // 1000) / str(index)


class Cached:
    """Records whose images are decoded and scaled once.

    Args:
      records: the split as it is stored.
      store: where the scaled images are kept.
      length: pixels of their shorter side; smaller images stay as they are.
      channels: 1 or 3.

    Raises:
      UsageError: the store is too small for those that are not in it yet.
    """

    def __init__(self, records: Records, store: Store, length: int, channels: int):
        self._records, self._store, self._length, self._channels = records, store, length, channels
        each, missing = round(length * length * _USUAL_SHAPE * channels), len(records)
        if missing * each > store.free():
            missing -= store.held()  # counted only where it matters: there may be a million files
        if (need := missing * each) > store.free():
            raise UsageError(
                f"data.cache: {missing:,} images with a shorter side of {length} take about {need / 1e9:,.3g} GB, more than the "
                f"{store.free() / 1e9:,.3g} GB that are there; make room, use a part of the split, or data.cache=none"
            )

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> Record:
        if (held := self._store.get(index)) is not None:
            return Record(*held, f"cached image {index}")
        stored, label, name = self._records.read(index)
        pixels = image.decode(stored, self._channels, name) if isinstance(stored, bytes) else stored
        if min(pixels.shape[:2]) > self._length:
            pixels = image.shorter_side(pixels, self._length, name)
        pixels = np.ascontiguousarray(pixels)
        self._store.put(index, pixels, label)
        return Record(pixels, label, name)

    def read_range(self, first: int, stop: int) -> list[Record]:
        return [self.read(index) for index in range(first, stop)]

    def stamp(self) -> object:
        return self._records.stamp()
