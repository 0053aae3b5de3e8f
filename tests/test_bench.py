"""``bench MODEL``: the peers are the same networks, and the figures follow from what was measured."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.bench import model as bench
from jaxcnn.bench.beside import Beside
from jaxcnn.errors import UsageError

SMALL = {"pooled": 1, "widths": (4, 8, 8, 8, 8), "hidden": (16, 16), "batch_norm": True}


def variables_of(name, network, overrides):
    """Ours, from the weights of the peer."""
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    if name != "lenet5":
        return jaxcnn.from_torch(name, arrays, **overrides)
    params = {}
    for key, array in arrays.items():
        layer, kind = key.split(".")
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
        params.setdefault(layer, {})["kernel" if kind == "weight" else "bias"] = array.transpose(axes)
    return {"params": params}


@pytest.mark.compiles(keep=2)
@pytest.mark.parametrize(
    ("name", "size", "overrides"),
    [
        ("lenet5", 32, {}),
        ("alexnet", 96, {"maps": (8, 12, 16, 16, 12), "hidden": 32}),
        ("vgg11", 32, SMALL),
        ("resnet18", 32, {"stem": "small", "width": 8}),
        ("resnet50_v1", 64, {"width": 8, "depths": (1, 2)}),
        ("resnet50", 64, {"width": 8, "depths": (1, 1), "base_width": 128, "activation": "gelu"}),
    ],
)
def test_a_peer_gives_the_same_logits(torch, name, size, overrides):
    from jaxcnn.bench import peer

    model = jaxcnn.create_model(name, 7, **overrides)
    channels = jaxcnn.models.registry.input_shape(name)[2]
    torch.manual_seed(0)
    network = peer.make_peer(model, channels)
    images = np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)
    with torch.no_grad():
        for _ in range(3):  # moments that matter
            network.train()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        expected = network.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = jax.jit(lambda v: model.apply(v, images, train=False))(variables_of(name, network, overrides))
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("densenet121", {}, "DenseNet .*no peer"),
        ("seresnet50", {}, "ResNet .*no peer"),
        ("resnet18", {"use_bias": True}, "ResNet .*no peer"),
        ("resnet50_v2", {}, "block='preact_bottleneck'"),
        ("lenet5", {"activation": "leaky_relu"}, "activation='leaky_relu' must be one of relu"),
    ],
)
def test_a_network_without_a_peer_is_told(torch, name, overrides, words):
    from jaxcnn.bench import peer

    with pytest.raises(UsageError, match=words):
        peer.make_peer(jaxcnn.create_model(name, 7, **overrides), 3)


@pytest.mark.processes
@pytest.mark.parametrize("mode", bench.MODES)
def test_bench_beside_torch(torch, jaxcnn_, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("CXX", "/no/compiler")
    monkeypatch.setattr(bench, "_TURN", 0.01)
    file = tmp_path / "speed.json"
    flags = ("--batch_size=4", "--turns=3", "--vs=torch", f"--mode={mode}", f"--json={file}", "--peak_tflops=1")
    code, out, _ = jaxcnn_("bench", "lenet5", *flags)
    assert code == 0
    assert re.search("torch compiled did not run: .*compiler", out)
    assert "of the peak of 1" in out
    found = json.loads(file.read_text())
    assert {way: len(values) for way, values in found["seconds"].items()} == dict.fromkeys(
        ("jaxcnn", "torch", "torch channels_last"), 3
    )
    medians = {way: sorted(values)[1] for way, values in found["seconds"].items()}
    assert found["ratio"] == pytest.approx(min(medians["torch"], medians["torch channels_last"]) / medians["jaxcnn"])
    assert found["images_per_second"]["jaxcnn"] == pytest.approx(4 / medians["jaxcnn"])
    macs = 4 * (117_600 + 240_000 + 48_000 + 10_080 + 840)  # of the lecture's table
    assert found["flops"] == (6 if mode == "train" else 2) * macs
    assert found["compile_seconds"] > 0
    assert found["memory"] > 4 * 61_706


def test_the_update_that_is_timed_trains(monkeypatch):
    """The first loss is not the last: the state goes on from step to step."""
    monkeypatch.setattr(bench, "_TURN", 0.0)
    monkeypatch.setattr(bench, "_LEARNING_RATE", 0.05)
    task = bench.make_task("lenet5", 8, num_classes=3)
    seen = []
    usual = task.train_step(10**6)

    class Watched:
        def lower(self, *shapes):
            compiled = usual.lower(*shapes).compile()

            class Program:
                def compile(self):
                    return self

                def __getattr__(self, name):
                    return getattr(compiled, name)

                def __call__(self, state, batch):
                    state, sums = compiled(state, batch)
                    seen.append(float(sums["objective"]))
                    return state, sums

            return Program()

    monkeypatch.setattr(type(task), "train_step", lambda self, steps: Watched())
    bench.measure(task, "train", 20)
    assert len(seen) == 22
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.processes
def test_the_process_of_torch_tells_what_it_cannot_do(torch, monkeypatch):
    task = bench.make_task("densenet_tiny", 1, image_size=32)
    with pytest.raises(UsageError, match=r"DenseNet .*no peer"):
        bench.measure(task, "infer", 1, ["torch"])
    with Beside() as beside:
        beside._process.kill()
        with pytest.raises(RuntimeError, match="the process of PyTorch ended with -9"):
            beside._ask("torch", 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install torch"), Beside():
        pass


@pytest.mark.processes
@pytest.mark.parametrize("declares", ["its compiled part", "nobody"])
def test_torchvision_is_imported_with_and_without_its_compiled_part(torch, tmp_path, declares):
    package = tmp_path / "torchvision" / "__init__.py"
    package.parent.mkdir()
    declared = """
from torch import library
kept = library.Library("torchvision", "FRAGMENT")
kept.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
    asked = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
    package.write_text(declared if declares == "its compiled part" else asked)
    program = "from jaxcnn.bench.input import import_torchvision; print(import_torchvision().__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(package)


def test_bench_writes_a_trace(jaxcnn_, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_TURN", 0.0)
    code, _, _ = jaxcnn_("bench", "lenet5", "--turns=1", "--batch_size=8", f"--profile={tmp_path / 'trace'}")
    assert code == 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode=test"], "--mode=test must be one of train, infer"),
        (["--vs=tensorflow"], "--vs=tensorflow must be one of torch"),
        (["--batch_size=0"], "--batch_size=0 must be > 0"),
        (["--num_classes=1"], "--num_classes=1 must be >= 2"),
        (["--peak_tflops=nan"], "--peak_tflops=nan must be > 0"),
        (["--dtype=int8"], "must be one of float32, bfloat16"),
        (["--image_size=20"], "layer conv3: input size 2"),
        (["--json=nowhere/x.json"], "--json=nowhere/x.json: there is no such directory"),
        (["--batch_size=9", "--num_devices=8"], "batch_size=9 must be a multiple of the 8 devices"),
        (["--num_devices=2", "--batch_size=8", "--vs=torch"], "PyTorch runs on one device"),
        (["--model.activation=rely"], "activation"),
        (["lenet_mnist"], "what is 'lenet_mnist'"),
    ],
    ids=str,
)
def test_bench_of_a_network_with_bad_usage(jaxcnn_, flags, words):
    code, _, err = jaxcnn_("bench", "lenet5", *flags)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
