"""``bench input EXPERIMENT``: how fast this machine reads, decodes and augments the images of an experiment."""

import dataclasses
import json

from rich.table import Table

from jaxcnn.bench import input as bench_input
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.cli.train import read_experiment
from jaxcnn.console import output
from jaxcnn.environment import num_cores
from jaxcnn.errors import UsageError
from jaxcnn.task import build

_TOPICS = ("input",)


def main(arguments: list[str], stop: Stop) -> int:
    """Measure, and print a table or JSON."""
    topic = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if topic not in _TOPICS and "--help" not in arguments:
        raise UsageError(f"bench takes one of {', '.join(_TOPICS)} and an experiment, not {topic or 'none'!r}")
    _, config, flags = read_experiment(arguments[1:] if topic else arguments, _flags)
    if flags["turns"] < 1:
        raise UsageError(f"--turns={flags['turns']} must be >= 1")
    found = bench_input.measure(build(config, flags["num_devices"]), flags["turns"])
    if flags["json"]:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    table = Table("stage", title=f"input of {config.experiment or config.data.dataset}", title_justify="left", box=None)
    table.add_column("images/s", justify="right")
    for stage, rate in found.stages.items():
        name = f"torchvision {found.torchvision} and Pillow: decode and crop" if stage == "torchvision" else stage
        table.add_row(
            f"{name}, one thread" if stage not in ("transfer", "augment and normalise") else name, f"{rate:,.0f}"
        )
    for threads, rate in found.pipeline.items():
        table.add_row(
            f"files to device, {threads} thread{'s' if threads > 1 else ''} of {num_cores()} cores", f"{rate:,.0f}"
        )
    output().print(table)
    for name, ratio in found.ratios.items():
        print(f"{name}: {ratio:.2f}")
    return 0


def _flags() -> Flags:
    flags = Flags("bench input EXPERIMENT [--flag=value ...]\n\nAll flags of train, and:")
    flags.define("turns", int, 5, "how often everything is measured; medians are shown")
    flags.define("json", bool, False, "print JSON")
    flags.define("num_devices", int | None, None, "devices to use; none: all")
    flags.define("config", str | None, None, "measure the run of this config.json; other flags change it")
    return flags
