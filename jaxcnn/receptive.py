"""Receptive fields, read off a traced program: how many rows and columns of the image one output value depends on.

Each array that depends on the image carries what its first value sees, from pixel ``low`` to pixel ``high``, and, per
axis, which image axis it runs along and the distance in pixels between neighbours (the "jump"). A window of extent k over
an axis with jump j makes the field (k - 1) j larger, a stride multiplies the jump (Araujo, Norris & Sim 2019, "Computing
receptive fields", section 2). Where paths meet, all that either sees counts; padding counts as image, so a field may be
larger than the image.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import Literal

from jaxcnn.nn import convolution, pooling

Run = tuple[int, int, int]  # (image axis 0 or 1, how many neighbours, distance between them in pixels)


@dataclasses.dataclass(frozen=True)
class Field:
    """What the values of an array see.

    Attributes:
      low, high: first and last (row, column) of the image that the value at index 0 sees.
      axes: for each axis of the array its runs along the image; several where axes were flattened into one.
    """

    low: tuple[int, int]
    high: tuple[int, int]
    axes: tuple[tuple[Run, ...], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.high[0] - self.low[0] + 1, self.high[1] - self.low[1] + 1

    def spread(self, image_axis: int, before: int, after: int) -> "Field":
        """Seeing so many pixels more before and after."""
        low, high = list(self.low), list(self.high)
        low[image_axis], high[image_axis] = low[image_axis] - before, high[image_axis] + after
        return dataclasses.replace(self, low=(low[0], low[1]), high=(high[0], high[1]))

    def over(self, runs: tuple[Run, ...]) -> "Field":
        """Larger by all that a reduction over these runs sees."""
        wider = self
        for image_axis, count, jump in runs:
            wider = wider.spread(image_axis, 0, (count - 1) * jump)
        return wider

    def windowed(self, axis: int, extent: int, stride: int, before: int = 0) -> "Field":
        """After a window of this extent and stride has moved along an axis that was padded by ``before``."""
        wider, runs = self, self.axes[axis]
        for image_axis, _, jump in runs:
            wider = wider.spread(image_axis, before * jump, (extent - 1 - before) * jump)
        return wider.with_axis(axis, tuple((image_axis, count, jump * stride) for image_axis, count, jump in runs))

    def with_axis(self, axis: int, runs: tuple[Run, ...]) -> "Field":
        """The same with other runs on one axis."""
        return dataclasses.replace(self, axes=(*self.axes[:axis], runs, *self.axes[axis + 1 :]))


def receptive_fields(jaxpr: Any, image: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """``(scope, (rows, columns))`` of each equation that depends on the image, in the program's order.

    Args:
      jaxpr: a traced function.
      image: the variable of ``jaxpr`` that holds the images ``[B, H, W, C]``.
    """
    _, rows, columns, _ = image.aval.shape
    known = {image: Field((0, 0), (0, 0), ((), ((0, rows, 1),), ((1, columns, 1),), ()))}
    yield from _walk(jaxpr, "", known)


def inner_jaxprs(equation: Any) -> Iterator[Any]:
    """The jaxprs that an equation (a jit, a custom gradient, a scan) carries among its parameters."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)  # a closed jaxpr holds an open one
            if hasattr(item, "eqns"):
                yield item


def scope_of(equation: Any, outer: str) -> str:
    """The names under which an equation was traced, joined by ``/``."""
    return "/".join(part for part in (outer, str(equation.source_info.name_stack)) if part)


def _walk(jaxpr: Any, outer: str, known: dict[Any, Field]) -> Iterator[tuple[str, tuple[int, int]]]:
    for equation in jaxpr.eqns:
        seen = [None if isinstance(v, Literal) else known.get(v) for v in equation.invars]
        if not any(seen):
            continue
        scope = scope_of(equation, outer)
        inner = next((j for j in inner_jaxprs(equation) if len(j.invars) == len(seen)), None)
        if inner is not None and equation.primitive.name not in ("reduce_window", "reduce"):
            within = {v: field for v, field in zip(inner.invars, seen, strict=True) if field}
            yield from _walk(inner, scope, within)
            results = zip(equation.outvars, inner.outvars, strict=True)
            known |= {v: within[w] for v, w in results if not isinstance(w, Literal) and w in within}
            continue
        result = _after(equation, seen)
        known |= {v: _fitted(result, v.aval.shape) for v in equation.outvars}
        yield scope, result.size


