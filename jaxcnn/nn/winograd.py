"""Convolution with 3x3 and 5x5 kernels by Winograd's F(m x n, r x r): fewer multiplications for more additions.

A tile of (m + r - 1) x (n + r - 1) pixels gives m x n pixels of the result (Lavin & Gray 2016, equation 8, there m = n)::

    Y = A^T [ (G w G^T) * (B^T d B) ] A

summed over channels, so that each element of a tile is a matrix product of its own, of all tiles by all channels. The
matrices to the left are those of F(m, r), to the right of F(n, r). The gradient of the kernels is the transpose in w.

Results and gradients of images of 3x3 kernels take 4 x 2 pixels a tile, three multiplications a pixel instead of nine; along
the rows, n = 2, the matrices are of 0, 1 and 1/2 only, which keeps rounding near that of a direct sum. Gradients of those
kernels, whose products XLA is slower in, take 4 x 4, 2.25 a pixel; 5x5 kernels take 2 x 2, nine a pixel instead of 25. Both
round more coarsely. All are within the 1e-5 of the largest element that every way promises.
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


_Forms: TypeAlias = tuple[_Form, _Form]  # down the columns of an image, and along its rows


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
_F23, _F43, _F25 = _form(3, 0, 1, -1), _form(3, *_FINE), _form(5, *_FINE)
_KERNEL: dict[int, _Forms] = {3: (_F43, _F43), 5: (_F25, _F25)}  # for gradients of kernels, by their size

# Bytes of transformed images at a time: few enough to stay near the cache. A result's products want some thousand tiles.
_RESULT_SLICE, _KERNEL_SLICE = 2**25, 2**24


def _result(r: int, height: int) -> _Forms:
    """For results of so many rows, and gradients of images."""
    if r == 5:
        return _F25, _F25
    return (_F43 if height > 2 else _F23), _F23


def result(x: Array, w: Array, padding: Padding) -> Array:
    """y ``[B, H', W', F]`` of images x ``[B, H, W, C]``, kernels w ``[r, r, C, F]`` and zeros around the image."""
    return _convolved(x, _elements(w), padding)


def image_gradient(y: Array, w: Array, padding: Padding) -> Array:
    """The gradient of x ``[B, H, W, C]`` from that of the result, y ``[B, H', W', F]``: y by the kernels turned round."""
    most = w.shape[0] - 1
    turned = [row[::-1] for row in _elements(w)[::-1]]
    return _convolved(y, turned, [(most - i, most - j) for i, j in padding], transposed=True)


def _convolved(x: Array, w: Grid, padding: Padding, transposed: bool = False) -> Array:
    """Images by kernels, of which each element is ``[1, 1, C, F]``, or ``[1, 1, F, C]`` to be transposed."""
    height, width = (n + sum(ends) - len(w) + 1 for n, ends in zip(x.shape[1:3], padding, strict=True))
    down, along = forms = _result(len(w), height)
    kernels = lax.optimization_barrier(_both(down.g, along.g, w))
    kernels = [[kernel[0, 0].T if transposed else kernel[0, 0] for kernel in row] for row in kernels]
    channels_out = kernels[0][0].shape[1]

    def of_slice(x: Array) -> Array:
        products = _elementwise(operator.matmul, _tiles(forms, x, (height, width), padding), kernels)
        pixels = _once(along.a_t, apart(functools.partial(_once, down.a_t))(products))
        y = jnp.stack([jnp.stack(row, 3) for row in pixels], 2)  # [B, rows of tiles, m, columns of tiles, n, F]
        return y.reshape(x.shape[0], down.m * y.shape[1], along.m * y.shape[3], -1)[:, :height, :width]

    slices = _sliced(forms, _RESULT_SLICE, x, (height, width), channels_out)
    if slices.shape[0] == 1:
        return of_slice(x)
    return lax.map(of_slice, slices).reshape(x.shape[0], height, width, channels_out)


def kernel_gradient(x: Array, y: Array, padding: Padding) -> Array:
    """The gradient of w ``[r, r, C, F]`` from images x ``[B, H, W, C]`` and the gradient y ``[B, H', W', F]`` of the result."""
    size = (y.shape[1], y.shape[2])
    r = x.shape[1] + sum(padding[0]) - size[0] + 1
    down, along = forms = _KERNEL[r]

    def of_slice(x: Array, y: Array) -> Grid:
        y = padded(y, [(0, -n % form.m) for form, n in zip(forms, size, strict=True)])
        seen = _transformed((_transposed(down.a_t), _transposed(along.a_t)), y, (down.m, along.m))
        tiles = _tiles(forms, x, size, padding)
        return _elementwise(lambda d, g: d.reshape(-1, d.shape[3]).T @ g.reshape(-1, g.shape[3]), tiles, seen)

    def added(total: Grid, slices: tuple[Array, Array]) -> tuple[Grid, None]:
        return _elementwise(operator.add, total, of_slice(*slices)), None

    xs = _sliced(forms, _KERNEL_SLICE, x, size, y.shape[3])
    if xs.shape[0] == 1:
        products = of_slice(x, y)
    else:
        zeros = [[jnp.zeros((x.shape[3], y.shape[3]), x.dtype)] * len(along.g)] * len(down.g)
        products, _ = lax.scan(added, zeros, (xs, y.reshape(*xs.shape[:2], *y.shape[1:])))
    rows = apart(functools.partial(_once, _transposed(down.g)))(products)
    return jnp.stack([jnp.stack(row) for row in _once(_transposed(along.g), rows)])


def _elements(w: Array) -> Grid:
    """Kernels ``[r, r, C, F]`` by their elements ``[1, 1, C, F]``.

    All four axes stay. Where two are dropped, XLA moves that step to another place on one device than on several; what is
    fused, and so how it rounds, would depend on their number, which ``elastic_exact`` excludes.
    """
    return [[w[i : i + 1, j : j + 1] for j in range(w.shape[1])] for i in range(w.shape[0])]


def _sliced(forms: _Forms, most_bytes: int, x: Array, size: tuple[int, int], channels_out: int) -> Array:
    """x as ``[slices, B / slices, H, W, C]``, as many equal slices as are necessary."""
    batch, channels_in = x.shape[0], x.shape[3]
    elements = math.prod(len(form.g) * -(-n // form.m) for form, n in zip(forms, size, strict=True))
    most = max(1, most_bytes // (elements * (channels_in + channels_out) * x.dtype.itemsize))
    images = next(n for n in range(min(most, batch), 0, -1) if batch % n == 0)
    return x.reshape(batch // images, images, *x.shape[1:])


def _tiles(forms: _Forms, x: Array, size: tuple[int, int], padding: Padding) -> Grid:
    """``B^T d B`` of all tiles for ``size`` results, with zeros around x and as many more as whole tiles need."""
    ends = [
        (before, form.m * (-(-n // form.m) + (len(form.b_t) - 1) // form.m) - length - before)
        for form, n, length, (before, _) in zip(forms, size, x.shape[1:3], padding, strict=True)
    ]
    down, along = forms
    return _transformed((down.b_t, along.b_t), padded(x, ends), (down.m, along.m))


def _transformed(matrices: tuple[Matrix, Matrix], x: Array, apart_by: tuple[int, int]) -> Grid:
    """``left @ tile @ right.T`` of all tiles, so far apart: of each element ``[B, rows of tiles, columns of tiles, C]``."""
    (left, right), (m, n) = matrices, apart_by
    rows = apart(lambda x: _product(left, _pixels(x, 1, m, len(left[0]))))(x)  # once, not anew for each of its columns
    return [_product(right, _pixels(row, 2, n, len(right[0]))) for row in rows]


def _pixels(x: Array, axis: int, m: int, count: int) -> tuple[Array, ...]:
    """The first, second, ... of ``count`` pixels of each tile along an axis."""
    tiles = x.shape[axis] // m - (count - 1) // m
    return tuple(lax.slice_in_dim(x, i, i + m * (tiles - 1) + 1, m, axis) for i in range(count))


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _both(left: Matrix, right: Matrix, grid: Grid) -> Grid:
    """``left @ grid @ right.T``, of arrays as elements."""
    return _once(right, _once(left, grid))


def _once(matrix: Matrix, grid: Grid) -> Grid:
    """``(matrix @ grid).T``."""
    return [_product(matrix, column) for column in zip(*grid, strict=True)]


def _elementwise(function: Callable[[Array, Array], Array], one: Grid, other: Grid) -> Grid:
    return [[function(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def _product(matrix: Matrix, vector: tuple[Array, ...]) -> list[Array]:
    """``matrix @ vector``, without the terms that are zero."""
    return [_weighted_sum(row, vector) for row in matrix]


def _weighted_sum(weights: tuple[float, ...], terms: tuple[Array, ...]) -> Array:
    # On one device XLA halves the sum of such terms, on several the terms; what it fuses with that would round otherwise.
    halves = {abs(m) for m in weights if m} == {0.5}
    scaled = [(m, c if halves or abs(m) == 1 else c * abs(m)) for m, c in zip(weights, terms, strict=True) if m]
    added = functools.reduce(operator.add, [c for m, c in scaled if m > 0])
    total = functools.reduce(operator.sub, [c for m, c in scaled if m < 0], added)
    return total * 0.5 if halves else total
