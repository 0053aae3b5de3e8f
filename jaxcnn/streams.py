"""The standard streams, whose other ends may be closed, full or gone before the run ends. Imports nothing that is slow."""

import contextlib
import io
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Call it first: the next file that is opened would take the number of a stream that whoever started us has closed.

    And a table may hold what standard output cannot encode: a question mark is better than no table.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper) and flushed(sys.stdout):  # standard error replaces by itself
        sys.stdout.reconfigure(errors="replace")


def complain(text: str) -> None:
    """One line on standard error, whatever is muted."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # a broken pipe, or a file on a full disk
        silence(sys.stderr)


def flushed(stream: TextIO) -> bool:
    """Whether a stream takes what waits in it. When it does not, that is lost: Python would end with 120 for it."""
    try:
        stream.flush()
    except (OSError, ValueError):
        silence(stream)
        return False
    return True


def let_go() -> None:
    """What the standard streams cannot take any more, at the end of the process, is lost."""
    for stream in (sys.stdout, sys.stderr):
        flushed(stream)


def silence(stream: TextIO) -> None:
    """From now on what is written to the stream is lost, without an error."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # a stream without a file
        os.dup2(nowhere.fileno(), stream.fileno())
