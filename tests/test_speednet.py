"""The network for records of speed, and what it alone has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import Config, DataConfig, ModelConfig, OptimizerConfig, create_model, nn, precise
from jaxcnn.config import replace
from jaxcnn.errors import UsageError
from jaxcnn.models.speednet import Whiten
from jaxcnn.task import build


def correlated(seed, batch=32):
    """Images of smooth noise: neighbours and channels are alike, as in photographs."""
    noise = np.random.default_rng(seed).normal(size=(batch, 12, 12, 3))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + 2 * noise.mean(axis=3, keepdims=True)
    return jnp.asarray(smooth, jnp.float32)


def test_whitening_makes_the_patches_of_the_first_batch_white_and_stays():
    layer, x = Whiten(2, epsilon=0.0), correlated(0)
    variables = layer.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["seen"], 0)
    y, first = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.shape == (32, 11, 11, 24)
    np.testing.assert_array_equal(y[..., 12:], -y[..., :12])
    flat = np.asarray(y[..., :12]).reshape(-1, 12)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(12), atol=2e-3)
    again, second = layer.apply({**variables, **first}, correlated(1), train=True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, first, second)
    np.testing.assert_allclose(layer.apply({**variables, **first}, correlated(1)), again, atol=1e-5)
    gradient = jax.grad(lambda x: layer.apply({**variables, **first}, x, train=True, mutable=["batch_stats"])[0].sum())(
        x
    )
    assert np.isfinite(gradient).all()


def test_it_starts_as_the_paper_says():
    model = create_model("speednet", 10, widths=(16, 64))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
    kernel = np.asarray(variables["params"]["conv2_1"]["kernel"])
    assert kernel.shape == (3, 3, 16, 64)
    wanted = np.zeros((3, 3, 16, 16))
    wanted[1, 1] = np.eye(16)
    np.testing.assert_array_equal(kernel[..., :16], wanted)
    assert np.abs(kernel[..., 16:]).max() <= 1 / 12  # sqrt(9 * 16)
    assert kernel[..., 16:].std() == pytest.approx(1 / 12 / np.sqrt(3), rel=0.05)
    assert "scale" not in variables["params"]["bn1_1"]
    assert variables["params"]["fc"]["kernel"].std() == pytest.approx(1 / 64, rel=0.2)


def test_batch_norm_without_a_gain_normalises():
    layer, x = nn.BatchNorm(use_scale=False), 3 * correlated(0) + 1
    variables = layer.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"bias"}
    y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(y).mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(y).std((0, 1, 2)), 1, atol=1e-4)


def test_too_many_stages_are_told():
    with pytest.raises(UsageError, match=r"layer pool3: .*use a larger image"):
        jax.eval_shape(create_model("speednet", 10).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


CONFIG = Config(
    steps=2,
    model=ModelConfig("speednet", overrides={"widths": (4, 8)}),
    data=DataConfig("digits", batch_size=40, image_size=32),
    optimizer=OptimizerConfig(
        "muon", learning_rate=0.05, relative=True, rest="sgd", rest_layers=("fc",), rates=("*/bias=3",)
    ),
)


@pytest.mark.compiles
def test_parts_of_a_batch_whiten_as_the_whole_does():
    """Second moments are averaged over the parts; principal components could not be."""
    whole, parts = (build(replace(CONFIG, {"optimizer.accumulate": n}), 1) for n in (1, 4))
    batch = next(whole.load("train").train_batches(0, 40, 0))
    moments = []
    for task in (whole, parts):
        with jax.numpy_dtype_promotion("standard"):  # for optax's Muon
            state, _ = task.train_step(2)(task.initial_state(), batch)
        moments.append(np.asarray(state.batch_stats["whiten"]["moments"]))
        np.testing.assert_array_equal(state.batch_stats["whiten"]["seen"], 1)
    np.testing.assert_allclose(*moments, rtol=1e-5)


@pytest.mark.compiles
def test_an_average_of_the_weights_has_the_whitening_as_it_is():
    task = build(replace(CONFIG, {"optimizer.ema_decay": 0.9}), 1)
    batches = task.load("train").train_batches(0, 40, 0)
    with jax.numpy_dtype_promotion("standard"):
        state, _ = task.train_step(2)(task.initial_state(), next(batches))
        state, _ = task.train_step(2)(state, next(batches))
    ema = state.ema["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, ema["whiten"], state.batch_stats["whiten"])
    assert np.any(ema["bn1_1"]["mean"] != state.batch_stats["bn1_1"]["mean"])


def test_precise_moments_leave_the_whitening_alone():
    task = build(CONFIG, 1)
    batches = task.load("train").train_batches(0, 40, 0)
    with jax.numpy_dtype_promotion("standard"):
        state, _ = task.train_step(2)(task.initial_state(), next(batches))
    found = precise.estimated(state, task.moments_step(), batches, 3)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats["whiten"], state.batch_stats["whiten"])
    assert np.any(found.batch_stats["bn1_1"]["mean"] != state.batch_stats["bn1_1"]["mean"])


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("optimizer.rates", ("bias",), "PATTERN=FACTOR"),
        ("optimizer.rates", ("fc=-1",), "PATTERN=FACTOR"),
        ("optimizer.rates", ("fc=nan",), "PATTERN=FACTOR"),
        ("optimizer.rates", ("whitten=2",), "fits no layer of speednet; did you mean 'whiten'"),
        ("optimizer.rest_layers", ("fx",), "fits no layer of speednet"),
    ],
)
def test_rates_that_mean_nothing_are_told(field, value, match):
    with pytest.raises(UsageError, match=match):
        build(replace(CONFIG, {field: value}), 1)
