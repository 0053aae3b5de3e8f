"""Losses: one value per example, so that masks and sums stay exact."""

import jax
import jax.numpy as jnp

from jaxcnn.typing import Array


def cross_entropy(logits_BK: Array, label_B: Array, label_smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy ``[B]`` in float32 against ``(1 - s) one_hot(label) + s / K`` (Szegedy et al. 2016, section 7)."""
    log_p_BK = jax.nn.log_softmax(logits_BK.astype(jnp.float32))
    hit_B = jnp.take_along_axis(log_p_BK, label_B[:, None], axis=-1)[:, 0]
    if label_smoothing == 0:
        return -hit_B
    return -(1 - label_smoothing) * hit_B - label_smoothing * jnp.mean(log_p_BK, axis=-1)
