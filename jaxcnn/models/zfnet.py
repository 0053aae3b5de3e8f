"""ZFNet: AlexNet with a finer first layer (Zeiler & Fergus 2014)."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array

_gaussian = linen.initializers.normal(0.01)


@register_model("zfnet", input_shape=(224, 224, 3))
class ZFNet(linen.Module):
    """7x7 stride 2 - 5x5 stride 2 - three 3x3 - two dense: 62,357,608 parameters (Zeiler & Fergus 2014, figure 3).

    Max pooling 3x3 stride 2 and response normalisation after the first two layers, dropout 0.5 after the hidden dense
    layers. Weights are Gaussian (0.01), biases zero (section 3.1).
    """

    num_classes: int
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def conv(x: Array, features: int, kernel: int, name: str, **where: Any) -> Array:
            return nn.relu(nn.Conv(features, kernel, kernel_init=_gaussian, dtype=self.dtype, name=name, **where)(x))

        x = conv(x, 96, 7, "conv1", stride=2, padding=1)  # 224 -> 110
        x = nn.local_response_norm(nn.max_pool2d(x, 3, stride=2, padding=1))  # 55
        x = conv(x, 256, 5, "conv2", stride=2)  # 26
        x = nn.local_response_norm(nn.max_pool2d(x, 3, stride=2, padding=1))  # 13
        x = conv(x, 384, 3, "conv3", padding=1)
        x = conv(x, 384, 3, "conv4", padding=1)
        x = conv(x, 256, 3, "conv5", padding=1)
        x = nn.max_pool2d(x, 3, stride=2)  # 6
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(4096, kernel_init=_gaussian, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, kernel_init=_gaussian, dtype=self.dtype, name="fc8")(x).astype(jnp.float32)
