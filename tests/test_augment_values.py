"""Colours, policies and erased parts: against torchvision and Pillow, and against their own laws."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxcnn.augment import colour, erase, policy, tables
from jaxcnn.augment.colour import Colour
from jaxcnn.augment.policy import OPERATIONS, Policy
from jaxcnn.config import AugmentConfig
from jaxcnn.errors import UsageError

KEY = jax.random.key(0)
BYTES = np.random.default_rng(0).integers(0, 256, (6, 11, 13, 3), np.uint8)
BYTES[1] = BYTES[1] // 4 + 40  # little contrast
BYTES[2] = BYTES[2, ..., :1]  # grey
BYTES[3] = 77
SMOOTH = np.asarray(  # something with neighbours alike, as in photographs
    [Image.fromarray(image).resize((40, 30), Image.Resampling.BICUBIC) for image in BYTES], np.uint8
)
FACTORS = np.array([0, 0.4, 1, 1.3, 2, 0.8], np.float32)


def nchw(torch, images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_as_torchvisions(torch, v2, name, channels):
    if channels == 1 and name in ("saturation", "hue"):
        return  # refused, see below
    images = BYTES[..., :channels]
    amount = (FACTORS - 1) / 2 if name == "hue" else FACTORS
    ours = colour.apply(jnp.asarray(images), Colour(**{name: jnp.asarray(amount)}))
    adjust = getattr(v2.functional, f"adjust_{name}")
    for image, result, one in zip(nchw(torch, images), ours, amount):
        theirs = 255 * adjust(image / 255, float(one)).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(result, theirs, atol=0.02)


def test_hue_is_colorsys():
    ours = colour.turn_hue(jnp.asarray(BYTES[:1], jnp.float32), jnp.array([0.3]))
    for pixel, result in zip(BYTES[0].reshape(-1, 3), np.asarray(ours).reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        np.testing.assert_allclose(result / 255, colorsys.hsv_to_rgb((h + 0.3) % 1, s, v), atol=1e-4)


def test_hue_leaves_grey_as_it_is_and_a_whole_turn_leaves_all():
    x = jnp.asarray(BYTES, jnp.float32)
    np.testing.assert_array_equal(colour.turn_hue(x, jnp.full(6, 0.37))[2:4], x[2:4])
    np.testing.assert_allclose(colour.turn_hue(x, jnp.full(6, 1.0)), x, atol=1e-3)


def test_grey_is_the_luma_of_pillow():
    ours = colour.apply(jnp.asarray(BYTES), Colour(grey=jnp.arange(6) % 2 == 0))
    for index, (image, result) in enumerate(zip(BYTES, ours)):
        if index % 2:
            np.testing.assert_array_equal(result, image)
        else:
            theirs = np.asarray(Image.fromarray(image).convert("L"), np.float32)
            np.testing.assert_allclose(result, np.repeat(theirs[..., None], 3, axis=2), atol=0.6)


def test_lighting_has_the_covariance_of_imagenets_colours():
    """Noise sum_i alpha_i sd_i v_i has covariance sigma^2 V diag(sd^2) V^T; the directions are orthonormal."""
    lighting = colour.sample(KEY, (20_000, 4, 4, 3), AugmentConfig(lighting=0.1)).lighting
    directions, deviations = np.array(colour._DIRECTIONS), np.array(colour._DEVIATIONS)
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=2e-3)
    expected = 25.5**2 * directions.T @ np.diag(deviations**2) @ directions
    np.testing.assert_allclose(np.cov(np.asarray(lighting).T), expected, rtol=0.05)
    shifted = colour.apply(jnp.asarray(BYTES), Colour(lighting=lighting[:6]))
    np.testing.assert_allclose(
        np.asarray(shifted) - BYTES, np.broadcast_to(lighting[:6, None, None], BYTES.shape), atol=1e-3
    )


def test_colours_are_drawn_in_their_ranges():
    config = AugmentConfig(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1, grey=0.25)
    choice = colour.sample(KEY, (4000, 2, 2, 3), config)
    for name, low, high in [
        ("brightness", 0.6, 1.4),
        ("contrast", 0, 2.5),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ]:
        values, span = np.asarray(getattr(choice, name)), high - low
        assert low <= values.min() < low + span / 50, name
        assert high - span / 50 < values.max() <= high, name
        assert abs(values.mean() - (low + high) / 2) < span / 40, name
    assert 0.22 < np.mean(choice.grey) < 0.28
    assert abs(np.corrcoef(choice.brightness, choice.hue)[0, 1]) < 0.1  # streams of their own
    assert choice.lighting is None
    with pytest.raises(UsageError, match=r"augment\.hue=0\.1 needs 3 channels"):
        colour.sample(KEY, (2, 4, 4, 1), AugmentConfig(hue=0.1))


STRENGTHS = {
    "identity": 0,
    **dict.fromkeys(("shear_x", "shear_y"), -0.3),
    "translate_x": 5,
    "translate_y": -4,
    "rotate": 25,
    **dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), 0.77),
    "posterize": 3,
    "solarize": 100,
    "autocontrast": 0,
    "equalize": 0,
}
THEIR_NAMES = {  # torchvision's
    **{name: "".join(word.capitalize() for word in name.split("_")) for name in OPERATIONS},
    "saturation": "Color",
    "autocontrast": "AutoContrast",
}


def one_operation(images, name, strength):
    count = len(images)
    choice = Policy(jnp.full((count, 1), OPERATIONS.index(name)), jnp.full((count, 1), strength, jnp.float32))
    return np.asarray(policy.apply(jnp.asarray(images), choice))


@pytest.mark.compiles(keep=6)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(torch, v2, name, channels):
    images = SMOOTH[
        [0, 1, 2, 4, 5], ..., :channels
    ]  # not the flat one: float32 may put 77 just below 77, to be cut off
    augment = v2.RandAugment()
    for sign in (1, -1) if name in policy._SIGNED else (1,):
        strength = sign * STRENGTHS[name]
        ours = one_operation(images, name, strength)
        arguments = (THEIR_NAMES[name], strength / 255 if name == "solarize" else float(strength), "nearest", {})
        theirs = [augment._apply_image_or_video_transform(image, *arguments).numpy() for image in nchw(torch, images)]
        apart = np.abs(ours.astype(int) - np.stack(theirs).transpose(0, 2, 3, 1))
        assert np.mean(apart > 0) < 0.01  # a position halfway between two pixels, a value that is nearly whole
        assert name in policy.MOVES or apart.max() <= 1


@pytest.mark.parametrize(
    ("name", "pillow"),
    [
        ("equalize", ImageOps.equalize),
        ("autocontrast", ImageOps.autocontrast),
        ("posterize", lambda image: ImageOps.posterize(image, 3)),
        ("solarize", lambda image: ImageOps.solarize(image, 100)),
        ("sharpness", lambda image: ImageEnhance.Sharpness(image).enhance(1.77)),
        ("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.77)),
        ("translate_x", lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, -5, 0, 1, 0))),
        ("rotate", lambda image: image.rotate(25)),
        ("shear_x", lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, -0.3, 0, 0, 1, 0))),
    ],
)
def test_operations_are_pillows(name, pillow):
    for image, result in zip(SMOOTH, one_operation(SMOOTH, name, STRENGTHS[name])):
        apart = np.abs(result.astype(int) - np.asarray(pillow(Image.fromarray(image))))
        assert np.mean(apart > 1) < (0.01 if name in policy.MOVES else 0.001)


def test_each_image_gets_its_own_operations_in_order():
    operation = jnp.array([[OPERATIONS.index(name) for name in ("solarize", "rotate", "brightness")]])
    strength = jnp.array([[100.0, 90.0, -0.5]])
    square = SMOOTH[:1, :30, :30]
    expected = np.rot90(np.where(square >= 100, 255 - square, square), axes=(1, 2)) // 2
    np.testing.assert_array_equal(policy.apply(jnp.asarray(square), Policy(operation, strength)), expected)
    mixed = Policy(jnp.arange(len(OPERATIONS))[:, None], jnp.array(list(STRENGTHS.values()), jnp.float32)[:, None])
    many = np.repeat(SMOOTH[:1], len(OPERATIONS), axis=0)
    together = policy.apply(jnp.asarray(many), mixed)
    for name, result in zip(OPERATIONS, together):
        np.testing.assert_array_equal(result, one_operation(SMOOTH[:1], name, STRENGTHS[name])[0], err_msg=name)


@pytest.mark.compiles
@pytest.mark.parametrize("wide", [False, True])
def test_strengths_are_torchvisions(v2, wide):
    space = (v2.TrivialAugmentWide if wide else v2.RandAugment)._AUGMENTATION_SPACE
    ours = policy.strengths(AugmentConfig(trivial=wide, randaugment=0 if wide else 2), (50, 90))
    assert len(space) == len(OPERATIONS)
    for name, row in zip(OPERATIONS, ours):
        magnitudes, signed = space[THEIR_NAMES[name]]
        theirs = magnitudes(31, 50, 90)
        theirs = np.zeros(31) if theirs is None else theirs.numpy() * (255 if name == "solarize" else 1)
        np.testing.assert_allclose(row, np.trunc(theirs + 1e-3) if "translate" in name else theirs, atol=1e-4)
        assert signed == (name in policy._SIGNED)


def test_operations_are_drawn_evenly():
    config = AugmentConfig(randaugment=3, magnitude=30)
    choice = policy.sample(KEY, 3000, (20, 20), config)
    counts = np.bincount(np.asarray(choice.operation).ravel(), minlength=len(OPERATIONS))
    assert choice.operation.shape == (3000, 3)
    assert abs(counts / 9000 - 1 / 14).max() < 0.01
    rotations = np.asarray(choice.strength)[np.asarray(choice.operation) == OPERATIONS.index("rotate")]
    assert set(rotations) == {-30, 30}
    assert 0.4 < np.mean(rotations > 0) < 0.6
    wide = policy.sample(KEY, 3000, (20, 20), AugmentConfig(trivial=True))
    rotations = np.asarray(wide.strength)[np.asarray(wide.operation) == OPERATIONS.index("rotate")]
    assert wide.operation.shape == (3000, 1)
    assert len(set(np.abs(rotations))) > 25
    assert np.abs(rotations).max() == 135


def test_counts_are_numpys():
    counts = tables.counts(jnp.asarray(BYTES))
    for image, row in zip(BYTES, counts):
        np.testing.assert_array_equal(row, [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])


def test_cutout_blacks_out_exactly_the_stated_square():
    images, config = np.maximum(BYTES, 1), AugmentConfig(cutout=5)
    choice = erase.sample(KEY, images.shape, config)
    result = np.asarray(erase.apply(jnp.asarray(images), choice))
    assert result.dtype == np.uint8
    for image, after, (top, left, bottom, right) in zip(images, result, np.asarray(choice.cutout)):
        expected = image.copy()
        expected[top:bottom, left:right] = 0
        np.testing.assert_array_equal(after, expected)
    box = np.asarray(erase.sample(KEY, (5000, 11, 13, 3), config).cutout)
    extent = box[:, 2:] - box[:, :2]
    assert extent.max() == 5
    assert extent.min() == 3  # centred on a pixel of the corner
    assert (box[:, 2:] <= (11, 13)).all()
    assert (box >= 0).all()
    assert abs(np.mean(extent == 5) - (7 / 11 + 9 / 13) / 2) < 0.02  # centres two or more from the edge


@pytest.mark.parametrize("value", ["zero", "noise"])
def test_erasing_fills_exactly_the_rectangle(value):
    images = np.maximum(BYTES, 1)
    choice = erase.sample(KEY, images.shape, AugmentConfig(erase=1, erase_value=value))
    result = np.asarray(erase.apply(jnp.asarray(images), choice))
    for index, (top, left, bottom, right) in enumerate(np.asarray(choice.rectangle)):
        expected = images[index].copy()
        expected[top:bottom, left:right] = 0 if value == "zero" else choice.noise[index, top:bottom, left:right]
        np.testing.assert_array_equal(result[index], expected)
    if value == "noise":
        many = erase.sample(KEY, (64, 16, 16, 3), AugmentConfig(erase=1, erase_value=value)).noise
        assert abs(float(np.mean(many)) - 127.5) < 1
        assert len(np.unique(many)) == 256


def test_rectangles_are_distributed_as_torchvisions(torch, v2):
    config = AugmentConfig(erase=0.3)
    box = np.asarray(erase.sample(KEY, (6000, 32, 40, 3), config).rectangle)
    rows, columns = (box[:, 2] - box[:, 0]), (box[:, 3] - box[:, 1])
    assert abs(np.mean(rows > 0) - 0.3) < 0.02
    ours = np.stack([box[:, 0], box[:, 1], rows, columns], axis=1)[rows > 0]
    transform = v2.RandomErasing()
    blank = [torch.zeros(3, 32, 40)]
    drawn = [transform.make_params(blank) for _ in range(2000)]
    theirs = np.array([[p["i"], p["j"], p["h"], p["w"]] for p in drawn if p["v"] is not None])
    for quantile in (0.1, 0.3, 0.5, 0.7, 0.9):
        np.testing.assert_allclose(*(np.quantile(x, quantile, axis=0) for x in (ours, theirs)), atol=2)
