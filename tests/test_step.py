"""Parts of an update: the gradient of a batch in parts, and the type in which it is computed."""

import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scale_runs

from jaxcnn import loop, step, tree
from jaxcnn.ahead import compiled_ahead
from jaxcnn.config import Config, DataConfig, LogConfig, ModelConfig, OptimizerConfig, replace
from jaxcnn.task import Task, build


def gradient_of(batch_size=16, parts=1, seed=0, **model):
    """(gradient and new moments of one batch, the batch split in ``parts``)."""
    config = Config(
        steps=1,
        model=ModelConfig(**model),
        data=DataConfig("fake", batch_size=batch_size, image_size=32),
        optimizer=OptimizerConfig(accumulate=parts),
    )
    task = build(config, 4)
    compute = step.accumulated(step.make_gradient(task.model, task.normalise(), num_classes=task.num_classes), parts)
    state = task.initial_state()
    batch = next(task.load("train").train_batches(seed, batch_size, 0))
    real = jnp.float32(batch_size)
    return jax.jit(compute, static_argnums=5)(state.params, state.batch_stats, batch, jax.random.key(0), real, 1)


def test_an_accumulated_gradient_is_that_of_the_whole_batch():
    whole, parts = gradient_of(name="lenet5"), gradient_of(name="lenet5", parts=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.grads, parts.grads)
    assert whole.sums["count"] == parts.sums["count"] == 16
    np.testing.assert_allclose(whole.sums["objective"], parts.sums["objective"], rtol=1e-6)


@pytest.mark.compiles
def test_accumulation_with_batch_norm_is_a_ghost_batch_of_interleaved_rows():
    """Part i holds rows i, i + 4, ...: a ghost batch has them next to each other."""
    small = {"name": "resnet18", "overrides": {"width": 4, "depths": (1, 1), "activation": "gelu"}}
    parts = gradient_of(parts=4, **small)
    config = Config(
        steps=1,
        model=ModelConfig("resnet18", overrides=small["overrides"] | {"norm": "ghost:4"}),
        data=DataConfig("fake", batch_size=16, image_size=32),
    )
    task = build(config, 4)
    batch = next(task.load("train").train_batches(0, 16, 0))
    batch = {
        name: np.asarray(leaf).reshape(4, 4, *leaf.shape[1:]).swapaxes(0, 1).reshape(leaf.shape)
        for name, leaf in batch.items()
    }
    state = task.initial_state()
    compute = step.make_gradient(task.model, task.normalise(), num_classes=task.num_classes)
    ghost = jax.jit(compute, static_argnums=5)(
        state.params, state.batch_stats, batch, jax.random.key(0), jnp.float32(16), 1
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), parts.grads, ghost.grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts.batch_stats, ghost.batch_stats
    )


@pytest.mark.parametrize(
    "name", ["lenet5", *(pytest.param(n, marks=pytest.mark.compiles) for n in scale_runs.RUNS if n != "lenet5")]
)
def test_bfloat16_is_the_type_of_the_computation_alone(name):
    """Parameters, moments, the optimizer's state, the logits' loss and all sums stay float32."""
    config = scale_runs.config(name, elastic_exact=False)
    task = build(replace(config, {"model.dtype": "bfloat16", "optimizer.ema_decay": 0.9}), 1)
    step = task.train_step(10)
    shapes = jax.eval_shape(step, task.abstract, task.abstract_batch(scale_runs.BATCH))
    kinds = {leaf.dtype for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {jnp.dtype("float32")}
    text = step.lower(task.abstract, task.abstract_batch(scale_runs.BATCH)).as_text()
    products = [line for line in text.splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]
    products = [line for line in products if not re.search(r"dot_general (%\S+), \1,", line)]  # the gradient's norm
    assert products
    assert all("bf16" in line for line in products), "every product is of bfloat16"


def test_the_norm_is_that_of_all_leaves():
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=size) for size in ((6, 5), (128, 3), (3, 3, 4, 2), (7,), ())]
    found = tree.norm({str(i): jnp.asarray(leaf, jnp.float32) for i, leaf in enumerate(leaves)})
    np.testing.assert_allclose(found, np.sqrt(sum(np.sum(leaf**2) for leaf in leaves)), rtol=1e-6)


def test_an_update_compiled_ahead_is_the_same_and_its_call_compiles_nothing():
    task = build(Config(steps=2, data=DataConfig("fake", batch_size=16, image_size=32)), 2)
    batch = next(task.load("train").train_batches(0, 16, 0))
    expected, sums = task.train_step(2)(task.initial_state(), batch)
    ended = threading.Event()
    told = "/jax/core/compile/backend_compile_duration"

    def listen(event, seconds, **_):
        if event == told:
            ended.set()

    state = jax.block_until_ready(task.initial_state())
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        update = compiled_ahead(task.train_step(2), task.abstract, task.abstract_batch(16))
        assert ended.wait(60)  # nobody has called it
        ended.clear()
        found, ahead_sums = update(state, batch)
        assert not ended.is_set()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert tree.digest(found._asdict()) == tree.digest(expected._asdict())
    jax.tree.map(np.testing.assert_array_equal, ahead_sums, sums)
    assert compiled_ahead(listen, task.abstract, task.abstract_batch(16)) is listen


def test_a_run_compiles_while_it_reads_and_not_when_it_is_complete(tmp_path, monkeypatch):
    config, order = Config(steps=2, data=DataConfig("fake", batch_size=16), log=LogConfig(plots=False)), []

    def noting(name, function):
        return lambda *arguments, **named: (order.append(name), function(*arguments, **named))[1]

    monkeypatch.setattr(loop, "compiled_ahead", noting("compile", compiled_ahead))
    monkeypatch.setattr(Task, "load", noting("load", Task.load))
    loop.run(config, tmp_path / "run", num_devices=1)
    assert order == ["compile", "load", "load"]
    order.clear()
    loop.run(config, tmp_path / "run", num_devices=1)
    assert order == ["load", "load"]
