"""T1 to T3: real processes, killed or asked to stop; the run that goes on ends where the undisturbed one does, bit for bit."""

import contextlib
import os
import pathlib
import pty
import random
import signal
import subprocess
import sys
import threading
import time

import protocol
import pytest
from conftest import ROOT, finish, saved_steps
from protocol import SAVED_EVERY, check_same, end, logged_steps, start, stopped_at, wait_until

SLOW = """
import hashlib, os, pathlib, time

from jaxcnn.data.stream import Stream
from jaxcnn.writers import Journal
from orbax.checkpoint._src.path import atomicity

finalize, eval_batches = atomicity.CommitFileTemporaryPath.finalize, Stream.eval_batches
record = Journal.record


async def finalize_slowly(self):
    if self._final_path.name == os.environ.get("SLOW_SAVE"):
        pathlib.Path(os.environ["MARK"]).touch()
        time.sleep(2)
    await finalize(self)


def evaluate_slowly(self, batch_size):
    for number, batch in enumerate(eval_batches(self, batch_size)):
        if number and os.environ.get("SLOW_EVAL"):
            pathlib.Path(os.environ["MARK"]).touch()
            time.sleep(1)
        yield batch


def record_slowly(self, step, sums):
    if os.environ.get("SLOW_STEP") == str(step):
        pathlib.Path(os.environ["MARK"]).touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes outside Python
    record(self, step, sums)


atomicity.CommitFileTemporaryPath.finalize, Stream.eval_batches = finalize_slowly, evaluate_slowly
Journal.record = record_slowly
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Create a folder with the experiment, for the runs of this file."""
    return protocol.write(tmp_path_factory.mktemp("stops"), SLOW)


def kill(process, folder, name):
    """End it by SIGKILL; the steps that were lost."""
    process.kill()
    process.communicate()
    rows, saved = max(logged_steps(folder, name), default=0), max(saved_steps(folder, name), default=0)
    assert rows >= saved, "a checkpoint whose rows were not written"
    return rows - saved


@pytest.mark.protocol("T1")
@pytest.mark.protocol("T2")
def test_sigkill_in_training(folder):
    """And other readers than before."""
    process = start(folder, "killed")
    wait_until(lambda: len(logged_steps(folder, "killed")) >= 23, process)
    assert kill(process, folder, "killed") <= SAVED_EVERY
    check_same(folder, "killed", "--data.threads=4", "--data.ahead=5")


@pytest.mark.processes
@pytest.mark.protocol("T1")
def test_sigkill_at_random_moments(folder, record_property):
    duration = float((protocol.straight() / "seconds").read_text())
    moments, lost, run = random.Random(0), [], 0
    while len(lost) < 15:
        run += 1
        while len(lost) < 15:
            process = start(folder, f"killed-{run}")
            try:
                process.communicate(timeout=moments.uniform(0, duration))
                break  # it ended before its kill came
            except subprocess.TimeoutExpired:
                lost.append(kill(process, folder, f"killed-{run}"))
        check_same(folder, f"killed-{run}")
    assert max(lost) <= SAVED_EVERY
    record_property("n", len(lost))
    record_property("steps lost", max(lost))


@pytest.mark.processes
@pytest.mark.protocol("T1")
@pytest.mark.parametrize("step", [pytest.param(15, marks=pytest.mark.ci), 5, 60, 30, 45])
def test_sigkill_inside_a_save(folder, step, record_property):
    name, mark = f"killed-saving-{step}", folder / f"saving-{step}"
    process = start(folder, name, SLOW_SAVE=str(step), MARK=str(mark))
    wait_until(mark.exists, process)
    time.sleep(random.Random(step).uniform(0, 1.5))
    lost = kill(process, folder, name)
    assert (folder / name / "checkpoints" / str(step)).is_dir()
    assert step not in saved_steps(folder, name), "the kill came too late"
    check_same(folder, name)
    assert lost <= SAVED_EVERY
    record_property("steps lost", lost)


