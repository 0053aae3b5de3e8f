"""``verify-resume EXPERIMENT``: proves on this machine that a stop in the middle changes nothing."""

import itertools
import pathlib
import tempfile

from jaxcnn import checkpoint, experiment, loop, tree
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.cli.train import read_experiment
from jaxcnn.config import Config, replace
from jaxcnn.console import muted, output, table
from jaxcnn.errors import CheckpointError, Preempted, UsageError
from jaxcnn.rundir import RunDir, read_rows
from jaxcnn.state import State
from jaxcnn.task import build

_STEPS = 20


def main(arguments: list[str], stop: Stop) -> int:
    """Train n steps straight, and n steps with a stop in the middle; compare every bit. CheckpointError when they differ."""
    _, config, flags = read_experiment(arguments, _flags)
    steps = config.steps if "steps" in flags.given() and config.steps else _STEPS
    if steps < 2:
        raise UsageError(f"steps={steps} must be >= 2, so that there is a middle")
    short = {"steps": steps, "epochs": None, "checkpoint.every": steps, "log.eval_every": steps}
    in_a_call = min(config.steps_per_execution, steps // 2)
    short["steps_per_execution"] = in_a_call
    config = replace(config, {**short, "log.plots": False, "log.tensorboard": False})
    devices = {"num_devices": flags["num_devices"], "mesh_shape": flags["mesh"]}
    with tempfile.TemporaryDirectory(prefix="jaxcnn-verify-") as folder, muted():
        straight, stopped = RunDir(f"{folder}/straight"), RunDir(f"{folder}/stopped")
        whole = loop.run(config, straight.path, **devices)
        polls = itertools.count()
        try:  # polled once at the start, and after each call
            loop.run(config, stopped.path, stop=lambda: next(polls) >= steps // 2 // in_a_call, **devices)
        except Preempted:
            middle = checkpoint.steps(stopped.checkpoints)[-1]
        else:
            raise AssertionError("the run did not stop")
        parts = loop.run(config, stopped.path, resume="must", **devices)
        differing = _differing(_final(config, straight, **devices), _final(config, stopped, **devices))
        pairs = itertools.zip_longest(read_rows(straight.metrics), read_rows(stopped.metrics))
        rows = [(one, other) for one, other in pairs if one != other]
    lines = {
        f"{steps} updates, straight": whole["state_digest"],
        f"stopped at {middle}, resumed": parts["state_digest"],
        "arrays of the state that differ": len(differing),
        "rows of metrics that differ": len(rows),
    }
    output().print(table(f"{config.experiment or config.model.name}", lines))
    if differing or rows or whole["state_digest"] != parts["state_digest"]:
        first = f"the first arrays are {', '.join(differing[:5])}" if differing else f"the first row is {rows[0]}"
        raise CheckpointError(f"the resumed run differs from the straight one; {first}")
    print("the resumed run is the straight one, bit for bit")
    return 0


def _flags() -> Flags:
    flags = Flags(
        f"verify-resume EXPERIMENT [--steps={_STEPS}] [--flag=value ...]\n\nEXPERIMENT is one of "
        + ", ".join(experiment.list_experiments())
        + ", or the path of your own .py file."
    )
    flags.define("num_devices", int | None, None, "devices to use; none: all")
    flags.define("mesh", str | None, None, "data:8 splits the batch over 8 devices, data:4,model:2 large weights too")
    flags.define("config", str | None, None, "take the config.json of a run; other flags change it")
    return flags


def _final(config: Config, run_dir: RunDir, num_devices: int | None, mesh_shape: str | None) -> State:
    task = build(config, num_devices, mesh_shape=mesh_shape)
    restored = checkpoint.restore(pathlib.Path(run_dir.checkpoints), task.abstract)
    assert restored is not None  # the run has ended, which takes a checkpoint
    return restored[0]


def _differing(one: State, other: State) -> list[str]:
    leaves = tree.named_leaves(other._asdict())
    names = [
        name
        for name, leaf in tree.named_leaves(one._asdict()).items()
        if tree.digest({name: leaf}) != tree.digest({name: leaves[name]})
    ]
    return sorted(names, key=lambda name: not name.startswith("params/"))  # these tell the most
