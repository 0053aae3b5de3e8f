"""One update, as a pure function: ``train_step(state, batch) -> (state, sums)``."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen

from jaxcnn import rng
from jaxcnn.augment import mix
from jaxcnn.errors import UsageError
from jaxcnn.losses import mixed_cross_entropy
from jaxcnn.metrics import classification_sums
from jaxcnn.nn import BatchNorm
from jaxcnn.state import State
from jaxcnn.tree import all_finite, is_moment, leaf_name, matches, norm
from jaxcnn.typing import Array, Batch, Key, PyTree, Schedule, Sums

TrainStep = Callable[[State, Batch], tuple[State, Sums]]


class Gradient(NamedTuple):
    """What an update is made of. Those of parts of a batch are added up.

    Attributes:
      grads: gradient of the objective.
      batch_stats: running moments of BatchNorm after the batch; of one of k parts, divided by k.
      sums: ``classification_sums`` over the batch as the network saw it, and ``objective``.
    """

    grads: PyTree
    batch_stats: PyTree
    sums: Sums


GradientFn = Callable[[PyTree, PyTree, Batch, Key, Array, int], Gradient]
Update = Callable[[State, Gradient], tuple[State, Sums]]

GUARDED = ("loss", "gradient", "parameters", "batch statistics")
"""What must be finite after an update, in the order in which it is looked at."""


def make_normalise(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Array], Array]:
    """``uint8 images -> (x / 255 - mean) / std`` in float32, per channel."""
    mean_C, std_C = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)

    def normalise(image_BHWC: Array) -> Array:
        scaled = image_BHWC.astype(jnp.float32) / 255
        return (scaled - mean_C.reshape(1, 1, 1, -1)) / std_C.reshape(1, 1, 1, -1)

    return normalise


def make_gradient(
    model: linen.Module,
    normalise: Callable[[Array], Array],
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.3,
    freeze: tuple[str, ...] = (),
    leave_out_bad: bool = False,
) -> GradientFn:
    """``(params, batch_stats, augmented batch, dropout key, real, parts) -> Gradient``.

    The batch may be one of ``parts`` of a larger one, in which ``real`` examples count: the objective of a part is the sum
    of its losses divided by ``real``. With ``leave_out_bad`` examples of label < 0, which could not be read, count nowhere
    but in the moments of BatchNorm. Of mixed images the sums look at the label with the larger share.

    A network may return auxiliary logits as well, ``(logits, logits, ...)``; their losses count ``aux_weight`` each.
    BatchNorm layers that a pattern of ``freeze`` fits normalise with their running moments.
    """

    def gradient(params: PyTree, batch_stats: PyTree, batch: Batch, dropout: Key, real: Array, parts: int) -> Gradient:
        x_BHWC, real_B = normalise(batch["image"]), mix.is_labelled(batch) if leave_out_bad else None

        def total(loss_B: Array) -> Array:
            return jnp.sum(loss_B if real_B is None else jnp.where(real_B, loss_B, 0.0))

        def objective(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
            with linen.intercept_methods(_with_frozen_moments(freeze)):
                output, updated = model.apply(
                    {"params": params, "batch_stats": batch_stats},
                    x_BHWC,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": dropout},
                )
            logits_BK, *auxiliary = output if isinstance(output, tuple) else (output,)
            if logits_BK.ndim != 2 or logits_BK.shape[1] != num_classes:
                raise UsageError(
                    f"the network gives logits of shape {logits_BK.shape}, must be [batch, {num_classes} classes]"
                )
            losses = [mixed_cross_entropy(logits, batch, label_smoothing) for logits in (logits_BK, *auxiliary)]
            loss, *more = (total(loss_B) / real for loss_B in losses)
            return loss + aux_weight * sum(more, jnp.float32(0)), (logits_BK, updated.get("batch_stats", {}))

        (loss, (logits_BK, moved)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        sums = {**classification_sums(logits_BK, mix.main_label(batch), real_B), "objective": loss}
        return Gradient(grads, jax.tree.map(lambda leaf: leaf / parts, moved), sums)

    return gradient


def num_real(batch: Batch, leave_out_bad: bool) -> Array:
    """Examples of an augmented batch that count in the loss, float32, at least 1."""
    if not leave_out_bad:
        return jnp.float32(batch["label"].shape[0])
    return jnp.maximum(jnp.sum(mix.is_labelled(batch), dtype=jnp.float32), 1)


def accumulated(gradient: GradientFn, parts: int) -> GradientFn:
    """The gradient of a batch from that of ``parts`` of it, one after the other, in the memory of one.

    Equal to the gradient of the whole for a network without BatchNorm and dropout. BatchNorm normalises each part with its
    own moments, so a batch B in k parts is one of ``norm=ghost:B/k``; dropout draws for each part anew. Part i takes each
    k-th row from row i on, so that every device has a share of each.
    """

    def add_up(params: PyTree, batch_stats: PyTree, batch: Batch, dropout: Key, real: Array, of: int) -> Gradient:
        cut = jax.tree.map(lambda rows: rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1), batch)

        def part(number: Array, rows: Batch) -> Gradient:
            key = jax.random.fold_in(dropout, number)
            return gradient(params, batch_stats, rows, key, real, of * parts)

        def add(so_far: Gradient, numbered: tuple[Array, Batch]) -> tuple[Gradient, None]:
            return jax.tree.map(jnp.add, so_far, part(*numbered)), None

        numbered = (jnp.arange(parts), cut)
        shapes = jax.eval_shape(part, *jax.tree.map(lambda leaf: leaf[0], numbered))
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, nothing, numbered)[0]

    return add_up if parts > 1 else gradient


def make_update(
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    freeze: tuple[str, ...] = (),
    ema_decay: float | None = None,
    skip_nonfinite: bool = False,
) -> Update:
    """``(state, gradient) -> (state, sums)``; the sums are the gradient's, ``grad_norm``, ``learning_rate`` and ``nonfinite``.

    ``nonfinite`` is 0, or k when the k-th of ``GUARDED`` is the first with NaN or infinity: the loss alone does not tell, a
    ReLU may swallow a NaN that BatchNorm's moments keep for ever. With ``skip_nonfinite`` such an update changes nothing but
    the step. Layers that a pattern of ``freeze`` fits (``tree.matches``) stay bit for bit as they are.
    """

    def frozen(leaves: PyTree) -> PyTree:
        """True for the leaves that stay as they are."""
        return jax.tree_util.tree_map_with_path(lambda path, _: matches(leaf_name(path), freeze), leaves)

    def update(state: State, gradient: Gradient) -> tuple[State, Sums]:
        fixed = frozen(state.params)  # the optimizer sees them as zeros: no gradient, nothing to decay
        grads, shown = (
            jax.tree.map(lambda leaf, stays: jnp.zeros_like(leaf) if stays else leaf, tree, fixed)
            for tree in (gradient.grads, state.params)
        )
        direction, opt_state = optimizer.update(grads, state.opt_state, shown)
        learning_rate = schedule(state.step)
        params = jax.tree.map(lambda p, d, stays: p if stays else p - learning_rate * d, state.params, direction, fixed)
        batch_stats = jax.tree.map(  # equal parts of a batch would add up to the frozen moments but for rounding
            lambda new, old, stays: old if stays else new,
            gradient.batch_stats,
            state.batch_stats,
            frozen(state.batch_stats),
        )
        ema = {}
        if ema_decay is not None:
            move = functools.partial(optax.incremental_update, step_size=1 - ema_decay)
            averages = state.ema["batch_stats"]
            moments = jax.tree_util.tree_map_with_path(
                lambda path, new, old: move(new, old) if is_moment(path) else new, batch_stats, averages
            )
            ema = {"params": move(params, state.ema["params"]), "batch_stats": moments}
        grad_norm = norm(grads)
        guarded = [gradient.sums["objective"], grad_norm, params, batch_stats]
        bad = jnp.array([False, *(~all_finite(part) for part in guarded)])
        nonfinite = jnp.argmax(bad).astype(jnp.int32)  # the first that is true; 0 when none is
        sums = {**gradient.sums, "grad_norm": grad_norm, "learning_rate": learning_rate, "nonfinite": nonfinite}
        updated = State(state.step + 1, params, batch_stats, opt_state, ema)
        if skip_nonfinite:
            unchanged = state._replace(step=updated.step)
            updated = jax.tree.map(lambda new, old: jnp.where(nonfinite == 0, new, old), updated, unchanged)
        return updated, sums

    return update


def make_train_step(
    gradient: GradientFn,
    update: Update,
    augment: Callable[[Batch, Array], Batch],
    seed: int,
    leave_out_bad: bool = False,
) -> TrainStep:
    """The update of step ``state.step``, to be jitted by the caller. Randomness comes from (seed, stream, step)."""

    def train_step(state: State, batch: Batch) -> tuple[State, Sums]:
        batch = augment(batch, state.step)
        dropout, real = rng.key(seed, "dropout", state.step), num_real(batch, leave_out_bad)
        return update(state, gradient(state.params, state.batch_stats, batch, dropout, real, 1))

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
