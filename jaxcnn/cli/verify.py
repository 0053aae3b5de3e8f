"""``verify RUN_DIR``: reads every checkpoint of a run and says which are good."""

import json

from rich.table import Table

from jaxcnn import checkpoint
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.console import output
from jaxcnn.errors import CheckpointError, UsageError
from jaxcnn.rundir import RunDir


def main(arguments: list[str], stop: Stop) -> int:
    """Print a line for each checkpoint, or JSON. CheckpointError unless all are good. Changes nothing."""
    flags = Flags("verify RUN_DIR [--json]")
    flags.define("json", bool, False, "print JSON")
    rest = flags.parse(arguments)
    if len(rest) != 1:
        raise UsageError(f"verify takes one run directory, not {' '.join(rest) or 'none'}")
    run_dir = RunDir(rest[0])
    run_dir.read_config()  # is it a run at all?
    steps = checkpoint.steps(run_dir.checkpoints)
    if not steps:
        raise CheckpointError(f"{run_dir.path} holds no finished checkpoint")
    found = {step: checkpoint.verify(run_dir.checkpoints, step) for step in steps}
    there = checkpoint.steps(run_dir.checkpoints)  # a run that goes on removes its older ones meanwhile
    found = {step: result for step, result in found.items() if result[0] is not None or step in there}
    bad = [step for step, (meta, _) in found.items() if meta is None]
    good = [step for step in found if step not in bad]
    if flags["json"]:
        lines = [
            {"step": step, "good": meta is not None}
            | (
                {"digest": meta.digest, "metrics": meta.metrics, "versions": meta.versions}
                if meta
                else {"problem": why}
            )
            for step, (meta, why) in found.items()
        ]
        print(json.dumps({"run": str(run_dir.path), "checkpoints": lines}, indent=2))
    else:
        table = Table("step", "", "digest", "accuracy", title=rest[0], title_justify="left", box=None)
        for step, (meta, why) in found.items():
            accuracy = f"{meta.metrics['eval_accuracy']:.2%}" if meta and "eval_accuracy" in meta.metrics else ""
            table.add_row(f"{step:,}", *(("good", meta.digest[:16] + "…", accuracy) if meta else ("damaged", why, "")))
        output().print(table)
    if bad:
        rest_of_it = f"step {good[-1]} is the newest good one" if good else "none is good"
        raise CheckpointError(
            f"{len(bad)} of {len(found)} checkpoints in {run_dir.checkpoints} are damaged "
            f"(step {', '.join(map(str, bad))}); {rest_of_it}"
        )
    return 0
