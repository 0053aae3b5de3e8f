"""``import MODEL FILE --workdir=RUN``: weights of torchvision or timm as a run directory."""

import jax

from jaxcnn import environment, interop, models
from jaxcnn.cli.flags import Flags, Stop
from jaxcnn.config import Config, DataConfig, LogConfig, ModelConfig, to_json
from jaxcnn.console import output, say, table
from jaxcnn.data import source
from jaxcnn.data.catalog import CATALOG
from jaxcnn.errors import UsageError
from jaxcnn.rundir import RunDir
from jaxcnn.saver import Saver
from jaxcnn.state import State
from jaxcnn.task import build
from jaxcnn.tree import num_elements


def main(arguments: list[str], stop: Stop) -> int:
    """Read the file, fit it to the network, and write config.json and a checkpoint at step 0."""
    flags = Flags(
        "import MODEL FILE --workdir=RUN [--flag=value ...]\n\nFILE is a .safetensors file, or a .pth that torch wrote (needs "
        "torch; read with weights_only=True), with the names of torchvision or timm.\nRUN can then be given to eval, predict "
        "and train --init_from."
    )
    flags.define("workdir", str | None, None, "run directory to write")
    flags.define("dataset", str | None, None, "what the classes are; none: imagenet2012 for 1,000 classes")
    flags.define("image_size", int | None, None, "rows and columns of the image; none: those of the network")
    for field in ("mean", "std"):
        about = f"{field} of a channel that the weights were trained with; none: the published weights'"
        flags.define(field, tuple[float, ...], (), about)
    names = flags.parse(arguments)
    if len(names) != 2:
        raise UsageError(f"import takes a network and a file, not {' '.join(names) or 'none'}")
    if not flags["workdir"]:
        raise UsageError("import needs --workdir=RUN, a directory to write")
    name, path = names
    models.input_shape(name)  # UsageError when there is no such network
    variables = interop.from_torch(name, interop.read_state_dict(path))
    num_classes = interop.num_classes(name, variables)
    config = _config(name, num_classes, *(flags[field] for field in ("dataset", "image_size", "mean", "std")))
    task = build(config)
    run_dir = RunDir(flags["workdir"])
    if run_dir.config.exists():
        raise UsageError(f"workdir={run_dir.path} holds a run already; choose another --workdir")
    run_dir.check(config, "never")
    state = State(
        jax.numpy.int32(0), variables["params"], variables["batch_stats"], task.optimizer.init(variables["params"]), {}
    )
    state = jax.device_put(state, task.shardings)
    with run_dir.locked():
        run_dir.write_config(config, task.dataset)
        with Saver(run_dir.checkpoints, config.checkpoint.keep, {}, warn=say) as saver:
            saver.save(state, {}, 0.0, to_json(config), environment.versions())
    rows = {
        "parameters": f"{num_elements(state.params):,}",
        "classes": f"{num_classes:,} ({config.data.dataset})",
        "checkpoint": run_dir.checkpoints / "0",
        "next": f"predict {flags['workdir']} IMAGES..., or train EXPERIMENT --model={name} --init_from={flags['workdir']}",
    }
    output().print(table(f"{name} from {path}", rows))
    return 0


def _config(
    name: str,
    num_classes: int,
    dataset: str | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Config:
    rows, _, channels = models.input_shape(name)
    if dataset is None:
        if num_classes != CATALOG["imagenet2012"].num_classes:
            fitting = [
                row.name
                for row in CATALOG.values()
                if row.num_classes <= num_classes and row.image_shape[2] == channels
            ]
            raise UsageError(
                f"the weights have {num_classes} classes: say whose, --dataset=X, e.g. {', '.join(fitting) or 'one of yours'}"
            )
        dataset = "imagenet2012"
    half, row = (0.5,) * channels if interop.is_centred(name) else (), source.find(dataset)
    return Config(
        steps=1,
        model=ModelConfig(name, num_classes=num_classes),
        data=DataConfig(
            dataset,
            image_size=image_size or rows,
            mean=mean or half,
            std=std or half,
            fit="crop" if row.varying else "resize",
            eval_split=next((split for split in ("validation", "val", "test") if split in row.splits), "test"),
        ),
        log=LogConfig(plots=False),
    )
