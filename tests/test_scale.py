"""One device, eight, and two processes with four each: the same examples, the same losses, the same bits on request."""

import functools
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import scale_runs
from conftest import ROOT

pytestmark = pytest.mark.xdist_group("scale")  # one worker: the runs are computed once

train = functools.cache(scale_runs.train)


@pytest.fixture(scope="module")
def two_by_four(tmp_path_factory):
    """What two processes with four devices each find; both are started at once, to run beside what is computed here.

    XLA uses as many threads as NPROC says and at least one a device: here eight.
    """
    folder = tmp_path_factory.mktemp("scale")
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    environment = {**os.environ, "NPROC": "8", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    environment["XLA_FLAGS"] = re.sub(r"(device_count)=\d+", r"\1=4", environment["XLA_FLAGS"])
    command = [sys.executable, "-m", "scale_runs", str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(i), "found.json"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]

    @functools.cache
    def found():
        said = [process.communicate(timeout=280)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
        return json.loads((folder / "found.json").read_text())

    yield found
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", scale_runs.RUNS)
def test_eight_devices_lose_what_one_loses(name, two_by_four):
    one, eight = train(name, False, 1), train(name, False, 8)
    assert one["examples"] == eight["examples"]
    np.testing.assert_allclose(one["losses"], eight["losses"], rtol=1e-5)
    assert abs(one["losses"][-1] / one["untrained"] - 1) > 1e-3, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize("name", scale_runs.RUNS)
def test_elastic_exact_gives_the_same_bits_on_1_2_4_and_8_devices(name, two_by_four):
    runs = [train(name, True, count) for count in ((1, 8) if name == "resnet18" else (1, 2, 4, 8))]
    assert all(run == runs[0] for run in runs[1:])
    assert runs[0]["examples"] == train(name, False, 8)["examples"][: len(runs[0]["examples"])]


@pytest.mark.parametrize("name", scale_runs.RUNS)
def test_two_processes_with_four_devices_do_what_one_with_eight_does(name, two_by_four):
    apart, here = two_by_four()[f"{name} False"], train(name, False, 8)
    assert apart["examples"] == here["examples"]
    np.testing.assert_allclose(apart["losses"], here["losses"], rtol=1e-6)
    assert two_by_four()[f"{name} True"] == train(name, True, 8)
