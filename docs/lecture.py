"""Write docs/lecture.md, the lecture from perceptron to ResNet: text, pictures and verdicts, from code and results.

    python docs/lecture.py                    text and pictures
    python docs/lecture.py --check            exit 1 when lecture.md is not what the code and the results say
    python docs/lecture.py --run=RUN_DIR      also the filters and maps of a run of lenet_mnist

Verdicts come from benchmarks/results/claims, which ``jaxcnn claim all --out=benchmarks/results/claims`` writes.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_sample_image

matplotlib.use("agg")
import matplotlib.pyplot as plt

from jaxcnn import claims, nn, plots
from jaxcnn.console import duration

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "claims"
PICTURES = ROOT / "docs" / "images" / "lecture"
LECTURE = {"font.size": 15, "axes.titlesize": 17, "lines.linewidth": 2.5}


class Section(NamedTuple):
    """A part of the lecture.

    Attributes:
      title: of the part.
      text: what it says, and where a slide is wrong.
      commands: what to run.
      pictures: (file in docs/images/lecture, caption).
      claims: names.
    """

    title: str
    text: str
    commands: Sequence[str] = ()
    pictures: Sequence[tuple[str, str]] = ()
    claims: Sequence[str] = ()


def dense_layer() -> str:
    """The parameters of one dense layer on a photograph of 12 megapixels."""
    inputs, hidden, kernel = 12_000_000 * 3, 100, 5 * 5 * 3
    return (
        f"A photograph of 12 megapixels has {inputs:,} numbers. A dense layer of {hidden} units on it has "
        f"{inputs * hidden:,} weights, {4 * inputs * hidden / 1e9:.1f} GB in float32; a convolution with {hidden} "
        f"kernels of 5x5 has {kernel * hidden:,}. Weights that do not depend on the place (translation invariance) and are "
        f"zero far from it (locality) turn the one into the "
        "other."
    )


def layers_to_shrink(size: int, kernel: int, to: int) -> int:
    """Layers without padding until an image of ``size`` has ``to`` rows."""
    count = 0
    while size > to:
        size, count = nn.conv_output_size(size, kernel), count + 1
    return count


def cost() -> str:
    """The slide's 10 PF, multiplied out."""
    macs = 100 * 100 * 5 * 5 * 64 * 64
    total = 10 * 1_000_000 * macs
    rows = ["| | multiply-adds | at 0.15 T/s (CPU) | at 12 T/s (GPU) |", "|---|---|---|---|"]
    cases = (
        ("a layer, one image", macs),
        ("10 layers, 1M images, forward", total),
        ("the same, training (three times that)", 3 * total),
    )
    for name, count in cases:
        times = " | ".join(duration(count / rate) for rate in (0.15e12, 12e12))
        rows.append(f"| {name} | {count:,} | {times} |")
    return "\n".join(rows)


