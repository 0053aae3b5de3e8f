"""Evaluation: every example of a split exactly once, whatever the batch size and the number of devices."""

from collections.abc import Callable, Iterable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxcnn.metrics import classification_sums, means
from jaxcnn.typing import Array, Batch, Sums, Variables


def make_eval_step(model: linen.Module, normalise: Callable[[Array], Array]) -> Callable[[Variables, Batch], Sums]:
    """``(variables, batch) -> sums`` over the batch's unmasked examples, to be jitted by the caller."""

    def eval_step(variables: Variables, batch: Batch) -> Sums:
        logits_BK = cast(Array, model.apply(variables, normalise(batch["image"]), train=False))
        return classification_sums(logits_BK, batch["label"], batch["mask"])

    return eval_step


def make_predict_step(model: linen.Module, normalise: Callable[[Array], Array]) -> Callable[[Variables, Array], Array]:
    """``(variables, uint8 images [B, H, W, C]) -> class probabilities [B, K]``, to be jitted by the caller."""

    def predict_step(variables: Variables, image_BHWC: Array) -> Array:
        logits_BK = cast(Array, model.apply(variables, normalise(image_BHWC), train=False))
        return jax.nn.softmax(logits_BK.astype(jnp.float32))

    return predict_step


def evaluate(
    eval_step: Callable[[Variables, Batch], Sums],
    variables: Variables,
    batches: Iterable[Batch],
    num_examples: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """``eval_loss``, ``eval_accuracy`` and ``eval_top5_accuracy`` over a split; empty when ``stop()`` became true."""
    sums = []
    for batch in batches:
        if stop():
            return {}
        sums.append(eval_step(variables, batch))
    total = {name: sum(np.asarray(part[name], np.float64) for part in jax.device_get(sums)) for name in sums[0]}
    assert total["count"] == num_examples, f"evaluated {total['count']:.0f} of {num_examples} examples"
    return {f"eval_{name}": value for name, value in means(total).items()}


def probabilities(
    predict_step: Callable[[Variables, Array], Array], variables: Variables, batches: Iterable[Batch]
) -> np.ndarray:
    """Class probabilities ``[N, K]`` of a split, in its order."""
    return np.concatenate(
        [np.asarray(predict_step(variables, batch["image"]))[np.asarray(batch["mask"])] for batch in batches]
    )
