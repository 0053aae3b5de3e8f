"""VGG: blocks of small convolutions (Simonyan & Zisserman 2015)."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array

# Table 1 of the paper, columns A, B, C, D, E: for each block the sizes of its convolutions; the blocks have 64, 128, 256,
# 512 and 512 maps and end with a 2x2 max pooling.
_A = ((3,), (3,), (3, 3), (3, 3), (3, 3))
_B = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
_C = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
_D = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
_E = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))


@register_model(
    "vgg_tiny", input_shape=(32, 32, 3), blocks=((3,), (3,)), widths=(8, 16), hidden=(32,), pooled=1, batch_norm=True
)
@register_model("vgg11", input_shape=(224, 224, 3), blocks=_A)
@register_model("vgg13", input_shape=(224, 224, 3), blocks=_B)
@register_model("vgg16", input_shape=(224, 224, 3), blocks=_D)
@register_model("vgg16_c", input_shape=(224, 224, 3), blocks=_C)
@register_model("vgg19", input_shape=(224, 224, 3), blocks=_E)
@register_model("vgg11_bn", input_shape=(224, 224, 3), blocks=_A, batch_norm=True)
@register_model("vgg13_bn", input_shape=(224, 224, 3), blocks=_B, batch_norm=True)
@register_model("vgg16_bn", input_shape=(224, 224, 3), blocks=_D, batch_norm=True)
@register_model("vgg19_bn", input_shape=(224, 224, 3), blocks=_E, batch_norm=True)
class VGG(linen.Module):
    """VGG block: n times (conv 3x3 pad 1 - relu), then max pool 2x2 stride 2; five of them, then three dense layers.

    (Simonyan & Zisserman 2015, table 1; the lecture's "VGG Blocks".) ``_bn`` adds BatchNorm after each convolution and
    keeps the convolution's bias, as torchvision. Kernels are He-initialised (fan-out), dense layers Gaussian (0.01),
    biases zero.

    Fields:
      pooled: rows and columns to which the last maps are averaged (adaptively, as torchvision) before the dense layers:
        7 for images of 224; 1 for those of 32, which leave no more.
    """

    num_classes: int
    blocks: tuple[tuple[int, ...], ...] = _D
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: tuple[int, ...] = (4096, 4096)
    pooled: int = 7
    batch_norm: bool = False
    norm: str = "global"
    activation: str = "relu"
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        f, dtype = nn.activation(self.activation), self.dtype
        for i, (sizes, features) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for j, size in enumerate(sizes, start=1):
                x = nn.Conv(features, size, padding=size // 2, dtype=dtype, name=f"conv{i}_{j}")(x)
                if self.batch_norm:
                    x = nn.BatchNorm(self.norm, dtype=dtype, name=f"bn{i}_{j}")(x, train)
                x = f(x)
            x = nn.MaxPool(2, name=f"pool{i}")(x)
        x = nn.adaptive_avg_pool2d(x, self.pooled).reshape(x.shape[0], -1)
        gaussian = linen.initializers.normal(0.01)
        for i, features in enumerate(self.hidden, start=6):
            x = f(nn.Dense(features, kernel_init=gaussian, dtype=dtype, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, kernel_init=gaussian, dtype=dtype, name="fc8")(x).astype(jnp.float32)
