"""The memory of the devices: who asks for more than there is learns what would ask for less."""

import contextlib
from collections.abc import Iterator

import jax

from jaxcnn.config import Config
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import overridable


@contextlib.contextmanager
def naming_what_takes_it(config: Config) -> Iterator[None]:
    """UsageError instead of what XLA says when the training, or its compilation, finds no memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise
        remat = ", model.remat=true" if "remat" in overridable(config.model.name) else ""
        raise UsageError(
            f"data.batch_size={config.data.batch_size} must be small enough for the memory of a device ({reason[:200]}); "
            f"lower it, or set optimizer.accumulate > {config.optimizer.accumulate}{remat}, or data.resident_gb=0; "
            "`plan EXPERIMENT --memory=GB` finds the largest batch"
        ) from error
