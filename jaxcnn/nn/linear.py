"""Functions that are linear in each of their operands, as primitives of JAX: by their transposes, and a fast way on a CPU.

Derivatives of any order, in reverse and in forward mode, follow from the transposes, where these are such functions too.
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
    transposes: tuple[Callable[..., Array], ...],
    fast: Callable[..., Array],
    plain: Callable[..., Array],
    parameters: tuple[str, ...] = (),
) -> core.Primitive:
    """A primitive for ``plain(*operands, **parameters)``, linear in each of one or two operands, which have one dtype.

    Args:
      name: of the primitive.
      shape: of the result, from the operands (with ``shape`` and ``dtype``) and the parameters.
      transposes: for each operand, of (cotangent, the other operand) to its cotangent, with the same parameters.
      fast: the same function for a program that runs on one CPU.
      plain: for other platforms, for ``vmap``, and for programs that XLA divides over devices: it adds up a sum as soon as
        there are parts of one, which for parts of other shapes would be more bytes, or more arrays, than the result has.
      parameters: their names.
    """
    found = core.Primitive(name)

    @functools.partial(jax.jit, static_argnames=parameters)
    def traced_once(*operands: Array, **given: Any) -> Array:  # for all equal parts of a network
        return fast(*operands, **given)

    def lowered_on_cpu(context: mlir.LoweringRuleContext, *operands: Any, **given: Any) -> Any:
        divided = getattr(context.module_context.axis_context, "num_devices", 1) > 1
        return mlir.lower_fun(plain if divided else traced_once, multiple_results=False)(context, *operands, **given)

    def batched(operands: Any, axes: Any, **given: Any) -> tuple[Array, int]:
        return jax.vmap(functools.partial(plain, **given), axes)(*operands), 0

    found.def_impl(lambda *operands, **given: jax.jit(functools.partial(found.bind, **given))(*operands))
    found.def_abstract_eval(lambda *operands, **given: ShapedArray(shape(*operands, **given), operands[0].dtype))
    if len(transposes) == 1:
        ad.deflinear2(found, lambda cotangent, _, **given: [transposes[0](cotangent, **given)])
    else:
        ad.defbilinear(
            found,
            lambda cotangent, a, b, **given: transposes[0](cotangent, b, **given),
            lambda cotangent, a, b, **given: transposes[1](cotangent, a, **given),
        )
    batching.primitive_batchers[found] = batched
    mlir.register_lowering(found, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(found, lowered_on_cpu, platform="cpu")
    return found
