"""Geometric augmentation of a batch of images: ``sample(key, ...) -> choice``, ``apply(images, choice) -> images``.

A choice is a pytree of arrays with one row per image. It can be looked at, written down and applied again; ``apply``
has no key. Images are float32 ``[B, H, W, C]``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.config import AugmentConfig
from jaxcnn.typing import Array, Key


class Affine(NamedTuple):
    """One affine map per image, about its centre: ``output pixel -> input pixel``.

    Attributes:
      matrix: ``[B, 2, 2]`` on (row, column) offsets from the centre.
      shift: ``[B, 2]``, in pixels (rows, columns), added after the matrix.
    """

    matrix: Array
    shift: Array


def sample(key: Key, num_images: int, config: AugmentConfig) -> Affine:
    """Draw a map for each image: flip, then zoom, shear and rotate, then shift; each uniform in the config's range."""
    shift_key, rotate_key, zoom_key, shear_key, flip_key = jax.random.split(key, 5)

    def uniform(key: Key, bound: float, shape: tuple[int, ...] = (num_images,)) -> Array:
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    angle = uniform(rotate_key, config.rotate) * (jnp.pi / 180)
    scale = 1 / (1 + uniform(zoom_key, config.zoom))
    shear = uniform(shear_key, config.shear)
    mirror = (
        jnp.where(jax.random.bernoulli(flip_key, 0.5, (num_images,)), -1.0, 1.0)
        if config.flip
        else jnp.ones(num_images)
    )
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    row_from_row, row_from_column = cos, -sin
    column_from_row, column_from_column = mirror * (sin + shear * cos), mirror * (cos - shear * sin)
    rows = jnp.stack([row_from_row, row_from_column], axis=-1)
    columns = jnp.stack([column_from_row, column_from_column], axis=-1)
    shift = uniform(shift_key, config.shift, (num_images, 2))
    if config.pad_crop:  # a crop of an image with a black border is a shift by whole pixels
        whole = jax.random.randint(jax.random.fold_in(key, 5), (num_images, 2), -config.pad_crop, config.pad_crop + 1)
        shift = shift + whole.astype(jnp.float32)
    return Affine(jnp.stack([rows, columns], axis=-2), shift)


def apply(images_BHWC: Array, choice: Affine) -> Array:
    """Resample each image bilinearly at the mapped positions; outside the image there is 0."""
    _, height, width, _ = images_BHWC.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1).astype(jnp.float32)
    offset = (grid - centre.reshape(1, 1, 2)).reshape(1, height, width, 2)
    source = jnp.einsum("bij,xhwj->bhwi", choice.matrix, offset) + (choice.shift + centre.reshape(1, 2)).reshape(
        -1, 1, 1, 2
    )
    return jax.vmap(_bilinear)(images_BHWC, source)


def _bilinear(image_HWC: Array, source_HW2: Array) -> Array:
    """The image at real-valued positions: the mean of the four neighbours, weighted by nearness."""
    height, width, _ = image_HWC.shape
    low = jnp.floor(source_HW2)
    near = source_HW2 - low  # weight of the far neighbour, per axis
    low = low.astype(jnp.int32)
    total = jnp.zeros_like(image_HWC)
    for row_step in (0, 1):
        for column_step in (0, 1):
            row, column = low[..., 0] + row_step, low[..., 1] + column_step
            weight_row = near[..., 0] if row_step else 1 - near[..., 0]
            weight_column = near[..., 1] if column_step else 1 - near[..., 1]
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = image_HWC[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
            total = total + pixel * jnp.where(inside, weight_row * weight_column, 0.0)[..., None]
    return total


def is_identity(config: AugmentConfig) -> bool:
    """Whether the config changes nothing, so that the step can leave augmentation out."""
    return config == AugmentConfig()
