"""Geometry of augmentation against scipy and torchvision, and against its own laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxcnn.augment import boxes, crop, pipeline
from jaxcnn.augment import geometry as ops
from jaxcnn.config import AugmentConfig, Config, DataConfig, ModelConfig
from jaxcnn.errors import UsageError
from jaxcnn.task import build

IMAGES = np.random.default_rng(0).uniform(0, 255, (5, 12, 17, 3)).astype(np.float32)
EVERYTHING = AugmentConfig(shift=3, rotate=30, zoom=0.2, shear=0.3, flip=True)


def affine(matrix, shift):
    count = len(IMAGES)
    return ops.Affine(
        jnp.broadcast_to(jnp.array(matrix, jnp.float32), (count, 2, 2)),
        jnp.broadcast_to(jnp.array(shift, jnp.float32), (count, 2)),
    )


def test_apply_equals_scipy():
    choice = ops.sample(jax.random.key(1), len(IMAGES), EVERYTHING)
    ours = np.asarray(ops.apply(jnp.asarray(IMAGES), choice))
    centre = (np.array(IMAGES.shape[1:3]) - 1) / 2
    for image, result, matrix, shift in zip(
        IMAGES, ours, np.asarray(choice.matrix, np.float64), np.asarray(choice.shift, np.float64)
    ):
        padded = np.pad(image, ((20, 20), (20, 20), (0, 0)))  # outside there is 0, also half a pixel outside
        offset = centre + 20 - matrix @ (centre + 20) + shift
        for channel in range(3):
            theirs = ndimage.affine_transform(padded[..., channel], matrix, offset, order=1, mode="constant")[
                20:-20, 20:-20
            ]
            np.testing.assert_allclose(result[..., channel], theirs, atol=2e-2)


def test_the_identity_changes_nothing():
    np.testing.assert_array_equal(ops.apply(jnp.asarray(IMAGES), affine(np.eye(2), (0, 0))), IMAGES)


def test_flip_twice_is_the_identity():
    flip = affine([[1, 0], [0, -1]], (0, 0))
    once = ops.apply(jnp.asarray(IMAGES), flip)
    np.testing.assert_array_equal(once, IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(ops.apply(once, flip), IMAGES)


def test_a_whole_shift_moves_pixels_and_brings_in_zero():
    shifted = np.asarray(ops.apply(jnp.asarray(IMAGES), affine(np.eye(2), (2, -3))))
    np.testing.assert_array_equal(shifted[:, :-2, 3:], IMAGES[:, 2:, :-3])
    assert not shifted[:, -2:].any()
    assert not shifted[:, :, :3].any()


def test_a_quarter_turn_is_rot90():
    square = IMAGES[:, :12, :12]
    turned = ops.apply(jnp.asarray(square), affine([[0, 1], [-1, 0]], (0, 0)))
    np.testing.assert_allclose(turned, np.rot90(square, 1, axes=(1, 2)), atol=1e-3)


@pytest.mark.parametrize(
    ("config", "matrix_is_identity", "shift_is_zero"),
    [
        (AugmentConfig(shift=2), True, False),
        (AugmentConfig(rotate=20), False, True),
        (AugmentConfig(flip=True), False, True),
    ],
)
def test_each_option_changes_its_own_part(config, matrix_is_identity, shift_is_zero):
    choice = ops.sample(jax.random.key(0), 500, config)
    assert bool(jnp.allclose(choice.matrix, jnp.broadcast_to(jnp.eye(2), (500, 2, 2)))) == matrix_is_identity
    assert bool(jnp.all(choice.shift == 0)) == shift_is_zero
    assert float(jnp.max(jnp.abs(choice.shift))) <= config.shift


def test_ranges():
    angle = ops.sample(jax.random.key(0), 2000, AugmentConfig(rotate=20)).matrix
    degrees = np.rad2deg(np.arctan2(-angle[:, 0, 1], angle[:, 0, 0]))
    assert -20 <= degrees.min() < -19
    assert 19 < degrees.max() <= 20
    zoom = ops.sample(jax.random.key(0), 2000, AugmentConfig(zoom=0.25)).matrix[:, 0, 0]
    assert 1 / 1.25 - 1e-4 <= zoom.min() < 0.81  # enlarged 1.25 times
    assert 1.3 < zoom.max() <= 1 / 0.75 + 1e-4
    flipped = ops.sample(jax.random.key(0), 2000, AugmentConfig(flip=True)).matrix[:, 1, 1]
    assert 0.45 < np.mean(flipped < 0) < 0.55


def test_the_defaults_are_the_identity():
    assert ops.is_identity(AugmentConfig())
    assert not ops.is_identity(EVERYTHING)


BYTES = np.random.default_rng(1).integers(0, 256, (6, 10, 14, 3), np.uint8)


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_whole_pixels_move_as_numpy_moves_them_and_as_the_resampling_does(pad_mode):
    config = AugmentConfig(flip=True, pad_crop=3, pad_mode=pad_mode)
    choice = ops.sample(jax.random.key(2), len(BYTES), config)
    moved = np.asarray(ops.apply_whole(jnp.asarray(BYTES), choice, 3, pad_mode))
    assert moved.dtype == np.uint8
    widths = ((3, 3), (3, 3), (0, 0))
    for image, result, matrix, (row, column) in zip(BYTES, moved, choice.matrix, np.asarray(choice.shift, int)):
        padded = np.pad(image, widths, mode="reflect" if pad_mode == "reflect" else "constant")
        expected = padded[3 + row : 13 + row, 3 + column : 17 + column]
        np.testing.assert_array_equal(result, expected[:, ::-1] if matrix[1, 1] < 0 else expected)
    np.testing.assert_array_equal(ops.apply(jnp.asarray(BYTES), choice, pad_mode), moved)


def test_a_flip_alone_is_a_select_and_a_crop_does_no_arithmetic():
    batch = {"image": jnp.asarray(BYTES), "label": jnp.arange(6)}

    def names(config):
        return str(jax.make_jaxpr(lambda choice: pipeline.apply(batch, choice, config)["image"])(draw(config)))

    def draw(config):
        return pipeline.sample(jax.random.key(0), batch, config)

    assert "gather" not in names(AugmentConfig(flip=True))
    for config in (AugmentConfig(flip=True), AugmentConfig(pad_crop=2), AugmentConfig(pad_crop=2, flip=True)):
        assert "f32[6,10,14" not in names(config)
        assert pipeline.apply(batch, draw(config), config)["image"].dtype == jnp.uint8


def test_alternating_flips_show_both_sides_in_any_two_epochs():
    example, key = jnp.arange(400), jax.random.key(3)
    sides = np.array([ops.alternating(key, example, jnp.full(400, epoch)) for epoch in range(5)])
    assert 150 < sides[0].sum() < 250  # the first is left to chance
    np.testing.assert_array_equal(sides[1:], ~sides[:-1])
    shuffled = np.random.default_rng(0).permutation(400)
    np.testing.assert_array_equal(ops.alternating(key, jnp.asarray(shuffled), jnp.zeros(400, int)), sides[0][shuffled])


def test_alternating_flips_follow_from_seed_example_and_epoch_not_from_the_step():
    config = AugmentConfig(alternating_flip=True)
    batch = {"image": jnp.asarray(BYTES), "label": jnp.arange(6), "example": jnp.arange(6), "epoch": jnp.zeros(6, int)}
    first, later = (pipeline.make_augment(config, seed=5)(batch, step)["image"] for step in (0, 7))
    np.testing.assert_array_equal(first, later)
    other = pipeline.make_augment(config, seed=5)({**batch, "epoch": jnp.ones(6, int)}, 7)["image"]
    np.testing.assert_array_equal(other, first[:, :, ::-1])
    with pytest.raises(UsageError, match=r"augment\.alternating_flip.*epoch"):
        pipeline.sample(jax.random.key(0), {"image": batch["image"], "example": batch["example"]}, config)


@pytest.mark.compiles
def test_a_crop_is_cut_out_and_scaled_as_torchvision_does(torch, v2):
    box = np.array([[0, 0, 10, 14], [2, 3, 7, 12], [0, 0, 3, 14], [9, 13, 10, 14], [4, 0, 9, 5], [1, 2, 10, 4]])
    ours = ops.apply(jnp.asarray(BYTES), ops.identity(6), "zero", jnp.asarray(box, jnp.float32))
    for image, result, (top, left, bottom, right) in zip(BYTES, ours, box):
        theirs = v2.functional.resized_crop(
            torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)),
            *map(int, (top, left, bottom - top, right - left)),
            size=[10, 14],
            antialias=True,
        )
        np.testing.assert_allclose(result, theirs.numpy().transpose(1, 2, 0), atol=1e-3)


def test_a_crop_that_is_then_flipped_is_one_resampling_of_both():
    choice = ops.sample(jax.random.key(1), 6, AugmentConfig(flip=True))
    box = jnp.tile(jnp.array([[2.0, 3, 7, 12]]), (6, 1))
    cropped = ops.apply(jnp.asarray(BYTES), ops.identity(6), "zero", box)
    at_once = ops.apply(jnp.asarray(BYTES), choice, "zero", box)
    np.testing.assert_allclose(at_once, ops.apply_whole(cropped, choice, 0), atol=1e-3)


@pytest.mark.soak
def test_resized_crops_are_distributed_as_torchvisions(torch, v2):
    """Quantiles of side and place of 4,000 crops of a wide image, where many draws do not fit."""
    size, area, ratio = (24, 60), (0.3, 1.0), (0.75, 4 / 3)
    ours = np.asarray(crop.resized(jax.random.key(0), 4000, size, area, ratio)).astype(int)
    transform = v2.RandomResizedCrop(1, area, ratio)
    drawn = [transform.make_params([torch.zeros(1, *size)]) for _ in range(4000)]
    theirs = np.array([[params[name] for name in ("top", "left", "height", "width")] for params in drawn])
    mine = np.stack([ours[:, 0], ours[:, 1], ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]], axis=1)
    assert (mine[:, 2] <= 24).all()
    for quantile in (0.1, 0.3, 0.5, 0.7, 0.9):
        np.testing.assert_allclose(*(np.quantile(x, quantile, axis=0) for x in (mine, theirs)), atol=2)
    middle = (mine[:, 1] == 14) & (mine[:, 3] == 32)
    fallen_back = (theirs[:, 1] == 14) & (theirs[:, 3] == 32)
    assert abs(middle.mean() - fallen_back.mean()) < 0.03


def test_scale_jitter_takes_the_part_that_the_crop_is_of_the_resized_image():
    box = np.asarray(crop.scale(jax.random.key(0), 3000, (10, 20), (16, 32)))
    rows, columns = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    np.testing.assert_allclose(columns, 2 * rows, rtol=1e-4)
    side = 10 * 10 / rows  # the length that the shorter side is resized to
    assert 16 - 1e-3 <= side.min() < 16.2
    assert 31.8 < side.max() <= 32 + 1e-3
    assert abs(side.mean() - 24) < 0.3
    assert box.min() >= 0
    assert (box[:, 2:].max(axis=0) <= (10 + 1e-4, 20 + 1e-4)).all()


@pytest.mark.parametrize("dataset", ["cifar10", "imagenette"])
def test_a_crop_is_not_larger_than_what_it_is_cropped_from(dataset):
    augment = AugmentConfig(crop="scale", shorter_side=(20, 40))
    config = Config(steps=1, model=ModelConfig("resnet_tiny"), data=DataConfig(dataset, image_size=32), augment=augment)
    with pytest.raises(UsageError, match=r"augment\.shorter_side=\(20(\.0)?, 40(\.0)?\) must be at least 32"):
        build(config)


def test_a_crop_that_the_host_has_done_is_left_out():
    batch, config = {"image": jnp.asarray(BYTES)}, AugmentConfig(crop="resized")
    assert pipeline.sample(jax.random.key(0), batch, config).crop is not None
    assert pipeline.sample(jax.random.key(0), batch, config, cropped=True) == pipeline.Choice()
    assert pipeline.is_identity(config, cropped=True)
    assert not pipeline.is_identity(config)


def test_boxes_are_what_numpy_slices():
    box = jnp.array([[0, 0, 10, 14], [2, 3, 2, 9], [4, 5, 6, 7]])
    mask, share = boxes.mask(box, (10, 14)), boxes.share(box, (10, 14))
    for (top, left, bottom, right), inside, part in zip(np.asarray(box), mask, share):
        expected = np.zeros((10, 14, 1), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_allclose(part, expected.mean())
