"""Errors that end a run, each with the exit code the shell sees.

A message is one line that names the argument, the value it got, what is allowed and what to do. The command line
prints it without a traceback (``--debug`` shows one); library users catch the classes.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "JaxcnnError",
    "NonFiniteError",
    "PeerError",
    "Preempted",
    "UsageError",
    "nearest",
]


class JaxcnnError(Exception):
    """Base of all errors that jaxcnn raises on purpose."""

    exit_code = 1


class UsageError(JaxcnnError, ValueError):
    """A wrong argument, flag or configuration."""

    exit_code = 2


class DataError(JaxcnnError):
    """Data that is missing, damaged, or not what the configuration says."""

    exit_code = 3


class CheckpointError(JaxcnnError):
    """A checkpoint that is missing, damaged, or of another network; or one that cannot be written."""

    exit_code = 4


class NonFiniteError(JaxcnnError):
    """NaN or infinity in the loss, the gradients, the parameters or the batch statistics."""

    exit_code = 5


class PeerError(JaxcnnError):
    """Another process of the run is missing or lost."""

    exit_code = 6


class Preempted(JaxcnnError):
    """The run was asked to stop, saved its state and can be started again."""

    exit_code = 75


def nearest(name: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x' or 'y'?"`` for the names closest to ``name``, or ``""`` when none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
