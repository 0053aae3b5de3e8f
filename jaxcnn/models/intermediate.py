"""Activations inside a network, by name, without changing it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen, traverse_util

from jaxcnn.errors import UsageError, nearest
from jaxcnn.typing import Array


def features(
    model: linen.Module, variables: Mapping[str, Any], x: Array, names: Sequence[str], train: bool = False
) -> dict[str, Array]:
    """``{name: result of the layer called name}`` for images ``x``; may be called inside ``jit``.

    A name is the path of a module (``"layer3_1/conv2"``, as ``summary`` lists them) or the stage that modules at the top
    are numbered in: ``"layer3"`` is the last of ``layer3_0``, ``layer3_1``, ... The results are what the modules return,
    so a convolution's is taken before the activation that follows it.

    Args:
      model: any Flax Linen network.
      variables: as for ``model.apply``.
      x: images ``[B, H, W, C]``.
      names: layers; the order is kept.
      train: normalise by the moments of this batch and drop units (with a fixed key).

    Raises:
      ValueError: a name that no module of the network has; lists near ones.
    """
    if isinstance(names, str):
        raise UsageError(f"features: names={names!r} must be a list of names, e.g. [{names!r}]")

    def run(variables: Mapping[str, Any], x: Array, wanted: set[str] | None = None) -> dict[str, Array]:
        _, updated = model.apply(
            variables,
            x,
            train=train,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, method: wanted is None or "/".join(module.path) in wanted,
            mutable=["intermediates", "batch_stats"],
        )
        flat: Any = traverse_util.flatten_dict(dict(updated)["intermediates"], sep="/")
        return {path.removesuffix("/__call__"): results[0] for path, results in flat.items()}

    known = list(jax.eval_shape(run, variables, x))
    paths = {name: _find(name, known) for name in names}
    results = run(variables, x, set(paths.values()))
    return {name: results[path] for name, path in paths.items()}


def _find(name: str, known: list[str]) -> str:
    """The module called ``name``, or the last module at the top whose name is it, ``_`` and a number or a word."""
    if name in known:
        return name
    top = [path for path in known if "/" not in path and path != "__call__"]
    if stage := [path for path in top if path.startswith(f"{name}_")]:
        return max(stage, key=lambda path: [int(number) for number in re.findall(r"\d+", path)])
    near = nearest(name, dict.fromkeys([*(path.partition("_")[0] for path in top), *known]))
    listed = ", ".join(top[:12]) + (", ..." if len(top) > 12 else "")
    raise UsageError(f"features: no layer is called {name!r}{near or f'; at the top are {listed}'}")
