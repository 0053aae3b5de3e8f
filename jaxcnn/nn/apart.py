"""A part of a program that XLA compiles by itself."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose results are computed once and written out, for all that use them.

    XLA fuses what is cheap into each of its users, where it is computed anew: of a chain of sums, everything before. It looks
    into no call that may not be inlined. (``lax.optimization_barrier`` is gone before XLA fuses for a CPU.)
    """

    def called(*operands: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*operands)

    return called
