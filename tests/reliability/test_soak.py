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

pytestmark = [
    pytest.mark.protocol("T16"),
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc: not Linux"),
]


def test_a_long_run_does_not_grow(tmp_path, full, record_property):
    """3,000 updates (600 in the short form), a checkpoint every 50, evaluation every 200."""
    protocol.write(tmp_path)
    steps, settled = (3000, 500) if full else (600, 200)
    process = start(tmp_path, "run", f"--steps={steps}", "--checkpoint_every=50", "--eval_every=200", "--log.every=10")
    rows = []
    while process.poll() is None:
        time.sleep(0.05)
        logged, folder = (protocol.logged_steps(tmp_path, "run") or [0])[-1], pathlib.Path(f"/proc/{process.pid}")
        if logged < settled:
            continue
        if logged == steps:  # from here on it ends, and everything becomes less
            break
        try:
            status = (folder / "status").read_text()
            memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
            files = len(list((folder / "fd").iterdir()))
        except (OSError, TypeError):  # it has just ended
            break
        saved = len(saved_steps(tmp_path, "run"))
        rows.append((logged, memory * 1024, threads, files, saved))
    code, err = finish(process)
    assert code == 0, err
    step, memory, threads, files, saved = map(np.array, zip(*rows, strict=True))
    assert len(step) > 20
    slope = 1000 * np.polyfit(step, memory, 1)[0] / 1e6
    third = len(step) // 3
    for count in (threads, files):  # between saves, which have some of their own for a moment
        assert count[-third:].min() <= count[:third].min() + 1
    assert saved.max() <= 5  # the latest three and the best, and the one that is new before an old one goes
    assert len(saved_steps(tmp_path, "run")) <= 4
    if full:
        assert slope < 5
        record_property("MB more in 1,000 updates", round(float(slope), 2))
    record_property("threads", int(threads.max()))
    record_property("checkpoints on disk", len(saved_steps(tmp_path, "run")))
