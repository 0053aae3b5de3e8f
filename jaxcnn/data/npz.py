"""``npz:FILE``: arrays in a NumPy archive, as Keras or MedMNIST name them.

For each split ``x_SPLIT`` and ``y_SPLIT``, or ``SPLIT_images`` and ``SPLIT_labels``: images uint8 ``[N, H, W]`` or
``[N, H, W, C]`` with 1 or 3 channels, labels integers ``[N]`` or ``[N, 1]``; ``class_names`` if there are any.
"""

import functools
import re

import numpy as np

from jaxcnn.data.catalog import Dataset
from jaxcnn.data.records import Arrays
from jaxcnn.errors import DataError, UsageError

_MAX_CLASSES = 10**6  # each gets a name and a logit: a larger label is no class
_NAMES = (re.compile(r"x_(?P<split>\w+)"), re.compile(r"(?P<split>\w+)_images"))


def describe(path: str) -> Dataset:
    """The file as a row of the catalog: classes, mean and deviation are read off its training split."""
    arrays = _arrays(path)
    images, _ = arrays["train"]
    scaled = images.reshape(-1, images.shape[-1])
    num_classes = 1 + max(int(labels.max()) for _, labels in arrays.values())
    return Dataset(
        f"npz:{path}",
        images.shape[1:],
        _class_names(path, num_classes),
        mean=tuple(float(m) for m in np.round(scaled.mean(axis=0, dtype=np.float64) / 255, 6)),
        std=tuple(float(s) for s in np.round(np.maximum(scaled.std(axis=0, dtype=np.float64) / 255, 1e-3), 6)),
        splits={name: len(y) for name, (_, y) in arrays.items()},
        origin="npz",
        about=f"arrays in {path}",
        place=path,
    )


def splits(path: str) -> dict[str, Arrays]:
    """The images and labels of each split.

    Raises:
      UsageError: there is no such file.
      DataError: it is no NumPy archive, or an array is missing or of the wrong type or shape; names it.
    """
    return {name: Arrays(images, labels, f"{path}: {name}") for name, (images, labels) in _arrays(path).items()}


@functools.cache
def _arrays(path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    held = _read(path)
    found = {}
    for name, images in held.items():
        split = next((m["split"] for m in (pattern.fullmatch(name) for pattern in _NAMES) if m), None)
        if split is None:
            continue
        key = f"y_{split}" if name.startswith("x_") else f"{split}_labels"
        if key not in held:
            raise DataError(f"{path}: there is {name} but no {key}")
        labels = held[key].reshape(-1) if held[key].ndim == 2 and held[key].shape[1] == 1 else held[key]
        images = images[..., None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
            raise DataError(
                f"{path}: {name} is {images.dtype} {images.shape}; it must be uint8 [N, H, W] or [N, H, W, 1 or 3]"
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise DataError(
                f"{path}: {key} is {labels.dtype} {labels.shape}; it must be integers >= 0, one for each image"
            )
        if labels.max() >= _MAX_CLASSES:
            raise DataError(
                f"{path}: {key} has the label {labels.max()}; labels are classes from 0 on, below {_MAX_CLASSES:,}"
            )
        found[split] = images, labels.astype(np.int64)
    if "train" not in found:
        raise DataError(
            f"{path}: there is no x_train or train_images in it, only {', '.join(sorted(held)) or 'nothing'}"
        )
    shape = found["train"][0].shape[1:]
    for split, (images, _) in found.items():
        if images.shape[1:] != shape:
            raise DataError(f"{path}: images of {split} are of shape {images.shape[1:]}, those of train of {shape}")
    return found


def _read(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"data.dataset=npz:{path}: there is no such file") from None
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds on damage, and on a password
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path}: not a NumPy archive without pickles ({reason})") from None
    return {name: array for name, array in held.items() if isinstance(array, np.ndarray)}  # other files are bytes


def _class_names(path: str, count: int) -> tuple[str, ...]:
    names = _read(path).get("class_names")
    if names is None:
        return tuple(str(k) for k in range(count))
    if names.ndim != 1 or len(names) < count:
        raise DataError(f"{path}: class_names is of shape {names.shape}, but there are {count} labels")
    return tuple(str(name) for name in names)
