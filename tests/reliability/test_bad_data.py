"""T10 and T11: images that cannot be read, and readers that are cut off from their files."""

import io
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import struct
import time
import zlib

import numpy as np
import protocol
import pytest
from conftest import finish
from PIL import Image
from protocol import end, images, png, start, wait_until

from jaxcnn import loop
from jaxcnn.config import Config, DataConfig, LogConfig, ModelConfig, replace
from jaxcnn.data import image
from jaxcnn.errors import DataError, Preempted

SHARES = {"1 %": 0.01, "10 %": 0.1, "100 %": 1.0}


def saved(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 65,500 x 65,500 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 65500, 65500, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def four_inks(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(file, "jpeg")
    return file.getvalue()


def not_a_number(pixels):
    """Pixels as float32, one of them NaN: no format of photographs."""
    values = pixels[..., 0].astype(np.float32)
    values[3, 4] = np.nan
    return saved(values, "tiff")


BAD = {
    "truncated": lambda pixels: png(pixels)[: len(png(pixels)) // 2],
    "empty": lambda pixels: b"",
    "html": lambda pixels: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "bomb": lambda pixels: bomb(),
    "NaN": not_a_number,
}
ODD = {  # unusual, and an image all the same
    "1 x 1": lambda pixels: png(pixels[:1, :1]),
    "grey": lambda pixels: png(pixels[..., 0]),
    "four inks": four_inks,
    "transparent": lambda pixels: png(np.dstack([pixels, pixels[..., :1]])),
    "16 bits": lambda pixels: saved(pixels[..., 0].astype(np.uint16) * 257, "png"),
}


def config(folder, **changes):
    data = DataConfig("tfds:rig_images", data_dir=str(folder), image_size=32, batch_size=32, resident_gb=0.0)
    return replace(
        Config(
            steps=20,
            model=ModelConfig("mlp", overrides={"hidden": (16,)}),
            data=data,
            log=LogConfig(plots=False, every=1),
        ),
        {"augment.crop": "resized", "checkpoint.every": 5, "optimizer.learning_rate": 0.01, **changes},
    )


def spoiled(folder, kinds, share):
    """Write the dataset with a share of its records spoiled, the kinds in turn; the numbers of those records."""
    places = sorted({int(k / share) for k in range(int(512 * share))})
    pixels, makers = images(512, 0), [{**BAD, **ODD}[kind] for kind in kinds]
    protocol.make_dataset(folder, {place: makers[i % len(makers)](pixels[place]) for i, place in enumerate(places)})
    return places


SOME = [("10 %", tuple(BAD)), ("10 %", tuple(ODD))]
ALL = [(share, (kind,)) for share in SHARES for kind in [*BAD, *ODD]]


@pytest.mark.protocol("T10")
@pytest.mark.parametrize(
    ("share", "kinds"),
    [*SOME, *(pytest.param(*case, marks=pytest.mark.soak) for case in ALL)],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_what_is_no_image_is_named_or_left_out_and_counted(tmp_path, share, kinds):
    """By default the run ends and names the record; or as many as are allowed are left out, and the run is reproducible."""
    places = spoiled(tmp_path / "data", kinds, SHARES[share])
    strict = config(tmp_path / "data")
    if kinds[0] in ODD:
        assert loop.run(strict, tmp_path / "run", num_devices=1)["bad_records"] == 0
        return
    with pytest.raises(DataError, match=r"rig_images-train\S* ?record \d+") as error:
        loop.run(strict, tmp_path / "strict", num_devices=1)
    assert int(re.search(r"record (\d+)", str(error.value))[1]) in places
    assert error.value.exit_code == 3
    patient = replace(strict, {"data.max_bad_records": 60})
    if len(places) > 60:
        with pytest.raises(DataError, match="max_bad_records=60"):
            loop.run(patient, tmp_path / "patient", num_devices=1)
        return
    first = loop.run(patient, tmp_path / "patient", num_devices=1)
    assert first["bad_records"] == len(places)
    assert sorted(map(int, json.loads((tmp_path / "patient" / "bad_records.json").read_text())["train"])) == places
    polls = iter([False] * 9 + [True] * 99)
    with pytest.raises(Preempted):
        loop.run(patient, tmp_path / "stopped", num_devices=1, stop=polls.__next__)
    again = loop.run(patient, tmp_path / "stopped", num_devices=1)
    assert (again["state_digest"], again["bad_records"]) == (first["state_digest"], len(places))


@pytest.mark.protocol("T10")
def test_a_bomb_is_refused_at_its_header(record_property):
    data, out = bomb(), np.empty((32, 32, 3), np.uint8)
    begin = time.perf_counter()
    with pytest.raises(DataError, match="65500 x 65500"):
        image.decode(data, 3, "record 7")
    with pytest.raises(DataError, match="65500 x 65500"):
        image.decode_crop(data, lambda rows, columns: pytest.fail("a box was asked for"), out, "record 7")
    milliseconds = 500 * (time.perf_counter() - begin)
    assert milliseconds < 50
    record_property("ms until a bomb is refused", round(milliseconds, 2))


def peak_memory(process):
    """Largest resident memory of a process until it ends, in bytes."""
    peak = 0
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024)
        except (OSError, TypeError):
            break
        time.sleep(0.02)
    return peak


@pytest.mark.processes
@pytest.mark.protocol("T10")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc: not Linux")
def test_bad_images_cost_no_memory(tmp_path, record_property):
    """51 bombs, each of which would be 12.9 GB."""
    protocol.write(tmp_path)
    spoiled(tmp_path / "bombs", ["bomb"], 0.1)
    peaks = []
    for name, flags in (("normal", []), ("patient", ["--data_dir=bombs", "--max_bad_records=60"])):
        process = start(tmp_path, name, *flags)
        peaks.append(peak_memory(process))
        code, err = finish(process)
        assert code == 0, err
    assert peaks[1] < 1.5 * peaks[0]
    record_property("memory with bombs / without", round(peaks[1] / peaks[0], 2))


@pytest.mark.protocol("T11")
def test_readers_that_lose_their_file_end_the_run_and_it_can_go_on(tmp_path, record_property):
    """Truncate the file while it is read. The readers are threads, so no reader can be killed alone."""
    protocol.make_dataset(tmp_path / "data")
    steps = config(tmp_path / "data")
    digest = loop.run(steps, tmp_path / "straight", num_devices=1)["state_digest"]
    [file] = (tmp_path / "data").rglob("*train.array_record*")
    data, polls, cut_at = file.read_bytes(), itertools.count(), []

    def cut_at_step_8():
        if next(polls) == 8:
            os.truncate(file, len(data) // 3)
            cut_at.append(time.monotonic())
        return False

    with pytest.raises(DataError, match=r"rig_images-train.*record \d+") as error:
        loop.run(steps, tmp_path / "run", num_devices=1, stop=cut_at_step_8)
    seconds = time.monotonic() - cut_at[0]
    assert error.value.exit_code == 3
    assert seconds < 5
    assert not multiprocessing.active_children(), "a process that reads: it must be killed here"
    file.write_bytes(data)
    assert loop.run(steps, tmp_path / "run", num_devices=1)["state_digest"] == digest
    record_property("seconds until it is noticed", round(seconds, 1))


SLOWLY = """
import time
from jaxcnn.writers import Journal

record = Journal.record


def record_slowly(self, step, sums):
    time.sleep(0.3)
    record(self, step, sums)


Journal.record = record_slowly
"""


@pytest.mark.processes
def test_a_signal_ends_a_run_whose_data_are_slow(tmp_path):
    protocol.write(tmp_path, SLOWLY)
    process = start(tmp_path, "run")
    wait_until(lambda: protocol.logged_steps(tmp_path, "run"), process)
    code, err, seconds = end(process, 15)
    assert (code, seconds < 10) == (75, True), err
