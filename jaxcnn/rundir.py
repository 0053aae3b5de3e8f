"""A run directory: whose it is, whether it may be used, and what lies where in it."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from jaxcnn import checkpoint, hosts
from jaxcnn.config import Config, difference, from_json, to_json
from jaxcnn.data import catalog
from jaxcnn.data.catalog import Dataset
from jaxcnn.errors import CheckpointError, UsageError

RESUME = ("auto", "never", "must")


def write_text(path: pathlib.Path, text: str) -> None:
    """Replace a file as a whole: whoever reads it, or kills us, sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a full disk
        temporary.unlink(missing_ok=True)
        raise


def read_rows(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a metrics file, but for damaged lines, such as a last one that a kill has torn."""
    rows = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and (not rows or row["step"] > rows[-1]["step"]):
            rows.append(row)
    return rows


class BadRecords:
    """``bad_records.json``: the unreadable examples of a run by split, kept over stops so that all are counted.

    Args:
      run_dir: the run directory.
      found: for each split, what its reader has met: index -> name and what is wrong. Gets what earlier starts had found.
    """

    def __init__(self, run_dir: "RunDir", found: dict[str, dict[int, str]]):
        self._path, self._found = run_dir.bad_records, found
        try:
            for split, records in json.loads(self._path.read_text()).items():
                known = found.get(split, {})
                known.update({int(index): reason for index, reason in records.items() if int(index) not in known})
        except (OSError, ValueError, AttributeError):  # none yet, or damaged: they will be met again
            pass

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def write(self) -> None:
        """Bring the file up to date, with what all processes have met."""
        for found in self._found.values():
            found.update(hosts.union(found))
        if len(self) and hosts.is_first():
            # Readers go on while it is written.
            found = {split: dict(records) for split, records in self._found.items()}
            write_text(self._path, json.dumps(found, indent=2) + "\n")


class RunDir:
    """The paths of a run directory. Making one touches nothing on disk."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path).absolute()
        self.config = self.path / "config.json"
        self.dataset = self.path / "dataset.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self.summary = self.path / "summary.json"
        self.bad_records = self.path / "bad_records.json"
        self.events = self.path / "tensorboard"

    def read_config(self) -> Config:
        """The config of the run that is here; UsageError when this is no run directory."""
        if not self.config.is_file():
            raise UsageError(f"{self.path} is not a run directory: there is no config.json in it")
        return from_json(self.config.read_text(errors="replace"), str(self.config))

    def scores(self) -> dict[int, float]:
        """Evaluation accuracy of each step that has one, from the descriptions of its checkpoints and its metrics."""
        metas = {
            step: checkpoint.read_meta(self.checkpoints / str(step)) for step in checkpoint.steps(self.checkpoints)
        }
        found = {
            step: meta.metrics["eval_accuracy"]
            for step, meta in metas.items()
            if meta and "eval_accuracy" in meta.metrics
        }
        rows = {row["step"]: row for row in read_rows(self.metrics)}
        return found | {int(step): row["eval_accuracy"] for step, row in rows.items() if "eval_accuracy" in row}

    def best_step(self) -> int | None:
        """The checkpoint with the highest evaluation accuracy, the latest of equals; None when none was evaluated."""
        scores, saved = self.scores(), checkpoint.steps(self.checkpoints)
        return checkpoint.best({step: scores[step] for step in saved if step in scores})

    def check(self, config: Config, resume: str, num_bytes: int = 0) -> list[str]:
        """May ``config``, with a state of ``num_bytes``, be trained here? Returns notices; nothing is written.

        Raises:
          UsageError: the directory holds other files, another run, or (``never``) a run's checkpoints; the disk is full.
          CheckpointError: ``must``, and there is no checkpoint.
        """
        if resume not in RESUME:
            raise UsageError(f"resume={resume!r} must be one of {', '.join(RESUME)}")
        if odd := sorted(set("[]?*") & set(str(self.path))):
            raise UsageError(f"workdir={self.path} must hold no {' '.join(odd)}, which orbax takes for a pattern")
        self._check_writable(num_bytes)
        for path, kind in (
            (self.checkpoints, "directory"),
            (self.plots, "directory"),
            (self.metrics, "file"),
            (self.summary, "file"),
        ):
            if path.exists() and (path.is_dir() if kind == "file" else not path.is_dir()):
                raise UsageError(f"workdir={self.path}: {path.name} must be a {kind}; choose another --workdir")
        if self.checkpoints.exists() and not os.access(self.checkpoints, os.W_OK | os.X_OK):
            raise UsageError(f"workdir={self.path}: no permission to write in checkpoints")
        saved = checkpoint.steps(self.checkpoints)
        if resume == "never" and saved:
            raise UsageError(
                f"workdir={self.path} holds checkpoints up to step {saved[-1]}; resume=never needs an empty --workdir"
            )
        if resume == "must" and not saved:
            raise CheckpointError(f"workdir={self.path} holds no checkpoint to resume from; start with --resume=auto")
        if not self.config.exists():
            if self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                raise UsageError(f"workdir={self.path} is not empty and holds no run; choose another --workdir")
            return []
        changes = difference(self.read_config(), config)
        refused = [f"{path} {old!r} -> {new!r}" for path, (old, new, rule) in changes.items() if rule.refuses(old, new)]
        if refused:
            raise UsageError(f"workdir={self.path} holds another run ({'; '.join(refused)}); choose another --workdir")
        told = [
            f"{path}: {old!r} -> {new!r}" for path, (old, new, rule) in changes.items() if rule.on_resume != "silent"
        ]
        return told

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory and hold its lock, the first process for all. UsageError while another run holds it."""
        if not hosts.is_first():
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"workdir={self.path} is in use by another run; choose another --workdir") from None
            yield

    @contextlib.contextmanager
    def locked_as_folder(self) -> Iterator[None]:
        """Hold the lock of a directory of run directories. UsageError when it is a run itself, or in use."""
        if self.config.exists():
            raise UsageError(
                f"workdir={self.path} holds a run, and runs of their own shall lie in it; choose another --workdir"
            )
        with self.locked():
            yield

    def write_config(self, config: Config, dataset: Dataset) -> None:
        """Write config.json and dataset.json, on the first process: with the first the directory is this run's."""
        if hosts.is_first():
            self._write(self.config, to_json(config))
            self._write(self.dataset, catalog.to_json(dataset))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, on the first process."""
        if hosts.is_first():
            self._write(self.summary, json.dumps(summary, indent=2) + "\n")

    def _write(self, path: pathlib.Path, text: str) -> None:
        try:
            write_text(path, text)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error.strerror or error}; make room, then give the same command again"
            ) from error

    def read_dataset(self) -> Dataset | None:
        """The dataset of the run as it was described when it began; None when that was not written or is damaged."""
        try:
            return catalog.from_json(self.dataset.read_text())
        except (OSError, ValueError, TypeError):
            return None

    def _check_writable(self, num_bytes: int) -> None:
        existing = next(parent for parent in (self.path, *self.path.parents) if os.path.exists(parent))
        if not existing.is_dir():
            raise UsageError(f"workdir={self.path}: {existing} is a file, not a directory")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"workdir={self.path}: no permission to write in {existing}")
        if (free := shutil.disk_usage(existing).free) < num_bytes:
            raise UsageError(
                f"workdir={self.path}: {free:,} bytes are free, a checkpoint takes {num_bytes:,}; make room, or choose "
                "another --workdir"
            )
