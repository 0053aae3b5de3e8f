"""Image files of all kinds, whole and damaged, against Pillow, simplejpeg and torchvision."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcnn.data import catalog, image, source
from jaxcnn.data.image import Box
from jaxcnn.errors import DataError

ROWS, COLUMNS = 123, 187


def picture(rows=ROWS, columns=COLUMNS, channels=3):
    """Smooth, with some noise: what a photograph is to a JPEG encoder."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (9, 13, 3), np.uint8)).resize(
        (columns, rows), Image.Resampling.BICUBIC
    )
    noisy = np.clip(np.asarray(small) + rng.normal(0, 4, (rows, columns, 3)), 0, 255).astype(np.uint8)
    return noisy if channels == 3 else noisy[..., 0]


def encoded(pixels, kind="jpeg", mode=None, **options):
    file = io.BytesIO()
    one = Image.fromarray(pixels)
    (one.convert(mode) if mode else one).save(file, kind, **options)
    return file.getvalue()


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), exif=exif)


JPEGS = {
    "444": encoded(picture(), subsampling=0),
    "422": encoded(picture(), subsampling=1),
    "420": encoded(picture(), subsampling=2),
    "best": encoded(picture(), quality=100, subsampling=0),
    "restarts": encoded(picture(), restart_marker_rows=2),
    "progressive": encoded(picture(), progressive=True),
    "grey": encoded(picture(channels=1)),
    "one row": encoded(picture(1, 200)),
    "exif 1": rotated(1),
}
OTHERS = {
    "cmyk": encoded(picture(), mode="CMYK"),
    "png": encoded(picture(), "png"),
    "grey png": encoded(picture(channels=1), "png"),
    "bits": encoded(picture(), "png", mode="1"),
    "palette": encoded(picture(), "png", mode="P"),
    "gif": encoded(picture(), "gif"),
    "webp": encoded(picture(), "webp"),
    "bmp": encoded(picture(), "bmp"),
    **{f"exif {k}": rotated(k) for k in range(2, 9)},
}


