"""ResNets for 32x32 images: He et al. 2016a section 4.2, pre-activation ResNet-164, Wide ResNets, and plain nets."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
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
    shortcut: str
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        y = nn.relu(s.norm("bn1")(s.conv(self.features, 3, "conv1", self.stride)(x), train))
        y = s.norm("bn2", last=True)(s.conv(self.features, 3, "conv2")(y), train)
        if self.shortcut == "plain":
            return nn.relu(y)
        if x.shape != y.shape and self.shortcut == "A":
            more = self.features - x.shape[-1]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        elif x.shape != y.shape:
            x = s.norm("downsample_bn")(s.conv(self.features, 1, "downsample", self.stride)(x), train)
        return nn.relu(x.astype(y.dtype) + y)


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
    (figure 6 left). Convolutions are He-initialised by fan-out.
    """

    num_classes: int
    depth: int = 20
    shortcut: str = "A"
    width: int = 16
    zero_init: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        style = Style(zero_init=self.zero_init, dtype=self.dtype)
        x = nn.relu(style.norm("bn1")(style.conv(self.width, 3, "conv1")(x), train))
        for stage in range(3):
            for i in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                x = CifarBlock(self.width * 2**stage, stride, self.shortcut, style, name=f"layer{stage + 1}_{i}")(
                    x, train
                )
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(nn.global_avg_pool2d(x)).astype(jnp.float32)


@register_model("preact_resnet164_cifar", input_shape=_SIZE)
class PreActCifarResNet(linen.Module):
    """conv 3x3 - three stages of n pre-activation bottlenecks, 9n + 2 layers - BN - relu - average - dense.

    (He et al. 2016b, section 4 and table 4: ResNet-164.) 16, 32 and 64 maps inside a bottleneck, four times as many
    outside; the stride is in the first 1x1, as in the authors' code.
    """

    num_classes: int
    depth: int = 164
    width: int = 16
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        style = Style(stride_first=True, dtype=self.dtype)
        x = style.conv(self.width, 3, "conv1")(x)
        for stage in range(3):
            for i in range((self.depth - 2) // 9):
                stride = 2 if stage > 0 and i == 0 else 1
                x = PreActBottleneck(self.width * 2**stage, stride, 0.0, style, name=f"layer{stage + 1}_{i}")(x, train)
        x = nn.global_avg_pool2d(nn.relu(style.norm("bn_last")(x, train)))
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
        a = nn.relu(s.norm("bn1")(x, train))
        y = nn.relu(s.norm("bn2")(s.conv(self.features, 3, "conv1", self.stride)(a), train))
        y = s.conv(self.features, 3, "conv2")(nn.Dropout(self.dropout_rate)(y, train))
        return y + (x if x.shape == y.shape else s.conv(self.features, 1, "downsample", self.stride)(a))


@register_model("wrn16_8_cifar", input_shape=_SIZE, depth=16, widen=8)
@register_model("wrn28_10_cifar", input_shape=_SIZE, depth=28, widen=10)
@register_model("wrn40_4_cifar", input_shape=_SIZE, depth=40, widen=4)
class WideResNet(linen.Module):
    """conv 3x3 - three stages of n wide blocks, 6n + 4 layers, 16 k, 32 k and 64 k maps - BN - relu - average - dense.

    (Zagoruyko & Komodakis 2016, table 1: WRN-d-k.) Convolutions are He-initialised by fan-out.
    """

    num_classes: int
    depth: int = 28
    widen: int = 10
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        style = Style(dtype=self.dtype)
        x = style.conv(16, 3, "conv1")(x)
        for stage in range(3):
            for i in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                width = 16 * 2**stage * self.widen
                x = WideBlock(width, stride, self.dropout_rate, style, name=f"layer{stage + 1}_{i}")(x, train)
        x = nn.global_avg_pool2d(nn.relu(style.norm("bn_last")(x, train)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
