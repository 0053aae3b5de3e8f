"""The datasets by name: where they come from and what a network needs to know of them."""

import dataclasses
import pathlib
from collections.abc import Mapping

from jaxcnn.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One row of the catalog.

    Attributes:
      name: name in flags, and of the TFDS builder.
      image_shape: (rows, columns, channels) as stored; of ``varying`` images those that networks are published for.
      class_names: one name per label.
      mean, std: per channel over the training images scaled to [0, 1]; the network sees (x - mean) / std.
      splits: number of examples of each split of the official dataset; a prepared copy may hold fewer.
      origin: ``ours`` (a builder of this package), ``tfds`` (an official builder) or ``synthetic`` (made in memory).
      about: one line for people.
      varying: the images have different sizes and are fitted to ``data.image_size`` while they are decoded.
      keys: names of the image and of the label in the builder's features.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, int]
    origin: str
    about: str
    varying: bool = False
    keys: tuple[str, str] = ("image", "label")

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IMAGENET = tuple(  # each line: WordNet's number, which orders the labels, and a name
    line.split(" ", 1)[1]
    for line in (pathlib.Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
)
_ROWS = (
    Dataset(
        "digits",
        (8, 8, 1),
        _DIGITS,
        mean=(0.3053,),
        std=(0.3760,),
        splits={"train": 1500, "test": 297},
        origin="ours",
        about="1,797 handwritten digits (UCI, scikit-learn's copy)",
    ),
    Dataset(
        "mnist",
        (28, 28, 1),
        _DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        splits={"train": 60_000, "test": 10_000},
        origin="tfds",
        about="70,000 handwritten digits (LeCun et al. 1998)",
    ),
    Dataset(
        "cifar10",
        (32, 32, 3),
        _CIFAR10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        splits={"train": 50_000, "test": 10_000},
        origin="tfds",
        about="60,000 small photographs of 10 classes (Krizhevsky 2009)",
    ),
    Dataset(
        "imagenet2012",
        (224, 224, 3),
        _IMAGENET,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        splits={"train": 1_281_167, "validation": 50_000},
        origin="tfds",
        about="1,331,167 photographs of 1,000 classes (Russakovsky et al. 2015)",
        varying=True,
    ),
    Dataset(
        "fake",
        (32, 32, 1),
        _DIGITS,
        mean=(0.5,),
        std=(0.25,),
        splits={"train": 512, "test": 100},
        origin="synthetic",
        about="512 + 100 synthetic images, for tests",
    ),
)
CATALOG = {dataset.name: dataset for dataset in _ROWS}


def find(name: str) -> Dataset:
    """The dataset called ``name``; UsageError with the list when there is none."""
    if name not in CATALOG:
        raise UsageError(f"data.dataset={name!r} must be one of {', '.join(CATALOG)}{nearest(name, CATALOG)}")
    return CATALOG[name]
