"""nn.functional against the lecture's numbers, plain loops and definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxcnn import nn
from jaxcnn.errors import UsageError
from jaxcnn.nn.channelwise import inner, scaled
from jaxcnn.nn.functional import scaled_tanh

pytestmark = pytest.mark.optimized  # a wrong sum is often the optimiser's

X33 = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
K22 = np.arange(4.0, dtype=np.float32).reshape(2, 2, 1, 1)


def matrix(y):
    return np.asarray(y)[0, :, :, 0].tolist()


def test_lecture_convolution():
    assert matrix(nn.conv2d(X33, K22)) == [[19, 25], [37, 43]]


def test_lecture_padding():
    assert matrix(nn.conv2d(X33, K22, padding=1)) == [[0, 3, 8, 4], [9, 19, 25, 10], [21, 37, 43, 16], [6, 7, 8, 0]]


def test_lecture_stride():
    assert matrix(nn.conv2d(X33, K22, stride=(3, 2), padding=1)) == [[0, 8], [6, 8]]


def test_lecture_two_input_channels():
    x = np.concatenate([X33, X33 + 1], axis=3)
    w = np.concatenate([K22, K22 + 1], axis=2)
    assert matrix(nn.conv2d(x, w))[0][0] == 56


def test_lecture_multiple_output_channels_are_separate_kernels():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 5, 6, 3)).astype(np.float32), rng.normal(size=(3, 2, 3, 4)).astype(np.float32)
    each = [nn.conv2d(x, w[..., i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(nn.conv2d(x, w), jnp.concatenate(each, axis=3), rtol=1e-5, atol=1e-5)


def test_lecture_vertical_edge_and_pooling():
    x = np.zeros((1, 4, 5, 1), np.float32)
    x[:, :, :2] = 1
    edge = nn.conv2d(x, np.array([1, -1], np.float32).reshape(1, 2, 1, 1))
    assert matrix(edge) == [[0, 1, 0, 0]] * 4
    # max(y[j], y[j + 1]) tells of the edge in two columns: tolerant to one pixel. The slide prints [1, 1, 1, 0], which
    # no window of two columns can give; a window of three does.
    assert matrix(nn.max_pool2d(edge, 2, stride=1, padding=((0, 1), (0, 1)))) == [[1, 1, 0, 0]] * 4
    assert matrix(nn.max_pool2d(edge, (2, 3), stride=1, padding=((0, 1), (1, 1)))) == [[1, 1, 1, 0]] * 4
    assert matrix(nn.max_pool2d(X33, 2, stride=1))[0][0] == 4  # max(0, 1, 3, 4)


def test_lecture_kernels_edge_sharpen_blur():
    flat = np.full((1, 5, 5, 1), 7, np.float32)
    edge = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32).reshape(3, 3, 1, 1)
    sharpen = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32).reshape(3, 3, 1, 1)
    blur = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32).reshape(3, 3, 1, 1) / 16
    assert matrix(nn.conv2d(flat, edge)) == [[0] * 3] * 3
    assert matrix(nn.conv2d(flat, sharpen)) == [[7] * 3] * 3
    assert matrix(nn.conv2d(flat, blur)) == [[7] * 3] * 3


def test_lecture_one_by_one_convolution_is_a_dense_layer():
    rng = np.random.default_rng(1)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 5, 3), (1, 1, 3, 6), (6,)))
    np.testing.assert_allclose(
        nn.conv2d(x, w, b), nn.dense(x.reshape(-1, 3), w[0, 0], b).reshape(2, 4, 5, 6), rtol=1e-5, atol=1e-5
    )


def test_lecture_full_projection_with_shared_local_weights_is_convolution():
    """h[i, j] = sum v[i, j, a, b] x[i + a, j + b] with v independent of (i, j) and zero for |a|, |b| > 1."""
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(size=(6, 7)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    W = np.zeros((6, 7, 6, 7), np.float32)
    for i, j, a, b in itertools.product(range(6), range(7), range(-1, 2), range(-1, 2)):
        if 0 <= i + a < 6 and 0 <= j + b < 7:
            W[i, j, i + a, j + b] = kernel[a + 1, b + 1]
    full = np.einsum("ijkl,kl->ij", W, x)
    np.testing.assert_allclose(
        nn.conv2d(x[None, :, :, None], kernel[:, :, None, None], padding=1)[0, :, :, 0], full, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        (32, 5, 1, 0, 28),  # slide "Padding"
        (3, 2, 1, 0, 2),
        (3, 2, 1, 1, 4),
        (3, 2, 3, 1, 2),  # slide "Stride", rows
        (3, 2, 2, 1, 2),  # and columns
        (224, 3, 2, 1, 112),  # divisible by the stride: n / s
        (225, 4, 2, nn.total_padding(3), 113),  # p = k - 1: floor((n + s - 1) / s)
    ],
)
def test_lecture_output_sizes(size, kernel, stride, padding, expected):
    assert nn.conv_output_size(size, kernel, stride, padding) == expected


def test_lecture_seven_layers_of_5x5_and_how_many_from_224():
    sizes = [32]
    while sizes[-1] > 4:
        sizes.append(nn.conv_output_size(sizes[-1], 5))
    assert len(sizes) - 1 == 7
    layers, size = 0, 224
    while size > 4:
        layers, size = layers + 1, nn.conv_output_size(size, 5)
    assert layers == 55  # the slide says 44


def test_total_padding_puts_the_odd_row_on_top():
    assert [nn.total_padding(p) for p in (0, 1, 2, 3)] == [(0, 0), (1, 0), (1, 1), (2, 1)]
    y = nn.conv2d(X33, K22, padding=(nn.total_padding(1), nn.total_padding(1)))
    assert matrix(y) == [[0, 3, 8], [9, 19, 25], [21, 37, 43]]


def convolution_by_loops(x, w, b, stride, pads, groups, dilation):
    x = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    kh, kw, per_group, out = w.shape
    rows = (x.shape[1] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (x.shape[2] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], rows, columns, out))
    for i, j, o in itertools.product(range(rows), range(columns), range(out)):
        group = o // (out // groups)
        top, left = i * stride[0], j * stride[1]
        patch = x[
            :,
            top : top + dilation[0] * (kh - 1) + 1 : dilation[0],
            left : left + dilation[1] * (kw - 1) + 1 : dilation[1],
        ]
        patch = patch[..., group * per_group : (group + 1) * per_group]
        y[:, i, j, o] = np.sum(patch * w[..., o], axis=(1, 2, 3)) + b[o]
    return y


@given(st.data())
def test_conv2d_equals_loops(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups, kernel, stride, dilation = (
        draw(1, 3),
        (draw(1, 4), draw(1, 4)),
        (draw(1, 3), draw(1, 3)),
        (draw(1, 2), draw(1, 2)),
    )
    pads = ((draw(0, 3), draw(0, 3)), (draw(0, 3), draw(0, 3)))
    shape = tuple(dilation[axis] * (kernel[axis] - 1) + 1 + draw(0, 4) for axis in (0, 1))
    per_group, out = draw(1, 3), groups * draw(1, 2)
    rng = np.random.default_rng(draw(0, 1000))
    x = rng.normal(size=(2, *shape, groups * per_group)).astype(np.float32)
    w, b = rng.normal(size=(*kernel, per_group, out)).astype(np.float32), rng.normal(size=out).astype(np.float32)
    y = nn.conv2d(x, w, b, stride, pads, groups=groups, dilation=dilation)
    expected = convolution_by_loops(x, w, b, stride, pads, groups, dilation)
    assert y.shape == expected.shape
    assert y.shape[1] == nn.conv_output_size(shape[0], kernel[0], stride[0], pads[0], dilation[0])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@given(st.data())
def test_pooling_equals_loops(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    window, stride = (draw(1, 3), draw(1, 3)), (draw(1, 3), draw(1, 3))
    pads = tuple((draw(0, w // 2), draw(0, w // 2)) for w in window)
    shape = tuple(w + draw(0, 5) for w in window)
    x = np.random.default_rng(draw(0, 1000)).normal(size=(2, *shape, 2)).astype(np.float32)
    largest, total, real = (
        np.pad(a, ((0, 0), *pads, (0, 0)), constant_values=v) for a, v in ((x, -np.inf), (x, 0), (x * 0 + 1, 0))
    )
    rows, columns = (nn.conv_output_size(n, w, s, p) for n, w, s, p in zip(shape, window, stride, pads))
    found = nn.max_pool2d(x, window, stride, pads)
    means, inner = (nn.avg_pool2d(x, window, stride, pads, count_padding=padding) for padding in (True, False))
    for i, j in itertools.product(range(rows), range(columns)):
        here = (
            slice(None),
            slice(i * stride[0], i * stride[0] + window[0]),
            slice(j * stride[1], j * stride[1] + window[1]),
        )
        np.testing.assert_array_equal(found[:, i, j], largest[here].max(axis=(1, 2)))
        np.testing.assert_allclose(means[:, i, j], total[here].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
        expected = total[here].sum(axis=(1, 2)) / real[here].sum(axis=(1, 2))
        np.testing.assert_allclose(inner[:, i, j], expected, rtol=1e-5, atol=1e-6)


def test_max_pool_gradient_goes_to_the_largest():
    x = jnp.asarray(np.random.default_rng(3).permutation(32).astype(np.float32).reshape(1, 4, 4, 2))
    grad = jax.grad(lambda x: jnp.sum(nn.max_pool2d(x, 2) ** 2))(x)
    largest = jnp.repeat(jnp.repeat(nn.max_pool2d(x, 2), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(grad, jnp.where(x == largest, 2 * x, 0.0))


@pytest.mark.parametrize(
    ("size", "channels", "window", "stride", "padding"),
    [((17, 18), 128, 2, 2, 0), ((9, 9), 64, 2, 2, 1), ((10, 10), 64, 3, 3, 1), ((7, 8), 64, 3, 2, 0)],
)
def test_average_pooling_of_a_matrix_product(size, channels, window, stride, padding):
    """Fused by XLA, where windows leave pixels out or see padding: it wrote beyond its memory, or summed wrongly."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, *size, channels)).astype(np.float32)
    w = (rng.normal(size=(1, 1, channels, channels)) / np.sqrt(channels)).astype(np.float32)
    y = jax.jit(lambda x, w: nn.avg_pool2d(nn.conv2d(x, w), window, stride, padding))(x, w)
    product = np.pad(x @ w[0, 0], ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(product, (window, window), (1, 2))[:, ::stride, ::stride]
    np.testing.assert_allclose(y, seen.mean((4, 5)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", [nn.max_pool2d, nn.avg_pool2d])
def test_the_gradient_of_overlapping_pools_under_jit(pool):
    """By finite differences, on distinct values."""
    x = jnp.asarray(np.random.default_rng(3).permutation(50).astype(np.float32).reshape(1, 5, 5, 2))
    total = jax.jit(lambda x: jnp.sum(jnp.sin(pool(x, 3, 2, 1))))
    grad = np.asarray(jax.jit(jax.grad(total))(x))
    for place in np.ndindex(x.shape):
        step = jnp.zeros_like(x).at[place].set(0.01)
        np.testing.assert_allclose(grad[place], (total(x + step) - total(x - step)) / 0.02, atol=2e-2)


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_mean_of_blocks_is_summed_in_float32_and_has_its_derivatives(channels, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(1, 1, size=(2, 6, 8, channels)), dtype)
    exact = np.asarray(x, np.float64).reshape(2, 2, 3, 2, 4, channels).mean(axis=(2, 4))
    y = nn.avg_pool2d(x, (3, 4))
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(y, np.float64), exact, rtol=2**-8 if dtype == jnp.bfloat16 else 1e-5, atol=1e-6
    )
    if dtype == jnp.float32:
        check_grads(lambda x: jnp.sin(nn.avg_pool2d(x, (3, 4))), (x,), order=2, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("channels", [3, 16])
def test_the_gradient_of_a_bias_is_the_sum_over_its_pixels(channels):
    r = np.random.default_rng(0)
    x, w, dy = (r.normal(size=s).astype(np.float32) for s in ((4, 6, 5, 2), (3, 2, 2, channels), (4, 4, 4, channels)))
    y, pullback = jax.vjp(lambda b: nn.conv2d(x, w, b), jnp.zeros(channels))
    assert y.shape == dy.shape
    np.testing.assert_allclose(
        pullback(jnp.asarray(dy))[0], dy.sum(axis=(0, 1, 2), dtype=np.float64), rtol=1e-5, atol=1e-5
    )
    check_grads(lambda b: jnp.sin(nn.conv2d(x, w, b)), (jnp.ones(channels),), order=2, rtol=2e-2, atol=2e-2)


def test_local_response_norm_formula():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 9)).astype(np.float32)
    expected = np.empty_like(x)
    for c in range(9):
        near = x[..., max(0, c - 2) : c + 3]
        expected[..., c] = x[..., c] / (2 + 1e-2 * (near**2).sum(axis=-1)) ** 0.75
    np.testing.assert_allclose(nn.local_response_norm(x, 5, 1e-2, 0.75, 2.0), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
def test_adaptive_average_pool_bins(size):
    x = np.random.default_rng(0).normal(size=(1, 9, 6, 2)).astype(np.float32)
    y = nn.adaptive_avg_pool2d(x, size)
    for i, j in np.ndindex(size, size):
        rows = slice(i * 9 // size, -(-(i + 1) * 9 // size))
        columns = slice(j * 6 // size, -(-(j + 1) * 6 // size))
        np.testing.assert_allclose(y[:, i, j], x[:, rows, columns].mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", range(4, 16))
@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_ceil_mode_has_torchs_size(size, window, stride, padding):
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    y = jax.eval_shape(lambda x: nn.max_pool2d(x, window, stride, padding, ceil_mode=True), image)
    expected = -(-(size + 2 * padding - window) // stride) + 1
    if (expected - 1) * stride >= size + padding:  # a window must begin on the image or the padding before it
        expected -= 1
    assert y.shape == (1, expected, expected, 1)


def test_dropout_formula():
    x = jnp.ones((200, 200))
    y = nn.dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(y).tolist()) == {0.0, float(np.float32(1) / np.float32(0.75))}
    assert abs(float(jnp.mean(y == 0)) - 0.25) < 0.01
    assert abs(float(jnp.mean(y)) - 1) < 0.02
    np.testing.assert_array_equal(nn.dropout(x, 0.0, jax.random.key(0)), x)


def test_batch_norm_formula():
    rng = np.random.default_rng(4)
    x, scale, bias = (rng.normal(2, 3, size=s).astype(np.float32) for s in ((5, 4, 3, 2), (2,), (2,)))
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = scale * (x - mean) / np.sqrt(variance + 1e-5) + bias
    np.testing.assert_allclose(nn.batch_norm(x, scale, bias), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        nn.batch_norm(x, scale, bias, mean + 1, variance * 2),
        scale * (x - mean - 1) / np.sqrt(2 * variance + 1e-5) + bias,
        rtol=1e-4,
        atol=1e-4,
    )
    far = nn.batch_norm(x + 1000, scale, bias)  # the variance of large numbers must not cancel
    np.testing.assert_allclose(far, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(("of_x", "of_moments"), [("float64", "float32"), ("float32", "float64")])
def test_batch_norm_takes_moments_of_another_type(of_x, of_moments):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x, scale = jnp.linspace(-1, 1, 24, dtype=of_x).reshape(3, 2, 2, 2), jnp.ones(2, "float32")
        mean, variance = jnp.zeros(2, of_moments), jnp.full(2, 3, of_moments)
        slope = jax.grad(lambda scale: jnp.sum(nn.batch_norm(x, scale, 0 * scale, mean, variance)))(scale)
        np.testing.assert_allclose(slope, np.sum(x, (0, 1, 2)) / np.sqrt(3 + 1e-5), rtol=1e-5)


def test_batch_norm_layer_moves_its_statistics_as_torch_does():
    layer, x = nn.BatchNorm(), jax.random.normal(jax.random.key(1), (8, 3, 3, 4)) * 2 + 1
    variables = layer.init(jax.random.key(0), x)
    _, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * np.mean(x, axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * np.var(x, axis=(0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("pixels", [1, 6, 40])
def test_products_per_channel_have_the_derivatives_of_their_definitions(pixels):
    """Summed in parts that need not be equal; reverse, forward, forward over reverse, vmap."""
    x, y, dx, dy = jax.random.normal(jax.random.key(0), (4, pixels, 3))
    factor = jnp.asarray([0.5, -1.0, 2.0])

    def ours(x, y, factor):
        return jnp.sum(jnp.sin(inner(scaled(x, factor), y)))

    def defined(x, y, factor):
        return jnp.sum(jnp.sin(jnp.sum(x * factor[None] * y, axis=0)))

    def values(function):
        gradient = jax.grad(function, (0, 1, 2))
        at, along = (x, y, factor), (dx, dy, factor[::-1])
        many = [jnp.stack([each, 2 * each]) for each in at]
        return jax.jvp(function, at, along), jax.jvp(gradient, at, along), jax.vmap(gradient)(*many)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), values(ours), values(defined))


def test_pixels_are_summed_without_an_array_of_their_products():
    x = jnp.ones((4096, 64))
    compiled = jax.jit(lambda x: inner(x - 1, x - 1)).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < x.nbytes / 4


def test_ghost_batch_norm_is_batch_norm_of_each_part():
    """And its running statistics are the means of the parts' (Hoffer et al. 2017)."""
    x = jax.random.normal(jax.random.key(1), (12, 3, 3, 4)) * 2 + jnp.arange(12.0).reshape(12, 1, 1, 1)
    plain, ghost = nn.BatchNorm(), nn.BatchNorm("ghost:4")
    variables = plain.init(jax.random.key(0), x)
    y, updated = ghost.apply(variables, x, train=True, mutable=["batch_stats"])
    parts = [plain.apply(variables, x[i : i + 4], train=True, mutable=["batch_stats"]) for i in (0, 4, 8)]
    np.testing.assert_allclose(y, np.concatenate([part for part, _ in parts]), rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        expected = np.mean([stats["batch_stats"][name] for _, stats in parts], axis=0)
        np.testing.assert_allclose(updated["batch_stats"][name], expected, rtol=1e-5)
    np.testing.assert_array_equal(ghost.apply(variables, x), plain.apply(variables, x))


@pytest.mark.parametrize(
    ("over", "words"),
    [("ghost:5", "multiple of 5"), ("ghost:0", "N >= 1"), ("gohst:2", "ghost:N"), ("local", "training runs")],
)
def test_batch_norm_refuses_what_it_cannot_split(over, words):
    layer, x = nn.BatchNorm(over), jnp.ones((8, 2, 2, 3))
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=words):
        layer.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.compiles
def test_max_pool_gradient_behind_other_layers_is_exact():
    """XLA may compute the values before the pooling anew for the backward pass, and round them otherwise."""
    x = jax.random.normal(jax.random.key(0), (8, 96, 96, 3))
    layer, norm = nn.Conv(16, 3, padding=1), nn.BatchNorm()
    variables = layer.init(jax.random.key(1), x), norm.init(jax.random.key(2), jnp.ones((1, 1, 1, 16)))

    def loss(kernel, pool):
        y = layer.apply({"params": {**variables[0]["params"], "kernel": kernel}}, x)
        y, _ = norm.apply(variables[1], y, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(pool(nn.relu(y))))

    def general(y):  # the same windows as no tiling
        return nn.max_pool2d(jnp.pad(y, ((0, 0), (0, 1), (0, 1), (0, 0))), 2, stride=2)

    kernel = variables[0]["params"]["kernel"]
    ours, theirs = (
        jax.jit(jax.grad(loss), static_argnums=1)(kernel, p) for p in (lambda y: nn.max_pool2d(y, 2), general)
    )
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_max_pool_of_blocks_propagates_nan_and_gives_ties_to_the_first():
    x = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(jnp.nan)
    assert np.isnan(nn.max_pool2d(x, 2)).all()
    grad = jax.grad(lambda x: jnp.sum(nn.max_pool2d(x, 2)))(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(grad[0, :, :, 0], [[1, 0], [0, 0]])


def test_stochastic_depth_drops_whole_images():
    layer, x = nn.StochasticDepth(0.25), jnp.ones((4000, 2, 2, 3))
    y = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    kept = y[:, 0, 0, 0] > 0
    assert np.all((y > 0) == kept[:, None, None, None])
    np.testing.assert_allclose(kept.mean(), 0.75, atol=0.03)
    np.testing.assert_allclose(y[kept], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(layer.apply({}, x, train=False), x)
    np.testing.assert_allclose(nn.depth_rates(0.2, 5), [0, 0.05, 0.1, 0.15, 0.2])
    assert nn.depth_rates(0.2, 1) == [0]


def test_relu_and_scaled_tanh():
    np.testing.assert_array_equal(nn.relu(jnp.array([-1.0, 0.0, 2.0])), [0, 0, 2])
    assert float(jax.grad(nn.relu)(0.0)) == 0
    assert np.isnan(nn.relu(jnp.nan))
    assert nn.relu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-4)


def test_a_residual_network_computes_each_block_once():
    """Twice the blocks are twice the operations: with ``jax.nn.relu`` each would compute all those before it again."""

    def operations(blocks):
        def loss(kernels, x):
            for kernel in kernels:
                y = nn.conv2d(x, kernel)
                x = nn.relu(x + (y - y.mean((0, 1, 2), keepdims=True)))
            return jnp.sum(x**2)

        lowered = jax.jit(jax.value_and_grad(loss)).lower([jnp.ones((1, 1, 8, 8))] * blocks, jnp.ones((4, 16, 16, 8)))
        return lowered.compile().cost_analysis()["flops"]

    three, six, twelve = operations(3), operations(6), operations(12)
    assert twelve - six < 2.1 * (six - three)


def test_backward_pass_by_hand_equals_grad():
    """The lecture's recursion for an MLP: dz = f'(z) dy, dw = y dz, dy = w dz, from the last layer to the first."""
    rng = np.random.default_rng(5)
    widths = [7, 6, 5, 3]
    weights = [rng.normal(size=(a, b)).astype(np.float32) for a, b in itertools.pairwise(widths)]
    biases = [rng.normal(size=b).astype(np.float32) for b in widths[1:]]
    x, target = rng.normal(size=(4, 7)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)

    def loss(weights, biases):
        y = x
        for w, b in zip(weights, biases):
            y = jnp.tanh(nn.dense(y, w, b))
        return 0.5 * jnp.sum((y - target) ** 2)

    ys = [x]
    for w, b in zip(weights, biases):
        ys.append(np.tanh(ys[-1] @ w + b))
    dy, dws, dbs = ys[-1] - target, [], []
    for k in (2, 1, 0):
        dz = (1 - ys[k + 1] ** 2) * dy
        dws.insert(0, ys[k].T @ dz)
        dbs.insert(0, dz.sum(axis=0))
        dy = dz @ weights[k].T
    by_jax = jax.grad(loss, argnums=(0, 1))(weights, biases)
    for ours, theirs in zip(dws + dbs, by_jax[0] + by_jax[1]):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.conv2d(X33[0], K22), r"\[B, H, W, C_in\]"),
        (lambda: nn.conv2d(X33, np.ones((2, 2, 3, 1), np.float32)), "1 channels"),
        (lambda: nn.conv2d(X33, K22, groups=2), "groups=2"),
        (lambda: nn.conv2d(X33, np.ones((4, 4, 1, 1), np.float32)), "smaller than the kernel's extent 4"),
        (lambda: nn.conv2d(X33, K22, stride=0), "stride=0"),
        (lambda: nn.conv2d(X33, K22, padding=-1), "padding=-1"),
        (lambda: nn.conv2d(X33, K22, padding="SAME"), "total_padding"),
        (lambda: nn.max_pool2d(X33, 4), "pooling"),
        (lambda: nn.max_pool2d(X33[0], 2, stride=1), r"\[B, H, W, C\]"),
        (lambda: nn.dropout(X33, 1.0, jax.random.key(0)), "rate=1.0"),
        (lambda: nn.batch_norm(X33, jnp.ones(1), jnp.ones(1), mean=jnp.ones(1)), "both mean and variance"),
        (lambda: nn.conv_output_size(0, 1), "size=0"),
        (lambda: nn.total_padding(-1), "p=-1"),
        (lambda: nn.activation("rleu"), "did you mean 'relu'"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_convolution_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(6)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 9, 10, 4), (3, 3, 2, 6), (6,)))
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2)),
        torch.from_numpy(w.transpose(3, 2, 0, 1)),
        torch.from_numpy(b),
        2,
        1,
        1,
        2,
    )
    np.testing.assert_allclose(
        nn.conv2d(x, w, b, 2, 1, groups=2), theirs.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.compiles(keep=2)
@pytest.mark.parametrize(("padding", "groups"), [(((4, 0), (4, 0)), 2), (((4, 0), (4, 0)), 1), (((0, 0), (5, 0)), 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3)])
def test_gradients_where_windows_see_padding_only(padding, groups, kernel):
    """Of groups, and under ``vmap``, XLA makes the transposes by itself."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 4, 9, 4), (*kernel, 4 // groups, 4)))
    ends = [(0, 0), *padding, (0, 0)]

    def ours(x, w, pads):
        return jnp.sum(jnp.sin(nn.conv2d(x, w, None, 1, pads, groups=groups)))

    def plain(x, w):
        return ours(jnp.pad(x, ends), w, 0)

    for loss, others in (
        (lambda x, w: ours(x, w, padding), plain),
        (
            lambda x, w: jax.vmap(lambda x, w: ours(x, w, padding))(x[None], w[None]).sum(),
            lambda x, w: jax.vmap(plain)(x[None], w[None]).sum(),
        ),
        (
            lambda x, w: jax.vmap(lambda x: ours(x, w, padding))(x[None]).sum(),
            lambda x, w: jax.vmap(lambda x: plain(x, w))(x[None]).sum(),
        ),
    ):
        for found, wanted in zip(jax.grad(loss, (0, 1))(x, w), jax.grad(others, (0, 1))(x, w), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_convolution_takes_the_wider_of_two_types():
    x, w = jnp.ones((1, 4, 4, 1), jnp.bfloat16), jnp.ones((2, 2, 1, 3), jnp.float32)
    for y in (nn.conv2d(x, w), nn.conv2d(x.astype(jnp.uint8), w)):
        assert (y.dtype, float(y[0, 0, 0, 0])) == (jnp.float32, 4)
    with pytest.raises(UsageError, match="one must be floating"):
        nn.conv2d(x.astype(jnp.int32), w.astype(jnp.int32))


def test_the_gradient_of_a_bias_of_no_images():
    grad = jax.grad(lambda b: nn.conv2d(jnp.ones((0, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), b).sum())(jnp.ones(2))
    np.testing.assert_array_equal(grad, 0)


def test_ceil_mode_refuses_no_stride():
    with pytest.raises(UsageError, match="stride=0"):
        nn.max_pool2d(jnp.ones((1, 4, 4, 1)), 2, 0, ceil_mode=True)
    with pytest.raises(UsageError, match="pair of ints"):
        nn.max_pool2d(jnp.ones((1, 4, 4, 1)), (2, 2, 2))
