"""What the claims train on, and how: small enough for two cores, real images always."""

from typing import Any

from jaxcnn.claims.claim import Size
from jaxcnn.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

DIGITS: dict[str, Any] = {"dataset": "digits", "image_size": 32}
MNIST: dict[str, Any] = {"dataset": "mnist", "image_size": 32, "fit": "pad"}
CIFAR10: dict[str, Any] = {"dataset": "cifar10"}
_AS_STORED = AugmentConfig()


def config(
    model: str,
    data: dict[str, Any],
    steps: int,
    *,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    augment: AugmentConfig = _AS_STORED,
    schedule: str = "cosine",
    optimizer: str = "sgd",
    **overrides: Any,
) -> Config:
    """Momentum 0.9 and a cosine to zero; what a claim does not name is the same in all its ways."""
    return Config(
        steps=steps,
        model=ModelConfig(model, overrides=overrides),
        data=DataConfig(batch_size=batch_size, **data),
        augment=augment,
        optimizer=OptimizerConfig(optimizer, learning_rate=learning_rate, momentum=0.9),
        schedule=ScheduleConfig(schedule, warmup=0.05),
    )


def small(size: Size, normal: dict[str, Any]) -> dict[str, Any]:
    """Digits for the quick form, which has to work without a download; else the data that the claim is about."""
    return size.pick(DIGITS, normal, normal)
