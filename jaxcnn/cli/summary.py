"""``summary MODEL``: a network layer by layer; ``summary --compare MODEL MODEL``: two of them as the lecture's table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from jaxcnn import complexity, experiment, models
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.complexity import Layer
from jaxcnn.console import output
from jaxcnn.errors import UsageError

# The lecture's slide "Complexity": parameters and "FLOP" (which are multiply-adds).
_SLIDE = {
    "alexnet": {
        "conv 1": (35e3, 101e6),
        "conv 2": (614e3, 415e6),
        "conv 3 and on": (3e6, 445e6),
        "dense 1": (26e6, 26e6),
        "dense 2": (16e6, 16e6),
        "total": (46e6, 1e9),
        "ratio": (11, 250),
    },
    "lenet": {
        "conv 1": (150, 1.2e6),
        "conv 2": (2.4e3, 2.4e6),
        "dense 1": (0.48e6, 0.48e6),
        "dense 2": (0.1e6, 0.1e6),
        "total": (0.6e6, 4e6),
        "ratio": (1, 1),
    },
}
_ROWS = [*(f"conv {n}" for n in (1, 2)), "conv 3 and on", *(f"dense {n}" for n in (1, 2, 3)), "dense 4 and on"]
_ROWS += ["normalisation and other", "total"]
_TOLERANCE = 0.15  # the slide rounds, and counts weights without biases: what is farther off is wrong


def main(arguments: list[str], stop: Stop) -> int:
    """A table per layer, or of two networks side by side."""
    flags = Flags("summary MODEL [--flag=value ...]\n       summary --compare MODEL MODEL")
    flags.define("experiment", str | None, None, "file that registers the network, when it is your own")
    flags.define("compare", bool, False, "two networks side by side, in the rows of the lecture's complexity table")
    flags.define(
        "num_classes", int | None, None, "number of classes; none: 1,000 for networks of ImageNet's size, else 10"
    )
    flags.define(
        "image_size", int | None, None, "rows and columns of the image; none: those the network was published for"
    )
    flags.parse(arguments, known_only=True)
    if flags["experiment"]:
        experiment.load(flags["experiment"])
    networks = [word for word in arguments if word in models.list_models()]
    if len(networks) == 1:
        flags.define_network(networks[0])
    names, wanted = flags.parse(arguments), 2 if flags["compare"] else 1
    if len(names) != wanted:
        count = "two networks" if flags["compare"] else "one network"
        raise UsageError(f"summary takes {count}, not {' '.join(names) or 'none'}; `models` lists them")
    if (size := flags["image_size"]) is not None and size < 1:
        raise UsageError(f"--image_size={size} must be >= 1")
    fields = flags.network_fields(networks[0]) if len(networks) == 1 else {}
    found = [_layers(name, size, flags["num_classes"], fields) for name in names]
    if flags["compare"]:
        output().print(_comparison(names, found))
        print(
            "FLOPs are twice the multiply-adds. A convolution that covers its whole input counts as dense, as on the slide."
        )
        if names[0] == "alexnet_lecture":
            (params, macs), (others, other_macs) = _total(found[0][:-1]), _total(found[1])
            print(
                f"The slide leaves out AlexNet's last layer; without it there are {params:,} parameters "
                f"({params / others:,.0f}x) and {macs:,} multiply-adds ({macs / other_macs:,.0f}x)."
            )
        return 0
    rows, columns, channels = (
        models.input_shape(names[0]) if size is None else (size, size, models.input_shape(names[0])[2])
    )
    output().print(_table(f"{names[0]}, {rows}x{columns}x{channels}", found[0]))
    memory = 4 * _total(found[0])[0] / 1e6, sum(layer.num_bytes for layer in found[0]) / 1e6
    print(
        f"{memory[0]:.3g} MB of float32 parameters, {memory[1]:.3g} MB of layer outputs an image; FLOPs are twice multiply-adds"
    )
    return 0


def _layers(name: str, size: int | None, num_classes: int | None, fields: Mapping[str, Any]) -> list[Layer]:
    rows, columns, channels = models.input_shape(name)
    if num_classes is None:
        num_classes = 1000 if rows >= 224 else 10
    shape = (rows, columns, channels) if size is None else (size, size, channels)
    return complexity.layers(models.create_model(name, num_classes, **fields), shape)


def _table(title: str, layers: list[Layer]) -> Table:
    table = Table("layer", "kind", title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("kernel", "stride", "output", "parameters", "multiply-adds", "activation", "receptive field"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        groups = f"/{layer.groups}" if layer.groups > 1 else ""
        table.add_row(
            layer.name,
            layer.kind,
            _by(layer.kernel) + groups,
            _by(layer.stride),
            "x".join(map(str, layer.output)),
            f"{layer.num_params:,}",
            f"{layer.num_macs:,}",
            _bytes(layer.num_bytes),
            _by(layer.receptive_field, always=True),
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        "",
        "",
        *(f"{n:,}" for n in _total(layers)),
        _bytes(sum(x.num_bytes for x in layers)),
        "",
        style="bold",
    )
    return table


def _comparison(names: list[str], networks: list[list[Layer]]) -> Table:
    """The lecture's table: parameters and multiply-adds per layer, the true figure beside the slide's."""
    groups = [_grouped(layers) for layers in networks]
    table = Table("layer", title=f"{names[0]} and {names[1]}", title_justify="left", box=None, pad_edge=False)
    for quantity in ("parameters", "multiply-adds"):
        for name in names:
            table.add_column(f"{name}\n{quantity}", justify="right", no_wrap=True)
            if _slide(name):
                table.add_column("the slide", justify="right", no_wrap=True)
    for row in sorted({*groups[0], *groups[1]}, key=_ROWS.index):
        if row == "total":
            table.add_section()
        cells = [row]
        for k in range(2):
            for name, group in zip(names, groups, strict=True):
                value, told = group.get(row, (0, 0))[k], _slide(name).get(row, (None, None))[k]
                cells.append(f"{value:,}" if value else "")
                if _slide(name):
                    cells.append(_told(told, value))
        table.add_row(*cells)
    first, second = (group["total"] for group in groups)
    ratios = [(a / b, b / b) for a, b in zip(first, second, strict=True)]
    cells = ["ratio"]
    for k in range(2):
        for i, name in enumerate(names):
            cells.append(f"{ratios[k][i]:,.0f}x" if ratios[k][i] >= 10 else f"{ratios[k][i]:.3g}x")
            if _slide(name):
                cells.append(_told(_slide(name)["ratio"][k], ratios[k][i], "x"))
    table.add_row(*cells)
    return table


def _grouped(layers: list[Layer]) -> dict[str, tuple[int, int]]:
    """(parameters, multiply-adds) by the rows of the slide: two convolutions, the others, dense layers, the rest, all."""
    rows: dict[str, tuple[int, int]] = {}
    count = {"conv": 0, "dense": 0}
    for layer in layers:
        row = "normalisation and other"
        if layer.num_macs:
            covers = layer.kernel is not None and layer.output[:2] == (1, 1) and layer.kernel > (1, 1)
            kind = "conv" if layer.kernel is not None and not covers else "dense"
            count[kind] += 1
            row = next(
                row
                for row in (f"{kind} {count[kind]}", "conv 3 and on", "dense 4 and on")
                if row in _ROWS and row.startswith(kind)
            )
        if layer.num_params or layer.num_macs:
            old = rows.get(row, (0, 0))
            rows[row] = (old[0] + layer.num_params, old[1] + layer.num_macs)
    return {**rows, "total": _total(layers)}


def _total(layers: list[Layer]) -> tuple[int, int]:
    return sum(layer.num_params for layer in layers), sum(layer.num_macs for layer in layers)


def _slide(name: str) -> dict[str, tuple[float, float]]:
    return next((figures for family, figures in _SLIDE.items() if name.startswith(family)), {})


def _told(figure: float | None, truth: float, unit: str = "") -> str:
    """The slide's figure in its own style, marked when it is not the truth."""
    if figure is None:
        return ""
    scale, letter = next(((s, x) for s, x in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if figure >= s), (1, ""))
    wrong = truth and abs(figure - truth) > _TOLERANCE * truth
    return f"{'wrong: ' if wrong else ''}{figure / scale:g}{letter}{unit}"


def _by(pair: tuple[int, int] | None, always: bool = False) -> str:
    if pair is None:
        return ""
    return f"{pair[0]}x{pair[1]}" if always or pair[0] != pair[1] or pair[0] > 1 else "1"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"
