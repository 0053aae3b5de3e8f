"""Convolution as one bilinear primitive, whose three products are each computed in the way that a platform does fastest.

With images x, kernels w and results y, in ``y = x * w`` any of the three follows from the two others as a sum of products:
y from x and w, the gradient of x from y and w, the gradient of w from x and y. Each is linear in both operands, and the
transpose of each is another of the three, so that gradients of any order, forward mode, ``vmap`` and ``remat`` follow from
one table (``_TRANSPOSES``). On GPU and TPU all three are XLA's own convolutions. On CPU ``choose`` picks a way; its
reasons are measurements (``benchmarks/convolution.py``).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

import jaxcnn.nn.canonical as canonical
import jaxcnn.nn.linear as linear
import jaxcnn.nn.winograd as winograd
from jaxcnn.nn.apart import apart
from jaxcnn.nn.geometry import LAYOUT, Geometry, padded
from jaxcnn.typing import Array

Product: TypeAlias = Literal["y", "x", "w"]
Way: TypeAlias = Literal["native", "canonical", "dot", "halved", "folded", "windows", "banded", "winograd", "turned"]


def convolution(x: Array, w: Array, stride: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """``nn.conv2d`` without groups and dilation: x ``[B, H, W, C]``, w ``[kh, kw, C, F]`` to y ``[B, H', W', F]``."""
    geometry = Geometry((x.shape[1], x.shape[2]), (w.shape[0], w.shape[1]), stride, padding)
    return _bind(x, w, of="y", geometry=geometry)


def choose(of: Product, geometry: Geometry, batch: int, channels_in: int, channels_out: int, dtype: Any) -> Way:
    """The fastest way on a CPU; each rule with its reason, as ``benchmarks/convolution.py`` measures it."""
    if geometry.padding == ((0, 0), (0, 0)) and geometry.kernel in ((1, 1), geometry.image):
        if geometry.image == (1, 1) and channels_in % 2 == 0 and channels_in * channels_out >= 2**20:
            large: dict[Product, Way] = {"y": "native", "x": "halved", "w": "turned"}
            return large[of]  # the kernel is read, or written, once: how fast is a matter of XLA's order
        return "turned" if of == "w" else "dot"  # what is a matrix product is computed as one
    if geometry.stride == (1, 1) and geometry.kernel[1] > 1 and channels_in * channels_out <= 128:
        if of == "x" and geometry.image[1] <= 4 * geometry.kernel[1]:
            return "banded"  # most of a row of pixels is under some tap of the kernel: one product for half of it
        if of != "x" and channels_in == 1 and max(geometry.kernel) <= 7:  # or the windows outgrow the result
            return "windows"  # copied for less than it costs XLA's convolution to look up single pixels
        return "folded"  # with few channels the products are too small for the machine, and some pixels are one larger
    small = min(channels_in, channels_out) < 32 or batch * math.prod(geometry.result) < 256
    if (
        geometry.kernel in ((3, 3), (5, 5))
        and geometry.stride == (1, 1)
        and not small
        and jnp.dtype(dtype).itemsize >= 4
    ):
        # Fewer multiplications outweigh the bytes of the tiles, and the transform of the kernels. A type narrower than
        # float32 would lose digits in the sums before, between and after them.
        return "winograd"
    # Native gradients leave it to XLA to bring images and kernels into the layout that its library wants. In a loop it
    # does not, and they are ten to two hundred times slower there (jax-ml/jax#12868).
    return "native" if of == "y" else "canonical"


def compute(way: Way, of: Product, a: Array, b: Array, geometry: Geometry) -> Array:
    """One of the products, in one of the ways; all give the same but for rounding."""
    if way == "winograd":
        product = {"y": winograd.result, "x": winograd.image_gradient, "w": winograd.kernel_gradient}[of]
        return product(a, b, geometry.padding)
    if (way == "canonical" and of != "y") or (of == "x" and _sees_only_padding(geometry)):
        return (canonical.image_gradient if of == "x" else canonical.kernel_gradient)(a, b, geometry)
    if way == "folded":
        return _folded(of, a, b, geometry)
    if way == "windows" and of != "x":
        return _windows(of, a, b, geometry)
    if way == "turned" and of == "w":
        return _turned(a, b, geometry)
    if way in ("halved", "banded") and of == "x":
        return _halved(a, b) if way == "halved" else _banded(a, b, geometry)
    forward = functools.partial(_dot if way in ("dot", "halved", "turned") else _native, geometry=geometry)
    if of == "y":
        return forward(a, b)
    missing = jax.ShapeDtypeStruct(_shape(of, a.shape, b.shape, geometry), a.dtype)
    if of == "x":
        return jax.linear_transpose(lambda x: forward(x, b), missing)(a)[0]
    return jax.linear_transpose(lambda w: forward(a, w), missing)(b)[0]


def _channels(of: Product, a: Array, b: Array) -> tuple[int, int]:
    """Channels of x and of y."""
    if of == "w":
        return a.shape[3], b.shape[3]
    return b.shape[2], b.shape[3]


def _shape(of: Product, a: tuple[int, ...], b: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
    if of == "w":
        return (*geometry.kernel, a[3], b[3])
    return (a[0], *geometry.result, b[3]) if of == "y" else (a[0], *geometry.image, b[2])


def num_macs(equation: Any) -> int:
    """Multiply-adds of one of the products, given as an equation of a jaxpr (its primitive is ``PRODUCT``)."""
    of, geometry = equation.params["of"], equation.params["geometry"]
    a, b = (operand.aval for operand in equation.invars)
    return a.shape[0] * math.prod((*geometry.result, *geometry.kernel, *_channels(of, a, b)))


# Ways to compute y from x and w.


def _native(x: Array, w: Array, geometry: Geometry) -> Array:
    pads = geometry.padding
    if _sees_only_padding(geometry):  # the transpose that XLA makes of it by itself, under vmap, would be wrong
        x, pads = padded(x, pads), ((0, 0), (0, 0))
    return lax.conv_general_dilated(x, w, geometry.stride, pads, dimension_numbers=LAYOUT)


def _sees_only_padding(geometry: Geometry) -> bool:
    """Whether a window may see no pixel; XLA's gradients are wrong then, see ``canonical``."""
    return any(max(pads) >= k for pads, k in zip(geometry.padding, geometry.kernel, strict=True))


