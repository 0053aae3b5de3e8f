"""Which part of each image is scaled to the whole: boxes ``[B, 4]`` (top, left, bottom, right), float32 pixels."""

import jax
import jax.numpy as jnp

from jaxcnn.augment import boxes
from jaxcnn.config import AugmentConfig
from jaxcnn.typing import Array, Key


def sample(key: Key, num_images: int, size: tuple[int, ...], config: AugmentConfig) -> Array:
    """Draw the box of each image, by ``config.crop``."""
    if config.crop == "resized":
        return resized(key, num_images, size, config.crop_area, config.crop_ratio)
    return scale(key, num_images, size, config.shorter_side)


def resized(
    key: Key, num_images: int, size: tuple[int, ...], area: tuple[float, ...], ratio: tuple[float, ...]
) -> Array:
    """Random area and shape (Szegedy et al. 2015, section 6), as torchvision draws them.

    Where no draw fits, the largest box in the middle whose columns / rows lie in ``ratio``.
    """
    rows, columns = size
    box, found = boxes.sample(key, num_images, size, area, ratio, largest=size)
    inner_rows, inner_columns = min(rows, round(columns / ratio[0])), min(columns, round(rows * ratio[1]))
    top, left = (rows - inner_rows) // 2, (columns - inner_columns) // 2
    middle = jnp.array([[top, left, top + inner_rows, left + inner_columns]])
    return jnp.where(found[:, None], box, middle).astype(jnp.float32)


def scale(key: Key, num_images: int, size: tuple[int, ...], shorter_side: tuple[float, ...]) -> Array:
    """Scale jitter (Simonyan & Zisserman 2015, section 3.1): shorter side uniform in ``shorter_side``, then a random crop.

    Of an image resized to shorter side S, a crop of the image's own size is the part size / S. Its place is uniform, not
    bound to whole pixels of the resized image.
    """
    side_key, place_key = jax.random.split(key)
    side = jax.random.uniform(side_key, (num_images, 1), jnp.float32, *shorter_side)
    whole = jnp.array([size], jnp.float32)
    extent = whole * (min(size) / side)
    corner = jax.random.uniform(place_key, (num_images, 2)) * (whole - extent)
    return jnp.concatenate([corner, corner + extent], axis=-1)
