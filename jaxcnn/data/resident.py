"""The resident path: a dataset that fits the device lives there as uint8; a batch is a gather."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.data import order
from jaxcnn.data.reader import Examples
from jaxcnn.typing import Array, Batch

_STEPS_AHEAD = 64  # indices of that many steps are computed at once: one numpy call costs as much for one step


class Resident:
    """A split on the device.

    Attributes:
      arrays: ``image``, uint8 ``[N, H, W, C]``, and ``label``, int32 ``[N]``, on each device.

    Args:
      examples: all examples of the split, images as the network sees them.
      everywhere: sharding that puts the whole array on each device.
      rows: sharding that splits the rows of a batch over the devices.
    """

    def __init__(self, examples: Examples, everywhere: NamedSharding, rows: NamedSharding):
        self.num_examples = len(examples)
        self.bad = dict(examples.bad)
        self.arrays = {"image": _put(examples.images, everywhere), "label": _put(examples.labels, everywhere)}
        self._rows = rows
        self._gather = jax.jit(gather, out_shardings=rows)

    def train_batches(self, seed: int, batch_size: int, start: int) -> Iterator[Batch]:
        """Batches of update ``start``, ``start + 1``, ... without end; batch k depends on (seed, k) alone.

        Beside ``image`` and ``label``: ``example``, the row's index in the split, and ``epoch``, from 0 on; int32 ``[B]``.
        """
        for step in range(start, 2**62, _STEPS_AHEAD):
            block = order.train_indices(seed, step, batch_size, self.num_examples, num_steps=_STEPS_AHEAD)
            epochs = order.train_epochs(step, batch_size, self.num_examples, num_steps=_STEPS_AHEAD)
            for index_B, epoch_B in zip(block, epochs):
                example, epoch = self._put(index_B.astype(np.int32)), self._put(epoch_B.astype(np.int32))
                yield {**self._gather(self.arrays, example), "example": example, "epoch": epoch}

    def train_groups(self, seed: int, batch_size: int, start: int, size: int) -> Iterator[Batch]:
        """What ``train_batches`` reads, ``size`` batches at a time, as the whole split and the rows of each; without end.

        Groups begin at multiples of ``size``, the first is that of update ``start``. ``image`` and ``label`` of all examples;
        ``example`` and ``epoch``, int32 ``[size, B]``.
        """
        sharding = stacked(self._rows)
        for step in range(start - start % size, 2**62, size):
            example_KB = order.train_indices(seed, step, batch_size, self.num_examples, size).astype(np.int32)
            epoch_KB = order.train_epochs(step, batch_size, self.num_examples, size).astype(np.int32)
            yield {**self.arrays, "example": _put(example_KB, sharding), "epoch": _put(epoch_KB, sharding)}

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """Every example once, in order; ``mask`` is false on the rows that fill up the last batch."""
        for index_B, mask_B in order.eval_indices(self.num_examples, batch_size):
            batch = self._gather(self.arrays, self._put(index_B.astype(np.int32)))
            real_B = mask_B & ~np.isin(index_B, list(self.bad)) if self.bad else mask_B
            yield {**batch, "mask": self._put(real_B)}

    def close(self) -> None:
        """Nothing to stop."""

    def _put(self, rows: np.ndarray) -> Array:
        return _put(rows, self._rows)


def _put(array: np.ndarray, sharding: NamedSharding) -> Array:
    """An array that each process holds as a whole, on the devices; of several processes each fills its own."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def stacked(rows: NamedSharding) -> NamedSharding:
    """The sharding of stacked batches, each of which is split as ``rows`` says."""
    return NamedSharding(rows.mesh, PartitionSpec(None, *rows.spec))


def gather(arrays: Mapping[str, Array], index_B: Array) -> dict[str, Array]:
    """The rows ``index_B`` of all arrays."""
    return {name: jnp.take(values, index_B, axis=0, mode="clip") for name, values in arrays.items()}
