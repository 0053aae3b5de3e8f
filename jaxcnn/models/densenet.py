"""DenseNet: each layer sees the maps of all layers before it (Huang et al. 2017)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array


@dataclasses.dataclass(frozen=True)
class Style:
    """What the layers of one network have in common: norm mode, activation and type of the computation."""

    over: str
    activation: str
    dtype: Any

    def conv(self, features: int, size: int, name: str, stride: int = 1) -> nn.Conv:
        """A convolution without bias that keeps the size (at stride 1), He-initialised by fan-in."""
        init = {"use_bias": False, "kernel_init": nn.init.he_fan_in}
        return nn.Conv(features, size, stride, size // 2, **init, dtype=self.dtype, name=name)

    def norm(self, x: Array, name: str, train: bool) -> Array:
        """BN - relu."""
        return nn.activation(self.activation)(nn.BatchNorm(self.over, dtype=self.dtype, name=name)(x, train))


class DenseLayer(linen.Module):
    """concatenate(x, f(x)), f = BN - relu - 1x1 (4 growth) - BN - relu - 3x3 (growth): DenseNet-B (section 3)."""

    growth: int
    style: Style

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.style
        y = s.conv(4 * self.growth, 1, "conv1")(s.norm(x, "norm1", train))
        y = s.conv(self.growth, 3, "conv2")(s.norm(y, "norm2", train))
        return jnp.concatenate([x.astype(y.dtype), y], axis=-1)


@register_model("densenet_tiny", input_shape=(32, 32, 3), depths=(2, 2), growth=4, width=8)
@register_model("densenet121", input_shape=(224, 224, 3), depths=(6, 12, 24, 16))
@register_model("densenet169", input_shape=(224, 224, 3), depths=(6, 12, 32, 32))
@register_model("densenet201", input_shape=(224, 224, 3), depths=(6, 12, 48, 32))
class DenseNet(linen.Module):
    """conv 7x7 / 2 - max pool - dense blocks with transitions (BN - relu - 1x1 halving - average pool) - BN - dense.

    (Huang et al. 2017, table 1: DenseNet-BC with compression 1/2.) Kernels are He-initialised by fan-in, the dense layer
    Glorot-uniform, biases zero. ``remat`` recomputes the dense layers in the backward pass (Pleiss et al. 2017).
    """

    num_classes: int
    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    norm: str = "global"
    activation: str = "relu"
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        s, layer = Style(self.norm, self.activation, self.dtype), nn.remat(DenseLayer, self.remat)
        x = s.norm(s.conv(self.width, 7, "conv0", stride=2)(x), "norm0", train)
        x = nn.MaxPool(3, 2, padding=1, name="pool0")(x)
        for block, depth in enumerate(self.depths, start=1):
            for i in range(1, depth + 1):
                x = layer(self.growth, s, name=f"denseblock{block}_denselayer{i}")(x, train)
            x = s.norm(x, f"transition{block}_norm" if block < len(self.depths) else f"norm{block + 1}", train)
            if block < len(self.depths):
                x = s.conv(x.shape[-1] // 2, 1, f"transition{block}_conv")(x)
                x = nn.AvgPool(2, name=f"transition{block}_pool")(x)
        x = nn.Dropout(self.dropout_rate)(nn.GlobalAvgPool(name="pool")(x), train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)
