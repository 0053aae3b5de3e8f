"""Flax Linen modules on top of ``nn.functional``: parameters and running statistics, nothing else.

Parameters and statistics are float32; ``dtype`` is the type in which a layer computes (float32 or bfloat16).
"""

from typing import Any

import jax.numpy as jnp
from flax import linen

import jaxcnn.nn.functional as F
import jaxcnn.nn.init as init
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
                f"layer {self.name}: input of shape {x.shape} must be [B, H, W, C], C divisible by groups={self.groups}"
            )
        kernel = self.param("kernel", self.kernel_init, (kh, kw, x.shape[3] // self.groups, self.features))
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype) if self.use_bias else None
        try:
            return F.conv2d(
                x.astype(self.dtype),
                kernel.astype(self.dtype),
                bias,
                self.stride,
                self.padding,
                groups=self.groups,
                dilation=self.dilation,
            )
        except UsageError as error:
            raise UsageError(f"layer {self.name}: {error}") from error


class Dense(linen.Module):
    """``F.dense`` with a learned kernel ``[D, features]`` and bias ``[features]``."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = init.glorot_uniform
    bias_init: Initializer = init.zeros
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype) if self.use_bias else None
        return F.dense(x.astype(self.dtype), kernel.astype(self.dtype), bias)


class BatchNorm(linen.Module):
    """``F.batch_norm`` with learned scale and bias and running moments for evaluation.

    While training it normalises with the moments of the whole (global) batch and moves the running moments:
    ``running = momentum * running + (1 - momentum) * batch``. Momentum 0.9 here is 0.1 in torch's sense; the running
    variance is the unbiased one, as in torch and in Ioffe & Szegedy 2015 (Algorithm 2).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Initializer = init.ones
    bias_init: Initializer = init.zeros
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", self.bias_init, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(self.dtype)
        if not train:
            return F.batch_norm(x, scale, bias, mean.value, variance.value, self.epsilon)
        batch_mean, batch_variance = F.batch_moments(x)
        if not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = batch_variance * (count / max(count - 1, 1))
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            variance.value = self.momentum * variance.value + (1 - self.momentum) * unbiased
        return F.batch_norm(x, scale, bias, batch_mean, batch_variance, self.epsilon)


class Dropout(linen.Module):
    """``F.dropout`` while training, the identity in evaluation; draws from the ``dropout`` stream."""

    rate: float

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if not train or self.rate == 0:
            return x
        return F.dropout(x, self.rate, self.make_rng("dropout"))
