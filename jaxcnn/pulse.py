"""The pulse of the process: what gets on with reading the data beats it, and the watchdog feels it."""

_beats = 0


def beat() -> None:
    """Something was completed, if only one example read."""
    global _beats
    _beats += 1


def count() -> int:
    """How often it has beaten; a beat may be lost where two threads beat at once."""
    return _beats
