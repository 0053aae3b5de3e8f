"""Each way to compute a product of a convolution gives what the definition gives; so do all derivatives of ``conv2d``."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import nn
from jaxcnn.nn import convolution, winograd
from jaxcnn.nn.apart import apart
from jaxcnn.nn.convolution import Geometry

# batch, channels in and out, geometry: few and many channels, strides beyond the kernel, more padding than kernel, pixels
# that no window sees, one pixel, and kernels as large as the image
CASES = [
    (3, 1, 6, Geometry((9, 8), (5, 5), (1, 1), ((2, 2), (2, 2)))),
    (2, 6, 16, Geometry((7, 7), (5, 5), (1, 1), ((0, 0), (0, 0)))),
    (2, 5, 7, Geometry((6, 11), (2, 3), (1, 1), ((0, 1), (3, 0)))),
    (2, 20, 9, Geometry((5, 4), (3, 3), (1, 1), ((1, 1), (1, 1)))),
    (2, 20, 9, Geometry((2, 3), (3, 3), (1, 1), ((1, 1), (1, 1)))),
    (1, 3, 4, Geometry((3, 2), (2, 2), (1, 1), ((3, 0), (2, 4)))),
    (4, 3, 2, Geometry((7, 10), (3, 3), (1, 1), ((3, 0), (1, 4)))),
    (2, 3, 8, Geometry((13, 12), (7, 7), (2, 2), ((3, 3), (3, 3)))),
    (2, 3, 4, Geometry((17, 16), (5, 4), (4, 3), ((2, 1), (0, 2)))),
    (2, 4, 3, Geometry((8, 9), (1, 2), (3, 3), ((0, 0), (1, 1)))),
    (2, 4, 5, Geometry((7, 6), (1, 1), (2, 2), ((0, 0), (0, 0)))),
    (2, 4, 5, Geometry((7, 6), (1, 1), (1, 1), ((0, 0), (0, 0)))),
    (13, 8, 5, Geometry((7, 6), (1, 1), (1, 1), ((0, 0), (0, 0)))),
    (2, 4, 5, Geometry((4, 3), (1, 1), (2, 1), ((1, 1), (0, 2)))),
    (3, 4, 5, Geometry((4, 3), (4, 3), (1, 1), ((0, 0), (0, 0)))),
    (3, 4, 5, Geometry((4, 3), (4, 3), (2, 2), ((1, 2), (0, 1)))),
    (3, 8, 5, Geometry((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))),
    (2, 16, 3, Geometry((17, 16), (5, 4), (4, 3), ((2, 1), (0, 2)))),
    (2, 16, 3, Geometry((8, 9), (1, 2), (3, 3), ((0, 0), (1, 1)))),
    (2, 6, 16, Geometry((16, 3), (1, 1), (5, 7), ((2, 4), (2, 0)))),
]
EMPTY = [((8, 8, 1), (5, 5, 1, 6)), ((8, 8, 3), (3, 3, 3, 16)), ((4, 4, 64), (4, 4, 64, 33)), ((8, 8, 8), (1, 1, 8, 8))]
SOME = [CASES[0], CASES[7], CASES[14], (4, 32, 32, Geometry((9, 8), (3, 3), (1, 1), ((1, 1), (1, 1))))]


def windows(x, geometry):
    """``[B, H', W', kh, kw, C]`` of a numpy image."""
    padded = np.pad(x, ((0, 0), *geometry.padding, (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, geometry.kernel, (1, 2))
    return seen[:, :: geometry.stride[0], :: geometry.stride[1]].transpose(0, 1, 2, 4, 5, 3)


def defined(x, w, y, geometry):
    """The three products by their definition, in float64."""
    x_bar = np.zeros((x.shape[0], *(n + sum(p) for n, p in zip(geometry.image, geometry.padding)), x.shape[3]))
    (down, right), (rows, columns) = geometry.stride, geometry.result
    for i, j in itertools.product(range(rows), range(columns)):
        part = np.einsum("bf,uvcf->buvc", y[:, i, j], w)
        x_bar[:, i * down : i * down + w.shape[0], j * right : j * right + w.shape[1]] += part
    (top, _), (left, _) = geometry.padding
    seen = windows(x, geometry)
    return {
        "y": np.einsum("bijuvc,uvcf->bijf", seen, w),
        "x": x_bar[:, top : top + x.shape[1], left : left + x.shape[2]],
        "w": np.einsum("bijuvc,bijf->uvcf", seen, y),
    }


def operands(case):
    batch, channels_in, channels_out, geometry = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *geometry.image, channels_in))
    w = rng.normal(size=(*geometry.kernel, channels_in, channels_out)) / np.sqrt(channels_in * np.prod(geometry.kernel))
    return x, w, rng.normal(size=(batch, *geometry.result, channels_out))


def ways(geometry):
    yield from ("native", "canonical")
    if geometry.padding == ((0, 0), (0, 0)) and geometry.kernel in ((1, 1), geometry.image):
        yield from ("dot", "turned")
    if geometry.image == (1, 1):
        yield "halved"
    if geometry.stride == (1, 1):
        yield from ("folded", "windows", "banded")
    if geometry.stride == (1, 1) and geometry.kernel in ((3, 3), (5, 5)):
        yield "winograd"


@pytest.mark.compiles(keep=6)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_way_gives_the_product_by_its_definition(case):
    x, w, y = operands(case)
    geometry = case[-1]
    wanted = defined(x, w, y, geometry)
    single = {name: value.astype(np.float32) for name, value in (("x", x), ("w", w), ("y", y))}

    @jax.jit
    def found(x, w, y):
        pairs = {"y": (x, w), "x": (y, w), "w": (x, y)}
        return {
            (of, way): convolution.compute(way, of, *pair, geometry)
            for of, pair in pairs.items()
            for way in ways(geometry)
        }

    for (of, way), value in found(**single).items():
        assert value.shape == wanted[of].shape, (of, way)
        np.testing.assert_allclose(
            value, wanted[of], rtol=0, atol=1e-5 * np.abs(wanted[of]).max(), err_msg=f"{of} {way}"
        )


@pytest.mark.parametrize(("image", "kernel"), EMPTY, ids=str)
def test_a_batch_of_no_images_has_no_results_and_gradients_of_zero(image, kernel):
    x, w = jnp.zeros((0, *image)), jnp.ones(kernel)
    y = nn.conv2d(x, w)
    assert y.shape == (0, image[0] - kernel[0] + 1, image[1] - kernel[1] + 1, kernel[3])
    of_x, of_w = jax.grad(lambda x, w: nn.conv2d(x, w).sum(), (0, 1))(x, w)
    assert of_x.shape == x.shape
    np.testing.assert_array_equal(of_w, np.zeros(kernel))


def test_images_go_through_winograd_in_slices(monkeypatch):
    """Equal slices: three images of six at a time."""
    channels, geometry = 4, Geometry((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)))
    x, w, y = operands((6, channels, channels, geometry))
    wanted = defined(x, w, y, geometry)
    x, w, y = (each.astype(np.float32) for each in (x, w, y))
    tiles = {"y": 2 * 3 * 24, "x": 2 * 3 * 24, "w": 2 * 2 * 36}  # elements of an image and channel
    for of, pair in {"y": (x, w), "x": (y, w), "w": (x, y)}.items():
        name = "_KERNEL_SLICE" if of == "w" else "_RESULT_SLICE"
        monkeypatch.setattr(winograd, name, 5 * tiles[of] * 2 * channels * 4)
        call = functools.partial(convolution.compute, "winograd", of, geometry=geometry)
        assert "length=2" in str(jax.make_jaxpr(call)(*pair))
        np.testing.assert_allclose(call(*pair), wanted[of], rtol=0, atol=1e-5 * np.abs(wanted[of]).max(), err_msg=of)


def test_what_is_apart_is_computed_once_for_all_its_users():
    def added(a, b, c):
        return a + b + c

    def sums(first, x):
        whole = first(x, x[::-1], x.T)
        return [whole * whole.T, jnp.sin(whole), whole[:4] * whole[4:]]

    def count(first):
        return jax.jit(sums, static_argnums=0).lower(first, jnp.ones((8, 8))).compile().as_text().count(" add(")

    assert (count(apart(added)), count(added) > 2) == (2, True)


@pytest.mark.compiles(keep=2)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_every_derivative_is_that_of_a_convolution_of_xla(case):
    """Reverse, forward, forward over reverse, reverse over reverse, vmap in both operands, remat, and a loop."""
    x, w, y = (jnp.asarray(each, jnp.float32) for each in operands(case))
    geometry = case[-1]
    xs, ws = jnp.stack([x, 2 * x]), jnp.stack([w, -w])

    def ours(x, w):
        return nn.conv2d(x, w, stride=geometry.stride, padding=geometry.padding)

    def xlas(x, w):
        return lax.conv_general_dilated(
            x, w, geometry.stride, geometry.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @functools.partial(jax.jit, static_argnums=0)
    def found(conv, x, w, xs, ws):
        def loss(x, w):
            return jnp.sum(jnp.sin(conv(x, w)) * y)

        both = jax.grad(loss, (0, 1))
        return {
            "vjp": both(x, w),
            "jvp": jax.jvp(conv, (x, w), (x + 1, w - 1)),
            "forward over reverse": jax.jvp(both, (x, w), (x + 1, w - 1))[1],
            "reverse over reverse": jax.grad(lambda x, w: sum(jnp.sum(jnp.sin(g)) for g in both(x, w)), (0, 1))(x, w),
            "vmap of both": jax.vmap(both)(xs, ws),
            "vmap of images": jax.vmap(both, (0, None))(xs, w),
            "of a vmap": jax.grad(lambda w: jnp.sum(jax.vmap(loss, (0, None))(xs, w)))(w),
            "remat": jax.grad(jax.checkpoint(loss), (0, 1))(x, w),
            "loop": lax.scan(lambda w, x: (w - 0.01 * jax.grad(loss, 1)(x, w), loss(x, w)), w, xs),
        }

    for name, value in found(ours, x, w, xs, ws).items():
        for one, other in zip(jax.tree.leaves(value), jax.tree.leaves(found(xlas, x, w, xs, ws)[name]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5 * np.abs(other).max(), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_type_of_the_operands_is_that_of_the_result(dtype):
    for case in SOME:
        x, w, _ = (jnp.asarray(each, dtype) for each in operands(case))
        value, gradients = jax.value_and_grad(
            lambda x, w, g=case[-1]: jnp.sum(nn.conv2d(x, w, stride=g.stride, padding=g.padding).astype(jnp.float32)),
            (0, 1),
        )(x, w)
        assert jnp.isfinite(value)
        assert [leaf.dtype for leaf in gradients] == [x.dtype, w.dtype]


@pytest.mark.parametrize(
    ("of", "sizes", "geometry", "way"),
    [
        ("y", (8, 64, 256), Geometry((56, 56), (1, 1), (1, 1), ((0, 0), (0, 0))), "dot"),
        ("w", (8, 16, 120), Geometry((5, 5), (5, 5), (1, 1), ((0, 0), (0, 0))), "turned"),
        ("y", (8, 6, 16), Geometry((14, 14), (5, 5), (1, 1), ((0, 0), (0, 0))), "folded"),
        ("x", (8, 6, 16), Geometry((14, 14), (5, 5), (1, 1), ((0, 0), (0, 0))), "banded"),
        ("w", (8, 1, 6), Geometry((28, 28), (5, 5), (1, 1), ((2, 2), (2, 2))), "windows"),
        ("y", (8, 1, 1), Geometry((64, 64), (31, 31), (1, 1), ((15, 15), (15, 15))), "folded"),
        ("x", (8, 3, 16), Geometry((64, 64), (3, 3), (1, 1), ((1, 1), (1, 1))), "folded"),
        ("y", (8, 64, 64), Geometry((32, 32), (3, 3), (1, 1), ((1, 1), (1, 1))), "winograd"),
        ("x", (8, 32, 64), Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1))), "winograd"),
        ("y", (1, 512, 512), Geometry((7, 7), (3, 3), (1, 1), ((1, 1), (1, 1))), "native"),
        ("w", (64, 16, 32), Geometry((32, 32), (3, 3), (1, 1), ((1, 1), (1, 1))), "canonical"),
        ("y", (8, 64, 64), Geometry((32, 32), (5, 5), (1, 1), ((2, 2), (2, 2))), "winograd"),
        ("y", (8, 64, 64), Geometry((32, 32), (7, 7), (1, 1), ((3, 3), (3, 3))), "native"),
        ("w", (8, 64, 64), Geometry((32, 32), (3, 3), (2, 2), ((1, 1), (1, 1))), "canonical"),
    ],
)
def test_what_is_chosen_on_a_cpu(of, sizes, geometry, way):
    assert convolution.choose(of, geometry, *sizes, jnp.float32) == way
    if way == "winograd":  # its sums would round in each step of a narrower type
        assert convolution.choose(of, geometry, *sizes, jnp.bfloat16) in ("native", "canonical")
