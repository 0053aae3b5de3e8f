"""What a network costs, read off the network itself: parameters and multiply-adds per layer, nothing allocated.

Multiply-adds are counted in the traced program: each convolution and each matrix product, wherever it comes from, so a
network of your own is counted as well. Biases, normalisation, activations and pooling are not; FLOPs are twice as many.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jaxcnn import rng, tree
from jaxcnn.typing import Array


@dataclasses.dataclass(frozen=True)
class Layer:
    """One leaf module of a network, for a single image.

    Attributes:
      name: its path, e.g. ``stage1/block0/conv1``.
      kind: its class.
      output: shape of its result without the batch axis.
      num_params: trainable numbers in it.
      num_macs: multiply-adds.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    num_params: int
    num_macs: int


def layers(model: linen.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The network's leaf modules in the order in which they are called."""
    calls: dict[str, tuple[str, tuple[int, ...]]] = {}

    def note(call, args, kwargs, context):
        result = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if path and context.method_name == "__call__" and path not in calls:
            calls[path] = (type(context.module).__name__, tuple(result.shape[1:]))
        return result

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with linen.intercept_methods(note):
        variables = jax.eval_shape(lambda x: model.init(rng.key(0, "init"), x, train=False), image)
    closed = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    macs = Counter()
    for scope, count in _multiply_adds(closed.jaxpr, ""):
        macs[_deepest(scope, calls)] += count
    params = Counter()
    for name, leaf in tree.named_leaves(variables["params"]).items():
        params[_deepest(name, calls)] += math.prod(leaf.shape)
    leaves = [
        path for path in calls if not any(other.startswith(path + "/") for other in calls) or params[path] or macs[path]
    ]
    rows = [Layer(path, *calls[path], params[path], macs[path]) for path in _in_call_order(leaves, calls)]
    if params[""] or macs[""]:
        rows.append(Layer("(in the network itself)", type(model).__name__, (), params[""], macs[""]))
    return rows


def num_params(model: linen.Module, image_shape: tuple[int, int, int]) -> int:
    """Trainable numbers; running statistics do not count."""
    return sum(layer.num_params for layer in layers(model, image_shape))


def num_macs(model: linen.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one forward pass for one image."""
    return sum(layer.num_macs for layer in layers(model, image_shape))


def _in_call_order(paths: list[str], calls: dict[str, Any]) -> list[str]:
    order = {path: position for position, path in enumerate(calls)}
    return sorted(paths, key=order.__getitem__)


def _multiply_adds(jaxpr: Any, scope: str) -> Iterator[tuple[str, int]]:
    """(scope, multiply-adds) of each convolution and matrix product in a jaxpr and those inside it."""
    for equation in jaxpr.eqns:
        here = "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)
        out: Any = equation.outvars[0].aval if equation.outvars else None
        if equation.primitive.name == "conv_general_dilated":
            kernel: Array = equation.invars[1].aval
            features = equation.params["dimension_numbers"].rhs_spec[0]
            yield here, math.prod(out.shape) * math.prod(kernel.shape) // kernel.shape[features]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left: Array = equation.invars[0].aval
            yield here, math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in _inner_jaxprs(equation.params):
            for inner_scope, count in _multiply_adds(inner, here):
                yield inner_scope, count * times


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation (a jit, a custom gradient, a scan) carries among its parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)  # a closed jaxpr holds an open one
            if hasattr(item, "eqns"):
                yield item


def _deepest(scope: str, paths: dict[str, Any]) -> str:
    """The longest known module path that lies on the way of a scope: ``LeNet5/conv1/transpose`` is in ``conv1``."""
    parts = scope.split("/")
    spans = ["/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
    return max((span for span in spans if span in paths), key=len, default="")
