"""Mixed images, the whole pipeline, and augmentation inside the update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn import losses, rng
from jaxcnn.augment import mix, pipeline
from jaxcnn.augment.mix import Mix
from jaxcnn.config import AugmentConfig, Config, from_json, replace, to_json
from jaxcnn.data import order
from jaxcnn.errors import UsageError
from jaxcnn.task import build

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 12, 10, 3), np.uint8)
BATCH = {
    "image": jnp.asarray(IMAGES),
    "label": jnp.arange(16) % 7,
    "example": jnp.arange(16) + 100,
    "epoch": jnp.arange(16) // 9,
}
EVERYTHING = AugmentConfig(
    crop="resized",
    shift=1,
    rotate=10,
    zoom=0.1,
    shear=0.1,
    alternating_flip=True,
    pad_crop=2,
    pad_mode="reflect",
    randaugment=2,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grey=0.2,
    lighting=0.1,
    cutout=3,
    erase=0.5,
    erase_value="noise",
    mixup=0.2,
    cutmix=1.0,
)


def test_mixup_blends_images_and_states_the_share():
    own = jnp.linspace(0, 1, 16)
    mixed = mix.apply(BATCH, Mix(blend=own))
    for i in range(16):
        share = float(own[i])
        expected = share * IMAGES[i] + (1 - share) * IMAGES[i - 1]
        np.testing.assert_allclose(mixed["image"][i], expected, atol=1e-3)
    np.testing.assert_array_equal(mixed["weight"], own)
    np.testing.assert_array_equal(mixed["label_b"], np.roll(BATCH["label"], 1))
    np.testing.assert_array_equal(mixed["label"], BATCH["label"])


def test_the_weight_of_cutmix_is_the_share_of_pixels():
    choice = mix.sample(KEY, 16, (12, 10), AugmentConfig(cutmix=1))
    mixed = mix.apply(
        {**BATCH, "image": jnp.arange(16, dtype=jnp.uint8)[:, None, None, None] + jnp.zeros_like(IMAGES)}, choice
    )
    assert mixed["image"].dtype == jnp.uint8
    for i, image in enumerate(np.asarray(mixed["image"])):
        assert set(np.unique(image)) <= {i, (i - 1) % 16}
        np.testing.assert_allclose(mixed["weight"][i], np.mean(image == i), atol=1e-6)
    assert 0 < mixed["weight"].min() < mixed["weight"].max() < 1


def test_shares_are_drawn_from_beta():
    blend = np.asarray(mix.sample(KEY, 8000, (8, 8), AugmentConfig(mixup=0.2)).blend)
    assert abs(blend.mean() - 0.5) < 0.02
    assert abs(blend.var() - 1 / (4 * 1.4)) < 0.01  # Beta(a, a) has variance 1 / (4 (2 a + 1))
    box = np.asarray(mix.sample(KEY, 8000, (64, 64), AugmentConfig(cutmix=1)).box)
    area = np.prod(box[:, 2:] - box[:, :2], axis=1) / 64**2
    random = np.random.default_rng(0)
    side, place = np.sqrt(1 - random.uniform(size=(8000, 1))), random.uniform(size=(8000, 2))
    theirs = np.prod(np.clip(place + side / 2, 0, 1) - np.clip(place - side / 2, 0, 1), axis=1)
    np.testing.assert_allclose(np.quantile(area, [0.1, 0.5, 0.9]), np.quantile(theirs, [0.1, 0.5, 0.9]), atol=0.03)


def test_with_both_each_image_gets_one_of_the_two():
    choice = mix.sample(KEY, 4000, (32, 32), AugmentConfig(mixup=1, cutmix=1))
    blended, cut = np.asarray(choice.blend) < 1, np.asarray(choice.box).any(axis=1)
    assert not (blended & cut).any()
    assert abs(blended.mean() - 0.5) < 0.03
    assert 0.4 < cut.mean() < 0.53  # a few boxes are empty


def test_the_loss_of_mixed_labels_is_that_of_mixed_one_hot_labels():
    logits = jax.random.normal(KEY, (16, 7))
    mixed = mix.apply(BATCH, mix.sample(KEY, 16, (12, 10), AugmentConfig(mixup=1)))
    weight = np.asarray(mixed["weight"])[:, None]
    target = weight * np.eye(7)[mixed["label"]] + (1 - weight) * np.eye(7)[mixed["label_b"]]
    expected = -np.sum((0.9 * target + 0.1 / 7) * np.asarray(jax.nn.log_softmax(logits)), axis=1)
    np.testing.assert_allclose(losses.mixed_cross_entropy(logits, mixed, 0.1), expected, rtol=1e-4)
    np.testing.assert_array_equal(
        losses.mixed_cross_entropy(logits, BATCH, 0.1), losses.cross_entropy(logits, BATCH["label"], 0.1)
    )
    np.testing.assert_array_equal(mix.main_label(mixed), target.argmax(axis=1))
    np.testing.assert_array_equal(mix.main_label(BATCH), BATCH["label"])


def test_the_update_learns_from_mixed_labels(tiny):
    """The objective that the update reports is that of the batch mixed beforehand."""
    task = build(replace(tiny, {"augment.mixup": 1.0, "model.dropout_rate": 0.0}), 1)
    state, batch = task.initial_state(), next(task.load("train").train_batches(0, 16, 0))
    mixed = pipeline.make_augment(task.config.augment, task.config.seed)(batch, 0)
    logits = task.model.apply(state.variables(), task.normalise()(mixed["image"]), train=True)
    _, sums = task.train_step(10)(state, batch)
    np.testing.assert_allclose(sums["objective"], losses.mixed_cross_entropy(logits, mixed).mean(), rtol=1e-4)
    assert int(sums["accuracy"]) == int(np.sum(logits.argmax(axis=1) == mix.main_label(mixed)))


def test_nothing_is_added_when_everything_is_off():
    assert pipeline.is_identity(AugmentConfig())
    assert pipeline.is_identity(
        AugmentConfig(crop_area=(0.5, 1.0), magnitude=3, pad_mode="reflect", erase_area=(0.1, 0.2))
    )
    assert pipeline.make_augment(AugmentConfig(), 0)(BATCH, 0) is BATCH


SWITCHES = {
    **{
        name: getattr(EVERYTHING, name)
        for name in ("crop", "shift", "rotate", "zoom", "shear", "pad_crop", "hue", "grey")
    },
    **{
        name: getattr(EVERYTHING, name)
        for name in ("brightness", "contrast", "saturation", "lighting", "cutout", "erase")
    },
    **{name: getattr(EVERYTHING, name) for name in ("alternating_flip", "randaugment", "mixup", "cutmix")},
    "flip": True,
    "trivial": True,
}


@pytest.mark.compiles(keep=8)
@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_changes_images_and_is_in_the_choice_again(name):
    config = AugmentConfig(**{name: SWITCHES[name]})
    assert not pipeline.is_identity(config)
    choice = pipeline.sample(KEY, BATCH, config)
    assert all(leaf.shape[0] == 16 for leaf in jax.tree.leaves(choice))
    once, again = (pipeline.apply(BATCH, choice, config)["image"] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.any(np.asarray(once, np.float32) != IMAGES)
    assert once.shape == IMAGES.shape


def test_no_two_parts_share_their_draws():
    """A part draws the same, whatever else is on."""
    alone = pipeline.sample(KEY, BATCH, AugmentConfig(erase=0.5, erase_value="noise"))
    together = pipeline.sample(KEY, BATCH, EVERYTHING)
    np.testing.assert_array_equal(alone.erase.rectangle, together.erase.rectangle)
    np.testing.assert_array_equal(alone.erase.noise, together.erase.noise)


@pytest.mark.compiles
def test_one_and_eight_devices_see_the_same_images():
    augment = jax.jit(pipeline.make_augment(EVERYTHING, seed=3))
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    one, eight = augment(BATCH, 5), augment(jax.device_put(BATCH, rows), 5)
    assert len(eight["image"].sharding.device_set) == 8
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], atol=1e-3, err_msg=name)
    assert np.any(np.asarray(augment(BATCH, 6)["image"]) != np.asarray(one["image"]))


def test_the_choice_follows_from_seed_and_step():
    def digest(seed, step):
        choice = pipeline.sample(rng.key(seed, "augment", step), BATCH, EVERYTHING, seed=seed)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(choice)]

    for a, b in zip(digest(1, 2), digest(1, 2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(digest(1, 2), digest(1, 3), strict=True))
    assert any(np.any(a != b) for a, b in zip(digest(1, 2), digest(2, 2), strict=True))


def test_batches_say_which_example_and_which_epoch():
    task = build(Config(steps=1, data=dataclasses.replace(Config(steps=1).data, dataset="fake")), 1)
    batches = task.load("train").train_batches(seed=2, batch_size=48, start=9)
    for step_, batch in zip(range(9, 12), batches):
        position = step_ * 48 + np.arange(48)
        np.testing.assert_array_equal(batch["epoch"], position // 512)
        np.testing.assert_array_equal(batch["example"], order.train_indices(2, step_, 48, 512)[0])
        assert batch["epoch"].dtype == batch["example"].dtype == jnp.int32
    assert set(np.asarray(order.train_epochs(9, 48, 512, num_steps=3)).ravel()) == {0, 1}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop_area": (1.0, 0.5)}, r"augment\.crop_area=\(1\.0, 0\.5\) must be two numbers, the smaller first"),
        ({"shorter_side": (256,)}, r"augment\.shorter_side=\(256,\)"),
        ({"crop_ratio": ("a", 1.0)}, r"augment\.crop_ratio"),
        ({"erase_area": 0.5}, r"augment\.erase_area=0\.5"),
        ({"trivial": True, "randaugment": 2}, r"augment\.randaugment=2 and augment\.trivial=True: give one"),
        ({"crop": "random"}, r"augment\.crop='random' must be one of none, resized, scale"),
        ({"magnitude": 31}, r"augment\.magnitude=31 must be .* <= 30"),
        ({"hue": 0.6}, r"augment\.hue=0\.6"),
        ({"crop_area": (0.0, 1.0)}, r"augment\.crop_area"),
    ],
)
def test_wrong_settings_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        Config(steps=1, augment=AugmentConfig(**values))


def test_settings_survive_json():
    config = Config(steps=1, augment=EVERYTHING)
    assert from_json(to_json(config)) == config
