"""How long until a dataset is ready to train on: decoded, cached, in memory.

    python benchmarks/input.py [--tiny] [--data_dir=DIR]

Cold: the user's cache is empty, all records are read and decoded. Warm: the cache is there. Each in a new process; the
clock covers the loading of both splits, TFDS imported, not the start of Python.
"""

import os
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


def main() -> None:
    tiny = "--tiny" in sys.argv
    data_dir = next((argument.partition("=")[2] for argument in sys.argv if argument.startswith("--data_dir=")), "")
    rows = {}
    for dataset in ("digits", "mnist") if data_dir else ("digits",):
        cold, warm = [], []
        for _ in range(1 if tiny else 5):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(load(dataset, data_dir, cache))
                warm.append(load(dataset, data_dir, cache))
        rows[dataset] = {"cold_seconds": spread(cold), "warm_seconds": spread(warm)}
    write("input", "loading of both splits in a new process, TFDS imported", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