@pytest.mark.processes
@pytest.mark.protocol("T2")
@pytest.mark.parametrize(
    "flags",
    [
        ["--data.threads=4", "--data.ahead=5"],
        ["--data.threads=1"],
        [],
    ],
    ids=" ".join,
)
def test_a_run_repeated_and_with_other_readers_is_the_same(folder, flags):
    check_same(folder, f"repeated{''.join(flags)}", *flags)


def stop_and_resume(folder, name, awaited, number=signal.SIGTERM, **variables):
    """Stop a run when it has come somewhere: the seconds until its end. It must have saved where it stood."""
    mark = folder / f"mark-{name}"
    process = start(folder, name, MARK=str(mark), **variables)
    wait_until(lambda: awaited(name, mark), process)
    if number == signal.SIGTERM:
        process.send_signal(number)  # a second one changes nothing
    code, err, seconds = end(process, number)
    assert code == 75, err
    step = stopped_at(err)
    assert saved_steps(folder, name)[-1] == step
    assert logged_steps(folder, name) == list(range(1, step + 1))
    check_same(folder, name)
    return seconds


SLOW_PLACES = [pytest.param(where, marks=pytest.mark.processes) for where in ("starting", "evaluating", "saving")]


@pytest.mark.protocol("T3")
@pytest.mark.parametrize("where", ["training", *SLOW_PLACES])
def test_sigterm_saves_and_ends_with_75(folder, where, full, record_property):
    seconds = []

    def rows(count):
        return lambda name, mark: len(logged_steps(folder, name)) >= count

    def made(file):
        return lambda name, mark: (folder / name / file).exists()

    def marked(name, mark):
        return mark.exists()

    cases = {
        "starting": [(made(".lock"), {}), (made("config.json"), {})],
        "training": [(rows(count), {}) for count in (25, 1, 10, 45)],
        "evaluating": [(marked, {"SLOW_EVAL": "1"})] * 2,
        "saving": [(marked, {"SLOW_SAVE": step}) for step in ("20", "50")],
    }[where]
    for number, (awaited, variables) in enumerate(cases[: None if full else 1]):
        seconds.append(stop_and_resume(folder, f"{where}-{number}", awaited, **variables))
    assert max(seconds) < (40 if where == "starting" else 10)
    record_property("n", len(seconds))
    record_property(
        f"seconds to end, {'while it starts and compiles' if where == 'starting' else 'later'}", max(seconds)
    )


@pytest.mark.processes
@pytest.mark.protocol("T3")
def test_ctrl_c_saves_and_ends_with_75(folder):
    assert (
        stop_and_resume(folder, "ctrl-c", lambda name, mark: len(logged_steps(folder, name)) >= 10, signal.SIGINT) < 10
    )


@pytest.mark.processes
@pytest.mark.protocol("T3")
def test_ctrl_c_twice_ends_at_once(folder):
    process = start(folder, "twice")
    wait_until(lambda: len(logged_steps(folder, "twice")) >= 10, process)
    process.send_signal(signal.SIGSTOP)  # so that both come before the first is acted on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.02)
    code, _, seconds = end(process, signal.SIGINT)
    assert code in (75, 130)
    assert seconds < 5
    check_same(folder, "twice")


def wait_for_words(process, words):
    """Wait until it says so on standard error."""
    timer = threading.Timer(60, process.kill)
    timer.start()
    assert any(words in line for line in process.stderr)
    timer.cancel()


@pytest.mark.processes
@pytest.mark.protocol("T3")
def test_ctrl_c_twice_ends_at_once_in_the_middle_of_a_step(folder):
    mark = folder / "mark-in-a-step"
    process = start(folder, "in-a-step", SLOW_STEP="12", MARK=str(mark))
    wait_until(mark.exists, process)
    process.send_signal(signal.SIGINT)
    wait_for_words(process, "SIGINT: saving, then stopping (again: end now)")
    code, err, _ = end(process, signal.SIGINT)
    assert code == 130, err
    check_same(folder, "in-a-step")


