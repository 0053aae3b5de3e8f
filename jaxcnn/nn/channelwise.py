"""What a layer does to each channel of pixels ``[N, C]``, and the sums over pixels that are the gradients of it.

XLA on a CPU would sum few channels in loops that are as short and, before jax 0.11, write all products into memory to sum them.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp

import jaxcnn.nn.linear as linear
from jaxcnn.typing import Array

FEW = 16  # channels: fewer leave a vector of the CPU partly empty
# Products that are added up where they are computed; more have no registers. Since 0.11 XLA does all of it in one loop.
_TOGETHER = 8 if jax.__version_info__ < (0, 11) else 1


def scaled(x: Array, factor: Array) -> Array:
    """``x * factor``: x ``[N, C]`` and factor ``[C]``, of one dtype, to ``[N, C]``; BatchNorm's, forward and backward."""
    y: Array = SCALED.bind(x, factor)
    return y


def inner(x: Array, y: Array) -> Array:
    """``sum over n of x[n] * y[n]``: x and y ``[N, C]``, of one dtype, to ``[C]``."""
    total: Array = INNER.bind(x, y)
    return total


def shifted(x: Array, bias: Array) -> Array:
    """``x + bias``: x ``[N, C]`` and bias ``[C]``, of one dtype, to ``[N, C]``."""
    shift: Array = REPEATED.bind(bias, num_pixels=len(x))
    return x + shift


def _inner(x: Array, y: Array) -> Array:
    parts = math.gcd(len(x), _TOGETHER)
    products = [a * b for a, b in zip(jnp.split(x, parts), jnp.split(y, parts), strict=True)]
    return jnp.sum(functools.reduce(operator.add, products), axis=0)


def _total(x: Array, num_pixels: int) -> Array:
    together = math.gcd(num_pixels, 2 * FEW) if x.shape[1] < FEW and num_pixels else 1  # as one pixel of many channels
    rows = x.reshape(num_pixels // together, together * x.shape[1])
    return jnp.sum(jnp.sum(rows, axis=0).reshape(together, -1), axis=0)


def _scaled(x: Array, factor: Array) -> Array:
    return x * factor[None]


def _repeated(bias: Array, num_pixels: int) -> Array:
    return jnp.broadcast_to(bias[None], (num_pixels, *bias.shape))


SCALED = linear.primitive("scaled", lambda x, _: x.shape, (scaled, lambda g, x: inner(x, g)), _scaled, _scaled)
INNER = linear.primitive(
    "inner",
    lambda x, _: x.shape[1:],
    (lambda g, y: scaled(y, g), lambda g, x: scaled(x, g)),
    _inner,
    lambda x, y: jnp.sum(x * y, axis=0),
)
REPEATED = linear.primitive(
    "repeated",
    lambda bias, num_pixels: (num_pixels, *bias.shape),
    (lambda g, num_pixels: TOTAL.bind(g, num_pixels=num_pixels),),
    _repeated,
    _repeated,
    ("num_pixels",),
)
TOTAL = linear.primitive(
    "total",
    lambda x, num_pixels: x.shape[1:],
    (lambda g, num_pixels: REPEATED.bind(g, num_pixels=num_pixels),),
    _total,
    lambda x, num_pixels: jnp.sum(x, axis=0),
    ("num_pixels",),
)
