"""Optimizers: from a gradient to the direction of an update.

The learning rate is not in here. It is a function of the step and multiplies the direction in the train step, so the
optimizer's state holds no second counter that could disagree with ``state.step``.
"""

import jax
import optax

from jaxcnn.config import OptimizerConfig
from jaxcnn.typing import PyTree


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The direction ``d`` of ``params <- params - learning_rate * d``.

    sgd: ``g <- clip(g) + weight_decay * params; d = momentum buffer of g`` (coupled decay, as torch.optim.SGD).
    adam: the same decay, then Adam (Kingma & Ba 2015). adamw: Adam, then ``+ weight_decay * params`` (Loshchilov &
    Hutter 2019). Decay applies to kernels, not to biases and normalisation parameters, unless ``decay_all``.
    """
    # A part that is off keeps its place, so that it can be switched on when a run is resumed.
    decay = clip = optax.identity()
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_all else decays)
    if config.clip_norm is not None:
        clip = optax.clip_by_global_norm(config.clip_norm)
    if config.name == "sgd":
        return optax.chain(clip, decay, optax.trace(config.momentum, nesterov=config.nesterov))
    adam = optax.scale_by_adam(config.momentum, config.second_moment, config.epsilon, nesterov=config.nesterov)
    if config.name == "adam":
        return optax.chain(clip, decay, adam)
    return optax.chain(clip, adam, decay)


def decays(params: PyTree) -> PyTree:
    """True for the leaves with weight decay: kernels, which have two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
