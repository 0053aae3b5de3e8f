"""Seconds to a given accuracy, by the protocol of the public records: 94 % of CIFAR-10, 99 % of MNIST.

    python benchmarks/speed.py [--tiny] [--data_dir=DIR] [--runs=N] [--dtype=float32] [--record=FILE] [EXPERIMENT...]

One program trains from a given state to the end, and one evaluates; both are compiled, and run once, before the clock starts
(on a CPU only compiled). It starts with the images on the device and a fresh state, and stops when the accuracy over the test
split is here. Each run has a seed of its own; the mean accuracy of all has to reach the target.

EXPERIMENT is one of those, or ``airbench94_muon`` for the record alone; all when none is given.

FILE is ``airbench94_muon.py`` of github.com/KellerJordan/cifar10-airbench, to be run on the same GPU; its clock is its own.
Without a GPU it runs too, eager and in float32, for its accuracy on the same images.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from results import FOLDER, hardware, read, spread, write

from jaxcnn import environment

environment.prepare()

from jaxcnn import experiment  # noqa: E402
from jaxcnn.config import replace  # noqa: E402
from jaxcnn.task import Task, build  # noqa: E402
from jaxcnn.whole import compile_test, compile_training  # noqa: E402

TARGETS = {"speed_mnist": 99.0, "speed_cifar10": 94.0}
RECORD = "airbench94_muon"
TINY = {
    "epochs": None,
    "steps": 3,
    "data.dataset": "digits",
    "data.image_size": 32,
    "data.batch_size": 100,
    "data.eval_batch_size": 100,
    "model.widths": (4, 8, 8),
    "model.dtype": "float32",
}


ON_A_CPU = """
import time, torch
from jaxcnn.bench.input import import_torchvision
import_torchvision()
class Event:
    def __init__(self, enable_timing): pass
    def record(self): self.at = time.perf_counter()
    def elapsed_time(self, end): return 1e3 * (end.at - self.at)
load = torch.load
torch.load = lambda path, map_location: load(path)
torch.compile = lambda function: function
torch.cuda.Event, torch.cuda.synchronize = Event, lambda: None
torch.nn.Module.cuda, torch.nn.Module.compile = lambda self: self, lambda self, mode: None
for kind in (torch.Tensor, torch.nn.Module):
    kind.half = kind.bfloat16 = kind.float
"""
"""What the record's script takes for granted, as a CPU has it."""


def timed_run(task: Task):
    """``seed -> (seconds, accuracy in percent)``, warm, and the seconds of loading and compilation."""
    begin = time.perf_counter()
    train, test = compile_training(task), compile_test(task)
    compile_seconds = time.perf_counter() - begin

    def run(seed: int) -> tuple[float, float]:
        state = train.initial_state(seed)
        begin = time.perf_counter()
        state, _ = train(state, seed)
        accuracy = test(state)["accuracy"]
        return time.perf_counter() - begin, 100 * accuracy

    if jax.default_backend() != "cpu":  # there nothing warms up, and it would take as long as a run
        run(2**32 - 1)
    return run, compile_seconds


def record(path: pathlib.Path, runs: int, data_dir: str | None) -> dict[str, Any]:
    """The public record in a process of its own, on our copy of the images; with ``runs`` runs in the place of its 200."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "cifar10").mkdir()
        task = build(replace(experiment.load("speed_cifar10"), {"data.data_dir": data_dir}), 1)
        for split in ("train", "test"):
            arrays = {name: np.asarray(values) for name, values in task.load(split).arrays.items()}
            kept = {"images": torch.tensor(arrays["image"]), "labels": torch.tensor(arrays["label"]).long()}
            torch.save(kept | {"classes": list(task.dataset.class_names)}, f"{folder}/cifar10/{split}.pt")
        text = path.read_text()
        for expected in ("range(200)", 'main("warmup", model)'):
            assert expected in text, f"{path} is not the script that this was written for"
        text = text.replace("range(200)", f"range({runs})")
        if jax.default_backend() == "cpu":  # there nothing warms up
            text = ON_A_CPU + text.replace('main("warmup", model)', "")
        script = pathlib.Path(folder) / "record.py"
        script.write_text(text)
        command = [sys.executable, script.name]
        done = subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE)
    # The last row of each run: | run | eval | train_acc | val_acc | tta_val_acc | time_seconds |
    found = re.findall(r"\|\s+eval\s+\|.*?\|\s+([\d.]+)\s+\|\s+([\d.]+)\s+\|\s*$", done.stdout, re.MULTILINE)[-runs:]
    accuracies, seconds = zip(*((100 * float(accuracy), float(spent)) for accuracy, spent in found), strict=True)
    return row(list(seconds), list(accuracies), 94.0) | {"torch": torch.__version__}


def row(seconds: list[float], accuracies: list[float], target: float) -> dict[str, Any]:
    """What is written of some runs."""
    mean = float(np.mean(accuracies))
    return {
        "target_percent": target,
        "mean_seconds": float(np.mean(seconds)),
        "seconds": spread(seconds),
        "mean_accuracy_percent": mean,
        "accuracy_percent": spread(accuracies),
        "reached": mean >= target,
        "on": hardware() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--data_dir")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--dtype")
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("experiments", nargs="*", default=[])
    given = parser.parse_args()
    if RECORD in given.experiments and not given.record:
        parser.error(f"{RECORD} needs --record=FILE, its script")
    rows = read("speed")["rows"] if (FOLDER / "speed.json").exists() and not given.tiny else {}
    names = given.experiments or [*TARGETS, RECORD]
    for name in (name for name in names if name != RECORD):
        changes = {"data.data_dir": given.data_dir} | ({"model.dtype": given.dtype} if given.dtype else {})
        config = replace(experiment.load(name), changes | (TINY if given.tiny else {}))
        run, compile_seconds = timed_run(build(config, 1))
        found = [run(seed) for seed in range(2 if given.tiny else given.runs)]
        seconds, accuracies = (list(values) for values in zip(*found, strict=True))
        rows[name] = row(seconds, accuracies, TARGETS[name])
        rows[name] |= {"compile_seconds": compile_seconds, "dtype": config.model.dtype}
        print(name, rows[name], flush=True)
    if given.record and RECORD in names:
        rows[RECORD] = record(given.record.resolve(), given.runs, given.data_dir)
    clock = "from a fresh state, images on the device, to the accuracy over the test split; all is compiled before"
    write("speed", clock, {"rows": rows}, given.tiny)


if __name__ == "__main__":
    main()
