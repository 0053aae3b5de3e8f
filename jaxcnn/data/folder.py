"""``folder:PATH``: image files, one folder per class.

Either ``PATH/CLASS/*.jpg``, which is one split, ``train``, or ``PATH/SPLIT/CLASS/*.jpg`` with ``train`` and others. The
files come in an order of their own, by a hash of their path, so that ``train[:90%]`` holds all classes.
"""

import functools
import os
import pathlib
import zlib

from jaxcnn.data.catalog import IMAGENET_MEAN, IMAGENET_STD, Dataset
from jaxcnn.data.image import ENDINGS
from jaxcnn.data.records import ImageFiles
from jaxcnn.errors import DataError, UsageError

_SPLITS = ("train", "val", "valid", "validation", "test")


def describe(path: str) -> Dataset:
    """The folder as a row of the catalog. UsageError and DataError as in ``splits``."""
    found = splits(path)
    return Dataset(
        f"folder:{path}",
        (224, 224, 3),
        _class_names(path),
        IMAGENET_MEAN,
        IMAGENET_STD,
        splits={name: len(files) for name, files in found.items()},
        origin="folder",
        about=f"images in {path}",
        varying=True,
        place=path,
    )


@functools.cache
def splits(path: str) -> dict[str, ImageFiles]:
    """The files of each split.

    Raises:
      UsageError: there is no such folder, or no class folder in it.
      DataError: a class folder is empty, or a split has a class that ``train`` has not.
    """
    names = _class_names(path)
    found = {}
    for split, folder in _split_folders(path).items():
        if unknown := sorted(set(_subfolders(folder)) - set(names)):
            raise DataError(f"{folder / unknown[0]}: there is no class {unknown[0]!r} among the training images")
        files: list[tuple[int, pathlib.Path, int]] = []
        for label, name in enumerate(names):
            images = _images(folder / name)
            if not images and (split == "train" or (folder / name).is_dir()):
                raise DataError(
                    f"{folder / name}: no image in this class folder (looked for {', '.join(sorted(ENDINGS))})"
                )
            files += [(zlib.crc32(os.fsencode(p.relative_to(folder))), p, label) for p in images]
        files.sort()
        found[split] = ImageFiles([p for _, p, _ in files], [label for *_, label in files])
    return found


def _class_names(path: str) -> tuple[str, ...]:
    """Those of the training images, sorted: their places are the labels."""
    folders = _split_folders(path)
    names = tuple(_subfolders(folders["train"]))
    if not names:
        raise UsageError(
            f"data.dataset=folder:{path}: {folders['train']} must hold one folder per class; there is none in it"
        )
    return names


def _split_folders(path: str) -> dict[str, pathlib.Path]:
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise UsageError(f"data.dataset=folder:{path} {kind}; it must be a folder with one folder of images per class")
    found = {name: root / name for name in _SPLITS if (root / name).is_dir()}
    return found if "train" in found else {"train": root}


def _subfolders(folder: pathlib.Path) -> list[str]:
    names = os.listdir(folder)
    return sorted(name for name in names if (folder / name).is_dir() and not name.startswith("."))


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return [
        pathlib.Path(where) / name
        for where, _, names in os.walk(folder)
        for name in names
        if pathlib.Path(name).suffix.lower() in ENDINGS and not name.startswith(".")
    ]
