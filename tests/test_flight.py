"""Few calls are in flight: of several devices of one CPU, hundreds would wait for each other until XLA ends the process."""

import jax
import numpy as np
import pytest

from jaxcnn import evaluate, precise
from jaxcnn.bench import model as bench
from jaxcnn.bench import scaling
from jaxcnn.flight import SIZE, Flight
from jaxcnn.rundir import RunDir
from jaxcnn.task import build
from jaxcnn.writers import Journal


class Unfinished:
    """A number that a device has yet to compute."""

    busy: "set[Unfinished]"

    def __init__(self, value: float):
        self._value = value
        self.busy.add(self)

    def block_until_ready(self) -> "Unfinished":
        self.busy.discard(self)
        return self

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return np.asarray(self._value)


@pytest.fixture
def busy(monkeypatch) -> set[Unfinished]:
    found: set[Unfinished] = set()
    monkeypatch.setattr(Unfinished, "busy", found, raising=False)
    return found


def test_a_call_waits_for_the_one_that_many_before(busy):
    flight, calls = Flight(), [Unfinished(1) for _ in range(30)]
    for number, call in enumerate(calls):
        flight.add({"count": call})
        assert busy == set(calls[max(0, number + 1 - SIZE) :])


def test_an_evaluation_keeps_few_calls_in_flight(tiny, busy):
    task, most = build(tiny, 1), []

    def eval_step(variables, batch):
        most.append(len(busy))
        return {"count": Unfinished(int(batch["mask"].sum())), "loss": Unfinished(2.0)}

    evaluate.evaluate(eval_step, {}, task.load("test"), 4)
    assert len(most) == 25
    assert max(most) == 2 * SIZE


def test_a_training_run_keeps_few_calls_in_flight(tiny, tmp_path, busy):
    """Several updates of one call are waited for as one."""
    journal = Journal(RunDir(tmp_path), tiny, 0, 100, 100)
    for call in range(20):
        sums = {"count": Unfinished(4)}
        for step in (2 * call + 1, 2 * call + 2):
            journal.record(step, sums)
        assert len(busy) == min(call + 1, SIZE)
    journal.close()


def test_all_that_calls_a_program_often_notes_its_calls(tiny, monkeypatch):
    task = bench.make_task("resnet18", 8, image_size=32, num_classes=10, num_devices=8, width=4, depths=(1,))
    many: dict[str, tuple] = {mode: (bench._ours(task, mode)[1], 3) for mode in bench.MODES}
    many["scaling"] = (scaling._Run(tiny, 2).seconds, 3)
    batch = bench.on_devices(task)
    many["precise"] = (
        lambda count: precise.estimated(task.initial_state(), task.moments_step(), iter([batch] * count), count),
        3,
    )
    for name, (call, count) in many.items():
        noted = []
        with monkeypatch.context() as patched:
            patched.setattr(Flight, "add", lambda self, result, noted=noted: noted.append(result))
            call(count)
        assert len(noted) == count, name
        jax.block_until_ready(noted)  # none of them was donated to the next call
