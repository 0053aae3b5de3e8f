"""ZFNet: AlexNet with a finer first layer (Zeiler & Fergus 2014)."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array

_gaussian = linen.initializers.normal(0.01)


@register_model("zfnet_tiny", input_shape=(64, 64, 3), maps=(8, 12, 16, 16, 12), hidden=32)
@register_model("zfnet", input_shape=(224, 224, 3))
class ZFNet(linen.Module):
    """7x7 stride 2 - 5x5 stride 2 - three 3x3 - two dense: 62,357,608 parameters (Zeiler & Fergus 2014, figure 3).

    Max pooling 3x3 stride 2 and response normalisation after the first two layers, dropout 0.5 after the hidden dense
    layers. Weights are Gaussian (0.01), biases zero (section 3.1).
    """

    num_classes: int
    maps: tuple[int, ...] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    activation: str = "relu"
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        f, dtype = nn.activation(self.activation), self.dtype

        def conv(x: Array, i: int, size: int, stride: int, padding: int) -> Array:
            layer = nn.Conv(
                self.maps[i - 1], size, stride, padding, kernel_init=_gaussian, dtype=dtype, name=f"conv{i}"
            )
            return f(layer(x))

        x = conv(x, 1, 7, stride=2, padding=1)  # 224 -> 110
        x = nn.local_response_norm(nn.MaxPool(3, 2, padding=1, name="pool1")(x))  # 55
        x = conv(x, 2, 5, stride=2, padding=0)  # 26
        x = nn.local_response_norm(nn.MaxPool(3, 2, padding=1, name="pool2")(x))  # 13
        x = conv(x, 3, 3, stride=1, padding=1)
        x = conv(x, 4, 3, stride=1, padding=1)
        x = conv(x, 5, 3, stride=1, padding=1)
        x = nn.MaxPool(3, 2, name="pool5")(x)  # 6
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = f(nn.Dense(self.hidden, kernel_init=_gaussian, dtype=dtype, name=name)(x))
            x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, kernel_init=_gaussian, dtype=dtype, name="fc8")(x).astype(jnp.float32)
