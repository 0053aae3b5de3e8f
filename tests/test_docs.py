"""What the README says is tried."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from jaxcnn.cli.main import VERBS

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.split("#")[0].split() for language, text in BLOCKS if language == "bash" for line in text.splitlines() if line
]


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_every_command_names_a_verb():
    verbs = {command[1] for command in COMMANDS if len(command) > 1}
    assert {"test", "train", "eval", "predict", "models", "summary", "help"} <= verbs
    assert verbs <= {*VERBS, "test"}


def test_the_file_of_ones_own_trains_and_evaluates_as_told(tmp_path):
    (tmp_path / "mine.py").write_text(PYTHON[0])
    commands = [command[1:] for command in COMMANDS if any("mine" in word for word in command)]
    assert [command[0] for command in commands] == ["train", "eval"]
    for command in commands:
        done = run(tmp_path, "-m", "jaxcnn", *command)
        assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"accuracy +│ +([\d.]+)%", done.stdout)[1])
    assert accuracy > 80, done.stdout


def test_the_python_example_runs(tmp_path):
    done = run(tmp_path, "-c", PYTHON[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['lenet5', 'lenet5_1998'] (1, 3, 3, 2) 3\n"


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"


def test_numbers_are_those_of_the_results():
    done = run(ROOT, "benchmarks/tables.py", "--check")
    assert done.returncode == 0, done.stdout


def test_the_lecture_is_what_code_and_results_say():
    done = run(ROOT, "docs/lecture.py", "--check")
    assert done.returncode == 0, done.stdout


def test_no_number_of_a_result_is_typed_by_hand():
    """Outside the generated blocks the README gives no percentages, no times and no rates."""
    text = re.sub(r"<!-- results: .*?<!-- end -->", "", README, flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+(\.\d+)? ?(%|s\b|ms\b|images/s)", text)


@pytest.mark.parametrize("path", ["README.md", "docs/design.md", "LICENSE", "launch.sh", ".ci/run"])
def test_the_files_of_the_top_level_are_there(path):
    assert (ROOT / path).is_file()