def _dot(x: Array, w: Array, geometry: Geometry) -> Array:
    """A kernel of one pixel, or as large as the image: one matrix product."""
    return (_pixels(x, geometry) @ w.reshape(-1, w.shape[3])).reshape(x.shape[0], *geometry.result, w.shape[3])


def _turned(x: Array, y: Array, geometry: Geometry) -> Array:
    """The kernel gradient of ``_dot``."""
    y = y.reshape(-1, y.shape[3])
    return _summed(_pixels(x, geometry), y).reshape(*geometry.kernel, -1, y.shape[1])


def _summed(x: Array, y: Array) -> Array:
    """``x^T y``; of x and y the narrower is turned round, where there are rows enough to pay for it.

    The barrier keeps XLA from taking ``(y^T x)^T`` for ``x^T y``; JAX's own transpose of ``_dot`` is the former for any width.
    """
    if x.shape[1] > y.shape[1] and x.shape[0] >= 512:
        return lax.optimization_barrier(lax.dot_general(y, x, (((0,), (0,)), ((), ())))).T
    return lax.dot_general(x, y, (((0,), (0,)), ((), ())))


def _pixels(x: Array, geometry: Geometry) -> Array:
    """What each kernel of ``_dot`` sees, as a row."""
    if geometry.kernel == (1, 1):
        return x[:, :: geometry.stride[0], :: geometry.stride[1]].reshape(-1, x.shape[3])
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _halved(y: Array, w: Array) -> Array:
    """The gradient of a large dense layer's input, in two halves of its channels.

    As one product XLA reads the kernel against the grain, five to ten times as slow as memory.
    """
    halves = w.reshape(2, -1, w.shape[3])
    y = jnp.broadcast_to(y.reshape(-1, w.shape[3]), (2, y.shape[0], w.shape[3]))
    x = lax.dot_general(halves, y, (((2,), (2,)), ((0,), (0,))))  # [2, C / 2, B]
    return x.reshape(w.shape[2], -1).T[:, None, None, :]


