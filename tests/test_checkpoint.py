"""Checkpoints: what comes back is what was saved, or it is refused by name."""

import dataclasses
import json
import shutil
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from jaxcnn import checkpoint, loop, saver, tree
from jaxcnn import mesh as meshes
from jaxcnn.config import ModelConfig, replace
from jaxcnn.errors import CheckpointError
from jaxcnn.saver import Saver
from jaxcnn.state import State
from jaxcnn.task import build
from jaxcnn.writers import MetricsLog


@pytest.fixture
def task(tiny):
    return build(replace(tiny, {"optimizer.ema_decay": 0.9}), 1)


def states(task, count):
    state = task.initial_state()
    for step in range(1, count + 1):
        yield jax.tree.map(lambda leaf: leaf + jnp.asarray(0.5).astype(leaf.dtype), state)._replace(
            step=jnp.int32(step)
        )
        state = jax.tree.map(lambda leaf: leaf * jnp.asarray(0.5).astype(leaf.dtype), state)


def save(task, directory, accuracies, keep=100):
    said, digests = [], {}
    with Saver(directory, keep, {}, said.append) as writer:
        for state, accuracy in zip(states(task, len(accuracies)), accuracies):
            metrics = {} if accuracy is None else {"eval_accuracy": accuracy}
            digests[int(state.step)] = tree.digest(state._asdict())
            writer.save(state, metrics, seconds=float(state.step), config="{}", versions={"jax": jax.__version__})
    assert said == []
    return digests


def test_a_state_comes_back_bit_for_bit(task, tmp_path):
    digests = save(task, tmp_path, [0.1, 0.2])
    state, meta = checkpoint.restore(tmp_path, task.abstract)
    assert isinstance(state, State)
    assert tree.digest(state._asdict()) == digests[2] == meta.digest
    assert (meta.step, meta.seconds, meta.metrics) == (2, 2.0, {"eval_accuracy": 0.2})
    assert jax.tree.structure(state) == jax.tree.structure(task.abstract)
    older, _ = checkpoint.restore(tmp_path, task.abstract, step=1)
    assert tree.digest(older._asdict()) == digests[1]


def test_the_latest_and_the_best_are_kept_also_by_a_second_writer(task, tmp_path):
    save(task, tmp_path, [0.1, 0.9, 0.3, None, 0.2], keep=2)
    assert checkpoint.steps(tmp_path) == [2, 4, 5]
    assert read_scores(tmp_path) == {2: 0.9, 4: None, 5: 0.2}
    with Saver(tmp_path, 2, {2: 0.9}, print) as writer:
        for state in list(states(task, 8))[5:]:
            writer.save(state, {"eval_accuracy": 0.9 if int(state.step) == 7 else 0.1}, 0.0, "{}", {})
    assert checkpoint.steps(tmp_path) == [7, 8]  # of equal accuracies the later is the best


def read_scores(directory):
    return {
        step: checkpoint.read_meta(directory / str(step)).metrics.get("eval_accuracy")
        for step in checkpoint.steps(directory)
    }


def test_nothing_to_restore(task, tmp_path):
    assert checkpoint.restore(tmp_path, task.abstract) is None
    assert checkpoint.restore(tmp_path / "no", task.abstract) is None
    assert checkpoint.steps(tmp_path / "no") == []


def test_a_flipped_bit_in_an_array_is_found(task, tmp_path):
    """Orbax does not look: with the digest taken out of our reader this test fails."""
    save(task, tmp_path, [None])
    (largest,) = sorted((tmp_path / "1" / "state").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)[
        -1:
    ]
    found = 0
    for place in np.random.default_rng(1).integers(0, largest.stat().st_size, 5):
        data = bytearray(largest.read_bytes())
        data[place] ^= 16
        largest.write_bytes(data)
        with pytest.raises(CheckpointError, match="step 1"):
            checkpoint.restore(tmp_path, task.abstract, warn=lambda text: None)
        data[place] ^= 16
        largest.write_bytes(data)
        found += 1
    assert found == 5
    assert checkpoint.restore(tmp_path, task.abstract) is not None


