"""Networks by name."""

import dataclasses
import fnmatch
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen

from jaxcnn.errors import UsageError, nearest
from jaxcnn.fields import is_kind, kind_name

_OF_LINEN = {"parent", "name", "num_classes", "dtype"}  # fields that are not a user's to override
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
M = TypeVar("M", bound=type[linen.Module])


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered network: its class, the fields that make it this variant, and the image it was published for."""

    name: str
    module: type[linen.Module]
    fields: dict[str, Any]
    input_shape: tuple[int, int, int]


_REGISTRY: dict[str, Entry] = {}


def register_model(name: str, *, input_shape: tuple[int, int, int], **fields: Any) -> Callable[[M], M]:
    """Class decorator that gives a Linen module a name; use it several times for several variants.

    The module has the fields ``num_classes`` and ``dtype`` and is called as ``module(x, train=False)`` with images
    ``[B, H, W, C]``; it returns logits ``[B, num_classes]``.

    Args:
      name: what ``--model`` and ``create_model`` call it; a name that is taken is a ValueError.
      input_shape: (rows, columns, channels) of the images that it is meant for.
      **fields: values of the module's fields in this variant.
    """

    def register(module: M) -> M:
        annotations = {field.name for field in dataclasses.fields(module)}
        if missing := {"num_classes", "dtype"} - annotations:
            raise UsageError(
                f"model {name!r}: class {module.__name__} must have the fields {', '.join(sorted(missing))}"
            )
        old = _REGISTRY.get(name)
        if old is not None and (old.module.__qualname__, old.module.__module__) != (
            module.__qualname__,
            module.__module__,
        ):
            raise UsageError(f"model name {name!r} is taken by {old.module.__name__}; choose another")
        _REGISTRY[name] = Entry(name, module, fields, input_shape)
        return module

    return register


def create_model(name: str, num_classes: int, dtype: Any = "float32", **overrides: Any) -> linen.Module:
    """The network called ``name``.

    Args:
      name: one of ``list_models()``.
      num_classes: number of logits, >= 1.
      dtype: "float32" or "bfloat16" (or ``jnp.bfloat16``), the type of the computation; parameters are float32.
        "float64" is for checks, where rounding would hide what is compared, and needs ``jax.enable_x64(True)``.
      **overrides: other values for the network's fields, e.g. ``activation="relu"``; ``overridable(name)`` lists those
        that are flags too; tables of rows, as VGG's ``blocks``, are for Python alone.

    Raises:
      ValueError: an unknown name, class count, dtype or field; names what is allowed.
    """
    entry = find(name)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UsageError(f"num_classes={num_classes!r} must be an int >= 1")
    kind = _DTYPES.get(getattr(dtype, "__name__", str(dtype)))
    if kind is None:
        raise UsageError(f"dtype={dtype!r} must be one of {', '.join(_DTYPES)}")
    allowed = _fields(name)
    for field, value in overrides.items():
        if field not in allowed:
            listed = ", ".join(allowed) or "none"
            raise UsageError(
                f"model.{field}={value!r}: {name} has no field {field!r}; its fields are {listed}{nearest(field, allowed)}"
            )
        if not is_kind(value, allowed[field][0]):
            raise UsageError(f"model.{field}={value!r} must be {kind_name(allowed[field][0])}")
    return entry.module(**{**entry.fields, **overrides}, num_classes=num_classes, dtype=kind)


def find(name: str) -> Entry:
    """The registry's row for ``name``."""
    if name not in _REGISTRY:
        raise UsageError(f"model={name!r} is not a network{nearest(name, _REGISTRY) or '; `models` lists them'}")
    return _REGISTRY[name]


def overridable(name: str) -> dict[str, tuple[Any, Any]]:
    """``{field: (type, value in this variant)}`` for the fields that may be overridden by a flag; tables of rows may not."""
    return {field: (kind, value) for field, (kind, value) in _fields(name).items() if not _is_table(value)}


def _fields(name: str) -> dict[str, tuple[Any, Any]]:
    entry = find(name)
    values = {
        f.name: entry.fields.get(f.name, f.default) for f in dataclasses.fields(entry.module) if f.name not in _OF_LINEN
    }
    kinds = typing.get_type_hints(entry.module)
    return {field: (_kind(kinds.get(field), value), value) for field, value in values.items() if _is_plain(value)}


def input_shape(name: str) -> tuple[int, int, int]:
    """(rows, columns, channels) of the images that the network was published for."""
    return find(name).input_shape


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_REGISTRY, pattern))


def _kind(annotated: Any, value: Any) -> Any:
    """The type of a field: as annotated when that is a plain one (``rate: float = 0`` takes 0.5), else that of its value."""
    if annotated in (bool, int, float, str) or typing.get_origin(annotated) is tuple:
        return annotated
    if isinstance(value, tuple):
        return tuple[type(value[0]) if value else int, ...]
    return type(value)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, bool | int | float | str)


def _is_table(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, tuple) for item in value)
