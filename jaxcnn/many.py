"""Many runs of one experiment, with other seeds or other numbers: trained in one program, told as mean and deviation.

Each is an ordinary run in a directory of its own, which can be resumed, evaluated and predicted with by itself. Runs that
differ only in numbers that an update computes with (``config.TRACED``) share one compiled update, and are trained one after
the other ("turns"), each on a device of its own ("devices"), or as one stacked update ("vmap").
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcnn import loop
from jaxcnn import mesh as meshes
from jaxcnn.config import TRACED, Config, leaves, replace, to_json, total_steps
from jaxcnn.console import muted, say
from jaxcnn.errors import JaxcnnError, NonFiniteError, Preempted, UsageError
from jaxcnn.rundir import RunDir
from jaxcnn.state import State
from jaxcnn.step import TrainStep
from jaxcnn.task import Task, build
from jaxcnn.typing import Batch, PyTree, Sums

WAYS = ("auto", "turns", "devices", "vmap")
_MEASURES = ("eval_accuracy", "eval_loss", "train_accuracy", "train_loss")

Values = Mapping[str, Any]  # arrays
Stop = Callable[[], bool]


def variations(config: Config, seeds: int = 1, sweep: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Config]:
    """``{"learning_rate=0.1,seed=0": config, ...}``: each combination of the sweep's values and of seeds from the config's on."""
    swept = dict(sweep or {})
    if seeds < 1:
        raise UsageError(f"seeds={seeds} must be >= 1")
    if seeds > 1 and "seed" in swept:
        raise UsageError(f"seeds={seeds} and a sweep over seed: give one of the two")
    axes = swept | ({"seed": range(config.seed, config.seed + seeds)} if seeds > 1 else {})
    found = {}
    for values in itertools.product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        name = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in changes.items()).replace("/", "_")
        found[name] = replace(config, changes)
    return found


def run(
    runs: Mapping[str, Config],
    workdir: str | os.PathLike[str],
    *,
    way: str = "auto",
    resume: str = "auto",
    num_devices: int | None = None,
    stop: Stop = lambda: False,
) -> dict[str, Any]:
    """Train all of ``runs``, each in ``workdir/NAME``; returns what ``workdir/summary.json`` holds.

    Args:
      runs: name -> config, as ``variations`` makes them.
      workdir: directory of the run directories.
      way: "turns", "devices" or "vmap"; "auto": "devices" where there are several, else "turns".
      resume, num_devices, stop: see ``loop.run``.

    Raises:
      UsageError, DataError, CheckpointError, Preempted: of any run, once the others have stopped or ended.
      NonFiniteError: no run has ended with finite numbers.
    """
    if way not in WAYS:
        raise UsageError(f"together={way!r} must be one of {', '.join(WAYS)}")
    if any(config.elastic_exact for config in runs.values()):
        raise UsageError("elastic_exact=True is for single runs")
    if jax.process_count() > 1:
        raise UsageError("several seeds or a sweep are for one process; start a run for each instead")
    mesh = meshes.make_mesh(num_devices)
    if way == "auto":
        way = "devices" if mesh.size > 1 else "turns"
    folder = pathlib.Path(workdir)
    train = functools.partial(_train, folder=folder, resume=resume)
    groups: dict[str, list[str]] = {}  # runs that share a program
    for name, config in runs.items():
        RunDir(folder / name).check(config, resume)
        groups.setdefault(to_json(_without(config)), []).append(name)
    for names in groups.values() if len(groups) > 1 else ():  # what cannot be trained is found before others are
        build(runs[names[0]], num_devices)
    results: dict[str, dict[str, Any] | JaxcnnError] = {}
    with RunDir(folder).locked_as_folder():
        for names in groups.values():
            say(f"{len(names)} runs with one program ({way}): {names[0]} to {names[-1]}")
            results |= _WAYS[way]({name: runs[name] for name in names}, mesh, train, stop)
    for error in results.values():
        if isinstance(error, JaxcnnError) and not isinstance(error, NonFiniteError):
            raise error
    failed = {name: str(result) for name, result in results.items() if isinstance(result, NonFiniteError)}
    done = {name: result for name, result in results.items() if isinstance(result, dict)}
    if not done:
        raise NonFiniteError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    summary = {"groups": summarise(done, runs), "runs": done, "failed": failed, "way": way}
    RunDir(folder).write_summary(summary)
    return summary


def summarise(done: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (n - 1) and half the width of the 95 % confidence interval (Student) over the seeds.

    Runs that differ in more than the seed are different groups, named by what is common to the names of their runs.
    """
    groups: dict[str, list[str]] = {}
    for name in done:
        key = ",".join(part for part in name.split(",") if not part.startswith("seed=")) or "all"
        groups.setdefault(key, []).append(name)
    found: dict[str, dict[str, Any]] = {}
    for key, names in groups.items():
        found[key] = {"seeds": [runs[name].seed for name in names]}
        for measure in _MEASURES:
            values = [done[name][measure] for name in names if done[name].get(measure) is not None]
            if values:
                found[key][measure] = spread(values)
    return found


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """``{"mean", "std", "ci95"}``; of one value the last two are None."""
    n = len(values)
    if n == 1:
        return {"mean": values[0], "std": None, "ci95": None}
    from scipy import special  # slow to import, and every run would wait for it

    std = statistics.stdev(values)
    half = float(special.stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return {"mean": statistics.fmean(values), "std": std, "ci95": half}


def _train(name: str, task: Task, folder: pathlib.Path, resume: str, stop: Stop, train_step: TrainStep) -> Any:
    """The summary of a run, or the error for which there is none."""
    try:
        return loop.train(task, folder / name, resume=resume, stop=stop, train_step=train_step)
    except JaxcnnError as error:
        return type(error)(f"{name}: {error}")


def _without(config: Config) -> Config:
    """The config with the default in the place of all that is traced: equal for runs that share a program."""
    default = leaves(Config(steps=1))
    return replace(config, {path: default[path][0] for path in TRACED})


@dataclasses.dataclass(frozen=True)
class _Group:
    """Runs that share a program.

    Attributes:
      task: of the first.
      update: ``(values, state, batch) -> (state, sums)``.
      values: of each run, as arrays: the seed, and what is not the same in all.
    """

    task: Task
    update: Callable
    values: dict[str, Values]


def _group(runs: Mapping[str, Config], mesh: Mesh) -> _Group:
    config = next(iter(runs.values()))
    fields = {name: leaves(run) for name, run in runs.items()}
    paths = [path for path in TRACED if path == "seed" or len({found[path][0] for found in fields.values()}) > 1]
    values: dict[str, Any] = {
        name: {path: np.asarray(found[path][0], np.uint32 if path == "seed" else np.float32) for path in paths}
        for name, found in fields.items()
    }
    task = build(config, mesh=mesh)
    update = task.update_of(total_steps(config, task.num_examples(config.data.train_split)))
    return _Group(task, update, values)


def _in_turns(runs: Mapping[str, Config], mesh: Mesh, train: Callable, stop: Stop) -> dict[str, Any]:
    group = _group(runs, mesh)
    shardings = (group.task.shardings, meshes.everywhere(mesh))
    jitted = jax.jit(group.update, donate_argnums=1, out_shardings=shardings)
    group.task.check(functools.partial(jitted, next(iter(group.values.values()))))  # traced once, for the run too
    results = {}
    for name, config in runs.items():
        step = functools.partial(jitted, group.values[name])
        results[name] = train(name, group.task.with_config(config), stop=stop, train_step=step)
        if isinstance(results[name], Preempted):
            break
    return results


def _on_devices(runs: Mapping[str, Config], mesh: Mesh, train: Callable, stop: Stop) -> dict[str, Any]:
    """Each device takes every n-th run, one after the other; nothing is communicated."""
    names, results = list(runs), {}

    def work(number: int) -> dict[str, Any]:
        own = {name: runs[name] for name in names[number :: mesh.size]}
        device = mesh.devices.flat[number]
        with jax.default_device(device):
            return _muted_but(number == 0, _in_turns, own, meshes.of_devices([device]), train, stop)

    with futures.ThreadPoolExecutor(mesh.size) as pool:
        for part in pool.map(work, range(min(mesh.size, len(names)))):
            results |= part
    return results


def _as_one(runs: Mapping[str, Config], mesh: Mesh, train: Callable, stop: Stop) -> dict[str, Any]:
    group = _group(runs, mesh)
    group.task.check(functools.partial(group.update, next(iter(group.values.values()))))
    together = _Together(group.update, list(group.values.values()), stop)

    def work(numbered: tuple[int, str]) -> Any:
        number, name = numbered
        try:
            step = functools.partial(together.step, number)
            member = group.task.with_config(runs[name])
            return _muted_but(number == 0, train, name, member, stop=together.stop, train_step=step)
        finally:
            together.leave(number)

    with futures.ThreadPoolExecutor(len(runs)) as pool:
        return dict(zip(runs, pool.map(work, enumerate(runs)), strict=True))


def _muted_but(speaks: bool, function: Callable, *args: Any, **kwargs: Any) -> Any:
    if speaks:
        return function(*args, **kwargs)
    with muted():
        return function(*args, **kwargs)


class _Together:
    """The updates of several runs, each told in a thread of its own, as one compiled call on stacked states.

    A call waits until all runs that still go on have brought their state and batch. Whether to stop is asked once a round, so
    that all stop at the same call.
    """

    def __init__(self, update: Callable, values: Sequence[Values], stop: Stop):
        self._values, self._ask = values, stop
        self._update = jax.jit(functools.partial(_stacked, update), donate_argnums=1)
        self._going = set(range(len(values)))
        self._brought: dict[int, tuple[State, Batch]] = {}
        self._results: dict[int, tuple[State, Sums]] = {}
        self._failure, self._stop, self._turn = None, stop(), threading.Condition()

    def stop(self) -> bool:
        """The answer of this round."""
        return self._stop

    def step(self, number: int, state: State, batch: Batch) -> tuple[State, Sums]:
        """The update of run ``number``."""
        with self._turn:
            self._brought[number] = state, batch
            self._run_if_complete()
            self._turn.wait_for(lambda: number in self._results or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            return self._results.pop(number)

    def leave(self, number: int) -> None:
        """Run ``number`` has ended, in whatever way: the others go on without it."""
        with self._turn:
            self._going.discard(number)
            self._run_if_complete()

    def _run_if_complete(self) -> None:
        if not self._going or set(self._brought) != self._going:
            return
        members = sorted(self._brought)
        states, batches = zip(*(self._brought[number] for number in members), strict=True)
        self._brought.clear()
        try:
            results = self._update([self._values[number] for number in members], list(states), list(batches))
            self._results |= dict(zip(members, results, strict=True))
            self._stop = self._stop or self._ask()
        except BaseException as error:
            self._failure = error
        self._turn.notify_all()


def _stacked(
    update: Callable, values: list[Values], states: list[State], batches: list[Batch]
) -> list[tuple[State, Sums]]:
    """All updates as one, by ``vmap``."""
    stacked: PyTree = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *zip(values, states, batches, strict=True))
    results = jax.vmap(update)(*stacked)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], results) for i in range(len(states))]


_WAYS = {"turns": _in_turns, "devices": _on_devices, "vmap": _as_one}
