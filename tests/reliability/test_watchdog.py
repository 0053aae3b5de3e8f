"""T13 in part: what hangs ends with 6, shows where it stood, and goes on when started again."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, finish, saved_steps, start_training
from PIL import Image
from test_processes import EXPERIMENT, digest, pair, wait_for_step

pytestmark = pytest.mark.protocol("T13")
HANGING = (
    EXPERIMENT.replace("steps=120", "steps=80")
    + """
import os, pathlib, time
from jaxcnn.writers import Journal

record = Journal.record


def record_or_hang(self, step, sums):
    if step == 50 and os.environ.get("HANG") and not pathlib.Path("hung").exists():
        pathlib.Path("hung").touch()
        time.sleep(600)
    record(self, step, sums)


Journal.record = record_or_hang
"""
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A folder with an experiment that hangs once, and the digest of an undisturbed run."""
    folder = tmp_path_factory.mktemp("watchdog")
    (folder / "rig.py").write_text(HANGING)
    code, err = finish(start_training(folder, "one", NPROC="1"))
    assert code == 0, err
    return folder, digest(folder, "one")


@pytest.mark.ci
@pytest.mark.processes
def test_a_run_that_hangs_ends_with_6_and_shows_its_stacks(rig):
    folder, straight = rig
    (folder / "hung").unlink(missing_ok=True)
    code, err = finish(start_training(folder, "hangs", "--step_timeout=6", NPROC="1", HANG="1"))
    assert code == 6, err
    assert "nothing was completed for 6 s (step_timeout)" in err.splitlines()[-1]
    assert "record_or_hang" in err
    assert saved_steps(folder, "hangs")[-1] == 40
    code, err = finish(start_training(folder, "hangs", NPROC="1"))
    assert code == 0, err
    assert digest(folder, "hangs") == straight


@pytest.mark.processes
def test_a_run_that_hangs_while_it_reads_its_data_ends_with_6(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / name / "1.png")
    os.mkfifo(tmp_path / "images" / "dogs" / "2.png")
    (tmp_path / "rig.py").write_text(
        "from jaxcnn import Config, DataConfig, LogConfig, ModelConfig\n"
        "data = DataConfig('folder:images', train_split='train', eval_split='train', image_size=32, batch_size=2)\n"
        "config = Config(steps=2, model=ModelConfig('lenet5'), data=data, log=LogConfig(plots=False))\n"
    )
    code, err = finish(start_training(tmp_path, "run", "--step_timeout=6", NPROC="1"))
    assert code == 6, err
    assert "nothing was completed for 6 s (step_timeout)" in err.splitlines()[-1]
    assert "records.py" in err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.processes
def test_the_supervisor_starts_a_hanging_run_again(rig):
    folder, straight = rig
    (folder / "hung").unlink(missing_ok=True)
    code, err = finish(start_training(folder, "again", "--step_timeout=6", "--max_restarts=1", NPROC="1", HANG="1"))
    assert code == 0, err
    assert "restart 1 of 1" in err
    assert digest(folder, "again") == straight


@pytest.mark.alone
@pytest.mark.processes
@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_the_other_of_two_ends_within_25_seconds(rig, how, record_property):
    """One is alive for the system, and does nothing: its heart may beat on."""
    folder, _ = rig
    assert [code for code, _ in map(finish, pair(folder, f"straight-{how}"))] == [0, 0]
    (folder / "hung").unlink(missing_ok=True)
    name, flags = f"pair-{how}", ["--step_timeout=10"]
    processes = pair(folder, name, *flags, HANG="1" if how == "hanging" else "")
    wait_for_step(folder, name, 40, *processes)
    if how == "stopped":
        processes[1].send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    ends = [finish(process, 60) for process in (processes if how == "hanging" else processes[:1])]
    seconds = time.monotonic() - begin
    assert seconds < 25
    record_property("seconds until the other ends", round(seconds, 1))
    assert all(code in (6, -signal.SIGABRT) for code, _ in ends), ends
    processes[1].kill()
    processes[1].communicate()
    for code, err in map(finish, pair(folder, name)):
        assert code == 0, err
    assert digest(folder, name) == digest(folder, f"straight-{how}")


def test_what_is_read_slowly_is_not_taken_for_what_hangs():
    """Each example read is a sign of life, and of those alone there is none when none is read any more."""
    code = (
        "import signal, time; from jaxcnn import pulse; from jaxcnn.watchdog import Watchdog; watchdog = Watchdog(1.0)\n"
        "for _ in range(6): pulse.beat(); time.sleep(0.3)\n"
        "print('read', flush=True); signal.pause()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (6, "read\n"), done.stderr


@pytest.mark.processes
def test_a_process_that_was_stopped_itself_is_not_taken_for_one_that_hangs():
    """Ctrl-Z, or a laptop that sleeps."""
    code = (
        "import time; from jaxcnn.watchdog import Watchdog; ask = Watchdog(1.0).alive(lambda: False)\n"
        "print('watched', flush=True)\nfor _ in range(20): ask(); time.sleep(0.1)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "watched\n"
    child.send_signal(signal.SIGSTOP)
    for _ in range(5):
        time.sleep(0.5)
    child.send_signal(signal.SIGCONT)
    child.communicate(timeout=30)
    assert child.returncode == 0
