"""What safety costs: the guard against NaN and infinity in an update, and the wait for a checkpoint.

    python benchmarks/overhead.py [--tiny]

The clock covers updates that are compiled; the ways alternate. ``bare`` is the update without the guard: the network's own
gradient and the optimizer, with the same sums. A difference of whole updates drowns in the noise of a shared machine, so
the guard's own work, a pass over all new parameters and batch statistics, is timed by itself as well: an upper bound, for
in the update it may be fused with what is there.
"""

import functools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

from jaxcnn import environment

environment.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from results import in_turns, spread, write  # noqa: E402

from jaxcnn import experiment, step, tree  # noqa: E402
from jaxcnn.config import replace  # noqa: E402
from jaxcnn.saver import Saver  # noqa: E402
from jaxcnn.task import Task, build  # noqa: E402
from jaxcnn.typing import Array, PyTree  # noqa: E402

CASES = {"lenet_mnist": (10, 201), "resnet18_cifar10": (1, 7)}  # updates in a row that are timed, and turns


def make_task(name: str, nonfinite: str, tiny: bool) -> Task:
    """The experiment on synthetic images of 32 x 32: the data are not what is measured."""
    config = experiment.load(name)
    changes = {"data.dataset": "fake", "nonfinite": nonfinite}
    return build(replace(config, changes | ({"data.batch_size": 8} if tiny else {})), 1)


def make_ways(name: str, tiny: bool) -> dict:
    """``{way: function of the number of updates}``."""

    def way(nonfinite: str, guarded: bool):
        task = make_task(name, nonfinite, tiny)
        batch = next(task.load("train", train=True).train_batches(0, task.config.data.batch_size, 0))
        with mock.patch.object(step, "all_finite", step.all_finite if guarded else lambda tree: jnp.array(True)):
            update = task.train_step(1000).lower(task.abstract, batch).compile()
        state = task.initial_state()

        def run(steps: int) -> None:
            nonlocal state
            for _ in range(steps):
                state, _ = update(state, batch)
            jax.block_until_ready(state)

        return run

    return {"bare": way("abort", False), "abort": way("abort", True), "skip": way("skip", True)}


def guard_times(name: str, tiny: bool) -> list[float]:
    """Milliseconds in which everything that an update must leave finite is looked at.

    That of many states in one program: the start of a program takes longer than the guard of a small network.
    """
    state = make_task(name, "abort", tiny).initial_state()
    many = 2 if tiny else max(4, 2**22 // tree.num_elements(state.params))
    parts = jax.tree.map(lambda leaf: jnp.stack([leaf] * many), (state.params, state.batch_stats))

    def bad(parts: PyTree) -> Array:
        return jnp.array([False, *(~tree.all_finite(part) for part in parts)])

    calls = {"guard": jax.jit(functools.partial(jax.lax.map, bad)), "nothing": jax.jit(lambda parts: jnp.zeros(many))}
    functions = {
        what: functools.partial(lambda call: jax.block_until_ready(call(parts)), call) for what, call in calls.items()
    }
    times = in_turns(functions, 3 if tiny else 101)
    return [1000 * (guard - nothing) / many for guard, nothing in list(zip(*times.values(), strict=True))[1:]]


def save_times(name: str, tiny: bool, repeats: int) -> dict[str, list[float]]:
    """Milliseconds that training waits for a checkpoint, that a copy to the host takes, and its digest."""
    task = make_task(name, "abort", tiny)
    state, found = task.initial_state(), {"wait": [], "copy": [], "digest": []}

    def timed(what: str, call: Callable[[], object]) -> None:
        begin = time.perf_counter()
        call()
        found[what].append(1000 * (time.perf_counter() - begin))

    with tempfile.TemporaryDirectory() as folder, Saver(pathlib.Path(folder), 2, {}, print) as saver:
        for number in range(1, repeats + 1):
            state = jax.block_until_ready(state._replace(step=jnp.int32(number)))
            timed("copy", functools.partial(jax.tree.map, np.array, state))
            timed("digest", functools.partial(tree.digest, state._asdict()))
            timed("wait", functools.partial(saver.save, state, {}, 0.0, "{}", {}))
            saver.wait()
    return found


def main() -> None:
    tiny = "--tiny" in sys.argv
    rows = {}
    for name, (steps, turns) in list(CASES.items())[: 1 if tiny else None]:
        ways = make_ways(name, tiny)
        for run in ways.values():
            run(2)
        found = in_turns({way: functools.partial(run, steps) for way, run in ways.items()}, 2 if tiny else turns)
        overhead = {
            way: 100 * (statistics.median(t / s for t, s in zip(times, found["bare"], strict=True)) - 1)
            for way, times in found.items()
        }
        updates = {
            way: {
                "ms": spread([1000 * each / steps for each in times]),
                "overhead_percent": overhead[way],
            }
            for way, times in found.items()
        }
        guard = spread(guard_times(name, tiny))
        share = 100 * guard["median"] / updates["bare"]["ms"]["median"]
        saves = {what: spread(times) for what, times in save_times(name, tiny, 2 if tiny else 11).items()}
        rows[name] = {"updates": updates, "guard_ms": guard, "guard_percent": share, "save_ms": saves}
    write("overhead", "compiled updates, the ways in turns; what a save keeps training waiting", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
