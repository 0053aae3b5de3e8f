"""``eval RUN_DIR``: the exact metrics of a run's checkpoint on a split."""

import json

from jaxcnn import mesh as meshes
from jaxcnn.cli import saved
from jaxcnn.cli.flags import Flags, Stop, configure
from jaxcnn.console import output, table
from jaxcnn.data import source
from jaxcnn.errors import DataError, UsageError
from jaxcnn.evaluate import evaluate
from jaxcnn.rundir import RunDir


def main(arguments: list[str], stop: Stop) -> int:
    """Evaluate and print a table, or JSON."""
    flags = Flags("eval RUN_DIR [--flag=value ...]")
    flags.define("split", str | None, None, "examples, in TFDS syntax; none: the run's own evaluation split")
    flags.define("dataset", str | None, None, "dataset of the same classes, e.g. folder:PATH; none: the run's")
    flags.define("data_dir", str | None, None, "directory of prepared TFDS datasets; none: the run's")
    flags.define("batch_size", int, 512, "examples per step; the result does not depend on it")
    flags.define("json", bool, False, "print JSON")
    saved.define_flags(flags)
    rest = flags.parse(arguments)
    if len(rest) != 1:
        raise UsageError(f"eval takes one run directory, not {' '.join(rest) or 'none'}")
    run_dir = RunDir(rest[0])
    config = saved.read_config(run_dir, flags)
    changes = {"data.eval_batch_size": flags["batch_size"]}
    changes |= {"data.eval_split": flags["split"]} if flags["split"] is not None else {}
    changes |= {"data.data_dir": flags["data_dir"]} if flags["data_dir"] is not None else {}
    trained = run_dir.read_dataset()
    if trained is not None:  # what the network takes is normalised as in training, whatever images are in a folder now
        changes |= {"data.mean": config.data.mean or trained.mean, "data.std": config.data.std or trained.std}
    if flags["dataset"] is not None:
        changes |= {"data.dataset": flags["dataset"]}
        if trained is not None and config.data.image_size is None and trained.image_shape[0] == trained.image_shape[1]:
            changes |= {"data.image_size": trained.image_shape[0]}
    config = configure(config, changes)
    dataset = source.find(config.data.dataset, config.data.data_dir)
    if trained is not None and dataset.class_names != trained.class_names:
        raise DataError(
            f"data.dataset={config.data.dataset!r} must have the classes that the run was trained on, "
            f"{_few(trained.class_names)}, not {_few(dataset.class_names)}"
        )
    task, state = saved.open_state(run_dir, config, flags["checkpoint"], dataset)
    split = config.data.eval_split
    num_examples = task.num_examples(split)
    examples = task.load(split)
    batch_size = meshes.round_up(min(config.data.eval_batch_size, num_examples), task.mesh)
    metrics = evaluate(task.eval_step(), state.variables(), examples, batch_size)
    examples.close()
    result = {
        "run": str(run_dir.path),
        "step": int(state.step),
        "split": split,
        "num_examples": num_examples,
        **metrics,
    }
    if flags["json"]:
        print(json.dumps(result, indent=2))
        return 0
    rows = {
        "split": f"{split} of {config.data.dataset}, {num_examples:,} images",
        "accuracy": f"{metrics['eval_accuracy']:.2%}  (error {1 - metrics['eval_accuracy']:.2%})",
        **({"top-5 accuracy": f"{metrics['eval_top5_accuracy']:.2%}"} if task.dataset.num_classes > 5 else {}),
        "loss": f"{metrics['eval_loss']:.4f}",
    }
    output().print(table(f"{rest[0]}, step {int(state.step):,}", rows))
    return 0


def _few(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''} ({len(names)})"
