"""Which part of a photograph a training image shows: chosen before it is decoded, so that the rest need not be."""

import math
from collections.abc import Sequence

from jaxcnn.config import AugmentConfig
from jaxcnn.data.image import Box
from jaxcnn.errors import UsageError

_ATTEMPTS = 10
NUM_UNIFORMS = 2 + 2 * _ATTEMPTS  # random numbers that a choice takes


def check(config: AugmentConfig, size: int) -> None:
    """UsageError when a square of ``size`` rows and columns is to be cropped from less."""
    if config.crop == "scale" and config.shorter_side[0] < size:
        raise UsageError(
            f"augment.shorter_side={config.shorter_side} must be at least {size}, the image size that is cropped from it"
        )


def choose(rows: int, columns: int, size: int, config: AugmentConfig, uniform: Sequence[float]) -> Box:
    """The box of an image of rows x columns that becomes size x size.

    ``crop="resized"``: a share of the area and a shape, both random (Szegedy et al. 2015, section 6; drawn as torchvision
    does). ``crop="scale"``: a square that would be size x size if the shorter side were of a random length (Simonyan &
    Zisserman 2015, section 3.1; with one length it is Krizhevsky et al. 2012, section 4.1).

    Args:
      rows, columns: of the image.
      size: rows and columns that the box is resized to.
      config: which crop, and its ranges.
      uniform: ``NUM_UNIFORMS`` random numbers in [0, 1), ``order.uniforms`` of the example and its epoch.
    """
    if config.crop == "scale":
        shortest, longest = config.shorter_side
        length = shortest + math.floor(uniform[2] * (longest - shortest + 1))
        height = width = max(1, min(round(size / length * min(rows, columns)), rows, columns))
        return _placed(rows, columns, height, width, uniform)
    (low, high), (narrow, wide) = config.crop_area, config.crop_ratio
    for attempt in range(_ATTEMPTS):
        area = rows * columns * (low + uniform[2 + 2 * attempt] * (high - low))
        ratio = narrow * (wide / narrow) ** uniform[3 + 2 * attempt]  # uniform in its logarithm
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= rows and 0 < width <= columns:
            return _placed(rows, columns, height, width, uniform)
    height, width = min(rows, round(columns / narrow)), min(columns, round(rows * wide))
    return Box((rows - height) // 2, (columns - width) // 2, height, width)  # too long an image: the middle of it


def _placed(rows: int, columns: int, height: int, width: int, uniform: Sequence[float]) -> Box:
    return Box(int(uniform[0] * (rows - height + 1)), int(uniform[1] * (columns - width + 1)), height, width)
