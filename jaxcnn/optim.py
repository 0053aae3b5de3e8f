"""Optimizers: from a gradient to the direction of an update.

The learning rate is not in here. It is a function of the step and multiplies the direction in the train step, so the
optimizer's state holds no second counter that could disagree with ``state.step``.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxcnn.config import OptimizerConfig
from jaxcnn.fields import is_off
from jaxcnn.tree import leaf_name, matches, norm
from jaxcnn.typing import PyTree


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The direction ``d`` of ``params <- params - learning_rate * d``.

    sgd: ``g <- clip(g) + weight_decay * params; d = momentum buffer of g`` (coupled decay, as torch.optim.SGD).
    adam: the same decay, then Adam (Kingma & Ba 2015). adamw: Adam, then ``+ weight_decay * params`` (Loshchilov &
    Hutter 2019).

    For large batches: lars (You et al. 2017) is sgd with each kernel's g, decay included, scaled to ``trust`` times the norm of
    the kernel; the learning rate is outside of the momentum, as everywhere here. lamb (You et al. 2020) is adamw with each
    kernel's direction scaled to the norm of the kernel.

    lion (Chen et al. 2023): ``sign(momentum * m + (1 - momentum) * g) + weight_decay * params``, m an average of g with
    ``second_moment``. muon (Jordan 2024): the momentum of each kernel, as a matrix of inputs by outputs, made nearly
    orthogonal by Newton-Schulz steps and scaled by ``sqrt(max(1, outputs / inputs))``, or with ``relative`` as if the kernel
    had the norm of an orthogonal one; adam, or sgd, with a momentum of its own, for the ``rest``; decay as adamw.

    ``rates`` multiplies directions, of adamw, lion and muon before the decay.

    Decay applies to kernels, not to biases and normalisation parameters, unless ``decay_all``.
    """
    # A part that is off keeps its place, so that it can be switched on when a run is resumed.
    decay = clip = optax.identity()
    if not is_off(config.weight_decay):
        decay = optax.add_decayed_weights(config.weight_decay)
    if not config.decay_all:
        decay = optax.masked(decay, decays)
    if config.clip_norm is not None:
        clip = _clip(config.clip_norm)
    rates = _rates(config.rates) if config.rates else optax.identity()
    trace = optax.trace(config.momentum, nesterov=config.nesterov)
    adam = optax.scale_by_adam(config.momentum, config.second_moment, config.epsilon, nesterov=config.nesterov)
    parts = {
        "sgd": lambda: (decay, trace, rates),
        "adam": lambda: (decay, adam, rates),
        "adamw": lambda: (adam, rates, decay),
        "lars": lambda: (decay, _trust(config.trust), trace, rates),
        "lamb": lambda: (adam, decay, _trust(1.0), rates),
        "lion": lambda: (optax.scale_by_lion(config.momentum, config.second_moment), rates, decay),
        "muon": lambda: (_muon(config), rates, decay),
    }
    return optax.chain(clip, *parts[config.name]())


def peak_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The peak learning rate in use: with ``scale_batch`` in proportion to the batch (Goyal et al. 2017, section 2.1)."""
    return config.learning_rate * (batch_size / config.scale_batch if config.scale_batch else 1.0)


def _clip(limit: float) -> optax.GradientTransformation:
    """Scale a gradient whose norm is larger than ``limit`` down to it (Pascanu et al. 2013, algorithm 1)."""

    def clip(grads: PyTree, _: PyTree) -> PyTree:
        scale = jnp.minimum(1.0, limit / norm(grads))
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), grads)

    return optax.stateless(clip)


def _trust(coefficient: float) -> optax.GradientTransformation:
    """Scale the direction of each kernel to ``coefficient`` times the kernel's norm."""
    return optax.masked(optax.scale_by_trust_ratio(trust_coefficient=coefficient), decays)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    def of_matrix(leaf: jax.Array) -> contrib.MuonDimensionNumbers:
        return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    def label(path: Any, leaf: jax.Array) -> str:
        return "rest" if leaf.ndim < 2 or matches(leaf_name(path), config.rest_layers) else "matrix"

    orthogonal = contrib.scale_by_muon(
        ns_steps=config.newton_schulz,
        beta=config.momentum,
        nesterov=config.nesterov,
        eps=config.epsilon,
        weight_dimension_numbers=lambda matrices: jax.tree.map(of_matrix, matrices),
    )
    scale = _relative if config.relative else _by_shape
    matrix = optax.chain(
        orthogonal, optax.stateless(lambda directions, params: jax.tree.map(scale, directions, params))
    )
    rest = {
        "adam": optax.scale_by_adam(
            config.rest_momentum, config.second_moment, config.epsilon, nesterov=config.nesterov
        ),
        "sgd": optax.trace(config.rest_momentum, nesterov=config.nesterov),
    }
    labels = functools.partial(jax.tree_util.tree_map_with_path, label)
    return optax.partition({"matrix": matrix, "rest": rest[config.rest]}, labels)


def _by_shape(direction: jax.Array, _: jax.Array) -> jax.Array:
    outputs = direction.shape[-1]
    return direction * math.sqrt(max(1, outputs**2 / direction.size))


def _relative(direction: jax.Array, kernel: jax.Array) -> jax.Array:
    """An orthogonal matrix of inputs by outputs has the norm ``sqrt(min(inputs, outputs))``."""
    outputs = direction.shape[-1]
    return direction * (norm(kernel) / math.sqrt(min(outputs, direction.size // outputs)))


def _rates(rates: Sequence[str]) -> optax.GradientTransformation:
    """Each leaf times the factor of the first ``PATTERN=FACTOR`` whose pattern fits it."""
    pairs = [rate.rpartition("=") for rate in rates]

    def scaled(path: Any, leaf: jax.Array) -> jax.Array:
        factors = [float(factor) for pattern, _, factor in pairs if matches(leaf_name(path), [pattern])]
        return leaf * factors[0] if factors else leaf

    return optax.stateless(lambda directions, _: jax.tree_util.tree_map_with_path(scaled, directions))


def decays(params: PyTree) -> PyTree:
    """True for the leaves with weight decay: kernels, which have two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
