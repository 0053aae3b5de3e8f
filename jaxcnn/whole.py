"""A run whose data fit the device, as two compiled calls: all its updates, and its evaluation.

Nothing is written, told or looked at meanwhile. The updates are those of ``loop.train``, batch for batch.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.data import order
from jaxcnn.data.resident import Resident
from jaxcnn.errors import UsageError
from jaxcnn.metrics import means
from jaxcnn.state import State
from jaxcnn.task import Task, total_steps
from jaxcnn.typing import Array, Batch, PyTree, Sums, Variables

Numbers = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Whole:
    """Made by ``compile_whole``.

    Attributes:
      task: what is trained, and on what.
      steps: updates of the run.
      compile_seconds: what the compilation took.
    """

    task: Task
    steps: int
    compile_seconds: float
    _train: Callable[..., tuple[State, Sums]]
    _test: Callable[[Variables], Sums]
    _init: Callable[[Any], State]

    def initial_state(self, seed: int) -> State:
        """The state at step 0."""
        return jax.block_until_ready(self._init(np.uint32(seed)))

    def train(self, state: State, seed: int, numbers: Numbers | None = None) -> tuple[State, Sums]:
        """The state after all updates, and the sums of each, ``[steps]``; takes the memory of the state.

        ``numbers``: other values at the paths that ``compile_whole`` was given.
        """
        size, num_examples = self.task.config.data.batch_size, _resident(self.task, True).num_examples
        example_SB = order.train_indices(seed, 0, size, num_examples, self.steps).astype(np.int32)
        epoch_SB = order.train_epochs(0, size, num_examples, self.steps).astype(np.int32)
        values = {path: np.float32(value) for path, value in (numbers or {}).items()}
        return self._train({"seed": np.uint32(seed), **values}, state, example_SB, epoch_SB)

    def test(self, state: State) -> dict[str, float]:
        """``accuracy``, ``loss``, ... over the evaluation split."""
        sums = {
            name: np.asarray(value, np.float64) for name, value in jax.device_get(self._test(state.variables())).items()
        }
        assert sums["count"] == _resident(self.task, False).num_examples, sums["count"]
        return means(sums)


def compile_whole(task: Task, paths: tuple[str, ...] = ()) -> Whole:
    """Compile a run for any seed and, at ``paths`` of ``config.TRACED``, for any numbers.

    Raises:
      UsageError: a split does not fit the device (``data.resident_gb``).
    """
    data = task.config.data
    train, test = (_resident(task, is_train) for is_train in (True, False))
    steps = total_steps(task.config, train.num_examples)
    update, eval_step = task.update_of(steps), task.eval_step()

    def training(values: PyTree, state: State, arrays: Batch, example_SB: Array, epoch_SB: Array) -> tuple[State, Sums]:
        def one(state: State, rows: tuple[Array, Array]) -> tuple[State, Sums]:
            example_B, epoch_B = rows
            return update(values, state, {**_take(arrays, example_B), "example": example_B, "epoch": epoch_B})

        return jax.lax.scan(one, state, (example_SB, epoch_SB))

    def testing(variables: Variables, arrays: Batch, index_NB: Array, mask_NB: Array) -> Sums:
        def one(rows: tuple[Array, Array]) -> Sums:
            return eval_step(variables, {**_take(arrays, rows[0]), "mask": rows[1]})

        return jax.tree.map(lambda sums: sums.sum(axis=0), jax.lax.map(one, (index_NB, mask_NB)))

    size = min(data.eval_batch_size, test.num_examples)
    rows = [np.stack(part) for part in zip(*order.eval_indices(test.num_examples, size), strict=True)]
    index_NB, mask_NB = rows[0].astype(np.int32), rows[1]
    values = {"seed": np.uint32(0), **{path: np.float32(0) for path in paths}}
    of_batches = jax.ShapeDtypeStruct((steps, data.batch_size), np.int32)
    begin = time.perf_counter()
    trained = jax.jit(training, donate_argnums=1)
    trained = trained.lower(values, task.abstract, train.arrays, of_batches, of_batches).compile()
    tested = jax.jit(testing).lower(task.abstract.variables(), test.arrays, index_NB, mask_NB).compile()
    return Whole(
        task,
        steps,
        time.perf_counter() - begin,
        lambda values, state, *batches: trained(values, state, train.arrays, *batches),
        lambda variables: tested(variables, test.arrays, index_NB, mask_NB),
        jax.jit(task.init),
    )


def _resident(task: Task, train: bool) -> Resident:
    data = task.config.data
    split = data.train_split if train else data.eval_split
    loaded = task.load(split, train=train)
    if not isinstance(loaded, Resident):
        raise UsageError(
            f"data.resident_gb={data.resident_gb:g}: {split!r} does not fit, and has to for a run in one call"
        )
    return loaded


def _take(arrays: Batch, index_B: Array) -> dict[str, Any]:
    return {name: values[index_B] for name, values in arrays.items()}
