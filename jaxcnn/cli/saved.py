"""A saved run, opened: its task and its state."""

from jaxcnn import checkpoint, experiment, models
from jaxcnn.cli.flags import Flags
from jaxcnn.config import Config
from jaxcnn.console import say
from jaxcnn.data.catalog import Dataset
from jaxcnn.errors import CheckpointError, UsageError
from jaxcnn.rundir import RunDir
from jaxcnn.state import State
from jaxcnn.task import Task, build


def define_flags(flags: Flags) -> None:
    """The flags that say which state of a run is meant."""
    flags.define("checkpoint", str, "latest", "latest, best (by evaluation accuracy), or a step")
    flags.define("experiment", str | None, None, "file that registers the run's network, when it is your own")


def read_config(run_dir: RunDir, flags: Flags) -> Config:
    """The run's config; UsageError when its network is not known here."""
    config = run_dir.read_config()
    if flags["experiment"]:
        experiment.load(flags["experiment"])
    if config.model.name not in models.list_models() and config.experiment.endswith(".py"):
        raise UsageError(
            f"model={config.model.name!r} is your own; add --experiment={config.experiment} to run the file that registers it"
        )
    return config


def open_state(run_dir: RunDir, config: Config, which: str, dataset: Dataset | None = None) -> tuple[Task, State]:
    """The task and the state of a checkpoint: "latest", "best" or a step. Nothing in the run directory is changed.

    ``dataset``: its description, where the dataset itself is not needed.
    """
    task = build(config, dataset=dataset)
    found = checkpoint.steps(run_dir.checkpoints)
    if not found:
        raise CheckpointError(f"{run_dir.path} holds no finished checkpoint")
    step = None
    if which == "best":
        step = run_dir.best_step()
        if step is None:
            raise CheckpointError(
                f"{run_dir.path}: no checkpoint was evaluated, so none is best; use --checkpoint=latest"
            )
    elif which != "latest":
        step = int(which) if which.isdecimal() else None
        if step not in found:
            raise UsageError(f"--checkpoint={which} must be latest, best or one of {', '.join(map(str, found))}")
    restored = checkpoint.restore(run_dir.checkpoints, task.abstract, step, warn=say, set_aside=False)
    assert restored is not None  # there is a step, and damage raises
    return task, restored[0]
