"""PyTorch in a process of its own, as its users have it: what ours is set up with, malloc and threads, is not theirs."""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from jaxcnn.environment import num_cores
from jaxcnn.errors import UsageError


def random_batch(batch_size: int, image_shape: tuple[int, ...], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The images ``[B, H, W, C]``, uint8, and labels ``[B]`` that both see."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, *image_shape), np.uint8)
    return image, rng.integers(0, num_classes, batch_size, np.int32)


class Beside:
    """Runs ``jaxcnn.bench.peer`` and asks it, by a line of JSON each; use as a context."""

    def __enter__(self) -> Self:
        if importlib.util.find_spec("torch") is None:
            raise UsageError("--vs=torch needs PyTorch, which is not installed; pip install torch")
        command = [sys.executable, "-m", "jaxcnn.bench.peer"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def make_run(self, way: str, **arguments: Any) -> Callable[[int], None]:
        """``peer.make_run`` there: a function of the number of steps, which raises what went wrong."""
        num_threads = int(os.environ.get("NPROC") or num_cores())  # the same cores as ours
        self._ask(way, arguments | {"num_threads": num_threads})
        return functools.partial(self._ask, way)

    def _ask(self, way: str, what: int | dict[str, Any]) -> None:
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None
        assert answers is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([way, what]), file=questions, flush=True)
            answer = answers.readline()
        if not answer:
            raise RuntimeError(f"the process of PyTorch ended with {self._process.wait()}")
        kind, words = json.loads(answer)
        if kind != "done":
            raise (UsageError if kind == "usage" else RuntimeError)(words)
