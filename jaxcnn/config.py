"""Config: everything that a run is a function of, as frozen dataclasses.

Each field carries its meaning and its bounds; flags, ``--help``, ``config.json``, the checks and the comparison on resume
are all read off these fields. The defaults live here and nowhere else. Every duration inside a schedule is a share of
the run, so a shorter run keeps its shape.
"""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jaxcnn.errors import UsageError, nearest
from jaxcnn.fields import Rule, check, is_kind, option


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network, and what of it is changed."""

    name: str = option("lenet5", "network; `models` lists them", on_resume="refuse")
    dtype: str = option(
        "float32",
        "type the network computes in; parameters, logits and loss stay float32",
        choices=("float32", "bfloat16"),
        on_resume="refuse",
    )
    overrides: Mapping[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"rule": Rule("the network's own fields by name, as flags `--model.FIELD`", on_resume="refuse")},
    )

    def __post_init__(self) -> None:
        if not isinstance(self.overrides, Mapping):
            raise UsageError(f"model.overrides={self.overrides!r} must be a mapping of field names to values")
        plain = {name: _as_plain(name, value) for name, value in self.overrides.items()}
        object.__setattr__(self, "overrides", plain)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which examples, and how many at a time."""

    dataset: str = option("digits", "dataset: digits, mnist or fake", on_resume="refuse")
    data_dir: str | None = option(
        None, "directory of prepared TFDS datasets; none: the user's cache", on_resume="silent"
    )
    train_split: str = option("train", "training examples, in TFDS syntax, e.g. train[:90%]", on_resume="refuse")
    eval_split: str = option("test", "examples for evaluation, in TFDS syntax", on_resume="refuse")
    batch_size: int = option(64, "examples per training step, over all devices", at_least=1, on_resume="refuse")
    eval_batch_size: int = option(512, "examples per evaluation step, over all devices", at_least=1, on_resume="silent")
    image_size: int | None = option(
        None, "rows and columns that the network sees; none: as stored", at_least=1, on_resume="refuse"
    )
    fit: str = option(
        "resize",
        "how an image reaches image_size: `resize` (bicubic), or `pad` with the background's 0 and centre",
        choices=("resize", "pad"),
        on_resume="refuse",
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training images. Zero means off."""

    shift: float = option(0.0, "largest shift along each axis, in pixels", at_least=0)
    rotate: float = option(0.0, "largest rotation either way, in degrees", at_least=0, at_most=180)
    zoom: float = option(0.0, "largest relative change of size, e.g. 0.1 for 0.9 to 1.1 times", at_least=0, below=1)
    shear: float = option(0.0, "largest horizontal shear, in columns per row", at_least=0)
    flip: bool = option(False, "mirror left and right with probability 1/2")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Softmax cross-entropy."""

    label_smoothing: float = option(0.0, "probability spread evenly over all classes", at_least=0, below=1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The direction of an update; its length is the schedule's."""

    name: str = option("sgd", "optimizer", choices=("sgd", "adam", "adamw"), on_resume="refuse")
    learning_rate: float = option(0.1, "peak learning rate", at_least=0)
    momentum: float = option(0.9, "momentum of sgd, first-moment decay of adam", at_least=0, below=1)
    nesterov: bool = option(False, "look ahead along the momentum (sgd, adam, adamw)")
    second_moment: float = option(0.999, "second-moment decay of adam and adamw", at_least=0, below=1)
    epsilon: float = option(1e-8, "added to the root of the second moment of adam and adamw", above=0)
    weight_decay: float = option(
        0.0, "added to the gradient for sgd and adam (L2, as torch), to the step for adamw; kernels only", at_least=0
    )
    decay_all: bool = option(False, "weight decay also on biases and normalisation parameters")
    clip_norm: float | None = option(None, "largest global norm of the gradient; none: no clipping", above=0)
    ema_decay: float | None = option(
        None,
        "evaluate an exponential moving average of the weights with this decay; none: the weights",
        at_least=0,
        below=1,
    )


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step."""

    name: str = option(
        "cosine",
        "shape of the learning rate after warm-up",
        choices=("constant", "step", "cosine", "linear", "onecycle"),
    )
    warmup: float = option(
        0.0, "share of the run with a linear rise from 0 (onecycle: 0 means 0.3)", at_least=0, at_most=1
    )
    milestones: tuple[float, ...] = option(
        (0.5, 0.75), "step: shares of the run after which the rate is multiplied by factor", at_least=0, at_most=1
    )
    factor: float = option(0.1, "step: multiplier at each milestone", above=0, at_most=1)
    final: float = option(
        0.0, "cosine, linear, onecycle: last learning rate as a share of the peak", at_least=0, at_most=1
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state goes to disk and how much of it stays there."""

    every: int | None = option(None, "steps between checkpoints; none: once an epoch", at_least=1, on_resume="silent")
    keep: int = option(3, "latest checkpoints kept; the best one is kept as well", at_least=1, on_resume="silent")


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is told, and when."""

    every: int = option(
        50, "steps between two looks at the metrics; every step is written", at_least=1, on_resume="silent"
    )
    eval_every: int | None = option(
        None, "steps between evaluations; none: once an epoch", at_least=1, on_resume="silent"
    )
    tensorboard: bool = option(
        False, "also write TensorBoard events (needs the extra `tensorboard`)", on_resume="silent"
    )
    plots: bool = option(True, "draw plots/ at the end of the run", on_resume="silent")


@dataclasses.dataclass(frozen=True)
class Config:
    """A run. Checked as a whole when made; ``UsageError`` names the field by its dotted path."""

    experiment: str = option("", "name of the experiment, or the path of its file", on_resume="silent")
    seed: int = option(0, "everything random follows from it", at_least=0, below=2**32, on_resume="refuse")
    epochs: float | None = option(None, "length of the run in passes over the training split (or give steps)", above=0)
    steps: int | None = option(None, "length of the run in updates (or give epochs)", at_least=1, below=2**31)
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

    A path ``model.X`` that is no field of ``ModelConfig`` is a field of the network itself (``overrides``).
    """
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
        elif (
            isinstance(value, int)
            and not isinstance(value, bool)
            and is_kind(float(value), kind)
            and not is_kind(value, kind)
        ):
            yield name, float(value)
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


def _as_plain(name: str, value: Any) -> Any:
    """An override as JSON can carry it: a list becomes a tuple, anything but plain values is refused."""
    if name in ("name", "parent", "num_classes", "dtype"):
        raise UsageError(f"model.overrides[{name!r}]={value!r}: {name} is not the network's own to override")
    if isinstance(value, list | tuple):
        return tuple(_as_plain("", item) for item in value)
    if not isinstance(value, bool | int | float | str):
        raise UsageError(f"model.overrides[{name!r}]={value!r} must be a bool, int, float, str or a tuple of them")
    return value
