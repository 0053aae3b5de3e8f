"""One device, eight, and two processes with four each: the same examples, the same losses, the same bits on request."""

import functools
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import scale_runs
from conftest import PLAIN_FLAGS, ROOT

from jaxcnn import mesh as meshes
from jaxcnn import tree
from jaxcnn.config import Config, DataConfig, ModelConfig, OptimizerConfig
from jaxcnn.errors import UsageError
from jaxcnn.task import build


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process with up to eight devices finds, and what two with four each find; called with "one" or "two"."""
    folder = tmp_path_factory.mktemp("scale")
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]

    def start(devices, *arguments):
        # XLA uses as many threads as NPROC says and at least one a device: here eight.
        # The last bits of a sum depend on how it is compiled: here as for users.
        flags = f"{PLAIN_FLAGS} --xla_force_host_platform_device_count={devices}"
        more = {"NPROC": "8", "XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        environment = {**os.environ, **more}
        command = [sys.executable, "-m", "scale_runs", *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)

    @functools.cache
    def found(who):
        if who == "one":
            processes = [start(8, "one")]
        else:
            processes = [start(4, "two", str(port), str(number)) for number in range(2)]
        try:
            said = [process.communicate(timeout=1500)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert {process.returncode for process in processes} == {0}, said
        return json.loads((folder / who).read_text())

    return found


@pytest.mark.alone
@pytest.mark.compiles
@pytest.mark.parametrize("name", scale_runs.RUNS)
def test_eight_devices_lose_what_one_loses(name, found):
    one, eight = (found("one")[f"{name} False {count}"] for count in (1, 8))
    assert one["examples"] == eight["examples"]
    np.testing.assert_allclose(one["losses"], eight["losses"], rtol=1e-5)
    assert abs(one["losses"][-1] / one["untrained"] - 1) > 1e-3, "nothing was learned, so nothing was compared"


@pytest.mark.alone
@pytest.mark.compiles
@pytest.mark.parametrize("name", scale_runs.RUNS)
def test_elastic_exact_gives_the_same_bits_on_1_2_4_and_8_devices(name, found):
    runs = [found("one")[f"{name} True {count}"] for count in scale_runs.EXACT_COUNTS]
    assert all(run == runs[0] for run in runs[1:])
    examples = found("one")[f"{name} False 8"]["examples"]
    assert runs[0]["examples"] == examples[: len(runs[0]["examples"])]


@pytest.mark.alone
@pytest.mark.compiles
@pytest.mark.parametrize("name", scale_runs.RUNS)
def test_two_processes_with_four_devices_do_what_one_with_eight_does(name, found):
    one, two = found("one"), found("two")
    assert two[f"{name} False 8"]["examples"] == one[f"{name} False 8"]["examples"]
    np.testing.assert_allclose(two[f"{name} False 8"]["losses"], one[f"{name} False 8"]["losses"], rtol=1e-6)
    assert two[f"{name} True 8"] == one[f"{name} True 8"]


def test_dropout_in_an_exact_run_does_not_depend_on_the_devices():
    config = Config(
        steps=2,
        elastic_exact=True,
        model=ModelConfig("mlp", overrides={"hidden": (32,), "dropout_rate": 0.5}),
        data=DataConfig("fake", batch_size=16),
    )
    digests = set()
    for count in (1, 8):
        task = build(config, count)
        train_step, state = task.train_step(2), task.initial_state()
        for _, batch in zip(range(2), task.load("train").train_batches(0, 16, 0), strict=False):
            state, _ = train_step(state, batch)
        digests.add(tree.digest(state._asdict()))
    assert len(digests) == 1


def test_large_weights_are_split_over_the_axis_model_and_nothing_changes():
    config = Config(
        steps=4,
        model=ModelConfig("mlp", overrides={"hidden": (1024, 1024)}),
        data=DataConfig("fake", batch_size=16),
        optimizer=OptimizerConfig(learning_rate=0.01),
    )
    losses = {}
    for shape in ("data:8", "data:4,model:2"):
        task = build(config, mesh_shape=shape)
        train_step, state = task.train_step(4), task.initial_state()
        batches = task.load("train").train_batches(0, 16, 0)
        found = []
        for _, batch in zip(range(4), batches, strict=False):
            state, sums = train_step(state, batch)
            found.append(float(sums["objective"]))
        losses[shape] = found
    np.testing.assert_allclose(losses["data:8"], losses["data:4,model:2"], rtol=1e-5)
    named = tree.named_leaves(state._asdict())
    large = {name: leaf for name, leaf in named.items() if leaf.size >= 2**20}
    assert len(large) == 4, "two kernels and their momentum"
    for leaf in large.values():
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1024, 512)}
    assert all(leaf.sharding.is_fully_replicated for name, leaf in named.items() if name not in large)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": "data:3"}, "mesh='data:3' is a mesh of 3 devices, must be one of the 8 in use, e.g. data:8"),
        ({"shape": "data:3,model:2"}, "e.g. data:8 or data:4,model:2"),
        ({"shape": "rows:8"}, "must be data:N or data:N,model:M"),
        ({"shape": "data:8,data:1"}, "must be data:N"),
        ({"shape": "data:0"}, "must be data:N"),
        ({"shape": "data=8"}, "must be data:N"),
        ({"num_devices": 16}, r"num_devices=16 must be in \[1, 8\]: JAX sees 8 cpu device"),
        ({"num_devices": 0}, r"must be in \[1, 8\]"),
    ],
)
def test_a_wrong_mesh_is_told(arguments, words):
    with pytest.raises(UsageError, match=words):
        meshes.make_mesh(**arguments)


def test_batches_that_do_not_divide_are_told_with_the_nearest_that_do():
    mesh = meshes.make_mesh(8)
    with pytest.raises(UsageError, match=r"data.batch_size=30 must be a multiple of the 8 devices, e.g. 24 or 32"):
        meshes.check_batch("data.batch_size", 30, mesh)
    with pytest.raises(UsageError, match=r"multiple of the 8 devices x 2 parts, e.g. 16 or 32"):
        meshes.check_batch("data.batch_size", 24, mesh, parts=2)
    with pytest.raises(UsageError, match=r"4 parts of the mesh's axis data, e.g. 28 or 32"):
        meshes.check_batch("data.batch_size", 30, meshes.make_mesh(shape="data:4,model:2"))
    exact = Config(steps=1, elastic_exact=True, data=DataConfig("fake", batch_size=12))
    with pytest.raises(UsageError, match=r"multiple of the 8 shards of elastic_exact, e.g. 8 or 16"):
        build(exact, 4)
    with pytest.raises(UsageError, match="elastic_exact=True is for 1, 2, 4 or 8 devices"):
        build(exact, 3)


def test_grouped_convolutions_do_not_go_with_split_weights():
    """XLA multiplies the gradients of their kernels by the size of the axis model."""
    config = Config(steps=1, model=ModelConfig("mobilenet_tiny"), data=DataConfig("cifar10", batch_size=8))
    task = build(config, mesh_shape="data:4,model:2")
    with pytest.raises(UsageError, match="mobilenet_tiny is a grouped convolution"):
        task.check(task.train_step(1))


def test_clipping_does_not_go_with_exact_runs():
    optimizer = OptimizerConfig(clip_norm=1.0)
    with pytest.raises(UsageError, match=r"optimizer\.clip_norm=1\.0 must be None with elastic_exact"):
        build(Config(steps=1, elastic_exact=True, data=DataConfig("fake", batch_size=8), optimizer=optimizer), 1)
