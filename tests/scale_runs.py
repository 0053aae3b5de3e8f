"""Short trainings whose losses and final digest are compared between device counts and process counts.

As a program, ``python scale_runs.py FILE [PORT PROCESS_ID]``, it trains on 1 to 8 devices, or is one of two
processes with four each, and writes what it finds, by network, whether exact, and number of devices.
"""

import dataclasses
import json
import pathlib
import sys

from jaxcnn import hosts, tree
from jaxcnn.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig
from jaxcnn.task import build

STEPS = 20
BATCH = 32

# The learning rates are small where the activation is a ReLU: a rounding error that turns a unit on or off changes the
# gradient by a thousandth, and at a usual rate such errors grow tenfold a step (docs/scale.md). Of
# resnet20_cifar at 3e-5 it depends on the processor whether they do.
RUNS = {
    "lenet5": (ModelConfig("lenet5"), 32, 0.1),
    "resnet20_cifar": (ModelConfig("resnet20_cifar"), 16, 1e-5),
    # of 224 x 224 images, at tiny size; without kinks errors do not grow, and the rate may be larger
    "resnet18": (
        ModelConfig("resnet18", overrides={"width": 8, "depths": (1, 1), "activation": "gelu"}),
        32,
        1e-3,
    ),
}

EXACT_COUNTS = (1, 2, 4, 8)


def config(name: str, elastic_exact: bool) -> Config:
    """With lenet5, which compiles fast, everything random is on: the choices must not depend on the devices either."""
    model, size, rate = RUNS[name]
    augment = AugmentConfig(flip=True, pad_crop=2)
    if name == "lenet5":
        augment = dataclasses.replace(augment, rotate=5, mixup=0.2 if elastic_exact else 0)
    return Config(
        steps=STEPS,
        elastic_exact=elastic_exact,
        model=model,
        data=DataConfig("fake", batch_size=BATCH, image_size=size),
        optimizer=OptimizerConfig(learning_rate=rate),
        augment=augment,
    )


def train(name: str, elastic_exact: bool, num_devices: int | None = None) -> dict:
    """``{"losses": of each step, "untrained": of the last batch at the start, "examples": of each, "digest": of the end}``."""
    task = build(config(name, elastic_exact), num_devices)
    step, state = task.train_step(STEPS), task.initial_state()
    steps = STEPS // 4 if elastic_exact else STEPS
    batches = task.load("train", train=True).train_batches(0, BATCH, 0)
    losses, examples, batch = [], [], {}
    for _, batch in zip(range(steps), batches, strict=False):
        state, sums = step(state, batch)
        losses.append(float(sums["objective"]))
        examples.append(hosts.fetch(batch["example"]).tolist())
    found = {"losses": losses, "examples": examples, "digest": tree.digest(state._asdict())}
    _, sums = step(task.initial_state()._replace(step=state.step - 1), batch)
    return found | {"untrained": float(sums["objective"])}


def main(file: str, port: str = "", process_id: str = "") -> None:
    if port:
        hosts.join(hosts.Place(f"127.0.0.1:{port}", 2, int(process_id)), 60)
    found = {
        f"{name} {exact} {count}": train(name, exact, None if port else count)
        for exact in (False, True)
        for name in RUNS
        for count in ((8,) if port else EXACT_COUNTS if exact else (1, 8))
    }
    if hosts.is_first():
        pathlib.Path(file).write_text(json.dumps(found))
    hosts.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
