"""Each product of convolutions of well-known networks in each way, on one device: what ``jaxcnn.nn.convolution`` chooses by.

    python benchmarks/convolution.py [--tiny]

The clock covers compiled calls, some in a row, the ways in turns. ``conv2d`` is the way that is chosen here.
"""

import functools
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from results import in_turns, spread, write

from jaxcnn import environment

environment.prepare()

from jaxcnn.mesh import make_mesh  # noqa: E402
from jaxcnn.nn import convolution  # noqa: E402
from jaxcnn.nn.convolution import Geometry, Product, Way  # noqa: E402

WAYS: tuple[Way, ...] = ("native", "canonical", "dot", "halved", "folded", "windows", "banded", "winograd", "turned")
# batch, image, channels in and out, kernel, stride, padding on each side
CASES = {
    "LeNet-5, conv1": (64, 28, 1, 6, 5, 1, 2),
    "LeNet-5, conv2": (64, 14, 6, 16, 5, 1, 0),
    "LeNet-5, conv3": (64, 5, 16, 120, 5, 1, 0),
    "LeNet-5, conv2, batch 512": (512, 14, 6, 16, 5, 1, 0),
    "ResNet-18 on 32x32, stem": (64, 32, 3, 64, 3, 1, 1),
    "ResNet-18 on 32x32, layer1": (64, 32, 64, 64, 3, 1, 1),
    "ResNet-18 on 32x32, layer2, stride 2": (64, 32, 64, 128, 3, 2, 1),
    "ResNet-18 on 32x32, layer2, shortcut": (64, 32, 64, 128, 1, 2, 0),
    "ResNet-18 on 32x32, layer4": (64, 4, 512, 512, 3, 1, 1),
    "ResNet-50, stem": (16, 224, 3, 64, 7, 2, 3),
    "ResNet-50, layer1, 1x1": (16, 56, 64, 256, 1, 1, 0),
    "ResNet-50, layer3, 3x3": (16, 14, 256, 256, 3, 1, 1),
    "VGG-11, conv2": (8, 112, 64, 128, 3, 1, 1),
    "AlexNet, conv1": (32, 224, 3, 64, 11, 4, 2),
    "AlexNet, conv2": (32, 27, 64, 192, 5, 1, 2),
    "AlexNet, fc6": (32, 1, 9216, 4096, 1, 1, 0),
}


def products(case: tuple[int, ...]) -> dict[Product, tuple[Geometry, jax.Array, jax.Array]]:
    """The geometry and operands of each product."""
    batch, size, channels_in, channels_out, k, s, p = case
    geometry = Geometry((size, size), (k, k), (s, s), ((p, p), (p, p)))
    rng = np.random.default_rng(0)
    x, w, y = (
        jax.device_put(rng.standard_normal(shape, np.float32))
        for shape in (
            (batch, size, size, channels_in),
            (k, k, channels_in, channels_out),
            (batch, *geometry.result, channels_out),
        )
    )
    return {"y": (geometry, x, w), "x": (geometry, y, w), "w": (geometry, x, y)}


def possible(way: Way, of: Product, case: tuple[int, ...]) -> bool:
    """Whether the way exists for the case, and could be of use."""
    _, size, channels_in, _, k, s, p = case
    if way in ("dot", "turned"):
        return p == 0 and k in (1, size) and (way == "dot" or of == "w")
    if way == "halved":
        return size == 1 and of == "x"
    if way == "canonical":
        return of != "y"
    if way == "winograd":
        return k in (3, 5) and s == 1 and channels_in >= 16
    if way == "banded" and (of != "x" or size > 4 * k):
        return False
    if way == "windows" and of == "x":
        return False
    if way in ("folded", "windows", "banded"):
        return s == 1 and 1 < k < size and channels_in <= 16
    return True


def ways(of: Product, case: tuple[int, ...]) -> dict[str, Callable[[], jax.Array]]:
    """Compiled calls."""
    geometry, a, b = products(case)[of]
    found: dict[str, Callable[[], jax.Array]] = {}
    for way in WAYS:
        if possible(way, of, case):
            call = jax.jit(functools.partial(convolution.compute, way, of, geometry=geometry))
            found[way] = functools.partial(call, a, b)
    return found


def measure(calls: dict[str, Callable[[], jax.Array]], turns: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of a call, by way; a turn lasts ``seconds`` or one call."""

    def repeated(call: Callable[[], jax.Array]) -> tuple[Callable[[], None], int]:
        jax.block_until_ready(call())
        begin = time.perf_counter()
        jax.block_until_ready(call())
        count = max(1, round(seconds / (time.perf_counter() - begin)))

        def run() -> None:
            for _ in range(count):
                result = call()
            jax.block_until_ready(result)

        return run, count

    runs = {way: repeated(call) for way, call in calls.items()}
    times = in_turns({way: run for way, (run, _) in runs.items()}, turns)
    return {way: [1000 * each / runs[way][1] for each in values] for way, values in times.items()}


def main() -> None:
    tiny = "--tiny" in sys.argv
    make_mesh(1)  # as a run does: on a CPU it says where programs run
    rows = {}
    for name, case in list(CASES.items())[2 : 3 if tiny else None] if tiny else CASES.items():
        batch, _, channels_in, channels_out, k, _, _ = case
        for of in ("y", "x", "w"):
            geometry = products(case)[of][0]
            multiply_adds = batch * int(np.prod(geometry.result)) * k * k * channels_in * channels_out
            found = {way: spread(times) for way, times in measure(ways(of, case), 2 if tiny else 7, 0.05).items()}
            chosen = convolution.choose(of, geometry, batch, channels_in, channels_out, np.float32)
            rows[f"{name}: {of}"] = {"multiply_adds": multiply_adds, "chosen": chosen, "ms": found}
            print(
                f"{name:40} {of} ",
                "  ".join(
                    f"{way}{'*' if way == chosen else ''} {values['median']:.2f} ms {2e-6 * multiply_adds / values['median']:.0f}"
                    for way, values in found.items()
                ),
                file=sys.stderr,
            )
    write(
        "convolution",
        "compiled calls on one device, the ways in turns",
        {"device": jax.devices()[0].device_kind, "rows": rows},
        tiny,
    )


if __name__ == "__main__":
    main()
