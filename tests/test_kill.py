"""Real processes, really killed: the run that goes on ends where the undisturbed one does, bit for bit."""

import functools
import json
import random
import re
import signal
import subprocess
import time

import pytest
from conftest import start_training

EXPERIMENT = """
from jaxcnn import AugmentConfig, CheckpointConfig, Config, DataConfig, LogConfig, ModelConfig

config = Config(
    steps=600,
    model=ModelConfig("lenet5", overrides={"dropout_rate": 0.1}),
    data=DataConfig("fake", batch_size=32),
    augment=AugmentConfig(shift=2, rotate=10),
    checkpoint=CheckpointConfig(every=20),
    log=LogConfig(every=10, eval_every=40, plots=False),
)
"""
TIMEOUT = 120


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """An experiment file, its undisturbed summary, and how long it takes."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "rig.py").write_text(EXPERIMENT)
    finish(folder, "warm")  # compiles once, so that the next one is timed like those that follow
    begin = time.monotonic()
    summary = finish(folder, "straight")
    return folder, summary, time.monotonic() - begin


start = functools.partial(start_training, NPROC="2")


def finish(folder, name):
    process = start(folder, name)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    return json.loads((folder / name / "summary.json").read_text())


def saved_steps(folder, name):
    checkpoints = folder / name / "checkpoints"
    done = [p.parent.name for p in checkpoints.glob("*/commit_success.txt")] if checkpoints.is_dir() else []
    return sorted(map(int, done))


def logged_steps(folder, name):
    return [json.loads(line)["step"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def test_sigkill_at_random_moments(rig, full):
    folder, straight, duration = rig
    moments = random.Random(0)
    kills, wanted = 0, 20 if full else 5
    while kills < wanted:
        name = f"killed-{kills}"  # a run that ended before its next kill came is followed by a new one
        process = start(folder, name)
        try:
            process.communicate(timeout=moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            before = saved_steps(folder, name)
            process.kill()
            process.communicate()
            kills += 1
            after = saved_steps(folder, name)
            rows = logged_steps(folder, name) if (folder / name / "metrics.jsonl").exists() else []
            assert not before or max(rows) >= before[-1], "a checkpoint whose metrics were not written"
            assert not rows or not after or max(rows) - after[-1] <= 20 + 20, "more than an interval lost"
            while moments.random() < 0.5 and kills < wanted:  # and kill the resumed one too
                process = start(folder, name)
                try:
                    process.communicate(timeout=moments.uniform(0, duration))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    kills += 1
        assert finish(folder, name)["state_digest"] == straight["state_digest"]
        assert logged_steps(folder, name) == list(range(1, 601))
        assert not list((folder / name / "checkpoints").glob("*tmp*"))
        assert (folder / name / "metrics.jsonl").read_bytes() == (folder / "straight" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("number", "rows"), [(signal.SIGTERM, 0), (signal.SIGTERM, 100), (signal.SIGINT, 200), (signal.SIGTERM, 330)]
)
def test_sigterm_and_ctrl_c_save_and_end_with_75(rig, number, rows):
    """At a moment of the run's own clock: while it starts (it has taken its lock), or when so many rows are written."""
    folder, straight, _ = rig
    name = f"stopped-{number.name}-{rows}"
    process = start(folder, name)
    awaited = folder / name / ("metrics.jsonl" if rows else ".lock")
    while not awaited.exists() or awaited.read_text().count("\n") < rows:
        time.sleep(0.005)
    process.send_signal(number)
    if number == signal.SIGTERM:
        process.send_signal(number)  # a second one changes nothing
    begin = time.monotonic()
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, err
    assert time.monotonic() - begin < 30
    step = int(re.search(r"stopped at step (\d+)", err)[1])
    assert saved_steps(folder, name)[-1] == step
    assert logged_steps(folder, name) == list(range(1, step + 1))
    assert finish(folder, name)["state_digest"] == straight["state_digest"]
    assert (folder / name / "metrics.jsonl").read_bytes() == (folder / "straight" / "metrics.jsonl").read_bytes()


def test_ctrl_c_twice_ends_at_once(rig):
    folder, straight, _ = rig
    process = start(folder, "twice", "--log.every=1")
    for line in process.stderr:
        if line.startswith("step 40/"):
            break
    process.send_signal(signal.SIGSTOP)  # so that both come before the first is acted on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode in (75, 130)
    assert finish(folder, "twice")["state_digest"] == straight["state_digest"]


def test_a_run_does_not_end_with_whoever_reads_its_messages(rig):
    folder, straight, _ = rig
    process = start(folder, "unread", "--log.eval_every=10")
    assert process.stderr.readline()
    process.stderr.close()
    assert process.wait(TIMEOUT) == 0
    assert json.loads((folder / "unread" / "summary.json").read_text())["steps"] == straight["steps"]
