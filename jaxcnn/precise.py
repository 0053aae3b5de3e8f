"""Precise BatchNorm: the moments for evaluation are those of many batches under the final weights.

Running moments are an average over the past, when the weights were others. He et al. 2016 compute them anew after training; Wu &
Johnson 2021, section 3, compare the two.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import linen

from jaxcnn import rng
from jaxcnn.errors import Preempted
from jaxcnn.flight import Flight
from jaxcnn.nn import BatchNorm
from jaxcnn.state import State
from jaxcnn.tree import is_moment, leaf_name, matches
from jaxcnn.typing import Array, Batch, PyTree, Variables

Moments = Callable[[Variables, Batch, Array], PyTree]


def make_moments(
    model: linen.Module,
    normalise: Callable[[Array], Array],
    augment: Callable[[Batch, Array], Batch],
    freeze: tuple[str, ...],
    seed: int,
) -> Moments:
    """``(variables, batch, step) -> {"mean": ..., "var": ...}`` per BatchNorm: of this batch, augmented as in training.

    Layers that a pattern of ``freeze`` fits keep their running moments, and normalise with them.
    """

    def moments(variables: Variables, batch: Batch, step: Array) -> PyTree:
        momentum: dict[str, float] = {}  # of each layer that moves its moments

        def note(
            call: Callable[..., Array], args: tuple, kwargs: dict, context: linen.module.InterceptorContext
        ) -> Array:
            layer = context.module
            if isinstance(layer, BatchNorm) and context.method_name == "__call__":
                path = "/".join(layer.path)
                if matches(path, freeze):
                    return call(args[0], train=False)
                momentum[path] = layer.momentum
            return call(*args, **kwargs)

        def at_zero(path: tuple, leaf: Array) -> Array:
            return jnp.zeros_like(leaf) if is_moment(path) and not matches(leaf_name(path), freeze) else leaf

        before = jax.tree_util.tree_map_with_path(at_zero, variables["batch_stats"])
        with linen.intercept_methods(note):
            _, updated = model.apply(
                {"params": variables["params"], "batch_stats": before},
                normalise(augment(batch, step)["image"]),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": rng.key(seed, "dropout", step)},
            )

        def of_batch(path: tuple, leaf: Array) -> Array:
            layer = leaf_name(path).rpartition("/")[0]
            return leaf / (1 - momentum[layer]) if layer in momentum else leaf  # from zero it moved by this share

        return jax.tree_util.tree_map_with_path(of_batch, updated["batch_stats"])

    return moments


def estimated(
    state: State,
    moments: Moments,
    batches: Iterator[Batch],
    num_batches: int,
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """The state with the moments of ``num_batches`` batches in the place of the running ones, for evaluation.

    Mean of the means, and ``mean(variance + mean**2) - mean(mean)**2``. Of a state with an average of the weights, that
    average and its moments are meant. A network without BatchNorm stays as it is. Preempted when ``stop()`` becomes true.
    """
    variables = state.variables()
    if not variables["batch_stats"]:
        return state
    total, flight = None, Flight()
    for number, batch in zip(range(num_batches), batches, strict=False):
        found = _powers(moments(variables, batch, state.step + number))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        flight.add(total)
        if stop():  # the last update is not saved before it has its moments
            raise Preempted(
                "stopped while BatchNorm's moments were estimated; the same command goes on from the last save"
            )
    found = _moments(jax.tree.map(lambda leaf: leaf / num_batches, total))
    batch_stats = jax.tree_util.tree_map_with_path(
        lambda path, new, old: new if is_moment(path) else old, found, variables["batch_stats"]
    )
    if state.ema:
        return state._replace(ema={**state.ema, "batch_stats": batch_stats})
    return state._replace(batch_stats=batch_stats)


@jax.jit
def _powers(moments: PyTree) -> PyTree:
    """Means of x and of x**2, which may be averaged over batches."""
    return _per_layer(lambda mean, var: {"mean": mean, "var": var + jnp.square(mean)}, moments)


@jax.jit
def _moments(powers: PyTree) -> PyTree:
    return _per_layer(lambda mean, square: {"mean": mean, "var": jnp.maximum(square - jnp.square(mean), 0)}, powers)


def _per_layer(function: Callable[[Array, Array], PyTree], stats: PyTree) -> PyTree:
    if set(stats) == {"mean", "var"} and not isinstance(stats["mean"], dict):
        return function(stats["mean"], stats["var"])
    return {name: _per_layer(function, part) if isinstance(part, dict) else part for name, part in stats.items()}
