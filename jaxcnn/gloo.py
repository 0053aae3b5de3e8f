"""Gloo, by which CPUs do their collectives: where it listens, and what it says."""

import functools
import importlib
import os
import socket
import sys

from jaxcnn.streams import flushed


def listen(coordinator: str) -> None:
    """Let it listen on the interface that leads to the coordinator.

    By itself it takes the address of the host's own name, which on Debian is 127.0.1.1: others cannot reach that. JAX has
    no setting for it; where its inside is another, everything stays as it is.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing: it asks for the route
            own = probe.getsockname()[0]
        inside = importlib.import_module("jax._src.lib").xla_client._xla
        inside.make_gloo_tcp_collectives = functools.partial(inside.make_gloo_tcp_collectives, hostname=own)
    except (OSError, ImportError, AttributeError):
        return


def keep_output_clean() -> None:
    """It tells of its connections on standard output, where tables and JSON go: only Python's own writes get there now."""
    flushed(sys.stdout)
    ours = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.stdout = os.fdopen(ours, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)
