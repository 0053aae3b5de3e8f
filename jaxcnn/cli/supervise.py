"""Several processes of a run on this machine, and a run that is started again after a lost peer.

``train --nproc=2 --max_restarts=3`` ends here before jax is imported: the same command, less these two flags, is started
for each process, and watched. On several machines each has its own supervisor; a lost peer ends all processes, and each
supervisor starts its own again.
"""

import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from jaxcnn.errors import PeerError, Preempted, UsageError
from jaxcnn.streams import complain

_GRACE_SECONDS = 30.0  # for the others to end by themselves, when one has; JAX notices a dead peer within 15
_RESTART_AFTER_SECONDS = 1.0
_SUPERVISOR = "JAXCNN_SUPERVISOR"  # set for the processes that we start: our process id
_PR_SET_PDEATHSIG = 1


def wanted(arguments: Sequence[str]) -> tuple[int, int, list[str]] | None:
    """(processes, restarts, the other arguments) when the command asks for a supervisor; None when it does not."""
    found, rest, words = {"nproc": 1, "max_restarts": 0}, [], list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not word.startswith("-") or name not in found:
            rest.append(word)
            continue
        value = value if equals else (words.pop(0) if words else "")
        if not value.isdecimal() or (name == "nproc" and int(value) < 1):
            raise UsageError(f"--{name}={value} must be a whole number >= {int(name == 'nproc')}")
        found[name] = int(value)
    if (found["nproc"] == 1 and found["max_restarts"] == 0) or "--help" in rest:
        return None
    by_hand = [word for word in rest if word.lstrip("-").startswith(("coordinator", "num_processes", "process_id"))]
    if found["nproc"] > 1 and by_hand:
        raise UsageError(
            f"--nproc={found['nproc']} starts processes on this machine alone; it does not go with {by_hand[0]}"
        )
    return found["nproc"], found["max_restarts"], rest


def supervise(nproc: int, max_restarts: int, arguments: Sequence[str]) -> int:
    """Run the command as ``nproc`` processes, again after a lost peer; returns its exit code.

    SIGTERM, Ctrl-C and a closed terminal are passed on as SIGTERM: all processes save at the same step and end with 75, and
    so do we. A second Ctrl-C ends all at once.
    """
    group = _Group(nproc, arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup
            signal.signal(number, group.signalled)
    for restart in itertools.count(1):
        codes = group.run()
        result = outcome(codes)
        if result != PeerError.exit_code or group.stopping:
            return result
        lost = f"peer lost (exit codes {', '.join(map(str, codes))})"
        if restart > max_restarts:
            _tell(f"{lost}; no restart is left of --max_restarts={max_restarts}")
            return result
        _tell(f"{lost}; restart {restart} of {max_restarts}")
        time.sleep(_RESTART_AFTER_SECONDS)
    raise AssertionError("a loop without end")


def end_with_supervisor() -> None:
    """Have this process, if a supervisor started it, get SIGTERM when that dies, so that no run goes on unwatched (Linux)."""
    parent = os.environ.pop(_SUPERVISOR, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def outcome(codes: Sequence[int]) -> int:
    """What the exit codes of all processes mean together.

    An error that would come again (2 to 5, or 1) outweighs a lost peer, which is what the others then see. A death by a
    signal, JAX's own abort included, is a lost peer.
    """
    errors = [code for code in codes if code in (1, 2, 3, 4, 5)]
    if errors:
        return errors[0]
    if any(code not in (0, Preempted.exit_code) for code in codes):
        return PeerError.exit_code
    return max(codes)


class _Group:
    """The processes of one start."""

    def __init__(self, nproc: int, arguments: Sequence[str]):
        self._nproc, self._arguments = nproc, list(arguments)
        self._processes: list[subprocess.Popen] = []
        self._said: set[str] = set()
        self._interrupts = 0
        self.stopping = False

    def signalled(self, number: int, frame: FrameType | None) -> None:
        """Stop all, or, interrupted for the second time, end all."""
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            for process in self._processes:
                process.kill()
            os._exit(130)
        self.stop()

    def stop(self) -> None:
        """Pass a stop on to all."""
        self.stopping = True
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def run(self) -> list[int]:
        """Start all, wait for all; returns their exit codes. When one ends by an error, the others have a short time."""
        self._said.clear()
        address = f"127.0.0.1:{_free_port()}"
        self._processes = []
        for number in range(self._nproc):
            self._processes.append(self._start(number, address))  # one by one: a signal may come in between
        listeners = [threading.Thread(target=self._listen, args=[process]) for process in self._processes]
        for listener in listeners:
            listener.start()
        if self.stopping:  # a signal came while we started them
            self.stop()
        ended_at = None
        while any(process.poll() is None for process in self._processes):
            time.sleep(0.02)
            if ended_at is None and any(process.poll() not in (None, 0) for process in self._processes):
                ended_at = time.monotonic()
            if ended_at is not None and time.monotonic() - ended_at > _GRACE_SECONDS:
                for process in self._processes:
                    process.kill()
        for listener in listeners:
            listener.join()
        codes = [process.returncode for process in self._processes]
        too_early = -signal.SIGTERM  # our own signal, before Python could catch it
        return [Preempted.exit_code if self.stopping and code == too_early else code for code in codes]

    def _start(self, number: int, address: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "jaxcnn", "train", *self._arguments]
        environment = {**os.environ, _SUPERVISOR: str(os.getpid())}
        if self._nproc > 1:
            command += [f"--coordinator={address}", f"--num_processes={self._nproc}", f"--process_id={number}"]
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            if not any("elastic_exact" in word for word in self._arguments):  # which has a count of its own
                environment.setdefault("NPROC", str(max(1, cores // self._nproc)))
            environment.setdefault("JAX_LOCAL_DEVICE_IDS", str(number))  # a GPU each
        # A session of its own: Ctrl-C on the terminal reaches us alone, and we pass it on.
        return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)

    def _listen(self, process: subprocess.Popen) -> None:
        """Pass on what a process writes to standard error; what all of them say is said once."""
        assert process.stderr is not None
        for line in process.stderr:
            text = line.decode(errors="replace")
            if text.startswith("jaxcnn: ") and text in self._said:
                continue
            self._said.add(text)
            complain(text.rstrip("\n"))


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _tell(text: str) -> None:
    complain(f"jaxcnn: {text}")
