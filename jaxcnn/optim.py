"""Optimizers: from a gradient to the direction of an update.

The learning rate is not in here. It is a function of the step and multiplies the direction in the train step, so the
optimizer's state holds no second counter that could disagree with ``state.step``.
"""

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxcnn.config import OptimizerConfig
from jaxcnn.fields import is_off
from jaxcnn.tree import norm
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
    orthogonal by five Newton-Schulz steps and scaled by ``sqrt(max(1, outputs / inputs))``; adam for all else; decay as adamw.

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
    trace = optax.trace(config.momentum, nesterov=config.nesterov)
    adam = optax.scale_by_adam(config.momentum, config.second_moment, config.epsilon, nesterov=config.nesterov)
    parts = {
        "sgd": lambda: (decay, trace),
        "adam": lambda: (decay, adam),
        "adamw": lambda: (adam, decay),
        "lars": lambda: (decay, _trust(config.trust), trace),
        "lamb": lambda: (adam, decay, _trust(1.0)),
        "lion": lambda: (optax.scale_by_lion(config.momentum, config.second_moment), decay),
        "muon": lambda: (_muon(config), decay),
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
    def matrices(params: PyTree) -> PyTree:
        def of(leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
            return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1) if leaf.ndim > 1 else None

        return jax.tree.map(of, params)

    return contrib.muon(
        learning_rate=-1.0,  # the direction itself, not yet a step against it
        beta=config.momentum,
        nesterov=config.nesterov,
        eps=config.epsilon,
        adam_b2=config.second_moment,
        muon_weight_dimension_numbers=matrices,
    )


def decays(params: PyTree) -> PyTree:
    """True for the leaves with weight decay: kernels, which have two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
