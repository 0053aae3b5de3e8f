"""``train EXPERIMENT``: train, or go on with, an experiment."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from rich.table import Table

from jaxcnn import experiment, hosts, loop, many, models
from jaxcnn.cli.flags import SHORT, Flags, Stop, configure, fields
from jaxcnn.config import Config, from_json, replace
from jaxcnn.console import show, table
from jaxcnn.errors import UsageError, nearest
from jaxcnn.fields import parse
from jaxcnn.rundir import RESUME, RunDir


def main(arguments: list[str], stop: Stop) -> int:
    """Train, and print where everything is."""
    original, config, flags = read_experiment(arguments, _flags)
    if flags["config"] and not flags["workdir"]:
        raise UsageError("--config repeats a run in a directory of its own: give --workdir too")
    if flags["together"] not in many.WAYS:
        raise UsageError(f"--together={flags['together']} must be one of {', '.join(many.WAYS)}")
    if flags["resume"] not in RESUME:
        raise UsageError(f"--resume={flags['resume']} must be one of {', '.join(RESUME)}")
    runs = many.variations(config, flags["seeds"], _read_sweep(flags["sweep"], config))
    runs = {name: _absolute(each) for name, each in runs.items()}
    if len(runs) == 1:  # a sweep may be of one value
        (config,) = runs.values()
    workdir = flags["workdir"] or default_workdir(original, config)
    place = hosts.find_place(flags["coordinator"], flags["num_processes"], flags["process_id"])
    if len(runs) > 1:
        if place is not None:
            raise UsageError(
                f"--seeds={flags['seeds']} and --sweep={flags['sweep']} are for one process: its devices train runs of their own"
            )
        return _train_many(runs, workdir, flags, stop)
    if not flags["workdir"]:
        _check_own(workdir, config)
    if place is not None:
        hosts.join(place, flags["join_timeout"], stop)
    summary = loop.run(
        config,
        workdir,
        resume=flags["resume"],
        num_devices=flags["num_devices"],
        mesh_shape=flags["mesh"],
        stop=stop,
    )
    if hosts.is_first():
        _show(summary, RunDir(workdir))
    hosts.leave()
    return 0


def _train_many(runs: dict[str, Config], workdir: str | pathlib.Path, flags: Flags, stop: Stop) -> int:
    """Several seeds, or a sweep: a summary of all."""
    if flags["mesh"]:
        raise UsageError(
            f"--mesh={flags['mesh']} does not go with --seeds and --sweep: each device trains runs of its own"
        )
    if not flags["workdir"]:
        several = [f"seeds={flags['seeds']}"] if flags["seeds"] > 1 else []
        several += [_word(flags["sweep"])] if flags["sweep"] else []
        workdir = pathlib.Path(f"{workdir}-{'-'.join(several)}")
        for name, config in runs.items():
            _check_own(workdir / name, config)
    summary = many.run(
        runs, workdir, way=flags["together"], resume=flags["resume"], num_devices=flags["num_devices"], stop=stop
    )
    _show_many(summary, pathlib.Path(workdir))
    return 0


def _read_sweep(text: str | None, config: Config) -> dict[str, tuple[Any, ...]]:
    """``PATH:V1,V2,...``, several with ``;`` between them, as values of the fields."""
    found: dict[str, tuple[Any, ...]] = {}
    for part in (text or "").split(";") if text else []:
        name, colon, values = part.strip().partition(":")
        path, known = SHORT.get(name, name), fields(config)
        words = [word for word in values.split(",") if word.strip()]
        if not colon or not words:
            raise UsageError(f"--sweep={text} must be NAME:VALUE,VALUE,... of a field, several with ; between them")
        if path not in known:
            raise UsageError(f"--sweep: {name!r} is no field{nearest(name, [*known, *SHORT])}")
        try:
            found[path] = tuple(parse(word, known[path][1]) for word in words)
        except ValueError as error:
            raise UsageError(f"--sweep: {name}={error}") from None
        if len(set(found[path])) < len(found[path]):
            raise UsageError(f"--sweep={text}: {name} has the same value twice")
    return found


def read_experiment(arguments: list[str], make_flags: Callable[[], Flags]) -> tuple[Config, Config, Flags]:
    """(the experiment's config, the same with what the flags change, the flags).

    Parsed in two rounds: the experiment and the network first, whose fields are then flags themselves. ``make_flags`` makes
    the verb's own flags, which must hold ``config``.
    """
    first = make_flags()
    own = {"help", "debug", *first.names()}
    first.define_config(Config(epochs=1))
    names = _words(first.parse(arguments, known_only=True))
    base = original = _base(names[0] if names else "", first["config"], first["help"])
    name = first.given().get("model.name", base.model.name)
    if name != base.model.name:  # another network has other fields
        base = dataclasses.replace(base, model=dataclasses.replace(base.model, name=name, overrides={}))
    flags = make_flags()
    flags.define_config(base)
    rest = flags.parse(arguments)
    if len(rest) > 1:
        raise UsageError(f"one experiment is needed, not {' '.join(map(repr, rest))}")
    given = {path: value for path, value in flags.given().items() if path not in own}
    return _absolute(original), _absolute(configure(base, given)), flags


def _absolute(config: Config) -> Config:
    """With the whole paths of what it names: config.json is read from other directories too."""
    paths = {"data.data_dir": config.data.data_dir, "model.init_from": config.model.init_from}
    changes = {field: str(pathlib.Path(path).absolute()) for field, path in paths.items() if path}
    kind, _, place = config.data.dataset.partition(":")
    if kind in ("folder", "npz") and place:
        changes["data.dataset"] = f"{kind}:{pathlib.Path(place).expanduser().absolute()}"
    return replace(config, changes)


def _words(left: list[str]) -> list[str]:
    """The words that are no flags, nor the values of flags that are unknown as yet, ``--model.width 24``."""
    taken = [word.startswith("-") and "=" not in word for word in ["", *left][: len(left)]]
    words = [(word, value) for word, value in zip(left, taken, strict=True) if not word.startswith("-")]
    return [word for word, value in words if not value] or [word for word, _ in words]  # --model.remat has no value


def _flags() -> Flags:
    flags = Flags(
        "train EXPERIMENT [--flag=value ...]\n\nEXPERIMENT is one of "
        + ", ".join(experiment.list_experiments())
        + ", or the path of your own .py file."
    )
    flags.define(
        "workdir", str | None, None, "run directory; none: runs/EXPERIMENT, with what is changed added to the name"
    )
    flags.define(
        "resume", str, "auto", "auto: go on from the newest checkpoint, if any; never: refuse one; must: need one"
    )
    flags.define("num_devices", int | None, None, "devices to use; none: all")
    flags.define("mesh", str | None, None, "data:8 splits the batch over 8 devices, data:4,model:2 large weights too")
    flags.define("nproc", int, 1, "processes to start on this machine")
    flags.define("max_restarts", int, 0, "how often the run is started again after a lost peer")
    flags.define(
        "coordinator", str | None, None, "HOST:PORT of process 0; none: from SLURM, Open MPI, JAX_COORDINATOR_ADDRESS"
    )
    flags.define("num_processes", int | None, None, "processes of the run on all machines")
    flags.define("process_id", int | None, None, "number of this process, from 0")
    flags.define("join_timeout", int, 300, "seconds to wait for the other processes at the start")
    flags.define("seeds", int, 1, "runs with this many seeds, from --seed on: mean, deviation and confidence interval")
    flags.define("sweep", str | None, None, "NAME:V1,V2,...: a run for each value; several with ; are a grid")
    flags.define("together", str, "auto", "seeds and sweeps: turns, devices (a run on each), vmap (one stacked update)")
    flags.define("config", str | None, None, "repeat the run of this config.json; other flags change it")
    return flags


def _base(name: str, path: str | None, help_wanted: bool) -> Config:
    if name and path is not None and not name.endswith(".py"):
        raise UsageError(
            f"--config={path} and the experiment {name!r}: give one of the two (or the .py file of its network)"
        )
    config = experiment.load(name) if name else None  # with --config too: the file may register the network
    if path is not None:
        try:
            config = from_json(pathlib.Path(path).read_text(errors="replace"), path)
        except OSError as error:
            raise UsageError(f"--config={path}: {error.strerror}; it must be the config.json of a run") from None
        if config.model.name not in models.list_models() and config.experiment.endswith(".py"):
            file = config.experiment
            raise UsageError(
                f"model={config.model.name!r} is your own: name the file that registers it: train {file} --config=..."
            )
        return config
    if config is None:
        if not help_wanted:
            raise UsageError(
                f"an experiment is needed: one of {', '.join(experiment.list_experiments())}, or the path of a .py file"
            )
        return Config(epochs=1)
    return config


def default_workdir(base: Config, config: Config) -> pathlib.Path:
    """``runs/EXPERIMENT``, or ``runs/EXPERIMENT-seed=1-steps=10``: the same command always finds its run again."""
    name = pathlib.Path(base.experiment or "run").stem
    other = dataclasses.replace(base.model, name=config.model.name, overrides={})  # another network has other defaults
    same = base.model.name == config.model.name
    before = fields(base if same else dataclasses.replace(base, model=other)) | {
        "model.name": fields(base)["model.name"]
    }
    changes = {
        path: new
        for path, (new, _, rule) in sorted(fields(config).items())
        if rule.on_resume != "silent" and new != before[path][0]
        if new is not None or path not in ("steps", "epochs")  # of which the one that is given replaces the other
    }
    short = {path: flag for flag, path in SHORT.items()}
    suffix = "".join(f"-{short.get(path) or path.rpartition('.')[2]}={_word(value)}" for path, value in changes.items())
    if len(suffix) > 80:
        suffix = "-" + hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return pathlib.Path("runs") / (name + suffix)


def _check_own(workdir: str | pathlib.Path, config: Config) -> None:
    """UsageError when the run in a default directory is that of another file, which has the same name."""
    run_dir = RunDir(workdir)
    other = run_dir.read_config().experiment if run_dir.config.is_file() else config.experiment
    if experiment.find(other) != experiment.find(config.experiment):
        raise UsageError(f"workdir={workdir} holds the run of {other}, not of {config.experiment}; give a --workdir")


def _word(value: Any) -> str:
    text = (
        ",".join(map(_word, value))
        if isinstance(value, tuple)
        else repr(value)
        if isinstance(value, float)
        else "none"
        if value is None
        else str(value)
    )
    return "".join(c if c.isalnum() or c in ".,+-_" else "_" for c in text)


def _short(path: pathlib.Path) -> pathlib.Path:
    return path.relative_to(pathlib.Path.cwd()) if path.is_relative_to(pathlib.Path.cwd()) else path


def _show_many(summary: dict[str, Any], folder: pathlib.Path) -> None:
    names = {"eval_accuracy": "accuracy", "eval_loss": "loss", "train_loss": "training loss"}
    result = Table(
        "runs", "seeds", *names.values(), title=str(_short(folder.absolute())), title_justify="left", box=None
    )
    for key, group in summary["groups"].items():
        cells = [_spread(group[name], "accuracy" in name) if name in group else "" for name in names]
        result.add_row(key, str(len(group["seeds"])), *cells)
    for name in summary["failed"]:
        result.add_row(name, "", "not finite")
    show(result, "mean, ± half the 95 % confidence interval (standard deviation)")


def _spread(spread: dict[str, float | None], percent: bool) -> str:
    form = "{:.2%}" if percent else "{:.4f}"
    mean, std, half = (None if value is None else form.format(value) for value in spread.values())
    return f"{mean}" if std is None else f"{mean} ± {half} ({std})"


def _show(summary: dict[str, Any], run_dir: RunDir) -> None:
    rows = {
        f"{summary['eval_split']} accuracy": f"{summary['eval_accuracy']:.2%}  (error {1 - summary['eval_accuracy']:.2%})",
        f"{summary['eval_split']} loss": f"{summary['eval_loss']:.4f}",
        "trained": f"{summary['steps']:,} steps, {summary['epochs']:.1f} epochs, {summary['seconds']:.1f} s",
        "state digest": summary["state_digest"][:16] + "…",
        "summary": _short(run_dir.summary),
        "metrics": _short(run_dir.metrics),
        "checkpoints": _short(run_dir.checkpoints),
    }
    if run_dir.plots.is_dir():
        rows["pictures"] = _short(run_dir.plots)
    show(table(summary["experiment"] or summary["model"], rows))
