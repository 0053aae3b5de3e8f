"""``bench MODEL``: images per second, arithmetic and memory traffic of a network here, and PyTorch beside it."""

import dataclasses
import json
import os
import pathlib

import jax
from rich.table import Table

from jaxcnn import environment
from jaxcnn.bench import model as bench
from jaxcnn.cli.flags import Flags
from jaxcnn.console import output, table
from jaxcnn.errors import UsageError
from jaxcnn.models.registry import list_models


def main(name: str, arguments: list[str]) -> int:
    """Measure, print a table, and write JSON where it is asked for."""
    flags = _flags(name)
    if rest := flags.parse(arguments):
        raise UsageError(f"bench {name}: what is {rest[0]!r}?")
    for flag, allowed in (("mode", bench.MODES), ("vs", (None, "torch"))):
        if flags[flag] not in allowed:
            raise UsageError(f"--{flag}={flags[flag]} must be one of {', '.join(filter(None, allowed))}")
    if flags["mode"] == "infer" and flags["steps_per_execution"] != 1:
        raise UsageError(f"--steps_per_execution={flags['steps_per_execution']} must be 1 with --mode=infer")
    for flag in ("turns", "batch_size", "image_size", "peak_tflops", "peak_bandwidth"):
        if flags[flag] is not None and not flags[flag] > 0:
            raise UsageError(f"--{flag}={flags[flag]} must be > 0")
    if flags["json"] and not pathlib.Path(flags["json"]).absolute().parent.is_dir():
        raise UsageError(f"--json={flags['json']}: there is no such directory")
    if flags["vs"]:  # both want the memory of a GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    fields = ("batch_size", "image_size", "num_classes", "dtype", "num_devices", "steps_per_execution")
    chosen = {flag: flags[flag] for flag in fields}
    task, peers = bench.make_task(name, **chosen, **flags.network_fields(name)), bench.PEERS if flags["vs"] else ()
    cached = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    try:
        found = bench.measure(task, flags["mode"], flags["turns"], peers, flags["profile"])
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    _show(found, flags)
    if flags["json"]:
        record = dataclasses.asdict(found) | {
            "images_per_second": {way: found.images_per_second(way) for way in found.seconds},
            "ratio": found.ratio,
            "versions": environment.versions(),
        }
        pathlib.Path(flags["json"]).write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _show(found: bench.Speed, flags: Flags) -> None:
    size, seconds = "x".join(map(str, found.image_shape)), found.median("jaxcnn")
    tflops, bandwidth = found.flops / seconds / 1e12, found.bytes_accessed / seconds / 1e9

    def share(value: float, peak: float | None) -> str:
        return f", {value / peak:.1%} of the peak of {peak:g}" if peak else ""

    together = f", {found.steps_per_execution} in a call" if found.steps_per_execution > 1 else ""
    rows = {
        "network": f"{found.model}, {size}, {found.num_classes} classes, {found.dtype}",
        "what": f"{'update' if found.mode == 'train' else 'forward pass'} of {found.batch_size} images on "
        f"{found.num_devices} x {found.device}{together}",
        "arithmetic": f"{found.flops / 1e9:,.4g} GFLOP a step, {tflops:,.4g} TFLOP/s{share(tflops, flags['peak_tflops'])}",
        "memory traffic": f"{found.bytes_accessed / 1e9:,.4g} GB a step as XLA counts, {bandwidth:,.4g} GB/s"
        + share(bandwidth, flags["peak_bandwidth"]),
        "memory": f"{found.memory / 1e9:,.4g} GB a device, as XLA plans",
        "compilation": f"{found.compile_seconds:.1f} s, not in the times below",
    }
    output().print(table(f"bench {found.model}", rows))
    times = Table("", box=None, title=f"{flags['turns']} turns", title_justify="left")
    for column in ("images/s", "ms a step", "fastest", "slowest"):
        times.add_column(column, justify="right")
    for way, values in found.seconds.items():
        cells = (found.median(way), min(values), max(values))
        times.add_row(way, f"{found.images_per_second(way):,.1f}", *(f"{1000 * value:,.2f}" for value in cells))
    for way, reason in found.failed.items():
        times.add_row(way, "-", "-", "-", "-")
        print(f"{way} did not run: {reason}")
    output().print(times)
    if found.ratio:
        print(f"jaxcnn / {found.peer}, medians of images per second: {found.ratio:.2f}")


def _flags(name: str) -> Flags:
    flags = Flags(
        f"bench {name} [--flag=value ...]\n\n`bench input EXPERIMENT` and `bench scaling EXPERIMENT` have flags of their own, "
        "which --help after them lists."
    )
    flags.define("batch_size", int, 64, "images of a step, on all devices together")
    flags.define("image_size", int | None, None, "rows and columns; none: those the network is meant for")
    flags.define("num_classes", int | None, None, "none: 1,000 for images of more than 100 rows, else 10")
    flags.define("dtype", str, "float32", "float32 or bfloat16")
    flags.define("mode", str, "train", "train (an update, SGD with momentum) or infer (forward, in evaluation)")
    flags.define("num_devices", int | None, 1, "devices to use; none: all")
    flags.define(
        "steps_per_execution", int, 1, "updates in one call, as the field of a run; each reads its images for itself"
    )
    flags.define("turns", int, 11, "how often each way is measured, for half a second or one step; medians are shown")
    flags.define("vs", str | None, None, "torch: the same in PyTorch in turns: eager, channels last, compiled")
    flags.define("peak_tflops", float | None, None, "TFLOP/s of the devices together, to show the share of it")
    flags.define("peak_bandwidth", float | None, None, "GB/s of their memory, to show the share of it")
    flags.define("profile", str | None, None, "folder for a trace of one turn (TensorBoard, XProf, Perfetto)")
    flags.define("json", str | None, None, "file for the figures as JSON")
    if name in list_models():
        flags.define_network(name)
    return flags
