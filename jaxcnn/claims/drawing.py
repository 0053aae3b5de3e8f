"""Bars and curves with the seeds behind them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from jaxcnn.many import spread

COLOURS = ("#1f5a99", "#d1702f", "#3b8a3e", "#8a4f9e", "#a33b3b", "#6b6b6b", "#b59a1c", "#2d9d9d")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval (0 of one value)."""
    found = spread(list(values))
    return found["mean"] or 0.0, found["ci95"] or 0.0


def bars(axes: Axes, values: Mapping[str, Sequence[float]], label: str, *, from_zero: bool = True) -> None:
    """A bar for each way: mean, 95 % interval, and a dot a seed. Without ``from_zero`` points in the place of bars."""
    for i, of_seeds in enumerate(values.values()):
        mean, half = interval(of_seeds)
        if from_zero:
            axes.bar(i, mean, 0.6, color=COLOURS[i % len(COLOURS)], alpha=0.85)
        shape = "none" if from_zero else "D"
        axes.errorbar(i, mean, half, color="black", capsize=8, lw=2, fmt=shape, markersize=9)
        places = i + (np.linspace(-0.16, 0.16, len(of_seeds)) if len(of_seeds) > 1 else np.zeros(1))
        axes.plot(places, of_seeds, "o", ms=6, mfc="white", mec="black", alpha=0.8)
    axes.set_xticks(range(len(values)), list(values))
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)


def accuracy(axes: Axes, shown: Mapping[str, Any]) -> None:
    """The test accuracy of each way."""
    bars(axes, shown["accuracy"], "test accuracy (%)", from_zero=False)


def curves(
    axes: Axes, x: Sequence[float], values: Mapping[str, Sequence[Sequence[float]]], x_label: str, y_label: str
) -> None:
    """A line for each way, of rows ``[seeds][points]``: the mean, and its 95 % interval as bars."""
    for i, (name, rows) in enumerate(values.items()):
        mean, half = zip(*(interval(column) for column in zip(*rows, strict=True)), strict=True)
        axes.errorbar(x, mean, half, marker="o", ms=6, capsize=4, color=COLOURS[i % len(COLOURS)], label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if len(values) > 1:
        axes.legend()


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis of y over few powers of ten, labelled 0.2, 0.5, 1, 2."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def families(axes: Axes, points: Mapping[str, Sequence[Mapping[str, Any]]], what: str, label: str) -> None:
    """A line for each family, of points ``{what: number, "accuracy": [seeds], "name": text}``, over a logarithmic axis."""
    for i, (family, members) in enumerate(points.items()):
        x = [member[what] for member in members]
        mean, half = zip(*(interval(member["accuracy"]) for member in members), strict=True)
        axes.errorbar(x, mean, half, marker="o", ms=9, capsize=5, color=COLOURS[i % len(COLOURS)], label=family)
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 11, "color": COLOURS[i % len(COLOURS)]}
        for number, member in enumerate(members):  # beyond the error bar, on the side to which the line does not go on
            side = -1 if mean[min(number + 1, len(mean) - 1)] >= mean[number] else 1
            end = (x[number], mean[number] + side * half[number])
            axes.annotate(member["name"], end, (0, 12 * side), ha="center", va="center", **style)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()


def thinned(loss: np.ndarray, points: int = 20) -> list[float]:
    """Means over equal parts of a run."""
    return [float(part.mean()) for part in np.array_split(loss, min(points, len(loss)))]
