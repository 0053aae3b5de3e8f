"""T8: a disk that is full, or allows no larger file, costs the checkpoints of that time and nothing else."""

import os
import re
import subprocess
import sys

import protocol
import pytest
from conftest import finish, saved_steps
from protocol import check_same, logged_steps, metrics, start, straight, summary
from test_processes import pair

# From one update to another the disk takes nothing more; the saves between them fail.
FILLING = """
import os, pathlib, resource, time

from jaxcnn.writers import Journal

record = Journal.record


def record_and_fill(self, step, sums):
    record(self, step, sums)
    first, last = map(int, os.environ.get("FULL", "0 0").split())
    if step and step in (first, last):
        time.sleep(1)  # the save that is under way comes to its end before
    ballast, (_, hard) = pathlib.Path("disk/ballast"), resource.getrlimit(resource.RLIMIT_FSIZE)
    if step == first and ballast.parent.is_dir():
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass
    elif step == first:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    if step == last:
        ballast.unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


Journal.record = record_and_fill
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Create a folder with the experiment, for the runs of this file."""
    return protocol.write(tmp_path_factory.mktemp("disk"), FILLING)


def check_ended_like_the_undisturbed(folder, name):
    assert summary(folder, name)["state_digest"] == summary(straight(), "straight")["state_digest"]
    assert metrics(folder, name) == metrics(straight(), "straight")
    assert not list((folder / name).rglob("*tmp*"))


def check_warnings(err, steps):
    told = [line for line in err.splitlines() if "not written" in line]
    assert [int(re.search(r"checkpoint of step (\d+) not written", line)[1]) for line in told] == steps
    assert all("training goes on" in line for line in told), told
    assert "Traceback" not in err


@pytest.mark.protocol("T8")
def test_a_limit_on_the_size_of_files(folder):
    """Without rights of any kind: the system refuses files above it, also the file of metrics."""
    code, err = finish(start(folder, "limited", FULL="21 33"))
    assert code == 0, err
    check_warnings(err, [25, 30])
    check_ended_like_the_undisturbed(folder, "limited")


@pytest.mark.processes
@pytest.mark.protocol("T8")
def test_three_failed_saves_in_a_row_end_the_run_and_lose_nothing(folder):
    code, err = finish(start(folder, "ended", FULL="21 99"))
    assert code == 4, err
    check_warnings(err, [25, 30, 35])
    assert "3 checkpoints in a row could not be written" in err.splitlines()[-1]
    assert saved_steps(folder, "ended") == [10, 15, 20]
    assert not list((folder / "ended").rglob("*tmp*"))
    assert max(logged_steps(folder, "ended")) >= 20
    check_same(folder, "ended")


@pytest.mark.ci
@pytest.mark.processes
@pytest.mark.protocol("T8")
def test_a_disk_without_a_byte_left(folder):
    """A small file system in memory, where the user may make one."""
    (folder / "disk").mkdir(exist_ok=True)
    script = (
        f"mount -t tmpfs -o size=24m none disk || exit 99; {sys.executable} -m jaxcnn train rig.py --workdir=disk/run"
    )
    script += "; code=$?; rm -f disk/ballast; cp -r disk/run from_disk; exit $code"
    environment = {**os.environ, "NPROC": "2", "FULL": "21 33"}
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    try:
        done = subprocess.run(
            unshare, cwd=folder, env=environment, capture_output=True, text=True, timeout=protocol.TIMEOUT
        )
    except OSError as error:
        pytest.skip(f"no unshare here: {error}")
    finally:
        (folder / "disk").rmdir()
    if done.returncode in (1, 99) and re.search("(unshare|mount): ", done.stderr):
        pytest.skip(f"no file systems of one's own here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    check_warnings(done.stderr, [25, 30])
    check_ended_like_the_undisturbed(folder, "from_disk")
    assert saved_steps(folder, "from_disk") == [50, 55, 60]


SCARCE = """
import types

import jax

from jaxcnn import saver
from jaxcnn.writers import Journal

record, usage, full = Journal.record, saver.shutil.disk_usage, False


def record_and_fill(self, step, sums):
    global full
    record(self, step, sums)
    full = 21 <= step < 33


def disk_usage(path):
    return types.SimpleNamespace(free=1000) if full and jax.process_index() == 0 else usage(path)


Journal.record, saver.shutil.disk_usage = record_and_fill, disk_usage
"""


@pytest.mark.alone
@pytest.mark.processes
@pytest.mark.protocol("T8")
def test_of_two_processes_one_alone_finds_the_disk_full(tmp_path):
    """The other must not begin a save that waits for it."""
    protocol.write(tmp_path, SCARCE)
    (_, first), (_, second) = ends = [finish(process) for process in pair(tmp_path, "run")]
    assert [code for code, _ in ends] == [0, 0], ends
    check_warnings(first, [25, 30])
    assert "Traceback" not in second
    assert saved_steps(tmp_path, "run") == [50, 55, 60]
