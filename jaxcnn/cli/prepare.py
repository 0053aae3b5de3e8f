"""``prepare DATASET``: download a dataset and prepare it for training."""

import os
import signal

from jaxcnn import signals
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.console import output, say, table
from jaxcnn.data.prepare import prepare
from jaxcnn.errors import UsageError


def main(arguments: list[str], stop: Stop) -> int:
    """Prepare one dataset, and say where it is."""
    flags = Flags(
        "prepare DATASET [--flag=value ...]\n\nDATASET is a name of the catalog, or tfds:NAME[/CONFIG] for any dataset of TFDS."
    )
    flags.define("data_dir", str | None, None, "directory of prepared TFDS datasets; none: in the user's cache")
    flags.define("manual_dir", str | None, None, "files that you downloaded yourself; none: DATA_DIR/downloads/manual")
    flags.define("offline", bool, False, "never touch the network: use files that were downloaded before")
    rest = flags.parse(arguments)
    if len(rest) != 1:
        raise UsageError(f"prepare takes one dataset, not {' '.join(rest) or 'none'}: prepare mnist --data_dir=DIR")
    undo = signals.hear(_end, [signal.SIGINT])
    try:
        done = prepare(rest[0], flags["data_dir"], flags["manual_dir"], flags["offline"])
    finally:
        undo()
    rows = {
        "directory": done.directory,
        "examples": ", ".join(f"{name} {count:,}" for name, count in done.splits.items()),
        "size": f"{done.num_bytes / 1e6:,.1f} MB",
    }
    output().print(table(f"{rest[0]} {'is' if done.new else 'was already'} prepared", rows))
    return 0


def _end(number: signal.Signals) -> None:
    """An exception would be caught by TFDS, and a usual exit would wait for the threads that download."""
    say("stopped; start it again to go on")
    os._exit(130)
