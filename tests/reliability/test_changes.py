"""T17: a run does not go on as another one, nor with other data than it began with."""

import shutil

import numpy as np
import protocol
import pytest

from jaxcnn import loop, rundir
from jaxcnn.config import replace
from jaxcnn.data import npz, source
from jaxcnn.data.records import Arrays
from jaxcnn.errors import CheckpointError, Preempted, UsageError

pytestmark = pytest.mark.protocol("T17")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with the rig, and a run of it that was stopped at step 5."""
    folder = protocol.write(tmp_path_factory.mktemp("changes"))
    protocol.stop_after(5, protocol.load(folder), folder / "run")
    return folder


@pytest.mark.compiles(keep=3)
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--model.width=4", "model.width None -> 4"),
        ("--seed=1", "seed 0 -> 1"),
        ("--dataset=fake", "data.dataset 'tfds:rig_images' -> 'fake'"),
        ("--batch_size=64", "data.batch_size 32 -> 64"),
        ("--optimizer.ema_decay=0.9", "optimizer.ema_decay None -> 0.9"),
    ],
)
def test_another_run_is_refused_with_the_difference(stopped, jaxcnn_, monkeypatch, flag, words):
    monkeypatch.chdir(stopped)
    before = {path: path.read_bytes() for path in (stopped / "run").rglob("*") if path.is_file()}
    code, _, err = jaxcnn_("train", "rig.py", "--workdir=run", "--num_devices=1", flag)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert words in err
    assert {path: path.read_bytes() for path in (stopped / "run").rglob("*") if path.is_file()} == before


@pytest.mark.trains
def test_another_learning_rate_is_told_and_allowed(stopped, jaxcnn_, monkeypatch, tmp_path):
    monkeypatch.chdir(stopped)
    shutil.copytree(stopped / "run", tmp_path / "run")
    flags = (f"--workdir={tmp_path / 'run'}", "--num_devices=1", "--learning_rate=0.01")
    code, _, err = jaxcnn_("train", "rig.py", *flags)
    assert code == 0
    assert "changed since the last start: optimizer.learning_rate: 0.05 -> 0.01" in err


def test_a_start_that_ended_at_its_first_files_can_be_repeated(tiny, tmp_path, monkeypatch):
    """config.json comes first: with it the directory is the run's, whatever comes after it."""
    write = rundir.write_text

    def full(path, text):
        if path.name != "config.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "write_text", full)
        with pytest.raises(CheckpointError, match="No space"):
            loop.run(tiny, tmp_path, num_devices=1)
    assert loop.run(tiny, tmp_path, num_devices=1)["steps"] == tiny.steps
    assert (tmp_path / "dataset.json").exists()


@pytest.fixture
def begun(tiny, tmp_path):
    """(config, run directory, data file) of a run that was stopped at step 4 of 12."""
    rng, file = np.random.default_rng(0), tmp_path / "data.npz"
    images, labels = rng.integers(0, 255, (96, 32, 32), np.uint8), np.arange(96) % 10
    np.savez(file, x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])
    config = replace(tiny, {"data.dataset": f"npz:{file}"})
    polls = iter([False] * 4 + [True] * 9)
    with pytest.raises(Preempted):
        loop.run(config, tmp_path / "run", num_devices=1, stop=polls.__next__)
    return config, tmp_path / "run", file


@pytest.mark.parametrize("what", ["a pixel", "a label", "an example more"])
def test_a_resumed_run_refuses_other_data_and_touches_nothing(begun, what):
    config, workdir, file = begun
    arrays = dict(np.load(file))
    if what == "a pixel":
        arrays["x_train"][0, 5, 5] ^= 1
    elif what == "a label":
        arrays["y_train"][95] = 3
    else:
        arrays["x_train"] = np.concatenate([arrays["x_train"], arrays["x_train"][:1]])
        arrays["y_train"] = np.append(arrays["y_train"], 0)
    np.savez(file, **arrays)
    npz._arrays.cache_clear()  # as in a new process
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"other data \(train '96 examples, CRC-32 of 64: \w{8}' -> '9[67] examples"):
        loop.run(config, workdir, num_devices=1)
    assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.mark.trains
def test_the_same_data_elsewhere_are_the_same(begun, tmp_path):
    config, workdir, file = begun
    digest = loop.run(config, tmp_path / "straight", num_devices=1)["state_digest"]
    shutil.copy(file, tmp_path / "kept")
    file.unlink()
    shutil.copy(tmp_path / "kept", file)  # new inode, new time
    npz._arrays.cache_clear()
    assert loop.run(config, workdir, num_devices=1)["state_digest"] == digest


def test_a_fingerprint_reads_a_few_examples_however_many_there_are():
    images = np.broadcast_to(np.uint8(7), (1_000_000, 2, 2, 1))
    records, reads = Arrays(images, np.zeros(1_000_000, np.int32), "x"), []
    read = records.read
    records.read = lambda index: (reads.append(index), read(index))[1]
    assert source.fingerprint(records).startswith("1,000,000 examples, CRC-32 of 64: ")
    assert len(reads) == 64
    assert {0, 999_999} <= set(reads)
