"""LeNet-5, as the lecture tables it and as the paper built it (LeCun, Bottou, Bengio & Haffner 1998, section II.B)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxcnn import nn
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import register_model
from jaxcnn.typing import Array, Key


@register_model("lenet5", input_shape=(32, 32, 1))
class LeNet5(linen.Module):
    """conv 5x5 - pool - conv 5x5 - pool - conv 5x5 - dense - dense, 61,706 parameters for 10 classes.

    The lecture's table: 6, 16 and 120 maps, average pooling (or maximum), tanh; a 32x32 image. The table leaves out the tanh
    after FC 1 and the lecture's code the one after conv 3; here both have it, as in the paper. Kernels are Glorot-uniform,
    biases zero.
    """

    num_classes: int
    activation: str = "tanh"
    pool: str = "average"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        f = nn.activation(self.activation)
        if self.pool not in ("average", "maximum"):
            raise UsageError(f"pool={self.pool!r} must be average or maximum")
        pool = nn.AvgPool if self.pool == "average" else nn.MaxPool

        def conv(features: int, name: str) -> nn.Conv:
            return nn.Conv(features, 5, kernel_init=nn.init.glorot_uniform, dtype=self.dtype, name=name)

        x = f(conv(6, "conv1")(x))  # 32 -> 28
        x = pool(2, name="pool1")(x)  # 14
        x = f(conv(16, "conv2")(x))  # 10
        x = pool(2, name="pool2")(x)  # 5
        x = f(conv(120, "conv3")(x))  # 1
        if x.shape[1:3] != (1, 1):
            size = "x".join(map(str, x.shape[1:3]))
            raise UsageError(
                f"layer conv3: its maps are {size}, but fc1 takes 1x1; it needs 32x32 images (--image_size=32)"
            )
        x = x.reshape(x.shape[0], -1)
        x = f(nn.Dense(84, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc2")(x).astype(jnp.float32)


# Table I of the paper: the maps of S2 (rows) that each of the 16 maps of C3 (columns) is connected to.
_C3_CONNECTIONS = np.array(
    [
        [1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1],
        [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1],
        [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1],
        [0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1],
        [0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1],
    ],
    bool,
)

# A 7x12 picture of each digit: the fixed +-1 weights of the output layer. The paper draws printable ASCII this way
# (figure 3); these are drawn for this project.
_BITMAPS = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## .####.. .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..####. ##..##. ######. ######. ....##. .#####. .######
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. ##...## .....##
##...## ...##.. ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


def digit_bitmaps() -> np.ndarray:
    """The targets of the output layer, ``[10, 84]``: +1 where the digit is drawn, -1 elsewhere."""
    lines = [line.split() for line in _BITMAPS.split("\n") if line]
    ink = np.array([[[character == "#" for character in part] for part in line] for line in lines])  # [12, 10, 7]
    return np.where(ink.transpose(1, 0, 2).reshape(10, 84), 1.0, -1.0).astype(np.float32)


@register_model("lenet5_1998", input_shape=(32, 32, 1))
class LeNet5of1998(linen.Module):
    """C1 - S2 - C3 - S4 - C5 - F6 - RBF with 60,000 trainable parameters, as published.

    Subsampling has one trainable gain and bias per map, C3 sees only some of S2's maps (table I), units squash with
    1.7159 tanh(2/3 a), and the output is the squared distance of F6 to a fixed picture of each class (equation 7). Its
    negative serves as the logit, which makes softmax cross-entropy the paper's criterion (equation 9) without the term
    for rubbish classes. Weights are uniform in +-2.4 / fan-in (Appendix A). Squared distances make large gradients: with
    momentum 0.9 a learning rate of 0.01 works, 0.05 does not.
    """

    num_classes: int
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.num_classes > 10:
            raise UsageError(f"num_classes={self.num_classes}: lenet5_1998 has pictures of 10 classes; use lenet5")
        f, init, dtype = nn.scaled_tanh, nn.init.lecun_uniform_1998, self.dtype
        x = f(nn.Conv(6, 5, kernel_init=init, dtype=dtype, name="C1")(x))
        x = Subsampling(dtype=dtype, name="S2")(x)
        x = f(SparseConv(dtype=dtype, name="C3")(x))
        x = Subsampling(dtype=dtype, name="S4")(x)
        x = f(nn.Conv(120, 5, kernel_init=init, dtype=dtype, name="C5")(x))
        if x.shape[1:3] != (1, 1):
            size = "x".join(map(str, x.shape[1:3]))
            raise UsageError(
                f"layer C5: its maps are {size}, but F6 takes 1x1; it needs 32x32 images (--image_size=32)"
            )
        x = f(nn.Dense(84, kernel_init=init, dtype=dtype, name="F6")(x.reshape(x.shape[0], -1)))
        distance = x.astype(jnp.float32)[:, None, :] - jnp.asarray(digit_bitmaps()[None, : self.num_classes])
        return -jnp.sum(jnp.square(distance), axis=-1)


class Subsampling(linen.Module):
    """f(gain * sum of each 2x2 block + bias), one gain and bias per map (layers S2 and S4)."""

    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        maps = (x.shape[-1],)
        gain = self.param("gain", linen.initializers.constant(0.25), maps).astype(self.dtype)  # starts as the mean
        bias = self.param("bias", nn.init.zeros, maps).astype(self.dtype)
        total = 4 * nn.avg_pool2d(x.astype(self.dtype), 2)
        return nn.scaled_tanh(total * gain.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1))


class SparseConv(linen.Module):
    """C3: 5x5 convolution from 6 to 16 maps along the 60 connections of table I: 60 * 25 + 16 = 1,516 parameters."""

    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: Array) -> Array:
        source, target = np.nonzero(_C3_CONNECTIONS)
        fan_in = 25 * _C3_CONNECTIONS.sum(axis=0)[target]  # the target of a connection has 3, 4 or 6 of them

        def kernel_init(key: Key, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -1, 1) * jnp.asarray(2.4 / fan_in, jnp.float32).reshape(
                1, 1, -1
            )

        kernel = self.param("kernel", kernel_init, (5, 5, len(source)))
        bias = self.param("bias", nn.init.zeros, (16,)).astype(self.dtype)
        full = jnp.zeros((5, 5, 6, 16), self.dtype).at[:, :, source, target].set(kernel.astype(self.dtype))
        return nn.conv2d(x.astype(self.dtype), full, bias)
