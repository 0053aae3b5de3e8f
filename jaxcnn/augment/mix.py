"""Two images in one: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

An image is mixed with the one before it in the batch, the first with the last; the order of examples is random, so the
partner is. Each image draws its own share (the authors' code draws one for a batch; the distribution is the same).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.augment import boxes
from jaxcnn.config import AugmentConfig
from jaxcnn.typing import Array, Batch, Key


class Mix(NamedTuple):
    """How each image is mixed with its partner; None is off.

    Attributes:
      blend: share of the image itself in each pixel, ``[B]``; 1 where CutMix was chosen.
      box: the part that is the partner's, int32 ``[B, 4]``; empty where mixup was chosen.
    """

    blend: Array | None = None
    box: Array | None = None


def sample(key: Key, num_images: int, size: tuple[int, ...], config: AugmentConfig) -> Mix:
    """Draw shares from Beta(alpha, alpha); with both switched on, each image gets one of the two with probability 1/2."""
    blend = box = None
    blend_key, share_key, centre_key, toss_key = jax.random.split(key, 4)
    if config.mixup:
        blend = jax.random.beta(blend_key, config.mixup, config.mixup, (num_images,), jnp.float32)
    if (
        config.cutmix
    ):  # Yun et al. 2019, section 3.1, equation 2: sides sqrt(1 - share) of the image's, cut off at its edges
        own = jax.random.beta(share_key, config.cutmix, config.cutmix, (num_images, 1), jnp.float32)
        whole = jnp.array([size])
        half = (whole.astype(jnp.float32) * jnp.sqrt(1 - own)).astype(jnp.int32) // 2
        centre = jax.random.randint(centre_key, (num_images, 2), 0, whole)
        box = boxes.around(centre, 2 * half, size)
    if blend is not None and box is not None:
        cut = jax.random.bernoulli(toss_key, 0.5, (num_images,))
        blend, box = jnp.where(cut, 1.0, blend), jnp.where(cut[:, None], box, 0)
    return Mix(blend, box)


def apply(batch: Batch, choice: Mix) -> Batch:
    """The batch with mixed images, the partner's labels as ``label_b`` and the share of the first label as ``weight``."""
    image, size = batch["image"], batch["image"].shape[1:3]
    partner = jnp.roll(image, 1, axis=0)
    weight = jnp.ones(image.shape[0], jnp.float32)
    if choice.blend is not None:
        own = choice.blend[:, None, None, None]
        image = own * image.astype(jnp.float32) + (1 - own) * partner.astype(jnp.float32)
        partner, weight = partner.astype(jnp.float32), choice.blend
    if choice.box is not None:
        image = jnp.where(boxes.mask(choice.box, size), partner, image)
        weight = weight * (1 - boxes.share(choice.box, size))
    return {**batch, "image": image, "label_b": jnp.roll(batch["label"], 1, axis=0), "weight": weight}


def main_label(batch: Batch) -> Array:
    """The label with the larger share in each image, ``[B]``."""
    if "weight" not in batch:
        return batch["label"]
    return jnp.where(batch["weight"] >= 0.5, batch["label"], batch["label_b"])


def is_labelled(batch: Batch) -> Array:
    """False where a label is < 0, ``[B]``: the example, or the one it is mixed with, could not be read."""
    return (batch["label"] >= 0) & (batch.get("label_b", batch["label"]) >= 0)


def is_identity(config: AugmentConfig) -> bool:
    """Whether this config mixes nothing."""
    return not (config.mixup or config.cutmix)
