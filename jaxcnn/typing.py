"""The words of the house: types, and the axis letters that end a variable's name.

``B`` examples in a batch, ``N`` examples in a dataset, ``H`` rows, ``W`` columns, ``C`` channels, ``K`` classes.
So ``x_BHWC`` is a batch of images and ``logits_BK`` a row of class scores for each. Images are channels-last; a kernel
is ``[kernel rows, kernel columns, input channels / groups, output channels]``.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Variables: TypeAlias = Mapping[str, PyTree]  # {"params": ..., "batch_stats": ...}, as flax.linen has it
# image [B, H, W, C] uint8, label [B] int32; in training example and epoch [B] int32; in evaluation mask [B] bool;
# of mixed images label_b [B] int32 and weight [B] float32, the share of label
Batch: TypeAlias = Mapping[str, Array]
Sums: TypeAlias = Mapping[str, Any]  # totals over examples, never means: they add up over batches and devices
Schedule: TypeAlias = Callable[[Array], Array]  # step -> learning rate
Initializer: TypeAlias = Callable[..., Array]  # (key, shape, dtype) -> array
