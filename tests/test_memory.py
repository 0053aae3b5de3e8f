"""A training that finds no memory says what takes it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import loop
from jaxcnn.config import DataConfig, ModelConfig
from jaxcnn.errors import UsageError
from jaxcnn.task import build


def greedy(state, batch):
    """A step that asks for more than any machine has: XLA's own words come back."""
    return state, {"count": jax.jit(lambda: jnp.zeros((1 << 50,), jnp.uint8))()}


def test_a_lack_of_memory_names_what_takes_it(tiny, tmp_path):
    words = r"data\.batch_size=16 .*RESOURCE_EXHAUSTED.*optimizer\.accumulate > 1, or .*plan"
    with pytest.raises(UsageError, match=words):
        loop.train(build(tiny, 1), tmp_path / "run", train_step=greedy)
    remat = dataclasses.replace(tiny, model=ModelConfig("cifar_resnet_tiny"), data=DataConfig("fake", batch_size=16))
    with pytest.raises(UsageError, match=r"model\.remat=true"):
        loop.train(build(remat, 1), tmp_path / "other", train_step=greedy)


def test_other_errors_of_xla_stay_what_they_are(tiny, tmp_path):
    def step(state, batch):
        raise jax.errors.JaxRuntimeError("INTERNAL: a mistake of somebody's")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        loop.train(build(tiny, 1), tmp_path / "run", train_step=step)
