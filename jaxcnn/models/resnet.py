"""ResNet for ImageNet and what grew from it: v1, v1.5, v2, the lecture's code, ResNeXt, Wide ResNet, SE-ResNet."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.errors import UsageError, nearest
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array


@dataclasses.dataclass(frozen=True)
class Style:
    """What the blocks of one network have in common.

    Attributes:
      activation: between the layers.
      over: the examples that share BatchNorm's moments (``nn.BatchNorm``).
      use_bias: convolutions keep a bias before their BatchNorm (only the lecture's code does).
      stride_first: a bottleneck's stride is in its first 1x1 (v1), not in its 3x3 (v1.5).
      groups, base_width: of the 3x3 of a bottleneck (ResNeXt, Wide ResNet).
      squeeze: reduction of a squeeze-and-excitation at the end of a block; 0: none.
      zero_init: the last BatchNorm of a block starts with gain 0 (Goyal et al. 2017, section 5.1).
      dtype: type of the computation.
    """

    activation: Callable[[Array], Array] = nn.relu
    over: str = "global"
    use_bias: bool = False
    stride_first: bool = False
    groups: int = 1
    base_width: int = 64
    squeeze: int = 0
    zero_init: bool = False
    dtype: Any = jnp.float32

    def conv(self, features: int, size: int, name: str, stride: int = 1, groups: int = 1) -> nn.Conv:
        """A convolution that keeps the size (at stride 1), He-initialised by fan-out."""
        return nn.Conv(features, size, stride, size // 2, groups, use_bias=self.use_bias, dtype=self.dtype, name=name)

    def norm(self, name: str, last: bool = False) -> nn.BatchNorm:
        """BatchNorm; ``last`` in its block it may start with gain 0."""
        scale_init = nn.init.zeros if last and self.zero_init else nn.init.ones
        return nn.BatchNorm(self.over, scale_init=scale_init, dtype=self.dtype, name=name)

    def shortcut(self, x: Array, y: Array, stride: int, train: bool) -> Array:
        """x itself, or conv 1x1 - BN where y has another shape (option B, He et al. 2016a, section 3.3)."""
        if x.shape == y.shape:
            return x
        return self.norm("downsample_bn")(self.conv(y.shape[-1], 1, "downsample", stride)(x), train)

    def projection(self, x: Array, a: Array, y: Array, stride: int) -> Array:
        """x itself, or conv 1x1 of its activation a where y has another shape; no BN on the way of x (He et al. 2016b)."""
        return x if x.shape == y.shape else self.conv(y.shape[-1], 1, "downsample", stride)(a)


class BasicBlock(linen.Module):
    """Residual block: relu(x + f(x)), f = conv 3x3 - BN - relu - conv 3x3 - BN (He et al. 2016a, figure 5 left)."""

    features: int
    stride: int
    drop_rate: float
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        y = s.activation(s.norm("bn1")(s.conv(self.features, 3, "conv1", self.stride)(x), train))
        y = s.norm("bn2", last=True)(s.conv(self.features, 3, "conv2")(y), train)
        y = nn.StochasticDepth(self.drop_rate)(y, train)
        return s.activation(s.shortcut(x, y, self.stride, train) + y)


class Bottleneck(linen.Module):
    """Residual block: relu(x + f(x)), f = 1x1 - BN - relu - 3x3 - BN - relu - 1x1, four times as wide, - BN.

    (He et al. 2016a, figure 5 right; ResNeXt's is Xie et al. 2017, figure 3c; SE-ResNet's Hu et al. 2018, figure 3.)
    """

    features: int
    stride: int
    drop_rate: float
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        width = self.features * s.base_width // 64 * s.groups
        first, second = (self.stride, 1) if s.stride_first else (1, self.stride)
        y = s.activation(s.norm("bn1")(s.conv(width, 1, "conv1", first)(x), train))
        y = s.activation(s.norm("bn2")(s.conv(width, 3, "conv2", second, s.groups)(y), train))
        y = s.norm("bn3", last=True)(s.conv(4 * self.features, 1, "conv3")(y), train)
        if s.squeeze:
            y = nn.SqueezeExcite(y.shape[-1] // s.squeeze, dtype=s.dtype, name="se")(y)
        y = nn.StochasticDepth(self.drop_rate)(y, train)
        return s.activation(s.shortcut(x, y, self.stride, train) + y)


class PreActBasicBlock(linen.Module):
    """Pre-activation block: x + f(x), f = BN - relu - conv 3x3, twice (He et al. 2016b, figure 1b)."""

    features: int
    stride: int
    drop_rate: float
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        a = s.activation(s.norm("bn1")(x, train))
        y = s.conv(self.features, 3, "conv1", self.stride)(a)
        y = s.conv(self.features, 3, "conv2")(s.activation(s.norm("bn2", last=True)(y, train)))
        return s.projection(x, a, y, self.stride) + nn.StochasticDepth(self.drop_rate)(y, train)


class PreActBottleneck(linen.Module):
    """Pre-activation block: x + f(x), f = BN - relu - 1x1 - BN - relu - 3x3 - BN - relu - 1x1 (He et al. 2016b)."""

    features: int
    stride: int
    drop_rate: float
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        first, second = (self.stride, 1) if s.stride_first else (1, self.stride)
        a = s.activation(s.norm("bn1")(x, train))
        y = s.conv(self.features, 1, "conv1", first)(a)
        y = s.conv(self.features, 3, "conv2", second)(s.activation(s.norm("bn2")(y, train)))
        y = s.conv(4 * self.features, 1, "conv3")(s.activation(s.norm("bn3", last=True)(y, train)))
        return s.projection(x, a, y, self.stride) + nn.StochasticDepth(self.drop_rate)(y, train)


_BLOCKS = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "preact_basic": PreActBasicBlock,
    "preact_bottleneck": PreActBottleneck,
}
_IMAGENET = (224, 224, 3)


@register_model("resnet_tiny", input_shape=(32, 32, 3), depths=(1, 1), width=8, stem="small")
@register_model("resnet18", input_shape=_IMAGENET, depths=(2, 2, 2, 2))
@register_model("resnet34", input_shape=_IMAGENET, depths=(3, 4, 6, 3))
@register_model("resnet50", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="bottleneck")
@register_model("resnet101", input_shape=_IMAGENET, depths=(3, 4, 23, 3), block="bottleneck")
@register_model("resnet152", input_shape=_IMAGENET, depths=(3, 8, 36, 3), block="bottleneck")
@register_model("resnet50_v1", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="bottleneck", stride_first=True)
@register_model("resnet101_v1", input_shape=_IMAGENET, depths=(3, 4, 23, 3), block="bottleneck", stride_first=True)
@register_model("resnet152_v1", input_shape=_IMAGENET, depths=(3, 8, 36, 3), block="bottleneck", stride_first=True)
@register_model("resnet18_v2", input_shape=_IMAGENET, depths=(2, 2, 2, 2), block="preact_basic")
@register_model("resnet34_v2", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="preact_basic")
@register_model("resnet50_v2", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="preact_bottleneck")
@register_model("resnet101_v2", input_shape=_IMAGENET, depths=(3, 4, 23, 3), block="preact_bottleneck")
@register_model("resnet152_v2", input_shape=_IMAGENET, depths=(3, 8, 36, 3), block="preact_bottleneck")
@register_model("resnet50_lecture", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="bottleneck", use_bias=True)
@register_model("resnet101_lecture", input_shape=_IMAGENET, depths=(3, 4, 23, 3), block="bottleneck", use_bias=True)
@register_model("resnet152_lecture", input_shape=_IMAGENET, depths=(3, 8, 36, 3), block="bottleneck", use_bias=True)
@register_model(
    "resnext50_32x4d", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="bottleneck", groups=32, base_width=4
)
@register_model("wide_resnet50_2", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="bottleneck", base_width=128)
@register_model("seresnet50", input_shape=_IMAGENET, depths=(3, 4, 6, 3), block="bottleneck", squeeze=16)
class ResNet(linen.Module):
    """conv 7x7 / 2 - max pool 3x3 / 2 - four stages of residual blocks - global average - dense.

    (He et al. 2016a, table 1.) Without a suffix the variant is v1.5, the stride of a bottleneck in its 3x3, as torchvision;
    ``_v1`` is the published one, ``_v2`` pre-activation (He et al. 2016b) with no norm in the stem, ``_lecture`` keeps the
    bias of each convolution as the lecture's code does. Stages begin with stride 2, except the first. Convolutions are
    He-initialised by fan-out, the dense layer is Glorot-uniform; BatchNorm starts with gain 1, biases with 0.

    Fields:
      norm: the examples that share BatchNorm's moments, "global" or "ghost:N".
      stem: "imagenet", or "small" for 32x32 images: conv 3x3 / 1 without pooling.
      stochastic_depth: rate of the last block; it grows linearly from 0.
      zero_init: gain 0 for the last BatchNorm of each block.
      remat: recompute the blocks in the backward pass instead of keeping their activations.
    """

    num_classes: int
    depths: tuple[int, ...] = (2, 2, 2, 2)
    block: str = "basic"
    width: int = 64
    stem: str = "imagenet"
    activation: str = "relu"
    norm: str = "global"
    use_bias: bool = False
    stride_first: bool = False
    groups: int = 1
    base_width: int = 64
    squeeze: int = 0
    zero_init: bool = False
    dropout_rate: float = 0.0
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.stem not in ("imagenet", "small"):
            raise UsageError(f"stem={self.stem!r} must be imagenet or small")
        if self.block not in _BLOCKS:
            raise UsageError(f"block={self.block!r} must be one of {', '.join(_BLOCKS)}{nearest(self.block, _BLOCKS)}")
        shared = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(Style) if f.name not in ("activation", "over")
        }
        style = Style(nn.activation(self.activation), self.norm, **shared)
        preact, block = self.block.startswith("preact"), nn.remat(_BLOCKS[self.block], self.remat)

        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = style.conv(self.width, size, "conv1", stride)(x)
        if not preact:
            x = style.activation(style.norm("bn1")(x, train))
        if self.stem == "imagenet":
            x = nn.MaxPool(3, 2, padding=1, name="pool1")(x)
        rates = iter(nn.depth_rates(self.stochastic_depth, sum(self.depths)))
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(self.width * 2**stage, stride, next(rates), style, name=f"layer{stage + 1}_{i}")(x, train)
        if preact:
            x = style.activation(style.norm("bn_last")(x, train))
        x = nn.Dropout(self.dropout_rate)(nn.GlobalAvgPool(name="pool")(x), train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
