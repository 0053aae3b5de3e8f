"""SIGTERM, a closed terminal and Ctrl-C: asked to stop, a run finishes its step, saves, and ends with 75."""

import contextlib
import os
import signal
from types import FrameType


class Preemption:
    """Remembers that a stop was asked for; the loop polls it.

    SIGTERM may come any number of times. A second Ctrl-C ends the process at once (exit 130): the last finished
    checkpoint stays good.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._interrupts = 0

    def install(self) -> "Preemption":
        """Handle the signals from now on; call it before the slow imports. What nohup ignores stays ignored."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._handle)
        return self

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(130)
        self.signal = signal.Signals(number)
        hint = " (again: end now)" if number == signal.SIGINT else ""
        with contextlib.suppress(OSError):  # whoever read it is gone
            os.write(2, f"\n{self.signal.name}: saving, then stopping{hint}\n".encode())
