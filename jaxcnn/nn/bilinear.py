"""Functions that are linear in both of two operands, as primitives of JAX: by their transposes, and a fast way on a CPU.

Derivatives of any order, in reverse and in forward mode, follow from the two transposes, where these are such functions too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from jaxcnn.typing import Array


def primitive(
    name: str,
    shape: Callable[..., tuple[int, ...]],
    transposes: tuple[Callable[..., Array], Callable[..., Array]],
    fast: Callable[..., Array],
    plain: Callable[..., Array],
    parameters: tuple[str, ...] = (),
) -> core.Primitive:
    """A primitive for ``plain(a, b, **parameters)``, bilinear in a and b, which have one dtype.

    Args:
      name: of the primitive.
      shape: of the result, from a, b (with ``shape`` and ``dtype``) and the parameters.
      transposes: of (cotangent, b) to the cotangent of a, and of (cotangent, a) to that of b, with the same parameters.
      fast: the same function for a program that runs on one CPU.
      plain: for other platforms, for ``vmap``, and for programs that XLA divides over devices: it adds up a sum as soon as
        there are parts of one, which for parts of other shapes would be more bytes, or more arrays, than the result has.
      parameters: their names.
    """
    found = core.Primitive(name)

    @functools.partial(jax.jit, static_argnames=parameters)
    def traced_once(a: Array, b: Array, **given: Any) -> Array:  # for all equal parts of a network
        return fast(a, b, **given)

    def lowered_on_cpu(context: mlir.LoweringRuleContext, *operands: Any, **given: Any) -> Any:
        divided = getattr(context.module_context.axis_context, "num_devices", 1) > 1
        return mlir.lower_fun(plain if divided else traced_once, multiple_results=False)(context, *operands, **given)

    def batched(arguments: Any, axes: Any, **given: Any) -> tuple[Array, int]:
        return jax.vmap(functools.partial(plain, **given), axes)(*arguments), 0

    found.def_impl(lambda a, b, **given: jax.jit(functools.partial(found.bind, **given))(a, b))
    found.def_abstract_eval(lambda a, b, **given: ShapedArray(shape(a, b, **given), a.dtype))
    ad.defbilinear(
        found,
        lambda cotangent, a, b, **given: transposes[0](cotangent, b, **given),
        lambda cotangent, a, b, **given: transposes[1](cotangent, a, **given),
    )
    batching.primitive_batchers[found] = batched
    mlir.register_lowering(found, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(found, lowered_on_cpu, platform="cpu")
    return found
