"""The same networks in PyTorch, to be timed beside ours. PyTorch is imported here and nowhere else.

Modules are called as torchvision calls them, so that ``interop`` reads their weights.
"""

import collections
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from flax import linen
from torch import nn

from jaxcnn.bench.beside import random_batch
from jaxcnn.errors import UsageError
from jaxcnn.models.alexnet import AlexNet
from jaxcnn.models.lenet import LeNet5
from jaxcnn.models.registry import create_model
from jaxcnn.models.resnet import ResNet
from jaxcnn.models.vgg import VGG

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": functools.partial(nn.ReLU, inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": functools.partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "identity": nn.Identity,
}
_SAME = {"groups": 1, "squeeze": 0, "stochastic_depth": 0.0, "use_bias": False, "remat": False, "norm": "global"}
"""Fields of a network that its peer has at these values only."""


def make_peer(model: linen.Module, channels: int) -> nn.Module:
    """The network in PyTorch, for images ``[B, channels, H, W]``. UsageError for a network that has no peer."""
    for kind, make in _MAKERS.items():
        if isinstance(model, kind) and all(getattr(model, f, value) == value for f, value in _SAME.items()):
            return make(model, channels)
    raise UsageError(
        f"--vs=torch: {type(model).__name__} with these fields has no peer in PyTorch here; lenet5, alexnet, the VGGs, and "
        "the ResNets v1 and v1.5 have"
    )


def _activation(model: Any) -> nn.Module:
    if model.activation not in _ACTIVATIONS:
        raise UsageError(
            f"--vs=torch: model.activation={model.activation!r} must be one of {', '.join(_ACTIVATIONS)} in a comparison"
        )
    return _ACTIVATIONS[model.activation]()


def _lenet5(model: LeNet5, channels: int) -> nn.Module:
    layers: dict[str, nn.Module] = {}
    for i, maps in enumerate((6, 16, 120), start=1):
        layers |= {f"conv{i}": nn.Conv2d(channels, maps, 5), f"f{i}": _activation(model)}
        layers[f"pool{i}"] = nn.AvgPool2d(2) if i < 3 else nn.Flatten()
        channels = maps
    layers |= {"fc1": nn.Linear(120, 84), "f4": _activation(model), "dropout": nn.Dropout(model.dropout_rate)}
    return nn.Sequential(collections.OrderedDict(**layers, fc2=nn.Linear(84, model.num_classes)))


def _alexnet(model: AlexNet, channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    shapes = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]  # size, stride, padding
    for i, ((size, stride, padding), maps) in enumerate(zip(shapes, model.maps, strict=True)):
        layers += [nn.Conv2d(channels, maps, size, stride, padding), _activation(model)]
        channels = maps
        if i in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, 2))
    return _Classifier(layers, 6 * 6 * channels, 6, (model.hidden, model.hidden), model, dropout_first=True)


