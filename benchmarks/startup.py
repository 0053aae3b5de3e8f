"""From the start of the process to the first finished update of lenet_digits, what launch.sh adds, what compilation takes.

    python benchmarks/startup.py [--tiny]

The clock runs from the creation of the process until metrics.jsonl holds the row of update 1. Warm: the data, the probe
of the XLA flag and the compiled programs are in the user's cache, as at every start but the first. The compilation is that of
the update of resnet18_cifar10, at a first start, with an empty cache, and at a second.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from results import spread, write

ROOT = pathlib.Path(__file__).resolve().parent.parent

COMPILE = """
import sys, time
from jaxcnn import environment
environment.prepare()
from jaxcnn import experiment
from jaxcnn.task import build
task = build(experiment.load(sys.argv[1]), 1)
lowered = task.train_step(1000).lower(task.abstract, task.abstract_batch(task.config.data.batch_size))
begin = time.perf_counter()
lowered.compile()
print(time.perf_counter() - begin)
"""


def compilations(name: str) -> dict[str, float]:
    """Seconds that the update of an experiment takes to compile at its first start and at its second."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", COMPILE, name]
        variables = {**os.environ, "JAXCNN_CACHE": cache}
        done = [subprocess.run(command, cwd=ROOT, env=variables, check=True, capture_output=True) for _ in range(2)]
    first, second = (float(one.stdout) for one in done)
    return {"first": first, "second": second, "ratio": first / second}


def first_step(folder: pathlib.Path, run: int) -> float:
    """Seconds until the first update is done; the run is ended there."""
    metrics = folder / f"run{run}" / "metrics.jsonl"
    command = [sys.executable, "-m", "jaxcnn", "train", "lenet_digits", "--log.every=1", f"--workdir={metrics.parent}"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.002)
    seconds = time.perf_counter() - begin
    process.kill()
    process.wait()
    return seconds


def elapsed(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    tiny = "--tiny" in sys.argv
    repeats = 2 if tiny else 9
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        first_step(folder, -1)  # warms the caches
        starts = [first_step(folder, run) for run in range(repeats)]
    figures: dict[str, Any] = {"first_step_seconds": spread(starts)}
    compiled = [compilations("lenet_digits" if tiny else "resnet18_cifar10") for _ in range(1 if tiny else 3)]
    figures["compilation_seconds"] = {name: spread([one[name] for one in compiled]) for name in compiled[0]}
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists():
        commands = {"launch.sh": [str(ROOT / "launch.sh"), "help"], "python": [str(python), "-m", "jaxcnn", "help"]}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                times[name].append(elapsed(command))
        figures["help_seconds"] = {name: spread(values) for name, values in times.items()}
        added = [a - b for a, b in zip(times["launch.sh"], times["python"], strict=True)]
        figures["launch_adds_seconds"] = spread(added)
    write(
        "startup",
        "process start to the first row of metrics.jsonl; `help` for what launch.sh adds; compilation alone",
        figures,
        tiny,
    )


if __name__ == "__main__":
    main()
