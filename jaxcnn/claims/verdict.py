"""From paired differences to a verdict, by a test that was stated before there were numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.many import spread

HOLDS, FAILS, OPEN = "holds", "does not hold here", "undecided"


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of the differences between two ways, one difference a seed.

    Attributes:
      what: the difference, e.g. "test accuracy with dropout minus without".
      unit: of the difference.
      above: it holds when the whole 95 % interval of the mean lies above this threshold;
      within: or, where two ways shall be alike, inside of plus and minus this margin. One of the two is given.
    """

    what: str
    unit: str
    above: float | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        assert (self.above is None) != (self.within is None), self.what

    def answer(self, differences: Sequence[float]) -> dict[str, Any]:
        """The interval (Student, n - 1 degrees of freedom) and the verdict, as ``result.json`` holds them."""
        found = spread([float(value) for value in differences])
        mean, half = found["mean"], found["ci95"]
        assert mean is not None, differences
        if half is None:
            verdict = OPEN  # one seed says nothing about others
        elif self.above is not None:
            verdict = HOLDS if mean - half > self.above else FAILS if mean + half < self.above else OPEN
        else:
            assert self.within is not None, self
            inside = max(abs(mean - half), abs(mean + half)) <= self.within
            outside = mean - half > self.within or mean + half < -self.within
            verdict = HOLDS if inside else FAILS if outside else OPEN
        return {
            **{name: value for name, value in dataclasses.asdict(self).items() if value is not None},
            "differences": [float(value) for value in differences],
            "mean": mean,
            "ci95": half,
            "verdict": verdict,
        }


def together(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict of a claim with several parts: it holds when all do, and fails when one does."""
    verdicts = {answer["verdict"] for answer in answers.values()}
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS
