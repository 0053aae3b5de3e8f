"""DenseNet: each layer sees the maps of all layers before it (Huang et al. 2017)."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array


class DenseLayer(linen.Module):
    """concatenate(x, f(x)), f = BN - relu - 1x1 (4 growth) - BN - relu - 3x3 (growth): DenseNet-B (section 3)."""

    growth: int
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(nn.BatchNorm(dtype=self.dtype, name="norm1")(x, train))
        y = nn.Conv(4 * self.growth, 1, use_bias=False, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(nn.BatchNorm(dtype=self.dtype, name="norm2")(y, train))
        y = nn.Conv(self.growth, 3, padding=1, use_bias=False, dtype=self.dtype, name="conv2")(y)
        return jnp.concatenate([x.astype(y.dtype), y], axis=-1)


@register_model("densenet_tiny", input_shape=(32, 32, 3), depths=(2, 2), growth=4, width=8)
@register_model("densenet121", input_shape=(224, 224, 3), depths=(6, 12, 24, 16))
@register_model("densenet169", input_shape=(224, 224, 3), depths=(6, 12, 32, 32))
@register_model("densenet201", input_shape=(224, 224, 3), depths=(6, 12, 48, 32))
class DenseNet(linen.Module):
    """conv 7x7 / 2 - max pool - dense blocks with transitions (BN - relu - 1x1 halving - average pool) - BN - dense.

    (Huang et al. 2017, table 1: DenseNet-BC with compression 1/2.) Kernels are He-initialised by fan-in.
    """

    num_classes: int
    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def norm(x: Array, name: str) -> Array:
            return nn.relu(nn.BatchNorm(dtype=self.dtype, name=name)(x, train))

        x = norm(
            nn.Conv(self.width, 7, stride=2, padding=3, use_bias=False, dtype=self.dtype, name="conv0")(x), "norm0"
        )
        x = nn.max_pool2d(x, 3, stride=2, padding=1)
        for block, depth in enumerate(self.depths, start=1):
            for layer in range(1, depth + 1):
                x = DenseLayer(self.growth, self.dtype, name=f"denseblock{block}_denselayer{layer}")(x, train)
            if block < len(self.depths):
                x = norm(x, f"transition{block}_norm")
                half = nn.Conv(x.shape[-1] // 2, 1, use_bias=False, dtype=self.dtype, name=f"transition{block}_conv")
                x = nn.avg_pool2d(half(x), 2)
        x = nn.global_avg_pool2d(norm(x, f"norm{len(self.depths) + 1}"))
        x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)
