"""The datasets by name: where they come from and what a network needs to know of them."""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

from jaxcnn.config import AugmentConfig
from jaxcnn.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One row of the catalog.

    Attributes:
      name: name in flags.
      image_shape: (rows, columns, channels) as stored; of ``varying`` images those that networks are published for.
      class_names: one name per label.
      mean, std: per channel over the training images scaled to [0, 1]; the network sees (x - mean) / std.
      splits: number of examples of each split of the official dataset; a prepared copy may hold fewer.
      origin: ``ours`` (a builder of this package), ``tfds`` (an official builder), ``folder`` (of image files), ``npz``
        (arrays in a file) or ``synthetic`` (made in memory).
      about: one line for people.
      varying: the images have different sizes and are fitted to ``data.image_size`` while they are decoded.
      keys: names of the image and of the label in the builder's features.
      place: name and configuration of the TFDS builder, or path of the folder or file; "": ``name``.
      augment: random changes that are usual for it, for experiments to take over.
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
    place: str = ""
    augment: AugmentConfig = AugmentConfig()

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    def essence(self) -> str:
        """What a trained network depends on, in a word; another one where images of a folder were exchanged."""
        numbers = " ".join(f"{number:.4f}" for number in (*self.mean, *self.std))
        return f"{numbers}, {self.num_classes} classes {zlib.crc32(repr(self.class_names).encode()):08x}"


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple((pathlib.Path(__file__).parent / "cifar100_classes.txt").read_text(encoding="utf-8").split())
_FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_IMAGENETTE = (
    "tench",
    "English springer",
    "cassette player",
    "chain saw",
    "church",
    "French horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
)
_SMALL_PHOTOGRAPHS = AugmentConfig(flip=True, pad_crop=4)  # He et al. 2016a, section 4.2
_PHOTOGRAPHS = AugmentConfig(flip=True, crop="resized")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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
        augment=AugmentConfig(shift=2, rotate=10),
    ),
    Dataset(
        "fashion_mnist",
        (28, 28, 1),
        _FASHION,
        mean=(0.2860,),
        std=(0.3530,),
        splits={"train": 60_000, "test": 10_000},
        origin="tfds",
        about="70,000 pictures of clothes in MNIST's format (Xiao et al. 2017)",
        augment=AugmentConfig(flip=True, pad_crop=2),
    ),
    Dataset(
        "kmnist",
        (28, 28, 1),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mean=(0.1918,),
        std=(0.3483,),
        splits={"train": 60_000, "test": 10_000},
        origin="tfds",
        about="70,000 handwritten hiragana in MNIST's format (Clanuwat et al. 2018)",
        augment=AugmentConfig(shift=2, rotate=10),
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
        augment=_SMALL_PHOTOGRAPHS,
    ),
    Dataset(
        "cifar100",
        (32, 32, 3),
        _CIFAR100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        splits={"train": 50_000, "test": 10_000},
        origin="tfds",
        about="60,000 small photographs of 100 classes (Krizhevsky 2009)",
        augment=_SMALL_PHOTOGRAPHS,
    ),
    Dataset(
        "svhn",
        (32, 32, 3),
        _DIGITS,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        splits={"train": 73_257, "test": 26_032, "extra": 531_131},
        origin="tfds",
        about="630,420 digits of house numbers, cropped (Netzer et al. 2011)",
        place="svhn_cropped",
        augment=AugmentConfig(pad_crop=4),
    ),
    Dataset(
        "imagenette",
        (224, 224, 3),
        _IMAGENETTE,
        IMAGENET_MEAN,
        IMAGENET_STD,
        splits={"train": 9_469, "validation": 3_925},
        origin="tfds",
        about="13,394 photographs of 10 classes of ImageNet, shorter side 320 (Howard 2019)",
        varying=True,
        place="imagenette/320px-v2",
        augment=_PHOTOGRAPHS,
    ),
    Dataset(
        "imagenet2012",
        (224, 224, 3),
        _IMAGENET,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        splits={"train": 1_281_167, "validation": 50_000},
        origin="tfds",
        about="1,331,167 photographs of 1,000 classes (Russakovsky et al. 2015)",
        varying=True,
        augment=_PHOTOGRAPHS,
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


def to_json(dataset: Dataset) -> str:
    """What ``predict`` needs of a dataset, also where the dataset is not: all of its row but the usual augmentation."""
    row = {name: value for name, value in dataclasses.asdict(dataset).items() if name != "augment"}
    return json.dumps(row, indent=2) + "\n"


def from_json(text: str) -> Dataset:
    """Read what ``to_json`` wrote. ValueError when it is something else."""
    row = json.loads(text)
    kinds = {field.name: field.type for field in dataclasses.fields(Dataset)}
    if not isinstance(row, dict) or row.keys() != kinds.keys() - {"augment"}:
        raise ValueError("not the description of a dataset")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    dataset = Dataset(**values)
    names, (*_, channels) = dataset.class_names, dataset.image_shape
    if not all(isinstance(name, str) for name in names) or not len(dataset.mean) == len(dataset.std) == channels:
        raise ValueError("not the description of a dataset")
    return dataset


def find(name: str) -> Dataset:
    """The dataset called ``name``; UsageError with the list when there is none."""
    if name not in CATALOG:
        raise UsageError(
            f"data.dataset={name!r} must be one of {', '.join(CATALOG)}, or tfds:NAME, folder:PATH or npz:FILE"
            f"{nearest(name, CATALOG)}"
        )
    return CATALOG[name]
