"""Flax Linen modules on top of ``nn.functional``: parameters and running statistics, nothing else.

Parameters and statistics are float32; ``dtype`` is the type in which a layer computes (float32 or bfloat16).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

import jaxcnn.nn.functional as F
import jaxcnn.nn.init as init
import jaxcnn.nn.pooling as pooling
from jaxcnn.errors import UsageError
from jaxcnn.typing import Array, Initializer


class Conv(linen.Module):
    """``F.conv2d`` with a learned kernel ``[kh, kw, C_in / groups, features]`` and bias ``[features]``."""

    features: int
    kernel_size: F.Pair
    stride: F.Pair = 1
    padding: F.Padding = 0
    groups: int = 1
    dilation: F.Pair = 1
    use_bias: bool = True
    kernel_init: Initializer = init.he_fan_out
    bias_init: Initializer = init.zeros
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        kh, kw = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else self.kernel_size
        if x.ndim != 4 or x.shape[3] % self.groups:
            raise UsageError(
                f"layer {self.name}: x of shape {x.shape} must be [B, H, W, C], C a multiple of groups={self.groups}"
            )
        _check_width(self, x.shape[3], axis=2, times=self.groups)
        kernel = self.param("kernel", self.kernel_init, (kh, kw, x.shape[3] // self.groups, self.features))
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype) if self.use_bias else None
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        with _naming(self):
            return F.conv2d(x, kernel, bias, self.stride, self.padding, groups=self.groups, dilation=self.dilation)


class Dense(linen.Module):
    """``F.dense`` with a learned kernel ``[D, features]`` and bias ``[features]``."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = init.glorot_uniform
    bias_init: Initializer = init.zeros
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        _check_width(self, x.shape[-1], axis=0)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype) if self.use_bias else None
        return F.dense(x.astype(self.dtype), kernel.astype(self.dtype), bias)


