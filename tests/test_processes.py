"""Several processes of one run, for real: they join, agree, stop together, and end when one of them is lost."""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, finish, saved_steps, start_training

from jaxcnn import hosts
from jaxcnn.cli import supervise
from jaxcnn.errors import UsageError
from jaxcnn.hosts import Place, find_place

EXPERIMENT = """
from jaxcnn import AugmentConfig, CheckpointConfig, Config, DataConfig, LogConfig, ModelConfig, hosts

hosts._HEARTBEAT_SECONDS = 5

config = Config(
    steps=120,
    model=ModelConfig("mlp", overrides={"hidden": (32,), "dropout_rate": 0.1}),
    data=DataConfig("fake", batch_size=32),
    augment=AugmentConfig(shift=2, rotate=10),
    checkpoint=CheckpointConfig(every=10),
    log=LogConfig(every=5, eval_every=60, plots=False),
)
"""
TIMEOUT = 150
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A folder with the experiment, in which two processes have trained it undisturbed; and the digest that they found."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "rig.py").write_text(EXPERIMENT)
    process = start(folder, "straight", "--nproc=2")
    code, err = finish(process)
    assert code == 0, err
    return folder, digest(folder, "straight")


start = functools.partial(start_training, NPROC="1")


def pair(folder, name, *flags, port=None, second=(), **variables):
    """The two processes of a run, started by hand."""
    address = f"--coordinator=127.0.0.1:{port or free_port()}"
    return [
        start(folder, name, *flags, *more, address, "--num_processes=2", f"--process_id={number}", **variables)
        for number, more in enumerate([(), second])
    ]


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def listening(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def digest(folder, name):
    return json.loads((folder / name / "summary.json").read_text())["state_digest"]


def wait_for_step(folder, name, step, *processes):
    begin = time.monotonic()
    while not any(saved >= step for saved in saved_steps(folder, name)):
        assert time.monotonic() - begin < TIMEOUT
        assert all(process.poll() is None for process in processes), [process.communicate()[1] for process in processes]
        time.sleep(0.01)


def children(process):
    return [int(pid) for pid in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_only_the_first_process_writes_and_each_step_is_written_once(rig):
    folder, _ = rig
    steps = [json.loads(line)["step"] for line in (folder / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 121))
    assert {path.name for path in (folder / "straight").iterdir()} >= {"config.json", "summary.json", "checkpoints"}


@pytest.mark.protocol("T13")
@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.processes)])
def test_a_killed_process_ends_the_other_within_25_seconds(rig, victim, full, record_property):
    folder, straight = rig
    name = f"lost-{victim}"
    processes = pair(folder, name)
    wait_for_step(folder, name, 20, *processes)
    processes[victim].kill()
    begin = time.monotonic()
    code, err = finish(processes[1 - victim], timeout=60)
    seconds = time.monotonic() - begin
    processes[victim].communicate()
    assert seconds < 25, f"{seconds:.1f} s\n{err}"
    assert code in (6, -signal.SIGABRT), (code, err)
    record_property("seconds until the other ends", round(seconds, 1))
    if full:
        shutil.copytree(folder / name, folder / f"{name}-alone")
        for code, err in map(finish, pair(folder, name)):
            assert code == 0, err
        assert digest(folder, name) == straight
        code, err = finish(start(folder, f"{name}-alone"))  # one machine is left
        assert (code, "resumed at step" in err) == (0, True), err


@pytest.mark.ci
@pytest.mark.processes
@pytest.mark.protocol("T13")
def test_the_supervisor_starts_all_again_after_a_kill(rig):
    folder, straight = rig
    process = start(folder, "supervised", "--nproc=2", "--max_restarts=2")
    wait_for_step(folder, "supervised", 20, process)
    os.kill(children(process)[1], signal.SIGKILL)
    code, err = finish(process)
    assert code == 0, err
    assert all(words in err for words in ("peer lost", "restart 1 of 2", "resumed at step")), err
    assert digest(folder, "supervised") == straight


@pytest.mark.protocol("T4")
@pytest.mark.parametrize("target", [0, pytest.param(1, marks=pytest.mark.processes)])
def test_sigterm_on_one_process_saves_on_all_at_the_same_step(rig, target, record_property):
    folder, straight = rig
    name = f"stopped-{target}"
    processes = pair(folder, name)
    wait_for_step(folder, name, 20, *processes)
    processes[target].terminate()
    begin = time.monotonic()
    ends = [finish(process) for process in processes]
    seconds = time.monotonic() - begin
    assert seconds < 15
    record_property("seconds until both end", round(seconds, 1))
    assert [code for code, _ in ends] == [75, 75], ends
    steps = {re.search(r"stopped at step (\d+)", err)[1] for _, err in ends}
    assert steps == {str(saved_steps(folder, name)[-1])}
    for code, err in map(finish, pair(folder, name)):
        assert code == 0, err
    assert digest(folder, name) == straight


