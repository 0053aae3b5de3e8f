"""Changes that send each value of a channel to another: tables ``[B, C, 256]``, uint8. Images are uint8 ``[B, H, W, C]``."""

import jax
import jax.numpy as jnp

from jaxcnn.typing import Array


def look_up(images_BHWC: Array, table_BC: Array) -> Array:
    """Each value replaced by its entry in the table of its image and channel."""
    one_channel = jax.vmap(lambda image, table: table[image], in_axes=(-1, 0), out_axes=-1)
    return jax.vmap(one_channel)(images_BHWC.astype(jnp.int32), table_BC)


def posterize(bits_B: Array) -> Array:
    """Keep the highest ``bits`` of a value: ``[B, 1, 256]``."""
    shift = (8 - bits_B.astype(jnp.int32))[:, None, None]
    return ((_values() >> shift) << shift).astype(jnp.uint8)


def solarize(threshold_B: Array) -> Array:
    """Turn values from the threshold on into their negative: ``[B, 1, 256]``."""
    value = _values()
    return jnp.where(value.astype(jnp.float32) >= threshold_B[:, None, None], 255 - value, value).astype(jnp.uint8)


def autocontrast(counts_BC: Array) -> Array:
    """Stretch each channel to [0, 255]; a channel of one value stays."""
    present = counts_BC > 0
    least = jnp.argmax(present, axis=-1, keepdims=True)
    most = 255 - jnp.argmax(present[..., ::-1], axis=-1, keepdims=True)
    value, low, high = (x.astype(jnp.float32) for x in (_values(), least, most))
    stretched = (value - low) / (jnp.maximum(high - low, 1.0) / 255)
    return whole(jnp.where(most == least, value, jnp.clip(stretched, 0, 255)))


def equalize(counts_BC: Array) -> Array:
    """Spread each channel's values evenly (histogram equalisation), rounded as Pillow does; one of few values stays."""
    below = jnp.cumsum(counts_BC, axis=-1)
    highest = 255 - jnp.argmax(counts_BC[..., ::-1] > 0, axis=-1, keepdims=True)
    step = (below[..., -1:] - jnp.take_along_axis(counts_BC, highest, axis=-1)) // 255
    spread = (below - counts_BC + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step == 0, _values(), jnp.clip(spread, 0, 255)).astype(jnp.uint8)


def whole(values: Array) -> Array:
    """Values in [0, 255] cut off to uint8; one that rounding has put just below a whole number is that number."""
    return (values + 1e-3).astype(jnp.uint8)


def counts(images_BHWC: Array) -> Array:
    """How often each value comes in each channel: int32 ``[B, C, 256]``."""
    flat = images_BHWC.reshape(images_BHWC.shape[0], -1, images_BHWC.shape[-1]).astype(jnp.int32)
    one_channel = jax.vmap(lambda value: jnp.zeros(256, jnp.int32).at[value].add(1), in_axes=-1)
    return jax.vmap(one_channel)(flat)


def _values() -> Array:
    return jnp.arange(256, dtype=jnp.int32).reshape(1, 1, 256)
