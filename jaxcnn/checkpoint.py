"""Checkpoints: orbax writes them, and what comes back is believed only when its digest agrees.

Below ``checkpoints/`` each step is a directory ``N/`` with the arrays (``state``), a description (``meta``) and a marker
``commit_success.txt`` that appears last. A step without its marker was never finished. Orbax does not notice a flipped
bit in an array, so the description holds a digest of every leaf, which is recomputed after each restore.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from jaxcnn import tree
from jaxcnn.errors import CheckpointError, Preempted
from jaxcnn.state import State

_MARKER = "commit_success.txt"
_FORMAT = 1
_ATOMICITY = AtomicityOptions(mode=AtomicityMode.COMMIT_FILE)
_MAX_FAILURES = 3

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells its life there


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself.

    Attributes:
      step: number of completed updates.
      digest: ``tree.digest`` of the state.
      manifest: ``tree.manifest`` of the state.
      metrics: of the evaluation at this step; empty when there was none.
      seconds: training time so far.
      config: the run's configuration, as ``config.to_json`` writes it.
      versions: of Python, jax and the others, and the thread count, when it was written.
    """

    step: int
    digest: str
    manifest: dict[str, str]
    metrics: dict[str, float]
    seconds: float
    config: str
    versions: dict[str, str]


class Writer:
    """Writes checkpoints of one run in the background; keeps the latest ``keep`` and the best.

    The caller waits for the copy to host memory only. A failed save is told through ``warn`` and training goes on;
    after three in a row ``save`` raises CheckpointError.
    """

    def __init__(self, directory: pathlib.Path, keep: int, warn: Callable[[str], None]):
        self._warn, self._failures, self._pending = warn, 0, 0
        self._policy = _KeepLatestAndBest(keep, {step: _accuracy(read_meta(directory / str(step))) for step in steps(directory)})
        self._options = ocp.CheckpointManagerOptions(
            create=True,
            step_name_format=ocp.path.step.standard_name_format(atomicity_options=_ATOMICITY),
            atomicity_options=_ATOMICITY,
            preservation_policy=self._policy,
            enable_async_checkpointing=True,
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory, options=self._options)

    def save(self, state: State, metrics: Mapping[str, float], seconds: float, config: str, versions: Mapping[str, str]) -> None:
        """Start to write the state; returns when it is copied to host memory."""
        self._drain()
        step = int(state.step)
        fields = Meta(step, tree.digest(state._asdict()), tree.manifest(state._asdict()), dict(metrics), seconds, config, dict(versions))
        self._policy.accuracy[step] = metrics.get("eval_accuracy")
        self._pending = step
        try:
            arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(_as_dicts(state)), meta=ocp.args.JsonSave(_sealed(fields)))
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # whatever orbax or the disk says: the run is worth more than this save
            self._failed(error)

    def wait(self) -> None:
        """Wait for the last save; CheckpointError when it failed."""
        self._drain()
        if self._failures:
            raise CheckpointError(f"the last checkpoint could not be written to {self._directory}; earlier ones are intact")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the last save, also when the run ends by an error or a stop."""
        try:
            if kind is None or issubclass(kind, Preempted):
                self.wait()
            else:
                self._drain()
        finally:
            self._manager.close()

    def _drain(self) -> None:
        if not self._pending:
            return
        try:
            self._manager.wait_until_finished()
            if not (self._directory / str(self._pending) / _MARKER).exists():
                raise OSError("the step was not committed")
            self._failures = 0
        except Exception as error:
            self._failed(error)
        self._pending = 0

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        step, self._pending = self._pending, 0
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self._warn(f"checkpoint of step {step} not written ({reason}); training goes on")
        _remove_unfinished(self._directory)
        if self._failures >= _MAX_FAILURES:
            raise CheckpointError(f"{self._failures} checkpoints in a row could not be written to {self._directory}: {reason}")
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)


def steps(directory: pathlib.Path) -> list[int]:
    """Finished steps, ascending. Anything else in the directory is left out: symbolic links, files, unmarked steps."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if _is_step(path) and (path / _MARKER).is_file()]
    return sorted(int(name) for name in names)


def clean(directory: pathlib.Path, warn: Callable[[str], None]) -> None:
    """Remove what a killed save left behind; tell of entries that are not ours and leave them alone."""
    if not directory.is_dir():
        return
    _remove_unfinished(directory)
    strange = [p.name for p in directory.iterdir() if not (_is_step(p) and (p / _MARKER).is_file()) and not p.name.endswith(".damaged")]
    if strange:
        warn(f"{directory} holds entries that are no checkpoints, ignored: {', '.join(sorted(strange)[:5])}")


def restore(directory: pathlib.Path, abstract: State, step: int | None = None, warn: Callable[[str], None] = print) -> tuple[State, Meta] | None:
    """The newest state whose digest agrees (or that of ``step``), and its description; None when there is no step.

    A damaged step is told and, once an older good one is found, set aside as ``N.damaged``.

    Raises:
      CheckpointError: all steps are damaged, or the state of another network or optimizer; lists them, deletes nothing.
    """
    candidates = steps(directory)[::-1] if step is None else [step]
    damaged: dict[int, str] = {}
    for candidate in candidates:
        try:
            state, meta = _restore_step(directory / str(candidate), abstract)
        except _Damaged as error:
            damaged[candidate] = str(error)
            warn(f"checkpoint {directory / str(candidate)} is damaged: {error}")
            continue
        if step is None:
            for bad in damaged:
                _set_aside(directory / str(bad))
        return state, meta
    if damaged:
        listed = "; ".join(f"step {bad}: {reason}" for bad, reason in damaged.items())
        raise CheckpointError(f"no usable checkpoint in {directory} ({listed}); restore a copy, or start anew with another --workdir")
    return None


