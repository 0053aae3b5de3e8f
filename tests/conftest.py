"""Two tiers, one suite, and how its tests are spread over the cores.

A test that a marker of ``SLOW`` explains runs with ``--full`` only. All others are the fast tier: each law, module, verb
and fault has a case there. Laws come first, then what runs in this process, then what starts processes.

The suite runs strict: warnings are errors, dtypes and ranks are never promoted silently, and there are 8 devices.
"""

import collections
import contextlib
import ctypes
import fcntl
import functools
import gc
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# Before jax is imported: a cache of the session's own, shared by all workers, and eight fake devices on the CPU.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _SESSION = tempfile.TemporaryDirectory(prefix="jaxcnn-test-")
    os.environ["JAXCNN_CACHE"] = _SESSION.name
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("NPROC", "2")
# After a word on malloc ``environment.prepare`` does not keep what is freed, which is for one training and not for hundreds.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

from jaxcnn import environment

environment.prepare()
PLAIN_FLAGS = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")).strip()
os.environ["XLA_FLAGS"] = f"{PLAIN_FLAGS} --xla_force_host_platform_device_count=8"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402

from jaxcnn.config import AugmentConfig, CheckpointConfig, Config, DataConfig, LogConfig, ModelConfig  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

MOST_MEMORY = 1.6e9  # of a worker, in bytes, before it forgets what it has compiled

# Why a test is slow. Those with one of these markers are left to ``--full``; with ``keep=N`` all but the first N cases are.
SLOW = {
    "processes": "starts several processes of jaxcnn, one after the other or at once",
    "compiles": "compiles large programs",
    "trains": "trains many steps, or many runs",
    "soak": "tries many cases of the same kind",
}


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all tests, also the slow ones")
    parser.addoption(
        "--protocol", metavar="FILE", help="write what the tests of the reliability protocol find, as JSON lines"
    )


def pytest_configure(config):
    for name, reason in SLOW.items():
        config.addinivalue_line("markers", f"{name}(keep=0): {reason}; all but the first cases run with --full only")
    config.addinivalue_line("markers", "ci: a slow test that .ci/run runs too, for what it guards matters most")
    config.addinivalue_line("markers", "alone: keeps several cores busy; no other test runs meanwhile")
    config.addinivalue_line("markers", "optimized: with --full compiled as for users, not as fast as can be")
    config.addinivalue_line("markers", "protocol(number): a part of that test of the reliability protocol")
    config.option.loadscopereorder = False  # xdist keeps our order
    examples = 40 if config.getoption("--full") else 8
    hypothesis.settings.register_profile("tier", max_examples=examples, deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("tier")
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(AtOnce(config))
    if config.getoption("--protocol"):
        config.pluginmanager.register(Protocol(pathlib.Path(config.getoption("--protocol"))))


def pytest_report_header(config):
    return "tier: all tests" if config.getoption("--full") else "tier: fast (--full runs the slow tests too)"


def slow_ones(items):
    """Those that are left to ``--full``."""
    cases, found = collections.Counter(), set()
    for item in items:
        marks = [mark for name in SLOW for mark in item.iter_markers(name)]
        cases[item.parent, item.originalname] += 1
        if any(cases[item.parent, item.originalname] > mark.kwargs.get("keep", 0) for mark in marks):
            found.add(item)
    return found


def pytest_collection_modifyitems(config, items):
    for item in items:
        item.user_properties += [("protocol", mark.args[0]) for mark in item.iter_markers("protocol")]
    if not config.getoption("--full"):
        slow = slow_ones(items)
        config.hook.pytest_deselected(items=[item for item in items if item in slow])
        items[:] = [item for item in items if item not in slow]
    last = {item.path for item in items if item.get_closest_marker("alone")}

    def turn(item):
        return (item.path.name != "test_laws.py", item.path.parent.name == "reliability", item.path in last)

    items.sort(key=turn)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Let a test that keeps several cores busy have the machine to itself, whatever the other workers are about."""
    how = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    folder = pathlib.Path(os.environ["JAXCNN_CACHE"])
    with (folder / "machine.lock").open("a") as machine:
        with (folder / "door.lock").open("a") as door:  # who waits for the machine lets nobody pass
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(machine, how)
        return (yield)


@functools.cache
def quick_compilation():
    """Options under which XLA compiles in a quarter of the time, and programs run slowly; versions know different ones.

    XLA reads its flags once, which has happened here: from now on they are those of the processes that tests start. These
    have one device, and compile quickly too.
    """
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    for name, value in {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(jnp.sin, compiler_options={**quick, name: value})(1.0)
            quick[name] = value
    flags = [PLAIN_FLAGS, *(f"--{name}={str(value).lower()}" for name, value in quick.items())]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    os.environ["PYTHONPATH"] = str(ROOT)
    return quick


_compile_options = compiler.get_compile_options


def _quick_options(*arguments, **named):
    options = _compile_options(*arguments, **named)
    options.env_option_overrides = [*quick_compilation().items(), *options.env_option_overrides]
    return options


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compilation is most of what a test takes: XLA optimizes only where a test is about that, and with --full."""
    quick_compilation()
    optimized = item.config.getoption("--full") and item.get_closest_marker("optimized")
    wanted = _compile_options if optimized else _quick_options
    if compiler.get_compile_options is not wanted:
        compiler.get_compile_options = wanted
        jax.clear_caches()


def pytest_runtest_teardown(item, nextitem):
    """Forget the programs of other files when they have become many: each takes memory as long as it may be called again."""
    statm = pathlib.Path("/proc/self/statm")
    if nextitem is None or nextitem.path == item.path or not statm.exists():
        return
    if int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # not of the GNU C library
            ctypes.CDLL(None).malloc_trim(0)


class AtOnce:
    """Names a failure when it happens; the details come at the end."""

    def __init__(self, config):
        self._config = config

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = str(crash.message if crash else report.longrepr).strip().partition("\n")[0]
            self._config.get_terminal_writer().line(f"\nFAILED {report.nodeid}: {reason[:200]}", red=True)


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
    """Schedule a file whose tests share a run, a dataset or programs on one worker, and other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def shares(file: str) -> bool:
        text = (ROOT / file).read_text()
        return 'scope="module"' in text or "functools.cache" in text or "mark.optimized" in text

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if shares(file) else nodeid

    return Scheduling(config, log)


def start_training(folder, name, *flags, stderr=subprocess.PIPE, **variables):
    """``train rig.py`` in ``folder``, as a process of its own."""
    command = [sys.executable, "-m", "jaxcnn", "train", "rig.py", f"--workdir={name}", *flags]
    environment = {**os.environ, **variables}
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


# 12 steps on synthetic images, saved every 4, with everything random switched on.
TINY = Config(
    steps=12,
    model=ModelConfig("mlp", overrides={"hidden": (16,), "dropout_rate": 0.2}),
    data=DataConfig("fake", batch_size=16, eval_batch_size=40),
    augment=AugmentConfig(shift=2, rotate=10),
    checkpoint=CheckpointConfig(every=4),
    log=LogConfig(every=3, eval_every=6, plots=False),
)


@pytest.fixture
def tiny() -> Config:
    """Return the config of a short run."""
    return TINY


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
