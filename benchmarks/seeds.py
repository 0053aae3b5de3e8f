"""Eight runs of one experiment with other seeds: one after the other, or as one stacked update.

    python benchmarks/seeds.py [--tiny]

The clock covers the updates alone, without compilation; the ways alternate. ``map`` is ``lax.map`` over the stacked states.
"""

import functools
import statistics
import sys

import jax
import numpy as np
from results import in_turns, spread, write

from jaxcnn import environment

environment.prepare()

from jaxcnn.config import Config, DataConfig, ModelConfig  # noqa: E402
from jaxcnn.task import build  # noqa: E402

RUNS = 8
CASES = {
    "LeNet-5, batch 64": ("lenet5", 32, 64, 10),
    "ResNet-20 on 32x32, batch 32": ("resnet20_cifar", 32, 32, 1),
}


def make_ways(name: str, size: int, batch_size: int) -> dict:
    """``{way: function of the number of updates}``."""
    config = Config(steps=1, model=ModelConfig(name), data=DataConfig("fake", batch_size=batch_size, image_size=size))
    task = build(config, 1)
    update = task.update_of(1000)
    values = [{"seed": np.uint32(seed)} for seed in range(RUNS)]
    batch = next(task.load("train", train=True).train_batches(0, batch_size, 0))

    def stack(trees: list):
        return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *trees)

    arguments = stack(values), stack([batch] * RUNS)
    ways = {
        "one after the other": jax.jit(update, donate_argnums=1),
        "vmap": jax.jit(jax.vmap(update), donate_argnums=1),
        "map": jax.jit(lambda v, s, b: jax.lax.map(lambda of_run: update(*of_run), (v, s, b)), donate_argnums=1),
    }
    states = {way: [task.initial_state() for _ in range(RUNS)] for way in ways}

    def run(way: str, steps: int) -> None:
        if way == "one after the other":
            for _ in range(steps):
                for k in range(RUNS):
                    states[way][k] = ways[way](values[k], states[way][k], batch)[0]
        else:
            state = states[way] if not isinstance(states[way], list) else stack(states[way])
            for _ in range(steps):
                state = ways[way](arguments[0], state, arguments[1])[0]
            states[way] = state
        jax.block_until_ready(states[way])

    return {way: functools.partial(run, way) for way in ways}


def main() -> None:
    tiny = "--tiny" in sys.argv
    rows = {}
    for case, (name, size, batch_size, steps) in list(CASES.items())[: 1 if tiny else None]:
        ways = make_ways(name, size, batch_size)
        for run in ways.values():
            run(1)
        calls = {way: functools.partial(run, steps) for way, run in ways.items()}
        found = in_turns(calls, 1 if tiny else 5)
        seconds = {way: [each / steps for each in times] for way, times in found.items()}
        ratios = {
            way: statistics.median(t / s for t, s in zip(times, seconds["one after the other"], strict=True))
            for way, times in seconds.items()
        }
        rows[case] = {way: spread(times) | {"ratio": ratios[way]} for way, times in seconds.items()}
    write("seeds", f"{RUNS} updates, one of each run, without compilation", {"runs": RUNS, "rows": rows}, tiny)


if __name__ == "__main__":
    main()
