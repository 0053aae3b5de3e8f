"""Saving checkpoints in the background, and deciding which ones stay."""

import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from jaxcnn import checkpoint, hosts, tree
from jaxcnn.errors import CheckpointError, PeerError, Preempted
from jaxcnn.state import State
from jaxcnn.typing import PyTree

_ATOMICITY = AtomicityOptions(mode=AtomicityMode.COMMIT_FILE)
_MAX_FAILURES = 3
_SECONDS_BEFORE_RETRY = (1, 2)
_FULL = ("no space left", "disk quota", "file too large", "bytes are free")  # trying again at once would not help


class Saver:
    """Writes checkpoints of one run in the background; keeps the latest ``keep`` and the best.

    The caller waits for the copy to host memory only. A save that fails is tried again, up to three times in all, unless
    the disk is full; when it has failed for good, that is told through ``warn`` and training goes on; after three such
    saves in a row ``save`` raises CheckpointError. A step counts as saved when its marker is on disk, not before.

    Args:
      directory: where the steps go.
      keep: how many of the latest stay, beside the best.
      scores: evaluation accuracy of steps that are there already.
      warn: gets a line for each save that failed.
      first: brings to disk what must be there before a checkpoint; when it raises OSError, the save has failed.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        keep: int,
        scores: Mapping[int, float],
        warn: Callable[[str], None],
        first: Callable[[], None] = lambda: None,
    ):
        self._warn, self._first, self._failures = warn, first, 0
        self._pending: _Pending | None = None
        self._result: Callable[[], str] = str
        self._background = futures.ThreadPoolExecutor(1, "saver")
        self._policy = _KeepLatestAndBest(keep, dict(scores))
        self._options = ocp.CheckpointManagerOptions(
            create=True,
            step_name_format=ocp.path.step.standard_name_format(atomicity_options=_ATOMICITY),
            atomicity_options=_ATOMICITY,
            preservation_policy=self._policy,
            enable_async_checkpointing=True,
        )
        self._directory = directory
        with checkpoint.alone:
            self._manager = _Manager(directory, options=self._options)

    def save(
        self,
        state: State,
        metrics: Mapping[str, float],
        seconds: float,
        config: str,
        versions: Mapping[str, str],
        data: Mapping[str, str] | None = None,
    ) -> None:
        """Start to write the state; returns when it is copied to host memory. A step that is on disk stays as it is."""
        self.finish()
        step = int(state.step)
        if step in checkpoint.steps(self._directory):
            return
        self.note_score(step, metrics.get("eval_accuracy"))
        named = state._asdict()
        # A copy of our own: the next update takes the state's memory, and a failed save is tried again from here.
        arrays, digest, manifest = _on_host(checkpoint.as_dicts(state)), tree.begin_digest(named), tree.manifest(named)

        def describe() -> dict[str, Any]:
            kept = dict(metrics), seconds, config, dict(versions), dict(data or {})
            return checkpoint.sealed(checkpoint.Meta(step, digest(), manifest, *kept))

        self._pending = _Pending(step, arrays, describe)
        if not self._start(self._pending):
            self.finish()

    def finish(self) -> None:
        """Have the save that is under way finished, with new tries; count it when it has failed for good."""
        if (pending := self._pending) is None:
            return
        problem = self._result()
        for seconds in _SECONDS_BEFORE_RETRY:
            if not problem or any(words in problem.lower() for words in _FULL):
                break
            self._begin_anew()
            time.sleep(seconds)
            self._start(pending)
            problem = self._result()
        self._pending = None
        if not problem:
            self._failures = 0
            return
        self._begin_anew()
        self._failures += 1
        self._warn(f"checkpoint of step {pending.step} not written ({problem}); training goes on")
        if self._failures >= _MAX_FAILURES:
            raise CheckpointError(
                f"{self._failures} checkpoints in a row could not be written to {self._directory}: {problem}"
            )

    def note_score(self, step: int, accuracy: float | None) -> None:
        """Say how accurate a step is: the best one stays."""
        if accuracy is not None:
            self._policy.accuracy[step] = accuracy

    def wait(self) -> None:
        """Wait for the last save; CheckpointError when it failed."""
        self.finish()
        if self._failures:
            raise CheckpointError(
                f"the last checkpoint could not be written to {self._directory}; earlier ones are intact"
            )

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the last save, also when the run ends by an error or a stop; without a peer it cannot be finished."""
        if kind is not None and issubclass(kind, PeerError):
            return
        try:
            if kind is None or issubclass(kind, Preempted):
                self.wait()
            else:
                self.finish()
        finally:
            self._background.shutdown()
            with checkpoint.alone:
                self._manager.close()

    def _start(self, pending: "_Pending") -> bool:
        """Start to write, and say whether it went well so far; ``_result`` waits, and returns what went wrong, or nothing.

        In the background; but several processes, of which all must begin or none, for orbax waits for all, begin here:
        what they tell each other has its place among the sums of training.
        """
        problem = _first_of(hosts.all_say(self._obstacle(pending)))
        if not problem and jax.process_count() == 1:
            self._result = self._background.submit(self._write, pending).result
            return True
        problem = problem or _first_of(hosts.all_say(self._problem(self._begin, pending)))
        self._result = lambda: problem or _first_of(hosts.all_say(self._problem(self._end, pending)))
        return not problem

    def _write(self, pending: "_Pending") -> str:
        with checkpoint.alone:
            return self._problem(self._begin, pending) or self._problem(self._end, pending)

    def _begin(self, pending: "_Pending") -> None:
        fields = ocp.args.JsonSave(pending.describe())
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(pending.arrays), meta=fields)
        self._manager.save(pending.step, args=arguments, force=True)

    def _end(self, pending: "_Pending") -> None:
        self._manager.wait_until_finished()
        if hosts.is_first() and not (self._directory / str(pending.step) / checkpoint.MARKER).exists():
            raise OSError("the step was not committed")

    def _problem(self, call: Callable[["_Pending"], None], pending: "_Pending") -> str:
        """What goes wrong, or nothing."""
        try:
            call(pending)
        except Exception as error:  # whatever orbax or the disk says: the run is worth more than this save
            return _reason(error)
        return ""

    def _obstacle(self, pending: "_Pending") -> str:
        """What forbids a save on this process, or nothing."""
        try:
            self._first()
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            return _reason(error)
        if hosts.is_first() and free < (needed := tree.num_bytes(pending.arrays)):
            return f"{free:,} bytes are free, {needed:,} are needed"
        return ""

    def _begin_anew(self) -> None:
        """Remove what a failed save left behind, and forget it."""
        if hosts.is_first():
            checkpoint.remove_unfinished(self._directory)
        with checkpoint.alone:
            self._manager = _Manager(self._directory, options=self._options)


