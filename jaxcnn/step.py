"""One update, as a pure function: ``train_step(state, batch) -> (state, sums)``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen

from jaxcnn import rng
from jaxcnn.augment import mix, pipeline
from jaxcnn.config import AugmentConfig
from jaxcnn.errors import UsageError
from jaxcnn.losses import mixed_cross_entropy
from jaxcnn.metrics import classification_sums
from jaxcnn.nn import BatchNorm
from jaxcnn.state import State
from jaxcnn.tree import all_finite, leaf_name, matches
from jaxcnn.typing import Array, Batch, PyTree, Schedule, Sums

TrainStep = Callable[[State, Batch], tuple[State, Sums]]


def make_normalise(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Array], Array]:
    """``uint8 images -> (x / 255 - mean) / std`` in float32, per channel."""
    mean_C, std_C = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)

    def normalise(image_BHWC: Array) -> Array:
        scaled = image_BHWC.astype(jnp.float32) / 255
        return (scaled - mean_C.reshape(1, 1, 1, -1)) / std_C.reshape(1, 1, 1, -1)

    return normalise


def make_train_step(
    model: linen.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    normalise: Callable[[Array], Array],
    augment: AugmentConfig,
    *,
    num_classes: int,
    seed: int,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.3,
    freeze: tuple[str, ...] = (),
    ema_decay: float | None = None,
    cropped: bool = False,
    leave_out_bad: bool = False,
) -> TrainStep:
    """The update of step ``state.step``, to be jitted by the caller.

    Randomness comes from (seed, stream, step). ``sums`` holds the sums of ``classification_sums`` over the batch as the
    network saw it, of mixed images against the label with the larger share, and the scalars ``objective``, ``grad_norm``,
    ``learning_rate`` and ``finite``: no NaN or infinity in loss, gradient, new parameters or batch statistics.

    A network may return auxiliary logits as well, ``(logits, logits, ...)``; their losses count ``aux_weight`` each.
    Layers that a pattern of ``freeze`` fits (``tree.matches``) stay bit for bit as they are, running moments included.
    With ``cropped`` the images are what ``augment.crop`` has cut out already.
    With ``leave_out_bad`` examples of label < 0, which could not be read, count nowhere but in the moments of BatchNorm.
    """
    augmented = pipeline.make_augment(augment, seed, cropped)

    def frozen(leaves: PyTree) -> PyTree:
        """True for the leaves that stay as they are."""
        return jax.tree_util.tree_map_with_path(lambda path, _: matches(leaf_name(path), freeze), leaves)

    def train_step(state: State, batch: Batch) -> tuple[State, Sums]:
        batch = augmented(batch, state.step)
        x_BHWC = normalise(batch["image"])

        real_B = mix.is_labelled(batch) if leave_out_bad else None

        def mean(loss_B: Array) -> Array:
            if real_B is None:
                return jnp.mean(loss_B)
            return jnp.sum(jnp.where(real_B, loss_B, 0.0)) / jnp.maximum(jnp.sum(real_B, dtype=jnp.float32), 1)

        def objective(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
            with linen.intercept_methods(_with_frozen_moments(freeze)):
                output, updated = model.apply(
                    {"params": params, "batch_stats": state.batch_stats},
                    x_BHWC,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": rng.key(seed, "dropout", state.step)},
                )
            logits_BK, *auxiliary = output if isinstance(output, tuple) else (output,)
            if logits_BK.ndim != 2 or logits_BK.shape[1] != num_classes:
                raise UsageError(
                    f"the network gives logits of shape {logits_BK.shape}, must be [batch, {num_classes} classes]"
                )
            loss, *more = (
                mean(mixed_cross_entropy(logits, batch, label_smoothing)) for logits in (logits_BK, *auxiliary)
            )
            return loss + aux_weight * sum(more, jnp.float32(0)), (logits_BK, updated.get("batch_stats", {}))

        (loss, (logits_BK, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        fixed = frozen(state.params)  # the optimizer sees them as zeros: no gradient, nothing to decay
        grads, shown = (
            jax.tree.map(lambda leaf, stays: jnp.zeros_like(leaf) if stays else leaf, tree, fixed)
            for tree in (grads, state.params)
        )
        direction, opt_state = optimizer.update(grads, state.opt_state, shown)
        learning_rate = schedule(state.step)
        params = jax.tree.map(lambda p, d, stays: p if stays else p - learning_rate * d, state.params, direction, fixed)
        new = {"params": params, "batch_stats": batch_stats}
        ema = {}
        if ema_decay is not None:
            ema = optax.incremental_update(new, state.ema, 1 - ema_decay)
        grad_norm = optax.tree.norm(grads)
        sums = {
            **classification_sums(logits_BK, mix.main_label(batch), real_B),
            "objective": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "finite": jnp.isfinite(loss) & jnp.isfinite(grad_norm) & all_finite(new),
        }
        return State(state.step + 1, params, batch_stats, opt_state, ema), sums

    return train_step


def _with_frozen_moments(freeze: tuple[str, ...]) -> Callable[..., Array]:
    """A Linen interceptor: BatchNorm layers that are frozen normalise with their running moments, as in evaluation."""

    def intercept(call: Callable[..., Array], args: tuple, kwargs: dict, context: Any) -> Array:
        module = context.module
        if (
            isinstance(module, BatchNorm)
            and context.method_name == "__call__"
            and matches("/".join(module.path), freeze)
        ):
            return call(args[0], train=False)
        return call(*args, **kwargs)

    return intercept
