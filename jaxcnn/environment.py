"""The process environment that jax must find before it is imported, and the versions a result depends on.

Only the standard library is imported here. What the user has set is respected.
"""

import contextlib
import ctypes
import errno
import gc
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

# Of malloc.h, for mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_FAST_CONVOLUTION = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# A program that runs a convolution and its gradients and compares the sums with numpy's, in float64. An XLA that does
# not know the flag aborts the process; one that computes wrong sums makes it exit 1.
_PROBE = """
import jax, jax.numpy as jnp, numpy as np
def f(x, w): return jnp.sum(jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2)
r = np.random.default_rng(0)
x, w = r.normal(size=(4, 9, 9, 16)), r.normal(size=(3, 3, 16, 16))
windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
y = np.einsum("bhwcij,ijco->bhwo", windows, w)
dw = 2 * np.einsum("bhwcij,bhwo->ijco", windows, y)
loss, grad = jax.jit(jax.value_and_grad(f, 1))(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
assert abs(loss - (y ** 2).sum()) < 1e-4 * (y ** 2).sum() and np.abs(grad - dw).max() < 1e-4 * np.abs(dw).max()
"""


def cache_dir() -> pathlib.Path:
    """The user's cache: ``$JAXCNN_CACHE``, or ``jaxcnn`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; mode 0700.

    Raises:
      OSError: it cannot be made, or there is no home.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(os.environ.get("JAXCNN_CACHE") or pathlib.Path(base) / "jaxcnn")
    if str(path).startswith("~"):
        raise FileNotFoundError(errno.ENOENT, "there is no home directory; set JAXCNN_CACHE", str(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def prepare(num_threads: int | None = None) -> None:
    """Set what jax reads at import: thread count, XLA flags, compilation cache; and how often Python looks for cycles.

    ``NPROC`` pins XLA's thread count, on which the bits of a sum depend: ``num_threads``; None: one a core. The flag takes
    small convolutions off a slow path of the CPU backend; it is experimental, so it is set only where a probe of the
    installed jaxlib succeeded.
    """
    _keep_memory()
    gc.set_threshold(100_000)  # tracing makes objects by the million, none in cycles: collecting took a third of it
    os.environ.setdefault("NPROC", str(num_threads or num_cores()))
    # 3: fatal only. XLA logs an error for each program that it loads from the cache because it does not find two of
    # its own tuning hints ("prefer-no-gather") among the machine's features; what really fails raises an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn_fusion_type" not in flags and _probe_succeeds():
        os.environ["XLA_FLAGS"] = f"{flags} {_FAST_CONVOLUTION}".strip()
    try:
        # jax's key of a program leaves out the thread count, for which it is divided when it is compiled.
        compiled = cache_dir() / "compiled" / f"{_machine()}-{os.environ['NPROC']}"
        compiled.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # no home to write to: compile each time
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _keep_memory() -> None:
    """Let the C library keep what is freed, for the next allocation.

    XLA allocates the intermediate arrays of a program in each call, on a CPU often gigabytes. As a mapping of its own, which
    is how the GNU C library gives large blocks away, they come as untouched pages: the kernel finds and clears each of them
    again, in every step. Of malloc's arenas only that of the main thread can hold large blocks; ``mesh.make_mesh`` sees to it
    that they are asked for there. What the user has said about malloc is respected.
    """
    said = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
    if platform.libc_ver()[0] != "glibc" or said:
        return
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
        mallopt(option, value)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of all that a result depends on, and the thread count."""
    packages = ("jaxcnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "NPROC": os.environ.get("NPROC", ""),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> str:
    """A name for this CPU and jaxlib: compiled code is not carried from one to another."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    except OSError:
        cpu = platform.processor()
    return hashlib.sha256((cpu + platform.machine() + _version("jaxlib")).encode()).hexdigest()[:12]


def _probe_succeeds() -> bool:
    """Whether the flag works here: asked once per machine and jaxlib, remembered in the cache."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        answer = json.loads((cache_dir() / f"probe-{_machine()}.json").read_text()).get(_FAST_CONVOLUTION)
        if isinstance(answer, bool):
            return answer
    environment = {**os.environ, "XLA_FLAGS": _FAST_CONVOLUTION, "JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=120)
        works = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):  # a busy machine: no answer to remember
        return False
    try:
        (cache_dir() / f"probe-{_machine()}.json").write_text(json.dumps({_FAST_CONVOLUTION: works}))
    except OSError:  # asked again next time
        return works
    return works
