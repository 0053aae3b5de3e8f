"""The processes of a run: who they are, how they meet, and what they must agree on.

Each runs the same program on its own devices (JAX's multi-controller model). Nothing here is needed by a run of one process.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcnn import gloo
from jaxcnn.console import console
from jaxcnn.errors import JaxcnnError, PeerError, Preempted, UsageError
from jaxcnn.streams import complain, flushed

_HEARTBEAT_SECONDS = 15  # without a sign of life from a peer, after which all others end
_LOST = re.compile("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION):")
_PATIENCE_SECONDS = 5  # that a process that failed waits for the others to fail too


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among the others; what is None is left to JAX to find out.

    Attributes:
      coordinator: ``host:port`` of process 0.
      num_processes: how many there are.
      process_id: number of this one, from 0.
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def find_place(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """The place of this process, from the arguments or from what started it; None for a run of one process.

    Looked for in this order: the arguments; ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``
    (a Kubernetes JobSet sets them, docs/scale.md); SLURM's ``srun``; Open MPI's ``mpirun``; a TPU pod.

    Raises:
      UsageError: an argument is missing or wrong.
    """

    def number(name: str, value: Any) -> int | None:
        if value is None or value == "":
            return None
        if not str(value).isdecimal():
            raise UsageError(f"{name}={value} must be a whole number >= 0")
        return int(value)

    given = {
        "coordinator": coordinator or environment.get("JAX_COORDINATOR_ADDRESS") or None,
        "num_processes": number(
            "num_processes", environment.get("JAX_NUM_PROCESSES") if num_processes is None else num_processes
        ),
        "process_id": number("process_id", environment.get("JAX_PROCESS_ID") if process_id is None else process_id),
    }
    for size, rank in (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")):
        step = size != "SLURM_NTASKS" or "SLURM_STEP_NODELIST" in environment  # a batch script is no step of srun's
        several = rank in environment and int(environment.get(size, 1)) > 1
        if step and several and given["num_processes"] is None:
            given |= {"num_processes": int(environment[size]), "process_id": int(environment[rank])}
            return _checked(Place(**given))
    if all(value is None for value in given.values()):
        pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        return Place(None, None, None) if pod else None
    place = _checked(Place(**given))
    if missing := [name for name, value in given.items() if value is None]:
        raise UsageError(
            f"--{missing[0]} is missing: a process of several needs --coordinator=HOST:PORT, --num_processes and --process_id"
        )
    return place


def _checked(place: Place) -> Place:
    if place.coordinator is not None:
        host, _, port = place.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"coordinator={place.coordinator!r} must be HOST:PORT of process 0, e.g. node1:1234")
    count, number = place.num_processes, place.process_id
    if count is not None and number is not None and not 0 <= number < count:
        raise UsageError(f"process_id={number} must be in [0, {count}), num_processes={count}")
    return place


def join(place: Place, timeout_seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
    """Meet the other processes; call it before the first array is made.

    Ends the process with the exit code of PeerError when they have not all come in time: JAX itself would abort it. And
    with that of Preempted when ``stop`` is true meanwhile, from any thread: there is nothing to save.

    Raises:
      PeerError: the coordinator's port is taken, or nothing says where this process stands.
    """
    host = (place.coordinator or "").rpartition(":")[0].strip("[]")
    alone = host in ("localhost", "::1") or host.startswith("127.")  # one machine: nobody else may connect
    about = f"process {place.process_id} of {place.num_processes}, coordinator {place.coordinator}"

    met = threading.Event()

    def watch() -> None:
        begin = time.monotonic()
        while not met.wait(0.1):
            if stop() and not met.wait(1.0):  # who is at the door may come in: then all stop together
                end(Preempted("stopped while it waited for the others; start all again"))
            if time.monotonic() - begin > timeout_seconds:
                end(
                    PeerError(f"the others have not come within {timeout_seconds:g} s; start all, with one coordinator")
                )

    def end(error: JaxcnnError) -> None:
        complain(f"jaxcnn: {about}: {error}")
        os._exit(error.exit_code)

    if place.process_id == 0 and place.coordinator:
        _check_port(place.coordinator, about)  # JAX would crash
    if place.coordinator:
        gloo.listen(place.coordinator)
    threading.Thread(target=watch, name="join", daemon=True).start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            initialization_timeout=int(timeout_seconds) + 60,
            coordinator_bind_address=place.coordinator if alone else None,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PeerError(f"{about}: {reason}") from None
    finally:
        met.set()
    console().quiet = place.process_id != 0 if place.process_id is not None else not is_first()
    gloo.keep_output_clean()


def _check_port(address: str, about: str) -> None:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", int(port)))
            trial.listen()
        except OSError as error:
            raise PeerError(f"{about}: port {port} cannot be used ({error.strerror}); choose another") from None


def is_first() -> bool:
    """Whether this process writes the files and talks to people."""
    return jax.process_index() == 0


def all_say(text: str) -> list[str]:
    """What each process says, by its number. All must call it at the same place of the program."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    return [
        row[:size].tobytes().decode()
        for row, size in zip(multihost_utils.process_allgather(padded), sizes, strict=True)
    ]


