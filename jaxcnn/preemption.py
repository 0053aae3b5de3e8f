"""SIGTERM, a closed terminal and Ctrl-C: asked to stop, a run finishes its step, saves, and ends with 75."""

import contextlib
import os
import signal
from collections.abc import Callable

from jaxcnn import signals


class Preemption:
    """Remembers that a stop was asked for; the loop polls it.

    SIGTERM may come any number of times. A second Ctrl-C ends the process at once (exit 130), also in the middle of a step:
    the last finished checkpoint stays good.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._interrupts = 0
        self._undo: Callable[[], None] | None = None  # kept: it holds the socket by which signals come

    def install(self) -> "Preemption":
        """Hear the signals from now on; call it before the slow imports. What nohup ignores stays ignored."""
        hang_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []
        self._undo = signals.hear(self._hear, [signal.SIGTERM, signal.SIGINT, *hang_up])
        return self

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def _hear(self, number: signal.Signals) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(130)
        self.signal = number
        hint = " (again: end now)" if number == signal.SIGINT else ""
        with contextlib.suppress(OSError):  # whoever read it is gone
            os.write(2, f"\n{number.name}: saving, then stopping{hint}\n".encode())
