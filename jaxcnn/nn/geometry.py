"""What is fixed of a convolution beside batch and channels."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxcnn.typing import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """What is fixed of a convolution beside batch and channels; a pair is (rows, columns)."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def result(self) -> tuple[int, int]:
        """Rows and columns of y."""
        sizes = zip(self.image, self.kernel, self.stride, self.padding, strict=True)
        rows, columns = ((n + before + after - k) // s + 1 for n, k, s, (before, after) in sizes)
        return rows, columns


def padded(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Zeros around the image; a negative number cuts rows off."""
    ends = [(0, 0), *padding, (0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(before, after, 0) for before, after in ends])
