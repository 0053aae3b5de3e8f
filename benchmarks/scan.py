"""Updates inside ``lax.scan`` beside the same number of calls, in turns: what training many steps in one call costs on a CPU.

    python benchmarks/scan.py [--tiny]

The networks are those of ``cpu_vs_torch.py``. The clock covers updates on images that are on the device, after compilation.
"""

import functools
import sys
import time
from collections.abc import Callable

from jaxcnn import environment

environment.prepare()

import jax  # noqa: E402
from cpu_vs_torch import CASES  # noqa: E402
from results import in_turns, spread, write  # noqa: E402

from jaxcnn.bench import model as bench  # noqa: E402
from jaxcnn.task import Task  # noqa: E402


def ways(task: Task, seconds: float) -> tuple[int, dict[str, Callable[[], object]]]:
    """The number of updates that take ``seconds``, at least two, and a call of each way that makes them."""
    batch, update = bench.on_devices(task), task.train_step(10**6)
    state = update(task.initial_state(), batch)[0]

    def separately(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = update(state, batch)
        jax.block_until_ready(state)

    separately(1)
    begin = time.perf_counter()
    separately(1)
    steps = max(2, round(seconds / (time.perf_counter() - begin)))

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, batch):
        return jax.lax.scan(lambda state, _: update(state, batch), state, length=steps)

    def together() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(scan(state, batch))

    together()
    return steps, {"step by step": functools.partial(separately, steps), "in lax.scan": together}


def main() -> None:
    tiny = "--tiny" in sys.argv
    rows = {}
    for name, arguments in {"LeNet-5, 4": {"model": "lenet5", "batch_size": 4}}.items() if tiny else CASES.items():
        task = bench.make_task(**arguments)
        steps, calls = ways(task, 0.01 if tiny else 0.5)
        times = in_turns(calls, 2 if tiny else 9)
        rate = {
            way: spread([steps * task.config.data.batch_size / each for each in seconds])
            for way, seconds in times.items()
        }
        slower = rate["step by step"]["median"] / rate["in lax.scan"]["median"]
        rows[name] = rate | {"steps": steps, "time_in_scan": slower}
        print(f"{name}: in lax.scan {slower:.2f} times as long", file=sys.stderr)
    write("scan", "updates on images that are on the device, after compilation", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
