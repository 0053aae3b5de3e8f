"""Saving checkpoints in the background, and deciding which ones stay."""

import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from jaxcnn import checkpoint, hosts, tree
from jaxcnn.errors import CheckpointError, PeerError, Preempted
from jaxcnn.state import State

_ATOMICITY = AtomicityOptions(mode=AtomicityMode.COMMIT_FILE)
_MAX_FAILURES = 3


class Saver:
    """Writes checkpoints of one run in the background; keeps the latest ``keep`` and the best.

    The caller waits for the copy to host memory only. A failed save is told through ``warn`` and training goes on;
    after three in a row ``save`` raises CheckpointError.
    """

    def __init__(self, directory: pathlib.Path, keep: int, scores: Mapping[int, float], warn: Callable[[str], None]):
        self._warn, self._failures, self._pending = warn, 0, 0
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
            self._manager = ocp.CheckpointManager(directory, options=self._options)

    def save(
        self, state: State, metrics: Mapping[str, float], seconds: float, config: str, versions: Mapping[str, str]
    ) -> None:
        """Start to write the state; returns when it is copied to host memory. A step that is on disk stays as it is."""
        self._drain()
        step = int(state.step)
        if step in checkpoint.steps(self._directory):
            return
        fields = checkpoint.Meta(
            step,
            tree.digest(state._asdict()),
            tree.manifest(state._asdict()),
            dict(metrics),
            seconds,
            config,
            dict(versions),
        )
        self.note_score(step, metrics.get("eval_accuracy"))
        self._pending = step
        try:
            arguments = ocp.args.Composite(
                state=ocp.args.PyTreeSave(checkpoint.as_dicts(state)), meta=ocp.args.JsonSave(checkpoint.sealed(fields))
            )
            with checkpoint.alone:
                self._manager.save(step, args=arguments, force=True)
                if threading.current_thread() is not threading.main_thread():
                    self._manager.wait_until_finished()
        except Exception as error:  # whatever orbax or the disk says: the run is worth more than this save
            self._failed((str(error).splitlines() or [type(error).__name__])[0])

    def note_score(self, step: int, accuracy: float | None) -> None:
        """Say how accurate a step is: the best one stays."""
        if accuracy is not None:
            self._policy.accuracy[step] = accuracy

    def wait(self) -> None:
        """Wait for the last save; CheckpointError when it failed."""
        self._drain()
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
                self._drain()
        finally:
            with checkpoint.alone:
                self._manager.close()

    def _drain(self) -> None:
        if not self._pending:
            return
        problem = ""
        try:
            self._manager.wait_until_finished()
            if hosts.is_first() and not (self._directory / str(self._pending) / checkpoint.MARKER).exists():
                problem = "the step was not committed"
        except Exception as error:
            problem = (str(error).splitlines() or [type(error).__name__])[0]
        if problem := next(filter(None, hosts.all_say(problem)), ""):
            self._failed(problem)
        else:
            self._failures = 0
        self._pending = 0

    def _failed(self, reason: str) -> None:
        self._failures += 1
        step, self._pending = self._pending, 0
        self._warn(f"checkpoint of step {step} not written ({reason}); training goes on")
        if hosts.is_first():
            checkpoint.remove_unfinished(self._directory)
        if self._failures >= _MAX_FAILURES:
            raise CheckpointError(
                f"{self._failures} checkpoints in a row could not be written to {self._directory}: {reason}"
            )
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)


class _KeepLatestAndBest:
    """Orbax's preservation policy: the latest ``keep`` steps and the most accurate one."""

    def __init__(self, keep: int, accuracy: dict[int, float]):
        self.keep, self.accuracy = keep, accuracy

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        present = sorted(info.step for info in checkpoints)
        scored = {step: score for step in present if (score := self.accuracy.get(step)) is not None}
        kept = {*present[-self.keep :], checkpoint.best(scored)}
        return [info.step in kept for info in checkpoints]
