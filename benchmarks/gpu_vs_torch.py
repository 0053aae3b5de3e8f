"""ResNet-50 in bfloat16 on a GPU, beside PyTorch with mixed precision, channels last, eager and compiled.

    python benchmarks/gpu_vs_torch.py [--tiny]

``--tiny`` trains LeNet-5 on whatever device is there.
"""

import sys

from cpu_vs_torch import compare

from jaxcnn.bench import model as bench

CASES = {
    f"ResNet-50 in bfloat16, {size}": {"model": "resnet50", "batch_size": size, "dtype": "bfloat16"}
    for size in (128, 256, 512)
}


def main() -> None:
    tiny = "--tiny" in sys.argv
    cases = {"LeNet-5 in bfloat16, 4": {"model": "lenet5", "batch_size": 4, "dtype": "bfloat16"}} if tiny else CASES
    compare("gpu_vs_torch", cases, bench.PEERS[1:2] if tiny else bench.PEERS[1:], 2 if tiny else 15, tiny)


if __name__ == "__main__":
    main()
