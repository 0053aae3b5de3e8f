"""augment.ops against scipy and against its own laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxcnn.augment import geometry as ops
from jaxcnn.config import AugmentConfig

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
