"""Weights from and to other frameworks."""

from jaxcnn.interop.files import read_state_dict
from jaxcnn.interop.torch_weights import from_torch, num_classes

__all__ = ["from_torch", "num_classes", "read_state_dict"]