def test_an_altered_description_is_found(task, tmp_path):
    save(task, tmp_path, [0.5])
    path = tmp_path / "1" / "meta" / "metadata"
    fields = json.loads(path.read_text())
    fields["seconds"] = 0.0
    path.write_text(json.dumps(fields))
    assert checkpoint.read_meta(tmp_path / "1") is None
    with pytest.raises(CheckpointError, match="meta"):
        checkpoint.restore(tmp_path, task.abstract, warn=lambda text: None)


def test_a_step_copied_under_another_number_is_refused(task, tmp_path):
    save(task, tmp_path, [None])
    shutil.copytree(tmp_path / "1", tmp_path / "9")
    _, meta = checkpoint.restore(tmp_path, task.abstract, warn=lambda text: None)
    assert meta.step == 1


def test_the_state_of_another_network_is_named(task, tiny, tmp_path):
    save(task, tmp_path, [None])
    other = build(dataclasses.replace(tiny, model=ModelConfig("lenet5_1998")), 1)
    with pytest.raises(CheckpointError, match=r"another network .*params/C1/bias: stored nothing, wanted float32\[6\]"):
        checkpoint.restore(tmp_path, other.abstract)


def test_a_failed_save_is_told_and_the_third_in_a_row_raises(task, tmp_path, monkeypatch):
    said = []
    everything = list(states(task, 6))
    with (  # noqa: PT012
        pytest.raises(CheckpointError, match="3 checkpoints in a row"),
        Saver(tmp_path, 3, {}, said.append) as writer,
    ):
        writer.save(everything[0], {}, 0.0, "{}", {})
        writer.wait()

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        for state in everything[1:]:
            monkeypatch.setattr(type(writer._manager), "save", full)
            writer.save(state, {}, 0.0, "{}", {})
    assert len(said) == 3
    assert "No space left" in said[0]
    assert checkpoint.steps(tmp_path) == [1]


@pytest.mark.protocol("T9")
@pytest.mark.parametrize("place", ["save", "wait_until_finished"])
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_flaky_storage_is_tried_three_times_and_then_training_goes_on(task, tmp_path, monkeypatch, place, failures):
    """At once, or in the background, when the state that was given has become another."""
    said, slept, tries, everything = [], [], [], list(states(task, 3))
    digest = tree.digest(everything[1]._asdict())
    monkeypatch.setattr(saver.time, "sleep", slept.append)
    with Saver(tmp_path, 3, {}, said.append) as writer:
        writer.save(everything[0], {}, 0.0, "{}", {})
        writer.wait()
        real = getattr(ocp.CheckpointManager, place)

        def flaky(self, *arguments, **named):
            tries.append(1)
            if len(tries) <= failures:
                raise OSError(5, "Input/output error")
            return real(self, *arguments, **named)

        monkeypatch.setattr(ocp.CheckpointManager, place, flaky)
        writer.save(everything[1], {}, 0.0, "{}", {})
        for leaf in jax.tree.leaves(everything[1]):
            leaf.delete()  # as the next update does, to which the state is donated
        writer.save(everything[2], {}, 0.0, "{}", {})
    lost = failures == 3
    assert slept == [1, 2][:failures]
    assert checkpoint.steps(tmp_path) == ([1, 3] if lost else [1, 2, 3])
    assert said == (
        ["checkpoint of step 2 not written ([Errno 5] Input/output error); training goes on"] if lost else []
    )
    if not lost:
        assert checkpoint.restore(tmp_path, task.abstract, step=2)[1].digest == digest


