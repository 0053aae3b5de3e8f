"""Learning-rate schedules: pure functions of the step."""

import jax.numpy as jnp

from jaxcnn.config import ScheduleConfig
from jaxcnn.typing import Array, Schedule


def make_schedule(config: ScheduleConfig, peak: float, total_steps: int) -> Schedule:
    """``step -> learning rate`` for update ``step`` (0 for the first) of ``total_steps``.

    Warm-up rises linearly and reaches the peak at its last step; the shape then runs over what is left:
    constant; step (times ``factor`` at each milestone, a share of the whole run); cosine (Loshchilov & Hutter 2017,
    equation 5, no restarts); linear; onecycle (Smith & Topin 2019: up over ``warmup``, 0.3 when that is 0, then cosine
    down). cosine, linear and onecycle would reach ``final * peak`` one step after the last.
    """
    warmup = config.warmup or (0.3 if config.name == "onecycle" else 0.0)
    warmup_steps = round(warmup * total_steps)
    decay_steps = max(total_steps - warmup_steps, 1)

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
        if config.name in ("cosine", "onecycle"):
            shape = config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        elif config.name == "linear":
            shape = 1 - (1 - config.final) * progress
        elif config.name == "step":
            passed = sum((step >= round(m * total_steps)).astype(jnp.float32) for m in config.milestones)
            shape = jnp.power(config.factor, passed)
        else:
            shape = jnp.float32(1.0)
        ramp = jnp.minimum((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
        return peak * shape * ramp

    return schedule
