"""The suite runs strict: warnings are errors, dtypes and ranks are never promoted silently, and there are 8 devices."""

import contextlib
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# Before jax is imported: a cache of its own for the session, and eight fake devices on the CPU.
_CACHE = tempfile.TemporaryDirectory(prefix="jaxcnn-test-")
os.environ["JAXCNN_CACHE"] = _CACHE.name
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("NPROC", "2")

from jaxcnn import environment  # noqa: E402

environment.prepare()
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402

from jaxcnn.config import AugmentConfig, CheckpointConfig, Config, DataConfig, LogConfig, ModelConfig  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


_WHOLE = ("test_processes.py", "test_scale.py", "test_many.py")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also what takes long: more kills, more damage, all networks")
    parser.addoption(
        "--protocol", metavar="FILE", help="write what the tests of the reliability protocol find, as JSON lines"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "full: takes long, and runs with --full only; its short form runs always")
    config.addinivalue_line("markers", "optimised: compiled as for users, not as fast as can be")
    config.addinivalue_line("markers", "protocol(number): a part of that test of the reliability protocol")
    if config.getoption("--protocol") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Protocol(pathlib.Path(config.getoption("--protocol"))))


def pytest_collection_modifyitems(config, items):
    for item in items:
        item.user_properties += [("protocol", mark.args[0]) for mark in item.iter_markers("protocol")]
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="takes long: ./launch.sh test --full"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compilation is most of what a test takes: LLVM optimises only where a test is about the last bits, and with --full.

    Processes that a test starts do as it does.
    """
    quick = not item.config.getoption("--full") and item.get_closest_marker("optimised") is None
    if jax.config.values["jax_disable_most_optimizations"] != quick:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()


class Protocol:
    """Sums up what the tests of each number found: a JSON line with the cases, those that passed, and the worst figures.

    A test gives its figures by ``record_property``: ``n``, the cases that it tried, and others, whose largest counts.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self._found = path, {}

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        if "protocol" not in properties or not (report.when == "call" or report.skipped or report.failed):
            return
        fresh = {"n": 0, "passed": 0, "skipped": [], "worst": {}, "seconds": 0.0}
        row = self._found.setdefault(properties.pop("protocol"), fresh)
        row["seconds"] += report.duration
        if report.skipped:
            row["skipped"].append(f"{report.nodeid.rpartition('::')[2]}: {report.longrepr[2]}")
            return
        count = properties.pop("n", 1)
        row["n"] += count
        row["passed"] += count * report.passed
        for name, value in properties.items():
            row["worst"][name] = max(value, row["worst"].get(name, value))

    def pytest_sessionfinish(self):
        rows = sorted(self._found.items(), key=lambda item: int(item[0].lstrip("T")))
        self._path.write_text("".join(json.dumps({"name": name, **row}) + "\n" for name, row in rows))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files whose runs are shared, or need the cores, stay on one worker, and so do tests with one name after an @.

    All others go where there is time. (xdist 3.8 has marks for that; pytest 9.2 loses them on their way.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            whole = "reliability/" in file or file.endswith(_WHOLE)
            return file if whole else nodeid.rpartition("@")[2]

    return Scheduling(config, log)


def start_training(folder, name, *flags, stderr=subprocess.PIPE, **variables):
    """``train rig.py`` in ``folder``, as a process of its own with one device."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment["XLA_FLAGS"] = re.sub(r"--xla_force_host_platform_device_count=\d+", "", environment["XLA_FLAGS"])
    command = [sys.executable, "-m", "jaxcnn", "train", "rig.py", f"--workdir={name}", *flags]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=stderr, stdout=subprocess.DEVNULL, text=True)


def finish(process, timeout=150):
    """(exit code, standard error) of a process, which is killed when it takes too long."""
    try:
        _, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{err}") from None
    return process.returncode, err


def saved_steps(folder, name):
    """Steps of a run that are on disk, ascending."""
    return sorted(int(path.parent.name) for path in (folder / name / "checkpoints").glob("*/commit_success.txt"))


@functools.cache
def quick_compilation():
    """Options under which XLA compiles fast and the program runs slowly; which there are depends on its version."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    for name, value in [("xla_cpu_use_fusion_emitters", False)]:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(jnp.sin, compiler_options={**quick, name: value})(1.0)
            quick[name] = value
    return quick


@pytest.fixture(scope="session")
def full(request) -> bool:
    """Whether the long form of a test is wanted."""
    return request.config.getoption("--full")


@pytest.fixture
def jaxcnn_(capsys, tmp_path, monkeypatch):
    """Call the command line in this process, in an empty directory: returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    from jaxcnn.cli import main as cli
    from jaxcnn.preemption import Preemption

    monkeypatch.setattr(Preemption, "install", lambda self: self)  # pytest has its own Ctrl-C

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


@pytest.fixture
def shared_tfds() -> str:
    """A directory with prepared mnist and cifar10, where there is one."""
    path = SHARED / "tfds"
    if not path.is_dir():
        pytest.skip("no prepared datasets at ../shared/tfds")
    return str(path)


@pytest.fixture
def tiny() -> Config:
    """A run of 12 steps on synthetic images, saved every 4, with everything random switched on."""
    return Config(
        steps=12,
        model=ModelConfig("lenet5", overrides={"dropout_rate": 0.2}),
        data=DataConfig("fake", batch_size=16, eval_batch_size=40),
        augment=AugmentConfig(shift=2, rotate=10),
        checkpoint=CheckpointConfig(every=4),
        log=LogConfig(every=3, eval_every=6, plots=False),
    )


@pytest.fixture(scope="session")
def torch():
    """An optional peer of the tests."""
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="session")
def torchvision(torch):
    """An optional peer as well."""
    from jaxcnn.bench.input import import_torchvision

    try:
        return import_torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")


@pytest.fixture(scope="session")
def v2(torchvision):
    """torchvision's transforms."""
    return pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
