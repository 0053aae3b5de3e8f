"""``claim NAME``: put claims of the lecture to the test."""

import pathlib

from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.console import output, say
from jaxcnn.errors import UsageError


def main(arguments: list[str], stop: Stop) -> int:
    """Train, measure, draw and judge one claim, or all; without a name, list them."""
    from rich.table import Table

    from jaxcnn import claims

    flags = Flags(
        "claim [NAME | all] [--quick | --full] [--flag=value ...]\n\nWithout a name: the list of claims. Writes "
        "OUT/NAME/result.json and figure.png."
    )
    flags.define("quick", bool, False, "seconds each, on digits: does it run at all?")
    flags.define("full", bool, False, "the size for an accelerator; without either flag: minutes each on two cores")
    flags.define("seeds", int | None, None, "runs of each way, at least 2; none: 8, or 5 with --quick")
    flags.define("data_dir", str | None, None, "directory of prepared TFDS datasets; none: the user's cache")
    flags.define("out", str, "runs/claims", "where results go")
    rest = flags.parse(arguments)
    if len(rest) > 1:
        raise UsageError(f"claim takes one name, not {' '.join(rest)}")
    if flags["quick"] and flags["full"]:
        raise UsageError("--quick and --full: give one of the two")
    seeds = flags["seeds"] if flags["seeds"] is not None else 5 if flags["quick"] else 8
    if seeds < 2:
        raise UsageError(f"--seeds={seeds} must be >= 2: one run has no deviation")
    listing = Table("claim", "says", title="claims of the lecture" if not rest else None, title_justify="left")
    if not rest:
        for claim in claims.CLAIMS.values():
            listing.add_row(claim.name, claim.says)
        output().print(listing)
        return 0
    names = list(claims.CLAIMS) if rest == ["all"] else [claims.find(rest[0]).name]
    name = "quick" if flags["quick"] else "full" if flags["full"] else "normal"
    size = claims.Size(name, seeds, flags["data_dir"])
    listing = Table("claim", "verdict", "seconds", "interval")
    for name in names:
        say(f"{name}: {claims.CLAIMS[name].says}")
        result = claims.run(claims.CLAIMS[name], size, pathlib.Path(flags["out"]) / name)
        intervals = "\n".join(f"{a['what']}: {claims.interval(a)}" for a in result["answers"].values())
        listing.add_row(name, result["verdict"], f"{result['seconds']:.1f}", intervals)
    output().print(listing)
    return 0
