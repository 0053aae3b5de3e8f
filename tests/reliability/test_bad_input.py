"""T20: bad input ends with one line that names it, before anything is compiled or written; numbered as in the protocol."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
import types
from concurrent import futures

import protocol
import pytest

from jaxcnn import rundir

PR_CAPBSET_DROP = 24  # of prctl(2)
CAPABILITY_VERSION = 0x20080522  # of capset(2)
OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
DIGITS, MNIST, OTHER = "lenet_digits", "lenet_mnist", "--workdir=other"
# number, command line (after `train`), exit code, what the line must hold
CASES = [
    (1, f"{DIGITS} --batch_size=0", 2, "batch_size=0 must be .*>= 1"),
    (2, f"{DIGITS} --batch_size=-4", 2, "batch_size=-4 must be .*>= 1"),
    (3, f"{DIGITS} --batch_size=abc", 2, "batch_size=abc.*int"),
    (4, f"{DIGITS} --batch_size=30 --num_devices=8", 2, "batch_size=30 .*8 devices.*24 or 32"),
    (5, f"{DIGITS} --learning_rate=nan", 2, "learning_rate=nan must be"),
    (6, f"{DIGITS} --learning_rate=-1", 2, "learning_rate=-1.* must be .*>= 0"),
    (7, f"{DIGITS} --steps=0 --epochs=3", 2, "--steps=0 and --epochs=3.*one of the two"),
    (7, f"{DIGITS} --steps=0", 2, "steps=0 must be"),
    (8, f"{DIGITS} --epochs=0", 2, "epochs=0.* must be"),
    (9, f"{DIGITS} --dataset=cifarr10", 2, "'cifarr10'.*did you mean 'cifar10'"),
    (10, f"{MNIST} --data_dir=empty", 3, "not prepared in .*empty.*prepare mnist --data_dir"),
    (11, f"{MNIST} --data_dir=/nonexistent", 2, "data_dir='/nonexistent' does not exist"),
    (12, f"{MNIST} --data_dir=file", 2, "data_dir='.*/file' is a file"),
    (13, f"{MNIST} --data_dir=locked", 3, "locked"),
    (14, f"{DIGITS} --data.train_split=train[:0]", 2, r"'train\[:0\]'.*no example"),
    (15, f"{DIGITS} --data.eval_split=vall", 2, "vall.*train, test"),
    (16, f"{DIGITS} --data.train_split=train[:20] --batch_size=32 --num_devices=8", 2, "batch_size=32 must be <= 20"),
    (17, f"{DIGITS} --num_classes=5", 3, r"num_classes=5 must be >= 10.*record \d+ has the label [5-9]"),
    (18, f"{DIGITS} --model=resnet51", 2, "resnet51.*did you mean .*'resnet50'"),
    (19, f"{DIGITS} --image_size=1", 2, "layer conv1"),
    (20, f"{DIGITS} --workdir=locked/run", 2, "no permission to write in .*locked"),
    (20, f"{DIGITS} --workdir=on_full_disk", 2, "workdir=.*on_full_disk: 1,000 bytes are free, a checkpoint takes"),
    (21, "rig.py --workdir=run --model.width=4", 2, "another run .*model.width None -> 4"),
    (22, "rig.py --workdir=run --resume=never", 2, "checkpoints up to step 5.*resume=never"),
    (23, f"{DIGITS} --init_from=nothing_there", 4, "init_from=.*nothing_there.*no run directory"),
    (23, f"{DIGITS} --init_from=empty", 4, "init_from=.*empty.*no run directory"),
    (24, f"{DIGITS} --init_from=run", 4, r"does not fit lenet5: \d+ arrays differ: (params/\S+: there .*, .*; ){4}"),
    (25, f"{DIGITS} --init_from=weights.pt", 4, "weights.pt.*is a file.*import"),
    (25, f"{DIGITS} --init_from=page.html", 4, "page.html.*is a file"),
    (25, f"{DIGITS} --init_from=nothing", 4, "nothing.*is a file"),
    (26, f"{DIGITS} --num_devices=16", 2, r"num_devices=16 must be in \[1, 8\]"),
    (
        27,
        f"{DIGITS} --mesh=data:3 --num_devices=8",
        2,
        "mesh='data:3' .*3 devices, must be one of the 8 in use, e.g. data:8",
    ),
    (28, f"{DIGITS} --coordinator=foo", 2, "coordinator='foo' must be HOST:PORT"),
    (28, f"{DIGITS} --coordinator=foo:1 --num_processes=2 --process_id=2", 2, r"process_id=2 must be in \[0, 2\)"),
    (29, f"{DIGITS} --data.threads=-1", 2, "threads=-1 must be .*>= 1"),
    (29, f"{DIGITS} --data.threads=10000", 2, "threads=10000 must be .*<= 1024"),
    (30, f"{DIGITS} --leraning_rate=0.1", 2, "leraning_rate.*learning_rate"),
    (30, f"--config=unknown.json {OTHER}", 2, "unknown.json: unknown key 'model.widht'"),
    (30, f"--config=twice.json {OTHER}", 2, "twice.json: duplicate key 'seed'"),
    (30, f"--config=python.json {OTHER}", 2, "python.json.*not JSON"),
    (31, f"{DIGITS} --seed=-1", 2, "seed=-1 must be .*>= 0"),
    (31, f"{DIGITS} --seed=18446744073709551616", 2, "seed=18446744073709551616 must be .*<"),
    (32, f"{DIGITS} --keep=0", 2, "keep=0 must be .*>= 1"),
    (33, f"{DIGITS} --checkpoint_every=0", 2, "every=0 must be .*>= 1"),
    (34, f"{DIGITS} --model.dtype=fp7", 2, "dtype='fp7' must be one of float32, bfloat16"),
]


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """A run directory of the rig, stopped at step 5."""
    folder = protocol.write(tmp_path_factory.mktemp("input"))
    protocol.stop_after(5, protocol.load(folder), folder / "run")
    return folder / "run"


@pytest.fixture
def place(stopped_run, tmp_path):
    """What the commands name."""
    protocol.write(tmp_path)
    shutil.copytree(stopped_run, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked").mkdir(mode=0)
    files = {
        "file": "import os",
        "weights.pt": "PK\x03\x04archive/data.pkl",
        "page.html": "<!DOCTYPE html>",
        "nothing": "",
        "unknown.json": '{"epochs": 1, "model": {"name": "lenet5", "widht": 3}}',
        "twice.json": '{"epochs": 1, "seed": 1, "seed": 2}',
        "python.json": "__import__('os').system('touch owned')",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def inventory(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def check(code, err, wanted, words):
    assert code == wanted, err
    assert len(err.splitlines()) == 1, err
    assert re.search(words, err), err
    assert err.startswith("jaxcnn: ")


@pytest.mark.protocol("T20")
@pytest.mark.parametrize(("number", "arguments", "code", "words"), CASES, ids=[f"{n}: {a}" for n, a, *_ in CASES])
def test_bad_input(place, jaxcnn_, monkeypatch, number, arguments, code, words, record_property):
    if "full_disk" in arguments:
        monkeypatch.setattr(rundir.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    before, begin = inventory(place), time.monotonic()
    with futures.ThreadPoolExecutor(1, initializer=give_up_overrides) as thread:
        got, out, err = thread.submit(jaxcnn_, "train", *arguments.split()).result()
    seconds = time.monotonic() - begin
    check(got, err, code, words)
    assert out == ""
    assert seconds < 5
    assert inventory(place) == before
    record_property("seconds", round(seconds, 1))


def give_up_overrides():
    """Drop the capabilities that let root ignore file modes, in this thread and the threads that it starts."""
    if os.geteuid() != 0:
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    held = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable
    assert libc.capget(header, held) == 0
    kept = ~sum(1 << bit for bit in OVERRIDES)
    fewer = (ctypes.c_uint32 * 6)(*(word & kept for word in held[:3]), *held[3:])
    assert libc.capset(header, fewer) == 0, os.strerror(ctypes.get_errno())


def obey_modes():
    """Drop the same capabilities in a child process, before it runs its program."""
    if os.geteuid() == 0:
        for capability in OVERRIDES:
            assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


def real(place, arguments, **variables):
    """(exit code, standard error, seconds) of the command, as a process."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", **variables}
    command, begin = [sys.executable, "-m", "jaxcnn", "train", *arguments.split()], time.monotonic()
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=60, preexec_fn=obey_modes
    )
    assert done.stdout == ""
    return done.returncode, done.stderr, time.monotonic() - begin


@pytest.mark.protocol("T20")
def test_a_gpu_that_is_not_there(place, record_property):
    """Number 35: in a process of its own, for here JAX has its devices already."""
    code, err, seconds = real(place, DIGITS, JAX_PLATFORMS="cuda")
    check(code, err, 2, "JAX_PLATFORMS='cuda'.*no such device")
    assert not (place / "runs").exists()
    record_property("seconds", round(seconds, 1))


@pytest.mark.processes
@pytest.mark.protocol("T20")
def test_bad_input_as_processes(place, record_property):
    """The same as a user types it; start and imports count too."""
    slowest, before = 0.0, inventory(place)
    for _, arguments, wanted, words in CASES:
        if "full_disk" in arguments:
            continue
        code, err, seconds = real(place, arguments)
        check(code, err, wanted, words)
        slowest = max(slowest, seconds)
    assert inventory(place) == before
    assert slowest < 10
    record_property("n", 0)
    record_property("seconds as a process", round(slowest, 1))
