"""How long until a dataset is ready to train on, and how fast photographs are read while a run goes.

    python benchmarks/input.py [--tiny] [--data_dir=DIR]

Cold: the user's cache is empty, all records are read and decoded. Warm: the cache is there. Each in a new process; the
clock covers the loading of both splits, TFDS imported, not the start of Python. The photographs are those of ImageNet in
DIR; ``bench input`` measures them, beside torchvision where it is installed.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from results import spread, write

CODE = """
import sys, time
from jaxcnn.data import catalog, source
begin = time.perf_counter()
dataset = catalog.find(sys.argv[1])
for split in ("train", "test"):
    source.load(dataset, split, sys.argv[2] or None)
print(time.perf_counter() - begin)
"""


def load(dataset: str, data_dir: str, cache: str) -> float:
    """Seconds to load both splits in a new process."""
    command = [sys.executable, "-c", CODE, dataset, data_dir]
    done = subprocess.run(
        command, env={**os.environ, "JAXCNN_CACHE": cache}, check=True, capture_output=True, text=True
    )
    return float(done.stdout.splitlines()[-1])


def stream(data_dir: str, turns: int) -> dict:
    """What ``bench input`` says of random-resized crops of ImageNet."""
    options = [f"--data_dir={data_dir}", "--batch_size=64", f"--turns={turns}", "--json"]
    command = [sys.executable, "-m", "jaxcnn", "bench", "input", "resnet50_imagenet", *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    tiny = "--tiny" in sys.argv
    data_dir = next((argument.partition("=")[2] for argument in sys.argv if argument.startswith("--data_dir=")), "")
    rows = {}
    for dataset in ("digits", "mnist") if data_dir and not tiny else ("digits",):
        cold, warm = [], []
        for _ in range(1 if tiny else 5):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(load(dataset, data_dir, cache))
                warm.append(load(dataset, data_dir, cache))
        rows[dataset] = {"cold_seconds": spread(cold), "warm_seconds": spread(warm)}
    figures: dict = {"rows": rows}
    if data_dir and (pathlib.Path(data_dir) / "imagenet2012").is_dir():
        figures["photographs"] = stream(data_dir, turns=1 if tiny else 9)
    write("input", "loading of both splits in a new process, TFDS imported", figures, tiny)


if __name__ == "__main__":
    main()
