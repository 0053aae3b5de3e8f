"""Pooling as pure functions: per channel, nothing to learn. Images are ``[B, H, W, C]``."""

import functools
import math
import operator

import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxcnn.nn.channelwise as channelwise
import jaxcnn.nn.linear as linear
from jaxcnn.errors import UsageError
from jaxcnn.nn.functional import Padding, Pair, as_padding, as_pair, at_least_float32, conv_output_size
from jaxcnn.nn.geometry import padded
from jaxcnn.typing import Array


def max_pool2d(
    x: Array, window: Pair, stride: Pair | None = None, padding: Padding = 0, *, ceil_mode: bool = False
) -> Array:
    """Largest value of each window, per channel; ``stride`` defaults to ``window``. Padding never wins.

    ``ceil_mode`` adds a last window where a part of it lies on the image (torch's word; Caffe's and GoogLeNet's habit).
    """
    if ceil_mode:
        padding = _padding_for_ceil(x, window, stride, padding)
    window, stride, pads = _checked(x, window, stride, padding)
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])
    for axis in (2, 1):
        x = _max_of_neighbours(x, window[axis - 1], stride[axis - 1], axis)
    return x


def avg_pool2d(
    x: Array, window: Pair, stride: Pair | None = None, padding: Padding = 0, *, count_padding: bool = True
) -> Array:
    """Mean of each window, per channel; ``stride`` defaults to ``window``.

    ``count_padding`` divides border windows by the full window size, as torch does by default; otherwise by the number
    of real pixels in the window.
    """
    window, stride, pads = _checked(x, window, stride, padding)
    # Padded here, and cut off what no window reaches: XLA's own windows over a matrix product, fused with it, give wrong sums
    # with padding on a CPU, and write beyond their memory where they leave out a part of the product.
    rests = [(n + sum(ends) - k) % s for n, ends, k, s in zip(x.shape[1:3], pads, window, stride, strict=True)]
    ends = [(before, after - rest) for (before, after), rest in zip(pads, rests, strict=True)]

    def mean(x: Array) -> Array:
        x = padded(x, ends)
        if stride == window:
            return BLOCK_MEAN.bind(x, window=window)
        x = at_least_float32(x)  # a sum needs the digits
        total = lax.reduce_window(x, np.asarray(0, x.dtype), lax.add, (1, *window, 1), (1, *stride, 1), "VALID")
        return total / math.prod(window)

    if count_padding or pads == ((0, 0), (0, 0)):
        return mean(x).astype(x.dtype)
    on_image = mean(jnp.ones((1, *x.shape[1:3], 1), jnp.float32))
    return (mean(at_least_float32(x)) / on_image).astype(x.dtype)


def adaptive_avg_pool2d(x: Array, size: int) -> Array:
    """``[B, H, W, C] -> [B, size, size, C]``: bin i is the mean of rows floor(i H / size) to ceil((i + 1) H / size) - 1."""
    for axis in (1, 2):
        length = x.shape[axis]
        if length != size:
            edges = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
            bins = [jnp.mean(lax.slice_in_dim(x, a, b, axis=axis), axis=axis, keepdims=True) for a, b in edges]
            x = jnp.concatenate(bins, axis=axis)
    return x


def global_avg_pool2d(x: Array) -> Array:
    """Mean over rows and columns: ``[B, H, W, C] -> [B, C]``."""
    return jnp.mean(x, axis=(1, 2))


