"""metrics.jsonl after any history, the journal's guard, atomic files, and pictures."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import plots
from jaxcnn.config import Config, DataConfig, replace
from jaxcnn.errors import NonFiniteError
from jaxcnn.evaluate import Predictions
from jaxcnn.rundir import RunDir, write_text
from jaxcnn.step import GUARDED
from jaxcnn.writers import Journal, MetricsLog, read_rows

CONFIG = Config(steps=10, data=DataConfig(batch_size=4))


def rows(*steps):
    return [{"step": step, "loss": step / 2} for step in steps]


def test_rows_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write(rows(1, 2, 3, 4, 5))
    log.close()
    log = MetricsLog(path, 3)
    assert log.last == {"step": 3, "loss": 1.5}
    log.write(rows(4, 5, 6))
    log.close()
    assert read_rows(path) == rows(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', "{", "\x00\x00\x00", '{"loss": 3}\n', "[1]\n", '{"step": "4"}\n'])
def test_a_torn_line_is_left_out(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(1, 2, 3)) + torn)
    assert read_rows(path) == rows(1, 2, 3)
    log = MetricsLog(path, 3)
    log.write(rows(4))
    log.close()
    assert read_rows(path) == rows(1, 2, 3, 4)


def test_a_damaged_line_costs_that_line_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row) for row in rows(1, 2, 3, 4)]
    path.write_text("\n".join([lines[0], "X" + lines[1], *lines[2:]]) + "\n")
    assert read_rows(path) == rows(1, 3, 4)
    log = MetricsLog(path, 4)
    log.write(rows(5))
    log.close()
    assert read_rows(path) == rows(1, 3, 4, 5)


def test_an_evaluation_can_be_added_to_the_last_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write(rows(1, 2))
    log.close()
    log = MetricsLog(path, 2)
    log.amend({"eval_accuracy": 0.5})
    log.write(rows(3))
    log.close()
    assert read_rows(path) == [*rows(1), {"step": 2, "loss": 1.0, "eval_accuracy": 0.5}, *rows(3)]


def test_a_lost_metrics_file_does_not_stop_the_run(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 7)
    log.amend({"eval_accuracy": 0.5})
    log.write(rows(8))
    log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 7, "eval_accuracy": 0.5}, *rows(8)]


def sums(loss, nonfinite=0):
    values = {"loss": loss, "accuracy": 3, "objective": loss, "grad_norm": 1.0, "learning_rate": 0.1}
    return {
        "count": jnp.int32(4),
        "nonfinite": jnp.int32(nonfinite),
        **{name: jnp.float32(value) for name, value in values.items()},
    }


def test_the_journal_names_the_first_bad_step_and_keeps_the_good_ones(tmp_path):
    journal = Journal(RunDir(tmp_path), CONFIG, 0, 10, 100)
    for step, value in enumerate((2.0, 1.0, float("nan"), float("nan")), 1):
        journal.record(step, sums(value, not np.isfinite(value)))
    with pytest.raises(NonFiniteError, match="step 3: NaN or infinity in the loss"):
        journal.fetch()
    journal.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize(("number", "name"), list(enumerate(GUARDED, 1)))
def test_the_journal_tells_what_is_bad_also_when_the_loss_is_finite(tmp_path, number, name):
    journal = Journal(RunDir(tmp_path), CONFIG, 0, 10, 100)
    journal.record(1, sums(2.0, number))
    with pytest.raises(NonFiniteError, match=f"step 1: NaN or infinity in the {name}; lower"):
        journal.fetch()
    journal.close()


def test_skipped_updates_are_counted_over_stops_and_the_eleventh_in_a_row_ends_the_run(tmp_path):
    def journal(start):
        return Journal(RunDir(tmp_path), replace(CONFIG, {"nonfinite": "skip"}), start, 99, 100)

    first = journal(0)
    for step in range(1, 8):
        first.record(step, sums(2.0, 2 if step != 2 else 0))
    first.fetch()
    first.write({})
    first.close()
    second = journal(7)  # six in all, five of them in a row
    for step in range(8, 20):
        second.record(step, sums(2.0, 2))
    with pytest.raises(NonFiniteError, match="step 13: NaN or infinity in the gradient, 11 updates in a row"):
        second.fetch()
    second.close()
    found = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in found] == list(range(1, 13))
    assert [row["skipped"] for row in found] == [1, 1, *range(2, 12)]
    assert [row.get("skipped_in_a_row", 0) for row in found] == [1, 0, *range(1, 11)]
    assert [row["step"] for row in found if "loss" in row] == [2]


def test_write_text_replaces_as_a_whole(tmp_path):
    path = tmp_path / "file"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_pictures_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    history = [{"step": s, "loss": 2 / s, "accuracy": 1 - 1 / s, "learning_rate": 0.1} for s in range(1, 200)]
    history[-1] |= {"eval_loss": 0.1, "eval_accuracy": 0.9}
    labels, chances = rng.integers(0, 10, 50), rng.dirichlet(np.ones(10), 50)
    names = [str(k) for k in range(10)]
    images = rng.integers(0, 255, (50, 8, 8, 1), np.uint8)
    plots.learning_curves(tmp_path / "curves.png", history, "test")
    plots.learning_curves(tmp_path / "short.png", history[:1], "test")
    plots.confusion_matrix(tmp_path / "confusion.png", labels, chances.argmax(1), names)
    worst = np.flatnonzero(chances.argmax(1) != labels)[:24]
    plots.worst_mistakes(tmp_path / "mistakes.png", Predictions(chances, labels, worst, images[worst]), names)
    none = Predictions(chances, chances.argmax(1), worst[:0], images[:0])
    plots.worst_mistakes(tmp_path / "none.png", none, names)
    plots.first_layer_filters(tmp_path / "grey.png", rng.normal(size=(5, 5, 1, 6)), "conv1")
    plots.first_layer_filters(tmp_path / "colour.png", rng.normal(size=(11, 11, 3, 96)), "conv1")
    for path in tmp_path.glob("*.png"):
        image = np.asarray(Image.open(path))
        assert image.shape[0] > 80, path
        assert image.std() > 5, f"{path} is blank"
    assert len(list(tmp_path.glob("*.png"))) == 7
