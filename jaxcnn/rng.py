"""Random keys: born here, from (seed, name, step), and nowhere else.

No key travels through the state or the loop. The dropout mask of step 1000 can be computed without computing the 999
before it, so a resumed run needs no random state.
"""

import zlib

import jax

from jaxcnn.typing import Array, Key


def key(seed: int | Array, name: str, step: int | Array = 0) -> Key:
    """The key of stream ``name`` at ``step``: fold the name, then the step, into the seed.

    Args:
      seed: the run's seed, in [0, 2**32).
      name: what the key is for, e.g. ``"dropout"``. Different names give independent streams.
      step: the number of completed updates; may be traced.
    """
    return jax.random.fold_in(stream(jax.random.key(seed), name), step)


def stream(key: Key, name: str) -> Key:
    """The key of one of several choices that are made from ``key``."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
