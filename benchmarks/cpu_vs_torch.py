"""Training images per second beside PyTorch's, in one run, taking turns.

    python benchmarks/cpu_vs_torch.py [--tiny]

The same network, batch, optimizer (SGD with momentum) and precision (float32), as ``jaxcnn bench MODEL --vs=torch`` has it.
PyTorch runs in a process of its own, eager, in its default and in the channels-last layout; the faster of the two is the peer.
"""

import dataclasses
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn import environment

environment.prepare()
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both want the memory of a GPU

from results import spread, write  # noqa: E402

from jaxcnn.bench import model as bench  # noqa: E402

CASES = {
    "LeNet-5, 64": {"model": "lenet5", "batch_size": 64},
    "LeNet-5, 512": {"model": "lenet5", "batch_size": 512},
    "ResNet-18 on 32x32, 64": {
        "model": "resnet18",
        "batch_size": 64,
        "image_size": 32,
        "num_classes": 10,
        "stem": "small",
    },
    "ResNet-50, 16": {"model": "resnet50", "batch_size": 16},
    "VGG-11, 8": {"model": "vgg11", "batch_size": 8},
    "AlexNet, 32": {"model": "alexnet", "batch_size": 32},
}

IN_CALLS = {
    f"LeNet-5, {size}, 20 updates a call": CASES[f"LeNet-5, {size}"] | {"steps_per_execution": 20} for size in (64, 512)
}
"""As ``lenet_mnist`` trains: each update reads its images inside the program, see ``jaxcnn/execution.py``."""


def compare(name: str, cases: Mapping[str, Mapping[str, Any]], peers: Sequence[str], turns: int, tiny: bool) -> None:
    """Measure the cases beside the peers and write them as ``NAME.json``."""
    rows = {}
    for case, arguments in cases.items():
        found = bench.measure(bench.make_task(**arguments), "train", turns, peers)
        rate = {way: spread([found.batch_size / each for each in seconds]) for way, seconds in found.seconds.items()}
        fields = ("dtype", "device", "failed", "compile_seconds", "flops", "bytes_accessed", "memory")
        rows[case] = rate | {"ratio": found.ratio} | {f: dataclasses.asdict(found)[f] for f in fields}
    clock = "half a second of updates, or one, on images that are on the device; no compilation"
    write(
        name,
        clock,
        {"torch": importlib.metadata.version("torch"), "unit": "training images per second", "rows": rows},
        tiny,
    )


def main() -> None:
    tiny = "--tiny" in sys.argv
    small = {"model": "lenet5", "batch_size": 4}
    few = {"LeNet-5, 4": small, "LeNet-5, 4, 3 updates a call": small | {"steps_per_execution": 3}}
    cases = few if tiny else CASES | IN_CALLS
    compare("cpu_vs_torch", cases, bench.PEERS[:2], 2 if tiny else 15, tiny)


if __name__ == "__main__":
    main()