def _after(equation: Any, seen: list[Field | None]) -> Field:
    """The field of an equation's result."""
    name, params = equation.primitive.name, equation.params
    field = next(f for f in seen if f)
    if equation.primitive is convolution.PRODUCT:
        geometry = params["geometry"]
        windows = zip(geometry.kernel, geometry.stride, geometry.padding, strict=True)
        for axis, (size, stride, (before, _)) in enumerate(windows, 1):
            field = field.windowed(axis, size, stride, before)
        return field.over(field.axes[3]).with_axis(3, ())
    if equation.primitive is pooling.BLOCK_MEAN:
        rows, columns = params["window"]
        return field.windowed(1, rows, rows).windowed(2, columns, columns)
    if name == "conv_general_dilated":
        spec = params["dimension_numbers"]
        kernel, axes = equation.invars[1].aval.shape, _no_runs(len(field.axes))
        for i, (source, target) in enumerate(zip(spec.lhs_spec[2:], spec.out_spec[2:], strict=True)):
            extent = params["rhs_dilation"][i] * (kernel[spec.rhs_spec[2 + i]] - 1) + 1
            field = field.windowed(source, extent, params["window_strides"][i], params["padding"][i][0])
            axes[target] = field.axes[source]
        return dataclasses.replace(field, axes=tuple(axes))
    if name.startswith("reduce_window"):
        windows = zip(
            params["window_dimensions"],
            params["window_strides"],
            params["window_dilation"],
            params["padding"],
            strict=True,
        )
        for axis, (size, stride, dilation, (before, _)) in enumerate(windows):
            field = field.windowed(axis, dilation * (size - 1) + 1, stride, before)
        return field
    if name == "dot_general":
        return _contracted(params["dimension_numbers"], seen)
    if name.startswith(("reduce_", "arg")) and "axes" in params:
        field = field.over(tuple(itertools.chain(*(field.axes[axis] for axis in params["axes"]))))
        return dataclasses.replace(
            field, axes=tuple(runs for axis, runs in enumerate(field.axes) if axis not in params["axes"])
        )
    if name == "reshape":
        return _reshaped(field, equation.invars[0].aval.shape, params["new_sizes"])
    if name == "transpose":
        return dataclasses.replace(field, axes=tuple(field.axes[axis] for axis in params["permutation"]))
    if name == "squeeze":
        axes = tuple(runs for axis, runs in enumerate(field.axes) if axis not in params["dimensions"])
        return dataclasses.replace(field, axes=axes)
    if name == "broadcast_in_dim":
        axes = _no_runs(len(params["shape"]))
        for axis, target in enumerate(params["broadcast_dimensions"]):
            axes[target] = field.axes[axis]
        return dataclasses.replace(field, axes=tuple(axes))
    if name == "slice":
        strides = params["strides"] or (1,) * len(field.axes)
        for axis, (start, stride) in enumerate(zip(params["start_indices"], strides, strict=True)):
            field = field.windowed(axis, 1, stride, -start)
        return field
    if name == "pad":
        for axis, (before, _, _) in enumerate(params["padding_config"]):
            field = field.windowed(axis, 1, 1, before)
        return field
    if name == "concatenate" and field.axes[params["dimension"]]:  # pieces side by side: each has its own place
        largest = max((f for f in seen if f), key=lambda f: f.size)
        return dataclasses.replace(field, high=tuple(a + n - 1 for a, n in zip(field.low, largest.size, strict=True)))
    return _joined([f for f in seen if f])


def _contracted(dimension_numbers: Any, seen: list[Field | None]) -> Field:
    """A matrix product: the contracted axes are seen whole."""
    contracted, batched = dimension_numbers
    parts: list[Field] = []
    for side, field in enumerate(seen[:2]):
        if field:
            field = field.over(tuple(itertools.chain(*(field.axes[axis] for axis in contracted[side]))))
            used = {*contracted[side], *batched[side]}
            free = tuple(runs for axis, runs in enumerate(field.axes) if axis not in used)
            batch = tuple(field.axes[axis] for axis in batched[side])
            parts.append(dataclasses.replace(field, axes=batch + free))
    return _joined(parts)


def _joined(fields: list[Field]) -> Field:
    """Where several arrays meet: all that one of them sees; the axes of the one that has the most."""
    low = min(f.low[0] for f in fields), min(f.low[1] for f in fields)
    high = max(f.high[0] for f in fields), max(f.high[1] for f in fields)
    return Field(low, high, max(fields, key=lambda f: (len(f.axes), sum(map(len, f.axes)))).axes)


def _reshaped(field: Field, old: tuple[int, ...], new: tuple[int, ...]) -> Field:
    """Axes split, or merged: the shortest groups of neighbouring axes with equal products belong together."""
    axes: list[tuple[Run, ...]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j, a, b = i, j, 1, 1
        while i < len(old) and (i == first_i or a < b):
            a, i = a * old[i], i + 1
        while j < len(new) and (j == first_j or b < a or a == 0):
            b, j = b * new[j], j + 1
            while a < b and i < len(old):
                a, i = a * old[i], i + 1
        axes += _split(tuple(itertools.chain(*field.axes[first_i:i])), new[first_j:j])
    return dataclasses.replace(field, axes=tuple(axes))


def _split(runs: tuple[Run, ...], sizes: tuple[int, ...]) -> list[tuple[Run, ...]]:
    """The runs of one axis that becomes axes of these sizes."""
    axes = _no_runs(len(sizes))
    if not sizes:
        return axes
    long = [axis for axis, size in enumerate(sizes) if size > 1] or [0]
    if len(runs) == 1:  # what comes first takes the larger steps
        (image_axis, _, jump), rest = runs[0], math.prod(sizes)
        for axis in long:
            rest //= max(sizes[axis], 1)
            axes[axis] = ((image_axis, sizes[axis], jump * rest),)
    elif [count for _, count, _ in runs] == [sizes[axis] for axis in long[-len(runs) :]]:  # merged before, now apart
        for axis, run in zip(long[-len(runs) :], runs, strict=True):
            axes[axis] = (run,)
    else:
        axes[long[0]] = runs
    return axes


def _fitted(field: Field, shape: tuple[int, ...]) -> Field:
    """The field of an array of this shape: counts of its runs as they are now; no axes where the ranks differ."""
    if len(field.axes) != len(shape):
        return dataclasses.replace(field, axes=((),) * len(shape))
    axes = tuple(
        ((runs[0][0], size, runs[0][2]),) if len(runs) == 1 else runs
        for runs, size in zip(field.axes, shape, strict=True)
    )
    return dataclasses.replace(field, axes=axes)


def _no_runs(rank: int) -> list[tuple[Run, ...]]:
    return [()] * rank
