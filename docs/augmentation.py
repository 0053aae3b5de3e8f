"""Draw the pictures of docs/augmentation.md: `python docs/augmentation.py [WORD]`, from scikit-learn's two photographs."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from jaxcnn import rng
from jaxcnn.augment import pipeline
from jaxcnn.config import AugmentConfig

FOLDER = pathlib.Path(__file__).resolve().parent / "images"
SIZE, SAMPLES, GAP = 128, 6, 6
CONFIGS = {
    "flip": AugmentConfig(flip=True),
    "alternating_flip": AugmentConfig(alternating_flip=True),
    "pad_crop": AugmentConfig(pad_crop=16),
    "pad_crop_reflect": AugmentConfig(pad_crop=16, pad_mode="reflect"),
    "crop_resized": AugmentConfig(crop="resized"),
    "crop_scale": AugmentConfig(
        crop="scale", shorter_side=(146, 293)
    ),  # 256 to 512 of 224, scaled to the picture's size
    "affine": AugmentConfig(shift=8, rotate=15, zoom=0.15, shear=0.2),
    "brightness": AugmentConfig(brightness=0.4),
    "contrast": AugmentConfig(contrast=0.8),
    "saturation": AugmentConfig(saturation=0.9),
    "hue": AugmentConfig(hue=0.2),
    "grey": AugmentConfig(grey=0.5),
    "lighting": AugmentConfig(lighting=0.6),
    "cutout": AugmentConfig(cutout=48),
    "erase": AugmentConfig(erase=1.0),
    "erase_noise": AugmentConfig(erase=1.0, erase_value="noise"),
    "randaugment": AugmentConfig(randaugment=2, magnitude=15),
    "trivial": AugmentConfig(trivial=True),
    "mixup": AugmentConfig(mixup=1.0),
    "cutmix": AugmentConfig(cutmix=1.0),
}


ON_CHINA = {
    "flip",
    "alternating_flip",
    "pad_crop",
    "pad_crop_reflect",
    "crop_resized",
    "crop_scale",
    "affine",
    "lighting",
}
SEEDS = {"trivial": 11}  # of six operations, few that are hard to see


def photograph(name: str) -> np.ndarray:
    """The middle of a sample photograph, uint8 [SIZE, SIZE, 3]."""
    image = Image.fromarray(load_sample_image(f"{name}.jpg"))
    rows = image.height
    left = (image.width - rows) // 2
    return np.asarray(image.crop((left, 0, left + rows, rows)).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def draw(name: str, config: AugmentConfig) -> None:
    """The original, and what becomes of it in six rows of a batch (of an alternating flip: in six epochs)."""
    flower, china = photograph("flower"), photograph("china")
    mixing = bool(config.mixup or config.cutmix)
    originals = [flower, china] if mixing else [china if name in ON_CHINA else flower]
    images = np.stack([originals[row % len(originals)] for row in range(SAMPLES)])
    seed = SEEDS.get(name, 1)
    batch = {
        "image": jnp.asarray(images),
        "label": jnp.zeros(SAMPLES, jnp.int32),
        "example": jnp.zeros(SAMPLES, jnp.int32),
        "epoch": jnp.arange(SAMPLES),
    }
    choice = pipeline.sample(rng.key(seed, "augment", 0), batch, config, seed=seed)
    augmented = np.asarray(pipeline.apply(batch, choice, config)["image"], np.float32)
    tiles = [*originals, *np.clip(np.round(augmented), 0, 255).astype(np.uint8)]
    white = np.full((SIZE, GAP, 3), 255, np.uint8)
    parts = []
    for index, tile in enumerate(tiles):
        wide = index == len(originals)  # a wider gap between originals and samples
        parts += [white] * ((3 if wide else 1) if index else 0) + [tile]
    path = FOLDER / f"augment_{name}.png"
    Image.fromarray(np.concatenate(parts, axis=1)).quantize(128, dither=Image.Dither.FLOYDSTEINBERG).save(
        path, optimize=True
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for key, value in CONFIGS.items():
        if word in key:
            draw(key, value)
