"""``models [PATTERN]``: the networks by name."""

from rich.table import Table

from jaxcnn import models
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.console import output
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import find, overridable


def main(arguments: list[str], stop: Stop) -> int:
    """One line a network: name, image, and the fields that may be overridden."""
    flags = Flags("models [PATTERN]\n\nPATTERN is a shell pattern, e.g. 'resnet*'.")
    rest = flags.parse(arguments)
    if len(rest) > 1:
        raise UsageError(f"models takes one pattern, not {' '.join(rest)}; put it in quotes")
    names = models.list_models(rest[0] if rest else "*")
    if not names:
        raise UsageError(f"no network is called {rest[0]!r}; `models` lists all")
    table = Table("name", "image", "fields", box=None, pad_edge=False)
    for name in names:
        fields = ", ".join(f"{field}={value!r}" for field, (_, value) in overridable(name).items())
        table.add_row(name, "x".join(map(str, find(name).input_shape)), fields)
    output().print(table)
    return 0