def test_a_stop_that_was_settled_on_is_seen_at_every_later_call(monkeypatch):
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "reached_preemption_sync_point", lambda call: call == 3)
    stop = hosts.together(lambda: False)
    assert [stop() for _ in range(5)] == [False, False, True, True, True]


@pytest.mark.processes
@pytest.mark.protocol("T4")
def test_sigterm_on_the_supervisor_stops_all_and_its_death_does_too(rig):
    folder, straight = rig
    process = start(folder, "asked", "--nproc=2")
    wait_for_step(folder, "asked", 20, process)
    told_at, begin = saved_steps(folder, "asked")[-1], time.monotonic()
    process.terminate()
    code, err = finish(process)
    assert code == 75, (code, f"{time.monotonic() - begin:.1f} s after SIGTERM at step {told_at}", err)
    assert err.count("stopped at step") == 1, err

    process = start(folder, "asked", "--nproc=2")
    wait_for_step(folder, "asked", saved_steps(folder, "asked")[-1] + 10, process)
    pids = children(process)
    process.kill()
    process.communicate()
    begin = time.monotonic()
    while any(pathlib.Path(f"/proc/{pid}/cmdline").exists() for pid in pids):
        assert time.monotonic() - begin < 90, "the processes of a dead supervisor go on"
        time.sleep(0.05)
    code, err = finish(start(folder, "asked", "--nproc=2"))
    assert code == 0, err
    assert digest(folder, "asked") == straight, err


@pytest.mark.processes
@pytest.mark.protocol("T4")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_waits_for_the_others_is_heard(rig, number):
    folder, port = rig[0], free_port()
    process = start(
        folder, "waiting", f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--process_id=0", "--join_timeout=60"
    )
    begin = time.monotonic()
    while not listening(port):
        assert time.monotonic() - begin < TIMEOUT
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    code, err = finish(process)
    assert code == 75, err
    assert "stopped while it waited for the others" in err
    assert not (folder / "waiting").exists()


@pytest.mark.protocol("T15")
def test_a_configuration_that_differs_is_found_before_anything_is_written(rig):
    folder, _ = rig
    for code, err in map(finish, pair(folder, "differs", second=["--optimizer.momentum=0.8"])):
        assert code == 2, err
        assert "optimizer.momentum 0.9 and 0.8" in err, err
        assert "Traceback" not in err
    assert not (folder / "differs").exists()


