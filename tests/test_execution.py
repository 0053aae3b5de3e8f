"""Several updates in one call are the updates that they would be one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import execution, loop
from jaxcnn.bench import model as bench_model
from jaxcnn.config import Config, DataConfig, replace
from jaxcnn.data.resident import Resident
from jaxcnn.errors import NonFiniteError, Preempted, UsageError
from jaxcnn.rundir import RunDir, read_rows
from jaxcnn.task import build
from jaxcnn.writers import Journal

SIZE = 5


@pytest.fixture
def grouped(tiny) -> Config:
    """The short run with up to five updates a call; nobody looks at it on the way."""
    return replace(tiny, {"steps_per_execution": SIZE, "log.every": 99, "log.eval_every": 99, "checkpoint.every": 99})


@pytest.mark.parametrize(
    ("start", "every", "expected"),
    [
        (0, (), [(1, 5), (6, 10), (11, 13)]),
        (3, (), [(4, 5), (6, 10), (11, 13)]),
        (5, (4,), [(6, 8), (9, 10), (11, 12), (13, 13)]),
        (0, (4, 6), [(1, 4), (5, 5), (6, 6), (7, 8), (9, 10), (11, 12), (13, 13)]),
        (13, (), []),
    ],
)
def test_a_call_ends_with_its_group_and_where_something_is_due(grouped, start, every, expected):
    split = build(grouped, 1).load("train", train=True)
    found = list(execution.calls(split, grouped, start, 13, SIZE, every))
    assert [(steps[0], steps[-1]) for steps, _ in found] == expected
    batches = split.train_batches(grouped.seed, grouped.data.batch_size, start)
    for steps, group in found:
        assert group["end"] - group["first"] == len(steps)
        for place, batch in zip(range(group["first"], group["end"]), batches, strict=False):
            for name in ("example", "epoch"):
                np.testing.assert_array_equal(group[name][place], batch[name])
            np.testing.assert_array_equal(group["image"][group["example"][place]], batch["image"])


def test_one_update_a_call_takes_the_batch_itself(tiny):
    split = build(tiny, 1).load("train", train=True)
    for steps, batch in execution.calls(split, tiny, 2, 4, 1, ()):
        assert len(steps) == 1
        assert set(batch) == {"image", "label", "example", "epoch"}


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("num_devices", [1, 8])
def test_updates_in_one_call_are_those_of_single_calls(grouped, tmp_path, num_devices):
    """A run of 12 updates with a learning rate that changes, momentum, augmentation: the same losses and gradient norms."""
    config = replace(grouped, {"augment.shift": 2, "augment.rotate": 5})
    runs = {size: replace(config, {"steps_per_execution": size}) for size in (1, SIZE)}
    for size, run in runs.items():
        loop.run(run, tmp_path / str(size), num_devices=num_devices)
    one, five = (read_rows(tmp_path / str(size) / "metrics.jsonl") for size in runs)
    assert [row["step"] for row in five] == list(range(1, len(one) + 1))
    for a, b in zip(one, five, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[name] for name in a], [b[name] for name in a], rtol=1e-4, atol=1e-6)
    assert len({row["learning_rate"] for row in five}) > 2


@pytest.mark.trains
def test_the_bits_do_not_depend_on_where_calls_end(grouped, tmp_path):
    """Neither on what is logged nor on a stop: each call is of the same program."""
    straight = loop.run(grouped, tmp_path / "straight", num_devices=1)
    often = loop.run(replace(grouped, {"log.every": 3}), tmp_path / "often", num_devices=1)
    assert often["state_digest"] == straight["state_digest"]
    polls = itertools.count()
    with pytest.raises(Preempted, match="stopped at step"):
        loop.run(grouped, tmp_path / "stopped", num_devices=1, stop=lambda: next(polls) >= 2)
    assert loop.run(grouped, tmp_path / "stopped", num_devices=1)["state_digest"] == straight["state_digest"]
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("straight", "stopped")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


@pytest.mark.trains
def test_data_that_are_streamed_are_read_update_by_update(grouped, tmp_path):
    streamed = replace(grouped, {"data.resident_gb": 0.0})
    assert execution.steps_per_call(build(streamed, 1), 10) == 1
    assert execution.steps_per_call(build(grouped, 1), 10) == SIZE
    found = loop.run(streamed, tmp_path / "streamed", num_devices=1)
    alone = loop.run(replace(streamed, {"steps_per_execution": 1}), tmp_path / "alone", num_devices=1)
    assert found["state_digest"] == alone["state_digest"]


def test_a_call_takes_the_memory_of_the_state(grouped):
    task = build(grouped, 1)
    split = task.load("train", train=True)
    assert isinstance(split, Resident)
    program = execution.grouped(task, task.train_step(12), SIZE)
    abstract = execution.abstract_batch(task, split.num_examples, SIZE)
    compiled = program.lower(task.abstract, abstract).compile()  # pyright: ignore[reportFunctionMemberAccess]
    state = task.initial_state()
    _, group = next(execution.calls(split, grouped, 0, 3, SIZE, ()))
    updated, sums = compiled(state, group)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert int(updated.step) == 3
    assert sums["objective"].shape == (SIZE,)
    assert np.count_nonzero(sums["count"]) == 3
    assert abstract["example"].shape == (SIZE, grouped.data.batch_size)


def test_the_bad_update_of_a_call_is_named(grouped, tmp_path):
    sums = {
        name: jnp.arange(SIZE, dtype=jnp.float32)
        for name in ("loss", "accuracy", "objective", "grad_norm", "learning_rate")
    }
    sums |= {"count": jnp.full(SIZE, 4), "nonfinite": jnp.array([0, 0, 0, 2, 0])}
    journal = Journal(RunDir(tmp_path), grouped, 5, 20, 100)
    for step in range(7, 11):
        journal.record(step, sums)
    with pytest.raises(NonFiniteError, match="step 9: NaN or infinity in the gradient"):
        journal.fetch()
    journal.close()
    assert [(row["step"], row["objective"]) for row in read_rows(tmp_path / "metrics.jsonl")] == [(7, 1.0), (8, 2.0)]


def test_exact_runs_make_one_update_a_call():
    with pytest.raises(UsageError, match="steps_per_execution=2 must be 1 with elastic_exact"):
        build(Config(steps=1, elastic_exact=True, steps_per_execution=2, data=DataConfig("fake", batch_size=8)), 1)


def test_bench_times_the_updates_of_calls(jaxcnn_, monkeypatch):
    monkeypatch.setattr(bench_model, "_steps_of_a_turn", lambda run: 10)
    task = bench_model.make_task("lenet5", 8, num_classes=3, steps_per_execution=4)
    seen = []
    usual = execution.calls

    def calls(split, config, start, total, size, every):
        seen.append((total, size))
        return usual(split, config, start, total, size, every)

    monkeypatch.setattr(execution, "calls", calls)
    found = bench_model.measure(task, "train", 3)
    assert found.steps_per_execution == 4
    assert seen == [(10, 4)] * 3
    monkeypatch.setattr(bench_model, "_steps_of_a_turn", lambda run: 1)
    code, out, _ = jaxcnn_("bench", "lenet5", "--batch_size=4", "--turns=1", "--steps_per_execution=3")
    assert code == 0
    assert "3 in a call" in out
    code, _, error = jaxcnn_("bench", "lenet5", "--mode=infer", "--steps_per_execution=3")
    assert code == 2
    assert "--steps_per_execution=3 must be 1 with --mode=infer" in error
