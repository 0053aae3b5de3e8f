"""AlexNet: as published, as one tower, and as the lecture counts it."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array

_gaussian = linen.initializers.normal(0.01)


@register_model("alexnet_tiny", input_shape=(64, 64, 3), maps=(8, 12, 16, 16, 12), hidden=32)
@register_model("alexnet", input_shape=(224, 224, 3))
class AlexNet(linen.Module):
    """AlexNet in one tower: 61,100,840 parameters (Krizhevsky 2014, "One weird trick", section 5; as torchvision).

    Overlapping max pooling, ReLU, dropout before the two hidden dense layers. Kernels are He-initialised (fan-in), the
    last dense layer Glorot-uniform, biases zero. Images that do not give 6x6 maps are pooled to 6x6 (adaptively, as
    torchvision).
    """

    num_classes: int
    maps: tuple[int, ...] = (64, 192, 384, 256, 256)
    hidden: int = 4096
    activation: str = "relu"
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        f, he, dtype = nn.activation(self.activation), nn.init.he_fan_in, self.dtype

        def conv(x: Array, i: int, size: int, stride: int = 1, padding: int = 1) -> Array:
            return f(nn.Conv(self.maps[i - 1], size, stride, padding, kernel_init=he, dtype=dtype, name=f"conv{i}")(x))

        x = conv(x, 1, 11, stride=4, padding=2)  # 224 -> 55
        x = nn.MaxPool(3, 2, name="pool1")(x)  # 27
        x = conv(x, 2, 5, padding=2)
        x = nn.MaxPool(3, 2, name="pool2")(x)  # 13
        x = conv(x, 3, 3)
        x = conv(x, 4, 3)
        x = conv(x, 5, 3)
        x = nn.MaxPool(3, 2, name="pool5")(x)  # 6
        x = nn.adaptive_avg_pool2d(x, 6).reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.Dropout(self.dropout_rate)(x, train)
            x = f(nn.Dense(self.hidden, kernel_init=he, dtype=dtype, name=name)(x))
        return nn.Dense(self.num_classes, dtype=dtype, name="fc8")(x).astype(jnp.float32)


@register_model("alexnet_2012_tiny", input_shape=(67, 67, 3), maps=(8, 12, 16, 16, 12), hidden=32)
@register_model("alexnet_2012", input_shape=(227, 227, 3))
@register_model("alexnet_lecture", input_shape=(224, 224, 3), groups=1, response_norm=False)
class AlexNet2012(linen.Module):
    """AlexNet as published: 60,965,224 parameters (Krizhevsky, Sutskever & Hinton 2012, section 3, figure 2).

    Conv 2, 4 and 5 see only the maps of their own GPU (two groups); local response normalisation after conv 1 and 2;
    overlapping pooling; dropout after the two hidden dense layers. The published size 224 fits only when it is read as
    227. Weights are Gaussian (0.01); biases are 1 in conv 2, 4, 5 and the hidden dense layers, else 0 (section 5).

    ``alexnet_lecture`` is the variant behind the lecture's complexity table: 224 without padding, one group, no
    normalisation, so 54x54 maps, 6,400 inputs to the first dense layer and 50,844,008 parameters.
    """

    num_classes: int
    maps: tuple[int, ...] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    groups: int = 2
    response_norm: bool = True
    activation: str = "relu"
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        zeros, ones = nn.init.zeros, nn.init.ones
        f = nn.activation(self.activation)

        def conv(x: Array, i: int, size: int, bias: Any, **where: Any) -> Array:
            init = {"kernel_init": _gaussian, "bias_init": bias}
            return f(nn.Conv(self.maps[i - 1], size, **init, **where, dtype=self.dtype, name=f"conv{i}")(x))

        def norm(x: Array) -> Array:
            return nn.local_response_norm(x, 5, 1e-4, 0.75, 2.0) if self.response_norm else x

        x = norm(conv(x, 1, 11, zeros, stride=4))  # 227 -> 55
        x = nn.MaxPool(3, 2, name="pool1")(x)  # 27
        x = norm(conv(x, 2, 5, ones, padding=2, groups=self.groups))
        x = nn.MaxPool(3, 2, name="pool2")(x)  # 13
        x = conv(x, 3, 3, zeros, padding=1)
        x = conv(x, 4, 3, ones, padding=1, groups=self.groups)
        x = conv(x, 5, 3, ones, padding=1, groups=self.groups)
        x = nn.MaxPool(3, 2, name="pool5")(x)  # 6
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = f(nn.Dense(self.hidden, kernel_init=_gaussian, bias_init=ones, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, kernel_init=_gaussian, dtype=self.dtype, name="fc8")(x).astype(jnp.float32)
