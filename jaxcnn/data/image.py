"""Image files to uint8 arrays, and arrays to the size that a network sees."""

import io
import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxcnn.errors import DataError, UsageError

_MAX_PIXELS = 50_000_000  # a header that promises more is refused before anything is decoded
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is higher, and a warning


def decode(data: bytes, channels: int, what: str) -> np.ndarray:
    """Decode an image file to uint8 ``[H, W, channels]`` (1: grey, 3: RGB). DataError names ``what`` and the reason."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > _MAX_PIXELS:
            raise DataError(f"{what}: {image.width} x {image.height} pixels is above the limit of {_MAX_PIXELS:,}")
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{what}: {image.mode} pixels; convert it to 8 bits per channel")
        if image.has_transparency_data:  # what is behind a transparent image is white, as on paper
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return _as_array(ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{what}: not an image of a known format") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{what}: not a readable image ({error})") from None


def read_image(path: pathlib.Path, channels: int) -> np.ndarray:
    """An image file as uint8 ``[H, W, channels]``. DataError when it cannot be read or is no image; names it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return decode(data, channels, str(path))


def resize(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 ``[H, W, C]`` to ``[rows, columns, C]`` (bicubic, with antialiasing)."""
    if image.shape[:2] == (rows, columns):
        return image
    return _as_array(_as_image(image).resize((columns, rows), Image.Resampling.BICUBIC))


def fit(image: np.ndarray, size: int, how: str) -> np.ndarray:
    """Bring a uint8 image ``[H, W, C]`` to ``size`` rows and columns.

    ``how`` is "resize" (bicubic, the shape is lost), "crop" (the shorter side to 8/7 of ``size``, bilinear, then the centre:
    the usual evaluation of ImageNet, 256 and 224), or "pad" (with 0 on all sides).
    """
    rows, columns, _ = image.shape
    if (rows, columns) == (size, size):
        return image
    if how == "pad":
        top, left = size - rows, size - columns
        if top < 0 or left < 0:
            raise UsageError(
                f"data.image_size={size} must be >= {max(rows, columns)} with data.fit=pad; use data.fit=resize"
            )
        return np.pad(image, ((top // 2, top - top // 2), (left // 2, left - left // 2), (0, 0)))
    if how == "crop":
        shorter = size * 8 // 7
        width, height = (
            (shorter * columns // rows, shorter) if rows <= columns else (shorter, shorter * rows // columns)
        )
        image = _as_array(_as_image(image).resize((width, height), Image.Resampling.BILINEAR))
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        return image[top : top + size, left : left + size]
    return resize(image, size, size)


def _as_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _as_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
