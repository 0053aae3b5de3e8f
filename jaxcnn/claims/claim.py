"""A claim: words of the lecture, what is measured for them, what is asked of the numbers, and the picture."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes

from jaxcnn.claims.verdict import Question
from jaxcnn.config import Config, replace
from jaxcnn.state import State
from jaxcnn.task import Task, build
from jaxcnn.whole import compile_test, compile_training

T = TypeVar("T")
SIZES = ("quick", "normal", "full")
_COMPILES_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # and runs slowly


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
      name: "quick" (seconds, for tests), "normal" (minutes on two cores) or "full" (for an accelerator).
      seeds: runs of each way; run i of all ways has seed i, and so the same batches.
      data_dir: prepared TFDS datasets.
    """

    name: str
    seeds: int
    data_dir: str | None = None

    def pick(self, quick: T, normal: T, full: T) -> T:
        """The value for this size."""
        return (quick, normal, full)[SIZES.index(self.name)]


class Measured(NamedTuple):
    """What a claim has measured.

    Attributes:
      differences: for each of its questions, one difference a seed.
      shown: what the picture needs; numbers, texts, lists and dicts of them.
    """

    differences: dict[str, Sequence[float]]
    shown: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the lecture.

    Attributes:
      name: as on the command line.
      says: the claim.
      where: its place in the lecture.
      how: what is compared, in a sentence or two.
      questions: what has to hold, with thresholds fixed here.
      measure: trains, and measures.
      draw: draws ``Measured.shown``, one message.
    """

    name: str
    says: str
    where: str
    how: str
    questions: Mapping[str, Question]
    measure: Callable[[Size], Measured]
    draw: Callable[[Axes, Mapping[str, Any]], None]


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
      accuracy: over the evaluation split, percent; NaN for a run that is not tested.
      loss: training loss of each update, nats, ``[steps]``.
      error: training error of each update's batch, percent, ``[steps]``.
      seed: of the run.
      task: what was trained.
      state: at the end.
    """

    accuracy: float
    loss: np.ndarray
    error: np.ndarray
    seed: int
    task: Task
    state: State


def task_of(config: Config, size: Size) -> Task:
    """What is trained, on one device, and on the data of ``size``."""
    return build(replace(config, {"data.data_dir": size.data_dir}), 1)


def train(
    config: Config, size: Size, numbers: Sequence[Mapping[str, float]] = ({},), test: bool = True
) -> list[list[Outcome]]:
    """For each of ``numbers`` (values at paths of ``config.TRACED``) the runs of all seeds, by one compiled program."""
    options = _COMPILES_FAST if size.name == "quick" else None
    task = task_of(config, size)
    training = compile_training(task, tuple(numbers[0]), options)
    tested = compile_test(task, options) if test else None

    def run(values: Mapping[str, float], seed: int) -> Outcome:
        state, sums = training(training.initial_state(seed), seed, values)
        count_S = np.asarray(sums["count"])
        loss, error = np.asarray(sums["loss"]) / count_S, 100 - 100 * np.asarray(sums["accuracy"]) / count_S
        accuracy = 100 * tested(state)["accuracy"] if tested else math.nan
        return Outcome(accuracy, loss, error, seed, task, state)

    return [[run(values, seed) for seed in range(size.seeds)] for values in numbers]


def late(values: np.ndarray) -> float:
    """The mean over the last fifth of a run."""
    return float(values[-len(values) // 5 :].mean())


def accuracies(outcomes: Sequence[Outcome]) -> list[float]:
    """Of each seed, percent."""
    return [outcome.accuracy for outcome in outcomes]


def minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Differences seed by seed."""
    return [a - b for a, b in zip(one, other, strict=True)]