def complexity_table() -> str:
    """``summary --compare``, whose last column says what the slide has."""
    command = [sys.executable, "-m", "jaxcnn", "summary", "--compare", "alexnet_lecture", "lenet5"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def sections() -> list[Section]:
    """The lecture's path."""
    shrink = layers_to_shrink(224, 5, 4)
    return [
        Section(
            "From the perceptron to layers",
            "A feedforward network is a sequence of affine maps, each followed by an elementwise nonlinearity. It learns "
            "by stochastic gradient descent; the gradient comes from the chain rule, backwards. "
            "`tests/test_functional.py` holds the backward pass by hand and compares it with `jax.grad`. The slide's "
            "loop never sets its sum of gradients to zero; `jaxcnn/step.py` is the loop.",
            ["./launch.sh train mlp_mnist --data_dir=DIR"],
        ),
        Section("Two principles", dense_layer(), claims=["parameters", "equivariance"]),
        Section(
            "Convolution, padding, stride",
            "`nn.conv2d` slides a kernel over an image; three classical kernels on a photograph are below. n rows become "
            "floor((n - k + p + s) / s), with p the padding of both sides together (`nn.conv_output_size`; the slides' "
            "worked examples are "
            f"tests). From 224 rows to 4 with 5x5 kernels and no padding takes {shrink} layers; the slide says 44.",
            pictures=[("kernels.jpg", "edge detection, sharpening and blur")],
        ),
        Section(
            "Channels, and what they cost",
            "A layer with c_i inputs and c_o outputs has c_i c_o k_h k_w weights and uses each at every position of "
            "its result. The slide's "
            "example, 100 channels, 5x5, 64x64, multiplied out (its FLOPs are multiply-adds):\n\n" + cost(),
        ),
        Section(
            "Pooling",
            "`nn.max_pool2d` and `nn.avg_pool2d` give one number for a window of each channel.",
            claims=["pooling", "max_pooling"],
        ),
        Section(
            "LeNet-5",
            "The table's network has 61,706 parameters, and makes fewer errors than LeCun et al. (1998) report (see "
            "the README). MNIST has 60,000 training images; the slide's 50,000 are a split of them.",
            ["./launch.sh train lenet_mnist --data_dir=DIR"],
            [
                ("filters.png", "the six filters of the first layer, learned"),
                ("maps.png", "what each layer makes of a digit"),
            ],
        ),
        Section(
            "AlexNet",
            "Deeper and bigger, with ReLU, dropout, maximum pooling and augmented images. The slide's comparison "
            "with LeNet-5, computed; "
            "what is marked there is wrong on the slide:\n\n```\n" + complexity_table() + "\n```",
            ["./launch.sh summary --compare alexnet_lecture lenet5"],
            claims=["relu", "vanishing_gradient", "dropout", "augmentation"],
        ),
        Section(
            "The winners of ILSVRC",
            "Each is a network here: `alexnet_2012`, `zfnet`, `vgg19`, `googlenet_2014`, `resnet152_v1`.",
            ["./launch.sh models", "./launch.sh summary resnet152_v1"],
            [("ilsvrc.png", "winners of ILSVRC, with their depth")],
        ),
        Section(
            "VGG: blocks of small kernels",
            "Two 3x3 layers see what one 5x5 sees, with 18 weights a pair of channels in the place of 25.",
            claims=["small_kernels"],
        ),
        Section(
            "Residual networks",
            "A block that adds to its input, x + g(x), can be no change at all: more layers give more functions, "
            "never others. The lecture's code strides in the 3x3 (which is called v1.5) and keeps biases before "
            "BatchNorm, which do nothing.",
            ["./launch.sh train resnet20_cifar10 --data_dir=DIR"],
            claims=["residual"],
        ),
        Section(
            "Batch normalisation",
            "Each channel is brought to mean 0 and variance 1 over the minibatch, then scaled and shifted. "
            "Santurkar et al. (2018), whom the slide refers to, showed that reducing covariate shift is not why it works.",
            claims=["batch_norm_rates", "batch_norm_noise", "batch_norm_batch", "batch_norm_dropout"],
        ),
        Section("Deeper is better, but still efficient", "", claims=["efficiency", "history"]),
    ]


def read(name: str) -> dict[str, Any]:
    """The result of a claim."""
    return json.loads((RESULTS / name / "result.json").read_text())


def claim_text(name: str) -> str:
    """What a claim says, and what became of it."""
    claim = claims.CLAIMS[name]
    lines = [
        f"**Claim: {claim.says}.** Slide: {claim.where}. {claim.how}",
        "",
        f"    ./launch.sh claim {name} --data_dir=DIR",
        "",
    ]
    if not (RESULTS / name).exists():
        return "\n".join([*lines, "Not measured yet."])
    result = read(name)
    lines += [f"![{claim.says}](../benchmarks/results/claims/{name}/figure.png)", ""]
    lines += [
        f"Verdict: **{result['verdict']}**.",
        "",
        "| asked | mean and 95 % interval | verdict |",
        "|---|---|---|",
    ]
    for answer in result["answers"].values():
        lines.append(f"| {answer['what']} | {claims.interval(answer)} | {answer['verdict']} |")
    run = f"{result['seeds']} seeds, {result['seconds']:.0f} s on {result['on']}"
    return "\n".join([*lines, "", f"{run}, jax {result['versions']['jax']}, {result['date']}."])


def document() -> str:
    """The text of lecture.md."""
    parts = [
        "# The lecture, from perceptron to ResNet",
        "Written by `docs/lecture.py` from the code and from `benchmarks/results/claims`. A claim is put to the test "
        "by two ways of training that differ in it alone, seed by seed. Question and threshold are in "
        "`jaxcnn/claims`; it holds when the whole 95 % interval (Student) lies beyond the threshold, does not hold "
        "here when it lies on the other side, and is otherwise undecided. Networks and images are small: what does not "
        "hold here may hold at scale. The CIFAR-10 of these results is a copy that was encoded as JPEG once more.",
    ]
    for number, section in enumerate(sections(), 1):
        parts += [f"## {number}. {section.title}"]
        parts += [wrapped(section.text)] if section.text else []
        parts += ["\n".join(["```bash", *section.commands, "```"])] if section.commands else []
        parts += [f"![{caption}](images/lecture/{file})" for file, caption in section.pictures]
        parts += [claim_text(name) for name in section.claims]
    return "\n\n".join(part if part.startswith(("#", "!", "`", "*")) else wrapped(part) for part in parts) + "\n"


def wrapped(text: str) -> str:
    """Paragraphs of at most 128 columns; tables and code as they are."""
    blocks, code = [], False
    for block in text.split("\n\n"):
        code = code ^ (block.count("```") % 2 == 1)
        plain = not code and not block.startswith(("|", "    ", "```", "!", "**Claim"))
        blocks.append(textwrap.fill(block, 128) if plain and "```" not in block else block)
    return "\n\n".join(blocks)


def draw_kernels() -> None:
    """The slide's three kernels on a photograph of scikit-learn's."""
    image = load_sample_image("china.jpg")[60:360, 150:550]
    kernels = {
        "edge detection": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
        "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
        "Gaussian blur": np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
    }
    channels = jnp.asarray(image.transpose(2, 0, 1)[..., None], jnp.float32)  # each colour is an image of its own
    with plt.rc_context(LECTURE):
        figure, grid = plt.subplots(2, 2, figsize=(11, 8.6), layout="constrained")
        shown = {"photograph": image}
        for name, kernel in kernels.items():
            result = nn.conv2d(channels, jnp.asarray(kernel[..., None, None], jnp.float32), padding=1)
            shown[name] = np.clip(np.asarray(result)[..., 0].transpose(1, 2, 0), 0, 255).astype(np.uint8)
        for axes, (name, picture) in zip(grid.flat, shown.items(), strict=True):
            axes.imshow(picture)
            rows = kernels.get(name)
            title = (
                name
                if rows is None
                else f"{name}\n{matrix(rows * 16 if name == 'Gaussian blur' else rows)}"
                + (" / 16" if name == "Gaussian blur" else "")
            )
            axes.set_title(title, fontsize=13)
            axes.axis("off")
        plots.save(figure, PICTURES / "kernels.jpg")


def matrix(rows: np.ndarray) -> str:
    """A small matrix in a line."""
    return "  ".join("[" + " ".join(f"{value:g}" for value in row) + "]" for row in rows)


def draw_winners() -> None:
    """Top-5 test error of the winners (Russakovsky et al. 2015; He et al. 2016), and layers with weights."""
    winners = [
        ("2010\nNEC", 28.2, "shallow"),
        ("2011\nXRCE", 25.8, "shallow"),
        ("2012\nAlexNet", 16.4, "8 layers"),
        ("2013\nZF", 11.7, "8 layers"),
        ("2014\nVGG", 7.3, "19 layers"),
        ("2014\nGoogLeNet", 6.7, "22 layers"),
        ("2015\nResNet", 3.57, "152 layers"),
    ]
    with plt.rc_context(LECTURE):
        figure, axes = plt.subplots(figsize=(11, 6), layout="constrained")
        for i, (_, error, depth) in enumerate(winners):
            axes.bar(i, error, 0.65, color="#9aa5b1" if depth == "shallow" else "#1f5a99")
            axes.annotate(
                f"{error:g} %\n{depth}", (i, error), (0, 5), textcoords="offset points", ha="center", fontsize=13
            )
        axes.set_xticks(range(len(winners)), [name for name, _, _ in winners])
        axes.set_ylabel("top-5 test error (%)")
        axes.set_ylim(0, 34)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title("ILSVRC: the winners became deep")
        plots.save(figure, PICTURES / "ilsvrc.png")


def draw_run(run_dir: pathlib.Path) -> None:
    """Filters of a trained LeNet-5, and the maps of its layers for one digit."""
    from jaxcnn.cli.saved import open_state
    from jaxcnn.models import features
    from jaxcnn.rundir import RunDir

    found_run = RunDir(run_dir)
    task, state = open_state(found_run, found_run.read_config(), "latest")
    variables = state.variables()
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    with plt.rc_context(LECTURE):
        figure, grid = plt.subplots(1, 6, figsize=(11, 2.4), layout="constrained")
        bound = np.abs(kernel).max()
        for i, axes in enumerate(grid):
            axes.imshow(kernel[:, :, 0, i], cmap="gray", vmin=-bound, vmax=bound)
            axes.set_title(f"filter {i + 1}", fontsize=13)
            axes.axis("off")
        plots.save(figure, PICTURES / "filters.png")
        batch: dict[str, Any] = next(task.load("test[:8]").eval_batches(8))
        image = batch["image"][:1]
        names = ["conv1", "pool1", "conv2", "pool2"]
        found = features(task.model, variables, task.normalise()(image), names)
        figure, grid = plt.subplots(4, 7, figsize=(11, 6.8), layout="constrained")
        for axes in grid.flat:
            axes.axis("off")
        for row, name in zip(grid, names, strict=True):
            maps = np.asarray(found[name])[0]
            row[0].imshow(np.asarray(image)[0, ..., 0], cmap="gray")
            row[0].set_title("image" if name == "conv1" else "", fontsize=13)
            for i, axes in enumerate(row[1:]):
                axes.imshow(maps[..., i], cmap="gray")
                axes.set_title(f"{name}, {maps.shape[0]}x{maps.shape[1]}" if i == 0 else "", fontsize=13, loc="left")
        for row in grid[1:]:
            row[0].clear()
            row[0].axis("off")
        plots.save(figure, PICTURES / "maps.png")


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--run", type=pathlib.Path)
    given = parser.parse_args()
    path, text = ROOT / "docs" / "lecture.md", document()
    if given.check:
        if path.read_text() != text:
            print("docs/lecture.md is not what the code and the results say; run python docs/lecture.py")
            return 1
        return 0
    draw_kernels()
    draw_winners()
    for name, claim in claims.CLAIMS.items():
        if (RESULTS / name).exists():
            claims.draw(claim, read(name), RESULTS / name / "figure.png")
    if given.run:
        draw_run(given.run)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
