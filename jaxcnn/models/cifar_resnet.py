"""ResNets for 32x32 images: He et al. 2016a section 4.2, pre-activation ResNet-164, Wide ResNets, and plain nets."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import register_model
from jaxcnn.models.resnet import PreActBottleneck, Style
from jaxcnn.typing import Array

_SIZE = (32, 32, 3)


class CifarBlock(linen.Module):
    """Residual block: relu(x + f(x)), f = conv 3x3 - BN - relu - conv 3x3 - BN.

    Where the shape changes, x is taken at every second row and column and padded with zero maps (shortcut "A", no
    parameters), or projected by conv 1x1 - BN ("B"); a "plain" block has no x at all (He et al. 2016a, section 3.3).
    """

    features: int
    stride: int
    drop_rate: float
    shortcut: str
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        y = s.activation(s.norm("bn1")(s.conv(self.features, 3, "conv1", self.stride)(x), train))
        y = s.norm("bn2", last=True)(s.conv(self.features, 3, "conv2")(y), train)
        if self.shortcut == "plain":
            return s.activation(y)
        y = nn.StochasticDepth(self.drop_rate)(y, train)
        if x.shape != y.shape and self.shortcut == "A":
            more = self.features - x.shape[-1]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return s.activation(s.shortcut(x, y, self.stride, train).astype(y.dtype) + y)


@register_model("cifar_resnet_tiny", input_shape=_SIZE, depth=8, width=4)
@register_model("plain20_cifar", input_shape=_SIZE, depth=20, shortcut="plain")
@register_model("plain32_cifar", input_shape=_SIZE, depth=32, shortcut="plain")
@register_model("plain44_cifar", input_shape=_SIZE, depth=44, shortcut="plain")
@register_model("plain56_cifar", input_shape=_SIZE, depth=56, shortcut="plain")
@register_model("resnet20_cifar", input_shape=_SIZE, depth=20)
@register_model("resnet32_cifar", input_shape=_SIZE, depth=32)
@register_model("resnet44_cifar", input_shape=_SIZE, depth=44)
@register_model("resnet56_cifar", input_shape=_SIZE, depth=56)
@register_model("resnet110_cifar", input_shape=_SIZE, depth=110)
@register_model("resnet1202_cifar", input_shape=_SIZE, depth=1202)
@register_model("resnet20_cifar_b", input_shape=_SIZE, depth=20, shortcut="B")
@register_model("resnet32_cifar_b", input_shape=_SIZE, depth=32, shortcut="B")
@register_model("resnet44_cifar_b", input_shape=_SIZE, depth=44, shortcut="B")
@register_model("resnet56_cifar_b", input_shape=_SIZE, depth=56, shortcut="B")
@register_model("resnet110_cifar_b", input_shape=_SIZE, depth=110, shortcut="B")
@register_model("resnet1202_cifar_b", input_shape=_SIZE, depth=1202, shortcut="B")
class CifarResNet(linen.Module):
    """conv 3x3 - three stages of n blocks with 16, 32, 64 maps on 32x32, 16x16, 8x8 - global average - dense.

    6n + 2 layers with weights (He et al. 2016a, section 4.2). Without a suffix the shortcuts are option A, without
    parameters, as in the paper's CIFAR experiments; ``_b`` are projections. ``plain`` is the same without shortcuts
    (figure 6 left). Convolutions are He-initialised by fan-out, the dense layer is Glorot-uniform.
    """

    num_classes: int
    depth: int = 20
    shortcut: str = "A"
    width: int = 16
    norm: str = "global"
    activation: str = "relu"
    zero_init: bool = False
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.shortcut not in ("A", "B", "plain"):
            raise UsageError(f"shortcut={self.shortcut!r} must be A, B or plain")
        style = Style(nn.activation(self.activation), self.norm, zero_init=self.zero_init, dtype=self.dtype)
        blocks, block = _blocks(self.depth, 6, 2), nn.remat(CifarBlock, self.remat)
        rates = iter(nn.depth_rates(self.stochastic_depth, len(blocks)))
        x = style.activation(style.norm("bn1")(style.conv(self.width, 3, "conv1")(x), train))
        for stage, i, stride in blocks:
            shape = (self.width * 2**stage, stride, next(rates), self.shortcut, style)
            x = block(*shape, name=f"layer{stage + 1}_{i}")(x, train)
        x = nn.GlobalAvgPool(name="pool")(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


@register_model("preact_resnet_tiny", input_shape=_SIZE, depth=11, width=4)
@register_model("preact_resnet164_cifar", input_shape=_SIZE)
class PreActCifarResNet(linen.Module):
    """conv 3x3 - three stages of n pre-activation bottlenecks, 9n + 2 layers - BN - relu - average - dense.

    (He et al. 2016b, section 4 and table 4: ResNet-164.) 16, 32 and 64 maps inside a bottleneck, four times as many
    outside; the stride is in the first 1x1, as in the authors' code. Convolutions are He-initialised by fan-out, the
    dense layer is Glorot-uniform.
    """

    num_classes: int
    depth: int = 164
    width: int = 16
    norm: str = "global"
    activation: str = "relu"
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        style = Style(nn.activation(self.activation), self.norm, stride_first=True, dtype=self.dtype)
        blocks, block = _blocks(self.depth, 9, 2), nn.remat(PreActBottleneck, self.remat)
        rates = iter(nn.depth_rates(self.stochastic_depth, len(blocks)))
        x = style.conv(self.width, 3, "conv1")(x)
        for stage, i, stride in blocks:
            x = block(self.width * 2**stage, stride, next(rates), style, name=f"layer{stage + 1}_{i}")(x, train)
        x = nn.GlobalAvgPool(name="pool")(style.activation(style.norm("bn_last")(x, train)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


class WideBlock(linen.Module):
    """x + f(x), f = BN - relu - conv 3x3 - BN - relu - dropout - conv 3x3 (Zagoruyko & Komodakis 2016, figure 1d)."""

    features: int
    stride: int
    dropout_rate: float
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        a = s.activation(s.norm("bn1")(x, train))
        y = s.activation(s.norm("bn2")(s.conv(self.features, 3, "conv1", self.stride)(a), train))
        y = s.conv(self.features, 3, "conv2")(nn.Dropout(self.dropout_rate)(y, train))
        return s.projection(x, a, y, self.stride) + y


@register_model("wrn_tiny", input_shape=_SIZE, depth=10, width=4, widen=2, dropout_rate=0.1)
@register_model("wrn16_8_cifar", input_shape=_SIZE, depth=16, widen=8)
@register_model("wrn28_10_cifar", input_shape=_SIZE, depth=28, widen=10)
@register_model("wrn40_4_cifar", input_shape=_SIZE, depth=40, widen=4)
class WideResNet(linen.Module):
    """conv 3x3 - three stages of n wide blocks, 6n + 4 layers, 16 k, 32 k and 64 k maps - BN - relu - average - dense.

    (Zagoruyko & Komodakis 2016, table 1: WRN-d-k.) Convolutions are He-initialised by fan-out, the dense layer is
    Glorot-uniform.
    """

    num_classes: int
    depth: int = 28
    widen: int = 10
    width: int = 16
    norm: str = "global"
    activation: str = "relu"
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        style, block = (
            Style(nn.activation(self.activation), self.norm, dtype=self.dtype),
            nn.remat(WideBlock, self.remat),
        )
        x = style.conv(self.width, 3, "conv1")(x)
        for stage, i, stride in _blocks(self.depth, 6, 4):
            shape = (self.width * self.widen * 2**stage, stride, self.dropout_rate, style)
            x = block(*shape, name=f"layer{stage + 1}_{i}")(x, train)
        x = nn.GlobalAvgPool(name="pool")(style.activation(style.norm("bn_last")(x, train)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


def _blocks(depth: int, layers: int, more: int) -> list[tuple[int, int, int]]:
    """(stage, block in the stage, stride) for three stages of n blocks, depth = layers * n + more."""
    n, rest = divmod(depth - more, layers)
    if n < 1 or rest:
        raise UsageError(f"depth={depth} must be {layers} n + {more} with n >= 1, e.g. {layers * max(n, 1) + more}")
    return [(stage, i, 2 if stage > 0 and i == 0 else 1) for stage in range(3) for i in range(n)]