@pytest.mark.parametrize("name", JPEGS | OTHERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_gives_pillows_pixels(name, channels):
    data = (JPEGS | OTHERS)[name]
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L" if channels == 1 else "RGB"))
    np.testing.assert_array_equal(image.decode(data, channels, name), theirs.reshape(*theirs.shape[:2], channels))


def test_sixteen_bits_become_eight():
    deep = (np.arange(ROWS * COLUMNS, dtype=np.uint32) * 31 % 65536).astype(np.uint16).reshape(ROWS, COLUMNS)
    np.testing.assert_array_equal(image.decode(encoded(deep, "png"), 1, "x")[..., 0], deep >> 8)


@pytest.mark.parametrize("values", [(0, 65_536), (-1, 65_535), (70_000, 70_000)])
def test_more_than_sixteen_bits_are_refused(values):
    with pytest.raises(DataError, match=f"x: pixels from {values[0]} to {values[1]}, not of 16 bits"):
        image.decode(encoded(np.array([values], np.int32), "tiff"), 1, "x")


def test_sixteen_bits_in_an_image_of_thirty_two_become_eight():
    deep = np.array([[0, 255, 256, 65_000, 65_535]], np.int32)
    np.testing.assert_array_equal(image.decode(encoded(deep, "tiff"), 1, "x")[..., 0], deep >> 8)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


TURNED = {
    "RGBA": (np.dstack([picture(), noise(ROWS, COLUMNS)]), None),
    "LA": (np.dstack([picture(channels=1), noise(ROWS, COLUMNS)]), None),
    "palette": (np.arange(60, dtype=np.uint8).reshape(6, 10), "P"),
    "16 bits": (noise(ROWS, COLUMNS).astype(np.uint16) << 8, None),
    "32 bits": (noise(ROWS, COLUMNS).astype(np.int32) << 8, None),
}


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_whatever_the_pixels(name, orientation):
    pixels, mode = TURNED[name]
    kind = "tiff" if name == "32 bits" else "png"
    options = {"transparency": 3} if name == "palette" else {}
    exif = Image.Exif()
    upright = image.decode(encoded(pixels, kind, mode, **options), 3, "x")
    exif[0x0112] = orientation
    ours = image.decode(encoded(pixels, kind, mode, exif=exif, **options), 3, "x")
    theirs = Image.fromarray(upright)
    theirs.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(ours, np.asarray(ImageOps.exif_transpose(theirs)))


def test_what_is_behind_a_transparent_image_is_white():
    clear = np.dstack([picture(), np.zeros((ROWS, COLUMNS), np.uint8)])
    assert (image.decode(encoded(clear, "png"), 3, "x") == 255).all()
    clear[..., 3] = 255
    np.testing.assert_array_equal(image.decode(encoded(clear, "png"), 3, "x"), picture())


def cropped(data, box, size=64, channels=3, expect=(ROWS, COLUMNS)):
    def choose(rows, columns):
        assert (rows, columns) == expect
        return box

    out = np.full((size, size, channels), 7, np.uint8)
    image.decode_crop(data, choose, out, "x")
    return out


@pytest.mark.parametrize("name", [name for name in JPEGS if name != "one row"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_rows_left_out_change_no_pixel_of_a_crop(name, channels):
    """Against the same decoder on the whole file."""
    cv2, simplejpeg = pytest.importorskip("cv2"), pytest.importorskip("simplejpeg")
    space = "GRAY" if channels == 1 else "RGB"
    whole = simplejpeg.decode_jpeg(JPEGS[name], space, fastdct=True, fastupsample=True)
    rng = np.random.default_rng(1)
    for _ in range(30):
        height, width = (int(rng.integers(1, n + 1)) for n in (ROWS, COLUMNS))
        box = Box(int(rng.integers(0, ROWS - height + 1)), int(rng.integers(0, COLUMNS - width + 1)), height, width)
        part = whole[box.top : box.top + height, box.left : box.left + width]
        how = cv2.INTER_AREA if min(height, width) >= 128 else cv2.INTER_LINEAR
        theirs = cv2.resize(part, (64, 64), interpolation=how).reshape(64, 64, channels)
        np.testing.assert_array_equal(cropped(JPEGS[name], box, channels=channels), theirs)


@pytest.mark.parametrize("name", [name for name in JPEGS | OTHERS if name != "bits"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_crop_looks_as_pillow_crops_and_resizes(monkeypatch, name, fast):
    """Also at half the resolution and less, for boxes of more than twice the size, and without the fast decoder."""
    if not fast:
        monkeypatch.setattr(image, "simplejpeg", None)
        monkeypatch.setattr(image, "cv2", None)
    data = (JPEGS | OTHERS)[name]
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    rows, columns = whole.height, whole.width
    for box in [Box(0, 0, rows, columns), Box(rows // 5, columns // 3, -(-rows // 3), columns // 2)]:
        for size, limit in ((8, 20), (24, 14), (50, 9)):  # a smaller image has more detail in a pixel
            theirs = whole.resize(
                (size, size),
                Image.Resampling.BILINEAR,
                box=(box.left, box.top, box.left + box.columns, box.top + box.rows),
            )
            ours = cropped(data, box, size, expect=(rows, columns))
            difference = np.abs(ours.astype(int) - np.asarray(theirs)).mean()
            assert difference < limit, (box, size)


def test_large_boxes_are_decoded_at_a_lower_resolution(monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    decoded = []

    def spy(*args, **options):
        decoded.append(simplejpeg.decode_jpeg(*args, **options))
        return decoded[-1]

    monkeypatch.setattr(image, "simplejpeg", type("Spy", (), {"decode_jpeg": staticmethod(spy)}))
    data = encoded(picture(400, 600))
    for size, rows in ((224, 400), (200, 200), (100, 100), (50, 50), (20, 50)):
        cropped(data, Box(0, 0, 400, 600), size, expect=(400, 600))
        assert len(decoded[-1]) == rows
    cropped(data, Box(0, 100, 100, 300), 64, expect=(400, 600))
    assert len(decoded[-1]) == 112  # 100 rows in blocks of 16


def bomb():
    """A PNG whose header promises 65,500 x 65,500 pixels."""
    data = bytearray(encoded(np.zeros((8, 8), np.uint8), "png"))
    data[16:24] = struct.pack(">II", 65_500, 65_500)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg_of_size(rows, columns):
    data = JPEGS["444"]
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", rows, columns) + data[at + 4 :]


DAMAGED = {
    "empty": b"",
    "html": b"<html><body>404 not found</body></html>",
    "cut jpeg": JPEGS["444"][: len(JPEGS["444"]) // 2],
    "cut progressive jpeg": JPEGS["progressive"][: len(JPEGS["progressive"]) // 2],
    "header of a jpeg": JPEGS["444"][:30],
    "start of a jpeg": b"\xff\xd8",
    "start and end of a jpeg": b"\xff\xd8\xff\xd9",
    "jpeg without tables": b"\xff\xd8" + JPEGS["444"][JPEGS["444"].index(b"\xff\xc0") :],
    "jpeg bomb": jpeg_of_size(65_000, 65_000),
    "jpeg without rows": jpeg_of_size(0, COLUMNS),
    "cut png": OTHERS["png"][:400],
    "png with a flipped bit": OTHERS["png"][:500] + bytes([OTHERS["png"][500] ^ 1]) + OTHERS["png"][501:],
    "png bomb": bomb(),
    "cut gif": OTHERS["gif"][:300],
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("fast", [True, False])
def test_damaged_files_are_named(monkeypatch, name, fast):
    if not fast:
        monkeypatch.setattr(image, "simplejpeg", None)
    with pytest.raises(DataError, match="record 17: "):
        image.decode(DAMAGED[name], 3, "record 17")
    with pytest.raises(DataError, match="record 17: "):
        image.decode_crop(
            DAMAGED[name], lambda rows, columns: Box(0, 0, rows, columns), np.empty((8, 8, 3), np.uint8), "record 17"
        )


@pytest.mark.parametrize("name", ["jpeg bomb", "png bomb"])
def test_a_header_that_promises_too_much_says_so(name):
    with pytest.raises(DataError, match="above the limit of 50,000,000"):
        image.decode(DAMAGED[name], 3, "x")


@pytest.mark.parametrize("shape", [(60_000, 1), (1, 60_000)])
@pytest.mark.parametrize("how", ["crop", "square"])
def test_a_thin_image_is_refused_before_it_is_made_larger(monkeypatch, shape, how):
    monkeypatch.setattr(image, "resize", lambda *arguments: pytest.fail("it was resized"))
    pixels = image.decode(encoded(np.zeros(shape, np.uint8), "png"), 3, "x")
    with pytest.raises(DataError, match=r"thin\.png: (60000 x 1|1 x 60000) pixels .* above the limit of 50,000,000"):
        image.fit(pixels, 224, how, "thin.png")


def test_any_byte_changed_gives_an_image_or_a_data_error():
    rng = np.random.default_rng(0)
    out = np.empty((16, 16, 3), np.uint8)
    for data in (JPEGS["420"], JPEGS["progressive"], JPEGS["exif 1"], OTHERS["png"]):
        for _ in range(60):
            changed = bytearray(data)
            for place in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
                changed[place] = rng.integers(0, 256)
            for read in (
                lambda data: image.decode(data, 3, "x"),
                lambda data: image.decode_crop(data, lambda r, c: Box(r // 3, 0, r - r // 3, c), out, "x"),
            ):
                with contextlib.suppress(DataError):
                    read(bytes(changed))


def test_evaluation_of_the_photographs_is_torchvisions(torchvision, shared_tfds):
    from torchvision.transforms import CenterCrop, Compose, Resize

    dataset = catalog.find("imagenet2012")
    theirs = Compose([Resize(256), CenterCrop(224)])
    records = source.open_split(dataset, "validation", shared_tfds)
    ours = source.load(dataset, "validation", shared_tfds, 224, "crop")
    assert len(ours) == len(records) == 80
    for index, (pixels, label) in enumerate(zip(ours.images, ours.labels)):
        record = records.read(index)
        expected = np.asarray(theirs(Image.open(io.BytesIO(record.image)).convert("RGB")))
        assert label == record.label
        np.testing.assert_array_equal(pixels, expected)
