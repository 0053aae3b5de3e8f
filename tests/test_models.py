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
from jaxcnn.errors import UsageError
from jaxcnn.losses import cross_entropy
from jaxcnn.models import input_shape, registry
from jaxcnn.models.lenet import digit_bitmaps
from jaxcnn.tree import named_leaves

# Parameters and multiply-adds for one image, from the papers and torchvision's metadata; `plain` nets are the residual ones
# with parameter-free shortcuts taken out, and lenet5_1998 counts C3 as one dense convolution.
COUNTS = json.loads((pathlib.Path(__file__).parent / "model_counts.json").read_text())
OURS = [n for n in jaxcnn.list_models() if registry.find(n).module.__module__.startswith("jaxcnn.models.")]
TINY = [name for name in OURS if name.endswith(("_tiny", "_mini")) and name != "convnext_tiny"]
DEEP = [n for n in OURS if n.startswith(("resnet101", "resnet152", "resnet1202"))]


# Deeper and wider forms of networks that are run: theirs is a trace of the step, and layers and parameters are counted.
LIKE_ANOTHER = [
    *DEEP,
    *(f"densenet{depth}" for depth in (121, 169, 201)),
    *(f"plain{depth}_cifar" for depth in (32, 44, 56)),
    *(f"resnet{depth}_cifar{option}" for depth in (32, 44, 56, 110) for option in ("", "_b")),
    *(f"vgg{depth}{norm}" for depth in (13, 16, 19) for norm in ("", "_bn")),
    *("convnext_tiny", "preact_resnet164_cifar", "resnet34", "resnet34_v2", "wide_resnet50_2"),
    *("wrn16_8_cifar", "wrn28_10_cifar", "wrn40_4_cifar"),
]

# A second and more to trace.
LONG = [
    *DEEP,
    *(name for name in OURS if name.startswith(("densenet1", "densenet2", "preact_resnet164", "efficientnet"))),
]


def led_by(*first, names):
    """These names first, which the fast tier takes, then the others."""
    return [*first, *(name for name in names if name not in first)]


def built(name, num_classes=10, **overrides):
    model = jaxcnn.create_model(name, num_classes, **overrides)
    images = jax.random.normal(jax.random.key(1), (3, *input_shape(name)))
    return model, jax.jit(model.init)(rng.key(0, "init"), images), images


def applied(name, shape):
    """The network's result for images of another shape than it was made for."""
    model, variables, _ = built(name)
    return model.apply(variables, jnp.ones(shape))


@pytest.mark.compiles(keep=sum(name not in LONG for name in COUNTS))
@pytest.mark.parametrize("name", sorted(COUNTS, key=LONG.__contains__))
def test_counts(name):
    row = COUNTS[name]
    assert input_shape(name) == tuple(row["image"])
    layers = complexity.layers(jaxcnn.create_model(name, row["classes"]), input_shape(name))
    counted = sum(layer.num_params for layer in layers), sum(layer.num_macs for layer in layers)
    assert counted == (row["parameters"], row["multiply_adds"])


def test_every_network_is_counted():
    assert set(OURS) - set(TINY) == set(COUNTS)
    families = {registry.find(name).module for name in OURS}
    assert families == {registry.find(name).module for name in SMALL}, "each family has a small member"


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
    side = 67 if "_2012" in name or "_lecture" in name else min(rows, 64)
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


# A small network of each family; of the others the layers and parameters are counted.
SMALL = [*TINY, "lenet5", "lenet5_1998", "mlp"]


def narrowed(name):
    """What makes the large dense layers of a network small."""
    fields = registry.overridable(name)
    if "hidden" not in fields or name == "mlp":
        return {}
    return {"hidden": 64 if "maps" in fields else (64, 64)}


