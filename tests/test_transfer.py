"""Weights from files and from other runs, layers that stay frozen, auxiliary heads."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_interop import state_dict

import jaxcnn
from jaxcnn import checkpoint, loop, tree
from jaxcnn.cli import export, import_, saved
from jaxcnn.config import AugmentConfig, ModelConfig, OptimizerConfig, replace
from jaxcnn.errors import CheckpointError, DataError, Preempted, UsageError
from jaxcnn.interop import read_state_dict
from jaxcnn.losses import cross_entropy
from jaxcnn.models import registry
from jaxcnn.models.resnet import ResNet
from jaxcnn.optim import make_optimizer
from jaxcnn.rundir import RunDir
from jaxcnn.state import State
from jaxcnn.step import make_gradient, make_train_step, make_update
from jaxcnn.task import build


@pytest.fixture
def narrow(monkeypatch):
    """The name of a narrow ResNet with half the blocks of a ResNet-18, which has torchvision's names as well."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    jaxcnn.register_model("narrow", input_shape=(224, 224, 3), width=8, depths=(1, 1, 1, 1))(ResNet)
    return "narrow"


def random_weights(seed=0, **overrides):
    """A ResNet-18 of torch with 7 classes."""
    generator = np.random.default_rng(seed)
    return {
        name: np.abs(generator.normal(size=leaf.shape)).astype(np.float32) * 0.1 + 0.01
        for name, leaf in state_dict(**overrides).items()
    }


def no_stop():
    return False


def variables_of(run, step=None):
    run_dir = RunDir(run)
    _, state = saved.open_state(run_dir, run_dir.read_config(), "latest" if step is None else str(step))
    return tree.named_leaves({"params": state.params, "batch_stats": state.batch_stats})


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_import_of_safetensors(narrow, tmp_path, dtype, capsys):
    import ml_dtypes
    from safetensors.numpy import save_file

    weights = random_weights(width=8, depths=(1, 1, 1, 1))
    stored = {name: leaf.astype({"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)) for name, leaf in weights.items()}
    stored["bn1.num_batches_tracked"] = np.array(3)
    save_file(stored, tmp_path / "w.safetensors")
    found = read_state_dict(str(tmp_path / "w.safetensors"))
    assert set(found) == set(stored)
    for name, leaf in stored.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], leaf.astype(np.float32))
    flags = [narrow, str(tmp_path / "w.safetensors"), f"--workdir={tmp_path}/run", "--dataset=fake"]
    with pytest.raises(DataError, match=r"model.num_classes=7 must be >= 10.* has the label [7-9]"):
        import_.main(flags, no_stop)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="7 classes: say whose"):
        import_.main(flags[:-1], no_stop)


