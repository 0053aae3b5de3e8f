"""Moments of BatchNorm that are computed anew after training."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import loop, nn, precise, tree
from jaxcnn.augment import pipeline
from jaxcnn.config import Config, DataConfig, ModelConfig, replace
from jaxcnn.errors import Preempted, UsageError
from jaxcnn.task import build

SMALL = ModelConfig("resnet18", overrides={"width": 4, "depths": (1,)})


@pytest.fixture
def bn(tiny) -> Config:
    """The short run, of a network with BatchNorm."""
    data = DataConfig("fake", batch_size=16, image_size=32)
    return dataclasses.replace(tiny, model=SMALL, data=data, precise_batches=3)


def batches(task, start):
    return task.load("train", train=True).train_batches(task.config.seed, task.config.data.batch_size, start)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_first_layer_has_the_moments_of_all_batches(bn, ema):
    """By hand: the images of three batches, normalised and convolved, together."""
    task = build(replace(bn, {"optimizer.ema_decay": ema}), 1)
    state = task.initial_state()._replace(step=jnp.int32(12))
    found = precise.estimated(state, task.moments_step(), batches(task, 12), 3)
    augment = pipeline.make_augment(bn.augment, bn.seed)
    kernel = state.params["conv1"]["kernel"]
    outputs = [
        nn.conv2d(task.normalise()(augment(batch, 12 + i)["image"]), kernel, None, 2, 3)
        for i, batch in zip(range(3), batches(task, 12), strict=False)
    ]
    stats = found.variables()["batch_stats"]["bn1"]
    count = outputs[0].size // 4
    means = np.stack([np.asarray(x, np.float64).reshape(-1, 4).mean(0) for x in outputs])
    variances = np.stack([np.asarray(x, np.float64).reshape(-1, 4).var(0) for x in outputs]) * count / (count - 1)
    np.testing.assert_allclose(stats["mean"], means.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], (variances + means**2).mean(0) - means.mean(0) ** 2, rtol=1e-4)
    if ema:
        np.testing.assert_array_equal(found.batch_stats["bn1"]["mean"], state.batch_stats["bn1"]["mean"])
    for name, leaf in tree.named_leaves(found.params).items():
        np.testing.assert_array_equal(leaf, tree.named_leaves(state.params)[name])


def test_frozen_layers_keep_their_moments(bn):
    task = build(replace(bn, {"optimizer.freeze": ("bn1",)}), 1)
    state = task.initial_state()
    found = precise.estimated(state, task.moments_step(), batches(task, 0), 2)
    np.testing.assert_array_equal(found.batch_stats["bn1"]["mean"], state.batch_stats["bn1"]["mean"])
    assert np.any(found.batch_stats["layer1_0"]["bn1"]["mean"] != state.batch_stats["layer1_0"]["bn1"]["mean"])


@pytest.mark.compiles
def test_frozen_moments_do_not_change_by_a_bit_in_three_parts(bn):
    task = build(replace(bn, {"optimizer.freeze": ("bn1",), "optimizer.accumulate": 3, "data.batch_size": 24}), 1)
    state, step = task.initial_state(), task.train_step(12)
    moments = np.random.default_rng(0).normal(size=4).astype(np.float32)
    state = state._replace(
        batch_stats={**state.batch_stats, "bn1": {"mean": jnp.array(moments), "var": jnp.array(moments**2)}}
    )
    for _, batch in zip(range(5), batches(task, 0), strict=False):
        state, _ = step(state, batch)
    np.testing.assert_array_equal(state.batch_stats["bn1"]["mean"], moments)


@pytest.mark.trains
def test_a_run_ends_with_them_also_after_a_stop(bn, tmp_path):
    straight = loop.run(bn, tmp_path / "straight")
    without = loop.run(replace(bn, {"precise_batches": 0}), tmp_path / "without")
    assert straight["state_digest"] != without["state_digest"]
    stops = iter([False] * 5 + [True] * 9)
    with pytest.raises(Preempted):
        loop.run(bn, tmp_path / "stopped", stop=stops.__next__)
    assert loop.run(bn, tmp_path / "stopped")["state_digest"] == straight["state_digest"]


@pytest.mark.trains
def test_a_stop_meanwhile_is_heard_and_ends_with_the_same_bits(bn, tmp_path):
    straight = loop.run(bn, tmp_path / "straight")
    # Asked at the start and after each of the 12 updates; true in the second batch of the moments.
    stops = iter([False] * 14 + [True] * 99)
    with pytest.raises(Preempted, match="BatchNorm"):
        loop.run(bn, tmp_path / "stopped", stop=stops.__next__)
    assert loop.run(bn, tmp_path / "stopped")["state_digest"] == straight["state_digest"]


def test_a_network_without_batch_norm_stays_as_it_is(tiny):
    task = build(replace(tiny, {"precise_batches": 2}), 1)
    state = task.initial_state()
    assert precise.estimated(state, task.moments_step(), batches(task, 0), 2) is state


def test_exact_runs_refuse():
    with pytest.raises(UsageError, match="precise_batches=1 must be 0 with elastic_exact"):
        build(Config(steps=1, elastic_exact=True, precise_batches=1, data=DataConfig("fake", batch_size=8)), 1)
