"""The order of examples: ``(seed, step) -> indices``, without history and without storing a permutation.

Training position ``p = step * batch_size + row`` lies in epoch ``p // n`` at place ``p % n``; each epoch is a keyed
bijection of ``[0, n)``, so every example comes exactly once per epoch, also when a batch straddles two epochs. The
bijection is a Feistel network (Luby & Rackoff 1988) on the next even number of bits, walked until it lands inside
``[0, n)`` (Black & Rogaway 2002): O(batch) time and memory for any n.
"""

from collections.abc import Iterator

import numpy as np

from jaxcnn.errors import UsageError

_ROUNDS = 8


def train_indices(seed: int, step: int, batch_size: int, num_examples: int, num_steps: int = 1) -> np.ndarray:
    """Indices ``[num_steps, batch_size]`` (int64) that updates ``step`` (0 for the first), ``step + 1``, ... learn from."""
    position = step * batch_size + np.arange(num_steps * batch_size, dtype=np.uint64)
    epoch, place = np.divmod(position, np.uint64(num_examples))
    indices = np.empty(position.shape, np.int64)
    for e in np.unique(epoch):
        rows = epoch == e
        indices[rows] = permute(place[rows], num_examples, seed, int(e))
    return indices.reshape(num_steps, batch_size)


def train_epochs(step: int, batch_size: int, num_examples: int, num_steps: int = 1) -> np.ndarray:
    """The epoch, from 0 on, that each of ``train_indices`` belongs to: ``[num_steps, batch_size]`` (int64)."""
    position = step * batch_size + np.arange(num_steps * batch_size, dtype=np.int64)
    return (position // num_examples).reshape(num_steps, batch_size)


def eval_indices(num_examples: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every example once and in order: pairs (indices ``[batch_size]``, mask ``[batch_size]``).

    The last batch is filled up with example 0 under a false mask, so all batches have one shape.
    """
    for start in range(0, num_examples, batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < num_examples
        yield np.where(mask, index, 0), mask


def permute(place: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """The image of each place in ``[0, n)`` under the bijection keyed by (seed, epoch)."""
    if n < 1:
        raise UsageError(f"permute: n={n} must be >= 1")
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # bits of each half: 2**(2 half) >= n
    keys = _round_keys(seed, epoch)
    value = place.astype(np.uint64)
    todo = np.ones(value.shape, bool)
    while todo.any():
        value[todo] = _feistel(value[todo], half, keys)
        todo = value >= n
    return value.astype(np.int64)


def _feistel(value: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    base = _mix(np.array([seed], np.uint64)) ^ np.array([epoch], np.uint64)
    return _mix(_mix(base) + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mix(z: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every input bit moves every output bit (Steele et al. 2014, figure 16)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