@pytest.mark.processes
@pytest.mark.protocol("T15")
def test_a_missing_peer_and_a_taken_port_are_told(rig, record_property):
    folder, _ = rig
    begin = time.monotonic()
    alone = start(
        folder,
        "alone",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        "--process_id=0",
        "--join_timeout=3",
    )
    late = start(
        folder,
        "alone",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        "--process_id=1",
        "--join_timeout=3",
    )
    for process in (alone, late):
        code, err = finish(process, timeout=60)
        assert code == 6, (code, err)
        assert ("have not come within 3 s" in err, err.count("\n")) == (True, 1), err
    seconds = time.monotonic() - begin
    assert seconds < 25
    record_property("seconds until a missing peer is told", round(seconds, 1))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        first = start(folder, "alone", f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--process_id=0")
        code, err = finish(first, timeout=60)
    assert code == 6, (code, err)
    assert (f"port {port} cannot be used" in err, err.count("\n")) == (True, 1), err
    assert not (folder / "alone").exists()


@pytest.mark.processes
def test_seeds_are_for_one_process(rig):
    folder, _ = rig
    code, err = finish(start(folder, "many", "--nproc=2", "--seeds=2"))
    assert code == 2, err
    assert err.count("--seeds=2 and --sweep=None are for one process") == 1, err


@pytest.mark.processes
def test_a_restart_after_an_error_of_the_user_is_not_tried(rig):
    folder, _ = rig
    code, err = finish(start(folder, "wrong", "--nproc=2", "--max_restarts=3", "--batch_size=33"))
    assert code == 2, err
    assert "restart" not in err, err
    assert err.count("data.batch_size=33 must be a multiple of the 2 devices, e.g. 32 or 34") == 1


@pytest.mark.processes
@pytest.mark.parametrize("launcher", ["open_mpi", "slurm"])
def test_a_launcher_says_where_a_process_stands(rig, launcher):
    """The variables that ``mpirun`` and ``srun`` set; JAX makes a port from 61440 on out of the number of the job."""
    folder, _ = rig
    job = next(number for number in range(os.getpid(), os.getpid() + 99) if is_free(number % 4096 + 61440))
    if launcher == "slurm":
        common = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        own = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    else:
        common = {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:40000", "OMPI_COMM_WORLD_SIZE": "2"}
        own = [{"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)} for i in range(2)]
    processes = [start(folder, launcher, "--steps=20", **common, **variables) for variables in own]
    for code, err in map(finish, processes):
        assert code == 0, err
    assert json.loads((folder / launcher / "summary.json").read_text())["devices"] == ["cpu", "cpu"]


NETWORKS = """
set -e
mount -t tmpfs none /run
mkdir -p /run/netns
ip netns add a
ip netns add b
ip link add v0 netns a type veth peer name v1 netns b
ip -n a addr add 10.77.0.1/24 dev v0
ip -n b addr add 10.77.0.2/24 dev v1
for part in "a v0" "b v1"; do set -- $part; ip -n $1 link set lo up; ip -n $1 link set $2 up; done
"""


@pytest.mark.processes
def test_two_hosts_with_networks_of_their_own(rig):
    """Two network namespaces, joined by a cable; the name of the host leads nowhere but to itself."""
    folder, _ = rig
    unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount", "bash", "-c"]
    try:
        subprocess.run([*unshare, NETWORKS], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    place = "--steps=20 --workdir=two --coordinator=10.77.0.1:12355 --num_processes=2"
    train = f"exec nsenter --net=/run/netns/$1 {sys.executable} -m jaxcnn train rig.py {place} --process_id=$2"
    script = (
        f"{NETWORKS}\ntrain() {{ {train}; }}\ntrain a 0 & first=$!\ntrain b 1 & second=$!\nwait $first\nwait $second"
    )
    environment = {**os.environ, "NPROC": "1"}
    done = subprocess.run(
        [*unshare, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "two" / "summary.json").read_text())["devices"] == ["cpu", "cpu"]


def test_the_manifest_says_what_a_process_looks_for():
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    job = yaml.safe_load((ROOT / "docs" / "jobset.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    variables = {item["name"]: item.get("value", "3") for item in container["env"]}
    place = find_place(environment=variables)
    assert place == Place("jaxcnn-workers-0-0.jaxcnn:12355", job["parallelism"], 3)
    assert container["name"] == job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]


def is_free(port):
    with socket.socket() as trial, contextlib.suppress(OSError):
        trial.bind(("127.0.0.1", port))
        return True
    return False


def test_places():
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_LOCALID": "1"}
    pod = {"JAX_COORDINATOR_ADDRESS": "job-0.job:1234", "JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "5"}
    assert find_place(environment={}) is None
    assert find_place(environment=slurm) == Place(None, 4, 3)
    assert find_place(environment=slurm | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    assert (
        find_place(environment={k: v for k, v in slurm.items() if "STEP" not in k}) is None
    )  # the batch script itself
    assert find_place(environment=pod) == Place("job-0.job:1234", 8, 5)
    assert find_place("host:1", 2, 0, environment=slurm) == Place("host:1", 2, 0)
    assert find_place(environment={"TPU_WORKER_HOSTNAMES": "a,b"}) == Place(None, None, None)
    for arguments, words in [
        (("foo", 2, 0), "coordinator='foo' must be HOST:PORT"),
        (("foo:x", 2, 0), "coordinator='foo:x' must be HOST:PORT"),
        (("foo:1", 0, 0), r"process_id=0 must be in \[0, 0\)"),
        (("foo:1", 2, 2), r"process_id=2 must be in \[0, 2\)"),
        (("foo:1", 2, None), "--process_id is missing"),
        ((None, 2, 0), "--coordinator is missing"),
    ]:
        with pytest.raises(UsageError, match=words):
            find_place(*arguments, environment={})


def test_what_exit_codes_mean_together():
    assert supervise.outcome([0, 0]) == 0
    assert supervise.outcome([75, 75]) == 75
    assert supervise.outcome([2, 6]) == 2
    assert supervise.outcome([-9, 6]) == 6
    assert supervise.outcome([0, -6]) == 6
    assert supervise.wanted(["x", "--nproc=1"]) is None
    assert supervise.wanted(["x", "--nproc=2", "--steps=3"]) == (2, 0, ["x", "--steps=3"])
    assert supervise.wanted(["x", "--max_restarts", "3"]) == (1, 3, ["x"])
    for words in (["--nproc=0"], ["--nproc=two"], ["--max_restarts=-1"]):
        with pytest.raises(UsageError, match="must be a whole number"):
            supervise.wanted(words)
    with pytest.raises(UsageError, match="does not go with --coordinator=a:1"):
        supervise.wanted(["--nproc=2", "--coordinator=a:1"])
