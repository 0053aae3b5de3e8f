"""What the README says is tried."""

import re
import runpy
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


def check(monkeypatch, script):
    """Run a script that writes documents with ``--check``. Return its exit code."""
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    monkeypatch.syspath_prepend(script.parent)
    return runpy.run_path(str(script))["main"]()


def test_every_command_names_a_verb():
    verbs = {command[1] for command in COMMANDS if len(command) > 1}
    assert {"test", "train", "eval", "predict", "models", "summary", "help"} <= verbs
    assert verbs <= {*VERBS, "test"}


def test_the_file_of_ones_own_trains_and_evaluates_as_told(jaxcnn_, tmp_path, full):
    (tmp_path / "mine.py").write_text(PYTHON[0])
    train, evaluate = (command[1:] for command in COMMANDS if any("mine" in word for word in command))
    assert (train[0], evaluate[0]) == ("train", "eval")
    shorter = [] if full else ["--steps=12", f"--workdir={evaluate[1]}"]
    code, _, err = jaxcnn_(*train, *shorter, "--num_devices=1")
    assert code == 0, err
    code, out, err = jaxcnn_(*evaluate)
    assert code == 0, err
    accuracy = float(re.search(r"accuracy +│ +([\d.]+)%", out)[1])
    assert not full or accuracy > 80, out


def test_the_python_example_runs(capsys):
    exec(compile(PYTHON[1], "README.md", "exec"), {})
    assert capsys.readouterr().out == "['lenet5', 'lenet5_1998'] (1, 3, 3, 2) 3\n"


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"


def test_numbers_are_those_of_the_results(monkeypatch):
    assert check(monkeypatch, ROOT / "benchmarks" / "tables.py") == 0


def test_the_lecture_is_what_code_and_results_say(monkeypatch):
    assert check(monkeypatch, ROOT / "docs" / "lecture.py") == 0


def test_no_number_of_a_result_is_typed_by_hand():
    """Outside the generated blocks the README gives no percentages, no times and no rates."""
    text = re.sub(r"<!-- results: .*?<!-- end -->", "", README, flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+(\.\d+)? ?(%|s\b|ms\b|images/s)", text)


@pytest.mark.parametrize("path", ["README.md", "docs/design.md", "LICENSE", "launch.sh", ".ci/run"])
def test_the_files_of_the_top_level_are_there(path):
    assert (ROOT / path).is_file()
