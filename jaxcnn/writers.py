"""What a run writes while it goes: metrics.jsonl, TensorBoard events, and lines or a bar for a person."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import rich.progress
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from jaxcnn import hosts
from jaxcnn.config import Config
from jaxcnn.console import console, is_muted, say
from jaxcnn.errors import NonFiniteError, UsageError
from jaxcnn.flight import Flight
from jaxcnn.rundir import RunDir, read_rows, write_text
from jaxcnn.step import GUARDED
from jaxcnn.typing import Sums

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_SECONDS_BETWEEN_LINES = 5.0
_SKIPS_IN_A_ROW = 10  # more have no hope of ending

Row = Mapping[str, float]


class MetricsLog:
    """``metrics.jsonl``: one line per update, in order, each step once, also after any number of kills and resumes.

    What the disk does not take stays in memory, and is tried again with the next rows and before the next checkpoint.

    Args:
      path: the file; None: nothing is written, on a process that is not the first.
      step: updates completed so far; lines of later ones come from work that was lost and are cut off.
    """

    def __init__(self, path: pathlib.Path | None, step: int):
        self._path, self._file, self._unwritten = path, -1, b""
        self.last: dict[str, float] = {"step": step}
        if path is None:
            return
        rows = [row for row in read_rows(path) if row["step"] <= step]
        text = _as_text(rows)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)
        self._file = os.open(path, _APPEND)
        if missing := step - len({row["step"] for row in rows}):
            say(f"{path} lacks the rows of {missing} updates before step {step}")
        if rows and rows[-1]["step"] == step:
            self.last = rows[-1]

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows and hand them to the system, before the checkpoint that makes them final."""
        if rows:
            self.last = dict(rows[-1])
        if rows and self._file >= 0:
            self._unwritten += _as_text(rows).encode()
            with contextlib.suppress(OSError):  # a full disk: ``sync`` tells, the run goes on
                self._hand_over()

    def amend(self, values: Row) -> None:
        """Add values to the last row: an evaluation that a stop had cut off."""
        self.last = {**self.last, **values}
        if self._path is None or self._file < 0:
            return
        rows = [row for row in read_rows(self._path) if row["step"] != self.last["step"]] + [self.last]
        write_text(self._path, _as_text(rows))
        os.close(self._file)
        self._file = os.open(self._path, _APPEND)

    def sync(self) -> None:
        """Wait until the rows are on the disk; OSError when it does not take them."""
        if self._file >= 0:
            self._hand_over()
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self._hand_over()
            os.close(self._file)
            self._file = -1

    def _hand_over(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]


