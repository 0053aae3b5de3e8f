"""Metrics as sums over examples: exact for any batch size, device count and padding; means are taken once, at the end."""

import jax
import jax.numpy as jnp

from jaxcnn.losses import cross_entropy
from jaxcnn.typing import Array, Sums


def classification_sums(logits_BK: Array, label_B: Array, mask_B: Array | None = None) -> dict[str, Array]:
    """Sums of loss, hits and top-5 hits, and the count, over the examples whose mask is true."""
    logits_BK = logits_BK.astype(jnp.float32)
    real_B = jnp.ones(label_B.shape, bool) if mask_B is None else mask_B
    rank_B = label_rank(logits_BK, label_B)
    return {
        "loss": jnp.sum(jnp.where(real_B, cross_entropy(logits_BK, label_B), 0.0)),
        "accuracy": jnp.sum(real_B & (rank_B < 1), dtype=jnp.int32),
        "top5_accuracy": jnp.sum(real_B & (rank_B < 5), dtype=jnp.int32),
        "count": jnp.sum(real_B, dtype=jnp.int32),
    }


def label_rank(logits_BK: Array, label_B: Array) -> Array:
    """How many classes stand before the label's, ``[B]``; ties go to the lower class, as in argmax. NaN counts as before."""
    own_B1 = jnp.take_along_axis(logits_BK, label_B[:, None], axis=-1)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits_BK.shape, 1)
    tied_before = (logits_BK == own_B1) & (classes < label_B[:, None])
    return jnp.sum(~(logits_BK <= own_B1) | tied_before, axis=-1)


def means(sums: Sums) -> dict[str, float]:
    """``{"loss": ..., "accuracy": ...}`` from sums and their count."""
    count = float(sums["count"])
    return {name: float(value) / count for name, value in sums.items() if name != "count"}
