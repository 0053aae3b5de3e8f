"""Operations of random kind: RandAugment (Cubuk et al. 2020) and TrivialAugment Wide (Mueller & Hutter 2021).

Operations, strengths and their meaning for uint8 images are torchvision's: pixels are moved to the nearest place, the
outside is black, values are cut off to whole numbers.

Which operation an image gets is known on the device only, and a branch per image would compute all fourteen. But they
are of three kinds: moves are one resampling, blends one mean with another picture, the rest one table of values. Each kind
is computed once for the batch, and each image takes the result of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.augment import boxes, colour, geometry, tables
from jaxcnn.config import AugmentConfig
from jaxcnn.typing import Array, Key

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "saturation", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *MOVES, *BLENDS, *TABLES)
_SIGNED = MOVES + BLENDS
_BINS = 31
_KIND = [0] + [1] * len(MOVES) + [2] * len(BLENDS) + [3] * len(TABLES)


class Policy(NamedTuple):
    """Operations of each image, in order.

    Attributes:
      operation: indices into ``OPERATIONS``, int32 ``[B, operations]``.
      strength: float32 ``[B, operations]``: columns per row (shear), pixels (translate), degrees (rotate), factor - 1
        (blends), bits (posterize), lowest value that is inverted (solarize).
    """

    operation: Array
    strength: Array


def strengths(config: AugmentConfig, size: tuple[int, ...]) -> np.ndarray:
    """The strength of each operation by magnitude, float32 ``[operations, 31]``: torchvision's tables for either policy."""
    wide = config.trivial
    share = np.linspace(0, 1, _BINS)
    translate_x, translate_y = (32, 32) if wide else (150 / 331 * size[1], 150 / 331 * size[0])
    shear, rotate, blend, bits = (0.99, 135, 0.99, 6) if wide else (0.3, 30, 0.9, 4)
    rows = {
        "shear_x": shear * share,
        "shear_y": shear * share,
        "translate_x": np.trunc(translate_x * share),
        "translate_y": np.trunc(translate_y * share),
        "rotate": rotate * share,
        **dict.fromkeys(BLENDS, blend * share),
        "posterize": np.round(8 - bits * share),
        "solarize": 255 * (1 - share),
    }
    return np.stack([rows.get(name, 0 * share) for name in OPERATIONS]).astype(np.float32)


def sample(key: Key, num_images: int, size: tuple[int, ...], config: AugmentConfig) -> Policy:
    """Draw operations uniformly; the magnitude is the config's (RandAugment) or uniform (TrivialAugment), the sign a toss."""
    operation_key, magnitude_key, sign_key = jax.random.split(key, 3)
    shape = (num_images, 1 if config.trivial else config.randaugment)
    operation = jax.random.randint(operation_key, shape, 0, len(OPERATIONS))
    magnitude = (
        jax.random.randint(magnitude_key, shape, 0, _BINS) if config.trivial else jnp.full(shape, config.magnitude)
    )
    signed = jnp.array([name in _SIGNED for name in OPERATIONS])[operation]
    sign = jnp.where(signed & jax.random.bernoulli(sign_key, 0.5, shape), -1.0, 1.0)
    return Policy(operation, sign * jnp.array(strengths(config, size))[operation, magnitude])


def apply(images_BHWC: Array, choice: Policy) -> Array:
    """The images after their operations, uint8. Values of float images are rounded first."""
    image = images_BHWC
    if image.dtype != jnp.uint8:
        image = jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)

    def once(image: Array, operation_and_strength: tuple[Array, Array]) -> tuple[Array, None]:
        operation, strength = operation_and_strength
        kind = jnp.array(_KIND)[operation][:, None, None, None]
        changed = [change(image, operation, strength) for change in (_move, _blend, _replace)]
        return jnp.select([kind == number for number in (1, 2, 3)], changed, image), None

    return jax.lax.scan(once, image, (choice.operation.T, choice.strength.T))[0]  # compiled once for all operations


def is_identity(config: AugmentConfig) -> bool:
    """Whether this config has no policy."""
    return not (config.randaugment or config.trivial)


def _only(name: str, operation_B: Array, strength_B: Array) -> Array:
    """The strength where the operation is ``name``, else 0."""
    return jnp.where(operation_B == OPERATIONS.index(name), strength_B, 0.0)


def _move(image: Array, operation_B: Array, strength_B: Array) -> Array:
    """Shear about the upper left corner, translate, rotate counterclockwise about the centre; ``output -> input``."""
    height, width = image.shape[1:3]
    shear_x, shear_y, x, y, degrees = (_only(name, operation_B, strength_B) for name in MOVES)
    angle = degrees * (jnp.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([jnp.stack([cos, shear_y + sin], -1), jnp.stack([shear_x - sin, cos], -1)], -2)
    shift = jnp.stack([shear_y * (width / 2) - y, shear_x * (height / 2) - x], -1)
    return geometry.apply_nearest(image, geometry.Affine(matrix, shift))


def _blend(image: Array, operation_B: Array, strength_B: Array) -> Array:
    """Away from, or towards, a picture without what the operation is named after; values cut off to whole numbers."""
    x = image.astype(jnp.float32)
    grey = jnp.floor(colour.luma(x))
    zeros = {
        "brightness": jnp.zeros_like(x),
        "saturation": grey,
        "contrast": jnp.mean(grey, axis=(1, 2, 3), keepdims=True),
        "sharpness": _blurred(x),
    }
    zero = _select(operation_B, {name: jnp.broadcast_to(zeros[name], x.shape) for name in BLENDS})
    return tables.whole(colour.blend(zero, x, 1 + strength_B))


def _blurred(x: Array) -> Array:
    """Mean of 3x3 pixels, the middle one five times, in whole numbers; the outermost pixels stay."""
    _, height, width, _ = x.shape
    if min(height, width) < 3:
        return x
    window = ((1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, *window) + 4 * x
    inner = boxes.mask(jnp.array([[1, 1, height - 1, width - 1]]), (height, width))
    return jnp.where(inner, jnp.round(total / 13), x)


def _replace(image: Array, operation_B: Array, strength_B: Array) -> Array:
    """One value for another."""
    counts = tables.counts(image)
    found = {
        "posterize": tables.posterize(strength_B),
        "solarize": tables.solarize(strength_B),
        "autocontrast": tables.autocontrast(counts),
        "equalize": tables.equalize(counts),
    }
    table = _select(operation_B, {name: jnp.broadcast_to(found[name], counts.shape) for name in TABLES})
    return tables.look_up(image, table)


def _select(operation_B: Array, results: dict[str, Array]) -> Array:
    """The result of each image's own operation, 0 where it is another; results are ``[B, ...]`` of one shape."""
    ndim = next(iter(results.values())).ndim
    operation = operation_B.reshape(-1, *[1] * (ndim - 1))
    return jnp.select([operation == OPERATIONS.index(name) for name in results], list(results.values()))
