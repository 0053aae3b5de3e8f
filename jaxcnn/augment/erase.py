"""Parts of an image taken away: cutout and random erasing."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.augment import boxes
from jaxcnn.config import AugmentConfig
from jaxcnn.typing import Array, Key

_RATIO = (1 / 3.3, 1 / 0.3)  # columns / rows; torchvision states rows / columns


class Erase(NamedTuple):
    """What is taken away of each image; None is off.

    Attributes:
      cutout: the black square, a box ``[B, 4]`` cut off at the image's edges.
      rectangle: the erased rectangle, ``[B, 4]``; empty for images that keep everything.
      noise: what fills the rectangle, uint8 ``[B, H, W, C]``; None: black.
    """

    cutout: Array | None = None
    rectangle: Array | None = None
    noise: Array | None = None


def sample(key: Key, shape: tuple[int, ...], config: AugmentConfig) -> Erase:
    """Draw for images of ``shape`` [B, H, W, C].

    Cutout: the centre is any pixel, so the square may stick out (DeVries & Taylor 2017, section 3.1). Random erasing: with
    probability ``erase`` a rectangle of random area, shape and place; its noise is uniform in [0, 255] (Zhong et al. 2020,
    section 3); shapes as torchvision has them.
    """
    num_images, size = shape[0], shape[1:3]
    cutout = rectangle = noise = None
    cutout_key, chance_key, box_key, noise_key = jax.random.split(key, 4)
    if config.cutout:
        centre = jax.random.randint(cutout_key, (num_images, 2), 0, jnp.array(size).reshape(1, 2))
        cutout = boxes.around(centre, jnp.full((1, 2), config.cutout), size)
    if config.erase:
        largest = (size[0] - 1, size[1] - 1)
        box, found = boxes.sample(box_key, num_images, size, config.erase_area, _RATIO, largest)
        erased = found & jax.random.bernoulli(chance_key, float(config.erase), (num_images,))
        rectangle = jnp.where(erased[:, None], box, 0)
        if config.erase_value == "noise":
            noise = _bytes(noise_key, shape)
    return Erase(cutout, rectangle, noise)


def apply(images_BHWC: Array, choice: Erase) -> Array:
    """Images without those parts; the other values and the dtype stay as they are."""
    image, size = images_BHWC, images_BHWC.shape[1:3]
    black = jnp.zeros_like(image)
    if choice.cutout is not None:
        image = jnp.where(boxes.mask(choice.cutout, size), black, image)
    if choice.rectangle is not None:
        filling = black if choice.noise is None else choice.noise.astype(image.dtype)
        image = jnp.where(boxes.mask(choice.rectangle, size), filling, image)
    return image


def _bytes(key: Key, shape: tuple[int, ...]) -> Array:
    """Uniform uint8 of ``shape``, four from each drawn word: drawn one by one they take several times as long."""
    num_images, num_bytes = shape[0], math.prod(shape[1:])
    words = jax.random.bits(key, (num_images, -(-num_bytes // 4)), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(num_images, -1)[:, :num_bytes].reshape(shape)


def is_identity(config: AugmentConfig) -> bool:
    """Whether this config takes nothing away."""
    return not (config.cutout or config.erase)
