"""The streaming path: threads read a few batches ahead of the step, which go to the devices as uint8.

Batch k is a function of (seed, k) alone, whatever the number of threads and hosts. At most ``ahead + 1`` batches are held in
memory, beside what the devices work on and one decoded photograph a thread.
"""

import collections
import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxcnn.config import AugmentConfig
from jaxcnn.data import crop, order
from jaxcnn.data.image import Box
from jaxcnn.data.reader import UNREADABLE, Reader
from jaxcnn.environment import num_cores
from jaxcnn.typing import Batch

_STEPS_AHEAD = 16  # indices of that many steps are computed at once


class _Rows(NamedTuple):
    """What a host reads for one batch: examples, their epochs, and which of them are real; ``[b]`` each."""

    example: np.ndarray
    epoch: np.ndarray
    real: np.ndarray


class Stream:
    """A split that is read while it is used.

    Args:
      reader: the split.
      rows: sharding that splits the rows of a batch over the devices.
      crops: for training, which part of an image is shown (``crop.choose``); None: all of it.
      threads: that read; None: one a core.
      ahead: batches that are read ahead of the one in use.
      host: (number of this host, how many there are): each reads its own rows of a batch.
    """

    def __init__(
        self,
        reader: Reader,
        rows: NamedSharding,
        crops: AugmentConfig | None = None,
        threads: int | None = None,
        ahead: int = 2,
        host: tuple[int, int] = (0, 1),
    ):
        self.num_examples, self._reader, self._rows, self._crops = len(reader), reader, rows, crops
        self._threads, self._ahead, self._host = threads or num_cores(), ahead, host
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, "jaxcnn-read")

    @property
    def bad(self) -> dict[int, str]:
        """The unreadable examples met so far, and what is wrong with them."""
        return self._reader.bad

    def train_batches(self, seed: int, batch_size: int, start: int) -> Iterator[Batch]:
        """Batches of update ``start``, ``start + 1``, ... without end; batch k depends on (seed, k) alone."""
        for batch in self.host_train_batches(seed, batch_size, start):
            yield self._put(batch)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """Every example once, in order; ``mask`` is false on rows that fill up the last batch or cannot be read."""
        jobs = (
            self._of_host(_Rows(index, np.zeros_like(index), mask))
            for index, mask in order.eval_indices(self.num_examples, batch_size)
        )
        for batch in self._read_ahead(jobs, None):
            yield self._put({name: batch[name] for name in ("image", "label", "mask")})

    def host_train_batches(self, seed: int, batch_size: int, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This host's rows of the training batches, in memory."""

        def jobs() -> Iterator[_Rows]:
            for step in itertools.count(start, _STEPS_AHEAD):
                index = order.train_indices(seed, step, batch_size, self.num_examples, _STEPS_AHEAD)
                epoch = order.train_epochs(step, batch_size, self.num_examples, _STEPS_AHEAD)
                for rows in zip(index, epoch, np.ones_like(index, bool), strict=True):
                    yield self._of_host(_Rows(*rows))

        for batch in self._read_ahead(jobs(), seed):
            yield {name: batch[name] for name in ("image", "label", "example", "epoch")}

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _of_host(self, rows: _Rows) -> _Rows:
        number, count = self._host
        mine = len(rows.example) // count
        return _Rows(*(part[number * mine : (number + 1) * mine] for part in rows))

    def _read_ahead(self, jobs: Iterable[_Rows], seed: int | None) -> Iterator[dict[str, np.ndarray]]:
        started: collections.deque = collections.deque()
        try:
            for rows in jobs:
                started.append(self._start(rows, seed))
                if len(started) > self._ahead:
                    yield self._finish(*started.popleft())
            while started:
                yield self._finish(*started.popleft())
        finally:  # the run stopped, or a record is damaged
            for _, futures in started:
                for future in futures:
                    future.cancel()

    def _start(self, rows: _Rows, seed: int | None) -> tuple[dict[str, np.ndarray], list[concurrent.futures.Future]]:
        count = len(rows.example)
        batch = {
            "image": np.empty((count, *self._reader.image_shape), np.uint8),
            "label": np.empty(count, np.int32),
            "example": rows.example.astype(np.int32),
            "epoch": rows.epoch.astype(np.int32),
            "mask": rows.real.copy(),
        }
        choose: list[Callable[[int, int], Box] | None] = [None] * count
        if self._crops is not None and seed is not None:
            uniforms = order.uniforms(seed, rows.example, rows.epoch, crop.NUM_UNIFORMS).tolist()
            how = functools.partial(crop.choose, size=self._reader.image_shape[0], config=self._crops)
            choose = [functools.partial(how, uniform=uniform) for uniform in uniforms]
        pieces = np.array_split(np.arange(count), min(count, 4 * self._threads))
        return batch, [self._pool.submit(self._read, batch, piece.tolist(), choose) for piece in pieces]

    def _finish(self, batch: dict[str, np.ndarray], futures: list[concurrent.futures.Future]) -> dict[str, np.ndarray]:
        for future in futures:
            future.result()
        batch["mask"] &= batch["label"] != UNREADABLE
        return batch

    def _read(self, batch: dict[str, np.ndarray], piece: list[int], choose: list) -> None:
        for row in piece:
            if batch["mask"][row]:
                label = self._reader.read(int(batch["example"][row]), batch["image"][row], choose[row])
                batch["label"][row] = label
            else:  # fills up the last batch
                batch["image"][row], batch["label"][row] = 0, UNREADABLE

    def _put(self, batch: dict[str, np.ndarray]) -> Batch:
        return {name: jax.make_array_from_process_local_data(self._rows, array) for name, array in batch.items()}