class _Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask by itself whether the processes have settled on a stop."""

    def reached_preemption(self, step: int) -> bool:
        # JAX counts one series of calls. Orbax's would set ``hosts.together``'s back to ``step``: processes that settle on
        # the next call meanwhile settle on one that is over, and a stop that comes while we save is lost.
        return False


class _Pending(NamedTuple):
    """A checkpoint that is being written: its arrays in host memory, and what makes its description."""

    step: int
    arrays: dict[str, Any]
    describe: Callable[[], dict[str, Any]]


def _on_host(arrays: PyTree) -> PyTree:
    """A copy in the memory of the host; of arrays that are spread over processes, one on the devices."""
    for leaf in jax.tree.leaves(arrays):
        leaf.copy_to_host_async()

    def copied(leaf: jax.Array) -> np.ndarray | jax.Array:
        if leaf.is_fully_replicated or leaf.is_fully_addressable:
            return np.array(leaf)
        return jax.device_put(leaf, leaf.sharding, may_alias=False)

    return jax.tree.map(copied, arrays)


def _first_of(problems: Sequence[str]) -> str:
    return next(filter(None, problems), "")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _KeepLatestAndBest:
    """Orbax's preservation policy: the latest ``keep`` steps and the most accurate one."""

    def __init__(self, keep: int, accuracy: dict[int, float]):
        self.keep, self.accuracy = keep, accuracy

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        present = sorted(info.step for info in checkpoints)
        scored = {step: score for step in present if (score := self.accuracy.get(step)) is not None}
        kept = {*present[-self.keep :], checkpoint.best(scored)}
        return [info.step in kept for info in checkpoints]
