"""Checkpoints of a small and a large network: how long training waits, until they are on disk, and to read and check them.

    python benchmarks/checkpoint.py [--tiny]

A state holds parameters and momentum. ``ocdbt`` and ``a file an array`` are orbax's two formats, written by it alone, without
our copy and digest, to the same disk in turns.
"""

import functools
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable

from jaxcnn import environment

environment.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
from results import in_turns, spread, write  # noqa: E402

from jaxcnn import checkpoint, tree  # noqa: E402
from jaxcnn.bench import model as bench  # noqa: E402
from jaxcnn.saver import Saver  # noqa: E402
from jaxcnn.task import Task  # noqa: E402

CASES = {"lenet5": 41, "resnet50": 9}  # turns


def ours(task: Task, folder: pathlib.Path, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each part of ``Saver`` and ``checkpoint.restore``, with other values each time."""
    found: dict[str, list[float]] = {"training waits": [], "on disk": [], "restored": []}
    state = task.initial_state()
    other = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), state))

    def timed(what: str, call: Callable[[], object], begin: float | None = None) -> None:
        begin = begin or time.perf_counter()
        call()
        found[what].append(1000 * (time.perf_counter() - begin))

    with Saver(folder, 1, {}, print) as saver:
        for _ in range(turns + 1):  # the first compiles
            state = jax.block_until_ready(other(state))
            begin = time.perf_counter()
            timed("training waits", functools.partial(saver.save, state, {}, 0.0, "{}", {}))
            timed("on disk", saver.wait, begin)
            timed("restored", functools.partial(checkpoint.restore, folder, task.abstract))
    return {what: times[1:] for what, times in found.items()}


def formats(task: Task, folder: pathlib.Path, turns: int) -> dict[str, list[float]]:
    """Milliseconds in which orbax writes the state."""
    arrays = checkpoint.as_dicts(task.initial_state())

    def save(use_ocdbt: bool) -> None:
        path = folder / "state"
        shutil.rmtree(path, ignore_errors=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)) as writer:
            writer.save(path, args=ocp.args.PyTreeSave(arrays))

    ways = {"ocdbt": functools.partial(save, True), "a file an array": functools.partial(save, False)}
    for way in ways.values():
        way()
    return {way: [1000 * each for each in times] for way, times in in_turns(ways, turns).items()}


def main() -> None:
    tiny = "--tiny" in sys.argv
    rows = {}
    for name, turns in list(CASES.items())[: 1 if tiny else None]:
        task = bench.make_task(name, 8)
        with tempfile.TemporaryDirectory() as ours_in, tempfile.TemporaryDirectory() as theirs_in:
            found = ours(task, pathlib.Path(ours_in), 2 if tiny else turns)
            found |= formats(task, pathlib.Path(theirs_in), 2 if tiny else turns)
        rows[name] = {
            "bytes": tree.num_bytes(task.abstract._asdict()),
            "ms": {what: spread(times) for what, times in found.items()},
        }
    write("checkpoint", "until the call returns; 'on disk' and 'restored' with their digests", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
