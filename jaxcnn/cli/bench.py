"""``bench MODEL``: how fast a network is here. ``bench TOPIC EXPERIMENT``: how fast images are read; what devices exchange."""

import dataclasses
import json

from rich.table import Table

from jaxcnn import mesh as meshes
from jaxcnn.bench import input as bench_input
from jaxcnn.bench import scaling
from jaxcnn.cli import bench_model
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.cli.train import read_experiment
from jaxcnn.config import Config
from jaxcnn.console import output
from jaxcnn.environment import num_cores
from jaxcnn.errors import UsageError, nearest
from jaxcnn.models.registry import list_models
from jaxcnn.task import build


def main(arguments: list[str], stop: Stop) -> int:
    """Measure, and print a table or JSON."""
    topic = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if topic in list_models():
        return bench_model.main(topic, arguments[1:])
    if not topic and "--help" in arguments:
        return bench_model.main("MODEL", arguments)
    if topic not in _TOPICS:
        raise UsageError(
            f"bench takes a network, or one of {', '.join(_TOPICS)} and an experiment, not {topic or 'none'!r}"
            + nearest(topic, [*_TOPICS, *list_models()])
        )
    run, make_flags = _TOPICS[topic]
    _, config, flags = read_experiment(arguments[1:], make_flags)
    if flags["turns"] < 1:
        raise UsageError(f"--turns={flags['turns']} must be >= 1")
    return run(config, flags)


def _input(config: Config, flags: Flags) -> int:
    found = bench_input.measure(build(config, flags["num_devices"]), flags["turns"])
    if flags["json"]:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    table = _table(f"input of {config.experiment or config.data.dataset}", "stage", "images/s")
    for stage, rate in found.stages.items():
        name = f"torchvision {found.torchvision} and Pillow: decode and crop" if stage == "torchvision" else stage
        table.add_row(
            f"{name}, one thread" if stage not in ("transfer", "augment and normalise") else name, f"{rate:,.0f}"
        )
    for threads, rate in found.pipeline.items():
        table.add_row(
            f"files to device, {threads} thread{'s' if threads > 1 else ''} of {num_cores()} cores", f"{rate:,.0f}"
        )
    output().print(table)
    for name, ratio in found.ratios.items():
        print(f"{name}: {ratio:.2f}")
    return 0


def _scaling(config: Config, flags: Flags) -> int:
    """Exit code 1 when data parallelism communicates more than it must."""
    if flags["measure"]:
        return _measured(config, flags)
    network = scaling.Network(**{name: flags[name] for name in _NETWORK})
    for name in _NETWORK:
        if flags[name] <= 0:
            raise UsageError(f"--{name}={flags[name]} must be > 0")
    task = build(config, mesh_shape=flags["mesh"])
    meshes.check_batch("data.batch_size", config.data.batch_size, task.mesh, config.optimizer.accumulate)
    found = scaling.traffic(task)
    predictions = scaling.predict(task, found.found, network)
    parallel = task.mesh.shape["model"] == 1
    if flags["json"]:
        fields = {"optimum_bytes": found.optimum, "bytes": found.num_bytes, "is_optimal": found.is_optimal}
        donated = {"donated": found.num_donated, "state_leaves": found.num_leaves}
        lists = {"collectives": found.found, "predictions": predictions}
        asdicts = {name: [dataclasses.asdict(item) for item in items] for name, items in lists.items()}
        print(json.dumps(fields | donated | asdicts | {"network": dataclasses.asdict(network)}, indent=2))
    else:
        _show_traffic(f"{config.experiment or config.model.name}, {task.mesh.size} devices", found)
        _show_predictions(predictions, network, config.data.batch_size / meshes.num_rows(task.mesh))
    if parallel and task.mesh.size > 1 and not found.is_optimal:
        print(f"not at the optimum: {found.num_bytes - found.optimum:+,} bytes, or other kinds than all-reduce")
        return 1
    return 0


