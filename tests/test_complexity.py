"""What a network costs and sees, and its activations by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxcnn
from jaxcnn import complexity
from jaxcnn.cli import summary
from jaxcnn.models import input_shape


def layers(name, **overrides):
    return {x.name: x for x in complexity.layers(jaxcnn.create_model(name, 10, **overrides), input_shape(name))}


# Published: Araujo, Norris & Sim 2019, "Computing receptive fields", table 1 (AlexNet, VGG-16, ResNet v1, MobileNet); the others
# follow from the recurrence of the same article.
@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("alexnet", "pool5", 195),
        ("vgg16", "pool5", 212),
        ("resnet50_v1", "layer4_2/conv3", 483),
        ("resnet101_v1", "layer4_2/conv3", 1027),
        ("resnet18", "layer4_1/conv2", 435),
        ("resnet50", "layer4_2/conv3", 427),
        ("lenet5", "conv2", 14),
        ("lenet5", "conv3", 32),
        ("lenet5", "fc2", 32),
        ("mlp", "fc1", 28),
    ],
)
def test_receptive_fields(name, layer, size):
    assert layers(name)[layer].receptive_field == (size, size)


class Odd(linen.Module):
    """Windows that are not square, dilation, a strided slice, a transposition and two paths that meet."""

    num_classes: int = 2

    @linen.compact
    def __call__(self, x, train=False):
        x = jaxcnn.nn.Conv(4, (3, 5), dilation=(2, 1), name="wide")(x)
        a = jaxcnn.nn.MaxPool((2, 1), name="tall")(x)
        b = jaxcnn.nn.Conv(4, (3, 1), padding=((1, 1), (0, 0)), name="point")(x[:, ::2])
        x = jnp.swapaxes(jaxcnn.nn.Conv(4, 3, padding=1, name="last")(a + b), 1, 2)
        x = jaxcnn.nn.Conv(4, (1, 2), name="turned")(x)
        return jaxcnn.nn.Dense(2, name="head")(x.reshape(x.shape[0], -1))


def test_receptive_field_is_where_the_gradient_is():
    """Another way to the same numbers: the pixels on which one value of the layer's result depends."""
    model, shape = Odd(), (40, 44, 3)
    found = {x.name: x.receptive_field for x in complexity.layers(model, shape)}
    images = jax.random.normal(jax.random.key(0), (1, *shape))
    variables = model.init(jax.random.key(1), images)
    for name in ("wide", "tall", "point", "last", "turned"):

        def middle(images, name=name):
            result = jaxcnn.features(model, variables, images, [name])[name]
            return jnp.sum(result[0, result.shape[1] // 2, result.shape[2] // 2])

        touched = np.abs(np.asarray(jax.grad(middle)(images))[0]).sum(axis=-1) > 0
        # a window with holes, or one side of a strided path, touches the ends of its field; max pooling a part of it
        rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
        extent = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        if name in ("wide", "point"):
            assert found[name] == extent
        else:
            assert extent[0] <= found[name][0] <= extent[0] + 2
            assert found[name][1] == extent[1]


def test_rows_say_kernel_stride_and_bytes():
    conv = layers("resnext50_32x4d")["layer2_0/conv2"]
    assert (conv.kernel, conv.stride, conv.groups) == ((3, 3), (2, 2), 32)
    assert conv.output == (28, 28, 256)
    assert conv.num_bytes == 28 * 28 * 256 * 4
    assert layers("resnet18", stem="small")["layer4_1/conv2"].output == (28, 28, 512)


def test_a_layer_of_flax_is_described_too():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            return linen.Conv(4, (3, 5), strides=(2, 1), padding="VALID", name="conv")(x)

    (row,) = complexity.layers(Net(), (9, 9, 2))
    assert (row.kernel, row.stride, row.output, row.receptive_field) == ((3, 5), (2, 1), (4, 5, 4), (3, 5))


def test_summary_prints_a_row_a_layer(capsys):
    assert summary.main(["lenet5"], lambda: False) == 0
    text = capsys.readouterr().out
    assert re.search(r"conv3 +Conv +5x5 +1 +1x1x120 +48,120 +48,000 +0\.48 kB +32x32", text)
    assert re.search(r"total +61,706 +416,520", text)


def test_the_lectures_table_with_the_truth_beside_it(capsys):
    assert summary.main(["--compare", "alexnet_lecture", "lenet5"], lambda: False) == 0
    text = capsys.readouterr().out
    rows = {line[:14].strip(): re.split(r"  +", line.strip())[1:] for line in text.splitlines()}
    assert rows["conv 1"] == ["34,944", "35K", "156", "150", "101,616,768", "101M", "117,600", "wrong: 1.2M"]
    assert rows["total"][2:4] == ["61,706", "wrong: 600K"]
    assert rows["ratio"][1] == "wrong: 11x"
    for figure in ("46,747,008 parameters (758x)", "1,005,849,728 multiply-adds (2,415x)"):
        assert figure in text


def small(name="resnet_tiny"):
    model = jaxcnn.create_model(name, 5)
    images = jax.random.normal(jax.random.key(0), (2, *input_shape(name)))
    return model, jax.jit(model.init)(jax.random.key(1), images), images


def test_features_are_what_the_layers_return():
    model, variables, images = small()
    found = jax.jit(lambda v, x: jaxcnn.features(model, v, x, ["fc", "layer2", "layer1_0/conv1", "conv1"]))(
        variables, images
    )
    assert found["layer2"].shape == (2, 16, 16, 16)
    np.testing.assert_allclose(found["fc"], jax.jit(model.apply)(variables, images), rtol=1e-5, atol=1e-5)
    pooled, head = np.asarray(found["layer2"]).mean(axis=(1, 2)), jax.device_get(variables["params"]["fc"])
    np.testing.assert_allclose(found["fc"], pooled @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found["conv1"],
        jaxcnn.nn.conv2d(images, variables["params"]["conv1"]["kernel"], padding=1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_stage_is_its_last_block():
    model = jaxcnn.create_model("resnet18", 10, depths=(1, 1, 3), width=8)
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    found = jax.eval_shape(lambda v: jaxcnn.features(model, v, images, ["layer3", "layer3_1", "layer3_2"]), variables)
    assert {name: leaf.shape for name, leaf in found.items()} == dict.fromkeys(found, (1, 4, 4, 32))
    jaxpr = str(jax.make_jaxpr(lambda v: jaxcnn.features(model, v, images, ["layer3"])["layer3"])(variables))
    assert jaxpr == str(
        jax.make_jaxpr(lambda v: jaxcnn.features(model, v, images, ["layer3_2"])["layer3_2"])(variables)
    )


@pytest.mark.compiles
def test_features_inside_recomputed_blocks():
    model = jaxcnn.create_model("mobilenet_tiny", 5, remat=True)
    plain, variables, images = small("mobilenet_tiny")
    names = ["stage2_1/expand", "stage1"]
    ours, theirs = (jaxcnn.features(m, variables, images, names) for m in (model, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.compiles
def test_features_in_training_use_the_moments_of_the_batch():
    model, variables, images = small()
    normed = jaxcnn.features(model, variables, 5 * images + 3, ["bn1"], train=True)["bn1"]
    np.testing.assert_allclose(normed.mean(axis=(0, 1, 2)), 0, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "words"),
    [(["layre2"], "did you mean 'layer2'"), (["zzz"], "at the top are .*layer1_0"), ("fc", "a list")],
)
def test_unknown_features(names, words):
    with pytest.raises(ValueError, match=words):
        jaxcnn.features(*small(), names)
