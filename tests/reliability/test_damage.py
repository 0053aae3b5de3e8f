"""T5 to T7, T18: what comes back from a damaged run directory is right, or refused by name; what is not ours stays."""

import pathlib
import re
import shutil
import tarfile

import numpy as np
import protocol
import pytest

from jaxcnn import checkpoint, loop, saver, tree
from jaxcnn.task import build


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """(folder with a run stopped at step 15, its task, digests of the steps 5, 10 and 15, digest of the undisturbed run)."""
    folder = protocol.write(tmp_path_factory.mktemp("damage"))
    config = protocol.load(folder)
    digest = loop.run(config, folder / "straight", num_devices=1)["state_digest"]
    protocol.stop_after(15, config, folder / "run")
    metas = {step: checkpoint.read_meta(folder / "run" / "checkpoints" / str(step)) for step in (5, 10, 15)}
    return folder, build(config, 1), {step: meta.digest for step, meta in metas.items()}, digest


@pytest.fixture
def run(rig, tmp_path, monkeypatch):
    """A copy of the stopped run, in a folder of its own that is the working directory."""
    protocol.write(tmp_path)
    shutil.copytree(rig[0] / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def train(jaxcnn_):
    """(exit code, lines on standard error) of the command that goes on with the run."""
    code, _, err = jaxcnn_("train", "rig.py", "--workdir=run", "--num_devices=1", "--data_dir=data")
    assert "Traceback" not in err
    return code, err.splitlines()


def damages(data: bytes, rng: np.random.Generator, flips: int):
    yield "deleted", None
    if data:
        yield "empty", b""
        yield "half", data[: len(data) // 2]
        yield "cut", data[:-1]
    for _ in range(flips if data else 0):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        yield "flipped", bytes(flipped)


@pytest.mark.protocol("T5")
def test_each_file_of_the_newest_step_damaged_in_each_way(rig, tmp_path, full, capfd, record_property):
    """The state is right to the last bit, or one line names the step and what of it is damaged, and the step before is used."""
    folder, task, digests, _ = rig
    good, rng, cases, found = folder / "run" / "checkpoints", np.random.default_rng(0), 0, 0
    files = sorted(path.relative_to(good) for path in (good / "15").rglob("*") if path.is_file())
    for number, file in enumerate(files):
        data = (good / file).read_bytes()
        ways = list(damages(data, rng, 30 if full else 1))
        for kind, bad in ways if full else ways[number % len(ways) :: 5]:
            directory = tmp_path / "checkpoints"
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(good, directory)
            (directory / file).unlink() if bad is None else (directory / file).write_bytes(bad)
            said = []
            checkpoint.clean(directory, warn=said.append)
            state, meta = checkpoint.restore(directory, task.abstract, warn=said.append)
            cases += 1
            assert tree.digest(state._asdict()) == meta.digest == digests[meta.step], f"{kind} {file}: silently wrong"
            assert meta.step == (10 if said else 15), (kind, file, said)
            if said:
                found += 1
                assert len(said) == 1
                assert re.search(
                    r"checkpoints(/15 is damaged: .*(state|meta)|: removed 15, never finished)", said[0]
                ), said
                assert "\n" not in said[0]
    shown = capfd.readouterr()
    assert (shown.out, "Traceback" in shown.err) == ("", False)
    assert cases >= (400 if full else 12)
    assert found > cases / 8
    record_property("n", cases)
    record_property("found and told", found)


@pytest.mark.protocol("T5")
def test_a_run_with_a_damaged_step_goes_on_from_the_one_before(rig, run, jaxcnn_):
    sizes = {path: path.stat().st_size for path in (run / "checkpoints" / "15" / "state").rglob("*") if path.is_file()}
    large = [path for path, size in sizes.items() if size > max(sizes.values()) / 2]  # one may be a copy, never read
    for arrays in large:
        data = bytearray(arrays.read_bytes())
        data[len(data) // 2] ^= 1
        arrays.write_bytes(data)
    code, lines = train(jaxcnn_)
    assert code == 0
    told = [line for line in lines if "damaged" in line]
    assert len(told) == 1
    assert re.search(r"checkpoints/15 is damaged: its arrays \(state\)", told[0])
    assert any("resumed at step 10" in line for line in lines)
    assert protocol.summary(run.parent, "run")["state_digest"] == rig[3]
    assert (run / "checkpoints" / "15.damaged").is_dir()


@pytest.mark.protocol("T6")
def test_when_all_steps_are_damaged_they_are_listed_and_kept(run, jaxcnn_):
    for step in (5, 10, 15):
        path = run / "checkpoints" / str(step) / "meta" / "metadata"
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 2
        path.write_bytes(data)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, lines = train(jaxcnn_)
    assert code == 4
    assert re.search(r"no usable checkpoint .*step 15: .*step 10: .*step 5: .*another --workdir", lines[-1])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.protocol("T7")
def test_what_is_not_ours_is_ignored_and_told_in_one_line(rig, run, jaxcnn_, monkeypatch):
    monkeypatch.setattr(saver.time, "sleep", lambda seconds: None)  # step 50 is tried three times
    outside, saved = run.parent / "outside", run / "checkpoints"
    outside.mkdir()
    (outside / "precious").write_text("keep me")
    (saved / "40").mkdir()
    (saved / "50").write_text("a file")
    (saved / "55").symlink_to(outside)
    (saved / "70").symlink_to(outside)
    (saved / "foo").mkdir()
    shutil.copytree(saved / "15", saved / "20.orbax-checkpoint-tmp")
    (saved / "15" / checkpoint.MARKER).unlink()
    code, lines = train(jaxcnn_)
    assert code == 0
    told = [line for line in lines if "ignored" in line or "removed" in line]
    assert len(told) == 1
    assert re.search(r"removed 15, 20\.orbax-checkpoint-tmp, never finished; ignored 40, 50, 55, 70, foo", told[0])
    assert any("resumed at step 10" in line for line in lines)
    assert protocol.summary(run.parent, "run")["state_digest"] == rig[3]
    assert checkpoint.steps(saved)[-1] == 60
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "keep me"
    assert (saved / "55").is_symlink()


@pytest.mark.protocol("T18")
@pytest.mark.parametrize(
    "release", sorted(pathlib.Path(__file__).parent.glob("release_*.tar.gz")), ids=lambda p: p.name
)
def test_a_checkpoint_of_each_release_is_read(rig, tmp_path, jaxcnn_, release):
    """A run of the rig as it was written then: verified, and read into the network of today."""
    with tarfile.open(release) as archive:
        archive.extractall(tmp_path, filter="data")
    protocol.write(tmp_path)
    code, out, err = jaxcnn_("verify", "run")
    assert code == 0, err
    assert re.search(r"11 +good", out)
    _, task, _, _ = rig
    state, meta = checkpoint.restore(tmp_path / "run" / "checkpoints", task.abstract)
    assert tree.digest(state._asdict()) == meta.digest
    assert meta.digest == (tmp_path / "run" / "digest.txt").read_text().strip()
