"""Convolution with 3x3 kernels by Winograd's F(m x m, 3 x 3): fewer multiplications for more additions.

A tile of (m + 2) x (m + 2) pixels gives m x m pixels of the result (Lavin & Gray 2016, equation 8)::

    Y = A^T [ (G w G^T) * (B^T d B) ] A

summed over channels, so that each element of a tile is a matrix product of its own, of all tiles by all channels. The
gradient of the kernels is the transpose of that in w.

Results and gradients of images take m = 2, four multiplications a pixel instead of nine, by matrices of 0, 1 and 1/2 only:
rounding is that of a direct convolution. Gradients of kernels, whose products XLA is slower in, take m = 4, 2.25 a pixel; they
round more coarsely than a direct sum, within the 1e-5 of the largest element that all ways promise.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from jaxcnn.nn.apart import apart
from jaxcnn.nn.geometry import padded
from jaxcnn.typing import Array

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
Grid: TypeAlias = list[list[Array]]
Padding: TypeAlias = Sequence[tuple[int, int]]


def _matrices(*points: Fraction | int) -> tuple[Matrix, Matrix, Matrix]:
    """``(A^T, G, B^T)`` of F(m, 3) from its m + 1 points, to which infinity is added (Toom and Cook; Blahut 2010, chapter 5).

    A row of G is the kernel as a polynomial at one point, over the product of that point's distances to the others; one of
    B^T is the polynomial that is 0 at all others. The sign of the distances goes to B^T.
    """
    distances = [math.prod(p - q for q in points if q != p) for p in points]
    a_t = [[p**power for p in points] + [int(power == len(points) - 2)] for power in range(len(points) - 1)]
    g = [[p**power / abs(Fraction(d)) for power in range(3)] for p, d in zip(points, distances, strict=True)]
    b_t = [_polynomial([q for q in points if q != p]) for p in points]
    b_t = [[c if d > 0 else -c for c in row] + [0] for row, d in zip(b_t, distances, strict=True)]
    return _floats(a_t), _floats([*g, [0, 0, 1]]), _floats([*b_t, _polynomial(points)])


def _polynomial(zeros: Sequence[Fraction | int]) -> list[Fraction | int]:
    """Its coefficients, that of the constant first."""
    coefficients: list[Fraction | int] = [1]
    for zero in zeros:
        coefficients = [up - zero * c for up, c in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients


def _floats(matrix: Sequence[Sequence[Fraction | int]]) -> Matrix:
    return tuple(tuple(float(element) for element in row) for row in matrix)


A_T, G, B_T = _matrices(0, 1, -1)
# Of the points tried those that round least; +-1 and +-2, the usual ones, round more coarsely.
A4_T, G4, B4_T = _matrices(0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))

_SLICE = 2**24  # bytes of transformed images at a time: they stay in the cache


def result(x: Array, w: Array, padding: Padding) -> Array:
    """y ``[B, H', W', F]`` of images x ``[B, H, W, C]``, kernels w ``[3, 3, C, F]`` and zeros around the image."""
    return _convolved(x, lax.optimization_barrier(_both(G, [list(row) for row in w])), padding)


def image_gradient(y: Array, w: Array, padding: Padding) -> Array:
    """The gradient of x ``[B, H, W, C]`` from that of the result, y ``[B, H', W', F]``: y by the kernels turned round.

    Turned round, a kernel is transformed to the same elements: those of 0 and infinity change places.
    """
    kernels = lax.optimization_barrier(_both(G, [list(row) for row in w]))
    order = (3, 1, 2, 0)
    turned = [[kernels[i][j].T for j in order] for i in order]
    return _convolved(y, turned, [(2 - before, 2 - after) for before, after in padding])


def _convolved(x: Array, kernels: Grid, padding: Padding) -> Array:
    """Images by transformed kernels, 4 x 4 of ``[C, F]``."""
    height, width = (n + sum(ends) - 2 for n, ends in zip(x.shape[1:3], padding, strict=True))
    channels_out = kernels[0][0].shape[1]

    def of_slice(x: Array) -> Array:
        tiles = _transformed(B_T, _tiles(x, 2, (height, width), padding), 2)
        products = _elementwise(operator.matmul, tiles, kernels)
        rows = [jnp.stack(row, 3) for row in _both(A_T, products)]
        y = jnp.stack(rows, 2)  # [B, rows of tiles, 2, columns of tiles, 2, F]
        return y.reshape(x.shape[0], 2 * y.shape[1], 2 * y.shape[3], -1)[:, :height, :width]

    slices = _sliced(x, 2, (height, width), channels_out)
    if slices.shape[0] == 1:
        return of_slice(x)
    return lax.map(of_slice, slices).reshape(x.shape[0], height, width, channels_out)


def kernel_gradient(x: Array, y: Array, padding: Padding) -> Array:
    """The gradient of w ``[3, 3, C, F]`` from images x ``[B, H, W, C]`` and the gradient y ``[B, H', W', F]`` of the result."""
    height, width = y.shape[1:3]

    def of_slice(x: Array, y: Array) -> Grid:
        tiles = _transformed(B4_T, _tiles(x, 4, (height, width), padding), 4)
        y = padded(y, [(0, -height % 4), (0, -width % 4)])
        seen = _transformed(_transposed(A4_T), y, 4)
        return _elementwise(lambda d, g: d.reshape(-1, d.shape[3]).T @ g.reshape(-1, g.shape[3]), tiles, seen)

    def added(total: Grid, slices: tuple[Array, Array]) -> tuple[Grid, None]:
        return _elementwise(operator.add, total, of_slice(*slices)), None

    xs = _sliced(x, 4, (height, width), y.shape[3])
    if xs.shape[0] == 1:
        products = of_slice(x, y)
    else:
        zeros = jnp.zeros((x.shape[3], y.shape[3]), x.dtype)
        products, _ = lax.scan(added, [[zeros] * 6] * 6, (xs, y.reshape(*xs.shape[:2], *y.shape[1:])))
    return jnp.stack([jnp.stack(row) for row in _both(_transposed(G4), products)])


def _sliced(x: Array, m: int, size: tuple[int, int], channels_out: int) -> Array:
    """x as ``[slices, B / slices, H, W, C]``, as many as equal slices that fit the cache make necessary."""
    batch, channels_in = x.shape[0], x.shape[3]
    tiles = -(-size[0] // m) * -(-size[1] // m)
    most = max(1, _SLICE // ((m + 2) ** 2 * tiles * (channels_in + channels_out) * x.dtype.itemsize))
    images = next(n for n in range(min(most, batch), 0, -1) if batch % n == 0)
    return x.reshape(batch // images, images, *x.shape[1:])


def _tiles(x: Array, m: int, size: tuple[int, int], padding: Padding) -> Array:
    """x with the zeros around it, and as many more as whole tiles for ``size`` results, m apart, need."""
    ends = [
        (before, m * (-(-n // m) + 1) - length - before)
        for n, length, (before, _) in zip(size, x.shape[1:3], padding, strict=True)
    ]
    return padded(x, ends)


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
    columns = [_product(matrix, column) for column in zip(*grid, strict=True)]
    return [_product(matrix, row) for row in zip(*columns, strict=True)]


def _elementwise(function: Callable[[Array, Array], Array], one: Grid, other: Grid) -> Grid:
    return [[function(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def _product(matrix: Matrix, vector: tuple[Array, ...]) -> list[Array]:
    """``matrix @ vector``, without the terms that are zero."""
    return [_weighted_sum(row, vector) for row in matrix]


def _weighted_sum(weights: tuple[float, ...], terms: tuple[Array, ...]) -> Array:
    scaled = [(m, c if abs(m) == 1 else c * abs(m)) for m, c in zip(weights, terms, strict=True) if m]
    added = functools.reduce(operator.add, [c for m, c in scaled if m > 0])
    return functools.reduce(operator.sub, [c for m, c in scaled if m < 0], added)
