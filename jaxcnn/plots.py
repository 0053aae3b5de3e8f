"""Pictures of a run, drawn from its metrics and its final predictions."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from jaxcnn.evaluate import Predictions


def learning_curves(path: pathlib.Path, rows: Sequence[dict[str, float]], eval_split: str) -> None:
    """Loss, error and learning rate over updates; training values are averaged over 1/50 of the run."""
    rows = [row for row in rows if "loss" in row]  # a skipped update has none
    steps = np.array([row["step"] for row in rows])
    evaluated = [row for row in rows if "eval_accuracy" in row]
    eval_steps = [row["step"] for row in evaluated]
    figure, (loss, error, rate) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    loss.plot(steps, _smooth([row["loss"] for row in rows]), label="train (as augmented)")
    loss.plot(eval_steps, [row["eval_loss"] for row in evaluated], "o-", ms=3, label=eval_split)
    error.plot(steps, _smooth([100 * (1 - row["accuracy"]) for row in rows]), label="train (as augmented)")
    error.plot(eval_steps, [100 * (1 - row["eval_accuracy"]) for row in evaluated], "o-", ms=3, label=eval_split)
    rate.plot(steps, [row["learning_rate"] for row in rows], color="tab:green")
    for axes, label in ((loss, "cross-entropy (nats)"), (error, "error (%)"), (rate, "learning rate")):
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    for axes in (loss, error):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend()
    save(figure, path)


def confusion_matrix(path: pathlib.Path, labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> None:
    """How often each class (rows) was called each class (columns); counts are written in up to 25 classes."""
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(5.0, 0.55 * classes), 14)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if classes <= 25:
        axes.set_xticks(range(classes), class_names, rotation=0 if max(map(len, class_names)) < 3 else 60)
        axes.set_yticks(range(classes), class_names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axes.text(
                    column, row, count, ha="center", va="center", color="white" if share[row, column] > 0.5 else "black"
                )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{np.trace(counts):,} of {counts.sum():,} right, {counts.sum() - np.trace(counts):,} wrong")
    save(figure, path)


def worst_mistakes(path: pathlib.Path, found: Predictions, class_names: Sequence[str]) -> None:
    """The wrongly classified images with the least probability on the true class, worst first."""
    worst, num_wrong = found.worst, int((found.called != found.labels).sum())
    columns = min(max(len(worst), 1), 8)
    lines = max(1, -(-len(worst) // columns))
    figure, grid = plt.subplots(
        lines, columns, figsize=(max(1.5 * columns, 6), 1.9 * lines + 0.4), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, index, image in zip(grid.flat, map(int, worst), found.images, strict=False):
        axes.imshow(_picture(image), cmap="gray", vmin=0, vmax=255)
        called, true = class_names[found.called[index]], class_names[found.labels[index]]
        axes.set_title(f"{called} ({found.probabilities[index].max():.0%})\ntrue {true}", fontsize=9)
    figure.suptitle(
        f"{len(worst)} worst of {num_wrong} mistakes, with the network's answer" if len(worst) else "no mistakes"
    )
    save(figure, path)


def contact_sheet(
    path: pathlib.Path, before: np.ndarray, after: np.ndarray, captions: Sequence[str], title: str
) -> None:
    """Images ``[B, H, W, C]`` in [0, 255] side by side, before and after a change, with a caption each."""
    count, height, width, _ = after.shape
    columns = min(4, count)
    lines = -(-count // columns)
    gap = max(1, width // 16)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(2.9 * columns, (1.45 * height / width + 0.3) * lines + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, one, other, caption in zip(grid.flat, before, after, captions, strict=False):
        white = np.full((height, gap, one.shape[-1]), 255.0)
        pair = np.clip(np.round(np.concatenate([one, white, other], axis=1)), 0, 255).astype(np.uint8)
        axes.imshow(_picture(pair), cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=9)
    figure.suptitle(title)
    save(figure, path)


def first_layer_filters(path: pathlib.Path, kernel: np.ndarray, name: str) -> None:
    """The first layer's kernels ``[kh, kw, C, F]`` side by side: grey for 1 channel, colour for 3."""
    count = min(kernel.shape[-1], 64)
    columns = min(count, 8)
    figure, grid = plt.subplots(
        -(-count // columns),
        columns,
        figsize=(1.4 * columns, 1.4 * -(-count // columns) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    bound = np.abs(kernel).max() or 1.0
    for axes in grid.flat:
        axes.axis("off")
    for index, axes in zip(range(count), grid.flat, strict=False):
        filter_ = kernel[..., index]
        if filter_.shape[-1] == 3:
            axes.imshow(0.5 + 0.5 * filter_ / bound)
        else:
            axes.imshow(filter_.mean(axis=-1), cmap="gray", vmin=-bound, vmax=bound)
    figure.suptitle(f"{name}: filters of {kernel.shape[0]}x{kernel.shape[1]} (black {-bound:.2f}, white {bound:.2f})")
    save(figure, path)


def _smooth(values: Sequence[float]) -> np.ndarray:
    """Moving average over 1/50 of the values (at least one), shorter at the ends."""
    width = max(1, len(values) // 50)
    weights = np.ones(width)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def _picture(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.shape[-1] == 1 else image


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write the picture in one piece, and let go of it."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format=path.suffix[1:])
    plt.close(figure)
    temporary.replace(path)
