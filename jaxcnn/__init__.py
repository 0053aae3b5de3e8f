"""jaxcnn: convolutional image classifiers as pure functions on JAX and Flax.

>>> import jaxcnn
>>> model = jaxcnn.create_model("lenet5", num_classes=10)
>>> jaxcnn.list_models("lenet*")
['lenet5', 'lenet5_1998']

Names are resolved when they are first used, so that ``import jaxcnn`` alone costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn import nn as nn
    from jaxcnn.config import AugmentConfig as AugmentConfig
    from jaxcnn.config import CheckpointConfig as CheckpointConfig
    from jaxcnn.config import Config as Config
    from jaxcnn.config import DataConfig as DataConfig
    from jaxcnn.config import LogConfig as LogConfig
    from jaxcnn.config import LossConfig as LossConfig
    from jaxcnn.config import ModelConfig as ModelConfig
    from jaxcnn.config import OptimizerConfig as OptimizerConfig
    from jaxcnn.config import ScheduleConfig as ScheduleConfig
    from jaxcnn.interop import from_torch as from_torch
    from jaxcnn.loop import run as run
    from jaxcnn.models import create_model as create_model
    from jaxcnn.models import features as features
    from jaxcnn.models import list_models as list_models
    from jaxcnn.models import register_model as register_model

__version__ = "0.1.0"

_CONFIGS = ("Augment", "Checkpoint", "", "Data", "Log", "Loss", "Model", "Optimizer", "Schedule")
_HOMES = {
    **{f"{name}Config": "jaxcnn.config" for name in _CONFIGS},
    "run": "jaxcnn.loop",
    "create_model": "jaxcnn.models",
    "features": "jaxcnn.models",
    "from_torch": "jaxcnn.interop",
    "list_models": "jaxcnn.models",
    "register_model": "jaxcnn.models",
}
__all__ = ["nn", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module("jaxcnn.nn")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
