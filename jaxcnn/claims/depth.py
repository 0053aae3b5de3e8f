"""Deeper, with small kernels, and with shortcuts."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

import jaxcnn.claims.drawing as drawing
from jaxcnn import complexity
from jaxcnn.claims.claim import Claim, Measured, Outcome, Size, accuracies, late, minus, train
from jaxcnn.claims.setting import CIFAR10, config, small
from jaxcnn.claims.verdict import Question

_VGG = {"hidden": (), "pooled": 1, "batch_norm": True}


def _half(size: Size) -> dict[str, Any]:
    """CIFAR-10 at 16x16, which takes a quarter of the time; all of it on an accelerator."""
    return {**small(size, CIFAR10), "image_size": size.pick(16, 16, 32)}


def _multiply_adds(outcome: Outcome) -> int:
    return complexity.num_macs(outcome.task.model, outcome.task.image_shape)


def _small_kernels(size: Size) -> Measured:
    """With these widths both cost the same: to 3 percent on colour images, to 10 on grey ones."""
    times, steps = size.pick(1, 1, 4), size.pick(5, 700, 8000)
    found, macs = {}, {}
    arms = {"two 3x3 in a row": ((3, 3), (16, 32, 64)), "one 5x5": ((5,), (18, 36, 72))}
    for name, (block, widths) in arms.items():
        net = config(
            "vgg_tiny",
            {**small(size, CIFAR10), "image_size": size.pick(32, 16, 32)},
            steps,
            blocks=(block,) * 3,
            widths=tuple(times * w for w in widths),
            **_VGG,
        )
        outcomes = train(net, size)[0]
        macs[name] = _multiply_adds(outcomes[0])
        found[f"{name}\n{macs[name] / 1e6:.2g}M multiply-adds"] = accuracies(outcomes)
    deep, wide = macs.values()
    assert abs(deep / wide - 1) < 0.1, macs
    one, other = found.values()
    return Measured({"accuracy": minus(one, other)}, {"accuracy": found})


def _residual(size: Size) -> Measured:
    depths, width = size.pick((8, 14), (20, 56), (20, 32, 44, 56)), size.pick(4, 8, 16)
    steps = size.pick(5, 260, 16000)
    errors: dict[str, list[list[float]]] = {}
    for name, shortcut in (("plain", "plain"), ("residual", "A")):
        of_depths = []
        for depth in depths:
            net = config("resnet20_cifar", _half(size), steps, depth=depth, shortcut=shortcut, width=width)
            of_depths.append([late(outcome.error) for outcome in train(net, size, test=False)[0]])
        errors[name] = [list(of_seed) for of_seed in zip(*of_depths, strict=True)]
    gap = {name: [of_seed[-1] - of_seed[0] for of_seed in rows] for name, rows in errors.items()}
    return Measured(
        {"plain": gap["plain"], "residual": [-one for one in gap["residual"]]},
        {"depths": list(depths), "error": errors},
    )


def _efficiency(size: Size) -> Measured:
    steps, points = size.pick(8, 400, 8000), {}
    for layers in size.pick((1, 2), (1, 2, 3), (1, 2, 3)):
        net = config(
            "vgg_tiny",
            _half(size),
            steps,
            blocks=((3,) * layers,) * 3,
            widths=size.pick((4, 8, 8), (16, 32, 64), (16, 32, 64)),
            **_VGG,
        )
        _add(points, "VGG blocks", f"{3 * layers + 1} layers", train(net, size)[0])
    for depth in size.pick((8, 14), (8, 14, 20), (8, 14, 20, 32)):
        net = config("resnet20_cifar", _half(size), steps, depth=depth, width=size.pick(4, 8, 16))
        _add(points, "residual", f"{depth} layers", train(net, size)[0])
    for hidden in size.pick(((64,),), ((64,), (256, 256)), ((64,), (256, 256))):
        net = config("mlp", _half(size), steps, hidden=hidden, learning_rate=0.02)
        _add(points, "dense", f"{len(hidden) + 1} layers", train(net, size)[0])
    vgg, residual = ([point["accuracy"] for point in points[name]] for name in ("VGG blocks", "residual"))
    return Measured(
        {"vgg": minus(vgg[-1], vgg[0]), "residual": minus(residual[-1], residual[0])},
        {"points": points},
    )


def _add(points: dict[str, list[Any]], family: str, name: str, outcomes: Sequence[Outcome]) -> None:
    of_one = {"name": name, "multiply_adds": _multiply_adds(outcomes[0]), "accuracy": accuracies(outcomes)}
    points.setdefault(family, []).append(of_one)


def _draw_efficiency(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.families(axes, shown["points"], "multiply_adds", "multiply-adds of an image")


def _history(size: Size) -> Measured:
    steps = size.pick(6, 500, 10000)
    data = {**small(size, CIFAR10), "train_split": size.pick("train[:500]", "train[:10000]", "train")}
    large = {**data, "image_size": 64}  # AlexNet's first layer strides by four
    alexnet = {"maps": size.pick((4, 8, 8, 8, 8), (16, 32, 48, 32, 32), (32, 64, 96, 64, 64)), "hidden": 256}
    vgg = {
        "blocks": ((3, 3),) * 3,
        "widths": size.pick((4, 4, 8), (8, 16, 32), (16, 32, 64)),
        "hidden": (128,),
        "batch_norm": False,
    }
    resnet: dict[str, Any] = {"depth": size.pick(8, 8, 20), "width": size.pick(4, 8, 16)}
    # At one rate of SGD some have not begun to learn when it ends.
    adam: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.001}
    nets = {
        "LeNet-5\n1998": config("lenet5", data, steps, **adam),
        "AlexNet\n2012": config("alexnet_tiny", large, steps, **adam, **alexnet),
        "VGG\n2014": config("vgg_tiny", data, steps, **adam, **vgg),
        "ResNet\n2015": config("resnet20_cifar", data, steps, **adam, **resnet),
    }
    found = {name: accuracies(train(net, size)[0]) for name, net in nets.items()}
    first, second, third, fourth = found.values()
    return Measured(
        {"alexnet": minus(second, first), "vgg": minus(third, second), "resnet": minus(fourth, third)},
        {"accuracy": found},
    )


def _draw_residual(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.curves(axes, shown["depths"], shown["error"], "layers", "training error (%)")
    axes.set_xticks(shown["depths"])


CLAIMS = [
    Claim(
        "small_kernels",
        "Two 3x3 convolutions are better than one 5x5 of the same cost: deep and narrow",
        "VGG Blocks: 'deep & narrow better'",
        "Three blocks with BatchNorm, each of two 3x3 layers or of one 5x5 layer, as wide as equal multiply-adds allow.",
        {"accuracy": Question("test accuracy, two 3x3 minus one 5x5", "percentage points", above=0.0)},
        _small_kernels,
        drawing.accuracy,
    ),
    Claim(
        "residual",
        "Plain networks get worse with depth, residual networks do not",
        "Does adding layers improve accuracy?",
        "The networks of He et al. 2016 for CIFAR-10, narrow, with and without shortcuts; compared is the training "
        "error over the last fifth of the updates.",
        {
            "plain": Question("training error, deepest plain net minus shallowest", "percentage points", above=0.0),
            "residual": Question(
                "training error, shallowest residual net minus deepest", "percentage points", above=-2.0
            ),
        },
        _residual,
        _draw_residual,
    ),
    Claim(
        "efficiency",
        "Deeper is better, for what it costs too",
        "Summary: 'deeper is better - but still efficient'",
        "Families of growing depth, same batches and number of updates.",
        {
            "vgg": Question("test accuracy, deepest VGG minus shallowest", "percentage points", above=0.0),
            "residual": Question(
                "test accuracy, deepest residual net minus shallowest", "percentage points", above=0.0
            ),
        },
        _efficiency,
        _draw_efficiency,
    ),
    Claim(
        "history",
        "Each winner is better than the one before: LeNet, AlexNet, VGG, ResNet",
        "ImageNet Results: ILSVRC Winners",
        "Small networks in the style of each, trained by Adam, same images, batches and number of updates; AlexNet sees them "
        "at 64x64.",
        {
            "alexnet": Question("test accuracy, AlexNet minus LeNet-5", "percentage points", above=0.0),
            "vgg": Question("test accuracy, VGG minus AlexNet", "percentage points", above=0.0),
            "resnet": Question("test accuracy, ResNet minus VGG", "percentage points", above=0.0),
        },
        _history,
        drawing.accuracy,
    ),
]
