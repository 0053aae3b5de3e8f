"""ConvNeXt: a ResNet modernised step by step (Liu et al. 2022)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array

_normal = linen.initializers.normal(0.02)  # the authors cut it at +-2, a hundred deviations away


class LayerNorm(linen.Module):
    """Normalise each position over its channels (Ba et al. 2016), epsilon 1e-6, in float32."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.init.ones, (x.shape[-1],))
        bias = self.param("bias", nn.init.zeros, (x.shape[-1],))
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = jax.nn.standardize(x.astype(jnp.float32), axis=-1, epsilon=1e-6)
        return (y * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype)


class Block(linen.Module):
    """x + layer scale * f(x), f = depthwise 7x7 - LN - 1x1 (4 times) - GELU - 1x1 (Liu et al. 2022, figure 4)."""

    drop_rate: float
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        width, dtype = x.shape[-1], self.dtype
        y = nn.Conv(width, 7, padding=3, groups=width, kernel_init=_normal, dtype=dtype, name="depthwise")(x)
        y = LayerNorm(name="norm")(y)
        y = nn.Dense(4 * width, kernel_init=_normal, dtype=dtype, name="fc1")(y)
        y = nn.Dense(width, kernel_init=_normal, dtype=dtype, name="fc2")(jax.nn.gelu(y, approximate=False))
        scale = self.param("layer_scale", linen.initializers.constant(1e-6), (width,)).astype(dtype)
        y = y * scale.reshape(1, 1, 1, -1)
        return x + nn.StochasticDepth(self.drop_rate)(y, train)


@register_model("convnext_mini", input_shape=(32, 32, 3), depths=(1, 1), widths=(8, 16))
@register_model("convnext_tiny", input_shape=(224, 224, 3))
class ConvNeXt(linen.Module):
    """conv 4x4 / 4 - LN - four stages, between them LN - conv 2x2 / 2 - global average - LN - dense.

    (Liu et al. 2022, section 2 and appendix A; ConvNeXt-T: 3, 3, 9, 3 blocks.) Weights are normal (0.02), biases zero,
    layer scale 1e-6; stochastic depth grows linearly to its rate in the last block.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    dropout_rate: float = 0.0
    stochastic_depth: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def conv(width: int, size: int, name: str) -> nn.Conv:
            return nn.Conv(width, size, stride=size, kernel_init=_normal, dtype=self.dtype, name=name)

        x = LayerNorm(name="stem_norm")(conv(self.widths[0], 4, "stem")(x))
        rates, block = iter(nn.depth_rates(self.stochastic_depth, sum(self.depths))), nn.remat(Block, self.remat)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage > 0:
                x = conv(width, 2, f"downsample{stage}")(LayerNorm(name=f"downsample{stage}_norm")(x))
            for i in range(depth):
                x = block(next(rates), self.dtype, name=f"stage{stage}_{i}")(x, train)
        x = LayerNorm(name="norm")(nn.GlobalAvgPool(name="pool")(x))
        x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, kernel_init=_normal, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
