"""Multilayer perceptron: the lecture's feedforward network."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxcnn import nn
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array


@register_model("mlp", input_shape=(28, 28, 1))
class MLP(linen.Module):
    """Fully connected layers: y = f(W y + b), then dropout, for each hidden layer; a last affine layer gives the logits.

    Kernels are He-initialised (fan-in), biases zero.
    """

    num_classes: int
    hidden: tuple[int, ...] = (512, 256)
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if x.ndim != 4:
            raise UsageError(f"x of shape {x.shape} must be images [B, H, W, C]")
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, kernel_init=nn.init.he_fan_in, dtype=self.dtype, name=f"fc{i + 1}")(x)
            x = nn.activation(self.activation)(x)
            x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
