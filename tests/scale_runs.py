"""Short trainings whose losses and final digest are compared between device counts and process counts.

As a program, ``python scale_runs.py PORT PROCESS_ID FILE``, it is one of two processes with four devices each.
"""

import json
import pathlib
import sys

from jaxcnn import hosts, tree
from jaxcnn.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig
from jaxcnn.task import build

STEPS = 20
BATCH = 32

# The learning rates are small where the activation is a ReLU: a rounding error that turns a unit on or off changes the
# gradient by a thousandth, and at a usual rate such errors grow tenfold a step (docs/scale.md).
RUNS = {
    "lenet5": (ModelConfig("lenet5"), 32, 0.1),
    "resnet20_cifar": (ModelConfig("resnet20_cifar"), 32, 3e-5),
    # of 224 x 224 images, at tiny size; without kinks errors do not grow, and the rate may be larger
    "resnet18": (
        ModelConfig("resnet18", overrides={"width": 8, "depths": (1, 1, 1, 1), "activation": "gelu"}),
        32,
        1e-3,
    ),
}
EXACT = ("lenet5", "resnet20_cifar")  # also in two processes


def config(name: str, elastic_exact: bool) -> Config:
    """Everything random is on: the choices must not depend on the devices either."""
    model, size, rate = RUNS[name]
    return Config(
        steps=STEPS,
        elastic_exact=elastic_exact,
        model=model,
        data=DataConfig("fake", batch_size=BATCH, image_size=size),
        optimizer=OptimizerConfig(learning_rate=rate),
        augment=AugmentConfig(flip=True, pad_crop=2, rotate=5, mixup=0.2 if elastic_exact else 0),
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


def main(port: str, process_id: str, file: str) -> None:
    hosts.join(hosts.Place(f"127.0.0.1:{port}", 2, int(process_id)), 60)
    found = {f"{name} False": train(name, False) for name in RUNS}
    found |= {f"{name} True": train(name, True) for name in EXACT}
    if hosts.is_first():
        pathlib.Path(file).write_text(json.dumps(found))
    hosts.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
