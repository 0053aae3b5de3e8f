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
import re
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util

from jaxcnn import hosts, tree
from jaxcnn.errors import CheckpointError
from jaxcnn.state import State

MARKER = "commit_success.txt"
_FORMAT = 1

# Orbax keeps one event loop for the whole process: of runs in threads (``many``) one uses it at a time.
alone = threading.RLock()

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells its life there, and each failure four times
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and of a damaged file the errors of all arrays but the first


def _hook(what: "sys.UnraisableHookArgs") -> None:
    """Nothing is shown of the arrays of a failed save that come to their end after it: it is told already."""
    if str(what.exc_value) != "Event loop is closed":
        _hook_before(what)


_hook_before, sys.unraisablehook = sys.unraisablehook, _hook


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
      versions: of Python, jax and the others, the thread count and the devices, when it was written.
      data: fingerprint of each split, see ``data.source``; older checkpoints have none.
    """

    step: int
    digest: str
    manifest: dict[str, str]
    metrics: dict[str, float]
    seconds: float
    config: str
    versions: dict[str, str]
    data: dict[str, str] = dataclasses.field(default_factory=dict)


def steps(directory: pathlib.Path) -> list[int]:
    """Finished steps, ascending. Anything else in the directory is left out: symbolic links, files, unmarked steps."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if _is_step(path) and (path / MARKER).is_file()]
    return sorted(int(name) for name in names)


def remove_unfinished(directory: pathlib.Path) -> list[str]:
    """Delete steps that orbax began and never committed, and its temporary directories; returns their names.

    A symbolic link is not followed, and a directory that orbax did not begin is left alone.
    """
    removed = []
    for path in directory.iterdir():
        begun = (
            _is_step(path)
            and not (path / MARKER).exists()
            and ((path / "_CHECKPOINT_METADATA").exists() or (path / "state").exists())
        )
        if begun or (".orbax-checkpoint-tmp" in path.name and path.is_dir() and not path.is_symlink()):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed


def clean(directory: pathlib.Path, warn: Callable[[str], None]) -> None:
    """Remove what a killed save left behind, leave entries that are not ours alone; tell of both in one line."""
    if hosts.is_first() and directory.is_dir():
        _clean(directory, warn)
    hosts.meet("checkpoints cleaned")


def _clean(directory: pathlib.Path, warn: Callable[[str], None]) -> None:
    removed = remove_unfinished(directory)
    strange = [
        p.name
        for p in directory.iterdir()
        if not (_is_step(p) and (p / MARKER).is_file()) and not p.name.endswith(".damaged")
    ]
    told = [f"removed {', '.join(sorted(removed)[:5])}, never finished"] if removed else []
    told += [f"ignored {', '.join(sorted(strange)[:5])}, no checkpoints"] if strange else []
    if told:
        warn(f"{directory}: {'; '.join(told)}")


def restore(
    directory: pathlib.Path,
    abstract: State,
    step: int | None = None,
    *,
    warn: Callable[[str], None] = print,
    set_aside: bool = True,
) -> tuple[State, Meta] | None:
    """The newest state whose digest agrees (or that of ``step``), and its description; None when there is no step.

    A damaged step is told and, once an older good one is found and ``set_aside`` is true, renamed to ``N.damaged``:
    orbax would write no step at or below it.

    Raises:
      CheckpointError: all steps are damaged, or the state of another network or optimizer; lists them, deletes nothing.
    """
    candidates = steps(directory)[::-1] if step is None else [step]
    damaged: dict[int, str] = {}
    for candidate in candidates:
        restored, problem = None, ""
        try:
            restored = _restore_step(directory / str(candidate), abstract)
        except _Damaged as error:
            problem = str(error)
        problem = next(filter(None, hosts.all_say(problem)), "")  # one host that cannot read it is enough
        if restored is None or problem:
            damaged[candidate] = problem
            warn(f"checkpoint {directory / str(candidate)} is damaged: {problem}")
            continue
        if set_aside and damaged:
            for bad in damaged if hosts.is_first() else ():
                _set_aside(directory / str(bad))
            hosts.meet("damaged steps set aside")
        return restored
    if damaged:
        listed = "; ".join(f"step {bad}: {reason}" for bad, reason in damaged.items())
        raise CheckpointError(
            f"no usable checkpoint in {directory} ({listed}); restore a copy, or start anew with another --workdir"
        )
    return None


