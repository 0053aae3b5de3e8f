"""Training images per second beside PyTorch's, in one run, taking turns.

    python benchmarks/cpu_vs_torch.py [--tiny]

The same network, batch, optimizer (SGD with momentum) and precision (float32). Each turn trains for a fixed number of
steps on random images that are already in memory; compilation and the first steps are not on the clock. PyTorch runs
eager, in its default and in the channels-last layout, and the faster of the two is the peer.
"""

import functools
import sys
from collections.abc import Callable

from jaxcnn import environment

environment.prepare()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from results import in_turns, spread, write  # noqa: E402

import jaxcnn  # noqa: E402
from jaxcnn.task import build  # noqa: E402

CLASSES = 10


def make_ours(batch_size: int) -> Callable[[int], None]:
    """``steps -> None``: train LeNet-5 that long."""
    config = jaxcnn.Config(steps=10**6, data=jaxcnn.DataConfig("fake", batch_size=batch_size))
    task = build(config, 1)
    train_step = task.train_step(10**6)
    state = task.initial_state()
    rng = np.random.default_rng(0)
    batch = {
        "image": jax.numpy.asarray(rng.integers(0, 255, (batch_size, 32, 32, 1), np.uint8)),
        "label": jax.numpy.asarray(rng.integers(0, CLASSES, batch_size, np.int32)),
    }

    def train(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, sums = train_step(state, batch)
        jax.block_until_ready(sums)

    return train


def make_theirs(batch_size: int, channels_last: bool) -> Callable[[int], None]:
    """The same in PyTorch: the lecture's code, with the tanh after conv 3 that ours has."""
    nn = torch.nn
    layers = [nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, CLASSES)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randint(0, 255, (batch_size, 1, 32, 32), dtype=torch.uint8)
    y = torch.randint(0, CLASSES, (batch_size,))
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            images = (x.float() / 255 - 0.5) / 0.25
            torch.nn.functional.cross_entropy(model(images), y).backward()
            optimizer.step()

    return train


def main() -> None:
    tiny = "--tiny" in sys.argv
    torch.set_num_threads(environment.num_cores())
    table = {}
    for batch_size in (64, 512):
        turns = {
            "jaxcnn": make_ours(batch_size),
            "torch": make_theirs(batch_size, channels_last=False),
            "torch channels_last": make_theirs(batch_size, channels_last=True),
        }
        steps = 3 if tiny else max(20, 12800 // batch_size)
        for train in turns.values():
            train(3)
        calls = {name: functools.partial(train, steps) for name, train in turns.items()}
        seconds = in_turns(calls, 2 if tiny else 15)
        table[f"lenet5 batch {batch_size}"] = {
            name: spread([steps * batch_size / each for each in times]) for name, times in seconds.items()
        }
    for row in table.values():
        peer = max(row["torch"]["median"], row["torch channels_last"]["median"])
        row["ratio"] = row["jaxcnn"]["median"] / peer
    versions = {"torch": torch.__version__, "unit": "training images per second"}
    write(
        "cpu_vs_torch",
        "a turn of training steps on resident data, without compilation",
        {**versions, "rows": table},
        tiny,
    )


if __name__ == "__main__":
    main()