def _folded(of: Product, a: Array, b: Array, geometry: Geometry) -> Array:
    """A convolution with some neighbours in a row as the channels of one pixel: fewer and larger products.

    No element of x or y moves.
    """
    width, kernel, (left, _) = geometry.result[1], geometry.kernel[1], geometry.padding[1]
    fold = 4 if _channels(of, a, b)[0] <= 4 else 2
    across, blocks = -(-(fold + kernel - 1) // fold), -(-width // fold)
    folded = Geometry(
        (geometry.image[0], blocks + across - 1), (geometry.kernel[0], across), (1, 1), (geometry.padding[0], (0, 0))
    )

    def image(x: Array) -> Array:
        right = fold * folded.image[1] - geometry.image[1] - left
        return padded(x, [(0, 0), (left, right)]).reshape(*x.shape[:2], folded.image[1], fold * x.shape[3])

    def kernels(w: Array) -> Array:
        whole = _side_by_side(w, fold, fold * across)
        return whole.reshape(w.shape[0], across, fold * w.shape[2], fold * w.shape[3])

    def result(y: Array) -> Array:
        return padded(y, [(0, 0), (0, fold * blocks - width)]).reshape(*y.shape[:2], blocks, fold * y.shape[3])

    if of == "y":
        y = _native(image(a), kernels(b), folded)
        return y.reshape(a.shape[0], geometry.result[0], fold * blocks, b.shape[3])[:, :, :width]
    missing = jax.ShapeDtypeStruct(_shape(of, a.shape, b.shape, geometry), a.dtype)
    if of == "x":
        return jax.linear_transpose(image, missing)(canonical.image_gradient(result(a), kernels(b), folded))[0]
    return jax.linear_transpose(kernels, missing)(canonical.kernel_gradient(image(a), result(b), folded))[0]


def _windows(of: Product, a: Array, b: Array, geometry: Geometry) -> Array:
    """A convolution as one product: of what some neighbours in a row of the result see, with a kernel for each of them."""
    neighbours, width, (rows, columns) = 4, geometry.result[1], geometry.kernel
    seen, blocks = neighbours + columns - 1, -(-width // neighbours)

    def windows(x: Array) -> Array:
        left, last = geometry.padding[1][0], neighbours * (blocks - 1)
        x = padded(x, [geometry.padding[0], (left, last + seen - left - geometry.image[1])])
        pixels = [x[:, :, j : j + last + 1 : neighbours] for j in range(seen)]
        each = [jnp.stack([pixel[:, i : i + geometry.result[0]] for pixel in pixels], 3) for i in range(rows)]
        return jnp.stack(each, 3).reshape(-1, rows * seen * x.shape[3])

    def kernels(w: Array) -> Array:
        return _side_by_side(w, neighbours, seen).reshape(-1, neighbours * w.shape[3])

    if of == "y":
        y = windows(a) @ kernels(b)
        return y.reshape(a.shape[0], geometry.result[0], neighbours * blocks, b.shape[3])[:, :, :width]
    y = padded(b, [(0, 0), (0, neighbours * blocks - width)]).reshape(-1, neighbours * b.shape[3])
    missing = jax.ShapeDtypeStruct(_shape(of, a.shape, b.shape, geometry), a.dtype)
    return jax.linear_transpose(kernels, missing)(_summed(windows(a), y))[0]


def _side_by_side(w: Array, neighbours: int, seen: int) -> Array:
    """A kernel for neighbours in a row, ``[kh, seen, C, neighbours, F]``: w for each of them, moved on by one, and zeros."""
    moved = [padded(w, [(i, seen - w.shape[1] - i), (0, 0)]) for i in range(neighbours)]
    return jnp.stack(moved, 3)


def _banded(y: Array, w: Array, geometry: Geometry) -> Array:
    """The gradient of few channels of small images: a row of y gives its share of each row of x that it saw, as one product.

    The matrix for it, pixels of x by pixels of y in that row, holds w along a band and zeros: each half of a row of x for
    itself, which leaves out zeros of the corners.
    """
    (height, width), (rows, columns), kernel = geometry.image, geometry.result, geometry.kernel
    (top, _), (left, _) = geometry.padding
    shares, half = [], -(-width // 2)
    for start in range(0, width, half):
        end = min(start + half, width)
        first, last = max(0, start + left - kernel[1] + 1), min(columns, end + left)  # pixels of y that saw this half
        ends = [(j - left - start, end + left - j - kernel[1]) for j in range(first, last)]
        band = jnp.stack([padded(w, [moved, (0, 0)]) for moved in ends], 3).reshape(-1, (last - first) * w.shape[3])
        share = y[:, :, first:last].reshape(y.shape[0] * rows, band.shape[1]) @ band.T
        shares.append(share.reshape(-1, rows, kernel[0], (end - start) * w.shape[2]))
    ends = [(i - top, height - rows - i + top) for i in range(kernel[0])]

    def added(*shares: Array) -> Array:
        moved = [[padded(share[:, :, i, None], [end, (0, 0)]) for i, end in enumerate(ends)] for share in shares]
        return jnp.concatenate([functools.reduce(jnp.add, parts) for parts in moved], 3)

    # Apart, because what follows often repeats pixels, an average pooling's gradient for one.
    return apart(added)(*shares).reshape(-1, height, width, w.shape[2])


# The primitive.

# Of each product the two that transpose it: from a cotangent and the operand that stays.
_TRANSPOSES: dict[Product, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "y": (lambda y, w, g: _bind(y, w, of="x", geometry=g), lambda y, x, g: _bind(x, y, of="w", geometry=g)),
    "x": (lambda x, w, g: _bind(x, w, of="y", geometry=g), lambda x, y, g: _bind(x, y, of="w", geometry=g)),
    "w": (lambda w, y, g: _bind(y, w, of="x", geometry=g), lambda w, x, g: _bind(x, w, of="y", geometry=g)),
}


def _bind(a: Array, b: Array, *, of: Product, geometry: Geometry) -> Array:
    return PRODUCT.bind(a, b, of=of, geometry=geometry)


def _fast(a: Array, b: Array, *, of: Product, geometry: Geometry) -> Array:
    return compute(choose(of, geometry, a.shape[0], *_channels(of, a, b), a.dtype), of, a, b, geometry)


def _plain(a: Array, b: Array, *, of: Product, geometry: Geometry) -> Array:
    """XLA's own convolution; of images of one pixel (dense layers) its matrix product, on all platforms.

    Of many convolutions at once, with operands of their own, XLA makes one with groups.
    """
    dense = geometry.image == geometry.kernel == (1, 1) and geometry.padding == ((0, 0), (0, 0))
    return compute("dot" if dense else "native", of, a, b, geometry)


PRODUCT = linear.primitive(
    "convolution_product",
    lambda a, b, of, geometry: _shape(of, a.shape, b.shape, geometry),
    (
        lambda cotangent, b, of, geometry: _TRANSPOSES[of][0](cotangent, b, geometry),
        lambda cotangent, a, of, geometry: _TRANSPOSES[of][1](cotangent, a, geometry),
    ),
    _fast,
    _plain,
    ("of", "geometry"),
)
