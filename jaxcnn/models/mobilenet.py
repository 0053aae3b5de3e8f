"""MobileNetV2 and EfficientNet-B0: inverted residuals of depthwise convolutions."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array


class ConvNorm(linen.Module):
    """conv - BN - activation."""

    features: int
    size: int
    activation: str
    norm: str
    stride: int = 1
    groups: int = 1
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        shape = (self.features, self.size, self.stride, self.size // 2, self.groups)
        x = nn.Conv(*shape, use_bias=False, dtype=self.dtype, name="conv")(x)
        return nn.activation(self.activation)(nn.BatchNorm(self.norm, dtype=self.dtype, name="bn")(x, train))


class InvertedResidual(linen.Module):
    """x + f(x), f = 1x1 (expand times) - depthwise k x k - [squeeze-excite] - 1x1 linear; x only at equal shapes.

    (Sandler et al. 2018, figure 3b and table 1; with squeeze-excitation it is MBConv, Tan & Le 2019, section 4.)
    """

    features: int
    expand: int
    size: int
    stride: int
    activation: str
    norm: str
    squeeze: bool = False
    drop_rate: float = 0.0
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = x.shape[-1]
        width, act, norm, dtype = channels * self.expand, self.activation, self.norm, self.dtype
        y = x if self.expand == 1 else ConvNorm(width, 1, act, norm, dtype=dtype, name="expand")(x, train)
        y = ConvNorm(width, self.size, act, norm, self.stride, width, dtype, name="depthwise")(y, train)
        if self.squeeze:  # to a quarter of the block's input, not of its inside
            y = nn.SqueezeExcite(max(1, channels // 4), act, dtype, name="se")(y)
        y = ConvNorm(self.features, 1, "identity", norm, dtype=dtype, name="project")(y, train)
        return x + nn.StochasticDepth(self.drop_rate)(y, train) if x.shape == y.shape else y


# expansion, maps, repeats, stride of the first, kernel. Sandler et al. 2018, table 2; Tan & Le 2019, table 1.
_MOBILENET_V2 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
_EFFICIENTNET_B0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_TINY = ((1, 8, 1, 1, 3), (2, 12, 2, 2, 3))


@register_model("mobilenet_tiny", input_shape=(32, 32, 3), rows=_TINY, head=32)
@register_model("mobilenet_v2", input_shape=(224, 224, 3))
@register_model(
    "efficientnet_b0",
    input_shape=(224, 224, 3),
    rows=_EFFICIENTNET_B0,
    activation="silu",
    squeeze=True,
    stochastic_depth=0.2,
)
class MobileNet(linen.Module):
    """conv 3x3 / 2 - inverted residuals - conv 1x1 - global average - dropout - dense.

    ``mobilenet_v2``: Sandler et al. 2018, table 2, ReLU6. ``efficientnet_b0``: Tan & Le 2019, table 1, SiLU,
    squeeze-excitation and stochastic depth. Convolutions are He-initialised by fan-out, the dense layer is Glorot-uniform,
    biases are zero.
    """

    num_classes: int
    rows: tuple[tuple[int, ...], ...] = _MOBILENET_V2
    head: int = 1280
    activation: str = "relu6"
    norm: str = "global"
    squeeze: bool = False
    dropout_rate: float = 0.2
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        act, norm, dtype = self.activation, self.norm, self.dtype
        block = nn.remat(InvertedResidual, self.remat)
        x = ConvNorm(32, 3, act, norm, stride=2, dtype=dtype, name="stem")(x, train)
        total = sum(repeats for _, _, repeats, _, _ in self.rows)
        rates = iter(nn.depth_rates(self.stochastic_depth, total + 1))  # one more, as torchvision: the last stays below
        for stage, (expand, features, repeats, stride, size) in enumerate(self.rows, start=1):
            for i in range(repeats):
                shape = (features, expand, size, stride if i == 0 else 1)
                x = block(*shape, act, norm, self.squeeze, next(rates), dtype, name=f"stage{stage}_{i}")(x, train)
        x = ConvNorm(self.head, 1, act, norm, dtype=dtype, name="head")(x, train)
        x = nn.Dropout(self.dropout_rate)(nn.GlobalAvgPool(name="pool")(x), train)
        return nn.Dense(self.num_classes, dtype=dtype, name="fc")(x).astype(jnp.float32)