class BatchNorm(linen.Module):
    """``F.batch_norm`` with learned scale (where ``use_scale``) and bias and running moments for evaluation.

    While training it normalises with the moments of the batch and moves the running moments:
    ``running = momentum * running + (1 - momentum) * batch``. Momentum 0.9 here is 0.1 in torch's sense; the running
    variance is the unbiased one, as in torch and in Ioffe & Szegedy 2015 (Algorithm 2).

    ``over`` says which examples share their moments: ``"global"``, the whole batch, over all devices; or ``"ghost:N"``, each
    N in turn (Hoffer et al. 2017, section 4), whose moments are averaged for the running ones. ``"local"``, the
    examples of each device, is a ghost batch whose size a training run knows.
    """

    over: str = "global"
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    scale_init: Initializer = init.ones
    bias_init: Initializer = init.zeros
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels) if self.use_scale else jnp.ones(channels)
        bias = self.param("bias", self.bias_init, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(self.dtype)
        if not train:
            return F.batch_norm(x, scale, bias, mean.value, variance.value, self.epsilon)

        def normalise(x: Array) -> tuple[Array, Array, Array]:
            batch_mean, batch_variance = F.batch_moments(x)
            count = x.size // x.shape[-1]
            y = F.batch_norm(x, scale, bias, batch_mean, batch_variance, self.epsilon)
            return y, batch_mean, batch_variance * (count / max(count - 1, 1))

        size = ghost_size(self.over)
        if size is None:
            y, batch_mean, unbiased = normalise(x)
        elif x.shape[0] % size == 0:
            y, batch_mean, unbiased = jax.vmap(normalise)(x.reshape(-1, size, *x.shape[1:]))
            y, batch_mean, unbiased = y.reshape(x.shape), batch_mean.mean(axis=0), unbiased.mean(axis=0)
        else:
            raise UsageError(
                f"layer {self.name}: norm={self.over} needs a batch of a multiple of {size} examples, not {x.shape[0]}"
            )
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            variance.value = self.momentum * variance.value + (1 - self.momentum) * unbiased
        return y


def ghost_size(over: str) -> int | None:
    """Examples that share their moments; None for all. UsageError unless ``over`` is "global" or "ghost:N"."""
    if over == "global":
        return None
    kind, _, size = over.partition(":")
    if kind == "ghost" and size.isdecimal() and int(size) >= 1:
        return int(size)
    more = " (local is for training runs, which know how many examples a device has)" if over == "local" else ""
    raise UsageError(f"norm={over!r} must be global or ghost:N with N >= 1 examples{more}")


class MaxPool(linen.Module):
    """``nn.max_pool2d`` as a layer with a name."""

    window: F.Pair
    stride: F.Pair | None = None
    padding: F.Padding = 0
    ceil_mode: bool = False

    @linen.compact
    def __call__(self, x: Array) -> Array:
        with _naming(self):
            return pooling.max_pool2d(x, self.window, self.stride, self.padding, ceil_mode=self.ceil_mode)


class AvgPool(linen.Module):
    """``nn.avg_pool2d`` as a layer with a name."""

    window: F.Pair
    stride: F.Pair | None = None
    padding: F.Padding = 0

    @linen.compact
    def __call__(self, x: Array) -> Array:
        with _naming(self):
            return pooling.avg_pool2d(x, self.window, self.stride, self.padding)


class GlobalAvgPool(linen.Module):
    """``nn.global_avg_pool2d`` as a layer with a name: ``[B, H, W, C] -> [B, C]``."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        return pooling.global_avg_pool2d(x)


class SqueezeExcite(linen.Module):
    """x * sigmoid(dense(f(dense(mean of x over its positions)))) (Hu et al. 2018, figure 2).

    ``width`` is that of the inner dense layer, f its ``activation``.
    """

    width: int
    activation: str = "relu"
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        s = Dense(self.width, kernel_init=init.he_fan_in, dtype=self.dtype, name="fc1")(pooling.global_avg_pool2d(x))
        s = Dense(x.shape[-1], dtype=self.dtype, name="fc2")(F.activation(self.activation)(s))
        return x * jax.nn.sigmoid(s)[:, None, None, :]


class Dropout(linen.Module):
    """``F.dropout`` while training, the identity in evaluation; draws from the ``dropout`` stream."""

    rate: float

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if not train or self.rate == 0:
            return x
        return F.dropout(x, self.rate, self.make_rng("dropout"))


class StochasticDepth(linen.Module):
    """f(x) of a residual block, dropped for whole images with probability ``rate`` while training (Huang et al. 2016).

    What stays is divided by ``1 - rate``, so that evaluation needs no factor.
    """

    rate: float

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if not train or self.rate == 0:
            return x
        return F.dropout(x, self.rate, self.make_rng("dropout"), shape=(x.shape[0],) + (1,) * (x.ndim - 1))


def depth_rates(last: float, num_blocks: int) -> list[float]:
    """Rates of stochastic depth: from 0 linearly to ``last`` in the last of the blocks (Huang et al. 2016, section 3)."""
    return [last * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


def remat(block: type[linen.Module], on: bool) -> Any:
    """The block as it is or, with ``on``, computing its activations again in the backward pass instead of keeping them.

    The block is called as ``block(x, train)`` (Chen et al. 2016, "Training deep nets with sublinear memory cost").
    """
    return linen.remat(block, static_argnums=(2,)) if on else block


def _check_width(layer: linen.Module, width: int, axis: int, times: int = 1) -> None:
    """UsageError when the layer has a kernel already and x has another number of channels."""
    if layer.has_variable("params", "kernel"):
        taken = layer.get_variable("params", "kernel").shape[axis] * times
        if taken != width:
            raise UsageError(
                f"layer {layer.name}: x has {width} channels, its kernel takes {taken}; give images of the size and "
                "channels that the variables were made for"
            )


@contextlib.contextmanager
def _naming(layer: linen.Module) -> Iterator[None]:
    """Put the layer's name before an error of the pure function."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"layer {layer.name}: {error}") from error
