"""The rig of the reliability protocol: a small network with everything random on, streamed from ArrayRecord files.

512 images of 32 x 32, three convolutions with BatchNorm, batches of 32, 60 updates, a checkpoint every 5; a test that
needs the run to behave badly appends lines to the experiment. Every process has a time limit.
"""

import contextlib
import fcntl
import functools
import io
import json
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from conftest import finish, start_training
from PIL import Image

from jaxcnn import experiment, loop
from jaxcnn.config import Config, replace
from jaxcnn.environment import cache_dir
from jaxcnn.errors import Preempted

SAVED_EVERY = 5
TIMEOUT = 120

EXPERIMENT = """
from typing import Any

import jax.numpy as jnp
from flax import linen

import jaxcnn
from jaxcnn import nn


@jaxcnn.register_model("three_convolutions", input_shape=(32, 32, 3))
class ThreeConvolutions(linen.Module):
    num_classes: int
    width: int = 8
    norm: str = "global"
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x, train=False):
        for stage in range(3):
            x = nn.Conv(self.width << stage, 3, stride=2, padding=1, dtype=self.dtype, name=f"conv{stage}")(x)
            x = nn.relu(nn.BatchNorm(self.norm, dtype=self.dtype, name=f"bn{stage}")(x, train))
        return nn.Dense(self.num_classes, name="head")(nn.global_avg_pool2d(x))


config = jaxcnn.Config(
    steps=60,
    model=jaxcnn.ModelConfig("three_convolutions"),
    data=jaxcnn.DataConfig(
        "tfds:rig_images", data_dir="data", image_size=32, batch_size=32, eval_batch_size=32, resident_gb=0.0
    ),
    augment=jaxcnn.AugmentConfig(crop="resized", flip=True, brightness=0.2),
    optimizer=jaxcnn.OptimizerConfig(learning_rate=0.05),
    checkpoint=jaxcnn.CheckpointConfig(every=5, keep=3),
    log=jaxcnn.LogConfig(every=5, eval_every=20, plots=False),
)
"""


def images(count: int, seed: int) -> list[np.ndarray]:
    """Noise with a bright square, whose place is the class: ``[32, 32, 3]`` uint8 each; image k has the label k % 10."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 160, (count, 32, 32, 3), np.uint8)
    for index, image in enumerate(pixels):
        top, left = divmod(index % 10, 4)
        image[8 * top : 8 * top + 8, 8 * left : 8 * left + 8] += 80
    return list(pixels)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


@functools.cache  # TFDS registers a builder's name once
def _builder():
    import tensorflow_datasets as tfds

    from jaxcnn.data.digits import Digits

    class RigImages(Digits):
        __module__ = Digits.__module__  # TFDS wants a builder to be in a package
        name = "rig_images"
        damaged: Mapping[int, bytes] = {}

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=10)}
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _generate_examples(self, start, stop):
            count, bad = (512, self.damaged) if start == 0 else (64, {})
            for index, image in enumerate(images(count, start)):
                yield index, {"image": bad.get(index, png(image)), "label": index % 10}

    return RigImages


def make_dataset(data_dir: pathlib.Path, damaged: Mapping[int, bytes] | None = None) -> None:
    """Write ``rig_images`` as TFDS does: 512 training images, of which some are what ``damaged`` says, and 64 others."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    builder = _builder()(data_dir=data_dir, file_format="array_record")
    builder.damaged = damaged or {}
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


@functools.cache
def straight() -> pathlib.Path:
    """Create the experiment, its data and an undisturbed run named ``straight``, once for all workers. Return the folder."""
    folder = cache_dir() / "rig"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "seconds").exists():  # written last
            make_dataset(folder / "data")
            (folder / "rig.py").write_text(EXPERIMENT)
            begin = time.monotonic()
            complete(folder, "straight")
            (folder / "seconds").write_text(str(time.monotonic() - begin))
    return folder


def write(folder: pathlib.Path, more: str = "") -> pathlib.Path:
    """The experiment in a folder, with its data, and with lines of one's own at its end."""
    (folder / "rig.py").write_text(EXPERIMENT + more)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(straight() / "data")
    return folder


def load(folder: pathlib.Path) -> Config:
    """The experiment in a folder, for runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return replace(experiment.load("rig.py"), {"data.data_dir": str(folder / "data")})


def stop_after(updates: int, config: Config, workdir: pathlib.Path, **devices) -> None:
    """Run in this process until so many updates are done; none of them may be due for an evaluation."""
    polls = iter([False] * updates + [True] * 9)
    with pytest.raises(Preempted):
        loop.run(config, workdir, stop=polls.__next__, **(devices or {"num_devices": 1}))


start = functools.partial(start_training, NPROC="2")


def complete(folder: pathlib.Path, name: str, *flags: str, **variables: str) -> str:
    """The digest of a run that is not disturbed, or no more; what must be true of its directory is checked."""
    code, err = finish(start(folder, name, *flags, **variables))
    assert code == 0, err
    assert logged_steps(folder, name) == list(range(1, summary(folder, name)["steps"] + 1))
    assert not list((folder / name).rglob("*tmp*"))
    return summary(folder, name)["state_digest"]


def check_same(folder: pathlib.Path, name: str, *flags: str) -> None:
    """Started once more, the run ends with the bits, and the rows, of the undisturbed one."""
    assert complete(folder, name, *flags) == summary(straight(), "straight")["state_digest"]
    assert metrics(folder, name) == metrics(straight(), "straight")


def metrics(folder: pathlib.Path, name: str) -> bytes:
    return (folder / name / "metrics.jsonl").read_bytes()


def summary(folder: pathlib.Path, name: str) -> dict:
    return json.loads((folder / name / "summary.json").read_text())


def logged_steps(folder: pathlib.Path, name: str) -> list[int]:
    """Steps in ``metrics.jsonl``, without a line that was cut off."""
    try:
        text = (folder / name / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


def wait_until(true: Callable[[], object], *processes: subprocess.Popen, timeout: float = TIMEOUT) -> None:
    """Wait for a condition while the processes live."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < timeout
        assert all(process.poll() is None for process in processes), [process.communicate()[1] for process in processes]
        time.sleep(0.002)


def stopped_at(err: str) -> int:
    """The step that a stopped run says it has saved."""
    found = re.search(r"stopped at step (\d+)", err)
    assert found, err
    return int(found[1])


def end(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str, float]:
    """Send a signal: (exit code, standard error, seconds until the end)."""
    begin = time.monotonic()
    process.send_signal(number)
    return *finish(process), time.monotonic() - begin
