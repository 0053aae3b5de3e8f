"""Weights from torch: the same logits as torchvision and timm, and errors that list what does not fit."""

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn import interop
from jaxcnn.losses import cross_entropy
from jaxcnn.models.googlenet import AuxiliaryHead
from jaxcnn.tree import named_leaves

CLASSES = 7


def slow(*cases):
    return [pytest.param(*case, marks=pytest.mark.compiles) for case in cases]


def randomise(torch, model):
    """Random weights, and BatchNorm statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean") or (value.ndim == 1 and name.endswith("bias")):
            value.normal_(0, 0.2, generator=generator)
        elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def compare(torch, name, theirs, size, written_alike):
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    variables = jaxcnn.from_torch(name, {key: value.numpy() for key, value in theirs.state_dict().items()})
    if written_alike:
        wanted = {key: value.numpy() for key, value in theirs.state_dict().items() if "num_batches" not in key}
        exported = interop.to_torch(name, variables)
        assert sorted(exported) == sorted(wanted)
        for key, array in exported.items():
            np.testing.assert_array_equal(array, wanted[key], err_msg=key)
    ours = jax.jit(lambda v, x: jaxcnn.create_model(name, CLASSES).apply(v, x, train=False))(variables, images)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.compiles(keep=1)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 50),
        ("mobilenet_v2", 75),
        *slow(
            ("alexnet", 96),
            ("vgg11_bn", 32),
            ("vgg13", 80),
            ("resnet50", 96),
            ("googlenet", 90),
            ("densenet121", 64),
            ("efficientnet_b0", 64),
            ("convnext_tiny", 96),
        ),
    ],
)
def test_logits_equal_torchvisions(torch, torchvision, name, size):
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    compare(torch, name, randomise(torch, getattr(torchvision.models, name)(num_classes=CLASSES, **more)), size, True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "theirs", "written_alike"),
    [
        ("resnet18_v2", "resnetv2_18", True),
        *slow(
            ("seresnet50", "seresnet50", True),
            ("efficientnet_b0", "efficientnet_b0", False),  # torchvision has it, and is written
            ("convnext_tiny", "convnext_tiny", False),
            ("mobilenet_v2", "mobilenetv2_100", False),
            ("resnet50_v2", "resnetv2_50", True),
            ("densenet121", "densenet121", True),
            ("resnet34", "resnet34", True),
        ),
    ],
)
def test_logits_equal_timms(torch, torchvision, name, theirs, written_alike):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    compare(torch, name, randomise(torch, timm.create_model(theirs, num_classes=CLASSES)), 96, written_alike)


def worst(ours, theirs):
    """Largest difference of two trees, relative to the largest value of each leaf.

    A bias before BatchNorm has no gradient but rounding: a leaf counts as at least a thousandth of the largest one.
    """
    ours, theirs = named_leaves(ours), named_leaves(theirs)
    assert list(ours) == list(theirs)
    floor = 1e-3 * max((np.abs(leaf).max() for leaf in theirs.values()), default=0.0)
    return max((np.abs(ours[k] - theirs[k]).max() / max(np.abs(theirs[k]).max(), floor) for k in ours), default=0.0)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "size", "depths"),
    [("resnet18", 33, (1, 1, 1, 1)), *slow(("alexnet", 64, ()), ("vgg11_bn", 32, ()), ("resnet50", 40, ()))],
)
def test_a_training_step_equals_torchs(torch, torchvision, name, size, depths):
    """Loss, gradient of each parameter and the new BatchNorm statistics, from the same weights and images.

    In float32 a unit near 0 may fall on either side of a ReLU, after which single gradients differ by percents, torch's own
    from those of its float64. So gradients are compared in float64, where they agree to the rounding of our logits.
    """
    if depths:
        theirs = torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, depths, CLASSES)
    else:
        theirs = getattr(torchvision.models, name)(num_classes=CLASSES)
    theirs = randomise(torch, theirs).train()
    overrides = {"depths": depths} if depths else {}
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
    variables = jaxcnn.from_torch(name, weights, **overrides)
    images = np.random.default_rng(1).normal(size=(4, size, size, 3)).astype(np.float32)
    labels = np.arange(4) % CLASSES

    theirs.double()
    output = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double())
    loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(labels))
    loss.backward()
    found = {key: value.numpy() for key, value in theirs.named_buffers()}
    found |= {key: value.grad.numpy() for key, value in theirs.named_parameters()}
    expected = jaxcnn.from_torch(name, {key: found[key] for key in theirs.state_dict()}, **overrides)

    def step(dtype):
        model = jaxcnn.create_model(name, CLASSES, dtype, dropout_rate=0.0, **overrides)

        def objective(params):
            logits, updated = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return cross_entropy(logits, jax.numpy.asarray(labels)).mean(), updated.get("batch_stats", {})

        with jax.numpy_dtype_promotion("standard"):
            (value, stats), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(variables["params"])
        return jax.device_get((value, stats, grads))

    value, stats, _ = step("float32")
    assert abs(float(value) - loss.item()) <= 1e-3 * loss.item()
    assert worst(stats, expected["batch_stats"]) <= 1e-3
    with jax.enable_x64(True):
        value, stats, grads = step("float64")
    assert abs(float(value) - loss.item()) <= 1e-6 * loss.item()
    assert worst(stats, expected["batch_stats"]) <= 1e-6
    assert worst(grads, expected["params"]) <= 1e-5


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore")
def test_auxiliary_heads_of_googlenet(torch, torchvision):
    """With aux they are filled, in evaluation order of their inputs; without it they are left out."""
    theirs = randomise(torch, torchvision.models.googlenet(num_classes=CLASSES, aux_logits=True, init_weights=False))
    weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
    assert "aux1" not in jaxcnn.from_torch("googlenet", weights)["params"]
    variables = jaxcnn.from_torch("googlenet", weights, aux=True)
    head = AuxiliaryHead(CLASSES, "global")
    maps = np.random.default_rng(0).normal(size=(2, 6, 6, 512)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.aux1(torch.from_numpy(maps.transpose(0, 3, 1, 2).copy())).numpy()
    ours = head.apply({part: variables[part]["aux1"] for part in ("params", "batch_stats")}, maps, False)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")
def test_weights_are_copied(torch, torchvision):
    """torch changes its BatchNorm statistics in place; ours must not follow."""
    theirs = torchvision.models.resnet18(num_classes=CLASSES).train()
    variables = jaxcnn.from_torch("resnet18", {key: value.numpy() for key, value in theirs.state_dict().items()})
    before = np.array(variables["batch_stats"]["bn1"]["mean"])
    theirs(torch.ones(2, 3, 64, 64))
    np.testing.assert_array_equal(variables["batch_stats"]["bn1"]["mean"], before)


def state_dict(**overrides):
    """A ResNet-18's names and shapes, of zeros, as torch has them."""
    model = jaxcnn.create_model("resnet18", CLASSES, **overrides)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        *modules, name = [key.key for key in path][1:]
        torch_path = ".".join(modules).replace("downsample_bn", "downsample.1")
        torch_path = torch_path if torch_path.endswith(".1") else torch_path.replace("downsample", "downsample.0")
        torch_path = torch_path.replace("_", ".", 1) if torch_path.startswith("layer") else torch_path
        shape = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
        found[f"{torch_path}.{names[name]}"] = np.zeros(
            [leaf.shape[k] for k in shape] if shape else leaf.shape, np.float32
        )
    order = sorted(found, key=lambda key: key.startswith("fc"))
    return {key: found[key] for key in order}


def test_errors_list_all_entries_that_do_not_fit():
    weights = state_dict()
    assert jaxcnn.from_torch("resnet18", weights)["params"]["conv1"]["kernel"].shape == (7, 7, 3, 64)
    del weights["bn1.bias"]
    weights["extra.weight"] = np.zeros(3)
    weights["layer1.0.conv1.weight"] = np.zeros((64, 64, 5, 5))
    with pytest.raises(ValueError, match="3 entries") as error:
        jaxcnn.from_torch("resnet18", weights)
    for word in ("params/bn1/bias", "extra.weight", "layer1.0.conv1.weight"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"), [("resnet51", "did you mean"), ("lenet5", "no twin"), ("resnet18", "no bias")]
)
def test_wrong_names(name, words):
    with pytest.raises(ValueError, match=words):
        jaxcnn.from_torch(name, {} if words == "no bias" else {"fc.bias": np.zeros(3)})
