"""The calls that are handed to the devices and not yet finished."""

import collections

import jax

from jaxcnn.typing import PyTree

SIZE = 8
"""Calls in flight: enough to keep the devices busy, few enough to hold little memory and to stop soon.

Without a limit several devices of one CPU come to a standstill, and XLA ends the process after 40 seconds: the calls share
its threads, and with some hundred of them waiting all threads may hold a part of a call whose other parts find none.
"""


class Flight:
    """Results of the calls in flight."""

    def __init__(self) -> None:
        self._results: collections.deque[PyTree] = collections.deque()

    def add(self, result: PyTree) -> None:
        """Note a call by a result of it, which nobody donates. Waits only until the call ``SIZE`` before this one is done."""
        self._results.append(result)
        if len(self._results) > SIZE:
            jax.block_until_ready(self._results.popleft())
