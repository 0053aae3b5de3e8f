"""The lecture's layers as pure functions: no state, no names, no surprises.

Images are ``[B, H, W, C]`` and kernels ``[kh, kw, C_in / groups, C_out]`` (letters: ``jaxcnn.typing``).

Padding is written out, as papers and torch do. Along one axis it is either an int, rows added on *each* side, or a pair
``(before, after)``; ``total_padding(p)`` turns the lecture's total ``p`` into such a pair. ``"SAME"`` is not accepted: for
strided windows it pads on the other side than the published networks and shifts every feature map.
"""

import operator
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.errors import UsageError, nearest
from jaxcnn.nn.channelwise import inner, scaled, shifted
from jaxcnn.nn.convolution import convolution
from jaxcnn.nn.geometry import padded
from jaxcnn.typing import Array, Key

AxisPadding: TypeAlias = int | tuple[int, int]
Padding: TypeAlias = int | tuple[AxisPadding, AxisPadding]
Pair: TypeAlias = int | tuple[int, int]


def total_padding(p: int) -> tuple[int, int]:
    """The lecture's padding of ``p`` rows in all: ``ceil(p / 2)`` on top, ``floor(p / 2)`` at the bottom.

    For an odd p (an even kernel with p = k - 1) the extra row goes on top; TensorFlow's SAME puts it at the bottom.
    """
    if p < 0:
        raise UsageError(f"total_padding: p={p} must be >= 0")
    return (p + 1) // 2, p // 2


