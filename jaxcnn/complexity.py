"""What a network costs, read off the network itself: per layer its parameters, multiply-adds, output and receptive field.

Nothing is allocated. Multiply-adds are counted in the traced program: each convolution and each matrix product, wherever
it comes from, so a network of your own is counted as well. Biases, normalisation, activations and pooling are not; FLOPs
are twice as many.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.extend.core import Literal

from jaxcnn import rng, tree
from jaxcnn.nn import convolution
from jaxcnn.receptive import inner_jaxprs, receptive_fields, scope_of
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
      num_bytes: bytes of its result.
      receptive_field: rows and columns of the image that one value of its result depends on; may exceed the image.
      kernel, stride: of its window, (rows, columns); None where it has none.
      groups: of a convolution.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    num_params: int
    num_macs: int
    num_bytes: int = 0
    receptive_field: tuple[int, int] | None = None
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    groups: int = 1


def layers(model: linen.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The leaf modules that compute something in evaluation or have parameters, in the order in which they are called."""
    calls: dict[str, Layer] = {}

    def note(call, args, kwargs, context):
        result = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if path and context.method_name == "__call__" and path not in calls and hasattr(result, "shape"):
            calls[path] = _described(path, context.module, result)
        return result

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with linen.intercept_methods(note):  # one trace for shapes and program: tracing is what a person waits for
        initialise = jax.make_jaxpr(
            lambda x: model.init_with_output(rng.key(0, "init"), x, train=False), return_shape=True
        )
        closed, (_, variables) = initialise(image)
    jaxpr = _needed_for_first_result(closed.jaxpr)
    known = _Paths(calls)
    macs, params, fields, alive = Counter(), Counter(), {}, set()
    for scope, equation, times in _equations(jaxpr, ""):
        alive.add(path := known.deepest(scope))
        macs[path] += times * _multiply_adds(equation)
    for path in calls.keys() - alive:  # evaluation does not call it: an auxiliary head
        calls[path] = Layer(path, "", (), 0, 0)
    for name, leaf in tree.named_leaves(variables["params"]).items():
        params[known.deepest(name)] += math.prod(leaf.shape)
    for scope, size in receptive_fields(jaxpr, jaxpr.invars[-1]):
        path = known.deepest(scope)
        fields[path] = max(fields.get(path, (1, 1)), size)
    inner = {path.rpartition("/")[0] for path in calls}
    rows = [
        dataclasses.replace(layer, num_params=params[path], num_macs=macs[path], receptive_field=fields.get(path))
        for path, layer in calls.items()
        if params[path] or macs[path] or (path in fields and path not in inner)
    ]
    if params[""] or macs[""]:
        rows.append(Layer("(in the network itself)", type(model).__name__, (), params[""], macs[""]))
    return rows


def num_params(model: linen.Module, image_shape: tuple[int, int, int]) -> int:
    """Trainable numbers; running statistics do not count."""
    return sum(layer.num_params for layer in layers(model, image_shape))


def num_macs(model: linen.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one forward pass for one image."""
    return sum(layer.num_macs for layer in layers(model, image_shape))


def _described(path: str, module: linen.Module, result: Any) -> Layer:
    """A module's row without what the program tells. Flax's own layers call the stride ``strides``."""
    kernel = getattr(module, "kernel_size", getattr(module, "window", None))
    stride = getattr(module, "stride", getattr(module, "strides", None))
    groups = getattr(module, "groups", getattr(module, "feature_group_count", 1))
    return Layer(
        path,
        type(module).__name__,
        tuple(result.shape[1:]),
        0,
        0,
        num_bytes=math.prod(result.shape) * result.dtype.itemsize,
        kernel=None if kernel is None else _pair(kernel),
        stride=None
        if kernel is None
        else _pair(kernel if stride is None and hasattr(module, "window") else stride or 1),
        groups=groups if isinstance(groups, int) else 1,
    )


def _pair(value: Any) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return rows, columns


def _needed_for_first_result(jaxpr: Any) -> Any:
    """The program without what only its other results need: auxiliary heads are called when a network is initialised."""
    needed, kept = {jaxpr.outvars[0]}, []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, Literal))
    return jaxpr.replace(eqns=kept[::-1])


def _equations(jaxpr: Any, outer: str, times: int = 1) -> Iterator[tuple[str, Any, int]]:
    """(scope, equation, how often it runs) of a jaxpr and those inside it."""
    for equation in jaxpr.eqns:
        scope = scope_of(equation, outer)
        yield scope, equation, times
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in inner_jaxprs(equation):
            yield from _equations(inner, scope, times * repeats)


def _multiply_adds(equation: Any) -> int:
    """Of a convolution or matrix product; 0 of anything else."""
    if equation.primitive is convolution.PRODUCT:
        return convolution.num_macs(equation)
    if equation.primitive.name == "conv_general_dilated":
        kernel: Array = equation.invars[1].aval
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel.shape) // kernel.shape[features]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left: Array = equation.invars[0].aval
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left.shape[axis] for axis in contracted)
    return 0


class _Paths:
    """Finds the longest known module path on the way of a scope: ``LeNet5/conv1/transpose`` is in ``conv1``."""

    def __init__(self, paths: dict[str, Any]):
        self._paths, self._found = paths, dict[str, str]()

    def deepest(self, scope: str) -> str:
        if scope not in self._found:
            parts = scope.split("/")
            spans = ["/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
            self._found[scope] = max((span for span in spans if span in self._paths), key=len, default="")
        return self._found[scope]
