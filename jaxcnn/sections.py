"""The sections of a config: what may be set, what it means and which values it takes.

The defaults live here and nowhere else. Every duration inside a schedule is a share of the run, so a shorter run keeps
its shape.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.fields import Rule, is_kind, option


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
    num_classes: int | None = option(
        None, "logits, at least one a class; none: as many as the dataset has classes", at_least=1, on_resume="refuse"
    )
    init_from: str | None = option(
        None,
        "run directory whose best weights the run starts from; a head of another class count is made anew",
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

    dataset: str = option(
        "digits",
        "name of the catalog (README lists them), tfds:NAME[/CONFIG], folder:PATH or npz:FILE",
        on_resume="refuse",
    )
    data_dir: str | None = option(None, "where TFDS datasets are prepared; none: the user's cache", on_resume="silent")
    train_split: str = option("train", "training examples, in TFDS syntax, e.g. train[:90%]", on_resume="refuse")
    eval_split: str = option("test", "examples for evaluation, in TFDS syntax", on_resume="refuse")
    batch_size: int = option(64, "examples per training step, over all devices", at_least=1, on_resume="refuse")
    eval_batch_size: int = option(512, "examples per evaluation step, over all devices", at_least=1, on_resume="silent")
    image_size: int | None = option(
        None, "rows and columns that the network sees; none: as stored", at_least=1, on_resume="refuse"
    )
    fit: str = option(
        "resize",
        "how an image reaches image_size: `resize` (bicubic), `crop` (shorter side to 8/7 of it, then the centre), `pad` with 0",
        choices=("resize", "crop", "pad"),
        on_resume="refuse",
    )
    mean: tuple[float, ...] = option(
        (), "a number a channel, of pixels in [0, 1]; none: the dataset's", on_resume="refuse"
    )
    std: tuple[float, ...] = option((), "a number a channel; none: the dataset's", above=0, on_resume="refuse")
    eval_views: str = option(
        "one",
        "views of an image whose probabilities are averaged in evaluation: `one`, `flip` (and its mirror image), "
        "`shift` (also moved by a pixel to either side), `ten` (corners and centre of a square 8/7 as large, and their "
        "mirror images)",
        choices=("one", "flip", "shift", "ten"),
    )
    resident_gb: float = option(
        2.0,
        "a split of at most so many GB is kept on each device; a larger one is streamed",
        at_least=0,
        on_resume="silent",
    )
    cache: str = option(
        "none",
        "where photographs are kept after the first epoch, decoded and with a shorter side of 8/7 of image_size: `ram`, "
        "`disk` (the user's cache) or nowhere; crops are then cut out of these",
        choices=("none", "ram", "disk"),
        on_resume="refuse",
    )
    threads: int | None = option(
        None, "threads that read a streamed split; none: one a core", at_least=1, at_most=1024, on_resume="silent"
    )
    ahead: int = option(2, "batches read ahead of the one in use", at_least=1, at_most=1024, on_resume="silent")
    max_bad_records: int = option(
        0, "unreadable examples of a split that are left out and counted; one more ends the run", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training images, in this order. Zero, false and `none` mean off; docs/augmentation.md shows each."""

    crop: str = option(
        "none",
        "`resized`: a box of random area and shape, scaled to the image size; `scale`: shorter side resized to a random "
        "length, then a random crop at image size",
        choices=("none", "resized", "scale"),
    )
    crop_area: tuple[float, ...] = option(
        (0.08, 1.0), "resized: smallest and largest share of the image's area", above=0, at_most=1
    )
    crop_ratio: tuple[float, ...] = option((0.75, 4 / 3), "resized: smallest and largest width / height", above=0)
    shorter_side: tuple[float, ...] = option(
        (256.0, 256.0), "scale: smallest and largest length of the shorter side, in pixels", at_least=1
    )
    shift: float = option(0.0, "largest shift along each axis, in pixels", at_least=0)
    rotate: float = option(0.0, "largest rotation either way, in degrees", at_least=0, at_most=180)
    zoom: float = option(0.0, "largest relative change of size, e.g. 0.1 for 0.9 to 1.1 times", at_least=0, below=1)
    shear: float = option(0.0, "largest horizontal shear, in columns per row", at_least=0)
    flip: bool = option(False, "mirror left and right with probability 1/2")
    alternating_flip: bool = option(False, "mirror in every second epoch, the first at random; instead of flip")
    pad_crop: int = option(
        0, "pad with so many pixels on each side and crop at a random place, in whole pixels", at_least=0
    )
    pad_mode: str = option(
        "zero", "what lies outside the image: black, or its mirror image", choices=("zero", "reflect")
    )
    randaugment: int = option(0, "RandAugment: operations in a row, e.g. 2", at_least=0, at_most=14)
    magnitude: int = option(9, "RandAugment: strength of its operations", at_least=0, at_most=30)
    trivial: bool = option(False, "TrivialAugment Wide: one operation of random strength")
    brightness: float = option(0.0, "factor on the values, drawn from 1 - b to 1 + b, e.g. 0.4", at_least=0)
    contrast: float = option(0.0, "factor on the distance to the mean grey, from 1 - c to 1 + c", at_least=0)
    saturation: float = option(0.0, "factor on the distance to each pixel's grey, from 1 - s to 1 + s", at_least=0)
    hue: float = option(0.0, "largest turn of the colour circle either way; 0.5 is half of it", at_least=0, at_most=0.5)
    grey: float = option(0.0, "probability of an image without colour", at_least=0, at_most=1)
    lighting: float = option(
        0.0, "standard deviation of AlexNet's noise along the principal components of colour, e.g. 0.1", at_least=0
    )
    cutout: int = option(0, "side of a black square at a random place, in pixels", at_least=0)
    erase: float = option(0.0, "probability of a random rectangle, erased", at_least=0, at_most=1)
    erase_area: tuple[float, ...] = option(
        (0.02, 0.33), "smallest and largest share of the image that is erased", above=0, at_most=1
    )
    erase_value: str = option("zero", "what the rectangle becomes: black, or noise", choices=("zero", "noise"))
    mixup: float = option(0.0, "alpha of mixup: two images blended by a share from Beta(alpha, alpha)", at_least=0)
    cutmix: float = option(
        0.0,
        "alpha of CutMix: a box of another image, its share from Beta(alpha, alpha); with mixup: half each",
        at_least=0,
    )

    def __post_init__(self) -> None:
        for name in ("crop_area", "crop_ratio", "shorter_side", "erase_area"):
            pair = getattr(self, name)
            if not is_kind(pair, tuple[float, ...]) or len(pair) != 2 or not pair[0] <= pair[1]:
                raise UsageError(f"augment.{name}={pair!r} must be two numbers, the smaller first")
        if self.trivial and self.randaugment:
            raise UsageError(
                f"augment.randaugment={self.randaugment} and augment.trivial={self.trivial}: give one of the two"
            )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Softmax cross-entropy."""

    label_smoothing: float = option(0.0, "probability spread evenly over all classes", at_least=0, below=1)
    aux_weight: float = option(0.3, "weight of the loss of each auxiliary head, for networks with any", at_least=0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The direction of an update; its length is the schedule's."""

    name: str = option(
        "sgd", "optimizer", choices=("sgd", "adam", "adamw", "lars", "lamb", "lion", "muon"), on_resume="refuse"
    )
    learning_rate: float = option(0.1, "peak learning rate", at_least=0)
    scale_batch: int | None = option(
        None,
        "batch size that learning_rate is meant for: it grows in proportion to the batch; none: as given",
        at_least=1,
    )
    momentum: float = option(0.9, "momentum, or first-moment decay; muon: 0.95 is usual", at_least=0, below=1)
    nesterov: bool = option(False, "look ahead along the momentum (not lion)")
    second_moment: float = option(
        0.999,
        "second-moment decay of the adams and lamb; lion: decay of its average, 0.99 is usual",
        at_least=0,
        below=1,
    )
    epsilon: float = option(1e-8, "added to the root of the second moment", above=0)
    trust: float = option(0.001, "lars: norm of a kernel's direction as a share of the kernel's", above=0)
    weight_decay: float = option(
        0.0,
        "added to the gradient for sgd, adam and lars (L2, as torch), to the step for the others; kernels only",
        at_least=0,
    )
    freeze: tuple[str, ...] = option(
        (), "patterns of layers that stay as they are, e.g. `conv1,layer1_*`; their BatchNorm uses its running moments"
    )
    decay_all: bool = option(False, "weight decay also on biases and normalisation parameters")
    accumulate: int = option(1, "parts of the batch whose gradients are computed in turn, for less memory", at_least=1)
    rates: tuple[str, ...] = option(
        (), "`PATTERN=FACTOR,...`: layers whose rate is another, the first that fits counts, e.g. `*/bias=64,fc=0.1`"
    )
    newton_schulz: int = option(5, "muon: steps that make a direction orthogonal", at_least=1)
    relative: bool = option(False, "muon: scale a kernel's direction with the norm of the kernel")
    rest: str = option(
        "adam",
        "muon: what updates biases, normalisation parameters and rest_layers",
        choices=("adam", "sgd"),
        on_resume="refuse",
    )
    rest_momentum: float = option(0.9, "muon: momentum, or first-moment decay, of the rest", at_least=0, below=1)
    rest_layers: tuple[str, ...] = option(
        (), "muon: patterns of layers that it leaves to the rest, e.g. `fc`", on_resume="refuse"
    )
    clip_norm: float | None = option(None, "largest global norm of the gradient; none: no clipping", above=0)
    ema_decay: float | None = option(
        None,
        "evaluate an exponential moving average of the weights with this decay; none: the weights",
        at_least=0,
        below=1,
        on_resume="switch",
    )

    def __post_init__(self) -> None:
        for rate in self.rates if is_kind(self.rates, tuple[str, ...]) else ():
            pattern, _, factor = rate.rpartition("=")
            if not pattern or not _is_number(factor):
                raise UsageError(f"optimizer.rates={rate!r} must be PATTERN=FACTOR with a factor >= 0, e.g. fc=0.1")


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


def _is_number(text: str) -> bool:
    """Whether the text is a finite number, not negative."""
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


def _as_plain(name: str, value: Any) -> Any:
    """An override as JSON can carry it: a list becomes a tuple, anything but plain values is refused."""
    if name in ("name", "parent", "num_classes", "dtype", "init_from"):
        raise UsageError(f"model.overrides[{name!r}]={value!r}: {name} is not the network's own to override")
    if isinstance(value, list | tuple):
        return tuple(_as_plain("", item) for item in value)
    if not isinstance(value, bool | int | float | str):
        raise UsageError(f"model.overrides[{name!r}]={value!r} must be a bool, int, float, str or a tuple of them")
    return value
