"""Signals as they come, on a thread: Python calls handlers in the main thread, and not before that has left C++ code."""

import signal
import socket
import threading
from collections.abc import Callable, Collection
from types import FrameType


def hear(heard: Callable[[signal.Signals], None], numbers: Collection[signal.Signals]) -> Callable[[], None]:
    """Call ``heard`` with each of these signals, at once and on a thread of its own; returns what undoes all this.

    The main thread may be in a step, in a download, or waiting for other processes: nothing wakes it when the signal
    reaches another thread, or itself a moment before it begins to wait.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # Python asks for that
    file = signal.set_wakeup_fd(theirs.fileno())
    before = {number: signal.signal(number, _nothing) for number in numbers}

    def tell() -> None:
        with ours:
            while byte := ours.recv(1):
                if byte[0] in before:
                    heard(signal.Signals(byte[0]))

    def undo() -> None:
        signal.set_wakeup_fd(file)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()

    threading.Thread(target=tell, name="signals", daemon=True).start()
    return undo


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler there must be, or Python would not hear the signal at all."""
