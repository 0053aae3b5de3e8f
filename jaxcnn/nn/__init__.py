"""Layers: pure functions first (``jaxcnn.nn.conv2d``), Flax modules (``jaxcnn.nn.Conv``) built on them."""

from jaxcnn.nn import init
from jaxcnn.nn.functional import (
    activation,
    batch_moments,
    batch_norm,
    conv2d,
    conv_output_size,
    dense,
    dropout,
    local_response_norm,
    relu,
    scaled_tanh,
    total_padding,
)
from jaxcnn.nn.layers import BatchNorm, Conv, Dense, Dropout
from jaxcnn.nn.pooling import adaptive_avg_pool2d, avg_pool2d, global_avg_pool2d, max_pool2d

__all__ = [
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "activation",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_moments",
    "batch_norm",
    "conv2d",
    "conv_output_size",
    "dense",
    "dropout",
    "global_avg_pool2d",
    "init",
    "local_response_norm",
    "max_pool2d",
    "relu",
    "scaled_tanh",
    "total_padding",
]
