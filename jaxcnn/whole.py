"""A run whose data fit the device, as two compiled calls: all its updates, and its evaluation.

Nothing is written, told or looked at meanwhile. The updates are those of ``loop.train``, batch for batch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.config import total_steps
from jaxcnn.data import order
from jaxcnn.data.resident import Resident, gather
from jaxcnn.errors import UsageError
from jaxcnn.metrics import means
from jaxcnn.state import State, born_sharded
from jaxcnn.task import Task
from jaxcnn.typing import Array, Batch, PyTree, Sums, Variables

Numbers = Mapping[str, float]
Options = Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Training:
    """Made by ``compile_training``.

    Attributes:
      task: what is trained, and on what.
      steps: updates of the run.
      num_examples: of the training split.
    """

    task: Task
    steps: int
    num_examples: int
    _compiled: Callable[..., tuple[State, Sums]]

    def initial_state(self, seed: int) -> State:
        """The state at step 0."""
        return jax.block_until_ready(born_sharded(self.task.init, self.task.shardings, seed))

    def __call__(self, state: State, seed: int, numbers: Numbers | None = None) -> tuple[State, Sums]:
        """The state after all updates, and the sums of each, ``[steps]``; takes the memory of the state.

        ``numbers``: other values at the paths that ``compile_training`` was given.
        """
        size = self.task.config.data.batch_size
        example_SB = order.train_indices(seed, 0, size, self.num_examples, self.steps).astype(np.int32)
        epoch_SB = order.train_epochs(0, size, self.num_examples, self.steps).astype(np.int32)
        values = {path: np.float32(value) for path, value in (numbers or {}).items()}
        return self._compiled({"seed": np.uint32(seed), **values}, state, example_SB, epoch_SB)


def compile_training(task: Task, paths: tuple[str, ...] = (), compiler_options: Options = None) -> Training:
    """Compile a run for any seed and, at ``paths`` of ``config.TRACED``, for any numbers.

    Raises:
      UsageError: the split does not fit the device (``data.resident_gb``), or has examples that cannot be read.
    """
    data, split = task.config.data, _resident(task, train=True)
    steps = total_steps(task.config, split.num_examples)
    update = task.update_of(steps)

    def training(values: PyTree, state: State, arrays: Batch, example_SB: Array, epoch_SB: Array) -> tuple[State, Sums]:
        def one(state: State, rows: tuple[Array, Array]) -> tuple[State, Sums]:
            example_B, epoch_B = rows
            return update(values, state, {**gather(arrays, example_B), "example": example_B, "epoch": epoch_B})

        return jax.lax.scan(one, state, (example_SB, epoch_SB))

    values = {"seed": np.uint32(0), **{path: np.float32(0) for path in paths}}
    of_batches = jax.ShapeDtypeStruct((steps, data.batch_size), np.int32)
    lowered = jax.jit(training, donate_argnums=1).lower(values, task.abstract, split.arrays, of_batches, of_batches)
    compiled = lowered.compile(dict(compiler_options or {}))
    return Training(
        task,
        steps,
        split.num_examples,
        lambda values, state, *batches: compiled(values, state, split.arrays, *batches),
    )


def compile_test(task: Task, compiler_options: Options = None) -> Callable[[State], dict[str, float]]:
    """``state -> accuracy, loss, ...`` over the evaluation split, compiled.

    Raises:
      UsageError: as ``compile_training``.
    """
    split, eval_step = _resident(task, train=False), task.eval_step()
    size = min(task.config.data.eval_batch_size, split.num_examples)
    rows = [np.stack(part) for part in zip(*order.eval_indices(split.num_examples, size), strict=True)]
    index_NB, mask_NB = rows[0].astype(np.int32), rows[1]

    def testing(variables: Variables, arrays: Batch, index_NB: Array, mask_NB: Array) -> Sums:
        def one(rows: tuple[Array, Array]) -> Sums:
            return eval_step(variables, {**gather(arrays, rows[0]), "mask": rows[1]})

        return jax.tree.map(lambda sums: sums.sum(axis=0), jax.lax.map(one, (index_NB, mask_NB)))

    lowered = jax.jit(testing).lower(task.abstract.variables(), split.arrays, index_NB, mask_NB)
    compiled = lowered.compile(dict(compiler_options or {}))

    def test(state: State) -> dict[str, float]:
        found = jax.device_get(compiled(state.variables(), split.arrays, index_NB, mask_NB))
        sums = {name: np.asarray(value, np.float64) for name, value in found.items()}
        assert sums["count"] == split.num_examples, sums["count"]
        return means(sums)

    return test


def _resident(task: Task, train: bool) -> Resident:
    data = task.config.data
    split = data.train_split if train else data.eval_split
    loaded = task.load(split, train=train)
    if not isinstance(loaded, Resident):
        raise UsageError(
            f"data.resident_gb={data.resident_gb:g}: {split!r} does not fit, and has to for a run in one call"
        )
    if loaded.bad:
        raise UsageError(f"{len(loaded.bad)} examples of {split!r} cannot be read; a run in one call leaves none out")
    return loaded
