"""Batch normalisation: faster, at larger rates, by statistics of minibatches that are noise, in the place of dropout."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes

import jaxcnn.claims.drawing as drawing
from jaxcnn.claims.claim import Claim, Measured, Size, accuracies, late, minus, train
from jaxcnn.claims.setting import CIFAR10, config, small
from jaxcnn.claims.verdict import Question
from jaxcnn.config import Config

_CHANCE = float(np.log(10))  # the loss, in nats, of a network that has learned nothing about ten classes


def _net(size: Size, steps: int, batch_norm: bool, **changes: Any) -> Config:
    """Six 3x3 convolutions in three blocks, on images of 16x16, which take a quarter of the time."""
    widths = size.pick((8, 8), (16, 32, 64), (64, 128, 256))
    blocks = size.pick(((3,), (3,)), ((3, 3),) * 3, ((3, 3),) * 3)
    data = {**small(size, CIFAR10), "image_size": size.pick(16, 16, 32), **changes.pop("data", {})}
    net: dict[str, Any] = {"blocks": blocks, "widths": widths, "hidden": (), "pooled": 1, "batch_norm": batch_norm}
    return config("vgg_tiny", data, steps, **(net | changes))


def _rates(size: Size) -> Measured:
    """The loss over the last fifth of a short run, for each rate; a run that diverged counts as having learned nothing."""
    steps, rates = (
        size.pick(30, 200, 2000),
        size.pick((0.03, 0.3), (0.01, 0.03, 0.1, 0.3, 1.0), (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    )
    losses: dict[str, list[list[float]]] = {}
    for name, batch_norm in (("without", False), ("with BatchNorm", True)):
        numbers = [{"optimizer.learning_rate": rate} for rate in rates]
        found = train(_net(size, steps, batch_norm, schedule="constant"), size, numbers, test=False)
        of_rates = [[_end(outcome.loss) for outcome in outcomes] for outcomes in found]
        losses[name] = [list(of_seed) for of_seed in zip(*of_rates, strict=True)]
    best = {name: [min(of_seed) for of_seed in rows] for name, rows in losses.items()}
    largest = {name: [_largest(rates, of_seed) for of_seed in rows] for name, rows in losses.items()}
    return Measured(
        {
            "faster": minus(best["without"], best["with BatchNorm"]),
            "larger": minus(*(np.log10(largest[name]).tolist() for name in ("with BatchNorm", "without"))),
        },
        {"rates": list(rates), "loss": losses},
    )


def _end(loss: np.ndarray) -> float:
    value = late(loss)
    return min(value, _CHANCE) if np.isfinite(value) else _CHANCE


def _largest(rates: tuple[float, ...], losses: list[float]) -> float:
    """The rate at which learning a tenth of the loss by chance away comes to its end, between two rates by their logarithms.

    The largest rate itself when that is usable still; a third of the smallest when none is.
    """
    limit = 0.9 * _CHANCE
    usable = [number for number, loss in enumerate(losses) if loss < limit]
    if not usable:
        return rates[0] / 3
    last = usable[-1]
    pair = slice(last, last + 2)
    return float(10 ** np.interp(limit, losses[pair], np.log10(rates[pair])))


def _draw_rates(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.curves(axes, shown["rates"], shown["loss"], "learning rate", "training loss (nats), end of the run")
    axes.axhline(_CHANCE, color="gray", ls=":", label="chance")
    axes.set_xscale("log")
    axes.set_xticks(shown["rates"], [f"{rate:g}" for rate in shown["rates"]])
    axes.minorticks_off()
    axes.legend()


def _batch(size: Size) -> Measured:
    """One pass over the same images; the rate grows with the batch, 0.1 for 256 (Goyal et al. 2017)."""
    batches, examples = (
        size.pick((8, 64), (4, 16, 64, 256, 1024), (4, 16, 64, 256, 1024, 4096)),
        size.pick(1000, 20000, 50000),
    )
    found = {}
    for batch in batches:
        net = _net(
            size,
            examples // batch,
            True,
            batch_size=batch,
            learning_rate=0.1 * batch / 256,
            data={"train_split": f"train[:{examples}]"},
        )
        found[str(batch)] = accuracies(train(net, size)[0])
    inside, outside = (
        [max(of_seed) for of_seed in zip(*(found[str(b)] for b in batches if (64 <= b <= 256) == good), strict=True)]
        for good in (True, False)
    )
    return Measured({"batch": minus(inside, outside)}, {"accuracy": found})


def _draw_batch(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.bars(axes, shown["accuracy"], "test accuracy (%)", from_zero=False)
    axes.set_xlabel("images in a minibatch")


def _dropout(size: Size) -> Measured:
    steps, found = size.pick(40, 400, 8000), {}
    for name, batch_norm, rate in (
        ("neither", False, 0.0),
        ("dropout", False, 0.5),
        ("BatchNorm", True, 0.0),
        ("BatchNorm\nand dropout", True, 0.5),
    ):
        net = _net(size, steps, batch_norm, hidden=(256,), dropout_rate=rate)
        found[name] = accuracies(train(net, size)[0])
    return Measured({"dropout": minus(found["BatchNorm"], found["BatchNorm\nand dropout"])}, {"accuracy": found})


def _noise(size: Size) -> Measured:
    """How far a minibatch's mean lies from that of all, and its deviation from theirs, in units of the latter, by channel."""
    batches, count = (16, 64, 256), size.pick(4, 40, 100)
    shift: dict[int, list[float]] = {batch: [] for batch in batches}
    scale: dict[int, list[float]] = {batch: [] for batch in batches}
    trained = train(_net(size, size.pick(20, 300, 3000), True), size, test=False)[0]
    for outcome in trained:
        moments, variables = outcome.task.moments_step(), outcome.state.variables()
        examples = outcome.task.load("train", train=True)
        for batch in batches:
            found = [
                jax.device_get(moments(variables, images, np.int32(step)))
                for step, images in zip(range(count), examples.train_batches(outcome.seed, batch, 0), strict=False)
            ]
            mean, var = (
                np.stack([np.concatenate([layer[name] for layer in of_batch.values()]) for of_batch in found])
                for name in ("mean", "var")
            )
            whole = np.sqrt(var.mean(axis=0) + mean.var(axis=0))
            shift[batch].append(float(100 * np.mean(mean.std(axis=0) / whole)))
            scale[batch].append(float(100 * np.mean(np.sqrt(var).std(axis=0) / whole)))
    ratio = [small / large for small, large in zip(shift[16], shift[256], strict=True)]
    return Measured(
        {"noise": shift[64], "root": [value - 4 for value in ratio]},
        {
            "batches": list(batches),
            "noise": {
                "shift": [list(row) for row in zip(*shift.values(), strict=True)],
                "scale": [list(row) for row in zip(*scale.values(), strict=True)],
            },
        },
    )


