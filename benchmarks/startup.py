"""From the start of the process to the first finished update of lenet_digits, and what launch.sh adds.

    python benchmarks/startup.py [--tiny]

The clock runs from the creation of the process until metrics.jsonl holds the row of update 1. Warm: the data, the probe
of the XLA flag and the compiled programs are in the user's cache, as at every start but the first.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

from results import spread, write

ROOT = pathlib.Path(__file__).resolve().parent.parent


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
    figures = {"first_step_seconds": spread(starts)}
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
    write("startup", "process start to the first row of metrics.jsonl; `help` for what launch.sh adds", figures, tiny)


if __name__ == "__main__":
    main()