def verify(directory: pathlib.Path, step: int) -> tuple[Meta | None, str]:
    """(description, "") of a good step, (None, what is wrong) of a bad one. The network need not be known here."""
    path, device = directory / str(step), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        meta = _read_finished(path)
        kinds = {name: kind.rstrip("]").split("[") for name, kind in meta.manifest.items()}
        target = {
            name: jax.ShapeDtypeStruct(tuple(map(int, filter(None, shape.split(",")))), dtype, sharding=device)
            for name, (dtype, shape) in kinds.items()
        }
        _read_arrays(path, meta, traverse_util.unflatten_dict(target, sep="/"))
    except _Damaged as error:
        return None, str(error)
    return meta, ""


def read_meta(path: pathlib.Path) -> Meta | None:
    """The description of the step in ``path``; None when it is missing or damaged."""
    try:
        fields = json.loads((path / "meta" / "metadata").read_text())
        seal = fields.pop("seal")
        if fields.pop("format") != _FORMAT:
            return None
        meta = Meta(**fields)
        return meta if sealed(meta)["seal"] == seal else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


class _Damaged(Exception):
    """A step that cannot be trusted."""


def best(scores: Mapping[int, float]) -> int | None:
    """The step with the highest score, the latest of equals."""
    return max(scores, key=lambda step: (scores[step], step)) if scores else None


def _restore_step(path: pathlib.Path, abstract: State) -> tuple[State, Meta]:
    meta = _read_finished(path)
    _check_manifest(path, tree.manifest(abstract._asdict()), meta.manifest)
    flat = _read_arrays(path, meta, as_dicts(abstract))
    return jax.tree.unflatten(jax.tree.structure(abstract), [flat[name] for name in _state_order(abstract)]), meta


def _read_finished(path: pathlib.Path) -> Meta:
    if not _is_step(path) or not (path / MARKER).is_file():
        raise _Damaged(f"{path} is not a finished checkpoint")
    if (meta := read_meta(path)) is None:
        raise _Damaged("its description (meta) is missing or altered")
    return meta


def _read_arrays(path: pathlib.Path, meta: Meta, target: dict[str, Any]) -> dict[str, jax.Array]:
    """The arrays by name, where ``target`` wants them, once their digest agrees."""
    try:
        with alone, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            arguments = ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
            arrays = reader.restore(path / "state", args=arguments)
    except Exception as error:  # orbax and tensorstore raise many kinds on damaged files
        text = (str(error).splitlines() or [type(error).__name__])[0]
        files = re.findall(r'local file "[^"]*/(state/[^"]*)"', text)
        reason = f"{text.partition(':')[0]} in {files[-1]}" if files else text[:160]
        raise _Damaged(f"its arrays (state) cannot be read ({reason})") from None
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(arrays, sep="/"))
    if missing := [name for name in meta.manifest if not isinstance(flat.get(name), jax.Array)]:
        raise _Damaged(f"array {missing[0]} of its state is missing")
    if tree.manifest(arrays) != meta.manifest:
        raise _Damaged("an array of its state has another type or shape than its description says")
    if tree.digest(arrays) != meta.digest or int(flat["step"]) != meta.step or str(meta.step) != path.name:
        raise _Damaged("its arrays (state) do not have the digest that was stored with them")
    return flat


def _check_manifest(path: pathlib.Path, wanted: dict[str, str], stored: dict[str, str]) -> None:
    names = [name for name in {**wanted, **stored} if wanted.get(name) != stored.get(name)]
    names.sort(key=lambda name: not name.startswith("params/"))  # these tell the most
    if names:
        first = "; ".join(
            f"{n}: stored {stored.get(n, 'nothing')}, wanted {wanted.get(n, 'nothing')}" for n in names[:5]
        )
        raise CheckpointError(
            f"{path} is the state of another network or optimizer, {len(names)} arrays differ: {first}"
        )


def _state_order(state: State) -> list[str]:
    """Leaf names in the order in which the State itself flattens (a dict flattens sorted by key)."""
    return [
        f"{field}/{name}".rstrip("/") for field, part in state._asdict().items() for name in tree.named_leaves(part)
    ]


def as_dicts(state: State) -> dict[str, Any]:
    """The state as nested dicts of arrays, so that what is stored does not depend on the classes of a library."""
    return traverse_util.unflatten_dict(tree.named_leaves(state._asdict()), sep="/")


def sealed(meta: Meta) -> dict[str, Any]:
    """The description with a hash of itself, so that an altered one is noticed."""
    fields = {"format": _FORMAT, **dataclasses.asdict(meta)}
    if not meta.data:
        del fields["data"]
    return {**fields, "seal": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()}


def _is_step(path: pathlib.Path) -> bool:
    return path.name.isdecimal() and str(int(path.name)) == path.name and path.is_dir() and not path.is_symlink()


def _set_aside(path: pathlib.Path) -> None:
    target = path.with_name(path.name + ".damaged")
    shutil.rmtree(target, ignore_errors=True)
    path.rename(target)
