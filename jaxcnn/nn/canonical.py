"""The gradients of a convolution as convolutions in the layout of the forward pass, which XLA on a CPU is fast in."""

import jax.numpy as jnp
from jax import lax

from jaxcnn.nn.geometry import LAYOUT, Geometry, padded
from jaxcnn.typing import Array

_FEW = 16  # channels of x: with more, multiplications saved outweigh products larger than needed


def image_gradient(y: Array, w: Array, geometry: Geometry) -> Array:
    """y convolved with the kernels turned round; with a stride, of each phase of the image by its own part of the kernel."""
    if geometry.stride != (1, 1):
        whole = (_phases_as_channels if w.shape[2] < _FEW else _phases_apart)(y, w, geometry)
        sizes = zip(geometry.image, whole.shape[1:3], geometry.padding, strict=True)
        return padded(whole, [(-before, before + n - m) for n, m, (before, _) in sizes])
    pads = [
        (k - 1 - before, k - 1 - after) for k, (before, after) in zip(geometry.kernel, geometry.padding, strict=True)
    ]
    # What lies in the padding alone is cut off here: XLA's convolution with negative padding reads beyond its memory on CPU.
    y = padded(y, [(min(before, 0), min(after, 0)) for before, after in pads])
    pads = [(max(before, 0), max(after, 0)) for before, after in pads]
    turned = lax.optimization_barrier(w[::-1, ::-1].transpose(0, 1, 3, 2))
    return lax.conv_general_dilated(y, turned, (1, 1), pads, dimension_numbers=LAYOUT)


def kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """x convolved with y: the batch takes the place of the channels, and the channels that of the batch.

    A stride sets the pixels of y apart. Rows of x that no window reaches are cut off first.
    """
    reached = [(n - 1) * s + k for n, s, k in zip(geometry.result, geometry.stride, geometry.kernel, strict=True)]
    if any(r <= before for r, (before, _) in zip(reached, geometry.padding, strict=True)):
        return jnp.zeros((*geometry.kernel, x.shape[3], y.shape[3]), x.dtype)  # no window reaches the image
    ends = [r - n - before for r, n, (before, _) in zip(reached, geometry.image, geometry.padding, strict=True)]
    x = padded(x, [(0, min(after, 0)) for after in ends])
    x, y = lax.optimization_barrier((x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3)))
    padding = [(before, max(after, 0)) for after, (before, _) in zip(ends, geometry.padding, strict=True)]
    w = lax.conv_general_dilated(x, y, (1, 1), padding, rhs_dilation=geometry.stride, dimension_numbers=LAYOUT)
    return w.transpose(1, 2, 0, 3)


def _phases_apart(y: Array, w: Array, geometry: Geometry) -> Array:
    """The gradient of the padded image, each phase by itself: no multiplication is wasted."""
    grid, phases = _phases(geometry)
    parts = []
    for (i, j), phase in phases:
        part = image_gradient(y, w[i :: geometry.stride[0], j :: geometry.stride[1]], phase)
        spare = [(0, size - n) for size, n in zip(grid, part.shape[1:3], strict=True)]
        parts.append(((i, j), padded(part, spare)))
    return _interleaved(parts, geometry.stride)


def _phases_as_channels(y: Array, w: Array, geometry: Geometry) -> Array:
    """The gradient of the padded image, all phases as the channels of one, with kernels as large as the largest phase's.

    Of the few channels of a first layer, each phase by itself is too small a product for the machine.
    """
    (down, right), (height, width, channels_in, channels_out) = geometry.stride, w.shape
    rows, columns = -(-height // down), -(-width // right)
    w = jnp.pad(w, [(0, rows * down - height), (0, columns * right - width), (0, 0), (0, 0)])
    w = w.reshape(rows, down, columns, right, channels_in, channels_out).transpose(0, 2, 1, 3, 4, 5)
    phase = Geometry(
        (geometry.result[0] + rows - 1, geometry.result[1] + columns - 1), (rows, columns), (1, 1), ((0, 0), (0, 0))
    )
    x = image_gradient(y, w.reshape(rows, columns, -1, channels_out), phase)
    x = x.reshape(*x.shape[:3], down, right, channels_in).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(x.shape[0], phase.image[0] * down, phase.image[1] * right, channels_in)


def _phases(geometry: Geometry) -> tuple[tuple[int, int], list[tuple[tuple[int, int], Geometry]]]:
    """A convolution with a stride s is a sum of s x s without one: of every s-th pixel with every s-th tap.

    Returns the rows and columns of the largest phase of the padded image, and of each its place and convolution. A phase
    that no tap sees is left out.
    """
    (down, right), (rows, columns), (height, width) = geometry.stride, geometry.result, geometry.kernel
    grid = rows + -(-height // down) - 1, columns + -(-width // right) - 1
    phases = []
    for i in range(min(down, height)):
        for j in range(min(right, width)):
            kernel = -(-(height - i) // down), -(-(width - j) // right)
            image = rows + kernel[0] - 1, columns + kernel[1] - 1
            phases.append(((i, j), Geometry(image, kernel, (1, 1), ((0, 0), (0, 0)))))
    return grid, phases


def _interleaved(parts: list[tuple[tuple[int, int], Array]], stride: tuple[int, int]) -> Array:
    """Parts of equal shape as every ``stride``-th row and column of one array, zeros where there is none."""
    found, zeros = dict(parts), jnp.zeros_like(parts[0][1])
    rows = [jnp.stack([found.get((i, j), zeros) for j in range(stride[1])], 3) for i in range(stride[0])]
    batch, height, width, channels = zeros.shape
    return jnp.stack(rows, 2).reshape(batch, height * stride[0], width * stride[1], channels)
