"""A watchdog: a run in which nothing is completed any more shows where it stands and ends, so that it can be started again."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn import pulse
from jaxcnn.errors import PeerError

_TICK_SECONDS = 0.5
_OF_A_FUNCTION = "/jax/core/compile/"
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # told when XLA's turn begins
_COMPILED = "/jax/core/compile/backend_compile_duration"
_compiling = threading.Event()


class Watchdog:
    """Ends the process with 6 when ``seconds`` have passed without a sign of life.

    Signs of life are the calls of ``alive``, the pulse of the process, beaten by examples that are read at the start, and
    each function that JAX has traced or compiled. The clock stands still while XLA compiles, and while the process itself is
    stopped (Ctrl-Z). The stacks of all threads are written to standard error first.
    """

    def __init__(self, seconds: float):
        self._limit, self._waited, self._closed = seconds, 0.0, threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def alive(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """``stop``, of which each call is a sign of life: it is asked after each update and each batch of an evaluation."""

        def asked() -> bool:
            self._waited = 0.0
            _compiling.clear()
            return stop()

        return asked

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    def _watch(self) -> None:
        last, beats = time.monotonic(), pulse.count()
        while not self._closed.wait(min(_TICK_SECONDS, self._limit / 4)):
            now = time.monotonic()
            if not _compiling.is_set():
                self._waited += min(now - last, 2 * _TICK_SECONDS)  # more was not our time: we were stopped
            if pulse.count() != beats:
                self._waited = 0.0
            last, beats = now, pulse.count()
            if self._waited > self._limit:
                self._end()

    def _end(self) -> None:
        faulthandler.dump_traceback(file=2, all_threads=True)
        text = (
            f"jaxcnn: nothing was completed for {self._limit:g} s (step_timeout); the stacks are above; start again\n"
        )
        os.write(2, text.encode())
        os._exit(PeerError.exit_code)


def _note(event: str, duration_secs: float, **details: Any) -> None:
    if event.startswith(_OF_A_FUNCTION):
        pulse.beat()
    if event == _LOWERED:
        _compiling.set()
    elif event == _COMPILED:
        _compiling.clear()


jax.monitoring.register_event_duration_secs_listener(_note)
