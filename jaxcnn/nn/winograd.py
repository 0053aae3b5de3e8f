"""Convolution with 3x3 and 5x5 kernels by Winograd's F(m x m, r x r): fewer multiplications for more additions.

A tile of (m + r - 1) x (m + r - 1) pixels gives m x m pixels of the result (Lavin & Gray 2016, equation 8)::

    Y = A^T [ (G w G^T) * (B^T d B) ] A

summed over channels, so that each element of a tile is a matrix product of its own, of all tiles by all channels. The
gradient of the kernels is the transpose of that in w.

Results and gradients of images of 3x3 kernels take m = 2, four multiplications a pixel instead of nine, by matrices of 0, 1
and 1/2 only: rounding is that of a direct convolution. Gradients of those kernels, whose products XLA is slower in, take
m = 4, 2.25 a pixel; 5x5 kernels take m = 2, nine a pixel instead of 25. Both round more coarsely than a direct sum, within
the 1e-5 of the largest element that all ways promise.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from jaxcnn.nn.apart import apart
from jaxcnn.nn.geometry import padded
from jaxcnn.typing import Array

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
Grid: TypeAlias = list[list[Array]]
Padding: TypeAlias = Sequence[tuple[int, int]]


class _Form(NamedTuple):
    """``(A^T, G, B^T)`` of F(m, r)."""

    a_t: Matrix
    g: Matrix
    b_t: Matrix

    @property
    def m(self) -> int:
        """Results of a tile, along an axis."""
        return len(self.a_t)


def _form(r: int, *points: Fraction | int) -> _Form:
    """F(m, r) from its m + r - 2 points, to which infinity is added (Toom and Cook; Blahut 2010, chapter 5).

    A row of G is the kernel as a polynomial at one point, over the product of that point's distances to the others; one of
    B^T is the polynomial that is 0 at all others. The sign of the distances goes to B^T.
    """
    m = len(points) + 2 - r
    distances = [math.prod(p - q for q in points if q != p) for p in points]
    a_t = [[p**power for p in points] + [int(power == m - 1)] for power in range(m)]
    g = [[p**power / abs(Fraction(d)) for power in range(r)] for p, d in zip(points, distances, strict=True)]
    b_t = [_polynomial([q for q in points if q != p]) for p in points]
    b_t = [[c if d > 0 else -c for c in row] + [0] for row, d in zip(b_t, distances, strict=True)]
    return _Form(_floats(a_t), _floats([*g, [0] * (r - 1) + [1]]), _floats([*b_t, _polynomial(points)]))


def _polynomial(zeros: Sequence[Fraction | int]) -> list[Fraction | int]:
    """Its coefficients, that of the constant first."""
    coefficients: list[Fraction | int] = [1]
    for zero in zeros:
        coefficients = [up - zero * c for up, c in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients


def _floats(matrix: Sequence[Sequence[Fraction | int]]) -> Matrix:
    return tuple(tuple(float(element) for element in row) for row in matrix)


# Of the points tried those that round least; +-1 and +-2, the usual ones, round more coarsely.
_FINE = (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))
_RESULT = {3: _form(3, 0, 1, -1), 5: _form(5, *_FINE)}  # for images and their gradients, by size of the kernel
_KERNEL = {3: _form(3, *_FINE), 5: _form(5, *_FINE)}  # for gradients of kernels

_SLICE = 2**24  # bytes of transformed images at a time: they stay in the cache


def result(x: Array, w: Array, padding: Padding) -> Array:
    """y ``[B, H', W', F]`` of images x ``[B, H, W, C]``, kernels w ``[r, r, C, F]`` and zeros around the image."""
    return _convolved(_RESULT[w.shape[0]], x, [list(row) for row in w], padding)


def image_gradient(y: Array, w: Array, padding: Padding) -> Array:
    """The gradient of x ``[B, H, W, C]`` from that of the result, y ``[B, H', W', F]``: y by the kernels turned round."""
    most = w.shape[0] - 1
    turned = [list(row) for row in w[::-1, ::-1]]
    return _convolved(_RESULT[w.shape[0]], y, turned, [(most - i, most - j) for i, j in padding], transposed=True)


def _convolved(form: _Form, x: Array, w: Grid, padding: Padding, transposed: bool = False) -> Array:
    """Images by kernels, of which each element is ``[C, F]``, or ``[F, C]`` to be transposed."""
    kernels = lax.optimization_barrier(_both(form.g, w))
    if transposed:
        kernels = [[kernel.T for kernel in row] for row in kernels]
    height, width = (n + sum(ends) - len(w) + 1 for n, ends in zip(x.shape[1:3], padding, strict=True))
    channels_out = kernels[0][0].shape[1]

    def of_slice(x: Array) -> Array:
        products = _elementwise(operator.matmul, _tiles(form, x, (height, width), padding), kernels)
        pixels = _once(form.a_t, apart(functools.partial(_once, form.a_t))(products))
        y = jnp.stack([jnp.stack(row, 3) for row in pixels], 2)  # [B, rows of tiles, m, columns of tiles, m, F]
        return y.reshape(x.shape[0], form.m * y.shape[1], form.m * y.shape[3], -1)[:, :height, :width]

    slices = _sliced(form, x, (height, width), channels_out)
    if slices.shape[0] == 1:
        return of_slice(x)
    return lax.map(of_slice, slices).reshape(x.shape[0], height, width, channels_out)


def kernel_gradient(x: Array, y: Array, padding: Padding) -> Array:
    """The gradient of w ``[r, r, C, F]`` from images x ``[B, H, W, C]`` and the gradient y ``[B, H', W', F]`` of the result."""
    size = (y.shape[1], y.shape[2])
    r = x.shape[1] + sum(padding[0]) - size[0] + 1
    form = _KERNEL[r]

    def of_slice(x: Array, y: Array) -> Grid:
        y = padded(y, [(0, -n % form.m) for n in size])
        seen = _transformed(_transposed(form.a_t), y, form.m)
        tiles = _tiles(form, x, size, padding)
        return _elementwise(lambda d, g: d.reshape(-1, d.shape[3]).T @ g.reshape(-1, g.shape[3]), tiles, seen)

    def added(total: Grid, slices: tuple[Array, Array]) -> tuple[Grid, None]:
        return _elementwise(operator.add, total, of_slice(*slices)), None

    xs = _sliced(form, x, size, y.shape[3])
    if xs.shape[0] == 1:
        products = of_slice(x, y)
    else:
        zeros = [[jnp.zeros((x.shape[3], y.shape[3]), x.dtype)] * len(form.g)] * len(form.g)
        products, _ = lax.scan(added, zeros, (xs, y.reshape(*xs.shape[:2], *y.shape[1:])))
    return jnp.stack([jnp.stack(row) for row in _both(_transposed(form.g), products)])


def _sliced(form: _Form, x: Array, size: tuple[int, int], channels_out: int) -> Array:
    """x as ``[slices, B / slices, H, W, C]``, as many as equal slices that fit the cache make necessary."""
    batch, channels_in = x.shape[0], x.shape[3]
    elements = len(form.g) ** 2 * math.prod(-(-n // form.m) for n in size)
    most = max(1, _SLICE // (elements * (channels_in + channels_out) * x.dtype.itemsize))
    images = next(n for n in range(min(most, batch), 0, -1) if batch % n == 0)
    return x.reshape(batch // images, images, *x.shape[1:])


def _tiles(form: _Form, x: Array, size: tuple[int, int], padding: Padding) -> Grid:
    """``B^T d B`` of all tiles for ``size`` results, with zeros around x and as many more as whole tiles need."""
    m, more = form.m, (len(form.b_t) - 1) // form.m
    ends = [
        (before, m * (-(-n // m) + more) - length - before)
        for n, length, (before, _) in zip(size, x.shape[1:3], padding, strict=True)
    ]
    return _transformed(form.b_t, padded(x, ends), m)


def _transformed(matrix: Matrix, x: Array, m: int) -> Grid:
    """``matrix @ tile @ matrix.T`` of all tiles, m apart: of each element ``[B, rows of tiles, columns of tiles, C]``."""
    size = len(matrix[0])
    rows = apart(lambda x: _product(matrix, _pixels(x, 1, m, size)))(x)  # once, not anew for each of its columns
    return [_product(matrix, _pixels(row, 2, m, size)) for row in rows]


def _pixels(x: Array, axis: int, m: int, count: int) -> tuple[Array, ...]:
    """The first, second, ... of ``count`` pixels of each tile along an axis."""
    blocks = x.shape[axis] // m
    tiles = blocks - (count - 1) // m
    x = x.reshape(*x.shape[:axis], blocks, m, *x.shape[axis + 1 :])
    return tuple(
        lax.index_in_dim(lax.slice_in_dim(x, i // m, i // m + tiles, axis=axis), i % m, axis + 1, keepdims=False)
        for i in range(count)
    )


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _both(matrix: Matrix, grid: Grid) -> Grid:
    """``matrix @ grid @ matrix.T``, of arrays as elements."""
    return _once(matrix, _once(matrix, grid))


def _once(matrix: Matrix, grid: Grid) -> Grid:
    """``(matrix @ grid).T``."""
    return [_product(matrix, column) for column in zip(*grid, strict=True)]


def _elementwise(function: Callable[[Array, Array], Array], one: Grid, other: Grid) -> Grid:
    return [[function(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def _product(matrix: Matrix, vector: tuple[Array, ...]) -> list[Array]:
    """``matrix @ vector``, without the terms that are zero."""
    return [_weighted_sum(row, vector) for row in matrix]


def _weighted_sum(weights: tuple[float, ...], terms: tuple[Array, ...]) -> Array:
    scaled = [(m, c if abs(m) == 1 else c * abs(m)) for m, c in zip(weights, terms, strict=True) if m]
    added = functools.reduce(operator.add, [c for m, c in scaled if m > 0])
    return functools.reduce(operator.sub, [c for m, c in scaled if m < 0], added)