def agree(facts: Mapping[str, Any]) -> None:
    """UsageError, on all processes, unless all have the same facts; names what differs, and where."""
    said = [json.loads(text) for text in all_say(json.dumps(facts, default=str))]
    for number, other in enumerate(said):
        differing = [name for name in {**said[0], **other} if said[0].get(name) != other.get(name)]
        if differing:
            told = "; ".join(f"{name} {said[0].get(name)!r} and {other.get(name)!r}" for name in differing[:5])
            raise UsageError(
                f"processes 0 and {number} were started differently: {told}; start all by the same command"
            )


def first_says(text: str) -> str:
    """What process 0 says: all must call it, and all go on with the same."""
    return all_say(text if is_first() else "")[0]


def meet(place: str) -> None:
    """Wait until all have come to this place of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on the host, also where other processes hold parts of it. All must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """PeerError instead of what a collective operation says when one of the processes is gone; also a decorator."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo's come as either
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if jax.process_count() == 1 or not _LOST.match(reason):
            raise
        raise PeerError(f"process {jax.process_index()}: a peer is lost ({reason[:200]}); start all again") from error


def union(found: Mapping[int, str]) -> dict[int, str]:
    """What the processes have found together."""
    if jax.process_count() == 1:
        return dict(found)
    parts = (json.loads(text) for text in all_say(json.dumps(found)))
    return {int(index): reason for part in parts for index, reason in part.items()}


def together(stop: Callable[[], bool]) -> Callable[[], bool]:
    """``stop`` for all: once it is true on one process, all see true at the same call, a little later, and ever after.

    All must call the result at the same places of the program. JAX's own protocol: a process that gets SIGTERM tells the
    others, and they settle on the next call that none of them has made yet. Python's handlers do not see that signal.
    """
    if jax.process_count() == 1:
        return stop
    calls, told, reached = itertools.count(1), False, False

    def stopping() -> bool:
        nonlocal told, reached
        if stop() and not told:  # a Ctrl-C, or a signal that came before the processes had met
            told = True
            os.kill(os.getpid(), signal.SIGTERM)
        # JAX says so at the one call that was settled on, and not at those after it.
        reached = multihost_utils.reached_preemption_sync_point(next(calls)) or reached
        return reached

    return stopping


def leave(exit_code: int = 0) -> None:
    """Part from the others in order: none ends before all have come to their end.

    After an error (``exit_code`` is not 0) the others may never come: after five seconds the process ends without them.
    """
    if not jax.distributed.is_initialized():
        return
    flushed(sys.stdout)
    timer = threading.Timer(_PATIENCE_SECONDS, os._exit, [exit_code])
    timer.daemon = True
    if exit_code == PeerError.exit_code:
        os._exit(exit_code)
    if exit_code:
        timer.start()
    jax.distributed.shutdown()
    timer.cancel()
