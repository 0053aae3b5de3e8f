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


def read_image(path: pathlib.Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """An image file as the dataset would hold it: uint8 of ``image_shape``, resized (bicubic) when it has another size.

    Raises:
      DataError: the file cannot be read or is no image; names it.
    """
    rows, columns, channels = image_shape
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    image = decode(data, channels, str(path))
    if image.shape[:2] == (rows, columns):
        return image
    return _as_array(_as_image(image).resize((columns, rows), Image.Resampling.BICUBIC))


def fit(images: np.ndarray, size: int | None, how: str) -> np.ndarray:
    """Bring uint8 images ``[N, H, W, C]`` to ``size`` rows and columns by ``how``: "resize" (bicubic) or "pad"."""
    _, rows, columns, _ = images.shape
    if size is None or (rows, columns) == (size, size):
        return images
    if how == "pad":
        top, left = size - rows, size - columns
        if top < 0 or left < 0:
            raise UsageError(
                f"data.image_size={size} must be >= {max(rows, columns)} with data.fit=pad; use data.fit=resize"
            )
        halves = ((0, 0), (top // 2, top - top // 2), (left // 2, left - left // 2), (0, 0))
        return np.pad(images, halves)
    return np.stack([_as_array(_as_image(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images])


def _as_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _as_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
