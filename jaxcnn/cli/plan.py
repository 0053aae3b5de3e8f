"""``plan EXPERIMENT``: what a run will cost, before any data is read."""

import math

from jaxcnn import mesh as meshes
from jaxcnn import plan
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.cli.train import read_experiment
from jaxcnn.console import duration, output, table
from jaxcnn.errors import UsageError
from jaxcnn.task import build


def main(arguments: list[str], stop: Stop) -> int:
    """Compile the update and print parameters, arithmetic, memory per device and, at given speeds, time."""
    _, config, flags = read_experiment(arguments, _flags)
    for name in ("memory", "tflops", "bandwidth"):
        if flags[name] is not None and not 0 < flags[name] < math.inf:
            raise UsageError(f"--{name}={flags[name]} must be > 0 and finite")
    if flags["bandwidth"] and not flags["tflops"]:
        raise UsageError("--bandwidth needs --tflops as well: time is the longer of arithmetic and memory traffic")
    task = build(config, flags["num_devices"], mesh_shape=flags["mesh"])
    meshes.check_batch("data.batch_size", config.data.batch_size, task.mesh, config.optimizer.accumulate)
    found, device = plan.make_plan(task), task.mesh.devices.flat[0]
    memory, batch = found.memory, config.data.batch_size
    rows = {
        "network": f"{config.model.name}, {'x'.join(map(str, task.image_shape))}, {config.model.dtype}",
        "parameters": f"{found.num_params:,}",
        "multiply-adds": f"{found.num_macs:,} an image, forward",
        "run": f"{found.num_examples:,} examples of {config.data.dataset}, {found.steps:,} steps of {batch}",
        "arithmetic": f"{found.flops / 1e9:,.4g} GFLOP a step and device (6 times the multiply-adds), "
        f"{found.flops * found.steps * task.mesh.size / 1e15:,.4g} PFLOP in all",
        "memory traffic": f"{found.bytes_accessed / 1e9:,.4g} GB a step and device, as XLA counts",
        "memory": f"{memory.total / 1e9:.4g} GB a device: state {memory.state / 1e9:.3g}, batch {memory.batch / 1e9:.3g}, "
        f"temporary {memory.temporary / 1e9:.3g}, dataset {memory.dataset / 1e9:.3g}",
        "compiled for": f"{task.mesh.size} x {device.device_kind}; another platform lays memory out otherwise",
    }
    if flags["memory"] is not None:
        largest = plan.largest_batch(task, flags["memory"] * 1e9)
        rows["largest batch"] = f"{largest:,} in {flags['memory']:g} GB a device, beside the dataset"
    if flags["tflops"] is not None:
        step = plan.seconds(found.flops, found.bytes_accessed, flags["tflops"], flags["bandwidth"])
        at = f"{flags['tflops']:g} TFLOP/s" + (f" and {flags['bandwidth']:g} GB/s" if flags["bandwidth"] else "")
        rows["time"] = f"{duration(step * found.steps)} at least, {batch / step:,.0f} images/s, at {at} a device"
    output().print(table(f"plan of {config.experiment or config.model.name}", rows))
    return 0


def _flags() -> Flags:
    flags = Flags("plan EXPERIMENT [--flag=value ...]\n\nAll flags of train, and:")
    flags.define("memory", float | None, None, "GB of one device: also find the largest batch that fits")
    flags.define("tflops", float | None, None, "TFLOP/s that one device does: also estimate the time")
    flags.define("bandwidth", float | None, None, "GB/s of one device's memory, for the estimate")
    flags.define("num_devices", int | None, None, "devices to use; none: all")
    flags.define("mesh", str | None, None, "data:8 splits the batch over 8 devices, data:4,model:2 large weights too")
    flags.define("config", str | None, None, "plan the run of this config.json; other flags change it")
    return flags