def _show_traffic(title: str, traffic: scaling.Traffic) -> None:
    table = _table(
        f"communication of an update: {title}", "collective", "count", "MB", "types", "devices", "overlapped"
    )
    groups: dict[tuple[str, int], list] = {}
    for one in traffic.found:
        groups.setdefault((one.kind, one.participants), []).append(one)
    for (kind, devices), items in groups.items():
        types = ", ".join(sorted({name for item in items for name, _ in item.arrays}))
        size = sum(item.num_bytes for item in items) / 1e6
        hidden = sum(bool(item.hidden) for item in items)
        table.add_row(kind, str(len(items)), f"{size:,.3f}", types, str(devices), str(hidden))
    output().print(table)
    print(
        f"must be summed: {traffic.optimum / 1e6:,.3f} MB (gradients and moments of BatchNorm, 4 bytes each); ", end=""
    )
    print(
        f"is communicated: {traffic.num_bytes / 1e6:,.3f} MB, {traffic.num_bytes / traffic.optimum:.4f} times as much"
    )
    print(f"arrays of the state that are updated in place: {traffic.num_donated} of {traffic.num_leaves}\n")


def _show_predictions(predictions: list[scaling.Prediction], network: scaling.Network, per_device: float) -> None:
    table = _table("predicted efficiency", "accelerators", "nothing overlaps", "gradients beside backward")
    for row in predictions:
        table.add_row(f"{row.count:,}", f"{row.waiting:.1%}", f"{row.hidden:.1%}")
    output().print(table)
    print(
        f"{per_device:g} images and {network.tflops:g} TFLOP/s an accelerator; {network.inside:g} GB/s to the others of its "
        f"{network.group}, {network.between:g} GB/s beyond; {network.latency:g} us a message"
    )


def _measured(config: Config, flags: Flags) -> int:
    found = scaling.measure(config, flags["turns"])
    if flags["json"]:
        print(json.dumps([dataclasses.asdict(row) for row in found], indent=2))
        return 0
    table = _table(f"measured, {config.data.batch_size} images a device", "devices", "images/s", "efficiency")
    for row in found:
        table.add_row(f"{row.count}", f"{row.images_per_second:,.0f}", f"{row.efficiency:.1%}")
    output().print(table)
    return 0


def _table(title: str, name: str, *columns: str) -> Table:
    table = Table(name, title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _input_flags() -> Flags:
    flags = Flags("bench input EXPERIMENT [--flag=value ...]\n\nAll flags of train, and:")
    flags.define("turns", int, 5, "how often everything is measured; medians are shown")
    flags.define("json", bool, False, "print JSON")
    flags.define("num_devices", int | None, None, "devices to use; none: all")
    flags.define("config", str | None, None, "measure the run of this config.json; other flags change it")
    return flags


_NETWORK = {
    "group": "accelerators that are closely connected, e.g. the GPUs of a machine",
    "inside": "GB/s from an accelerator to its group (default: NVLink 4, one direction)",
    "between": "GB/s from an accelerator to other groups (default: InfiniBand NDR, 400 Gb/s each)",
    "latency": "microseconds of a message",
    "tflops": "what an accelerator reaches in training, TFLOP/s (default: ResNet-50 in bfloat16 on an H100, about)",
}


def _scaling_flags() -> Flags:
    flags = Flags("bench scaling EXPERIMENT [--flag=value ...]\n\nAll flags of train, and:")
    flags.define("devices", int, 8, "devices that the CPU pretends to be, to compile for")
    flags.define("mesh", str | None, None, "data:8 or data:4,model:2; none: all on data")
    flags.define("measure", bool, False, "train on 1, 2, 4, ... of the devices that are there, batch_size images each")
    flags.define("turns", int, 5, "with --measure: how often; medians are shown")
    flags.define("json", bool, False, "print JSON")
    for name, about in _NETWORK.items():
        default = getattr(scaling.Network, name)
        flags.define(name, type(default), default, about)
    flags.define("config", str | None, None, "the run of this config.json; other flags change it")
    return flags


_TOPICS = {"input": (_input, _input_flags), "scaling": (_scaling, _scaling_flags)}
