"""Examples as they are stored, by index: from ArrayRecord files, image files or arrays. Reading is thread-safe."""

import bisect
import itertools
import pathlib
import resource
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcnn.errors import DataError

_AGAIN = "remove {} and prepare the dataset again"


class Record(NamedTuple):
    """One example: an image file's bytes or uint8 pixels ``[H, W, C]``, its label, and its name in messages."""

    image: bytes | np.ndarray
    label: int
    name: str


class Records(Protocol):
    """Random access to the examples of a split."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Record:
        """Example ``index``. DataError when it cannot be read."""
        ...

    def read_range(self, first: int, stop: int) -> list[Record]:
        """Examples ``first`` to ``stop - 1``, which for small images is much faster than one by one."""
        ...

    def stamp(self) -> object:
        """What changes when the files do; its ``repr`` names a cache entry."""
        ...


class ArrayRecords:
    """The examples of a prepared TFDS split: ``tf.train.Example`` messages in ArrayRecord files.

    Args:
      files: the shards, in order.
      lengths: number of examples of each.
      keys: names of the image and of the label in a message.
    """

    def __init__(self, files: Sequence[pathlib.Path], lengths: Sequence[int], keys: tuple[str, str]):
        self._files, self._keys = list(files), keys
        self._starts = [0, *itertools.accumulate(lengths)]
        self._readers: dict[int, Any] = {}
        self._opening = threading.Lock()
        if missing := [path for path in self._files if not path.is_file()]:
            raise DataError(f"{missing[0]} is missing; {_AGAIN.format(missing[0].parent)}")
        allow_many_files()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Record:
        shard = bisect.bisect_right(self._starts, index) - 1
        place, path = index - self._starts[shard], self._files[shard]
        try:
            (message,) = self._reader(shard).read([place])
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"{path}: damaged ArrayRecord file at record {place} ({_first_line(error)}); {_AGAIN.format(path.parent)}"
            ) from None
        return self._parsed(message, f"{path}: record {place}")

    def read_range(self, first: int, stop: int) -> list[Record]:
        found: list[Record] = []
        while first < stop:
            shard = bisect.bisect_right(self._starts, first) - 1
            start, end = self._starts[shard], min(stop, self._starts[shard + 1])
            try:
                messages = self._reader(shard).read(first - start, end - start)
            except (OSError, RuntimeError, ValueError, IndexError):
                return [*found, *map(self.read, range(first, stop))]  # which one it is
            names = (f"{self._files[shard]}: record {place}" for place in range(first - start, end - start))
            found += map(self._parsed, messages, names)
            first = end
        return found

    def stamp(self) -> object:
        return [_stamp(path) for path in self._files]

    def check(self) -> None:
        """Open each file. DataError when one is damaged or does not hold as many records as it should."""
        for shard in range(len(self._files)):
            self._reader(shard)

    def _reader(self, shard: int) -> Any:
        if shard not in self._readers:
            from array_record.python.array_record_module import ArrayRecordReader

            with self._opening:
                path, promised = self._files[shard], self._starts[shard + 1] - self._starts[shard]
                try:  # reading ahead is for reading in order: it would make a random read three times as long
                    reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
                    held = reader.num_records()
                except (OSError, RuntimeError, ValueError) as error:
                    raise DataError(
                        f"{path}: damaged ArrayRecord file ({_first_line(error)}); {_AGAIN.format(path.parent)}"
                    ) from None
                if held != promised:
                    raise DataError(
                        f"{path}: {held} records, but dataset_info.json promises {promised}; {_AGAIN.format(path.parent)}"
                    )
                self._readers[shard] = reader
        return self._readers[shard]

    def _parsed(self, message: bytes, name: str) -> Record:
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            example = tf_example_pb2.Example.FromString(message)  # pyright: ignore[reportAttributeAccessIssue]  (made at import)
            features = example.features.feature
            image, label = (features[key] for key in self._keys)
            return Record(image.bytes_list.value[0], label.int64_list.value[0], name)
        except (IndexError, ValueError, TypeError) as error:  # protobuf's DecodeError is a ValueError
            raise DataError(f"{name}: not an image with a label ({error})") from None


class ImageFiles:
    """Image files, each with a label."""

    def __init__(self, paths: Sequence[pathlib.Path], labels: Sequence[int]):
        self._paths, self._labels = list(paths), list(labels)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Record:
        path = self._paths[index]
        try:
            return Record(path.read_bytes(), self._labels[index], str(path))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None

    def read_range(self, first: int, stop: int) -> list[Record]:
        return [self.read(index) for index in range(first, stop)]

    def stamp(self) -> object:
        return [_stamp(path) for path in self._paths], self._labels


class Arrays:
    """Images ``[N, H, W, C]`` uint8 and labels ``[N]`` that are in memory already."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, name: str):
        self._images, self._labels, self._name = images, labels, name

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: int) -> Record:
        return Record(self._images[index], int(self._labels[index]), f"{self._name}: image {index}")

    def read_range(self, first: int, stop: int) -> list[Record]:
        return [self.read(index) for index in range(first, stop)]

    def stamp(self) -> object:
        return None  # nothing to cache


class Joined:
    """Parts of several splits, one after the other: ``[(records, first, stop), ...]``."""

    def __init__(self, parts: Sequence[tuple[Records, int, int]]):
        self._parts = list(parts)
        self._starts = [0, *itertools.accumulate(stop - first for _, first, stop in parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Record:
        part = bisect.bisect_right(self._starts, index) - 1
        records, first, _ = self._parts[part]
        return records.read(first + index - self._starts[part])

    def read_range(self, first: int, stop: int) -> list[Record]:
        found: list[Record] = []
        for (records, start, _), a, b in zip(self._parts, self._starts, self._starts[1:], strict=False):
            if max(first, a) < min(stop, b):
                found += records.read_range(start + max(first, a) - a, start + min(stop, b) - a)
        return found

    def stamp(self) -> object:
        stamps = [(records.stamp(), first, stop) for records, first, stop in self._parts]
        return None if any(stamp is None for stamp, _, _ in stamps) else stamps


def allow_many_files() -> None:
    """Raise the limit of open files: ImageNet has 1,024 shards, all of which stay open, and 1,024 is the usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < (wanted := hard if hard != resource.RLIM_INFINITY else 65_536):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 65_536), hard))


def _stamp(path: pathlib.Path) -> tuple[str, int, int]:
    try:
        return str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns
    except (OSError, RuntimeError):  # gone, or a link to itself: reading it says so
        return str(path), -1, -1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