def _block_mean(x: Array, window: tuple[int, int]) -> Array:
    (B, H, W, C), (rows, columns) = x.shape, window
    return jnp.mean(x.reshape(B, H // rows, rows, W // columns, columns, C), axis=(2, 4))


def _block_mean_by_rows(x: Array, window: tuple[int, int]) -> Array:
    """Of few channels first over whole rows, then over the pixels in them: XLA's loops over both axes would be short ones."""
    (B, H, W, C), (rows, columns) = x.shape, window
    if C >= channelwise.FEW:
        return _block_mean(x, window)
    total = jnp.sum(at_least_float32(x).reshape(-1, rows, W * C), axis=1).reshape(-1, columns * C)
    total = functools.reduce(operator.add, jnp.split(total, columns, axis=1))
    mean = total * np.asarray(1 / (rows * columns), total.dtype)
    return mean.reshape(B, H // rows, W // columns, C).astype(x.dtype)


def _block_share(y: Array, window: tuple[int, int]) -> Array:
    (B, H, W, C), (rows, columns) = y.shape, window
    share = (y * np.asarray(1 / (rows * columns), y.dtype))[:, :, None, :, None]
    return jnp.broadcast_to(share, (B, H, rows, W, columns, C)).reshape(B, H * rows, W * columns, C)


BLOCK_MEAN = linear.primitive(
    "block_mean",
    lambda x, window: (x.shape[0], x.shape[1] // window[0], x.shape[2] // window[1], x.shape[3]),
    (lambda g, window: BLOCK_SHARE.bind(g, window=window),),
    _block_mean_by_rows,
    _block_mean,
    ("window",),
)
BLOCK_SHARE = linear.primitive(
    "block_share",
    lambda y, window: (y.shape[0], y.shape[1] * window[0], y.shape[2] * window[1], y.shape[3]),
    (lambda g, window: BLOCK_MEAN.bind(g, window=window),),
    _block_share,
    _block_share,
    ("window",),
)


def _padding_for_ceil(x: Array, window: Pair, stride: Pair | None, padding: Padding) -> Padding:
    pads = []
    for size, k, s, (before, after) in zip(
        x.shape[1:3], as_pair(window), as_pair(window if stride is None else stride), as_padding(padding), strict=True
    ):
        if s < 1:
            raise UsageError(f"pooling: stride={stride} must be >= 1")
        rest = (size + before + after - k) % s
        extra = s - rest if rest and size + before + after - rest - k + s < size + before else 0
        pads.append((before, after + extra))
    return pads[0], pads[1]


def _max_of_neighbours(x: Array, window: int, stride: int, axis: int) -> Array:
    """Largest of ``window`` neighbours in a row or column, at each ``stride``-th; of equals the first, NaN wins.

    Compared pairwise, so that value and gradient follow from the same comparison: elementwise, where the gradient of
    XLA's own windows is a select-and-scatter, nine loops on a CPU. The gradient of ``jnp.max`` compares the values with
    their maximum once more; XLA may compute them anew for that, round otherwise, find no equal and divide by 0.
    """
    reach = (x.shape[axis] - window) // stride * stride + 1
    parts = [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]
    return functools.reduce(lambda a, b: jnp.where((a >= b) | jnp.isnan(a), a, b), parts)


def _checked(
    x: Array, window: Pair, stride: Pair | None, padding: Padding
) -> tuple[tuple[int, int], tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]:
    """Window, stride and padding as pairs; UsageError where they do not fit the image."""
    sizes, strides, pads = as_pair(window), as_pair(window if stride is None else stride), as_padding(padding)
    if min(sizes) < 1:
        raise UsageError(f"pooling: window={window} must be >= 1")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"pooling: x has dtype {x.dtype}, must be floating")
    if x.ndim != 4:
        raise UsageError(f"pooling: x of shape {x.shape} must be [B, H, W, C]")
    if any(max(ends) >= size for ends, size in zip(pads, sizes, strict=True)):
        raise UsageError(
            f"pooling: padding={padding} must be smaller than window={window}: a window would see no pixel"
        )
    try:
        for length, size, step, ends in zip(x.shape[1:3], sizes, strides, pads, strict=True):
            conv_output_size(length, size, step, ends)
    except UsageError as error:
        raise UsageError(f"pooling of x {x.shape} with window={window}: {error}") from error
    return sizes, strides, pads
