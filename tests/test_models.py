"""Networks: counts, shapes, gradients, what they refuse."""

import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED

import jaxcnn
from jaxcnn import complexity, rng
from jaxcnn.config import AugmentConfig, OptimizerConfig
from jaxcnn.errors import UsageError
from jaxcnn.models import input_shape, registry
from jaxcnn.models.lenet import digit_bitmaps
from jaxcnn.optim import make_optimizer
from jaxcnn.state import State
from jaxcnn.step import make_train_step
from jaxcnn.tree import named_leaves

# Parameters and multiply-adds for one image, from the papers and torchvision's metadata; `plain` nets are the residual ones
# with parameter-free shortcuts taken out, and lenet5_1998 counts C3 as one dense convolution.
COUNTS = json.loads((pathlib.Path(__file__).parent / "model_counts.json").read_text())
OURS = [n for n in jaxcnn.list_models() if registry.find(n).module.__module__.startswith("jaxcnn.models.")]
TINY = [name for name in OURS if name.endswith(("_tiny", "_mini")) and name != "convnext_tiny"]
TOO_DEEP = ("resnet1202_cifar", "resnet1202_cifar_b")  # XLA takes minutes to compile them for a CPU: run op by op


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
    assert set(OURS) - set(TINY) == set(COUNTS)
    families = {registry.find(name).module for name in OURS}
    small = {registry.find(name).module for name in [*TINY, "lenet5", "lenet5_1998", "mlp"]}
    assert families == small, "each family has a small member"


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


def small_shape(name):
    """Images that are large enough for the network and no larger."""
    rows, _, channels = input_shape(name)
    side = 67 if name in ("alexnet_2012", "alexnet_lecture") else min(rows, 64)
    return side, side, channels


def random_variables(model, image_shape):
    """He-initialised by numpy: compiling a network's own initialisation takes as long as compiling its update."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if leaf.ndim > 1:
            return generator.standard_normal(leaf.shape, np.float32) * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        if name == "scale":  # small enough for the sum of 600 blocks
            return np.full(leaf.shape, 0.1, np.float32)
        return np.full(leaf.shape, float(name in ("var", "gain", "layer_scale")), np.float32)

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda x: model.init(rng.key(0, "init"), x), image))


@pytest.mark.parametrize("name", OURS)
def test_every_network_steps(name):
    """Forward, gradient of each parameter, an update, one trace for two calls; forward in bfloat16."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled = partial(jax.jit, compiler_options=quick)
    model, shape = jaxcnn.create_model(name, 10), small_shape(name)
    variables = random_variables(model, shape)
    optimizer = make_optimizer(OptimizerConfig("sgd", momentum=0.0))
    traces = []

    def normalise(images):
        traces.append(images.shape)
        return images.astype(jnp.float32) / 64 - 2

    step = make_train_step(
        model, optimizer, lambda step: jnp.float32(1e4), normalise, AugmentConfig(), num_classes=10, seed=0
    )
    stats = variables.get("batch_stats", {})
    state = State(jnp.int32(0), variables["params"], stats, optimizer.init(variables["params"]), {})
    generator = np.random.default_rng(1)
    batches = [
        {"image": generator.integers(0, 255, (4, *shape), np.uint8), "label": np.arange(4, dtype=np.int32)}
        for _ in "12"
    ]
    if name in TOO_DEEP:
        new, sums = step(state, batches[0])
        traces.clear()
        call = partial(jax.eval_shape, jax.jit(step))
    else:
        call = compiled(step)
        new, sums = call(state, batches[0])
    for batch in batches:
        call(state, batch)
    assert len(traces) == 1, "traced again for a batch of the same shape"
    assert bool(sums["finite"])
    assert int(new.step) == 1
    old, changed = named_leaves(state.params), named_leaves(new.params)
    for leaf in old:  # at this learning rate any gradient shows; a bias before BatchNorm has none
        before_norm = leaf.endswith("/bias") and leaf.replace("conv", "bn").replace("/bias", "/scale") in old
        if not (before_norm or "lecture" in name):
            assert np.any(old[leaf] != changed[leaf]), f"{leaf} has no gradient"

    half = jaxcnn.create_model(name, 10, "bfloat16")
    forward = lambda v, x: half.apply(v, x, train=False)  # noqa: E731
    logits = (forward if name in TOO_DEEP else compiled(forward))(variables, normalise(batches[0]["image"]))
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("name", [*TINY, "lenet5", "lenet5_1998", "mlp"])
def test_bfloat16_computes_what_float32_does(name):
    """And parameters stay float32, as the network itself initialises them."""
    model, variables, images = built(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    single = jax.jit(lambda v, x: model.apply(v, x))(variables, images)
    half = jax.jit(lambda v, x: jaxcnn.create_model(name, 10, "bfloat16").apply(v, x))(variables, images)
    assert np.abs(single - half).max() <= 0.05 * max(np.abs(single).max(), 0.1)
    assert np.any(single != half)


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
