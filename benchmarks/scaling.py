"""What the devices of a data-parallel run exchange in an update, and what that costs on many accelerators.

    python benchmarks/scaling.py [--tiny]

Nothing is timed: the update is compiled for eight devices that the CPU pretends to be, the collectives are read from the
compiled program, and the efficiency follows from bytes, arithmetic and stated bandwidths (``jaxcnn bench scaling --help``).
"""

import json
import subprocess
import sys

from results import write

TINY = {"lenet5": ["lenet_digits", "--batch_size=64"]}
RUNS = TINY | {
    "ResNet-20 on 32x32, 128 images a device": ["resnet20_cifar10", "--batch_size=1024"],
    "ResNet-50, 64 images a device": ["resnet50_imagenet", "--batch_size=512"],
    "ResNet-50, 64 images a device, `--model.norm=local`": [
        "resnet50_imagenet",
        "--batch_size=512",
        "--model.norm=local",
    ],
    "ResNet-50, 256 images a device, `--model.norm=local`": [
        "resnet50_imagenet",
        "--batch_size=2048",
        "--model.norm=local",
    ],
}


def row(arguments: list[str]) -> dict:
    """What ``bench scaling`` says, the collectives summed up."""
    command = [sys.executable, "-m", "jaxcnn", "bench", "scaling", *arguments, "--devices=8", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    operations = found.pop("collectives")
    kinds = sorted({operation["kind"] for operation in operations})
    return found | {"operations": len(operations), "kinds": kinds}


def main() -> None:
    tiny = "--tiny" in sys.argv
    rows = {name: row(arguments) for name, arguments in (TINY if tiny else RUNS).items()}
    write("scaling", "nothing is timed", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
