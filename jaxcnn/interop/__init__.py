"""Weights from and to other frameworks."""

from jaxcnn.interop.torch_weights import from_torch

__all__ = ["from_torch"]
