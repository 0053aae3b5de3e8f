"""Pixels ``[N, C]`` by one factor per channel, and pixels by pixels summed per channel: each is the transpose of the other.

They are what BatchNorm computes, forward and backward. XLA on a CPU would write all products into memory before it sums them.
"""

import functools
import math
import operator

import jax.numpy as jnp

import jaxcnn.nn.bilinear as bilinear
from jaxcnn.typing import Array

_TOGETHER = 8  # products that are added up where they are computed; more have no registers


def scaled(x: Array, factor: Array) -> Array:
    """``x * factor``: x ``[N, C]`` and factor ``[C]``, of one dtype, to ``[N, C]``."""
    y: Array = SCALED.bind(x, factor)
    return y


def inner(x: Array, y: Array) -> Array:
    """``sum over n of x[n] * y[n]``: x and y ``[N, C]``, of one dtype, to ``[C]``."""
    total: Array = INNER.bind(x, y)
    return total


def _in_parts(x: Array, y: Array) -> Array:
    parts = math.gcd(len(x), _TOGETHER)
    products = [a * b for a, b in zip(jnp.split(x, parts), jnp.split(y, parts), strict=True)]
    return jnp.sum(functools.reduce(operator.add, products), axis=0)


def _scaled(x: Array, factor: Array) -> Array:
    return x * factor[None]


SCALED = bilinear.primitive("scaled", lambda x, _: x.shape, (scaled, lambda g, x: inner(x, g)), _scaled, _scaled)
INNER = bilinear.primitive(
    "inner",
    lambda x, _: x.shape[1:],
    (lambda g, y: scaled(y, g), lambda g, x: scaled(x, g)),
    _in_parts,
    lambda x, y: jnp.sum(x * y, axis=0),
)
