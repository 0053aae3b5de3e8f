"""What a person reads: lines on standard error, tables on standard output."""

import contextlib
import contextvars
import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxcnn.streams import flushed, silence


class _StandardError(Console):
    """A run is worth more than its reader: when that is gone, nothing is said any more, and all goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(sys.stderr)


class _StandardOutput(Console):
    """Whose reader is gone has read enough, as with ``jaxcnn models | head -1``: rich would end the process with 1."""

    def on_broken_pipe(self) -> None:
        silence(sys.stdout)


@functools.cache
def console() -> Console:
    """Standard error, shared by lines and bar so that they do not overwrite each other."""
    return _StandardError(stderr=True, highlight=False, soft_wrap=True)


def output(width: int = 240) -> Console:
    """Standard output for tables: as wide as the terminal, and elsewhere, by itself, wide enough for any table."""
    result = _StandardOutput(highlight=False, markup=False)  # a file may be called d[0].png
    if not result.is_terminal:
        result.width = width
    return result


def show(*parts: Table | str) -> None:
    """Tables and lines about work that is done and kept: when nobody can read them, nothing is lost."""
    with contextlib.suppress(OSError):  # a file on a full disk, or a terminal that is closed
        for part in parts:
            output().print(part)
    flushed(sys.stdout)


_MUTED: contextvars.ContextVar[bool] = contextvars.ContextVar("muted", default=False)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Nothing is said meanwhile, in this thread: of runs side by side one tells how it goes."""
    before = _MUTED.set(True)
    try:
        yield
    finally:
        _MUTED.reset(before)


def is_muted() -> bool:
    """Whether nothing is to be said."""
    return _MUTED.get()


def say(text: str) -> None:
    """One line to a person."""
    if not is_muted():
        with contextlib.suppress(OSError):  # standard error goes to a file, and its disk is full
            console().print(text, markup=False)


def table(title: str, rows: Mapping[str, Any]) -> Table:
    """A two-column table: name, value."""
    result = Table(title=title, title_justify="left", show_header=False)
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for name, value in rows.items():
        result.add_row(name, str(value))
    return result


def duration(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
