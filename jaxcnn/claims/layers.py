"""What a convolution is, and a pooling: few parameters, shifts that pass through, shifts that vanish."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

import jaxcnn.claims.drawing as drawing
from jaxcnn import nn, tree
from jaxcnn.claims.claim import Claim, Measured, Size, accuracies, minus, train
from jaxcnn.claims.setting import CIFAR10, MNIST, config, small
from jaxcnn.claims.verdict import Question
from jaxcnn.task import build
from jaxcnn.typing import Array


def _parameters(size: Size) -> Measured:
    steps, data = size.pick(60, 1800, 18000), small(size, MNIST)
    widths = size.pick([(32,), (256, 128)], [(16,), (64,), (256, 128), (1024, 512)], [(64,), (256, 128), (1024, 512)])
    points: dict[str, list[Any]] = {}
    for name, overrides in (("LeNet-5", None), *(("dense", {"hidden": hidden}) for hidden in widths)):
        outcomes = train(config("lenet5" if overrides is None else "mlp", data, steps, **(overrides or {})), size)[0]
        count = tree.num_elements(outcomes[0].state.params)
        width = "" if overrides is None else " + ".join(map(str, overrides["hidden"]))
        points.setdefault(name, []).append({"name": width, "parameters": count, "accuracy": accuracies(outcomes)})
    lenet, widest = points["LeNet-5"][0], points["dense"][-1]
    return Measured(
        {
            "accuracy": minus(lenet["accuracy"], widest["accuracy"]),
            "parameters": [widest["parameters"] / lenet["parameters"]] * size.seeds,
        },
        {"points": points},
    )


def _draw_parameters(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.families(axes, shown["points"], "parameters", "parameters")


def _photographs(size: Size, count: int) -> Array:
    """Images as whole numbers in float32, ``[count, H, W, C]``."""
    task = build(config("lenet5", {**small(size, CIFAR10), "data_dir": size.data_dir}, 1), 1)
    return next(task.load(f"test[:{count}]").eval_batches(count))["image"].astype(jnp.float32)


def _equivariance(size: Size) -> Measured:
    """Whole numbers below 2^24 are exact in float32, so the maps must be equal bit for bit, in whatever order sums are made."""
    images, shift, moved = _photographs(size, size.pick(16, 256, 4096)), 3, {"convolution": [], "dense layer": []}
    for seed in range(size.seeds):
        random = np.random.default_rng(seed)
        kernel = jnp.asarray(random.integers(-4, 5, (3, 3, images.shape[3], 8)), jnp.float32)
        whole, later = (nn.conv2d(x, kernel) for x in (images, jnp.roll(images, shift, axis=(1, 2))))
        # The rolled image comes in on the other side: only what has not met that edge is compared.
        moved["convolution"].append(_change(whole[:, :-shift, :-shift], later[:, shift:, shift:]))
        dense = jnp.asarray(random.integers(-4, 5, (images[0].size, 64)), jnp.float32)
        flat, flat_later = (x.reshape(len(x), -1) @ dense for x in (images, jnp.roll(images, shift, axis=(1, 2))))
        maps, maps_later = (y.reshape(-1, 8, 8, 1) for y in (flat, flat_later))
        moved["dense layer"].append(_change(maps[:, :-shift, :-shift], maps_later[:, shift:, shift:]))
    return Measured({"convolution": moved["convolution"]}, {"change": moved})


def _change(one: Array, other: Array) -> float:
    """Norm of the difference, in percent of the norm."""
    return float(100 * jnp.linalg.norm((other - one).ravel()) / jnp.linalg.norm(one.ravel()))


def _pooling(size: Size) -> Measured:
    images = _photographs(size, size.pick(16, 256, 4096))
    found: dict[str, list[float]] = {"no pooling": [], "2x2 average": [], "2x2 maximum": []}
    for seed in range(size.seeds):
        kernel = jnp.asarray(np.random.default_rng(seed).normal(size=(3, 3, images.shape[3], 8)), jnp.float32)
        kernel -= kernel.mean(axis=(0, 1, 2))[None, None, None]  # edges, not brightness
        one, other = (nn.relu(nn.conv2d(x, kernel)) for x in (images[:, :, :-1], images[:, :, 1:]))
        pools = (lambda y: y, lambda y: nn.avg_pool2d(y, 2), lambda y: nn.max_pool2d(y, 2))
        for name, pool in zip(found, pools, strict=True):
            found[name].append(_change(pool(one), pool(other)))
    return Measured({"maximum": minus(found["no pooling"], found["2x2 maximum"])}, {"change": found})


def _maximum(size: Size) -> Measured:
    steps, found = size.pick(60, 900, 9000), {}
    for pool in ("average", "maximum"):
        net = config("lenet5", small(size, MNIST), steps, pool=pool, activation="relu")
        found[pool] = accuracies(train(net, size)[0])
    return Measured({"maximum": minus(found["maximum"], found["average"])}, {"accuracy": found})


def _draw_change(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.bars(axes, shown["change"], "change of the maps (% of their norm)")


CLAIMS = [
    Claim(
        "parameters",
        "A convolutional network needs far fewer parameters than dense layers of equal accuracy",
        "Recap: 'reduced model capacity compared to dense layer'",
        "LeNet-5 beside perceptrons of growing width, same images, batches and number of updates.",
        {
            "accuracy": Question("test accuracy, LeNet-5 minus the widest perceptron", "percentage points", above=0.0),
            "parameters": Question("parameters, widest perceptron over LeNet-5", "times", above=4.0),
        },
        _parameters,
        _draw_parameters,
    ),
    Claim(
        "equivariance",
        "When the input of a convolution shifts, its maps shift by the same, exactly",
        "Idea #1: 'a shift in x also leads to a shift in h'",
        "Images and random 3x3 kernels of whole numbers, shifted by three pixels down and right; drawn beside a dense layer.",
        {"convolution": Question("change of the maps, shifted back", "% of their norm", within=0.0)},
        _equivariance,
        _draw_change,
    ),
    Claim(
        "pooling",
        "Pooling tolerates a shift of one pixel",
        "2-D Max Pooling: 'tolerant to 1 pixel'",
        "Maps of random 3x3 edge detectors with ReLU, of images and of the same images one pixel to the left.",
        {
            "maximum": Question(
                "change of the maps, without pooling minus with 2x2 maximum", "percentage points", above=0.0
            )
        },
        _pooling,
        _draw_change,
    ),
    Claim(
        "max_pooling",
        "Maximum pooling is better than average pooling",
        "AlexNet Architecture: 'change to max pooling'",
        "LeNet-5 with ReLU, its two poolings of either kind.",
        {"maximum": Question("test accuracy, maximum minus average", "percentage points", above=0.0)},
        _maximum,
        drawing.accuracy,
    ),
]