def _vgg(model: VGG, channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    for sizes, maps in zip(model.blocks, model.widths, strict=True):
        for size in sizes:
            layers.append(nn.Conv2d(channels, maps, size, padding=size // 2))
            layers += [nn.BatchNorm2d(maps)] if model.batch_norm else []
            layers.append(_activation(model))
            channels = maps
        layers.append(nn.MaxPool2d(2))
    return _Classifier(layers, model.pooled**2 * channels, model.pooled, model.hidden, model)


class _Classifier(nn.Module):
    """Convolutions, then dense layers, with dropout after each hidden one, or before it."""

    def __init__(
        self,
        features: list[nn.Module],
        flat: int,
        pooled: int,
        hidden: tuple[int, ...],
        model: Any,
        dropout_first=False,
    ):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        layers: list[nn.Module] = []
        for width in hidden:
            dropout, dense = nn.Dropout(model.dropout_rate), [nn.Linear(flat, width), _activation(model)]
            layers += [dropout, *dense] if dropout_first else [*dense, dropout]
            flat = width
        self.classifier = nn.Sequential(*layers, nn.Linear(flat, model.num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class _Block(nn.Module):
    """A residual block of He et al. 2016a: basic or bottleneck."""

    def __init__(self, model: ResNet, channels: int, maps: int, stride: int):
        super().__init__()
        if model.block == "basic":
            shapes = [(channels, maps, 3, stride), (maps, maps, 3, 1)]
        else:
            width = maps * model.base_width // 64
            first, second = (stride, 1) if model.stride_first else (1, stride)
            shapes = [(channels, width, 1, first), (width, width, 3, second), (width, 4 * maps, 1, 1)]
        self.depth, self.f = len(shapes), _activation(model)
        for i, (before, after, size, step) in enumerate(shapes, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(before, after, size, step, size // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
        self.out = shapes[-1][1]
        self.downsample = None
        if stride > 1 or channels != self.out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, self.out, 1, stride, bias=False), nn.BatchNorm2d(self.out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = self.f(y) if i < self.depth else y
        return self.f(y + (x if self.downsample is None else self.downsample(x)))


class _ResNet(nn.Module):
    def __init__(self, model: ResNet, channels: int):
        super().__init__()
        size, stride = (7, 2) if model.stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(channels, model.width, size, stride, size // 2, bias=False)
        self.bn1, self.f = nn.BatchNorm2d(model.width), _activation(model)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if model.stem == "imagenet" else nn.Identity()
        channels, stages = model.width, []
        for stage, depth in enumerate(model.depths):
            blocks = []
            for i in range(depth):
                block = _Block(model, channels, model.width * 2**stage, 2 if stage > 0 and i == 0 else 1)
                blocks.append(block)
                channels = block.out
            stages.append(f"layer{stage + 1}")
            setattr(self, stages[-1], nn.Sequential(*blocks))
        self.stages = stages
        self.dropout = nn.Dropout(model.dropout_rate)
        self.fc = nn.Linear(channels, model.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.f(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(self.dropout(x.mean((2, 3))))


def _resnet(model: ResNet, channels: int) -> nn.Module:
    if model.block not in ("basic", "bottleneck"):
        raise UsageError(f"--vs=torch: model.block={model.block!r} must be basic or bottleneck in a comparison")
    return _ResNet(model, channels)


_MAKERS: dict[type, Callable[[Any, int], nn.Module]] = {
    LeNet5: _lenet5,
    AlexNet: _alexnet,
    VGG: _vgg,
    ResNet: _resnet,
}


WAYS = {"torch": (False, False), "torch channels_last": (True, False), "torch compiled": (True, True)}
"""Name -> whether the layout is channels last, and whether it is compiled."""


def make_run(
    way: str,
    model: str,
    fields: dict[str, Any],
    image_shape: Sequence[int],
    num_classes: int,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
    train: bool,
    learning_rate: float,
    num_threads: int,
) -> Callable[[int], None]:
    """A function of the number of steps, with weights of its own.

    Args:
      way: of ``WAYS``.
      model, fields: name of ours, and what is not as by default.
      image_shape, num_classes, batch_size: of the batch, which lies on the device before the clock starts.
      mean, std: per channel, of what the network takes.
      dtype: "float32" or "bfloat16" (autocast).
      train: SGD with momentum 0.9; otherwise the forward pass in evaluation.
      learning_rate: of it.
      num_threads: on a CPU.
    """
    torch.set_num_threads(num_threads)
    image, label = random_batch(batch_size, tuple(image_shape), num_classes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")  # what JAX does on a GPU
    torch.backends.cudnn.benchmark = True
    labels = torch.tensor(label, dtype=torch.long, device=device)
    shift, scale = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (mean, std))

    channels_last, compiled = WAYS[way]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network: Any = make_peer(create_model(model, num_classes, **fields), image.shape[-1])
    network = network.to(device=device, memory_format=layout).train(train)
    pixels = torch.tensor(image, device=device).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9)

    def logits() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            return network((pixels.float() / 255 - shift) / scale).float()

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(logits(), labels)

    compute: Any = loss if train else logits
    compute = torch.compile(compute) if compiled else compute

    def run(steps: int) -> None:
        with torch.inference_mode(not train):
            for _ in range(steps):
                if train:
                    optimizer.zero_grad()
                    compute().backward()
                    optimizer.step()
                else:
                    compute()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Answer what ``beside.Beside`` asks: to make a run, or to run it for some steps."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what torch prints is no answer
    runs: dict[str, Callable[[int], None]] = {}
    for line in sys.stdin:
        way, what = json.loads(line)
        answer = "done", ""
        try:
            if isinstance(what, int):
                runs[way](what)
            else:
                runs[way] = make_run(way, **what)
        except UsageError as error:
            answer = "usage", str(error)
        except Exception as error:  # of torch's many kinds
            answer = "failed", (str(error).strip() or type(error).__name__).splitlines()[0]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
