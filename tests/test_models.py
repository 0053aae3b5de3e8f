"""Networks: counts, shapes, gradients, what they refuse."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED

import jaxcnn
from jaxcnn import complexity, rng
from jaxcnn.errors import UsageError
from jaxcnn.models import input_shape, registry
from jaxcnn.models.lenet import digit_bitmaps

# Parameters and multiply-adds for one image, from the papers and torchvision's metadata; `plain` nets are the residual ones
# with parameter-free shortcuts taken out, and lenet5_1998 counts C3 as one dense convolution.
COUNTS = json.loads((pathlib.Path(__file__).parent / "model_counts.json").read_text())
TINY = [name for name in jaxcnn.list_models() if name.endswith(("_tiny", "_mini")) and name != "convnext_tiny"]
SMALL = [*TINY, "lenet5", "lenet5_1998", "mlp", "resnet20_cifar", "resnet20_cifar_b", "plain20_cifar"]


def built(name, num_classes=10, **overrides):
    model = jaxcnn.create_model(name, num_classes, **overrides)
    images = jax.random.normal(jax.random.key(1), (3, *input_shape(name)))
    return model, jax.jit(model.init)(rng.key(0, "init"), images), images


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    row = COUNTS[name]
    assert input_shape(name) == tuple(row["image"])
    layers = complexity.layers(jaxcnn.create_model(name, row["classes"]), input_shape(name))
    counted = sum(layer.num_params for layer in layers), sum(layer.num_macs for layer in layers)
    assert counted == (row["parameters"], row["multiply_adds"])


def test_every_network_is_counted():
    ours = {name for name in jaxcnn.list_models() if registry.find(name).module.__module__.startswith("jaxcnn.models.")}
    assert ours - set(TINY) == set(COUNTS)


def test_the_auxiliary_heads_of_googlenet_are_counted():
    model = jaxcnn.create_model("googlenet", 1000, aux=True)
    assert complexity.num_params(model, (224, 224, 3)) == 13_004_888
    assert complexity.num_macs(model, (224, 224, 3)) == COUNTS["googlenet"]["multiply_adds"]


def test_counts_agree_with_the_reference():
    path = SHARED / "reference" / "model_counts.json"
    if not path.is_file():
        pytest.skip("no ../shared/reference/model_counts.json")
    reference = json.loads(path.read_text())["models"]
    for name in set(COUNTS) & set(reference):
        assert (COUNTS[name]["parameters"], COUNTS[name]["multiply_adds"]) == (
            reference[name]["params"],
            reference[name]["macs"],
        ), name
    assert len(set(COUNTS) & set(reference)) == len(reference) - 1  # all but googlenet with its heads


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_and_gradient(name, dtype):
    model, variables, images = built(name, dtype=dtype)
    logits = model.apply(variables, images, train=False)
    assert logits.shape == (3, 10)
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.sum(logits**2)

    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads)), "a parameter has no gradient"


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_class_count(name):
    model, variables, images = built(name, 7)
    assert model.apply(variables, images).shape == (3, 7)


def test_lenet5_is_the_lectures_table():
    """Another way to the same numbers: the table's layers, one after the other, in numpy-like steps."""
    model, variables, images = built("lenet5")
    p, x = jax.device_get(variables["params"]), images
    for layer in ("conv1", "conv2", "conv3"):
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(x), (5, 5), (1, 2))
        x = np.tanh(np.einsum("bhwcij,ijco->bhwo", windows, p[layer]["kernel"]) + p[layer]["bias"])
        if layer != "conv3":
            x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    x = np.tanh(x.reshape(3, 120) @ p["fc1"]["kernel"] + p["fc1"]["bias"])
    expected = x @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-4)


def test_lenet5_1998_has_the_papers_layers():
    layers = {
        layer.name: layer.num_params for layer in complexity.layers(jaxcnn.create_model("lenet5_1998", 10), (32, 32, 1))
    }
    assert layers == {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48120, "F6": 10164}


def test_lenet5_1998_output_is_the_distance_to_a_picture():
    pictures = digit_bitmaps()
    assert pictures.shape == (10, 84)
    assert set(np.unique(pictures).tolist()) == {-1.0, 1.0}
    distances = ((pictures[:, None] - pictures[None]) ** 2).sum(-1) / 4  # pixels that differ
    assert distances[~np.eye(10, dtype=bool)].min() >= 5, "two digits look the same"
    _, variables, _ = built("lenet5_1998")
    assert not any("rbf" in name.lower() for name in variables["params"])


def test_c3_sees_only_the_maps_of_table_1():
    from jaxcnn.models.lenet import SparseConv

    layer = SparseConv()
    variables = layer.init(jax.random.key(0), jnp.ones((1, 14, 14, 6)))
    x = jnp.zeros((1, 14, 14, 6)).at[..., 0].set(1.0)
    seen = np.abs(np.asarray(layer.apply(variables, x))[0]).max(axis=(0, 1)) > 0
    assert seen.astype(int).tolist() == [1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxcnn.create_model("lenet6", 10), "did you mean 'lenet5'"),
        (lambda: jaxcnn.create_model("lenet5", 0), "num_classes=0"),
        (lambda: jaxcnn.create_model("lenet5", 10, "fp7"), "float32, bfloat16"),
        (lambda: jaxcnn.create_model("lenet5", 10, activatoin="relu"), "did you mean 'activation'"),
        (lambda: built("lenet5", activation="rleu"), "did you mean 'relu'"),
        (lambda: built("lenet5_1998", 11), "10 classes"),
        (lambda: complexity.layers(jaxcnn.create_model("lenet5", 10), (20, 20, 1)), "layer conv3"),
        (lambda: complexity.layers(jaxcnn.create_model("lenet5", 10), (40, 40, 1)), "needs 32x32"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_a_model_of_ones_own_is_a_model_like_any_other(monkeypatch):
    from typing import Any

    from flax import linen

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @jaxcnn.register_model("wide_net", input_shape=(8, 8, 1), width=4)
    @jaxcnn.register_model("narrow_net", input_shape=(8, 8, 1))
    class Net(linen.Module):
        num_classes: int
        width: int = 2
        dtype: Any = jnp.float32

        @linen.compact
        def __call__(self, x, train=False):
            x = jaxcnn.nn.Conv(self.width, 3, padding=1, dtype=self.dtype)(x)
            x = jaxcnn.nn.BatchNorm(dtype=self.dtype)(x, train)
            return linen.Dense(self.num_classes)(jaxcnn.nn.global_avg_pool2d(x))

    assert {"narrow_net", "wide_net"} <= set(jaxcnn.list_models("*_net"))
    wide = jaxcnn.create_model("wide_net", 3)
    assert complexity.num_params(wide, (8, 8, 1)) == (9 + 1) * 4 + 8 + (4 + 1) * 3
    assert complexity.num_macs(wide, (8, 8, 1)) == 64 * 9 * 4 + 12
    assert complexity.num_params(jaxcnn.create_model("wide_net", 3, width=6), (8, 8, 1)) == 60 + 12 + 21
    with pytest.raises(UsageError, match="taken"):
        jaxcnn.register_model("lenet5", input_shape=(8, 8, 1))(Net)
    with pytest.raises(UsageError, match="num_classes"):

        @jaxcnn.register_model("bad", input_shape=(8, 8, 1))
        class Bad(linen.Module):
            width: int = 2
