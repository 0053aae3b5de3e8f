"""Training with freed memory kept and given back, in processes that take turns: what ``environment.prepare`` is worth on a CPU.

    python benchmarks/memory.py [--tiny]

The clock covers updates on images that are on the device, after compilation.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from results import spread, write

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = {
    "ResNet-18 on 32x32, 64": [
        "resnet18",
        "--model.stem=small",
        "--image_size=32",
        "--num_classes=10",
        "--batch_size=64",
    ],
    "ResNet-50, 16": ["resnet50", "--batch_size=16"],
}
# A word of the user's on malloc is respected. This one changes nothing: others would fix the threshold that the library adapts.
WAYS = {"kept": {}, "given back": {"MALLOC_PERTURB_": "0"}}


def rate(arguments: list[str], variables: dict[str, str], file: pathlib.Path) -> float:
    """Images per second of one process."""
    command = [sys.executable, "-m", "jaxcnn", "bench", *arguments, "--turns=3", f"--json={file}"]
    subprocess.run(command, env={**os.environ, **variables}, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads(file.read_text())["images_per_second"]["jaxcnn"])


def main() -> None:
    tiny = "--tiny" in sys.argv
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in {"LeNet-5, 4": ["lenet5", "--batch_size=4"]}.items() if tiny else CASES.items():
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(1 if tiny else 3):
                for way, variables in WAYS.items():
                    found[way].append(rate(arguments, variables, pathlib.Path(folder) / "speed.json"))
            rows[name] = {way: spread(values) for way, values in found.items()}
    write("memory", "updates on images that are on the device, after compilation", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
