"""Image files to uint8 arrays, and arrays to the size that a network sees.

A plain JPEG goes through libjpeg-turbo (simplejpeg), bit for bit what Pillow gives; everything else, and all damage,
through Pillow. Training crops are decoded faster than exactly: see ``decode_crop``.
"""

import io
import pathlib
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxcnn.errors import DataError, UsageError

try:
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)  # the reader's threads share the cores already
except ImportError:  # no wheel for this platform: Pillow does all, at half the speed
    cv2: Any = None
    simplejpeg: Any = None

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}  # of image files
_MAX_PIXELS = 50_000_000  # a header that promises more is refused before anything is decoded
_ROTATED = range(2, 9)  # EXIF orientations other than upright
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is higher, and a warning


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    rows: int
    columns: int


def decode(data: bytes, channels: int, what: str) -> np.ndarray:
    """Decode an image file to uint8 ``[H, W, channels]`` (1: grey, 3: RGB). DataError names ``what`` and the reason.

    Transparency is laid on white, 16 bits become 8, CMYK becomes RGB, and an EXIF orientation is applied.
    """
    header = _plain_jpeg(data)
    if header is not None and header.channels == channels:
        _check_pixels(header.rows, header.columns, what)
        try:
            return simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY")
        except ValueError:  # damaged: Pillow says how, and reads what every other tool reads
            pass
    try:
        image = Image.open(io.BytesIO(data))
        _check_pixels(image.height, image.width, what)
        image = ImageOps.exif_transpose(image)  # before it becomes another one, without EXIF
        if image.mode.startswith("I"):
            deep = np.asarray(image)
            if deep.min() < 0 or deep.max() > 65_535:
                raise DataError(
                    f"{what}: pixels from {deep.min()} to {deep.max()}, not of 16 bits; convert it to 8 bits per channel"
                )
            image = Image.fromarray((deep >> 8).astype(np.uint8))
        if image.mode == "F":
            raise DataError(f"{what}: F pixels; convert it to 8 bits per channel")
        if image.has_transparency_data:  # what is behind a transparent image is white, as on paper
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return _as_array(image.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{what}: not an image of a known format") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{what}: not a readable image ({error})") from None


