"""Config: everything that a run is a function of, as one frozen dataclass of ``sections``.

Flags, ``--help``, ``config.json``, the checks and the comparison on resume are all read off its fields.
"""

import copy
import dataclasses
import json
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jaxcnn.errors import UsageError, nearest
from jaxcnn.fields import Rule, check, option
from jaxcnn.sections import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    LogConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)

__all__ = [
    "TRACED",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "difference",
    "from_json",
    "leaves",
    "replace",
    "to_json",
    "traced",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """A run. Checked as a whole when made; ``UsageError`` names the field by its dotted path."""

    experiment: str = option("", "name of the experiment, or the path of its file", on_resume="silent")
    seed: int = option(0, "everything random follows from it", at_least=0, below=2**32, on_resume="refuse")
    epochs: float | None = option(None, "length of the run in passes over the training split (or give steps)", above=0)
    steps: int | None = option(None, "length of the run in updates (or give epochs)", at_least=1, below=2**31)
    elastic_exact: bool = option(
        False,
        "the same bits on 1, 2, 4 and 8 devices (CPU): eight shards of the batch, each with BatchNorm moments of its own",
        on_resume="refuse",
    )
    steps_per_execution: int = option(
        1,
        "updates in one call of the compiled program, where the data are kept on the devices: for networks so small that "
        "a call costs a good part of an update; loss and stop are looked at between calls",
        at_least=1,
        at_most=1000,
    )
    nonfinite: str = option(
        "abort",
        "an update with NaN or infinity: `abort` ends the run (exit 5), `skip` leaves the state as it is; 11 in a row end it",
        choices=("abort", "skip"),
    )
    step_timeout: float = option(
        1800.0,
        "seconds without a completed update or evaluation batch after which the run shows its stacks and ends with 6",
        above=0,
        on_resume="silent",
    )
    precise_batches: int = option(
        0,
        "training batches from which BatchNorm's moments are computed anew after the last update; 0: keep the running ones",
        at_least=0,
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(Config).items():
            if _names(kind) and type(getattr(self, name)) is not kind:
                raise UsageError(f"{name}={getattr(self, name)!r} must be a {kind.__name__}")
        for path, (value, kind, rule) in leaves(self).items():
            check(path, value, kind, rule)
        if (self.epochs is None) == (self.steps is None):
            raise UsageError(f"steps={self.steps} and epochs={self.epochs}: give exactly one of the two")


def leaves(config: Any, prefix: str = "") -> dict[str, tuple[Any, Any, Rule]]:
    """``{dotted path: (value, type, rule)}`` of every field, the network's own fields included."""
    found: dict[str, tuple[Any, Any, Rule]] = {}
    kinds = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            found |= leaves(value, path + ".")
        elif field.name == "overrides":
            rule = field.metadata["rule"]
            found |= {prefix + name: (item, type(item), rule) for name, item in value.items()}
        else:
            found[path] = (value, kinds[field.name], field.metadata["rule"])
    return found


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with values at dotted paths; an unknown path is a UsageError with the nearest name.

    A path ``model.X`` that is no field of ``ModelConfig`` is a field of the network itself (``overrides``). Of steps and
    epochs, the one that is given replaces the other.
    """
    if values.keys() & {"steps", "epochs"}:
        values = {"steps": None, "epochs": None} | dict(values)
    changes: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        target: Any = changes.get(section, getattr(config, section, None)) if section else config
        fields = _names(target) - {"overrides"}
        if name in fields and not _names(getattr(target, name)):
            new = {name: value}
        elif isinstance(target, ModelConfig) and name != "overrides":
            new = {"overrides": {**target.overrides, name: value}}
        else:
            raise UsageError(f"{path}={value!r}: there is no such setting{nearest(path, leaves(config))}")
        changes |= {section: dataclasses.replace(target, **new)} if section else new
    return dataclasses.replace(config, **changes)


# Numbers that an update only computes with: runs that differ in nothing else share one compiled program.
TRACED = (
    "seed",
    "loss.label_smoothing",
    "loss.aux_weight",
    "optimizer.learning_rate",
    "optimizer.momentum",
    "optimizer.second_moment",
    "optimizer.epsilon",
    "optimizer.trust",
    "optimizer.weight_decay",
    "schedule.factor",
    "schedule.final",
)


def traced(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with values at paths of ``TRACED`` that may be arrays, also while a function is traced; they are not checked."""
    sections: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        target = sections.setdefault(section, copy.copy(getattr(config, section) if section else config))
        object.__setattr__(target, name, value)
    whole = sections.pop("", None) or copy.copy(config)
    for section, target in sections.items():
        object.__setattr__(whole, section, target)
    return whole


def difference(old: Config, new: Config) -> dict[str, tuple[Any, Any, Rule]]:
    """``{dotted path: (old value, new value, rule)}`` of all fields that differ."""
    a, b = leaves(old), leaves(new)
    missing = (None, None, Rule("", on_resume="refuse"))
    pairs = {path: (a.get(path, missing), b.get(path, missing)) for path in {**a, **b}}
    return {path: (x[0], y[0], x[2] if path in a else y[2]) for path, (x, y) in pairs.items() if x[0] != y[0]}


def to_json(config: Config) -> str:
    """The config as JSON text, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str, source: str = "config") -> Config:
    """Read what ``to_json`` wrote. JSON is data: nothing in it is executed.

    Raises:
      UsageError: not JSON, an unknown or duplicate key, a value of the wrong type or out of range; names ``source``.
    """
    try:
        values = json.loads(text, object_pairs_hook=_unique)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{source} must hold a JSON object, not {type(values).__name__}")
    try:
        return Config(**dict(_fields(Config, values, "")))
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def _fields(cls: type, values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    kinds = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"unknown key {prefix + name!r}{nearest(name, kinds)}")
        kind = kinds[name]
        if dataclasses.is_dataclass(kind) or name == "overrides":
            if not isinstance(value, Mapping):
                raise UsageError(f"{prefix + name} must be a JSON object, not {value!r}")
            if name == "overrides":
                yield name, {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
            else:
                yield name, typing.cast(type, kind)(**dict(_fields(typing.cast(type, kind), value, f"{prefix}{name}.")))
        elif isinstance(value, list):
            yield name, tuple(value)
        else:
            yield name, value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UsageError(f"duplicate key {twice[0]!r}")
    return dict(pairs)


def _names(value: Any) -> set[str]:
    """Names of a config's fields; none for a plain value."""
    return {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()


def total_steps(config: Config, num_examples: int) -> int:
    """Updates in the whole run."""
    steps = (config.epochs or 0) * num_examples / config.data.batch_size
    steps = config.steps or round(steps, 6)  # 0.07 epochs of 100 examples are 7
    if steps >= 2**31:
        raise UsageError(f"epochs={config.epochs} are {steps:.3g} steps, which must be < {2**31}")
    return math.ceil(steps)


def steps_per_epoch(config: Config, num_examples: int) -> int:
    """Updates between two end-of-epoch actions, at least one."""
    return max(1, round(num_examples / config.data.batch_size))