@pytest.mark.processes
@pytest.mark.protocol("T3")
def test_a_closed_terminal_saves_and_ends_with_75(folder):
    """All that is written to it then fails, and nothing waits in a buffer."""
    ours, theirs = pty.openpty()
    process = start(folder, "closed", stderr=theirs, TERM="xterm", PYTHONUNBUFFERED="1")
    os.close(theirs)
    os.set_blocking(ours, False)

    def shown():
        with contextlib.suppress(BlockingIOError):  # what nobody reads would stop it
            os.read(ours, 1 << 16)
        return len(logged_steps(folder, "closed")) >= 10

    wait_until(shown, process)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(protocol.TIMEOUT) == 75
    check_same(folder, "closed")


@pytest.mark.processes
@pytest.mark.protocol("T3")
def test_ctrl_c_twice_ends_what_a_supervisor_watches(folder):
    mark = folder / "mark-supervised"
    process = start(folder, "supervised", "--max_restarts=1", SLOW_STEP="12", MARK=str(mark))
    wait_until(mark.exists, process)
    (child,) = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    wait_for_words(process, "SIGTERM: saving, then stopping")
    code, err, _ = end(process, signal.SIGINT)
    assert code == 130, err
    wait_until(lambda: not pathlib.Path(f"/proc/{child}/cmdline").exists())
    check_same(folder, "supervised")


@pytest.mark.processes
@pytest.mark.protocol("T3")
def test_a_closed_terminal_does_not_end_the_supervisor_before_the_run_is_saved(folder):
    process = start(folder, "closed-supervised", "--max_restarts=1")
    wait_until(lambda: len(logged_steps(folder, "closed-supervised")) >= 10, process)
    code, err, _ = end(process, signal.SIGHUP)
    assert code == 75, err
    assert saved_steps(folder, "closed-supervised")[-1] == stopped_at(err)
    check_same(folder, "closed-supervised")


@pytest.mark.processes
def test_a_run_does_not_end_with_whoever_reads_its_messages(folder):
    process = start(folder, "unread")
    assert process.stderr.readline()
    process.stderr.close()
    assert process.wait(protocol.TIMEOUT) == 0
    check_same(folder, "unread")


@pytest.mark.processes
def test_a_run_goes_on_when_the_disk_of_its_log_is_full(folder):
    with open("/dev/full", "w") as nowhere:
        process = start(folder, "unlogged", stderr=nowhere)
        assert process.wait(protocol.TIMEOUT) == 0
    check_same(folder, "unlogged")


def test_what_standard_error_does_not_take_leaves_the_exit_code_alone():
    """Python itself would end with 120 for a text that waits for its line to end."""
    program = "import sys; from jaxcnn.cli import main; sys.stderr.write('no end of line'); main.main(['help'])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as nowhere:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env=environment, stderr=nowhere, stdout=subprocess.DEVNULL)
    assert done.returncode == 0


@pytest.mark.processes
def test_a_stop_does_not_wait_for_a_compilation(tmp_path):
    program = """
import os, signal, time

import jaxcnn.loop
from jaxcnn.ahead import compiled_ahead
from jaxcnn.cli import main
from jaxcnn.task import Task

load = Task.load


class Slow:
    def lower(self, *arguments):
        return self

    def compile(self):
        time.sleep(120)


def load_and_stop(*arguments, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return load(*arguments, **named)


Task.load, jaxcnn.loop.compiled_ahead = load_and_stop, lambda step, *shapes: compiled_ahead(Slow(), *shapes)
main.main()
"""
    command = [sys.executable, "-c", program, "train", "lenet_digits", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True)
    returncode, err = finish(process, timeout=90)
    assert returncode == 75, err
    assert saved_steps(tmp_path, "run") == [0]
