"""Receptive fields, read off a traced program: how many rows and columns of the image one output value depends on.

Each array that depends on the image carries, per axis, which image axis it runs along and the distance in pixels between
neighbours (the "jump"). A window of extent k over an axis with jump j makes the field (k - 1) j larger, a stride multiplies
the jump (Araujo, Norris & Sim 2019, "Computing receptive fields", section 2). Where paths meet, the largest field counts;
padding counts as image, so a field may be larger than the image.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from jax.extend.core import Literal

Run = tuple[int, int, int]  # (image axis 0 or 1, how many neighbours, distance between them in pixels)


@dataclasses.dataclass(frozen=True)
class Field:
    """What each value of an array sees.

    Attributes:
      size: rows and columns of the image.
      axes: for each axis of the array its runs along the image; several where axes were flattened into one.
    """

    size: tuple[int, int]
    axes: tuple[tuple[Run, ...], ...]

    def over(self, runs: tuple[Run, ...]) -> "Field":
        """Larger by all that a reduction over these runs sees."""
        size = list(self.size)
        for image_axis, count, jump in runs:
            size[image_axis] += (count - 1) * jump
        return dataclasses.replace(self, size=(size[0], size[1]))

    def windowed(self, axis: int, extent: int, stride: int) -> "Field":
        """After a window of this extent and stride has moved along an axis."""
        runs = self.axes[axis]
        wider = self.over(tuple((image_axis, extent, jump) for image_axis, _, jump in runs))
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
    known = {image: Field((1, 1), ((), ((0, rows, 1),), ((1, columns, 1),), ()))}
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
    if name == "conv_general_dilated":
        spec = params["dimension_numbers"]
        kernel, axes = equation.invars[1].aval.shape, _no_runs(len(field.axes))
        for i, (source, target) in enumerate(zip(spec.lhs_spec[2:], spec.out_spec[2:], strict=True)):
            extent = params["rhs_dilation"][i] * (kernel[spec.rhs_spec[2 + i]] - 1) + 1
            field = field.windowed(source, extent, params["window_strides"][i])
            axes[target] = field.axes[source]
        return dataclasses.replace(field, axes=tuple(axes))
    if name.startswith("reduce_window"):
        for axis, (size, stride, dilation) in enumerate(
            zip(params["window_dimensions"], params["window_strides"], params["window_dilation"], strict=True)
        ):
            field = field.windowed(axis, dilation * (size - 1) + 1, stride)
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
    if name == "slice" and params["strides"]:
        for axis, stride in enumerate(params["strides"]):
            field = field.windowed(axis, 1, stride)
        return field
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
    """Where several arrays meet: the largest field; the axes of the one that has the most."""
    size = (max(f.size[0] for f in fields), max(f.size[1] for f in fields))
    return Field(size, max(fields, key=lambda f: (len(f.axes), sum(map(len, f.axes)))).axes)


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
        runs = tuple(itertools.chain(*field.axes[first_i:i]))
        sizes, rest = new[first_j:j], b
        for position, size in enumerate(sizes):
            rest = rest // size if size else 0
            if len(runs) == 1:  # one axis split: what comes first takes the larger steps
                axes.append(((runs[0][0], size, runs[0][2] * rest),) if size > 1 or len(sizes) == 1 else ())
            else:
                axes.append(runs if position == 0 else ())
    return dataclasses.replace(field, axes=tuple(axes))


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