def conv_output_size(size: int, kernel_size: int, stride: int = 1, padding: AxisPadding = 0, dilation: int = 1) -> int:
    """Output rows of a window that slides over ``size`` input rows: ``floor((n - k + p + s) / s)``.

    ``n`` is ``size``, ``s`` the stride, ``p`` the total padding, ``k = dilation * (kernel_size - 1) + 1`` the extent of
    the kernel (lecture, "Stride"). ``padding`` is per side: an int for each side or ``(before, after)``; for the
    lecture's total p pass ``total_padding(p)``.

    Raises:
      ValueError: an argument is out of range, or the padded input is smaller than the kernel.
    """
    for name, value in (("size", size), ("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise UsageError(f"conv_output_size: {name}={value} must be >= 1")
    before, after = _axis_padding(padding)
    extent = dilation * (kernel_size - 1) + 1
    if size + before + after < extent:
        raise UsageError(
            f"input size {size} with padding {before} + {after} is smaller than the kernel's extent "
            f"{extent}; use a larger image, more padding or a smaller kernel"
        )
    return (size - extent + before + after + stride) // stride


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    *,
    groups: int = 1,
    dilation: Pair = 1,
) -> Array:
    """Two-dimensional cross-correlation: ``y[i, j] = sum over a, c of x[i s + a, j s + c] w[a, c] + b``.

    Args:
      x: images ``[B, H, W, C_in]``.
      w: kernels ``[kh, kw, C_in / groups, C_out]``, not flipped (lecture, "2-D Convolution Layer").
      b: one bias per output channel ``[C_out]``, or None.
      stride: rows and columns between windows, one int or ``(rows, columns)``.
      padding: zeros around the image; int per side, or one entry per axis (see the module's head).
      groups: output channels are split into this many groups, each of which sees its own share of the input channels.
      dilation: distance between neighbouring taps of the kernel.

    Returns:
      ``[B, H', W', C_out]`` with H', W' as ``conv_output_size`` says.

    Raises:
      ValueError: ranks, channels, groups or sizes do not fit together.
    """
    if x.ndim != 4 or w.ndim != 4:
        raise UsageError(
            f"conv2d: x of shape {x.shape} and w of shape {w.shape} must be [B, H, W, C_in] and "
            "[kh, kw, C_in / groups, C_out]; add axes of size 1 where there is one image or one channel"
        )
    channels_in, channels_out = x.shape[3], w.shape[3]
    if groups < 1 or channels_in != w.shape[2] * groups or channels_out % groups:
        raise UsageError(
            f"conv2d: x has {channels_in} channels, w {w.shape[2]} -> {channels_out}, groups={groups}: "
            "C_in must be w.shape[2] * groups and C_out a multiple of groups"
        )
    if b is not None and b.shape != (channels_out,):
        raise UsageError(f"conv2d: b has shape {b.shape}, must be ({channels_out},), one bias per output channel")
    (stride_h, stride_w), (dilate_h, dilate_w), pads = as_pair(stride), as_pair(dilation), as_padding(padding)
    conv_output_size(x.shape[1], w.shape[0], stride_h, pads[0], dilate_h)  # raises when the image is too small
    conv_output_size(x.shape[2], w.shape[1], stride_w, pads[1], dilate_w)
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(w.dtype, jnp.floating):
        raise UsageError(f"conv2d: x has dtype {x.dtype} and w {w.dtype}, one must be floating")
    x, w = _promoted(x, w)
    if groups == dilate_h == dilate_w == 1:
        y = convolution(x, w, (stride_h, stride_w), pads)
    else:
        reach = (dilate_h * (w.shape[0] - 1), dilate_w * (w.shape[1] - 1))
        if any(max(ends) > most for ends, most in zip(pads, reach, strict=True)):
            x, pads = padded(x, pads), ((0, 0), (0, 0))  # XLA's gradient is wrong where a window sees no pixel
        y = lax.conv_general_dilated(
            x,
            w,
            window_strides=(stride_h, stride_w),
            padding=pads,
            rhs_dilation=(dilate_h, dilate_w),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    return y if b is None else shifted(_pixels(y), b).reshape(y.shape)


def dense(x: Array, w: Array, b: Array | None = None) -> Array:
    """Affine map of the last axis: ``x [..., D] @ w [D, F] + b [F]``; a convolution of images of one pixel."""
    if w.ndim != 2 or x.shape[-1:] != w.shape[:1]:
        raise UsageError(f"dense: x of shape {x.shape} and w of shape {w.shape} must be [..., D] and [D, F]")
    if b is not None and b.shape != w.shape[1:]:
        raise UsageError(f"dense: b has shape {b.shape}, must be {w.shape[1:]}, one bias per output")
    x, w = _promoted(x, w)
    y = convolution(_pixels(x)[:, None, None], w[None, None], (1, 1), ((0, 0), (0, 0)))[:, 0, 0]
    return (y if b is None else y + b[None]).reshape(*x.shape[:-1], w.shape[1])


def dropout(x: Array, rate: float, key: Key, shape: tuple[int, ...] | None = None) -> Array:
    """Zero each element with probability ``rate``, scale the others by ``1 / (1 - rate)``: the mean stays.

    (Lecture, "Dropout Layer"; Srivastava et al. 2014, section 10, scaled while training.) ``shape`` is that of the random
    choice, x's own when left out; an axis of size 1 is dropped as a whole.
    """
    if not 0 <= rate < 1:
        raise UsageError(f"dropout: rate={rate} must be in [0, 1)")
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape if shape is None else shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel over all other axes, at least in float32: two arrays ``[C]``."""
    x = _pixels(at_least_float32(x))
    mean = jnp.mean(x, axis=0)
    # The last term is 0: it is there for the derivatives, at the price of no further sum.
    fixed = lax.stop_gradient(mean)
    centred = x - fixed[None]
    return mean, inner(centred, centred) / len(x) - jnp.square(mean - fixed)


def batch_norm(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array | None = None,
    variance: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias``, per channel (Ioffe & Szegedy 2015, Algorithm 1).

    Args:
      x: ``[..., C]``.
      scale: gamma, ``[C]``.
      bias: beta, ``[C]``.
      mean, variance: ``[C]``, both or neither; the batch's own moments when left out (training), running ones in evaluation.
      epsilon: added to the variance.
    """
    if (mean is None) != (variance is None):
        raise UsageError("batch_norm: give both mean and variance, or neither for the moments of this batch")
    if mean is None or variance is None:
        mean, variance = batch_moments(x)
    if scale.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise UsageError(
            f"batch_norm: scale {scale.shape} and bias {bias.shape} must be {x.shape[-1:]}, one per channel"
        )
    gain = scale.astype(variance.dtype) * lax.rsqrt(variance + epsilon)
    # The mean is taken off first: a large one would cancel digits afterwards. Its gradient goes by way of the shift, so all
    # gradients follow from two sums per channel, of dy and of dy * (x - mean), and devices exchange no more than these.
    fixed = lax.stop_gradient(mean)
    shift = bias.astype(gain.dtype) - (mean - fixed) * gain
    centred = _pixels(at_least_float32(x)) - fixed[None]
    y = scaled(centred, gain.astype(centred.dtype)) + shift[None]
    return y.reshape(x.shape).astype(x.dtype)


def local_response_norm(x: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Array:
    """``x / (k + alpha * sum of x**2 over size neighbouring channels) ** beta`` (Krizhevsky et al. 2012, section 3.3).

    ``alpha`` multiplies the sum, as the paper has it; torch divides it by ``size``.
    """
    window = (1,) * (x.ndim - 1) + (size,)
    pads = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    total = lax.reduce_window(jnp.square(x), np.asarray(0, x.dtype), lax.add, window, (1,) * x.ndim, pads)
    return x * jnp.power(k + alpha * total, -beta)


@jax.custom_jvp
def relu(x: Array) -> Array:
    """``max(x, 0)``; the derivative at 0 is 0.

    Written as a choice between x and 0: a maximum is so cheap to XLA that it computes it, and the sum before it, again in
    each use. In a residual network that is the whole way from the first block of a stage.
    """
    return jnp.where(x <= 0, jnp.zeros_like(x), x)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = relu(*primals)
    return y, jnp.where(y > 0, tangents[0], jnp.zeros_like(y))


def scaled_tanh(x: Array) -> Array:
    """``1.7159 tanh(2 x / 3)``: f(1) = 1, f(-1) = -1 (LeCun et al. 1998, Appendix A)."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "tanh": jnp.tanh,
    "scaled_tanh": scaled_tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The element-wise function called ``name``; unknown names raise ValueError with the list."""
    if name not in ACTIVATIONS:
        raise UsageError(f"activation={name!r} must be one of {', '.join(ACTIVATIONS)}{nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def as_pair(value: Pair) -> tuple[int, int]:
    """``(rows, columns)`` from one int or two."""
    try:
        return operator.index(value), operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        rows, columns = value  # type: ignore[misc]
        return operator.index(rows), operator.index(columns)
    except (TypeError, ValueError):
        raise UsageError(f"{value!r} must be an int, or a pair of ints for rows and columns") from None


def _axis_padding(padding: AxisPadding) -> tuple[int, int]:
    before, after = as_pair(padding)
    if before < 0 or after < 0:
        raise UsageError(f"padding={padding} must be >= 0")
    return before, after


def as_padding(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    """``((top, bottom), (left, right))`` from any form of padding; ValueError for "SAME" and negative numbers."""
    if isinstance(padding, str):
        raise UsageError(f"padding={padding!r} must be an int or a pair; total_padding(kernel_size - 1) keeps the size")
    rows, columns = padding if isinstance(padding, tuple | list) and len(padding) == 2 else (padding, padding)
    return _axis_padding(rows), _axis_padding(columns)


def at_least_float32(x: Array) -> Array:
    """For sums, which need the digits."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _promoted(x: Array, w: Array) -> tuple[Array, Array]:
    """Both in the wider of their types."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(x.dtype, w.dtype)
    return x.astype(dtype), w.astype(dtype)


def _pixels(x: Array) -> Array:
    """``[..., C]`` as ``[N, C]``: XLA's sums over one axis are five times as fast on a CPU as those over three."""
    return x.reshape(-1, x.shape[-1])
