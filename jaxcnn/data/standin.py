"""The few functions of TensorFlow that official dataset builders call, without TensorFlow.

Builders open files with ``tf.io.gfile`` and have arrays encoded by ``tf.image.encode_png``. TFDS reaches TensorFlow
through one lazy module, which imports it at the first attribute that is asked for and is not among its known
submodules. ``lent`` adds to these, and takes away again, what is below; any other attribute still raises ImportError.
"""

import contextlib
import glob
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image


@contextlib.contextmanager
def lent() -> Iterator[None]:
    """While it is open, TFDS finds the functions of this module where it looks for TensorFlow's."""
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

    known: dict[str, Any] = tensorflow._submodules  # pyright: ignore  (a lazy module of etils)
    before = dict(known)
    known.update(_MODULE)
    try:
        yield
    finally:
        known.clear()
        known.update(before)


class _Tensor:
    """What TFDS wants of the result of an operation: its value."""

    def __init__(self, value: Any):
        self._value = value

    def numpy(self) -> Any:
        return self._value


def _encode(pixels: np.ndarray, **options: Any) -> _Tensor:
    file = io.BytesIO()
    try:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    except TypeError:  # colours of 16 bits
        raise ImportError(f"Pillow cannot hold {pixels.dtype} {pixels.shape}", name="tensorflow") from None
    image.save(file, **options)
    return _Tensor(file.getvalue())


def _encode_jpeg(pixels: np.ndarray, format: str = "", quality: int = 95) -> _Tensor:
    return _encode(pixels, format="jpeg", quality=quality)


def _decode(data: bytes, channels: int = 0) -> _Tensor:
    with Image.open(io.BytesIO(data)) as image:
        kind = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "L" if image.mode == "L" else "RGB")
        pixels = np.asarray(image.convert(kind))  # of CMYK, as ImageNet has a few, to RGB like TensorFlow
    return _Tensor(pixels[..., None] if pixels.ndim == 2 else pixels)


def _open(name: str | os.PathLike[str], mode: str = "r") -> Any:
    return pathlib.Path(name).open(mode, encoding=None if "b" in mode else "utf-8")


class _NeverRaised(Exception):
    """Stands in ``except`` clauses for errors of TensorFlow's file system; ours raises OSError."""


_MODULE = {
    "compat": SimpleNamespace(as_text=os.fsdecode, as_bytes=os.fsencode),
    "errors": SimpleNamespace(ResourceExhaustedError=_NeverRaised, UnimplementedError=_NeverRaised),
    "executing_eagerly": lambda: True,
    "image": SimpleNamespace(
        encode_png=lambda pixels: _encode(pixels, format="png"),
        encode_jpeg=_encode_jpeg,
        decode_png=_decode,
        decode_jpeg=_decode,
        decode_image=_decode,
    ),
    "io": SimpleNamespace(
        gfile=SimpleNamespace(
            GFile=_open,
            copy=shutil.copyfile,
            exists=os.path.exists,
            glob=glob.glob,
            isdir=os.path.isdir,
            listdir=os.listdir,
            makedirs=lambda path: os.makedirs(path, exist_ok=True),
            remove=os.remove,
            walk=os.walk,
        )
    ),
}
