"""Changes of colour: brightness, contrast, saturation, hue, grey, and AlexNet's lighting. float32 images in [0, 255].

The first four mean what torchvision's ColorJitter means by them. torchvision shuffles the four for each image; here their
order is fixed, because any order would mean to compute each of them four times.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn import rng
from jaxcnn.config import AugmentConfig
from jaxcnn.errors import UsageError
from jaxcnn.typing import Array, Key

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, digits as torchvision has them
# Principal components of the colours of ImageNet's pixels in [0, 1]: standard deviations, and directions as rows of
# (red, green, blue), as published with fb.resnet.torch.
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_DIRECTIONS = ((-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203))


class Colour(NamedTuple):
    """Changes of each image, applied in this order; None is off.

    Attributes:
      brightness: factor ``[B]`` on the values.
      contrast: factor ``[B]`` on the distance to the image's mean grey.
      saturation: factor ``[B]`` on the distance to each pixel's grey.
      hue: turn ``[B]`` of the colour circle, in circles.
      grey: whether colour goes, bool ``[B]``.
      lighting: (red, green, blue) to add, ``[B, 3]``.
    """

    brightness: Array | None = None
    contrast: Array | None = None
    saturation: Array | None = None
    hue: Array | None = None
    grey: Array | None = None
    lighting: Array | None = None


def sample(key: Key, shape: tuple[int, ...], config: AugmentConfig) -> Colour:
    """Draw for images of ``shape`` [B, H, W, C]: factors and turns uniform, lighting normal (Krizhevsky et al. 2012, 4.1)."""
    num_images, channels = shape[0], shape[-1]
    for name in ("saturation", "hue", "grey", "lighting"):
        if getattr(config, name) and channels != 3:
            raise UsageError(
                f"augment.{name}={getattr(config, name)} needs 3 channels, the images have {channels}; use 0"
            )

    def uniform(name: str, low: float, high: float) -> Array:
        return jax.random.uniform(rng.stream(key, name), (num_images,), jnp.float32, low, high)

    def factor(name: str) -> Array | None:
        bound = getattr(config, name)
        return uniform(name, max(0.0, 1 - bound), 1 + bound) if bound else None

    hue = uniform("hue", -config.hue, config.hue) if config.hue else None
    grey = jax.random.bernoulli(rng.stream(key, "grey"), float(config.grey), (num_images,)) if config.grey else None
    lighting = None
    if config.lighting:
        alpha = config.lighting * jax.random.normal(rng.stream(key, "lighting"), (num_images, 3, 1), jnp.float32)
        components = 255 * jnp.array(_DEVIATIONS).reshape(3, 1) * jnp.array(_DIRECTIONS)
        lighting = jnp.sum(alpha * components[None], axis=1)
    return Colour(factor("brightness"), factor("contrast"), factor("saturation"), hue, grey, lighting)


def apply(images_BHWC: Array, choice: Colour) -> Array:
    """The images in other colours, float32, cut off at 0 and 255 (but for lighting, which comes last and only adds)."""
    x = images_BHWC.astype(jnp.float32)
    if choice.brightness is not None:
        x = blend(jnp.zeros_like(x), x, choice.brightness)
    if choice.contrast is not None:
        x = blend(jnp.mean(luma(x), axis=(1, 2, 3), keepdims=True), x, choice.contrast)
    if choice.saturation is not None:
        x = blend(luma(x), x, choice.saturation)
    if choice.hue is not None:
        x = turn_hue(x, choice.hue)
    if choice.grey is not None:
        x = jnp.where(choice.grey[:, None, None, None], luma(x), x)
    if choice.lighting is not None:
        x = x + choice.lighting[:, None, None, :]
    return x


def luma(x_BHWC: Array) -> Array:
    """The grey of each pixel, ``[B, H, W, 1]``."""
    if x_BHWC.shape[-1] == 1:
        return x_BHWC
    red, green, blue = jnp.split(x_BHWC, 3, axis=-1)
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def blend(zero: Array, x_BHWC: Array, factor_B: Array) -> Array:
    """``zero + factor (x - zero)`` in [0, 255]: away from ``zero`` for factors above 1, towards it below."""
    factor = factor_B[:, None, None, None]
    return jnp.clip(factor * x_BHWC + (1 - factor) * zero, 0, 255)


def turn_hue(x_BHWC: Array, turn_B: Array) -> Array:
    """Turn the hue of colour images by a part of the circle; value and saturation (HSV) stay. Grey stays grey."""
    value, least = jnp.max(x_BHWC, axis=-1), jnp.min(x_BHWC, axis=-1)
    spread = value - least
    red, green, blue = x_BHWC[..., 0], x_BHWC[..., 1], x_BHWC[..., 2]
    divisor = jnp.where(spread == 0, 1.0, spread)
    sixth = (
        jnp.where(  # hue, in sixths of the circle; equality with `value`, computed anew, might be missed by a rounding
            (red >= green) & (red >= blue),
            (green - blue) / divisor,
            jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
        )
    )
    sixth = sixth + 6 * turn_B[:, None, None]

    def channel(offset: int) -> Array:
        place = offset + sixth
        place = place - 6 * jnp.floor(place / 6)  # a remainder by `%` takes ten times as long on a CPU
        return value - spread * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def is_identity(config: AugmentConfig) -> bool:
    """Whether this config leaves colours as they are."""
    return not any(getattr(config, name) for name in Colour._fields)
