"""Standard error, whose reader may go away before the run ends. Imports nothing that is slow."""

import os
import sys


def complain(text: str) -> None:
    """One line, whatever is muted."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # a broken pipe, or a file on a full disk
        speak_to_nobody()


def let_go() -> None:
    """What standard error cannot take any more, at the end of the process, is lost: Python would end with 120 for it."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        speak_to_nobody()


def speak_to_nobody() -> None:
    """From now on what is written to standard error is lost, without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
