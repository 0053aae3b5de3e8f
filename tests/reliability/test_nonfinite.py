"""T12: NaN and infinity, wherever they arise: the run ends at that update, or the update changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import checkpoint, loop, step, tree
from jaxcnn.config import ModelConfig, replace
from jaxcnn.errors import NonFiniteError
from jaxcnn.task import build
from jaxcnn.writers import read_rows

pytestmark = pytest.mark.protocol("T12")
BAD_STEP = 7  # the update that makes step 8


def poison(gradient, where, value, now):
    """The gradient, with ``value`` in one place of it."""

    def spoil(leaf):
        return jnp.where(now, leaf.at[(0,) * leaf.ndim].set(value), leaf)

    def first(leaves):
        flat, structure = jax.tree.flatten(leaves)
        return jax.tree.unflatten(structure, [spoil(flat[0]), *flat[1:]])

    if where == "loss":
        return gradient._replace(sums={**gradient.sums, "objective": spoil(gradient.sums["objective"])})
    if where == "gradient":
        return gradient._replace(grads=first(gradient.grads))
    return gradient._replace(batch_stats=first(gradient.batch_stats))


@pytest.fixture
def poisoned(monkeypatch):
    """Lets each update from step BAD_STEP on, ``count`` of them, meet a bad number at a place."""

    def start(where, value, count=1):
        make_update = step.make_update

        def make(optimizer, schedule, **options):
            if where == "parameters":
                good = schedule

                def schedule(now):
                    return jnp.where(now == BAD_STEP, jnp.float32(3e38), good(now))

            update = make_update(optimizer, schedule, **options)

            def spoiled(state, gradient):
                now = (state.step >= BAD_STEP) & (state.step < BAD_STEP + count)
                return update(state, gradient if where == "parameters" else poison(gradient, where, value, now))

            return spoiled

        monkeypatch.setattr(step, "make_update", make)

    return start


@pytest.fixture
def bn(tiny):
    """Twelve steps of a network with BatchNorm."""
    small = ModelConfig("resnet18", overrides={"width": 4, "depths": (1,)})
    changes = {"data.image_size": 32, "checkpoint.every": 2, "log.every": 5, "optimizer.learning_rate": 0.01}
    return replace(dataclasses.replace(tiny, model=small), changes)


PLACES = {"loss": np.nan, "gradient": np.inf, "parameters": None, "batch statistics": np.nan}


def places(*fast):
    marks = {where: () if where in fast else pytest.mark.compiles for where in PLACES}
    return [pytest.param(where, value, marks=marks[where], id=where) for where, value in PLACES.items()]


@pytest.mark.parametrize(("where", "value"), places("batch statistics"))
def test_abort_ends_at_that_update_names_what_is_bad_and_saves_nothing_bad(bn, tmp_path, poisoned, where, value):
    poisoned(where, value)
    with pytest.raises(NonFiniteError, match=f"step {BAD_STEP + 1}: NaN or infinity in the {where}"):
        loop.run(bn, tmp_path, num_devices=1)
    assert checkpoint.steps(tmp_path / "checkpoints")[-1] == BAD_STEP - 1
    restored = checkpoint.restore(tmp_path / "checkpoints", build(bn, 1).abstract)
    assert restored is not None
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored[0]))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == list(range(1, BAD_STEP + 1))


@pytest.mark.parametrize(("where", "value"), places("gradient"))
def test_skip_changes_nothing_but_the_step_and_counts(bn, tmp_path, poisoned, where, value):
    poisoned(where, value)
    config = replace(
        bn, {"nonfinite": "skip", "optimizer.ema_decay": 0.9, "checkpoint.every": 1, "checkpoint.keep": 99}
    )
    summary = loop.run(config, tmp_path, num_devices=1)
    assert summary["skipped_updates"] == 1
    abstract = build(config, 1).abstract
    before, after = (
        checkpoint.restore(tmp_path / "checkpoints", abstract, number)[0] for number in (BAD_STEP, BAD_STEP + 1)
    )
    assert tree.digest(before._replace(step=after.step)._asdict()) == tree.digest(after._asdict())
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["skipped"] for row in rows] == [0] * BAD_STEP + [1] * (12 - BAD_STEP)
    assert [row["step"] for row in rows if "loss" not in row] == [BAD_STEP + 1]


@pytest.mark.compiles
def test_more_than_ten_in_a_row_end_the_run(bn, tmp_path, poisoned):
    poisoned("gradient", np.nan, count=99)
    config = replace(bn, {"nonfinite": "skip", "steps": 40})
    with pytest.raises(NonFiniteError, match=f"step {BAD_STEP + 11}: NaN .* 11 updates in a row"):
        loop.run(config, tmp_path, num_devices=1)


@pytest.mark.compiles
def test_a_nan_that_a_relu_swallows_is_found(bn):
    """The loss stays finite, and the running moments would be NaN for ever."""
    task = build(bn, 1)
    state = task.initial_state()
    moments, structure = jax.tree.flatten(state.batch_stats)
    spoiled = state._replace(batch_stats=jax.tree.unflatten(structure, [jnp.full_like(m, jnp.nan) for m in moments]))
    batch = next(task.load("train").train_batches(0, 16, 0))
    _, sums = task.train_step(12)(spoiled, batch)
    assert np.isfinite(float(sums["objective"]))
    assert int(sums["nonfinite"]) == 1 + step.GUARDED.index("batch statistics")
