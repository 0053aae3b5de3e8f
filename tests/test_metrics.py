"""Losses, metrics and evaluation: exact sums, whatever the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn import evaluate, metrics
from jaxcnn import mesh as meshes
from jaxcnn.config import ModelConfig, replace
from jaxcnn.losses import cross_entropy
from jaxcnn.task import build

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(20, 7)).astype(np.float32), RNG.integers(0, 7, 20).astype(np.int32)


def test_cross_entropy_is_minus_log_probability():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), -np.log(p[np.arange(20), LABELS]), rtol=1e-5)
    target = 0.9 * np.eye(7)[LABELS] + 0.1 / 7
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, 0.1), -(target * np.log(p)).sum(1), rtol=1e-5)


@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.integers(0, 5))
def test_rank_breaks_ties_as_argmax(values, label):
    logits = np.array([values], np.float32)
    expected = sorted(range(6), key=lambda k: (-logits[0, k], k)).index(label)
    assert int(metrics.label_rank(jnp.asarray(logits), jnp.array([label], jnp.int32))[0]) == expected
    assert (int(np.argmax(logits)) == label) == (expected == 0)


def test_nan_logits_are_never_right():
    logits = jnp.full((1, 3), jnp.nan)
    assert float(metrics.classification_sums(logits, jnp.array([0]))["accuracy"]) == 0


@pytest.mark.parametrize("filling", [np.full((20, 7), np.nan), 9 * np.eye(7)[LABELS]], ids=["nan", "right"])
def test_masked_rows_do_not_count(filling):
    mask = np.arange(20) % 3 != 0
    logits = np.where(mask[:, None], LOGITS, filling).astype(np.float32)
    sums = metrics.classification_sums(jnp.asarray(logits), jnp.asarray(LABELS), jnp.asarray(mask))
    expected = metrics.classification_sums(LOGITS[mask], LABELS[mask])
    for name in sums:
        np.testing.assert_allclose(sums[name], expected[name], rtol=1e-5)


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize("batch_size", [1, 7, 40, 64, 100, 1000])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluation_is_exact_for_any_batch_and_device_count(tiny, batch_size, num_devices):
    task = build(replace(tiny, {"data.eval_batch_size": batch_size}), num_devices)
    variables = task.initial_state().variables()
    test = task.load("test")
    result = evaluate.evaluate(task.eval_step(), variables, test, meshes.round_up(batch_size, task.mesh))
    images, labels = np.asarray(test.arrays["image"]), np.asarray(test.arrays["label"])
    logits = task.model.apply(variables, task.normalise()(images))
    assert result["eval_accuracy"] == np.mean(np.argmax(logits, axis=1) == labels)
    np.testing.assert_allclose(result["eval_loss"], np.mean(cross_entropy(logits, labels)), rtol=1e-5)
    size = meshes.round_up(batch_size, task.mesh)
    found = evaluate.predictions(task.predict_step(), variables, test, size, 10, num_worst=5)
    np.testing.assert_allclose(found.probabilities, jax.nn.softmax(logits), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)
    wrong = np.flatnonzero(found.called != labels)
    own = found.probabilities[wrong, labels[wrong]]
    np.testing.assert_array_equal(found.worst, wrong[np.argsort(own, kind="stable")][:5])
    np.testing.assert_array_equal(found.images, images[found.worst])


def test_evaluation_notices_a_lost_example(tiny, monkeypatch):
    task = build(tiny, 1)
    variables = task.initial_state().variables()
    test = task.load("test")
    assert evaluate.evaluate(task.eval_step(), variables, test, 40, stop=lambda: True) == {}
    batches = list(test.eval_batches(40))
    monkeypatch.setattr(test, "eval_batches", lambda size: batches[:2])
    with pytest.raises(AssertionError, match="80 of 100"):
        evaluate.evaluate(task.eval_step(), variables, test, 40)


@pytest.mark.compiles(keep=2)
@pytest.mark.parametrize("kind", ["one", "flip", "shift", "ten"])
def test_views_are_those_that_numpy_cuts_and_their_probabilities_are_averaged(tiny, kind):
    task = build(replace(tiny, {"data.eval_views": kind}), 1)
    variables = task.initial_state().variables()
    test = task.load("test[:40]")
    images = np.asarray(test.arrays["image"])
    size = 36 if kind == "ten" else 32
    assert images.shape == (40, size, size, 1)
    if kind == "shift":
        images = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    places = {
        "one": [(0, 0)],
        "flip": [(0, 0)],
        "shift": [(1, 1), (2, 2), (0, 0)],
        "ten": [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)],
    }[kind]
    cut = [images[:, top : top + 32, left : left + 32] for top, left in places]
    cut += [view[:, :, ::-1] for view in cut if kind != "one"]
    assert len(cut) == {"one": 1, "flip": 2, "shift": 6, "ten": 10}[kind]
    chances = np.mean([jax.nn.softmax(task.model.apply(variables, task.normalise()(view))) for view in cut], axis=0)
    found = evaluate.predictions(task.predict_step(), variables, test, 16, 10)
    np.testing.assert_allclose(found.probabilities, chances, rtol=1e-3, atol=1e-6)
    result = evaluate.evaluate(task.eval_step(), variables, test, 16)
    labels = np.asarray(test.arrays["label"])
    np.testing.assert_allclose(result["eval_loss"], -np.log(chances[np.arange(40), labels]).mean(), rtol=1e-4)
    assert result["eval_accuracy"] == np.mean(chances.argmax(axis=1) == labels)


def test_ten_views_come_from_the_central_square(shared_tfds, tiny):
    values = {
        "data.dataset": "imagenet2012",
        "data.data_dir": shared_tfds,
        "data.image_size": 224,
        "data.eval_views": "ten",
    }
    task = build(dataclasses.replace(replace(tiny, values), model=ModelConfig("alexnet")), 1)
    images = np.asarray(task.load("validation[:3]").arrays["image"])
    assert images.shape == (3, 256, 256, 3)
    centre = np.asarray(
        build(replace(task.config, {"data.eval_views": "one", "data.fit": "crop"}), 1)
        .load("validation[:3]")
        .arrays["image"]
    )
    np.testing.assert_array_equal(images[:, 16:240, 16:240], centre)
