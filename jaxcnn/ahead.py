"""Compilation ahead of time, on a thread of its own: while the data are read, the update is compiled."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxcnn.step import TrainStep
from jaxcnn.typing import PyTree

_THREAD = "jaxcnn-compile"


def compiled_ahead(train_step: TrainStep, state: PyTree, batch: PyTree) -> TrainStep:
    """The same update, of which the compilation begins now; its first call waits for the end of it.

    Args:
      train_step: jitted; what is no jitted function comes back as it is.
      state, batch: shapes, dtypes and shardings of what it will be called with, and no others.
    """
    lower: Any = getattr(train_step, "lower", None)
    if lower is None:
        return train_step
    thread = ThreadPoolExecutor(1, thread_name_prefix=_THREAD)
    compiled = thread.submit(lower(state, batch).compile)  # traced here: the thread has other jax.config contexts
    thread.shutdown(wait=False)
    return lambda state, batch: compiled.result()(state, batch)


def is_compiling() -> bool:
    """Whether a compilation begun here still runs. Nothing can stop it, and the interpreter does not end before it."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())