def decode_crop(data: bytes, choose: Callable[[int, int], Box], out: np.ndarray, what: str) -> None:
    """Decode a part of an image file and resize it (bilinear) into ``out``. DataError as in ``decode``.

    What is not needed is not computed: rows below the box are not decoded, a box of at least twice the size is decoded at
    1/2, 1/4 or 1/8 of the resolution, the inverse cosine transform and the chroma are libjpeg-turbo's fast ones, and the
    last step down, by less than two, is without antialiasing.

    Args:
      data: the file.
      choose: (rows, columns) of the image -> the part of it.
      out: uint8 ``[size, size, channels]``.
      what: name of the file in messages.
    """
    size, channels = out.shape[0], out.shape[2]
    header = _plain_jpeg(data)
    if header is None:
        pixels = decode(data, channels, what)
        box = choose(*pixels.shape[:2])
    else:
        _check_pixels(header.rows, header.columns, what)
        box = choose(header.rows, header.columns)
        rows = min(header.rows, -(-(box.top + box.rows) // header.block_rows) * header.block_rows)
        file = bytearray(data)
        struct.pack_into(">H", file, header.height_at, rows)  # the decoder believes it and stops after so many rows
        factor = next(k for k in (8, 4, 2, 1) if k == 1 or min(box.rows, box.columns) >= k * size)
        rows, columns = -(-rows // factor), -(-header.columns // factor)
        try:
            pixels = simplejpeg.decode_jpeg(
                file,
                "RGB" if channels == 3 else "GRAY",
                fastdct=True,
                fastupsample=True,
                min_height=rows,
                min_width=columns,
                buffer=_buffer(rows * columns * channels),
                strict=False,  # or it would miss the rows that we leave out
            )
        except ValueError as error:
            raise DataError(f"{what}: not a readable image ({error})") from None
        box = Box(*(pixel // factor for pixel in box))
    crop(pixels, box, out)


def crop(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Cut a part out of uint8 ``[H, W, C]`` and resize it (bilinear) into ``out``, ``[size, size, C]``."""
    size, channels = out.shape[0], out.shape[2]
    part = pixels[box.top : box.top + box.rows, box.left : box.left + box.columns]
    if cv2 is None:
        out[:] = resize(part, size, size, Image.Resampling.BILINEAR)
    else:
        how = cv2.INTER_AREA if min(part.shape[:2]) >= 2 * size else cv2.INTER_LINEAR  # no pixel is passed over
        cv2.resize(part, (size, size), dst=out if channels > 1 else out[..., 0], interpolation=how)


def mirror(image: np.ndarray) -> None:
    """Swap left and right in place."""
    if cv2 is None:
        image[:] = image[:, ::-1].copy()
    else:
        cv2.flip(image, 1, dst=image)


def read_image(path: pathlib.Path, channels: int) -> np.ndarray:
    """An image file as uint8 ``[H, W, channels]``. DataError when it cannot be read or is no image; names it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return decode(data, channels, str(path))


def resize(
    image: np.ndarray, rows: int, columns: int, filter: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """uint8 ``[H, W, C]`` to ``[rows, columns, C]``, with antialiasing."""
    if image.shape[:2] == (rows, columns):
        return image
    return _as_array(_as_image(image).resize((columns, rows), filter))


def fit(image: np.ndarray, size: int, how: str, what: str = "image") -> np.ndarray:
    """Bring a uint8 image ``[H, W, C]`` to ``size`` rows and columns.

    ``how`` is "resize" (bicubic, the shape is lost), "crop" (the shorter side to 8/7 of ``size``, bilinear, then the centre:
    the usual evaluation of ImageNet, 256 and 224, equal to torchvision's), "square" (the shorter side to ``size``, then
    the centre), or "pad" (with 0 on all sides). DataError names ``what``, see ``shorter_side``.
    """
    rows, columns, _ = image.shape
    if how == "pad":
        top, left = size - rows, size - columns
        if top < 0 or left < 0:
            raise UsageError(
                f"data.image_size={size} must be >= {max(rows, columns)} with data.fit=pad; use data.fit=resize"
            )
        return np.pad(image, ((top // 2, top - top // 2), (left // 2, left - left // 2), (0, 0)))
    if how in ("crop", "square"):
        image = shorter_side(image, size * 8 // 7 if how == "crop" else size, what)
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        return image[top : top + size, left : left + size]
    return resize(image, size, size)


def shorter_side(image: np.ndarray, length: int, what: str = "image") -> np.ndarray:
    """The image with its shorter side ``length`` pixels long (bilinear), its shape kept.

    DataError, which names ``what``, for a thin one that would get more pixels than an image file may have.
    """
    rows, columns, _ = image.shape
    height, width = (length, length * columns // rows) if rows <= columns else (length * rows // columns, length)
    _check_pixels(height, width, f"{what}: {columns} x {rows} pixels with the shorter side made {length}")
    return resize(image, height, width, Image.Resampling.BILINEAR)


class _Jpeg(NamedTuple):
    """What a JPEG's header says; ``height_at`` is the place of its number of rows, ``block_rows`` the height of its blocks."""

    rows: int
    columns: int
    channels: int
    height_at: int
    block_rows: int


def _plain_jpeg(data: bytes) -> _Jpeg | None:
    """The header of a whole, upright, 8-bit, grey or YCbCr JPEG; None for everything else, which Pillow reads."""
    if simplejpeg is None or data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-64:]:
        return None
    at, end = 2, len(data) - 9
    while at < end and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            precision, rows, columns, channels = struct.unpack_from(">BHHB", data, at + 4)
            plain = precision == 8 and channels in (1, 3) and rows and columns
            if not plain:
                return None
            sampling = max(data[at + 11 + 3 * channel] & 15 for channel in range(channels))
            return _Jpeg(rows, columns, channels, at + 5, 8 * sampling)
        if 0xC3 <= marker <= 0xCF and marker != 0xC4:
            return None
        if marker == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            exif = Image.Exif()
            try:
                exif.load(data[at + 4 : at + 2 + length])
                if exif.get(0x0112) in _ROTATED:
                    return None
            except Exception:  # damaged metadata; Pillow's readers raise many kinds
                return None
        at += 1 if marker == 0xFF else 2 + length
    return None


def _check_pixels(rows: int, columns: int, what: str) -> None:
    if rows * columns > _MAX_PIXELS:
        raise DataError(f"{what}: {columns} x {rows} pixels is above the limit of {_MAX_PIXELS:,}")


_OF_THREAD = threading.local()


def _buffer(size: int) -> np.ndarray:
    """Memory of this thread to decode into: fresh pages for each image would cost a tenth of the time."""
    if getattr(_OF_THREAD, "buffer", np.empty(0)).size < size:
        _OF_THREAD.buffer = np.empty(max(size, 2**20), np.uint8)
    return _OF_THREAD.buffer


def _as_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _as_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
