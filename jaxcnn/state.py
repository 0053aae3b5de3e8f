"""The training state: arrays only. The model and the optimizer are closed over by the step, never stored."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from jaxcnn import rng
from jaxcnn.typing import Array, PyTree, Variables


class State(NamedTuple):
    """What an update reads and writes.

    Attributes:
      step: number of completed updates, int32 scalar.
      params: learned parameters, float32.
      batch_stats: running moments of BatchNorm, float32; empty without it.
      opt_state: the optimizer's state.
      ema: moving average of params and batch_stats for evaluation; empty when the config has none.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree

    def variables(self) -> Variables:
        """What evaluation uses: the moving average when there is one."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


Init = Callable[[Array | int], State]


def make_init(
    model: linen.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    ema: bool = False,
) -> Init:
    """``seed -> State`` at step 0."""

    def init(seed: Array | int) -> State:
        variables = model.init(rng.key(seed, "init"), jnp.zeros((1, *image_shape), jnp.float32), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        average = {"params": params, "batch_stats": batch_stats} if ema else {}
        return State(jnp.int32(0), params, batch_stats, optimizer.init(params), average)

    return init


def abstract_state(init: Init, shardings: Callable[[PyTree], PyTree]) -> State:
    """Shapes, dtypes and shardings of the state, with no array made; ``shardings`` says where arrays of these shapes live."""
    shapes = jax.eval_shape(init, np.uint32(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes),
    )


# A program that runs once is not worth LLVM's higher levels: 2 seconds less on a CPU, and the same bits.
_RUN_ONCE = {"xla_backend_optimization_level": 1}


def born_sharded(init: Init, shardings: PyTree, seed: int) -> State:
    """The initial state, made where it will live by one compiled call, which is the same for all seeds."""
    return jax.jit(init, out_shardings=shardings, compiler_options=_RUN_ONCE)(np.uint32(seed))
