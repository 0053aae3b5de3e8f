"""Evaluation: every example of a split exactly once, whatever the batch size and the number of devices."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxcnn import hosts
from jaxcnn.errors import DataError, UsageError
from jaxcnn.flight import Flight
from jaxcnn.metrics import classification_sums, means
from jaxcnn.typing import Array, Batch, Sums, Variables

Views = Callable[[Array], list[Array]]


def make_views(kind: str, size: tuple[int, int]) -> Views:
    """``images -> [views of them, ...]``, whose probabilities are averaged.

    "one" is the image itself; "flip" the image and its mirror image; "ten" the corners and the centre, ``size`` rows and
    columns each, of a larger image, and their mirror images (Krizhevsky et al. 2012, section 4.1); "shift" the image, itself
    moved by a pixel to the upper left and to the lower right, and the mirror images of these (Jordan 2024, section 3.5).
    """
    if kind == "ten" and size[0] != size[1]:
        raise UsageError(f"data.eval_views=ten crops squares, and images are {size[0]}x{size[1]}; set data.image_size")

    def views(image_BHWC: Array) -> list[Array]:
        found = [image_BHWC]
        if kind == "ten":
            _, rows, columns, _ = image_BHWC.shape
            bottom, right = rows - size[0], columns - size[1]
            places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
            found = [image_BHWC[:, top : top + size[0], left : left + size[1]] for top, left in places]
        if kind == "shift":
            _, rows, columns, _ = image_BHWC.shape
            larger = jnp.pad(image_BHWC, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
            found += [larger[:, i : i + rows, i : i + columns] for i in (2, 0)]
        return found + [view[:, :, ::-1] for view in found if kind != "one"]

    return views


def make_scores(
    model: linen.Module, normalise: Callable[[Array], Array], views: Views
) -> Callable[[Variables, Array], Array]:
    """``(variables, uint8 images) -> scores [B, K]`` whose softmax is the mean of the probabilities of the views.

    Of one view these are the logits; of several the logarithm of that mean.
    """

    def scores(variables: Variables, image_BHWC: Array) -> Array:
        logits = [cast(Array, model.apply(variables, normalise(view), train=False)) for view in views(image_BHWC)]
        if len(logits) == 1:
            return logits[0]
        log_p = jnp.stack([jax.nn.log_softmax(one.astype(jnp.float32)) for one in logits])
        return jax.nn.logsumexp(log_p, axis=0) - math.log(len(logits))

    return scores


def make_eval_step(
    model: linen.Module, normalise: Callable[[Array], Array], views: Views
) -> Callable[[Variables, Batch], Sums]:
    """``(variables, batch) -> sums`` over the batch's unmasked examples, to be jitted by the caller."""
    scores = make_scores(model, normalise, views)

    def eval_step(variables: Variables, batch: Batch) -> Sums:
        return classification_sums(scores(variables, batch["image"]), batch["label"], batch["mask"])

    return eval_step


def make_predict_step(
    model: linen.Module, normalise: Callable[[Array], Array], views: Views
) -> Callable[[Variables, Array], Array]:
    """``(variables, uint8 images [B, H, W, C]) -> class probabilities [B, K]``, to be jitted by the caller."""
    scores = make_scores(model, normalise, views)

    def predict_step(variables: Variables, image_BHWC: Array) -> Array:
        return jax.nn.softmax(scores(variables, image_BHWC).astype(jnp.float32))

    return predict_step


class Split(Protocol):
    """The examples of a split, on the device or on their way there."""

    num_examples: int

    @property
    def bad(self) -> Mapping[int, str]:
        """Examples that cannot be read and are left out."""
        ...

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """Every example once; ``mask`` is false on the rows that are none."""
        ...


def evaluate(
    eval_step: Callable[[Variables, Batch], Sums],
    variables: Variables,
    split: Split,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """``eval_loss``, ``eval_accuracy`` and ``eval_top5_accuracy`` over a split; empty when ``stop()`` became true.

    DataError when not one of its examples can be read.
    """
    sums, flight = [], Flight()
    for batch in split.eval_batches(batch_size):
        if stop():
            return {}
        sums.append(eval_step(variables, batch))
        flight.add(sums[-1])
    total = {name: sum(np.asarray(part[name], np.float64) for part in jax.device_get(sums)) for name in sums[0]}
    bad = hosts.union(split.bad)
    readable = split.num_examples - len(bad)
    assert total["count"] == readable, f"evaluated {total['count']:.0f} of {readable} examples"
    if not readable:
        reason = next(iter(bad.values()))
        raise DataError(
            f"none of the {len(bad)} examples to evaluate on can be read ({reason}); mend them, or name another split"
        )
    return {f"eval_{name}": value for name, value in means(total).items()}


class Predictions(NamedTuple):
    """What a network says of a split, in the order of the split.

    Attributes:
      probabilities: ``[N, K]``.
      labels: ``[N]``.
      worst: positions of the wrongly classified examples with the least probability on their label, worst first.
      images: those examples, uint8 ``[n, H, W, C]``.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    worst: np.ndarray
    images: np.ndarray

    @property
    def called(self) -> np.ndarray:
        """The most likely class of each, ``[N]``."""
        return self.probabilities.argmax(axis=1)


def predictions(
    predict_step: Callable[[Variables, Array], Array],
    variables: Variables,
    split: Split,
    batch_size: int,
    num_classes: int,
    num_worst: int = 24,
) -> Predictions:
    """What the network says of all readable examples of a split; only the images of its worst mistakes are held.

    ``num_classes`` is that of the dataset: logits beyond them are left out.
    """
    chances, labels, mistakes, count = [], [], [], 0
    for batch in split.eval_batches(batch_size):
        real = hosts.fetch(batch["mask"])
        chance_BK = hosts.fetch(predict_step(variables, batch["image"]))[real, :num_classes]
        label_B = hosts.fetch(batch["label"])[real]
        own_B = chance_BK[np.arange(len(label_B)), label_B]
        wrong = np.flatnonzero(chance_BK.argmax(axis=1) != label_B)
        if len(wrong):
            image_BHWC = hosts.fetch(batch["image"])[real]
            mistakes += [(float(own_B[row]), count + int(row), image_BHWC[row]) for row in wrong]
            mistakes = sorted(mistakes, key=lambda item: item[:2])[:num_worst]
        chances.append(chance_BK)
        labels.append(label_B)
        count += len(label_B)
    worst = np.array([position for _, position, _ in mistakes], int)
    return Predictions(np.concatenate(chances), np.concatenate(labels), worst, np.array([x for *_, x in mistakes]))
