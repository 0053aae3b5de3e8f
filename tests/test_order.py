"""data.order: a pure function of (seed, step) that shows every example once per epoch."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn.data import order


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_permute_is_a_bijection(n, seed, epoch):
    assert sorted(order.permute(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


@given(st.integers(1, 300), st.integers(1, 50), st.integers(0, 100))
def test_every_example_once_per_epoch_for_any_batch_size(n, batch_size, seed):
    steps = -(-3 * n // batch_size)
    seen = order.train_indices(seed, 0, batch_size, n, steps).ravel()[: 3 * n].reshape(3, n)
    for epoch in seen:
        assert sorted(epoch.tolist()) == list(range(n))


@given(st.integers(1, 10**9), st.integers(0, 10**7), st.integers(1, 64), st.integers(1, 9))
def test_a_step_does_not_depend_on_history(n, step, batch_size, ahead):
    block = order.train_indices(5, step, batch_size, n, ahead)
    alone = order.train_indices(5, step + ahead - 1, batch_size, n)
    np.testing.assert_array_equal(block[-1], alone[0])
    assert block.min() >= 0
    assert block.max() < n


def test_epochs_and_seeds_differ():
    a, b = order.permute(np.arange(1000), 1000, 0, 0), order.permute(np.arange(1000), 1000, 0, 1)
    c = order.permute(np.arange(1000), 1000, 1, 0)
    assert np.mean(a == b) < 0.02
    assert np.mean(a == c) < 0.02


def test_places_and_neighbours_are_uniform():
    """Over 4,000 epochs of 10 examples: each lands on each place, and follows each other, about equally often."""
    n, epochs = 10, 4000
    orders = np.stack([order.permute(np.arange(n), n, 7, e) for e in range(epochs)])
    places = np.stack([np.bincount(orders[:, i], minlength=n) for i in range(n)])
    pairs = np.bincount((orders[:, :-1] * n + orders[:, 1:]).ravel(), minlength=n * n).reshape(n, n)
    pairs = pairs[~np.eye(n, dtype=bool)]
    for counts, freedom in ((places.ravel(), 81), (pairs, 89)):
        chi2 = np.sum((counts - counts.mean()) ** 2 / counts.mean())
        assert freedom - 5 * np.sqrt(2 * freedom) < chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_a_billion_examples_need_no_memory():
    start = time.monotonic()
    indices = order.train_indices(0, 10**6, 256, 10**9)
    assert time.monotonic() - start < 5  # a stored permutation would take 8 GB and a minute
    assert len(np.unique(indices)) == 256


@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (10, 3), (10, 5), (10, 64), (297, 100)])
def test_evaluation_sees_each_example_once(n, batch_size):
    batches = list(order.eval_indices(n, batch_size))
    assert all(index.shape == mask.shape == (batch_size,) for index, mask in batches)
    assert np.concatenate([index[mask] for index, mask in batches]).tolist() == list(range(n))


def test_the_order_is_frozen():
    """Checkpoints count on it: a changed order would repeat and skip examples after a resume. Never update this."""
    assert order.train_indices(0, 0, 8, 1500).tolist() == [[1156, 893, 745, 716, 584, 1050, 899, 1106]]
    assert order.train_indices(3, 10**6, 4, 1_281_167).tolist() == [[613416, 1132829, 682272, 671043]]
