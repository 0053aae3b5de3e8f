"""Results as files: what was measured, on what, with which versions."""

import datetime
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxcnn import environment

FOLDER = pathlib.Path(__file__).parent / "results"


def hardware() -> str:
    """The processor in words."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{environment.num_cores()} cores of {name}"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and all values."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
        "values": list(values),
    }


def in_turns(functions: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each call, all functions once a turn, so that what else the machine does meets all alike.

    Each turn begins with another: what a function leaves in the caches is there for the next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def write(name: str, clock: str, figures: dict[str, Any], tiny: bool) -> None:
    """Write ``results/NAME.json``; a tiny run, which only shows that the script works, goes to standard output."""
    kept = {key: value for key, value in environment.versions().items() if key != "jaxcnn"}
    record = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "load_before": os.getloadavg()[0],
        "clock": clock,
        "versions": kept,
        **figures,
    }
    text = json.dumps(record, indent=1) + "\n"
    if tiny:
        print(text)
        return
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(text)
    print(f"wrote {FOLDER / name}.json")


def read(name: str) -> dict[str, Any]:
    """What ``write`` wrote."""
    return json.loads((FOLDER / f"{name}.json").read_text())
