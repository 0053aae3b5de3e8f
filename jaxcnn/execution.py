"""Some updates in one call of a compiled program: what a call costs is paid once for all of them."""

from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxcnn import mesh as meshes
from jaxcnn.config import Config
from jaxcnn.data.resident import Resident, gather, stacked
from jaxcnn.data.stream import Stream
from jaxcnn.state import State
from jaxcnn.step import TrainStep
from jaxcnn.task import Task
from jaxcnn.typing import Array, Batch, Sums


def steps_per_call(task: Task, num_examples: int) -> int:
    """``steps_per_execution`` where a split of so many examples is kept on the devices; else 1, each batch is read for itself."""
    return task.config.steps_per_execution if task.is_resident(num_examples, train=True) else 1


def grouped(task: Task, train_step: TrainStep, size: int) -> TrainStep:
    """``(state, group) -> (state, sums)``, jitted: up to ``size`` updates, one after the other; the sums of each, ``[size]``.

    A group, see ``abstract_batch``, names the examples of ``size`` batches, of which those in ``[first, end)`` are taken. These
    two are operands, so that the updates of a run are the same bits however it is cut. Of size 1: ``train_step``.
    """
    if size == 1:
        return train_step
    rows = meshes.rows(task.mesh)

    def update(state: State, group: Batch) -> tuple[State, Sums]:
        def batch(place: Array | int) -> Batch:
            example_B = group["example"][place]
            read = gather({name: group[name] for name in ("image", "label")}, example_B)
            return jax.lax.with_sharding_constraint(
                {**read, "example": example_B, "epoch": group["epoch"][place]}, rows
            )

        def one(place: Array, so_far: tuple[State, Sums]) -> tuple[State, Sums]:
            state, sums_K = so_far
            state, sums = train_step(state, batch(place))
            return state, jax.tree.map(lambda values, value: values.at[place].set(value), sums_K, sums)

        _, of_one = jax.eval_shape(lambda state: train_step(state, batch(0)), state)
        nothing = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), of_one)
        return jax.lax.fori_loop(group["first"], group["end"], one, (state, nothing))

    return jax.jit(update, donate_argnums=0, out_shardings=(task.shardings, meshes.everywhere(task.mesh)))


def abstract_batch(task: Task, num_examples: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What ``grouped`` takes: ``image`` and ``label`` of all examples, ``example`` and ``epoch`` ``[size, B]``, two numbers."""
    batch, split = task.abstract_batch(task.config.data.batch_size), task.abstract_batch(num_examples)
    if size == 1:
        return batch
    everywhere, rows = meshes.everywhere(task.mesh), stacked(meshes.rows(task.mesh))

    def shape(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding, *before: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*before, *leaf.shape), leaf.dtype, sharding=sharding)

    return {
        **{name: shape(split[name], everywhere) for name in ("image", "label")},
        **{name: shape(batch[name], rows, size) for name in ("example", "epoch")},
        **{name: jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere) for name in ("first", "end")},
    }


def calls(
    train: Resident | Stream, config: Config, start: int, total: int, size: int, every: Collection[int]
) -> Iterator[tuple[range, Batch]]:
    """The numbers of the updates after ``start`` (1 for the first of a run), and what they learn from, call by call.

    Args:
      train: the training split; kept on the devices for a size > 1.
      start, total: updates completed, and those to come to.
      size: updates of a call at most.
      every: numbers of updates; a call ends at the multiples of each, where somebody wants to see the state.
    """
    seed, batch_size = config.seed, config.data.batch_size
    if size > 1:
        assert isinstance(train, Resident)  # or ``steps_per_call`` had said 1
        batches = train.train_groups(seed, batch_size, start, size)
    else:
        batches = train.train_batches(seed, batch_size, start)
    done = start
    while done < total:
        batch, before = next(batches), done - done % size
        while done < min(before + size, total):
            begin, done = done, done + 1
            while done < min(before + size, total) and all(done % number for number in every):
                done += 1
            bounds: dict[str, Any] = {"first": np.int32(begin - before), "end": np.int32(done - before)}
            yield range(begin + 1, done + 1), {**batch, **bounds} if size > 1 else batch
