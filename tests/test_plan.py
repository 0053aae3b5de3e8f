"""plan: arithmetic, memory of the compiled update, largest batch, time."""

import dataclasses
import re

import jax
import pytest
from conftest import ROOT
from flax import linen
from hypothesis import given
from hypothesis import strategies as st

import jaxcnn
from jaxcnn import complexity, plan
from jaxcnn.cli import plan as command
from jaxcnn.config import ModelConfig
from jaxcnn.errors import UsageError
from jaxcnn.task import build
from jaxcnn.typing import Array


class LectureLayers(linen.Module):
    """Ten layers of 100 to 100 maps, 5x5, on 64x64: the slide's example of cost."""

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i in range(10):
            x = jaxcnn.nn.Conv(100, 5, padding=2, name=f"conv{i}")(x)
        return x


def test_the_lectures_eighteen_hours_and_fourteen_minutes():
    """10 layers, 1M examples: "10 PF", 18 h on a CPU of 0.15 TF, 14 min on a GPU of 12 TF; and what it leaves out."""
    macs = complexity.num_macs(LectureLayers(), (64, 64, 100))
    assert macs == 10 * 1_024_000_000
    cpu, gpu = plan.seconds(macs * 1e6, 0, 0.15), plan.seconds(macs * 1e6, 0, 12)
    assert int(cpu / 3600) == 18
    assert round(gpu / 60) == 14
    training = plan.seconds(3 * 2 * macs * 1e6, 0, 12)  # two operations a multiply-add, and the backward pass
    assert training == pytest.approx(6 * gpu)


def test_memory_may_be_what_takes_the_time():
    assert plan.seconds(1e12, 1e9, 1.0, 100.0) == 1.0
    assert plan.seconds(1e12, 1e12, 1.0, 100.0) == 10.0
    assert plan.seconds(1e12, 1e12, 1.0) == 1.0


@given(
    fixed=st.integers(1, 10**6),
    slope=st.integers(1, 10**4),
    step=st.integers(0, 10**4),
    limit=st.integers(1, 10**8),
    start=st.integers(2, 512),
)
def test_the_largest_batch_fits_and_the_next_does_not(fixed, slope, step, limit, start):
    def needed(n):
        return fixed + slope * n + step * (n // 8)

    if needed(1) > limit:
        with pytest.raises(UsageError, match="batch of 1"):
            plan._largest(needed, limit, start)
        return
    found = plan._largest(needed, limit, start)
    assert needed(found) <= limit < needed(found + 1)


def test_a_plan_of_a_tiny_run(tiny):
    task = build(dataclasses.replace(tiny, model=ModelConfig("lenet5")), 1)
    found = plan.make_plan(task)
    assert found.num_params == 61_706
    assert found.num_macs == 416_520
    assert (found.num_examples, found.steps) == (512, 12)
    assert found.flops == 6 * 416_520 * 16
    state = sum(leaf.size * 4 for leaf in jax.tree.leaves(task.abstract))
    assert state <= found.memory.state <= 1.02 * state + 4096  # donated: the new state lies where the old one was
    assert found.memory.batch == 16 * (32 * 32 + 4)
    assert found.memory.dataset == 612 * (32 * 32 + 4)
    assert found.memory.temporary > 16 * 28 * 28 * 6 * 4  # the first layer's maps at least
    assert found.bytes_accessed > found.memory.temporary


@pytest.mark.compiles
def test_memory_is_that_of_one_of_several_devices(tiny):
    one, four = (plan.make_plan(build(tiny, n)) for n in (1, 4))
    assert four.memory.batch == one.memory.batch / 4
    assert four.memory.temporary < one.memory.temporary
    assert four.flops == one.flops / 4


@pytest.mark.compiles
def test_largest_batch_of_a_network(tiny):
    task = build(tiny, 2)
    limit = 3e6
    found = plan.largest_batch(task, limit)
    assert found % 2 == 0

    def needed(batch):
        return plan._memory(task, plan._compiled(task, batch), batch).total

    assert needed(found) <= limit < needed(found + 2)


def test_the_command_needs_no_data(capsys):
    assert (
        command.main(["lenet_mnist", "--batch_size=8", "--epochs=20", "--tflops=1", "--bandwidth=50"], lambda: False)
        == 0
    )
    text = capsys.readouterr().out
    assert re.search(r"parameters +│ 61,706", text)
    assert re.search(r"multiply-adds +│ 416,520", text)
    assert "60,000 examples of mnist, 150,000 steps of 8" in text
    assert "at 1 TFLOP/s and 50 GB/s a device" in text
    assert not (ROOT / "runs" / "lenet_mnist").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memory=-1"], "must be > 0"),
        (["--memory=inf"], "--memory=inf must be > 0 and finite"),
        (["--bandwidth=5"], "needs --tflops"),
        (["--memory=0.00001"], "batch of 1 needs"),
        (["--tflop=5"], "tflops"),
    ],
)
def test_wrong_flags(flags, words):
    with pytest.raises(UsageError, match=words):
        command.main(["lenet_digits", *flags], lambda: False)