def read_meta(path: pathlib.Path) -> Meta | None:
    """The description of the step in ``path``; None when it is missing or damaged."""
    try:
        fields = json.loads((path / "meta" / "metadata").read_text())
        seal = fields.pop("seal")
        if fields.pop("format") != _FORMAT:
            return None
        meta = Meta(**fields)
        return meta if _sealed(meta)["seal"] == seal else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def best_step(directory: pathlib.Path) -> int | None:
    """The step with the highest evaluation accuracy, the latest of equals; None when none was evaluated."""
    scores = {step: _accuracy(read_meta(directory / str(step))) for step in steps(directory)}
    return _best({step: score for step, score in scores.items() if score is not None})


class _Damaged(Exception):
    """A step that cannot be trusted."""


class _KeepLatestAndBest:
    """Orbax's preservation policy: the latest ``keep`` steps and the most accurate one."""

    def __init__(self, keep: int, accuracy: dict[int, float | None]):
        self.keep, self.accuracy = keep, accuracy

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        present = sorted(info.step for info in checkpoints)
        scored = {step: score for step in present if (score := self.accuracy.get(step)) is not None}
        kept = {*present[-self.keep :], _best(scored)}
        return [info.step in kept for info in checkpoints]


def _best(scores: Mapping[int, float]) -> int | None:
    return max(scores, key=lambda step: (scores[step], step)) if scores else None


def _accuracy(meta: Meta | None) -> float | None:
    return meta.metrics.get("eval_accuracy") if meta else None


def _restore_step(path: pathlib.Path, abstract: State) -> tuple[State, Meta]:
    if not _is_step(path) or not (path / _MARKER).is_file():
        raise _Damaged(f"{path} is not a finished checkpoint")
    meta = read_meta(path)
    if meta is None:
        raise _Damaged("its description (meta) is missing or altered")
    _check_manifest(path, tree.manifest(abstract._asdict()), meta.manifest)
    target = _as_dicts(abstract)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            arguments = ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
            arrays = reader.restore(path / "state", args=arguments)
    except Exception as error:  # orbax and tensorstore raise many kinds on damaged files
        raise _Damaged(f"its arrays cannot be read ({(str(error).splitlines() or [type(error).__name__])[0][:160]})") from None
    names = list(tree.named_leaves(abstract._asdict()))
    flat = traverse_util.flatten_dict(arrays, sep="/")
    if missing := [name for name in names if not isinstance(flat.get(name), jax.Array)]:
        raise _Damaged(f"array {missing[0]} is missing")
    state = jax.tree.unflatten(jax.tree.structure(abstract), [flat[name] for name in _state_order(abstract)])
    if tree.manifest(state._asdict()) != meta.manifest:
        raise _Damaged("an array has another type or shape than its description says")
    if tree.digest(state._asdict()) != meta.digest or int(state.step) != meta.step or str(meta.step) != path.name:
        raise _Damaged("its arrays do not have the digest that was stored with them")
    return state, meta


def _check_manifest(path: pathlib.Path, wanted: dict[str, str], stored: dict[str, str]) -> None:
    names = [name for name in {**wanted, **stored} if wanted.get(name) != stored.get(name)]
    if names:
        first = "; ".join(f"{n}: stored {stored.get(n, 'nothing')}, wanted {wanted.get(n, 'nothing')}" for n in names[:5])
        raise CheckpointError(f"{path} is the state of another network or optimizer, {len(names)} arrays differ: {first}")


def _state_order(state: State) -> list[str]:
    """Leaf names in the order in which the State itself flattens (a dict flattens sorted by key)."""
    return [f"{field}/{name}".rstrip("/") for field, part in state._asdict().items() for name in tree.named_leaves(part)]


def _as_dicts(state: State) -> dict[str, Any]:
    """The state as nested dicts of arrays, so that what is stored does not depend on the classes of a library."""
    return traverse_util.unflatten_dict(tree.named_leaves(state._asdict()), sep="/")


def _sealed(meta: Meta) -> dict[str, Any]:
    """The description with a hash of itself, so that an altered one is noticed."""
    fields = {"format": _FORMAT, **dataclasses.asdict(meta)}
    return {**fields, "seal": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()}


def _is_step(path: pathlib.Path) -> bool:
    return path.name.isdecimal() and str(int(path.name)) == path.name and path.is_dir() and not path.is_symlink()


def _remove_unfinished(directory: pathlib.Path) -> None:
    """Delete steps that orbax began and never committed, and its temporary directories; never a link's target."""
    for path in directory.iterdir():
        begun = _is_step(path) and not (path / _MARKER).exists() and ((path / "_CHECKPOINT_METADATA").exists() or (path / "state").exists())
        if begun or (".orbax-checkpoint-tmp" in path.name and path.is_dir() and not path.is_symlink()):
            shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: pathlib.Path) -> None:
    target = path.with_name(path.name + ".damaged")
    shutil.rmtree(target, ignore_errors=True)
    path.rename(target)
