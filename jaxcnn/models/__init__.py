"""Networks. Importing this package registers those that jaxcnn has."""

from jaxcnn.models import (
    alexnet,
    cifar_resnet,
    convnext,
    densenet,
    googlenet,
    lenet,
    mlp,
    mobilenet,
    resnet,
    speednet,
    vgg,
    zfnet,
)
from jaxcnn.models.intermediate import features
from jaxcnn.models.registry import create_model, input_shape, list_models, register_model

__all__ = [
    "alexnet",
    "cifar_resnet",
    "convnext",
    "create_model",
    "densenet",
    "features",
    "googlenet",
    "input_shape",
    "lenet",
    "list_models",
    "mlp",
    "mobilenet",
    "register_model",
    "resnet",
    "speednet",
    "vgg",
    "zfnet",
]
