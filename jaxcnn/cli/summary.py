"""``summary MODEL``: a network layer by layer."""

import jax.numpy as jnp
from rich.table import Table

from jaxcnn import complexity, models
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.errors import UsageError
from jaxcnn.writers import output


def main(arguments: list[str], stop: Stop) -> int:
    """Output shape, parameters and multiply-adds of each layer, and the totals."""
    flags = Flags("summary MODEL [--flag=value ...]")
    flags.define(
        "num_classes", int | None, None, "number of classes; none: 1,000 for networks of ImageNet's size, else 10"
    )
    flags.define(
        "image_size", int | None, None, "rows and columns of the image; none: those the network was published for"
    )
    rest = flags.parse(arguments)
    if len(rest) != 1:
        raise UsageError(f"summary takes one network, not {' '.join(rest) or 'none'}; `models` lists them")
    rows, columns, channels = models.input_shape(rest[0])
    if (size := flags["image_size"]) is not None:
        if size < 1:
            raise UsageError(f"--image_size={size} must be >= 1")
        rows, columns = size, size
    num_classes = flags["num_classes"]
    if num_classes is None:
        num_classes = 1000 if models.input_shape(rest[0])[0] >= 224 else 10
    model = models.create_model(rest[0], num_classes)
    layers = complexity.layers(model, (rows, columns, channels))
    table = Table("layer", "kind", "output", title=f"{rest[0]}, {rows}x{columns}x{channels}", title_justify="left")
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds", justify="right")
    for layer in layers:
        shape = "x".join(map(str, layer.output))
        table.add_row(layer.name, layer.kind, shape, f"{layer.num_params:,}", f"{layer.num_macs:,}")
    params, macs = sum(layer.num_params for layer in layers), sum(layer.num_macs for layer in layers)
    table.add_section()
    table.add_row("total", "", "", f"{params:,}", f"{macs:,}", style="bold")
    output().print(table)
    print(f"{params * jnp.float32(0).nbytes / 1e6:.3g} MB of float32 parameters; FLOPs are twice the multiply-adds")
    return 0
