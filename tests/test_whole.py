"""A run in one call is the run of the loop."""

import jax
import numpy as np
import pytest

from jaxcnn import loop
from jaxcnn.config import replace
from jaxcnn.errors import UsageError
from jaxcnn.task import build
from jaxcnn.whole import compile_test, compile_training
from jaxcnn.writers import read_rows


def test_it_trains_as_the_loop_does(tiny, tmp_path):
    config = replace(tiny, {"seed": 3, "augment.shift": 2.0, "model.dropout_rate": 0.2})
    summary = loop.run(config, tmp_path, num_devices=1)
    task = build(replace(config, {"seed": 0}), 1)
    train, test = compile_training(task, ("optimizer.learning_rate",)), compile_test(task)
    rate = {"optimizer.learning_rate": config.optimizer.learning_rate}
    state, sums = train(train.initial_state(3), 3, rate)
    assert int(state.step) == train.steps == summary["steps"]
    told = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")]
    np.testing.assert_allclose(np.asarray(sums["loss"]) / np.asarray(sums["count"]), told, rtol=2e-3)
    assert test(state)["accuracy"] == pytest.approx(summary["eval_accuracy"], abs=0.021)
    other, _ = train(train.initial_state(3), 3, {"optimizer.learning_rate": 0.0})
    jax.tree.map(np.testing.assert_array_equal, other.params, train.initial_state(3).params)


def test_what_is_streamed_cannot_be_one_call(tiny):
    with pytest.raises(UsageError, match=r"resident_gb=0"):
        compile_training(build(replace(tiny, {"data.resident_gb": 0.0}), 1))
