"""All augmentations in order: ``sample(key, batch, config) -> Choice``, ``apply(batch, choice, config) -> batch``.

The order is that of the published recipes: crop and affine map in one resampling, RandAugment or TrivialAugment, colours,
erased parts, mixed images. A choice follows from the run's seed, the step and the row of the batch alone, so it is the same
for any number of devices. What is switched off adds nothing to the compiled step.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxcnn import rng
from jaxcnn.augment import colour, crop, erase, geometry, mix, policy
from jaxcnn.augment.colour import Colour
from jaxcnn.augment.erase import Erase
from jaxcnn.augment.geometry import Affine
from jaxcnn.augment.mix import Mix
from jaxcnn.augment.policy import Policy
from jaxcnn.config import AugmentConfig
from jaxcnn.errors import UsageError
from jaxcnn.typing import Array, Batch, Key


class Choice(NamedTuple):
    """What was drawn for a batch, one row per image in every array; None is off.

    Attributes:
      crop: (top, left, bottom, right) of the part that is scaled to the whole, ``[B, 4]``.
      affine: flip, shift, rotation, zoom and shear.
      policy: operations of RandAugment or TrivialAugment.
      colour: brightness, contrast, saturation, hue, grey, lighting.
      erase: cutout and random erasing.
      mix: mixup and CutMix.
    """

    crop: Array | None = None
    affine: Affine | None = None
    policy: Policy | None = None
    colour: Colour | None = None
    erase: Erase | None = None
    mix: Mix | None = None


def make_augment(config: AugmentConfig, seed: int, cropped: bool = False) -> Callable[[Batch, int | Array], Batch]:
    """``(batch, step) -> augmented batch``, a pure function of its arguments and ``seed``. See ``sample`` and ``apply``."""

    def augment(batch: Batch, step: int | Array) -> Batch:
        if is_identity(config, cropped):
            return batch
        choice = sample(rng.key(seed, "augment", step), batch, config, seed=seed, cropped=cropped)
        return apply(batch, choice, config)

    return augment


def sample(key: Key, batch: Batch, config: AugmentConfig, *, seed: int = 0, cropped: bool = False) -> Choice:
    """Draw everything that ``config`` switches on.

    Args:
      key: ``rng.key(seed, "augment", step)``.
      batch: ``image`` [B, H, W, C], of which only the shape is looked at; for alternating flips ``example`` and ``epoch``.
      config: what to draw.
      seed: the run's, for what an example keeps from epoch to epoch: its side in alternating flips.
      cropped: the host has done ``config.crop`` already.

    Raises:
      UsageError: the batch or its images are not such as a setting needs.
    """
    shape = batch["image"].shape
    num_images, size = shape[0], shape[1:3]
    mirrored = None
    if config.alternating_flip:
        if missing := {"example", "epoch"} - set(batch):
            raise UsageError(
                f"augment.alternating_flip=True needs {' and '.join(sorted(missing))} in the batch; use augment.flip"
            )
        mirrored = geometry.alternating(rng.key(seed, "alternating_flip"), batch["example"], batch["epoch"])
    return Choice(
        None if _uncropped(config, cropped) else crop.sample(rng.stream(key, "crop"), num_images, size, config),
        None if geometry.is_identity(config) else geometry.sample(key, num_images, config, mirrored),
        None if policy.is_identity(config) else policy.sample(rng.stream(key, "policy"), num_images, size, config),
        None if colour.is_identity(config) else colour.sample(rng.stream(key, "colour"), shape, config),
        None if erase.is_identity(config) else erase.sample(rng.stream(key, "erase"), shape, config),
        None if mix.is_identity(config) else mix.sample(rng.stream(key, "mix"), num_images, size, config),
    )


def apply(batch: Batch, choice: Choice, config: AugmentConfig) -> Batch:
    """The batch with augmented images, uint8 where no value was computed anew and float32 in [0, 255] otherwise.

    Mixed images add ``label_b`` and ``weight`` (``mix.apply``). Of the config, only ``pad_crop`` and ``pad_mode``, and
    which maps are on, are looked at.
    """
    image = batch["image"]
    affine = choice.affine
    if choice.crop is not None:
        affine = affine or geometry.identity(image.shape[0])
        image = geometry.apply(image, affine, config.pad_mode, choice.crop)
    elif affine is not None and geometry.is_whole(config):
        image = geometry.apply_whole(image, affine, config.pad_crop, config.pad_mode)
    elif affine is not None:
        image = geometry.apply(image, affine, config.pad_mode)
    if choice.policy is not None:
        image = policy.apply(image, choice.policy)
    if choice.colour is not None:
        image = colour.apply(image, choice.colour)
    if choice.erase is not None:
        image = erase.apply(image, choice.erase)
    batch = {**batch, "image": image}
    return batch if choice.mix is None else mix.apply(batch, choice.mix)


def is_identity(config: AugmentConfig, cropped: bool = False) -> bool:
    """Whether the config changes nothing, so that the step can leave augmentation out."""
    parts = (geometry, policy, colour, erase, mix)
    return _uncropped(config, cropped) and all(part.is_identity(config) for part in parts)


def _uncropped(config: AugmentConfig, cropped: bool) -> bool:
    return cropped or config.crop == "none"
