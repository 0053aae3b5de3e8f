"""From records to what the network sees: uint8 pixels of one size, and a label."""

import concurrent.futures
import dataclasses
from collections.abc import Callable

import numpy as np

from jaxcnn import pulse
from jaxcnn.data import image
from jaxcnn.data.catalog import Dataset
from jaxcnn.data.image import Box
from jaxcnn.data.records import Record, Records
from jaxcnn.environment import num_cores
from jaxcnn.errors import DataError

UNREADABLE = -1  # the label of an example that cannot be read and is left out
_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images ``[N, H, W, C]`` uint8, labels ``[N]`` int32, and by index what is wrong with those labelled ``UNREADABLE``."""

    images: np.ndarray
    labels: np.ndarray
    bad: dict[int, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


class Reader:
    """The examples of a split at the size that the network sees. Threads may share it.

    Args:
      dataset: row of the catalog.
      records: the split as it is stored.
      size: rows and columns; None: as stored.
      fit: how an image of another size gets there (``image.fit``).
      max_bad: how many unreadable examples are left out (pixels 0, label ``UNREADABLE``); one more is a DataError.
    """

    def __init__(self, dataset: Dataset, records: Records, size: int | None, fit: str, max_bad: int = 0):
        self._dataset, self._records, self._fit, self._max_bad = dataset, records, fit, max_bad
        rows, columns, channels = dataset.image_shape
        self.image_shape = (rows, columns, channels) if size is None else (size, size, channels)
        self.bad: dict[int, str] = {}  # the unreadable examples met so far, and what is wrong with them

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, out: np.ndarray, choose: Callable[[int, int], Box] | None = None) -> int:
        """Write the pixels of example ``index`` into ``out`` and return its label.

        Args:
          index: in [0, len).
          out: uint8 of ``image_shape``.
          choose: (rows, columns) of a stored image -> the part of it to show; None: all, brought to size by ``fit``.

        Raises:
          DataError: names the record, its file and what is wrong with it.
        """
        if index not in self.bad:  # one left out stays out, mended or not: each start of a run has the same examples
            try:
                return self._write(self._records.read(index), out, choose)
            except DataError as error:
                self._note(index, error)
        elif self._max_bad < len(self.bad):
            raise DataError(
                f"{self.bad[index]}; this run has left it out, with others: data.max_bad_records={self._max_bad} must be >= "
                f"{len(self.bad)}"
            )
        out[:] = 0
        return UNREADABLE

    def read_all(self) -> Examples:
        """The whole split."""
        count = len(self)
        images, labels = np.empty((count, *self.image_shape), np.uint8), np.empty(count, np.int32)

        def read_some(first: int) -> None:
            stop = min(first + _AT_ONCE, count)
            try:
                for index, record in enumerate(self._records.read_range(first, stop), first):
                    labels[index] = self._write(record, images[index])
            except DataError:
                if not self._max_bad:
                    raise
                for index in range(first, stop):  # one by one, to leave out the bad ones
                    labels[index] = self.read(index, images[index])

        with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            for _ in pool.map(read_some, range(0, count, _AT_ONCE)):
                pass
        return Examples(images, labels, self.bad)

    def _write(self, record: Record, out: np.ndarray, choose: Callable[[int, int], Box] | None = None) -> int:
        pulse.beat()
        stored, label, name = record
        if not 0 <= label < self._dataset.num_classes:
            raise DataError(f"{name}: label {label} is not in [0, {self._dataset.num_classes})")
        if choose is not None:
            if isinstance(stored, bytes):
                image.decode_crop(stored, choose, out, name)
            else:
                image.crop(stored, choose(*stored.shape[:2]), out)
            return label
        pixels = image.decode(stored, out.shape[2], name) if isinstance(stored, bytes) else stored
        if not self._dataset.varying and pixels.shape != self._dataset.image_shape:
            raise DataError(f"{name}: image of shape {pixels.shape}, expected {self._dataset.image_shape}")
        same = pixels.shape == out.shape and not self._dataset.varying
        out[:] = pixels if same else image.fit(pixels, out.shape[0], self._fit, name)
        return label

    def _note(self, index: int, error: DataError) -> None:
        self.bad[index] = str(error)
        if len(self.bad) > self._max_bad:
            del self.bad[index]  # it ends the run, and may be mended
            if self._max_bad:
                error = DataError(
                    f"{error}; with it more than data.max_bad_records={self._max_bad} records are unreadable"
                )
            raise error
