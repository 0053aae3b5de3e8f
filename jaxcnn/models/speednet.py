"""A network for records of speed: few wide layers behind fixed whitening filters (Jordan 2024, arXiv:2404.00498, section 3)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array


@register_model("speednet_tiny", input_shape=(32, 32, 3), widths=(4, 8, 8))
@register_model("speednet", input_shape=(32, 32, 3))
class SpeedNet(linen.Module):
    """Whitening 2x2 - stages of [conv 3x3 - max pool 2 - BN - gelu - conv 3x3 - BN - gelu] - maximum - dense.

    BatchNorm has no gain and forgets fast (momentum 0.6). A convolution starts by handing its inputs on; what it has more
    outputs than inputs is random. The dense layer has no bias; its kernel starts small, so that logits do.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 256, 256)
    norm: str = "global"
    activation: str = "gelu"
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        f = nn.activation(self.activation)

        def conv(x: Array, width: int, name: str) -> Array:
            init = nn.init.partial_identity
            return nn.Conv(width, 3, padding=1, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)(x)

        def norm(x: Array, name: str) -> Array:
            layer = nn.BatchNorm(self.norm, momentum=0.6, epsilon=1e-12, use_scale=False, dtype=self.dtype, name=name)
            return layer(x, train)

        x = f(Whiten(2, dtype=self.dtype, name="whiten")(x, train))
        for i, width in enumerate(self.widths, 1):
            x = nn.MaxPool(2, name=f"pool{i}")(conv(x, width, f"conv{i}_1"))
            x = f(norm(x, f"bn{i}_1"))
            x = f(norm(conv(x, width, f"conv{i}_2"), f"bn{i}_2"))
        x = nn.MaxPool((x.shape[1], x.shape[2]), name="pool")(x)[:, 0, 0]
        init = jax.nn.initializers.normal(1 / x.shape[-1])
        return nn.Dense(self.num_classes, False, init, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


class Whiten(linen.Module):
    """Convolution with the principal components of small patches, each scaled to variance 1, and with their negatives.

    The second moments of the patches are those of the first batch of training; nothing changes them afterwards. Only the bias
    is learned. ``[B, H, W, C] -> [B, H - size + 1, W - size + 1, 2 C size^2]``.
    """

    size: int
    epsilon: float = 5e-4
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        shape = (self.size, self.size, x.shape[-1])
        n = math.prod(shape)
        moments = self.variable("batch_stats", "moments", jnp.zeros, (n, n), jnp.float32)
        seen = self.variable("batch_stats", "seen", jnp.zeros, (), jnp.float32)  # 1 after the first batch
        if train and not self.is_initializing():
            moments.value = jax.lax.cond(seen.value > 0, lambda _: moments.value, patch_moments(self.size), x)
            seen.value = jnp.ones_like(seen.value)
        variances, directions = jnp.linalg.eigh(jax.lax.stop_gradient(moments.value))
        variances = jnp.maximum(variances, 0)  # rounding may take one below
        kernel = (directions / jnp.sqrt(variances + self.epsilon)[None]).reshape(*shape, n)
        kernel = jnp.concatenate([kernel, -kernel], axis=-1).astype(self.dtype)
        bias = self.param("bias", nn.init.zeros, (2 * n,)).astype(self.dtype)
        return nn.conv2d(x.astype(self.dtype), kernel, bias)


def patch_moments(size: int) -> Callable[[Array], Array]:
    """``images [B, H, W, C] -> second moments [C size^2, C size^2]`` of all their patches of size x size pixels."""

    def moments(x: Array) -> Array:
        rows, columns = (n - size + 1 for n in x.shape[1:3])
        shifted = [x[:, i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
        patches = jnp.concatenate(shifted, axis=-1).astype(jnp.float32).reshape(-1, size * size * x.shape[-1])
        return patches.T @ patches / len(patches)

    return moments
