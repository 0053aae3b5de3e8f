"""Initialisers, named after the paper that states them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import initializers

from jaxcnn.typing import Array, Initializer, Key

zeros = initializers.zeros
ones = initializers.ones
glorot_uniform = initializers.glorot_uniform()  # Glorot & Bengio 2010, equation 16
he_fan_in = initializers.he_normal()  # He et al. 2015a, equation 10
he_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015a, equation 14


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs of one unit: the product of all axes of a kernel but the last."""
    return math.prod(shape[:-1])


def partial_identity(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The first outputs are the inputs; further ones are uniform in +-1 / sqrt(fan-in) (Jordan 2024, section 3.1)."""
    rows, columns, channels_in, channels_out = shape
    bound = 1 / math.sqrt(fan_in(shape))
    random = jax.random.uniform(key, shape, dtype, -bound, bound)
    same = jnp.arange(min(channels_in, channels_out))
    return random.at[..., : len(same)].set(0).at[rows // 2, columns // 2, same, same].set(1)


def lecun_uniform_1998(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Uniform in +-2.4 / F with F the number of inputs of a unit (LeCun et al. 1998, Appendix A)."""
    bound = 2.4 / fan_in(shape)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def uniform_for_bias(fan: int) -> Initializer:
    """Uniform in +-1 / sqrt(fan): torch's default for the bias of a layer with ``fan`` inputs per unit."""
    bound = 1 / math.sqrt(fan)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
