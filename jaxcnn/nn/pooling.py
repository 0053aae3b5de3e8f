"""Pooling as pure functions: per channel, nothing to learn. Images are ``[B, H, W, C]``."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.errors import UsageError
from jaxcnn.nn.functional import Padding, Pair, as_padding, as_pair, conv_output_size
from jaxcnn.typing import Array


def max_pool2d(
    x: Array, window: Pair, stride: Pair | None = None, padding: Padding = 0, *, ceil_mode: bool = False
) -> Array:
    """Largest value of each window, per channel; ``stride`` defaults to ``window``. Padding never wins.

    ``ceil_mode`` adds a last window where a part of it lies on the image (torch's word; Caffe's and GoogLeNet's habit).
    """
    if ceil_mode:
        padding = _padding_for_ceil(x, window, stride, padding)
    if _tiles(x, window, stride, padding):
        return _max_of_blocks(_blocks(x, window))
    return _reduce_window(x, -jnp.inf, lax.max, window, stride, padding)


def avg_pool2d(
    x: Array, window: Pair, stride: Pair | None = None, padding: Padding = 0, *, count_padding: bool = True
) -> Array:
    """Mean of each window, per channel; ``stride`` defaults to ``window``.

    ``count_padding`` divides border windows by the full window size, as torch does by default; otherwise by the number
    of real pixels in the window.
    """
    if _tiles(x, window, stride, padding):
        return jnp.mean(_blocks(x, window), axis=(2, 4))
    total = _reduce_window(x.astype(jnp.float32), 0.0, lax.add, window, stride, padding)  # a sum needs the digits
    if count_padding:
        rows, columns = as_pair(window)
        return (total / (rows * columns)).astype(x.dtype)
    ones = jnp.ones((1, *x.shape[1:3], 1), jnp.float32)
    return (total / _reduce_window(ones, 0.0, lax.add, window, stride, padding)).astype(x.dtype)


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


def _padding_for_ceil(x: Array, window: Pair, stride: Pair | None, padding: Padding) -> Padding:
    pads = []
    for size, k, s, (before, after) in zip(
        x.shape[1:3], as_pair(window), as_pair(window if stride is None else stride), as_padding(padding), strict=True
    ):
        rest = (size + before + after - k) % s
        extra = s - rest if rest and size + before + after - rest - k + s < size + before else 0
        pads.append((before, after + extra))
    return pads[0], pads[1]


def _tiles(x: Array, window: Pair, stride: Pair | None, padding: Padding) -> bool:
    """Whether the windows tile the image: then pooling is a reshape and a reduction.

    Its gradient is then elementwise; the general form's is a select-and-scatter, nine loops on a CPU.
    """
    rows, columns = as_pair(window)
    if rows < 1 or columns < 1:
        raise UsageError(f"pooling: window={window} must be >= 1")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"pooling: x has dtype {x.dtype}, must be floating")
    whole = x.ndim == 4 and x.shape[1] % rows == 0 and x.shape[2] % columns == 0
    return whole and (stride is None or as_pair(stride) == (rows, columns)) and as_padding(padding) == ((0, 0), (0, 0))


def _blocks(x: Array, window: Pair) -> Array:
    """``[B, H, W, C] -> [B, H / rows, rows, W / columns, columns, C]``."""
    rows, columns = as_pair(window)
    B, H, W, C = x.shape
    return x.reshape(B, H // rows, rows, W // columns, columns, C)


def _max_of_blocks(blocks: Array) -> Array:
    """Largest value of each block, ``[B, H, rows, W, columns, C] -> [B, H, W, C]``; of equals the first, NaN wins.

    Compared pairwise, so that value and gradient follow from the same comparison. The gradient of ``jnp.max`` compares
    the values with their maximum once more; XLA may compute them anew for that, round otherwise, find no equal and
    divide by 0.
    """

    def larger(a: Array, b: Array) -> Array:
        return jnp.where((a >= b) | jnp.isnan(a), a, b)

    for axis in (4, 2):
        parts = [lax.index_in_dim(blocks, i, axis, keepdims=False) for i in range(blocks.shape[axis])]
        blocks = functools.reduce(larger, parts)
    return blocks


def _reduce_window(x: Array, initial: float, reduce, window: Pair, stride: Pair | None, padding: Padding) -> Array:
    (rows, columns), (stride_h, stride_w), pads = (
        as_pair(window),
        as_pair(window if stride is None else stride),
        as_padding(padding),
    )
    if x.ndim != 4:
        raise UsageError(f"pooling: x of shape {x.shape} must be [B, H, W, C]")
    if max(pads[0]) >= rows or max(pads[1]) >= columns:
        raise UsageError(
            f"pooling: padding={padding} must be smaller than window={window}: a window would see no pixel"
        )
    try:
        conv_output_size(x.shape[1], rows, stride_h, pads[0])
        conv_output_size(x.shape[2], columns, stride_w, pads[1])
    except UsageError as error:
        raise UsageError(f"pooling of x {x.shape} with window={window}: {error}") from error
    return lax.reduce_window(
        x,
        np.asarray(
            initial, x.dtype
        ),  # a constant: under jit an array would hide that this is a max, which has a gradient
        reduce,
        window_dimensions=(1, rows, columns, 1),
        window_strides=(1, stride_h, stride_w, 1),
        padding=((0, 0), *pads, (0, 0)),
    )
