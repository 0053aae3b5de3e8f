"""Communication is exactly what it must be, and the state is updated in place: read from the compiled programs."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jaxcnn import mesh as meshes
from jaxcnn import tree
from jaxcnn.bench import scaling
from jaxcnn.collectives import Collective, collectives, num_donated
from jaxcnn.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig
from jaxcnn.task import build

SMALL = {"width": 8, "depths": (1, 1)}  # as a network of 224 x 224 images, at tiny size


def config(name="resnet18", dtype="float32", optimizer=None, **overrides):
    overrides = SMALL | overrides if name.startswith("resnet") and "cifar" not in name else overrides
    return Config(
        steps=10,
        model=ModelConfig(name, dtype=dtype, overrides=overrides),
        data=DataConfig("fake", batch_size=32, image_size=32),
        augment=AugmentConfig(flip=True, pad_crop=2, rotate=5, brightness=0.2, cutout=4),
        optimizer=optimizer or OptimizerConfig(),
    )


@functools.cache
def found(name="resnet18", dtype="float32", count=8, shape=None, norm=None, optimizer=None):
    task = build(config(name, dtype, optimizer, **({"norm": norm} if norm else {})), count, mesh_shape=shape)
    return task, scaling.traffic(task)


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize(
    ("name", "dtype", "norm"),
    [
        ("lenet5", "float32", None),
        ("lenet5", "bfloat16", None),
        ("resnet18", "float32", "global"),
        ("resnet18", "float32", "local"),
        ("resnet18", "bfloat16", "ghost:2"),
        ("resnet20_cifar", "float32", "global"),
    ],
)
def test_gradients_and_moments_are_summed_once_and_nothing_else(name, dtype, norm):
    """Gradients are float32, as the parameters are, in bfloat16 too (the CPU's compiler also widens what it sums)."""
    task, traffic = found(name, dtype, norm=norm)
    assert {one.kind for one in traffic.found} == {"all-reduce"}
    assert {one.participants for one in traffic.found} == {8}
    moments = tree.num_elements(task.abstract.batch_stats)
    scalars = traffic.num_bytes - 4 * (tree.num_elements(task.abstract.params) + moments)
    assert scalars == 16, "loss, objective, hits and top-5 hits"
    assert traffic.is_optimal


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("norm", ["local", "ghost:2"])
def test_local_and_ghost_batches_wait_for_nobody(norm):
    """All gradients and running moments in one operation; the two counts, which are integers, in another."""
    _, traffic = found(norm=norm)
    assert len(traffic.found) == 2
    assert [kind for one in traffic.found for kind, size in one.arrays if size == 1 and kind == "s32"] == ["s32"] * 2


def test_global_batch_norm_waits_twice_forward_and_once_backward():
    task, traffic = found(norm="global")
    layers = sum(name.endswith("/mean") for name in tree.named_leaves(task.abstract.batch_stats))
    small = [one for one in traffic.found if one.arrays[0][0] == "f32" and one.num_bytes < 2**14]
    forward = [one for one in small if len(one.arrays) == 1]
    assert 1.5 * layers <= len(forward) <= 2 * layers, "mean, then variance; two layers side by side share one"
    assert len(small) - len(forward) <= layers


def test_evaluation_sums_five_numbers():
    task, _ = found(norm="global")
    batch = {**task.abstract_batch(32), "mask": jax.ShapeDtypeStruct((32,), bool, sharding=meshes.rows(task.mesh))}
    batch = {name: batch[name] for name in ("image", "label", "mask")}
    text = task.eval_step().lower(task.abstract.variables(), batch).compile().as_text()
    assert {one.kind for one in collectives(text)} == {"all-reduce"}
    assert sum(one.num_bytes for one in collectives(text)) == 16, "loss, hits, top-5 hits, count"


def test_mixed_images_send_one_row_to_the_next_device():
    task = build(
        Config(
            steps=1,
            model=ModelConfig("lenet5"),
            data=DataConfig("fake", batch_size=32),
            augment=AugmentConfig(mixup=0.2),
        )
    )
    kinds = [one for one in scaling.traffic(task).found if one.kind != "all-reduce"]
    assert {one.kind for one in kinds} == {"collective-permute"}
    assert sum(one.num_bytes for one in kinds) <= 2 * (32 * 32 + 4), "an image and its label"


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("count", [8, 1])
def test_every_leaf_of_the_state_is_updated_in_place(count):
    for optimizer in (OptimizerConfig(), OptimizerConfig("adamw", ema_decay=0.9)):
        with jax.numpy_dtype_promotion("standard"):  # optax's adam is not strict
            task, traffic = found(count=count, norm="local", optimizer=optimizer)
        assert traffic.num_donated == traffic.num_leaves == len(jax.tree.leaves(task.abstract))


def test_a_split_dense_layer_sends_less_for_its_gradient():
    overrides = {"hidden": (1024, 1024)}
    sizes = {}
    for shape in ("data:8", "data:4,model:2"):
        wide = Config(steps=1, model=ModelConfig("mlp", overrides=overrides), data=DataConfig("fake", batch_size=32))
        traffic = scaling.traffic(build(wide, mesh_shape=shape))
        sizes[shape] = traffic.num_bytes
        assert traffic.num_donated == traffic.num_leaves
    assert sizes["data:4,model:2"] < 0.6 * sizes["data:8"], "each device sums the gradient of its half"


def compiled(function, *shapes, in_specs, out_specs, mesh=None):
    mesh = mesh or meshes.make_mesh(8)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(mapped).lower(*arrays).compile().as_text()


ROWS, WHOLE = PartitionSpec("data"), PartitionSpec()
NEXT = [(i, (i + 1) % 8) for i in range(8)]


@pytest.mark.parametrize(
    ("function", "out_specs", "kind", "elements"),
    [
        (lambda x: jax.lax.psum(x, "data"), WHOLE, "all-reduce", 3),
        (lambda x: jax.lax.all_gather(x, "data", tiled=True), WHOLE, "all-gather", 24),
        (lambda x: jax.lax.ppermute(x, "data", NEXT), ROWS, "collective-permute", 3),
        (lambda x: jax.lax.all_to_all(jnp.tile(x, 8), "data", 0, 0, tiled=True), ROWS, "all-to-all", 24),
        (lambda x: jax.lax.psum_scatter(jnp.tile(x, 8), "data", tiled=True), ROWS, "reduce-scatter", 3),
    ],
)
def test_each_kind_is_read_with_its_size(function, out_specs, kind, elements):
    text = compiled(function, (24,), in_specs=ROWS, out_specs=out_specs)
    assert [(one.kind, one.participants, one.hidden) for one in collectives(text)] == [(kind, 8, None)]
    assert sum(one.num_bytes for one in collectives(text)) == 4 * elements


def test_groups_and_asynchronous_forms_are_read():
    mesh = meshes.make_mesh(shape="data:4,model:2")
    for axis, count in [("data", 4), ("model", 2)]:
        text = compiled(
            lambda x, axis=axis: jax.lax.psum(x, axis), (8,), in_specs=PartitionSpec(axis), out_specs=WHOLE, mesh=mesh
        )
        assert [one.participants for one in collectives(text)] == [count]
    aliases = "input_output_alias={ {0}: (0, {}, may-alias), {1}: (2, {}, must-alias) }"
    text = (
        f"HloModule m, is_scheduled=true, {aliases}, num_partitions=8\n"
        + """\
  %ar = (bf16[4,2]{1,0}, f32[]) all-reduce-start(%a, %b), replica_groups=[2,4]<=[8], to_apply=%add
  %x = f32[8]{0} add(%c, %d)
  %y = f32[8]{0} add(%x, %d)
  %done = (bf16[4,2]{1,0}, f32[]) all-reduce-done(%ar)
  %ag = (f32[2]{0}, f32[8]{0}) all-gather-start(%y), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %agd = f32[8]{0} all-gather-done(%ag)
"""
    )
    assert collectives(text) == [
        Collective("all-reduce", (("bf16", 8), ("f32", 1)), 4, 2),
        Collective("all-gather", (("f32", 8),), 4, 0),
    ]
    assert collectives(text)[0].num_bytes == 20
    assert num_donated(text) == 2


def test_predictions_follow_the_formula():
    network = scaling.Network(group=8, inside=100.0, between=10.0, latency=1.0, tflops=100.0)
    seconds = network.all_reduce_seconds(
        1e9, 64
    )  # in the group 2 * 7/8 GB at 100 GB/s; between 8 groups 2 * 7/8 of 1/8 at 10
    assert seconds == pytest.approx(1.75e9 / 100e9 + 1.75 * 0.125e9 / 10e9 + 12e-6)
    task, traffic = found(norm="local")
    rows = scaling.predict(task, traffic.found, network)
    assert [row.count for row in rows] == list(scaling.SIZES)
    assert all(0 < row.waiting <= row.hidden <= 1 for row in rows)
    assert sorted((row.waiting for row in rows), reverse=True) == [row.waiting for row in rows]
