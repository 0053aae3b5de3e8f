"""``prepare DATASET``: download a dataset and prepare it for training."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

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
    with _ctrl_c_ends_the_process():
        done = prepare(rest[0], flags["data_dir"], flags["manual_dir"], flags["offline"])
    rows = {
        "directory": done.directory,
        "examples": ", ".join(f"{name} {count:,}" for name, count in done.splits.items()),
        "size": f"{done.num_bytes / 1e6:,.1f} MB",
    }
    output().print(table(f"{rest[0]} {'is' if done.new else 'was already'} prepared", rows))
    return 0


@contextlib.contextmanager
def _ctrl_c_ends_the_process() -> Iterator[None]:
    """An exception would be caught by TFDS, and a usual exit would wait for the threads that download.

    Nor can a handler do it: Python calls handlers in the main thread, and that waits for the downloads. Nothing wakes it
    when the signal reaches another thread, or itself a moment before it begins to wait.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # Python asks for that
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    file = signal.set_wakeup_fd(theirs.fileno())
    threading.Thread(target=_end_on_ctrl_c, args=[ours], daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(file)
        signal.signal(signal.SIGINT, handler)
        theirs.close()


def _end_on_ctrl_c(signals: socket.socket) -> None:
    with signals:
        while number := signals.recv(1):
            if number[0] == signal.SIGINT:
                say("stopped; start it again to go on")
                os._exit(130)
