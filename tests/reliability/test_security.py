"""T19: what listens, and to whom."""

import pathlib
import re

import pytest
from conftest import finish, start_training
from test_processes import EXPERIMENT, pair, wait_for_step

pytestmark = [
    pytest.mark.protocol("T19"),
    pytest.mark.skipif(not pathlib.Path("/proc/self/net/tcp").exists(), reason="no /proc: not Linux"),
]


def listening(pid):
    """Addresses at which a process waits for connections, as the kernel writes them."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(fd.readlink())))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


@pytest.mark.alone
@pytest.mark.processes
def test_one_process_opens_no_port_and_two_on_one_machine_the_loopback_only(tmp_path):
    (tmp_path / "rig.py").write_text(EXPERIMENT)
    alone = start_training(tmp_path, "alone", NPROC="1")
    wait_for_step(tmp_path, "alone", 20, alone)
    assert listening(alone.pid) == set()
    alone.kill()
    alone.communicate()
    processes = pair(tmp_path, "two")
    wait_for_step(tmp_path, "two", 20, *processes)
    found = listening(processes[0].pid) | listening(processes[1].pid)
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert found, "the coordinator was not seen: the check is blind"
    assert found <= loopback, found
    assert [code for code, _ in map(finish, processes)] == [0, 0]
