"""T14: a run that moves from one number of devices to another keeps its state, its examples and its course."""

import json
import math
import re

import numpy as np
import protocol
import pytest
from conftest import finish
from test_processes import pair

from jaxcnn import checkpoint, loop, tree
from jaxcnn.config import replace
from jaxcnn.task import build


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """(folder, config): at a rate at which a rounding error that turns a ReLU on or off is not blown up."""
    folder = protocol.write(tmp_path_factory.mktemp("devices"))
    return folder, replace(protocol.load(folder), {"optimizer.learning_rate": 1e-3, "log.eval_every": 1000})


def losses(folder, name):
    return [json.loads(line)["objective"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def through(config, workdir, meshes, every):
    """Train on each mesh for ``every`` updates; the summary of the last. What one saves the next restores."""
    for turn, mesh in enumerate(meshes):
        devices = {"num_devices": math.prod(map(int, re.findall(r"\d+", mesh))), "mesh_shape": mesh}
        if turn:
            meta = checkpoint.read_meta(workdir / "checkpoints" / str(every * turn))
            state, _ = checkpoint.restore(workdir / "checkpoints", build(config, **devices).abstract)
            assert tree.digest(state._asdict()) == meta.digest
        if turn == len(meshes) - 1:
            return loop.run(config, workdir, **devices)
        protocol.stop_after(every, config, workdir, **devices)
    raise AssertionError("unreachable")


def check_course(config, folder, meshes, every, record_property):
    """On these meshes in turn it loses what it loses on one device."""
    config = replace(config, {"steps": every * len(meshes)})
    loop.run(config, folder / f"one-{config.steps}", num_devices=1)
    through(config, folder / f"moved-{config.steps}", meshes, every)
    ours, wanted = (np.array(losses(folder, f"{name}-{config.steps}")) for name in ("moved", "one"))
    far = np.abs(ours / wanted - 1).max()
    assert far < 1e-4
    record_property("n", len(meshes))
    record_property("relative difference of the loss", float(f"{far:.1e}"))


@pytest.mark.protocol("T14")
def test_from_1_to_8_devices(rig, record_property):
    check_course(rig[1], rig[0], ("data:1", "data:8"), 5, record_property)


@pytest.mark.ci
@pytest.mark.compiles
@pytest.mark.protocol("T14")
def test_from_1_to_2_to_8_to_4_to_1_devices(rig, record_property):
    meshes = ("data:1", "data:2", "data:8", "data:4", "data:4,model:2", "data:1")
    check_course(rig[1], rig[0], meshes, 15, record_property)


@pytest.mark.compiles
@pytest.mark.protocol("T14")
def test_elastic_exact_ends_with_the_same_bits(rig):
    folder, config = rig
    config = replace(config, {"steps": 10, "elastic_exact": True})
    digest = loop.run(config, folder / "exact", num_devices=1)["state_digest"]
    assert (
        through(config, folder / "exact-moved", ("data:1", "data:2", "data:8", "data:4", "data:1"), 2)["state_digest"]
        == digest
    )


@pytest.mark.alone
@pytest.mark.processes
@pytest.mark.protocol("T14")
def test_from_one_process_to_two_with_two_devices_each(rig):
    folder, config = rig
    loop.run(config, folder / "one-60", num_devices=1)
    protocol.stop_after(15, config, folder / "processes")
    for code, err in map(
        finish, pair(folder, "processes", "--learning_rate=1e-3", "--eval_every=1000", JAX_NUM_CPU_DEVICES="2")
    ):
        assert code == 0, err
    assert protocol.summary(folder, "processes")["devices"] == ["cpu"] * 4
    far = np.abs(np.array(losses(folder, "processes")) / losses(folder, "one-60") - 1).max()
    assert far < 1e-4
