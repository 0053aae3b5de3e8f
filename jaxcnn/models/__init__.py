"""Networks. Importing this package registers those that jaxcnn has."""

from jaxcnn.models import lenet, mlp
from jaxcnn.models.registry import create_model, input_shape, list_models, register_model

__all__ = ["create_model", "input_shape", "lenet", "list_models", "mlp", "register_model"]