def test_import_makes_a_run_that_others_start_from_and_export_gives_it_back(narrow, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    weights = random_weights(width=8, depths=(1, 1, 1, 1))
    weights["fc.weight"], weights["fc.bias"] = np.ones((1000, 64), np.float32), np.zeros(1000, np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    run = tmp_path / "run"
    assert import_.main([narrow, str(tmp_path / "w.safetensors"), f"--workdir={run}"], no_stop) == 0
    assert "1,000 (imagenet2012)" in capsys.readouterr().out
    expected = tree.named_leaves(jaxcnn.from_torch(narrow, weights))
    found = variables_of(run)
    assert set(found) == set(expected)
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)
    config = json.loads((run / "config.json").read_text())
    assert (config["model"]["name"], config["data"]["fit"], config["data"]["image_size"]) == (narrow, "crop", 224)
    with pytest.raises(UsageError, match="holds a run already"):
        import_.main([narrow, str(tmp_path / "w.safetensors"), f"--workdir={run}"], no_stop)

    file = str(tmp_path / "out.safetensors")
    assert export.main([str(run), file], no_stop) == 0
    assert "torchvision's" in capsys.readouterr().out
    written = load_file(file)
    assert set(written) == set(weights)
    for name, leaf in weights.items():
        np.testing.assert_array_equal(written[name], leaf, err_msg=name)
    for arguments, words in [
        ([str(run), file], "is there already"),
        ([str(run), str(tmp_path / "w.pth")], "must end in .safetensors"),
        ([str(run), str(tmp_path / "no" / "w.safetensors")], "no such directory"),
        ([str(run)], "takes a run directory and a file"),
    ]:
        with pytest.raises(UsageError, match=words):
            export.main(arguments, no_stop)


@pytest.mark.parametrize(
    ("name", "given", "mean"),
    [
        ("resnet18_v2", (), [0.5] * 3),
        ("googlenet", (), [0.5] * 3),
        ("resnet18", (), []),
        ("resnet18", (0.0, 0.0, 1.0), [0, 0, 1]),
    ],
)
def test_images_are_normalised_as_the_published_weights_want(name, given, mean):
    config = import_._config(name, 1000, mean=given)
    assert list(config.data.mean) == mean
    images = jnp.full((1, 2, 2, 3), 255, jnp.uint8)
    task = build(config)
    wanted = (1 - np.array(mean or task.dataset.mean)) / np.array(config.data.std or task.dataset.std)
    np.testing.assert_allclose(task.normalise()(images)[0, 0, 0], wanted, rtol=1e-6)


def test_a_mean_is_a_number_a_channel(tiny):
    with pytest.raises(UsageError, match=r"data.mean=\(0.5, 0.5\) must be 1 numbers, one a channel, or none"):
        build(replace(tiny, {"data.mean": (0.5, 0.5)}))


@pytest.mark.trains
def test_a_network_that_torch_does_not_know_is_exported_by_our_names(tiny, tmp_path):
    from safetensors.numpy import load_file

    loop.run(tiny, tmp_path / "run", num_devices=1)
    export.main([str(tmp_path / "run"), str(tmp_path / "w.safetensors")], no_stop)
    found, expected = load_file(tmp_path / "w.safetensors"), variables_of(tmp_path / "run")
    assert set(found) == set(expected)
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_pth_is_read_without_running_it(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weights = random_weights()
    tensors = {f"module.{name}": torch.from_numpy(leaf) for name, leaf in weights.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.pth")
    found = read_state_dict(str(tmp_path / "w.pth"))
    assert list(found) == list(weights)
    np.testing.assert_array_equal(found["conv1.weight"], weights["conv1.weight"])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(DataError, match="more than weights"):
        read_state_dict(str(tmp_path / "module.pth"))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(DataError, match="a state dict"):
        read_state_dict(str(tmp_path / "list.pth"))


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("w.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}xxxxx", DataError, "not a readable file"),
        ("w.safetensors", b"", DataError, "not a readable file"),
        ("w.npz", b"", UsageError, "must end in one of .safetensors"),
        ("none.safetensors", None, UsageError, "no such file"),
    ],
)
def test_bad_files(tmp_path, name, content, kind, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=words):
        read_state_dict(str(tmp_path / name))


def trained(tiny, path, **changes):
    return jaxcnn.run(replace(tiny, {"log.plots": False, **changes}), path, num_devices=1)


def test_a_run_starts_from_anothers_best_weights(tiny, tmp_path):
    trained(tiny, tmp_path / "first")
    best = RunDir(tmp_path / "first").best_step()
    trained(tiny, tmp_path / "second", **{"model.init_from": str(tmp_path / "first"), "optimizer.learning_rate": 0.0})
    before, after = variables_of(tmp_path / "first", best), variables_of(tmp_path / "second")
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        np.testing.assert_array_equal(leaf, after[name], err_msg=name)


def test_the_head_is_made_anew_for_other_classes(tiny, tmp_path, capsys):
    trained(tiny, tmp_path / "first")
    changes = {"model.init_from": str(tmp_path / "first"), "model.num_classes": 12, "optimizer.learning_rate": 0.0}
    trained(tiny, tmp_path / "second", **changes)
    assert "params/head/bias, params/head/kernel: made anew" in capsys.readouterr().err
    before, after = variables_of(tmp_path / "first"), variables_of(tmp_path / "second")
    assert after["params/head/bias"].shape == (12,)
    np.testing.assert_array_equal(before["params/fc1/kernel"], after["params/fc1/kernel"])


@pytest.mark.trains
def test_a_moving_average_starts_from_the_weights_too(tiny, tmp_path):
    trained(tiny, tmp_path / "first", **{"optimizer.ema_decay": 0.9})
    changes = {"model.init_from": str(tmp_path / "first"), "optimizer.learning_rate": 0.0, "optimizer.ema_decay": 0.5}
    trained(tiny, tmp_path / "second", **changes)
    _, state = saved.open_state(RunDir(tmp_path / "second"), RunDir(tmp_path / "second").read_config(), "latest")
    for name, leaf in tree.named_leaves(state.params).items():
        np.testing.assert_allclose(tree.named_leaves(state.ema["params"])[name], leaf, rtol=1e-6, err_msg=name)


@pytest.mark.trains
def test_a_resumed_run_does_not_start_again_from_the_other(tiny, tmp_path):
    import shutil

    trained(tiny, tmp_path / "first")
    once = {"model.init_from": str(tmp_path / "first")}
    straight = trained(tiny, tmp_path / "straight", **once)
    with pytest.raises(Preempted):
        jaxcnn.run(replace(tiny, once), tmp_path / "second", num_devices=1, stop=lambda: True)
    shutil.rmtree(tmp_path / "first")
    again = trained(tiny, tmp_path / "second", **once)
    assert again["state_digest"] == straight["state_digest"]


@pytest.mark.trains(keep=2)
@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model.init_from": "{tmp}/none"}, CheckpointError, "no run directory"),
        ({"model.init_from": "{tmp}/first", "model.name": "mlp"}, CheckpointError, "does not fit mlp"),
        ({"model.init_from": "{tmp}/empty"}, CheckpointError, "no finished checkpoint"),
        ({"model.num_classes": 3}, DataError, "must be >= 10"),
        ({"optimizer.freeze": ("conv9",)}, UsageError, "did you mean 'conv"),
    ],
)
def test_what_does_not_fit_leaves_nothing(tiny, tmp_path, changes, kind, words):
    tiny = dataclasses.replace(tiny, model=ModelConfig("lenet5"))
    trained(tiny, tmp_path / "first", steps=4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text((tmp_path / "first" / "config.json").read_text())
    base = tiny if "model.name" not in changes else dataclasses.replace(tiny, model=ModelConfig("mlp"))
    changes = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(kind, match=words):
        trained(base, tmp_path / "second", **changes)
    assert not (tmp_path / "second").exists()


def one_step(name, num_classes=10, momentum=0.9, weight_decay=0.1, freeze=(), moving=False, **overrides):
    """(state before, state after, variables' images and labels) of one update with a large learning rate."""
    model = jaxcnn.create_model(name, num_classes, **overrides)
    shape = jaxcnn.models.input_shape(name)
    images = np.random.default_rng(0).integers(0, 255, (4, *shape), np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    optimizer = make_optimizer(OptimizerConfig("sgd", momentum=momentum, weight_decay=weight_decay))
    gradient = make_gradient(model, lambda x: x.astype(jnp.float32) / 64 - 2, num_classes=num_classes, freeze=freeze)
    update = make_update(optimizer, lambda step: jnp.float32(0.1), freeze=freeze)
    step = make_train_step(gradient, update, lambda batch, step: batch, seed=0)
    params, stats = variables["params"], variables.get("batch_stats", {})
    opt_state = optimizer.init(params)
    opt_state = jax.tree.map(jnp.ones_like, opt_state) if moving else opt_state
    old = State(jnp.int32(0), params, stats, opt_state, {})
    new, sums = jax.jit(step)(old, {"image": images, "label": jnp.arange(4)})
    return model, old, new, sums, images


def test_frozen_layers_stay_and_use_their_running_moments():
    _, old, new, _, _ = one_step("resnet_tiny", freeze=("conv1", "bn1", "layer1_*"))
    for name, leaf in tree.named_leaves(old._asdict()).items():
        path = name.partition("/")[2]
        if name.startswith(("params/", "batch_stats/")):
            stays = path.startswith(("conv1/", "bn1/", "layer1_0/"))
            same = np.array_equal(leaf, tree.named_leaves(new._asdict())[name])
            assert same == stays, name
        elif name.startswith("opt_state") and "layer1_0" in name:
            assert not np.any(tree.named_leaves(new._asdict())[name]), "weight decay moved a frozen layer's momentum"


def test_layers_that_are_frozen_on_resume_stay_though_their_momentum_is_not_zero():
    _, old, new, _, _ = one_step("resnet_tiny", freeze=("layer1_*",), moving=True)
    np.testing.assert_array_equal(old.params["layer1_0"]["conv1"]["kernel"], new.params["layer1_0"]["conv1"]["kernel"])
    assert np.any(old.params["layer2_0"]["conv1"]["kernel"] != new.params["layer2_0"]["conv1"]["kernel"])


@pytest.mark.compiles
def test_frozen_norms_change_what_the_other_layers_see():
    _, _, new, _, images = one_step("resnet_tiny", freeze=("*",))
    _, _, free, _, _ = one_step("resnet_tiny")
    model = jaxcnn.create_model("resnet_tiny", 10)
    x = images.astype(np.float32) / 64 - 2
    variables = {"params": new.params, "batch_stats": new.batch_stats}
    assert tree.named_leaves(new.batch_stats).keys() == tree.named_leaves(free.batch_stats).keys()
    evaluated = model.apply(variables, x, train=False)
    _, _, _, sums, _ = one_step("resnet_tiny", freeze=("*",))
    np.testing.assert_allclose(sums["loss"], jnp.sum(cross_entropy(evaluated, jnp.arange(4))), rtol=1e-4)


@pytest.mark.compiles
def test_auxiliary_heads_count_three_tenths():
    model, old, _, sums, images = one_step("googlenet_tiny", aux=True, dropout_rate=0.0)
    assert any(name.startswith("aux1") for name in old.params)
    x = images.astype(np.float32) / 64 - 2
    (logits, aux), _ = model.apply(
        {"params": old.params, "batch_stats": old.batch_stats},
        x,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jaxcnn.rng.key(0, "dropout", 0)},
    )
    main, extra = (float(jnp.mean(cross_entropy(each, jnp.arange(4)))) for each in (logits, aux))
    np.testing.assert_allclose(sums["objective"], main + 0.3 * extra, rtol=1e-4)
    np.testing.assert_allclose(sums["loss"] / 4, main, rtol=1e-4)


@pytest.mark.compiles
def test_the_digest_does_not_depend_on_the_containers(tiny, tmp_path):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int power
        trained(tiny, tmp_path / "run", **{"optimizer.name": "adam"})
    step = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    _, state = saved.open_state(RunDir(tmp_path / "run"), RunDir(tmp_path / "run").read_config(), "latest")
    assert tree.digest(checkpoint.as_dicts(state)) == tree.digest(state._asdict())
    assert checkpoint.read_meta(tmp_path / "run" / "checkpoints" / str(step)).digest == tree.digest(state._asdict())


def test_whole_pixel_crops_move_images_by_whole_pixels():
    from jaxcnn.augment import geometry as ops

    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (64, 9, 9, 3)), jnp.float32)
    choice = ops.sample(jax.random.key(0), 64, AugmentConfig(pad_crop=2))
    shifts = np.asarray(choice.shift)
    assert set(np.unique(shifts)) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    moved = np.asarray(ops.apply(images, choice))
    for one, result, (row, column) in zip(padded, moved, shifts.astype(int)):
        np.testing.assert_allclose(result, one[2 + row : 11 + row, 2 + column : 11 + column], atol=1e-3)


def test_imagenet_photographs_are_scaled_and_cropped_while_they_are_decoded(shared_tfds):
    import tensorflow_datasets as tfds
    from PIL import Image

    from jaxcnn.data import catalog, source

    dataset = catalog.find("imagenet2012")
    found = source.load(dataset, "validation[:5]", shared_tfds, 224, "crop")
    stored = tfds.builder("imagenet2012", data_dir=shared_tfds, try_gcs=False).as_data_source(split="validation")
    for ours, label, record in zip(found.images, found.labels, (stored[i] for i in range(5))):
        photograph = Image.fromarray(record["image"])
        scale = 256 / min(photograph.size)
        scaled = photograph.resize(tuple(int(scale * side) for side in photograph.size), Image.Resampling.BILINEAR)
        left, top = (round((side - 224) / 2) for side in scaled.size)
        theirs = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32)
        assert np.abs(ours - theirs).mean() <= 1
        assert label == record["label"]
