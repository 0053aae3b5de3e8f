"""Weights from and to other frameworks."""

from jaxcnn.interop.files import read_state_dict, write_state_dict
from jaxcnn.interop.torch_weights import from_torch, has_twin, is_centred, num_classes, to_torch

__all__ = ["from_torch", "has_twin", "is_centred", "num_classes", "read_state_dict", "to_torch", "write_state_dict"]
