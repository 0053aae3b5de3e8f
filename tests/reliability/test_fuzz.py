"""Random input of every kind: the answer is right, or an error of ours; never another exception, never silently wrong."""

import io
import json
import os
import random
import shutil
import string
import subprocess
import sys

import numpy as np
import protocol
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn import checkpoint, experiment, loop, tree
from jaxcnn.cli.train import _flags, read_experiment
from jaxcnn.config import Config, from_json, leaves, replace, to_json
from jaxcnn.data import image
from jaxcnn.errors import JaxcnnError
from jaxcnn.rundir import RunDir, read_rows
from jaxcnn.task import build

pytestmark = pytest.mark.protocol("T21")
PATHS = [path for path in leaves(Config(epochs=1)) if path != "experiment"]
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64, 10**400, 1e308, 5e-324, "1e999", "0x10", "1_0", "١"]),
)
WORDS = st.one_of(
    NUMBERS.map(str),
    st.text(string.printable, max_size=12),
    st.sampled_from(
        ["none", "None", "true", "", ",", "1,2", "0.1,x", "[1]", "sgd", "cosine", "lenet5", "../..", "\x00"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
QUIET = dict(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def check_message(error: JaxcnnError, words: str = "") -> None:
    assert str(error)
    assert words in str(error)


def tried(request, function, quick: int, long: int) -> int:
    """Call a hypothesis test with the number of examples of the form that is wanted."""
    count = long if request.config.getoption("--full") else quick
    settings(max_examples=count, **QUIET)(function)()
    return count


def test_flags(request, record_property):
    """Up to four fields with any text: a configuration whose objects can be made, or one line."""

    @given(st.lists(st.tuples(st.sampled_from(PATHS), WORDS), min_size=1, max_size=4))
    def one(pairs):
        arguments = ["lenet_digits", *(f"--{path}={word}" for path, word in pairs)]
        try:
            _, config, _ = read_experiment(arguments, _flags)
            build(replace(config, {"data.dataset": "fake", "data.data_dir": None}), 1)
        except JaxcnnError as error:
            check_message(error)

    record_property("n", tried(request, one, 60, 400))


def test_configs(request, record_property):
    """The JSON of a configuration with values replaced, or its text cut and mixed up."""
    text = to_json(experiment.load("resnet20_cifar10"))

    def places(node, path=()):
        yield path
        for key in node if isinstance(node, dict) else ():
            yield from places(node[key], (*path, key))

    spots = [path for path in places(json.loads(text)) if path]

    @given(
        st.lists(st.tuples(st.sampled_from(spots), VALUES), min_size=1, max_size=3), st.randoms(use_true_random=False)
    )
    def one(changes, rng):
        values = json.loads(text)
        for path, value in changes:
            node = values
            for key in path[:-1]:
                node = node.get(key) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node[path[-1]] = value
        changed = json.dumps(values)
        cut = rng.randrange(len(text))
        for candidate in (changed, text[:cut], text[:cut] + text[cut + rng.randrange(9) :], changed[::-1]):
            try:
                config = from_json(candidate)
            except JaxcnnError as error:
                check_message(error)
            else:
                assert from_json(to_json(config)) == config

    record_property("n", tried(request, one, 100, 600))


def test_numbers_of_any_size_in_every_field():
    """Integers have no largest one, and a float cannot hold all of them."""
    text = to_json(experiment.load("resnet20_cifar10"))
    for path in PATHS:
        for number in (10**400, -(10**400), 2**1024 - 1):
            values = json.loads(text)
            node = values
            for key in path.split(".")[:-1]:
                node = node[key]
            node[path.split(".")[-1]] = number
            with pytest.raises(JaxcnnError, match=path.split(".")[-1]):
                from_json(json.dumps(values))


def corrupted(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, removed, repeated, zeroed or exchanged, or the end cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        a, b = sorted(rng.randrange(len(found) + 1) for _ in range(2))
        b = min(b, a + rng.choice([1, 4, 64, len(found)]))
        kind = rng.randrange(6)
        if kind == 0:
            found[a:b] = rng.randbytes(b - a)
        elif kind == 1:
            del found[a:b]
        elif kind == 2:
            found[a:a] = found[a:b]
        elif kind == 3:
            found[a:b] = bytes(b - a)
        elif kind == 4:
            del found[rng.randrange(len(found) + 1) :]
        elif found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def test_image_files(full, record_property):
    rng, cases = random.Random(0), 0
    pixels = protocol.images(1, 0)[0]
    files = []
    for kind, options in [("png", {}), ("jpeg", {}), ("jpeg", {"progressive": True}), ("gif", {}), ("bmp", {})]:
        file = io.BytesIO()
        Image.fromarray(pixels).resize((96, 64)).save(file, kind, **options)
        files.append(file.getvalue())
    out = np.empty((32, 32, 3), np.uint8)
    for number in range(1500 if full else 150):
        data = corrupted(files[number % len(files)], rng)
        for read in (
            lambda data=data: image.decode(data, 3, "x"),
            lambda data=data: image.decode_crop(data, lambda r, c: image.Box(0, 0, r, c), out, "x"),
        ):
            cases += 1
            try:
                found = read()
            except JaxcnnError as error:
                check_message(error)
            else:
                assert found is None or (found.dtype == np.uint8 and found.ndim == 3)
    record_property("n", cases)


READ_ALL = """
import pathlib, random, sys

sys.path.insert(0, {tests!r})
from test_fuzz import corrupted

from jaxcnn.data import source
from jaxcnn.errors import JaxcnnError

dataset = source.find("tfds:rig_images", "data")
good = source.open_split(dataset, "train", "data")
good = [good.read(index)[:2] for index in range(len(good))]
[file] = pathlib.Path("data").rglob("*train.array_record*")
data, rng, told, same = file.read_bytes(), random.Random(0), 0, 0
for case in range({cases}):
    file.write_bytes(corrupted(data, rng))
    print("case", case, flush=True)
    try:
        records = source.open_split(dataset, "train", "data")
    except JaxcnnError:
        told += 1
        continue
    for index in random.Random(case).sample(range(512), 24):
        try:
            record = records.read(index)
        except JaxcnnError as error:
            assert "record" in str(error), error
            told += 1
        else:
            assert record[:2] == good[index], ("silently wrong", case, index)
            same += 1
print("told", told, "same", same)
"""


@pytest.mark.soak
def test_record_files(tmp_path, full, record_property):
    """Each record is what it was, or an error; in a process of its own, for a library of C++ reads them."""
    protocol.make_dataset(tmp_path / "data")
    cases = 300 if full else 40
    program = READ_ALL.format(tests=str(ROOT / "tests" / "reliability"), cases=cases)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-3000:])
    told, same = (int(word) for word in done.stdout.split()[-3::2])
    assert told > cases / 4
    assert same > cases / 4
    record_property("n", cases)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(folder with a run that was stopped at step 10, its config, task, digests of the steps 5 and 10)."""
    folder = protocol.write(tmp_path_factory.mktemp("fuzz"))
    config = protocol.load(folder)
    protocol.stop_after(10, config, folder / "run")
    saved = folder / "run" / "checkpoints"
    return folder, config, build(config, 1), {step: checkpoint.read_meta(saved / str(step)).digest for step in (5, 10)}


def test_checkpoints(stopped, tmp_path, full, capfd, record_property):
    """Any file of any step, or several of them, or one in the place of another."""
    folder, _, task, digests = stopped
    good, rng, told = folder / "run" / "checkpoints", random.Random(0), 0
    files = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())
    cases = 400 if full else 25
    for case in range(cases):
        directory = tmp_path / "checkpoints"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(good, directory)
        for file in rng.sample(files, rng.choice([1, 1, 1, 2, 5])):
            other = rng.choice([file, file, rng.choice(files)])
            data = (good / other).read_bytes()
            (directory / file).write_bytes(data if other != file else corrupted(data, rng))
        said = []
        try:
            checkpoint.clean(directory, warn=said.append)
            found = checkpoint.restore(directory, task.abstract, warn=said.append)
        except JaxcnnError as error:
            told += 1
            check_message(error, "no usable checkpoint")
            continue
        assert found is not None, case
        told += bool(said)
        assert tree.digest(found[0]._asdict()) == digests[found[1].step], (case, "silently wrong")
    assert told > cases / 10
    assert "Traceback" not in capfd.readouterr().err
    record_property("n", cases)


def test_other_files_of_a_run(stopped, tmp_path, full, record_property):
    """config.json, dataset.json, metrics.jsonl and bad_records.json: read as they are, or an error of ours."""
    folder, config, _, _ = stopped
    rng, cases = random.Random(0), 400 if full else 80
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / "bad_records.json").write_text(json.dumps({"train": {"3": "broken"}}))
    names = ["config.json", "dataset.json", "metrics.jsonl", "bad_records.json"]
    good = {name: (run / name).read_bytes() for name in names}
    for case in range(cases):
        name = names[case % len(names)]
        (run / name).write_bytes(corrupted(good[name], rng))
        try:
            run_dir = RunDir(run)
            rows = read_rows(run / "metrics.jsonl")
            assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
            run_dir.scores()
            run_dir.read_dataset()
            loop.BadRecords(run_dir, {"train": {}, "test": {}})
            run_dir.check(config, "auto")
        except JaxcnnError as error:
            check_message(error)
        (run / name).write_bytes(good[name])
    record_property("n", cases)