def _draw_noise(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.curves(
        axes, shown["batches"], shown["noise"], "images in a minibatch", "noise (% of a channel's deviation)"
    )
    axes.set_xscale("log", base=2)
    drawing.logarithmic(axes)
    axes.set_xticks(shown["batches"], [str(batch) for batch in shown["batches"]])


CLAIMS = [
    Claim(
        "batch_norm_rates",
        "BatchNorm makes training faster, and larger learning rates possible",
        "Batch Normalization: without it 'slow convergence'",
        "Six convolutions, with and without BatchNorm, the same learning rates, constant; compared is the loss over "
        "the last fifth of a short run. A rate is usable when a tenth of the loss by chance has gone by then.",
        {
            "faster": Question("training loss at the best rate, without BatchNorm minus with", "nats", above=0.0),
            "larger": Question("largest usable rate, with BatchNorm over without", "powers of ten", above=0.0),
        },
        _rates,
        _draw_rates,
    ),
    Claim(
        "batch_norm_batch",
        "BatchNorm works best with minibatches of 64 to 256",
        "What Batch Norms really do: 'ideal minibatch size of 64 to 256'",
        "One pass over the same images in minibatches of several sizes, with a rate in proportion; compared are the "
        "best of 64 to 256 and the best of the others.",
        {
            "batch": Question(
                "test accuracy, best of 64 to 256 minus best of the others", "percentage points", above=0.0
            )
        },
        _batch,
        _draw_batch,
    ),
    Claim(
        "batch_norm_dropout",
        "With BatchNorm, dropout is needless",
        "What Batch Norms really do: 'no need to mix with dropout (both are capacity control)'",
        "Six convolutions and a hidden dense layer, with each, both and neither.",
        {"dropout": Question("test accuracy, BatchNorm alone minus with dropout", "percentage points", above=-0.5)},
        _dropout,
        drawing.accuracy,
    ),
    Claim(
        "batch_norm_noise",
        "BatchNorm adds a random shift and a random scale for each minibatch",
        "What Batch Norms really do: 'random shift per minibatch, random scale per minibatch'",
        "Mean and deviation of each channel in minibatches of a trained network, against those of all of them; the "
        "shift should fall with the root of the batch, by 4 from 16 to 256.",
        {
            "noise": Question("random shift at 64 images", "% of a channel's deviation", above=1.0),
            "root": Question("random shift at 16 over that at 256, minus 4", "times", within=1.0),
        },
        _noise,
        _draw_noise,
    ),
]