class TensorBoard:
    """Scalars as TensorBoard events below ``directory``, without TensorFlow."""

    def __init__(self, directory: pathlib.Path, step: int):
        check_tensorboard()
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def write(self, rows: Sequence[Row]) -> None:
        """Add the rows' values under their names."""
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def check_tensorboard() -> None:
    """UsageError when the package that writes TensorBoard events is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UsageError(
            "log.tensorboard=True needs the package tensorboardX: pip install 'jaxcnn[tensorboard]'"
        ) from None


class Progress:
    """Tells a person how the run goes: a bar on a terminal, plain lines elsewhere. Writes to standard error."""

    def __init__(self, total_steps: int, start: int):
        self._total, self._start, self._begin, self._told = total_steps, start, time.monotonic(), time.monotonic()
        self._bar = None
        if console().is_terminal and not is_muted():
            columns = [TextColumn("step {task.completed:.0f}/{task.total:.0f}"), BarColumn(bar_width=None)]
            self._bar = rich.progress.Progress(
                *columns, TextColumn("{task.description}"), TimeRemainingColumn(), console=console(), transient=True
            )
            with contextlib.suppress(OSError):  # the terminal is closed: a stop was asked for, and is to be seen
                self._bar.start()
            self._task = self._bar.add_task("compiling", total=total_steps, completed=start)

    def update(self, row: Row, images_per_second: float, evaluated: str = "") -> None:
        """The state of training at a step; ``evaluated`` is the split whose metrics are in the row, or nothing."""
        step = int(row["step"])
        result = f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.2%}" if "loss" in row else "update skipped"
        text = f"{result}  {images_per_second:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        if not evaluated and (self._bar is not None or time.monotonic() - self._told < _SECONDS_BETWEEN_LINES):
            return
        self._told = time.monotonic()
        left = (self._told - self._begin) / max(step - self._start, 1) * (self._total - step)
        say(
            f"step {step}/{self._total}  {text}  {_duration(left)} left"
            + (f"  {_evaluation(evaluated, row)}" if evaluated else "")
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal is closed
                self._bar.stop()


class Journal:
    """The record of a run: keeps each update's sums on the device, and brings them to the host when asked.

    Args:
      run_dir: where ``metrics.jsonl`` and ``tensorboard/`` go.
      config: of the run. With ``nonfinite="skip"`` updates with NaN or infinity changed nothing; their rows hold
        ``skipped``, how many there were so far, and ``skipped_in_a_row`` in the place of loss, accuracy and gradient norm.
      start: updates completed so far.
      total_steps: updates in the whole run.
      num_examples: training examples; an epoch is one pass over them.
    """

    def __init__(self, run_dir: RunDir, config: Config, start: int, total_steps: int, num_examples: int):
        first = hosts.is_first()  # the others keep the same rows, and write none
        self._log = MetricsLog(run_dir.metrics if first else None, start)
        self._log.last = json.loads(hosts.first_says(json.dumps(self._log.last)))
        self._events = TensorBoard(run_dir.events, start) if config.log.tensorboard and first else None
        self._progress = Progress(total_steps, start)
        self._batch_size, self._num_examples = config.data.batch_size, num_examples
        self._skip = config.nonfinite == "skip"
        self._skipped = int(self.last.get("skipped", 0))
        self._in_a_row = int(self.last.get("skipped_in_a_row", 0))
        self._calls: list[Sums] = []  # on the device
        self._flight = Flight()
        self._noted: list[tuple[int, int]] = []  # update, and its call
        self._rows: list[dict[str, float]] = []
        self._rate = 0.0
        self.restart_clock()

    def record(self, step: int, sums: Sums) -> None:
        """Note the sums of an update (1 for the first). Waits only as ``Flight`` does.

        They are its own, or those of the call that made it and others: arrays ``[K]`` with those of update k at ``(k - 1) % K``.
        """
        if not self._calls or self._calls[-1] is not sums:
            self._calls.append(sums)
            self._flight.add(sums["count"])
        self._noted.append((step, len(self._calls) - 1))

    def fetch(self) -> None:
        """Bring all noted sums to the host. NonFiniteError names the first update with NaN or infinity that may not be."""
        if not self._noted:
            return
        values, noted = jax.device_get(self._calls), self._noted
        self._calls, self._noted, count = [], [], 0
        for step, call in noted:
            sums = _of(step, values[call])
            count += int(sums["count"])
            if bad := int(sums["nonfinite"]):
                self._meet_nonfinite(step, GUARDED[bad - 1])
            self._rows.append(self._row(step, sums))
        self._rate = count / (time.monotonic() - self._clock)

    def _meet_nonfinite(self, step: int, where: str) -> None:
        self._skipped, self._in_a_row = self._skipped + 1, self._in_a_row + 1
        found = f"step {step}: NaN or infinity in the {where}"
        if self._skip and self._in_a_row <= _SKIPS_IN_A_ROW:
            say(f"{found}; the update is skipped, {self._in_a_row} in a row")
            return
        self.write({})  # what came before
        again = f", {self._in_a_row} updates in a row" if self._skip else ""
        raise NonFiniteError(f"{found}{again}; lower optimizer.learning_rate or set optimizer.clip_norm")

    def write(self, evaluation: Row, split: str = "") -> None:
        """Append what was fetched to the files, and show the last row; the evaluation belongs to it."""
        if self._rows:
            self._rows[-1] |= evaluation
            self._log.write(self._rows)
            if self._events:
                self._events.write(self._rows)
            self._progress.update(self._rows[-1], self._rate, split if evaluation else "")
            self._rows = []
        elif evaluation:
            self._log.amend(evaluation)
            say(f"step {int(self.last['step'])}  {_evaluation(split, evaluation)}")

    @property
    def last(self) -> Row:
        """The row of the last update: all of it once written, only its step before the first."""
        return self._log.last

    def sync(self) -> None:
        """Wait until all rows are on the disk, before the checkpoint that makes them final; OSError when it is full."""
        self._log.sync()

    def restart_clock(self) -> None:
        """Leave what came before out of images per second."""
        self._clock = time.monotonic()

    def close(self) -> None:
        """Close the files and take the bar away."""
        self._log.close()
        self._progress.close()
        if self._events:
            self._events.close()

    def _row(self, step: int, sums: Sums) -> dict[str, float]:
        row = {
            "step": step,
            "epoch": round(step * self._batch_size / self._num_examples, 4),
            "learning_rate": float(sums["learning_rate"]),
        }
        if self._skip:
            row["skipped"] = self._skipped
        if int(sums["nonfinite"]):
            return {**row, "skipped_in_a_row": self._in_a_row}
        self._in_a_row = 0
        count = max(int(sums["count"]), 1)  # no example of the batch could be read
        return {
            **row,
            "loss": float(sums["loss"]) / count,
            "accuracy": float(sums["accuracy"]) / count,
            "objective": float(sums["objective"]),
            "grad_norm": float(sums["grad_norm"]),
        }


def _of(step: int, sums: Sums) -> Sums:
    """The sums of an update out of those of its call."""
    return {name: values[(step - 1) % len(values)] if np.ndim(values) else values for name, values in sums.items()}


def _as_text(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _evaluation(split: str, metrics: Row) -> str:
    return f"{split}: loss {metrics['eval_loss']:.4f}  accuracy {metrics['eval_accuracy']:.2%}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
