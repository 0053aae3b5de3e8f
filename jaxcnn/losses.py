"""Losses: one value per example, so that masks and sums stay exact."""

import jax
import jax.numpy as jnp

from jaxcnn.fields import is_off
from jaxcnn.typing import Array, Batch


def cross_entropy(logits_BK: Array, label_B: Array, label_smoothing: float | Array = 0.0) -> Array:
    """Softmax cross-entropy ``[B]`` in float32 against ``(1 - s) one_hot(label) + s / K`` (Szegedy et al. 2016, section 7)."""
    log_p_BK = jax.nn.log_softmax(logits_BK.astype(jnp.float32))
    hit_B = jnp.take_along_axis(log_p_BK, label_B[:, None], axis=-1)[:, 0]
    if is_off(label_smoothing):
        return -hit_B
    return -(1 - label_smoothing) * hit_B - label_smoothing * jnp.mean(log_p_BK, axis=-1)


def mixed_cross_entropy(logits_BK: Array, batch: Batch, label_smoothing: float = 0.0) -> Array:
    """``w cross_entropy(label) + (1 - w) cross_entropy(label_b)`` with ``w = batch["weight"]``; without one, of ``label``.

    Equal to the cross-entropy against mixed one-hot labels (Zhang et al. 2018, section 2), which are never formed.
    """
    first_B = cross_entropy(logits_BK, batch["label"], label_smoothing)
    if "weight" not in batch:
        return first_B
    second_B = cross_entropy(logits_BK, batch["label_b"], label_smoothing)
    return batch["weight"] * first_B + (1 - batch["weight"]) * second_B
