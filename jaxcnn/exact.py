"""The same bits on 1, 2, 4 and 8 devices: an update whose sums do not depend on how the work is spread.

The batch is always eight shards. The gradient of a shard is a compiled program of its own, the same for any number of
devices, which each device runs on its shards in turn; the eight results are gathered and added in their order, and every
device makes the same update. Programs that only move data stand between them, so that nothing that computes is ever compiled
together with something that depends on the number of devices.

One number is left out: the norm of the whole gradient, whose sum XLA fuses with other parts on one device than on several. The
last bit of ``grad_norm`` may differ, and clipping by it is refused.

What it costs: eight gradients cross the network instead of one and lie on each device. BatchNorm sees a shard
(``ghost`` with an eighth of the batch). The thread count must be the same everywhere: ``NPROC=8``, which the command line sets.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxcnn import mesh as meshes
from jaxcnn import rng
from jaxcnn.augment import mix, pipeline
from jaxcnn.config import AugmentConfig
from jaxcnn.errors import UsageError
from jaxcnn.state import State
from jaxcnn.step import Gradient, GradientFn, TrainStep, Update, num_real
from jaxcnn.typing import Array, Batch, PyTree, Sums

SHARDS = 8


def check(mesh: Mesh, batch_size: int) -> None:
    """UsageError unless the devices share eight shards of the batch evenly."""
    if mesh.shape["model"] > 1 or SHARDS % mesh.size:
        raise UsageError(
            f"elastic_exact=True is for 1, 2, 4 or 8 devices on the mesh's axis data, not {dict(mesh.shape)}; "
            "set --num_devices"
        )
    meshes.check_multiple("data.batch_size", batch_size, SHARDS, f"{SHARDS} shards of elastic_exact")


def make_train_step(
    gradient: GradientFn,
    update: Update,
    augment: AugmentConfig,
    mesh: Mesh,
    seed: int,
    cropped: bool = False,
    leave_out_bad: bool = False,
) -> TrainStep:
    """What ``step.make_train_step`` makes, compiled, as several programs. It takes the memory of the state that it is given."""
    turns = SHARDS // mesh.size
    halo = 0 if mix.is_identity(augment) else 1  # an image is mixed with the one before it: each shard has that one too
    rows, everywhere = meshes.rows(mesh), meshes.everywhere(mesh)
    each, same = PartitionSpec("data"), PartitionSpec()

    @functools.partial(jax.jit, out_shardings=(rows, everywhere))
    def cut(batch: Batch) -> tuple[list[PyTree], PyTree]:
        """The images of each turn, one shard a device, ``[devices, halo + B / 8, ...]``; and the rest of the batch, whole."""

        def shards(image: Array) -> list[Array]:
            image = image.reshape(SHARDS, -1, *image.shape[1:])
            if halo:
                image = jnp.concatenate([jnp.roll(image[:, -1:], 1, axis=0), image], axis=1)
            image = image.reshape(mesh.size, turns, *image.shape[1:])
            return [image[:, turn] for turn in range(turns)]

        return shards(batch["image"]), {name: leaf for name, leaf in batch.items() if name != "image"}

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(same, same, same, each, each), out_specs=each, check_vma=False
    )
    def shard_gradient(params: PyTree, moments: PyTree, step_and_rest: Any, image: Array, number: Array) -> Gradient:
        """The gradient of shard ``number`` of each device, with a first axis of one."""
        (step, rest), image, number = step_and_rest, image[0], number[0]
        size = image.shape[0] - halo
        whole = {**rest, "image": jax.ShapeDtypeStruct((SHARDS * size, *image.shape[1:]), image.dtype)}

        def own(leaf: Array) -> Array:
            places = (number * size - halo + jnp.arange(halo + size)) % leaf.shape[0]
            return jnp.take(leaf, places, axis=0)

        batch: Batch = {**jax.tree.map(own, rest), "image": image}
        if not pipeline.is_identity(augment, cropped):
            key = rng.key(seed, "augment", step)
            choice = pipeline.sample(
                key, whole, augment, seed=seed, cropped=cropped
            )  # for all shards, as it is one draw
            batch = pipeline.apply(batch, jax.tree.map(own, choice), augment)
        labels = {"label": rest["label"]} | ({"label_b": jnp.roll(rest["label"], 1)} if halo else {})
        batch = jax.tree.map(lambda leaf: leaf[halo:], batch)
        dropout = jax.random.fold_in(rng.key(seed, "dropout", step), number)
        found = gradient(params, moments, batch, dropout, num_real(labels, leave_out_bad), SHARDS)
        return jax.tree.map(lambda leaf: leaf[None], found)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def gathered(parts: list[Gradient]) -> Gradient:
        """All shards in their order, ``[8, ...]``, on each device."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1).reshape(SHARDS, *leaves[0].shape[1:]), *parts)

    @functools.partial(jax.jit, donate_argnums=0)
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=same, out_specs=same, check_vma=False)
    def apply(state: State, parts: Gradient) -> tuple[State, Sums]:
        def ordered_sum(leaf: Array) -> Array:
            return functools.reduce(jnp.add, [leaf[shard] for shard in range(SHARDS)])

        return update(state, jax.tree.map(ordered_sum, parts))

    def train_step(state: State, batch: Batch) -> tuple[State, Sums]:
        images, rest = cut(batch)
        common = (state.params, state.batch_stats, (state.step, rest))
        numbers = np.arange(SHARDS, dtype=np.int32).reshape(mesh.size, turns)
        parts = [shard_gradient(*common, image, numbers[:, turn]) for turn, image in enumerate(images)]
        return apply(state, gathered(parts))

    return train_step