def make_step(model, variables):
    """An update with so large a rate that any gradient shows, and a list of its traces."""
    traces = []

    def step(variables, images, labels):
        traces.append(images.shape)

        def objective(params):
            logits, updated = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.mean(cross_entropy(logits, labels)), updated

        (loss, updated), grads = jax.value_and_grad(objective, has_aux=True)(variables["params"])
        new = jax.tree.map(lambda p, g: p - 1e4 * g, variables["params"], grads)
        return loss, {"params": new, **updated}

    return step, traces


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize(
    "name",
    led_by("alexnet_2012_tiny", "preact_resnet_tiny", "resnet_tiny", names=[n for n in OURS if n not in LIKE_ANOTHER]),
)
def test_every_network_steps(name):
    """Forward, gradient of each parameter, an update, one trace for two calls; forward in bfloat16."""
    model, half = (jaxcnn.create_model(name, 10, dtype, **narrowed(name)) for dtype in ("float32", "bfloat16"))
    variables, shape = random_variables(model, small_shape(name)), small_shape(name)
    step, traces = make_step(model, variables)
    generator, labels = np.random.default_rng(1), np.arange(4, dtype=np.int32)
    first, second = generator.standard_normal((2, 4, *shape), np.float32)
    call = jax.jit(step)
    loss, new = call(variables, first, labels)
    call(variables, second, labels)
    assert len(traces) == 1, "traced again for a batch of the same shape"
    assert bool(jnp.isfinite(loss))
    old, changed = named_leaves(variables), named_leaves(new)
    for leaf in old:  # a bias before BatchNorm has no gradient
        before_norm = leaf.endswith("/bias") and leaf.replace("conv", "bn").replace("/bias", "/scale") in old
        if not (before_norm or "lecture" in name):
            assert np.any(old[leaf] != changed[leaf]), f"{leaf} has no gradient, or is a statistic that does not move"

    logits = jax.jit(lambda v, x: half.apply(v, x, train=False))(variables, first)
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.compiles
@pytest.mark.parametrize("name", [name for name in LIKE_ANOTHER if "1202" not in name])
def test_the_step_of_a_deeper_network_is_traced_once_and_keeps_its_types(name):
    model, half = (jaxcnn.create_model(name, 10, dtype, **narrowed(name)) for dtype in ("float32", "bfloat16"))
    images = jax.ShapeDtypeStruct((4, *small_shape(name)), jnp.float32)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    variables = jax.eval_shape(lambda x: model.init(rng.key(0, "init"), x), images)
    step, traces = make_step(model, variables)
    call = jax.jit(step)
    for _ in range(2):
        _, new = jax.eval_shape(call, variables, images, labels)
    assert len(traces) == 1, "traced again for a batch of the same shape"
    types, before = (jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (new, dict(variables)))
    assert types == before
    logits = jax.eval_shape(lambda v, x: half.apply(v, x, train=False), variables, images)
    assert (logits.shape, logits.dtype) == ((4, 10), jnp.float32)


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize("name", led_by("resnet_tiny", "lenet5", "mlp", names=SMALL))
def test_bfloat16_computes_what_float32_does(name):
    """And parameters stay float32, as the network itself initialises them."""
    model, variables, images = built(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    single = jax.jit(lambda v, x: model.apply(v, x))(variables, images)
    half = jax.jit(lambda v, x: jaxcnn.create_model(name, 10, "bfloat16").apply(v, x))(variables, images)
    assert np.abs(single - half).max() <= 0.05 * max(np.abs(single).max(), 0.1)
    assert np.any(single != half)


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize(
    ("name", "overrides", "leaf", "deviation"),
    [  # He: sqrt(2 / fan); Glorot: sqrt(2 / (fan-in + fan-out)); AlexNet, ZFNet: 0.01; ConvNeXt: 0.02
        ("resnet18", {}, "layer2_0/conv1/kernel", np.sqrt(2 / (9 * 128))),
        ("densenet_tiny", {"growth": 32}, "denseblock1_denselayer2/conv2/kernel", np.sqrt(2 / (9 * 128))),
        ("vgg_tiny", {"widths": (64, 128)}, "conv2_1/kernel", np.sqrt(2 / (9 * 128))),
        ("vgg_tiny", {"hidden": (256,)}, "fc6/kernel", 0.01),
        ("alexnet_2012_tiny", {"maps": (32, 64, 64, 64, 64)}, "conv4/kernel", 0.01),
        ("zfnet_tiny", {"maps": (32, 64, 64, 64, 64)}, "conv4/kernel", 0.01),
        ("alexnet_tiny", {"maps": (32, 64, 64, 64, 64)}, "conv4/kernel", np.sqrt(2 / (9 * 64))),
        ("convnext_mini", {"widths": (32, 64)}, "stage1_0/fc1/kernel", 0.02),
        ("lenet5", {}, "conv3/kernel", np.sqrt(2 / (400 + 25 * 120))),
    ],
)
def test_initialisation_is_the_papers(name, overrides, leaf, deviation):
    model = registry.find(name)
    network = model.module(**{**model.fields, **overrides}, num_classes=10)
    variables = jax.jit(network.init)(rng.key(0, "init"), jnp.zeros((1, *input_shape(name))))
    values = np.asarray(named_leaves(variables["params"])[leaf])
    assert abs(values.mean()) < 0.05 * deviation
    np.testing.assert_allclose(values.std(), deviation, rtol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")])
def test_dtype_by_name_or_as_jax_has_it(dtype):
    assert jaxcnn.create_model("lenet5", 10, dtype) == jaxcnn.create_model("lenet5", 10, "bfloat16")


def test_biases_of_the_published_alexnet():
    """Ones in conv 2, 4, 5 and the hidden dense layers, zeros elsewhere (section 5)."""
    _, variables, _ = built("alexnet_2012_tiny")
    biases = {name: leaf["bias"] for name, leaf in variables["params"].items()}
    assert {name for name, bias in biases.items() if np.all(bias == 1)} == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert {name for name, bias in biases.items() if np.all(bias == 0)} == {"conv1", "conv3", "fc8"}


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("name", led_by("resnet_tiny", names=[n for n in TINY if "remat" in registry.overridable(n)]))
def test_recomputing_changes_no_result(name):
    plain, variables, images = built(name)
    again = jaxcnn.create_model(name, 10, remat=True)

    def loss(model, params):
        rngs, mutable = {"dropout": jax.random.key(0)}, ["batch_stats"]
        logits, _ = model.apply({**variables, "params": params}, images, train=True, rngs=rngs, mutable=mutable)
        return jnp.sum(logits**2)

    ours, theirs = (jax.jit(jax.grad(partial(loss, model)))(variables["params"]) for model in (again, plain))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        zero = 1e-6 * largest  # a gradient that is zero in exact arithmetic is rounding alone
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=max(zero, 1e-3 * np.abs(other).max()))
    program = jax.make_jaxpr(jax.grad(partial(loss, again)))(variables["params"])
    assert "remat" in str(program) or "checkpoint" in str(program)


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("name", led_by("resnet_tiny", names=[n for n in TINY if "norm" in registry.overridable(n)]))
def test_ghost_norms_reach_every_layer(name):
    """Two images give the same logits whatever the other two of the batch are; under global norms they do not."""
    quiet = {"dropout_rate": 0.0} if "dropout_rate" in registry.overridable(name) else {}
    model, variables, images = built(name, **quiet)
    # The whitening of a speednet belongs to the first batch, whichever that was.
    variables |= model.apply(variables, images, train=True, mutable=["batch_stats"])[1]
    others = jnp.concatenate([images[:2], 3 * images[:2] + 1])

    def trained(norm, x):
        model = jaxcnn.create_model(name, 10, norm=norm, **quiet)
        return jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"])[0])(x)

    alone = trained("global", images[:2])
    ghost, whole = (np.abs(trained(norm, others)[:2] - alone).max() for norm in ("ghost:2", "global"))
    assert ghost <= 1e-3 * np.abs(alone).max()
    assert whole > 1e-2 * np.abs(alone).max()


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
        (lambda: complexity.layers(jaxcnn.create_model("vgg11", 10), (16, 16, 3)), "layer pool5: .*input size 1"),
        (lambda: complexity.layers(jaxcnn.create_model("alexnet", 10), (48, 48, 3)), "layer pool5"),
        (lambda: complexity.layers(jaxcnn.create_model("alexnet", 10), (6, 6, 3)), "layer conv1: input size 6"),
        (lambda: jaxcnn.create_model("resnet18", 2.5), "num_classes=2.5 must be an int"),
        (lambda: jaxcnn.create_model("resnet18", 10, depth=3), "no field 'depth'; its fields are .*stochastic_depth"),
        (lambda: jaxcnn.create_model("resnet18", 10, width="64"), "width='64' must be int"),
        (lambda: jaxcnn.create_model("resnet18", 10, dropout_rate=True), "must be float"),
        (lambda: built("resnet_tiny", stem="tiny"), "imagenet or small"),
        (lambda: built("cifar_resnet_tiny", shortcut="C"), "A, B or plain"),
        (lambda: built("cifar_resnet_tiny", depth=9), r"6 n \+ 2"),
        (lambda: applied("resnet_tiny", (3, 32, 32)), r"layer conv1: x of shape \(3, 32, 32\) must be \[B, H, W, C\]"),
        (lambda: applied("resnet_tiny", (2, 32, 32, 1)), "layer conv1: x has 1 channels, its kernel takes 3"),
        (lambda: applied("mlp", (28, 28, 1)), r"images \[B, H, W, C\]"),
        (lambda: applied("mlp", (2, 20, 20, 1)), "layer fc1: x has 400 channels, its kernel takes 784"),
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
