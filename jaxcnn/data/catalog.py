"""The datasets by name: where they come from and what a network needs to know of them."""

import dataclasses

from jaxcnn.errors import UsageError, nearest

_DIGITS = tuple("0123456789")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One row of the catalog.

    Attributes:
      name: name in flags, and of the TFDS builder.
      image_shape: (rows, columns, channels) as stored.
      class_names: one name per label.
      mean, std: per channel over the training images scaled to [0, 1]; the network sees (x - mean) / std.
      origin: ``ours`` (a builder of this package), ``tfds`` (an official builder) or ``synthetic`` (made in memory).
      about: one line for people.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    about: str

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)


CATALOG = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            (8, 8, 1),
            _DIGITS,
            (0.3053,),
            (0.3760,),
            "ours",
            "1,797 handwritten digits (UCI, scikit-learn's copy)",
        ),
        Dataset(
            "mnist", (28, 28, 1), _DIGITS, (0.1307,), (0.3081,), "tfds", "70,000 handwritten digits (LeCun et al. 1998)"
        ),
        Dataset("fake", (32, 32, 1), _DIGITS, (0.5,), (0.25,), "synthetic", "512 + 100 synthetic images, for tests"),
    )
}


def find(name: str) -> Dataset:
    """The dataset called ``name``; UsageError with the list when there is none."""
    if name not in CATALOG:
        raise UsageError(f"data.dataset={name!r} must be one of {', '.join(CATALOG)}{nearest(name, CATALOG)}")
    return CATALOG[name]
