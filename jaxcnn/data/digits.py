"""``digits`` as a TFDS builder: the 1,797 images that scikit-learn carries, so nothing is downloaded.

The first 1,500 images are for training, the last 297 for testing. They come from other writers, which makes this
harder than a random split.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

NUM_TRAIN = 1500


class Digits(tfds.core.GeneratorBasedBuilder):
    """8x8 grey images of handwritten digits, 17 grey levels (Alpaydin & Kaynak 1998, UCI repository)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Handwritten digits of 43 writers; the last 297 of 1,797 images are the test split.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"train": self._generate_examples(0, NUM_TRAIN), "test": self._generate_examples(NUM_TRAIN, None)}

    def _generate_examples(self, start: int, stop: int | None) -> Iterator[tuple[int, dict]]:
        from sklearn.datasets import load_digits  # slow to import, and needed once

        digits: Any = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        for index in range(start, len(images) if stop is None else stop):
            png = io.BytesIO()  # encoded here: TFDS would call TensorFlow to encode an array
            Image.fromarray(images[index]).save(png, "png")
            yield index, {"image": png.getvalue(), "label": int(digits.target[index])}
