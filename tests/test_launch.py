"""launch.sh with a stand-in for Python: which set-up it does, when, and what it runs. The real thing is .ci/run's."""

import os
import platform
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FAKE = f"""#!/bin/bash
case "$*" in
  *"import sys, venv"*|"-c ") exec {sys.executable} "$@" ;;
  --version) echo "Python 3.99" ;;
  "-c import pip") [ -e "$(dirname "$0")/pip" ] ;;
  "-m ensurepip") touch "$(dirname "$0")/pip"; echo ensurepip >>"$LOG" ;;
  "-m venv"*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python"; echo venv >>"$LOG"
    [ -n "${{KILL:-}}" ] && kill -9 $PPID; touch "${{@: -1}}/bin/pip" ;;
  "-m pip"*) [ -n "${{FAIL:-}}" ] && {{ echo "no network"; exit 1; }}; echo "pip ${{@: -1}}" >>"$LOG" ;;
  *) echo "run $*" >>"$LOG" ;;
esac
"""


@pytest.fixture
def launch(tmp_path):
    (tmp_path / "repo").mkdir()
    shutil.copy(ROOT / "launch.sh", tmp_path / "repo")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "repo")
    (tmp_path / "python").write_text(FAKE)
    (tmp_path / "python").chmod(0o755)
    log = tmp_path / "log"

    def call(*arguments, script=tmp_path / "repo" / "launch.sh", **environment):
        log.write_text("")
        env = {"PATH": os.environ["PATH"], "LOG": str(log), "PYTHON": str(tmp_path / "python"), **environment}
        done = subprocess.run([script, *arguments], env=env, capture_output=True, text=True, timeout=60)
        return done, [line.replace(str(tmp_path / "repo"), ".") for line in log.read_text().splitlines()]

    return call


def test_the_first_start_sets_up_and_the_second_does_not(launch):
    done, log = launch()
    assert done.returncode == 0, done.stderr
    assert log == ["venv", "pip .", "run -m jaxcnn train lenet_digits"]
    assert len(done.stderr.splitlines()) <= 3
    assert launch("models", "lenet*")[1] == ["run -m jaxcnn models lenet*"]


def test_tests_add_their_extra_once(launch):
    launch()
    assert launch("test", "-k", "x")[1] == ["pip .[test]", "run -m pytest -k x"]
    assert launch("test")[1] == ["run -m pytest"]
    assert launch("models")[1] == ["run -m jaxcnn models"]
    assert launch("models", JAXCNN_EXTRAS="cuda13")[1] == ["pip .[cuda13,test]", "run -m jaxcnn models"]


def test_a_changed_project_file_is_installed_again(launch, tmp_path):
    launch("test")
    with (tmp_path / "repo" / "pyproject.toml").open("a") as file:
        file.write("\n")
    assert launch("models")[1] == ["pip .[test]", "run -m jaxcnn models"]


def test_a_failed_set_up_says_so_and_is_tried_again(launch):
    done, log = launch(FAIL="1")
    assert done.returncode == 1
    assert "no network" in done.stderr
    assert log == ["venv"]
    assert launch()[1] == ["pip .", "run -m jaxcnn train lenet_digits"]


def test_a_set_up_that_was_killed_is_begun_anew(launch):
    """In the middle of it there is a Python, and no pip or half of one."""
    done, log = launch(KILL="1")
    assert (done.returncode, log) == (-9, ["venv"])
    done, log = launch()
    assert done.returncode == 0, done.stderr
    assert log == ["venv", "pip .", "run -m jaxcnn train lenet_digits"]
    assert launch("models")[1] == ["run -m jaxcnn models"]


def test_an_environment_without_pip_is_given_one_and_kept(launch, tmp_path):
    folder = tmp_path / "repo" / ".venv" / "bin"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "python", folder)
    (folder / "mine").touch()
    done, log = launch()
    assert done.returncode == 0, done.stderr
    assert log == ["ensurepip", "pip .", "run -m jaxcnn train lenet_digits"]
    assert (folder / "mine").exists()


def test_it_may_be_started_by_a_link(launch, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "repo" / "launch.sh")
    done, log = launch("models", script=tmp_path / "link")
    assert done.returncode == 0, done.stderr
    assert log == ["venv", "pip .", "run -m jaxcnn models"]


def test_an_old_python_is_refused(launch, tmp_path):
    (tmp_path / "old").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "old").chmod(0o755)
    done, log = launch(PYTHON=str(tmp_path / "old"))
    assert done.returncode == 2
    assert "3.11" in done.stderr
    assert log == []


def test_the_environment_is_set_before_jax_and_the_users_word_counts():
    code = "import os; from jaxcnn.environment import prepare; prepare(); print(os.environ['NPROC'], os.environ.get('XLA_FLAGS'))"

    def ask(**changes):
        env = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")} | changes
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout.split(maxsplit=1)

    assert int(ask()[0]) >= 1
    assert ask(NPROC="1")[0] == "1"
    mine = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
    assert ask(XLA_FLAGS=mine)[1].strip() == mine
    assert ask(XLA_FLAGS="--xla_dump_to=/tmp/x")[1].startswith("--xla_dump_to=/tmp/x")


@pytest.mark.processes
def test_a_program_compiled_for_one_thread_is_not_loaded_for_two(tmp_path):
    """XLA divides a loop over the threads that there are when it compiles, and jax's key of a program does not tell."""
    code = (
        "from jaxcnn.environment import prepare; prepare()\n"
        "import jax, jax.numpy as jnp\n"
        "compiled = jax.jit(jnp.tanh).lower(jnp.ones((1024, 1024))).compile()\n"
        'print(\'partitions":["2"]\' in compiled.as_text())'
    )
    plain = {
        name: value for name, value in os.environ.items() if name not in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    }
    plain |= {"JAXCNN_CACHE": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    divided = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=plain | {"NPROC": threads},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        ).stdout.strip()
        for threads in ("1", "2", "1")
    ]
    assert divided == ["False", "True", "False"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library here is not GNU's")
@pytest.mark.processes
def test_what_a_step_frees_is_kept_for_the_next():
    """XLA's large arrays come from the C library, which would hand each of them out as pages that are touched anew."""
    code = (
        "from jaxcnn.environment import prepare; prepare()\n"
        "import resource, jax, jax.numpy as jnp\n"
        "from jaxcnn.mesh import make_mesh\n"
        "make_mesh(1)\n"
        "kept = jax.lax.optimization_barrier\n"
        "step = jax.jit(lambda x: kept(kept(x.T + 1).T * 2).sum())\n"
        "x = jnp.ones((4096, 4096))\n"
        "step(x).block_until_ready()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(30): step(x).block_until_ready()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", code], env=plain | more, capture_output=True, check=True).stdout)
        for more in ({}, {"MALLOC_TRIM_THRESHOLD_": "0"})
    )
    # 16,384 pages an array: in each of 30 steps, or up to a few times until the heap has found its size
    assert kept < 100_000 < 400_000 < given_back
