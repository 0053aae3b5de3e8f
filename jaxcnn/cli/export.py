"""``export RUN_DIR FILE``: the weights of a run's checkpoint, for torchvision, timm or whoever reads safetensors."""

import numpy as np

from jaxcnn import interop
from jaxcnn.cli import saved
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.console import output, table
from jaxcnn.errors import UsageError
from jaxcnn.rundir import RunDir
from jaxcnn.tree import named_leaves, num_elements


def main(arguments: list[str], stop: Stop) -> int:
    """Write what evaluation uses (the moving average, when there is one) as float32 arrays."""
    flags = Flags(
        "export RUN_DIR FILE.safetensors [--flag=value ...]\n\nThe names and layouts are torchvision's where it has the "
        "network, else timm's, and ours (params/conv1/kernel; rows, columns, in, out) where neither has it."
    )
    saved.define_flags(flags)
    rest = flags.parse(arguments)
    if len(rest) != 2:
        raise UsageError(f"export takes a run directory and a file, not {' '.join(rest) or 'none'}")
    run_dir, path = RunDir(rest[0]), rest[1]
    config = saved.read_config(run_dir, flags)
    task, state = saved.open_state(run_dir, config, flags["checkpoint"], run_dir.read_dataset())
    variables, name = state.variables(), config.model.name
    known = interop.has_twin(name, **config.model.overrides)
    if known:
        arrays = interop.to_torch(name, variables, **config.model.overrides)
    else:
        arrays = {key: np.asarray(leaf) for key, leaf in named_leaves(variables).items()}
    interop.write_state_dict(path, arrays)
    rows = {
        "network": f"{name}, {task.config.model.num_classes or task.dataset.num_classes:,} classes",
        "parameters": f"{num_elements(variables['params']):,}",
        "names": "torchvision's, or timm's" if known else "ours",
        "file": path,
    }
    output().print(table(f"{rest[0]}, step {int(state.step):,}", rows))
    return 0
