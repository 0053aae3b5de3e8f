"""T16: a long run takes no more memory, threads, files or disk at its end than at its beginning."""

import os
import pathlib
import re
import time

import numpy as np
import protocol
import pytest
from conftest import finish, saved_steps
from protocol import start

from jaxcnn import loop
from jaxcnn.config import replace

pytestmark = [
    pytest.mark.protocol("T16"),
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc: not Linux"),
]


def counts(pid: int | str) -> tuple[int, int, int]:
    """Resident bytes, threads and open files of a process."""
    folder = pathlib.Path(f"/proc/{pid}")
    status = (folder / "status").read_text()
    memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
    return memory * 1024, threads, len(list((folder / "fd").iterdir()))


def check_level(threads, files, saved, spare=1):
    third = len(threads) // 3
    for count in (threads, files):  # between saves, which have some of their own for a moment
        assert count[-third:].min() <= count[:third].min() + spare
    assert saved.max() <= 5  # the latest three and the best, and the one that is new before an old one goes


def test_a_run_keeps_its_threads_files_and_checkpoints(tmp_path):
    """75 steps, a checkpoint every 5, looked at after each step."""
    protocol.write(tmp_path)
    config = replace(protocol.load(tmp_path), {"steps": 75})
    rows = []

    def look():
        rows.append((*counts("self"), len(saved_steps(tmp_path, "run"))))
        return False

    loop.run(config, tmp_path / "run", num_devices=1, stop=look)
    _, threads, files, saved = np.array(rows[len(rows) // 5 :]).T
    check_level(threads, files, saved, spare=4)  # pools of this process may grow; 15 checkpoints are written
    assert len(saved_steps(tmp_path, "run")) <= 4


@pytest.mark.soak
def test_a_long_run_does_not_grow(tmp_path, record_property):
    """3,000 steps, a checkpoint every 50, evaluation every 200."""
    protocol.write(tmp_path)
    steps, settled = 3000, 500
    process = start(tmp_path, "run", f"--steps={steps}", "--checkpoint_every=50", "--eval_every=200", "--log.every=10")
    rows = []
    while process.poll() is None:
        time.sleep(0.05)
        logged = (protocol.logged_steps(tmp_path, "run") or [0])[-1]
        if logged < settled:
            continue
        if logged == steps:  # from here on it ends, and everything becomes less
            break
        try:
            rows.append((logged, *counts(process.pid), len(saved_steps(tmp_path, "run"))))
        except (OSError, TypeError):  # it has just ended
            break
    code, err = finish(process)
    assert code == 0, err
    assert len(rows) > 20
    step, memory, threads, files, saved = np.array(rows).T
    slope = 1000 * np.polyfit(step, memory, 1)[0] / 1e6
    check_level(threads, files, saved)
    assert len(saved_steps(tmp_path, "run")) <= 4
    assert slope < 5
    record_property("MB more in 1,000 updates", round(float(slope), 2))
    record_property("threads", int(threads.max()))
    record_property("checkpoints on disk", len(saved_steps(tmp_path, "run")))