def test_a_save_waits_for_nothing_but_the_copy(task, tmp_path, monkeypatch):
    """Orbax has not begun when ``save`` returns, and what is written is the state of that time."""
    may_begin, real = threading.Event(), ocp.CheckpointManager.save

    def late(self, *arguments, **named):
        assert may_begin.wait(60)
        return real(self, *arguments, **named)

    monkeypatch.setattr(ocp.CheckpointManager, "save", late)
    (state,) = states(task, 1)
    digest = tree.digest(state._asdict())
    with Saver(tmp_path, 3, {}, print) as writer:
        writer.save(state, {}, 0.0, "{}", {})
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        assert checkpoint.steps(tmp_path) == []
        may_begin.set()
    assert checkpoint.restore(tmp_path, task.abstract)[1].digest == digest


@pytest.mark.protocol("T8")
def test_a_disk_that_is_nearly_full_is_told_before_anything_is_written(task, tmp_path, monkeypatch):
    said, everything = [], list(states(task, 2))
    with Saver(tmp_path, 3, {}, said.append) as writer:
        writer.save(everything[0], {}, 0.0, "{}", {})
        writer.wait()
        with monkeypatch.context() as patch:
            patch.setattr(saver.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
            writer.save(everything[1], {}, 0.0, "{}", {})
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        writer.save(everything[1], {}, 0.0, "{}", {})
    assert len(said) == 1
    assert "step 2 not written (1,000 bytes are free, " in said[0]
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_a_save_leaves_the_count_on_which_processes_settle_a_stop_alone(task, tmp_path, monkeypatch):
    """Orbax would call JAX's protocol with a step of its own, and a SIGTERM during a save would be forgotten."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    save(task, tmp_path, [None])
    assert asked == []


def test_no_checkpoint_is_written_before_its_rows(tiny, tmp_path, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsLog, "sync", full)
    with pytest.raises(CheckpointError, match=r"3 checkpoints in a row could not be written .*No space left"):
        loop.run(tiny, tmp_path, num_devices=1)
    assert checkpoint.steps(tmp_path / "checkpoints") == []


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_digest_sees_every_bit(dtype):
    rng = np.random.default_rng(0)
    values = np.asarray(jnp.asarray(rng.integers(0, 2, 40)).astype(dtype))
    base = tree.digest({"a": jnp.asarray(values)})
    for place in (0, 17, 39):
        changed = values.copy()
        if dtype == jnp.bool_:
            changed[place] = not changed[place]
        else:
            changed.view(np.uint8).reshape(40, -1)[place, 0] ^= 1
        assert tree.digest({"a": jnp.asarray(changed)}) != base
    assert tree.digest({"b": jnp.asarray(values)}) != base
    assert tree.digest({"a": jnp.asarray(values.reshape(8, 5))}) != base
    assert tree.digest({"a": jnp.asarray(np.roll(values, 1))}) != base


def test_digest_does_not_depend_on_sharding():
    value = jnp.arange(64.0).reshape(16, 4)
    mesh = meshes.make_mesh(8)
    assert tree.digest({"a": jax.device_put(value, meshes.rows(mesh))}) == tree.digest({"a": value})


def test_digest_tells_zero_from_minus_zero_and_nan_from_nan():
    assert tree.digest({"a": jnp.array([0.0])}) != tree.digest({"a": jnp.array([-0.0])})
    assert tree.digest({"a": jnp.array([jnp.nan])}) == tree.digest({"a": jnp.array([jnp.nan])})


def test_donated_memory_does_not_reach_a_checkpoint(task, tmp_path):
    """The state is given away to the next update while its copy is being written."""
    update = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + jnp.asarray(1).astype(leaf.dtype), s), donate_argnums=0)
    state = task.initial_state()
    digests = {}
    with Saver(tmp_path, 100, {}, print) as writer:
        for _ in range(10):
            state = update(state)
            digests[int(state.step)] = tree.digest(state._asdict())
            writer.save(state, {}, 0.0, "{}", {})
    for step, digest in digests.items():
        restored, _ = checkpoint.restore(tmp_path, task.abstract, step)
        assert tree.digest(restored._asdict()) == digest
