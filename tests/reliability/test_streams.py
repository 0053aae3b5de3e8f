"""Standard streams that are closed, full, or whose readers are gone: what is done stays done, and keeps its exit code."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from protocol import TIMEOUT, logged_steps, summary

TRAIN = [
    "train",
    "lenet_digits",
    "--dataset=fake",
    "--image_size=none",
    "--batch_size=8",
    "--log.plots=false",
    "--steps=6",
]


def jaxcnn(*arguments, redirect="", folder=ROOT, **variables):
    """Run the command line in a shell, which redirects its streams: (its exit code, the other end, standard error)."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= variables
    words = " ".join(map(str, (sys.executable, "-m", "jaxcnn", *arguments)))
    command = ["bash", "-c", f"{words} {redirect}\nexit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT)
    return done.returncode, done.stdout, done.stderr.decode()


def slow(*cases):
    return [pytest.param(case, marks=pytest.mark.processes) for case in cases]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a run was trained that others look at."""
    folder = tmp_path_factory.mktemp("streams")
    code, _, err = jaxcnn(*TRAIN, "--workdir=run", folder=folder)
    assert code == 0, err
    return folder


@pytest.mark.processes
def test_a_training_whose_reader_is_gone_is_done(folder):
    assert jaxcnn(*TRAIN, "--workdir=unread", redirect="2>&1 | true", folder=folder) == (0, b"", "")
    assert summary(folder, "unread")["state_digest"] == summary(folder, "run")["state_digest"]
    assert logged_steps(folder, "unread") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "arguments",
    [["models"], *slow(["help"], ["--version"], ["train", "--help"], ["verify", "run"], ["verify", "run", "--json"])],
    ids=" ".join,
)
def test_a_reader_that_has_read_enough_is_no_error(request, tmp_path, arguments):
    folder = request.getfixturevalue("folder") if "verify" in arguments else tmp_path
    assert jaxcnn(*arguments, redirect="| true", folder=folder) == (0, b"", "")


@pytest.mark.processes
def test_a_reader_that_is_gone_does_not_make_a_damaged_checkpoint_good(folder):
    damaged = folder / "damaged"
    subprocess.run(["cp", "-r", folder / "run", damaged], check=True)
    for file in (damaged / "checkpoints").glob("*/state/d/*"):
        file.write_bytes(b"")
    for flags in ([], ["--json"]):
        code, _, err = jaxcnn("verify", "damaged", *flags, redirect="| true", folder=folder)
        assert (code, len(err.splitlines())) == (4, 1), err


@pytest.mark.parametrize(
    "arguments", [["help"], *slow(["models"], ["train", "--help"], ["verify", "run", "--json"])], ids=" ".join
)
def test_a_result_that_the_disk_does_not_take_is_told(request, tmp_path, arguments):
    folder = request.getfixturevalue("folder") if "verify" in arguments else tmp_path
    code, _, err = jaxcnn(*arguments, redirect="> /dev/full", folder=folder)
    assert (code, err) == (2, "jaxcnn: standard output or a file: No space left on device\n")


@pytest.mark.processes
def test_a_training_whose_table_the_disk_does_not_take_is_done(folder):
    code, _, err = jaxcnn(*TRAIN, "--workdir=run", redirect="> /dev/full", folder=folder)
    assert code == 0, err


@pytest.mark.parametrize(
    "variables",
    slow({"PYTHONIOENCODING": "latin-1"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}),
    ids=["latin-1", "ascii"],
)
def test_a_table_is_shown_where_the_encoding_lacks_a_character(folder, variables):
    code, out, err = jaxcnn(*TRAIN, "--workdir=run", folder=folder, **variables)
    assert code == 0, err
    assert summary(folder, "run")["state_digest"][:16].encode() + b"?" in out


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", *slow(">&- 2>&-", ">&-")])
def test_closed_streams_lead_nowhere(tmp_path, closed):
    """Nothing else may get their numbers: a message would be written into that file."""
    (tmp_path / "mine.py").write_text(
        "import os\nfrom jaxcnn import Config\nfrom jaxcnn.writers import MetricsLog\n"
        "write = MetricsLog.write\n\n"
        "def noisy(self, rows):\n    write(self, rows)\n    os.write(1, b'noise')\n    os.write(2, b'noise')\n\n"
        "MetricsLog.write = noisy\nconfig = Config(steps=6)\n"
    )
    name = f"closed{closed.count('-')}"
    code, _, _ = jaxcnn("train", "mine.py", *TRAIN[2:], f"--workdir={name}", redirect=closed, folder=tmp_path)
    assert code == 0
    assert all(b"noise" not in path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())
