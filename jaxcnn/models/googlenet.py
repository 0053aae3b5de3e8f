"""GoogLeNet: Inception modules (Szegedy et al. 2015), as published and with BatchNorm."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array

# Table 1 of the paper: maps of the branches 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection.
_TABLE_1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class BasicConv(linen.Module):
    """conv - BN - relu, or (``norm`` empty) conv with bias - relu."""

    features: int
    size: int
    norm: str
    stride: int = 1
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        bias, pad = not self.norm, self.size // 2
        x = nn.Conv(self.features, self.size, self.stride, pad, use_bias=bias, dtype=self.dtype, name="conv")(x)
        if self.norm:
            x = nn.BatchNorm(self.norm, epsilon=1e-3, dtype=self.dtype, name="bn")(x, train)
        return nn.relu(x)


class Inception(linen.Module):
    """Four branches side by side: 1x1 | 1x1 - 3x3 | 1x1 - 5x5 | max pool 3x3 - 1x1 (figure 2b).

    Attributes:
      maps: a row of table 1.
      large: size of the third branch's kernel: 5 as published, 3 in torchvision (a mistake it keeps).
      norm: as in BasicConv.
    """

    maps: tuple[int, ...]
    large: int
    norm: str
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        def conv(x: Array, features: int, size: int, name: str) -> Array:
            return BasicConv(features, size, self.norm, dtype=self.dtype, name=name)(x, train)

        one, three_reduce, three, five_reduce, five, pool = self.maps
        a = conv(x, one, 1, "branch1")
        b = conv(conv(x, three_reduce, 1, "branch2_reduce"), three, 3, "branch2")
        c = conv(conv(x, five_reduce, 1, "branch3_reduce"), five, self.large, "branch3")
        d = conv(nn.MaxPool(3, 1, padding=1, name="branch4_pool")(x), pool, 1, "branch4")
        return jnp.concatenate([a, b, c, d], axis=-1)


class AuxiliaryHead(linen.Module):
    """Average pool to 4x4 - conv 1x1, 128 maps - dense 1024 - dropout - dense: a second loss for 4a and 4d (section 5)."""

    num_classes: int
    norm: str
    dropout_rate: float = 0.7
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = BasicConv(128, 1, self.norm, dtype=self.dtype, name="conv")(nn.adaptive_avg_pool2d(x, 4), train)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(1024, kernel_init=nn.init.he_fan_in, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc2")(x).astype(jnp.float32)


@register_model("googlenet_tiny", input_shape=(64, 64, 3), modules=("3a", "4a"))
@register_model("googlenet", input_shape=(224, 224, 3))
@register_model("googlenet_2014", input_shape=(224, 224, 3), large=5, batch_norm=False, dropout_rate=0.4)
class GoogLeNet(linen.Module):
    """conv 7x7 / 2 - 1x1 - 3x3 - nine Inception modules - global average - dense (Szegedy et al. 2015, table 1).

    ``googlenet`` is torchvision's: BatchNorm (epsilon 1e-3), no biases, 3x3 where the paper has 5x5. ``googlenet_2014`` is
    the paper's: true 5x5, biases, local response normalisation, no BatchNorm. With ``aux`` the training-mode output is
    (logits, logits of the head on 4a, logits of the head on 4d), whose losses count 0.3 each, as the paper trains;
    evaluation returns logits. The paper does not state its initialisation: kernels are He-initialised by fan-out, dense
    layers Glorot-uniform (an auxiliary head's first by He, fan-in), biases zero.
    """

    num_classes: int
    modules: tuple[str, ...] = tuple(_TABLE_1)
    large: int = 3
    batch_norm: bool = True
    norm: str = "global"
    aux: bool = False
    dropout_rate: float = 0.2
    remat: bool = False
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Any:
        over = self.norm if self.batch_norm else ""
        inception = nn.remat(Inception, self.remat)

        def conv(x: Array, features: int, size: int, name: str, stride: int = 1) -> Array:
            return BasicConv(features, size, over, stride, self.dtype, name=name)(x, train)

        def norm(x: Array) -> Array:
            return x if self.batch_norm else nn.local_response_norm(x)

        x = conv(x, 64, 7, "conv1", stride=2)  # 224 -> 112
        x = norm(nn.MaxPool(3, 2, ceil_mode=True, name="pool1")(x))  # 56
        x = norm(conv(conv(x, 64, 1, "conv2"), 192, 3, "conv3"))
        x = nn.MaxPool(3, 2, ceil_mode=True, name="pool2")(x)  # 28
        if unknown := [name for name in self.modules if name not in _TABLE_1]:
            raise UsageError(f"modules={self.modules} must be of {', '.join(_TABLE_1)}, which {unknown[0]!r} is not")
        heads = []
        for i, name in enumerate(self.modules):
            if i and name[0] != self.modules[i - 1][0]:  # a new stage: 14, then 7
                window = 2 if name[0] == "5" and self.batch_norm else 3
                x = nn.MaxPool(window, 2, ceil_mode=True, name=f"pool{int(name[0]) - 1}")(x)
            x = inception(_TABLE_1[name], self.large, over, self.dtype, name=f"inception{name}")(x, train)
            if self.aux and name in ("4a", "4d") and (train or self.is_initializing()):
                head = AuxiliaryHead(self.num_classes, over, dtype=self.dtype, name=f"aux{1 + (name == '4d')}")
                heads.append(head(x, train))
        x = nn.Dropout(self.dropout_rate)(nn.GlobalAvgPool(name="pool5")(x), train)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
        return (logits, *heads) if heads and train else logits
