"""Fields of a config: what each means, which values it takes, and how text becomes a value."""

import dataclasses
import sys
import types
import typing
from typing import Any

from jaxcnn.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field means, what it may be, and what a change of it means for a run that is resumed."""

    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    on_resume: str = (
        "notice"  # a change is refused ("refuse", or from and to none "switch"), told ("notice") or "silent"
    )

    def refuses(self, old: Any, new: Any) -> bool:
        """Is a run with the value ``new`` another run than with ``old``?"""
        return self.on_resume == "refuse" or (self.on_resume == "switch" and None in (old, new))

    def problem(self, value: Any) -> str:
        """What is wrong with ``value``, in words, or ``""``."""
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}{nearest(str(value), self.choices)}"
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not abs(number) <= sys.float_info.max or not self._in_range(number):
                return f"must be a finite number {self.bounds()}".rstrip()
        return ""

    def _in_range(self, number: float) -> bool:
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def bounds(self) -> str:
        """The allowed range: ``>= 0 and < 1``."""
        signs = ((">=", self.at_least), (">", self.above), ("<=", self.at_most), ("<", self.below))
        return " and ".join(f"{sign} {bound:.10g}" for sign, bound in signs if bound is not None)


def option(default: Any, help: str, **rule: Any) -> Any:
    """A dataclass field with a ``Rule``."""
    return dataclasses.field(default=default, metadata={"rule": Rule(help, **rule)})


def check(path: str, value: Any, kind: Any, rule: Rule) -> None:
    """Raise UsageError unless ``value`` has type ``kind`` and keeps ``rule``."""
    if not is_kind(value, kind):
        raise UsageError(f"{path}={value!r} must be {kind_name(kind)} ({rule.help})")
    if problem := rule.problem(value):
        raise UsageError(f"{path}={value!r} {problem} ({rule.help})")


def parse(text: str, kind: Any) -> Any:
    """The value of type ``kind`` that a flag's text stands for. Raises ValueError in the words of the type."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in options and text.strip().lower() == "none":
        return None
    base = options[0]
    try:
        if base is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.strip().lower()]
        if base in (int, float):
            return base(text)
        if typing.get_origin(base) is tuple:
            item = typing.get_args(base)[0]
            return tuple(parse(part, item) for part in text.split(",") if part.strip())
    except (KeyError, ValueError):
        raise ValueError(f"{text!r} must be {kind_name(kind)}") from None
    return text


def is_off(value: Any) -> bool:
    """Whether a number is known to be 0; what is traced is not."""
    return isinstance(value, int | float) and value == 0


def kind_name(kind: Any) -> str:
    """A type in a user's words: ``int or none``, ``floats a,b,...``."""
    if isinstance(kind, types.UnionType):
        return " or ".join(kind_name(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"{typing.get_args(kind)[0].__name__}s a,b,..."
    return {type(None): "none", bool: "true or false", str: "text"}.get(kind, getattr(kind, "__name__", str(kind)))


def is_kind(value: Any, kind: Any) -> bool:
    """Whether a value has a field's type; an int stands for a float, a bool for neither."""
    if isinstance(kind, types.UnionType):
        return any(is_kind(value, k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(is_kind(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
