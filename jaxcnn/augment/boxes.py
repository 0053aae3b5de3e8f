"""Boxes ``[B, 4]`` as (top, left, bottom, right) in pixels; bottom and right lie just outside, so an empty box has none."""

import math

import jax
import jax.numpy as jnp

from jaxcnn.typing import Array, Key

_TRIES = 10


def sample(
    key: Key,
    num_images: int,
    size: tuple[int, ...],
    area: tuple[float, ...],
    ratio: tuple[float, ...],
    largest: tuple[int, ...],
) -> tuple[Array, Array]:
    """Boxes of whole pixels with a random area, shape and place, and whether each was found in ten tries.

    Area is uniform, shape uniform in its logarithm (Szegedy et al. 2015, section 6; torchvision's RandomResizedCrop). All
    tries are drawn at once and the first that fits is taken, which has the distribution of trying again.

    Args:
      key: of the draw.
      num_images: boxes.
      size: (rows, columns) of an image.
      area: lowest and highest share of the image.
      ratio: lowest and highest columns / rows.
      largest: (rows, columns) that a box may have.

    Returns:
      int32 ``[B, 4]`` and bool ``[B]``; the box of a draw that did not fit is not to be used.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    rows, columns = size
    pixels = rows * columns * jax.random.uniform(area_key, (num_images, _TRIES), jnp.float32, *area)
    shape = jnp.exp(jax.random.uniform(ratio_key, (num_images, _TRIES), jnp.float32, *map(math.log, ratio)))
    tries = jnp.round(jnp.stack([jnp.sqrt(pixels / shape), jnp.sqrt(pixels * shape)], axis=-1)).astype(jnp.int32)
    fits = jnp.all((tries > 0) & (tries <= jnp.array(largest).reshape(1, 1, 2)), axis=-1)
    first = jnp.argmax(fits, axis=1)
    extent = jnp.take_along_axis(tries, first[:, None, None], axis=1)[:, 0]
    room = jnp.maximum(jnp.array(size).reshape(1, 2) - extent, 0)
    corner = jnp.floor(jax.random.uniform(place_key, (num_images, 2)) * (room + 1).astype(jnp.float32)).astype(
        jnp.int32
    )
    corner = jnp.minimum(corner, room)  # a uniform just below 1 rounds up
    return jnp.concatenate([corner, corner + extent], axis=-1), jnp.any(fits, axis=1)


def around(centre: Array, extent: Array, size: tuple[int, ...]) -> Array:
    """Boxes of ``extent`` (rows, columns) around whole-pixel centres ``[B, 2]``, cut off at the edges of the image."""
    corner = centre - extent // 2
    edge = jnp.array(size).reshape(1, 2)
    return jnp.concatenate([jnp.clip(corner, 0, edge), jnp.clip(corner + extent, 0, edge)], axis=-1)


def mask(box: Array, size: tuple[int, ...]) -> Array:
    """True inside the box: bool ``[B, H, W, 1]``."""
    top, left, bottom, right = (edge[:, None, None, None] for edge in box.T)
    row = jnp.arange(size[0]).reshape(1, -1, 1, 1)
    column = jnp.arange(size[1]).reshape(1, 1, -1, 1)
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def share(box: Array, size: tuple[int, ...]) -> Array:
    """Part of the image's area inside the box: float32 ``[B]``."""
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return area.astype(jnp.float32) / (size[0] * size[1])
