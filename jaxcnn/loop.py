"""The story of a run, told in order."""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax

from jaxcnn import checkpoint, complexity, environment, execution, hosts, memory, precise, transfer, tree
from jaxcnn import mesh as meshes
from jaxcnn.ahead import compiled_ahead
from jaxcnn.config import Config, leaves, steps_per_epoch, to_json, total_steps
from jaxcnn.console import say
from jaxcnn.errors import CheckpointError, Preempted, UsageError
from jaxcnn.evaluate import Split, evaluate, predictions
from jaxcnn.rundir import BadRecords, RunDir, read_rows
from jaxcnn.saver import Saver
from jaxcnn.state import State
from jaxcnn.step import TrainStep
from jaxcnn.task import Task, build
from jaxcnn.watchdog import Watchdog
from jaxcnn.writers import Journal, Row, check_tensorboard


def run(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    resume: str = "auto",
    num_devices: int | None = None,
    mesh_shape: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train ``config`` in ``workdir``; returns what ``summary.json`` holds.

    Everything that can be wrong with the arguments is found before anything is written or compiled. The result is a
    pure function of the config: a run that was killed and started again ends with the same ``state_digest``.

    Args:
      config: what to train.
      workdir: the run directory.
      resume: "auto" (go on from the newest good checkpoint, if there is one), "never" or "must".
      num_devices: devices to use; None for all.
      mesh_shape: how the devices share the work, ``data:4,model:2`` (``mesh.make_mesh``); None: the batch is split over all.
      stop: polled after each call of updates and each evaluation batch; when true, the state is saved and Preempted raised.

    Raises:
      UsageError, DataError, CheckpointError, NonFiniteError, Preempted, PeerError: see ``jaxcnn.errors``.
    """
    return train(build(config, num_devices, mesh_shape=mesh_shape), workdir, resume=resume, stop=stop)


@hosts.naming_lost_peers()
def train(
    task: Task,
    workdir: str | os.PathLike[str],
    *,
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    train_step: TrainStep | None = None,
) -> dict[str, Any]:
    """``run`` of a task that is built already; ``train_step`` is its update, if that exists already."""
    config, data = task.config, task.config.data
    meshes.check_batch("data.batch_size", data.batch_size, task.mesh, config.optimizer.accumulate)
    num_train, num_eval = task.num_examples(data.train_split), task.num_examples(data.eval_split)
    if data.batch_size > num_train:
        raise UsageError(
            f"data.batch_size={data.batch_size} must be <= {num_train}, the examples of {data.train_split!r}"
        )
    if config.log.tensorboard:
        check_tensorboard()
    total, epoch = total_steps(config, num_train), steps_per_epoch(config, num_train)
    size = execution.steps_per_call(task, num_train) if train_step is None else 1
    if train_step is None:
        task.check(train_step := task.train_step(total))
        train_step = execution.grouped(task, train_step, size)
    eval_step = task.eval_step()
    eval_every, save_every = config.log.eval_every or epoch, config.checkpoint.every or epoch
    intervals = (config.log.every, eval_every, save_every)
    run_dir = RunDir(workdir)
    notices = run_dir.check(config, resume, tree.num_bytes(task.abstract))

    with ExitStack() as stack:
        stack.enter_context(memory.naming_what_takes_it(config))
        watchdog = Watchdog(config.step_timeout)
        stack.callback(watchdog.close)
        stop = watchdog.alive(hosts.together(stop))
        fingerprints = {split: task.fingerprint(split) for split in (data.train_split, data.eval_split)}
        fingerprints["mean, deviation and classes"] = task.dataset.essence()
        hosts.agree(_facts(task, resume, num_train, num_eval) | fingerprints)  # nobody has written anything yet

        saved = checkpoint.steps(run_dir.checkpoints)
        weights = transfer.load(task, warn=say) if config.model.init_from and not saved else {}
        if not saved or saved[-1] < total:
            train_step = compiled_ahead(train_step, task.abstract, execution.abstract_batch(task, num_train, size))
        train, test = task.load(data.train_split, train=True), task.load(data.eval_split)
        stack.callback(train.close)
        stack.callback(test.close)
        stack.enter_context(run_dir.locked())
        state, seconds_before = _restore_or_init(task, run_dir, weights, fingerprints)
        start = int(state.step)
        hosts.agree({"step to go on from": start})
        if start > total:
            raise UsageError(
                f"workdir={run_dir.path} is at step {start}, beyond the {total} asked for; use another --workdir"
            )
        if start < total or not run_dir.config.exists():
            run_dir.write_config(config, task.dataset)
        elif notices:
            say(f"the run is complete; not applied: {'; '.join(notices)}")
        for notice in notices if start < total else ():
            say(f"changed since the last start: {notice}")
        say(_opening(task, num_train, num_eval, start, total))
        if config.elastic_exact and (threads := environment.versions()["NPROC"]) != "8":
            say(f"elastic_exact with NPROC={threads}: start with NPROC=8, or the bits depend on the number of devices")

        scored = json.loads(hosts.first_says(json.dumps(run_dir.scores())))
        scores = {int(step): score for step, score in scored.items()}
        journal = Journal(run_dir, config, start, total, num_train)
        stack.callback(journal.close)
        bad_records = BadRecords(run_dir, {data.train_split: train.bad, data.eval_split: test.bad})

        def settle() -> None:
            bad_records.write()
            journal.sync()

        saver = stack.enter_context(Saver(run_dir.checkpoints, config.checkpoint.keep, scores, say, settle))
        eval_batch_size = meshes.round_up(min(data.eval_batch_size, num_eval), task.mesh)
        began = time.monotonic()
        stack.callback(watchdog.close)  # before the saver's end, which may take its time

        def due(step: int, *every: int) -> bool:
            return step == total or any(step % n == 0 for n in every)

        def evaluated(state: State) -> dict[str, float]:
            return evaluate(eval_step, state.variables(), test, eval_batch_size, stop)

        def save(state: State) -> None:
            metrics = {name: value for name, value in journal.last.items() if name.startswith("eval_")}
            seconds = seconds_before + time.monotonic() - began
            saver.save(state, metrics, seconds, to_json(config), _circumstances(task), fingerprints)

        if start and due(start, eval_every) and "eval_accuracy" not in journal.last:  # a stop had cut it off
            journal.write(evaluated(state), data.eval_split)
            saver.note_score(start, journal.last.get("eval_accuracy"))
        if stop():
            save(state)
            raise Preempted(_stopped(start, run_dir))

        for steps, batch in execution.calls(train, config, start, total, size, intervals):
            state, sums = train_step(state, batch)
            done = steps[-1]
            if done == total and config.precise_batches:
                more = train.train_batches(config.seed, data.batch_size, total)
                state = precise.estimated(state, task.moments_step(), more, config.precise_batches, stop)
            for number in steps:
                journal.record(number, sums)
            if due(done, *intervals) or stop():
                if due(done, save_every):
                    saver.finish()  # so that rows are at most one interval ahead of the newest checkpoint
                journal.fetch()
                journal.write(evaluated(state) if due(done, eval_every) else {}, data.eval_split)
                stopping = stop()  # asked once: a stop that comes while we save is for the next step
                if due(done, save_every) or stopping:
                    save(state)
                if stopping:
                    raise Preempted(_stopped(done, run_dir))
                journal.restart_clock()

        saver.wait()
        watchdog.close()
        seconds = seconds_before + time.monotonic() - began
        summary = _summary(task, state, journal.last, num_train, seconds) | {"bad_records": len(bad_records)}
        if config.log.plots:
            try:
                _draw(task, state, test, run_dir, eval_batch_size)
            except Exception as error:  # a picture is not worth a run
                say(f"plots not drawn ({type(error).__name__}: {error})")
        run_dir.write_summary(summary)
    return summary


def _facts(task: Task, resume: str, num_train: int, num_eval: int) -> dict[str, Any]:
    """What must be the same on all processes of a run; where the data lie and who reads them may differ."""
    own = {"experiment", "data.data_dir", "data.threads", "data.ahead"}
    fields = {path: value for path, (value, _, _) in leaves(task.config).items() if path not in own}
    return {
        **fields,
        "mesh": dict(task.mesh.shape),
        "resume": resume,
        "training examples": num_train,
        "evaluation examples": num_eval,
        "jax": environment.versions()["jax"],
    }


def _circumstances(task: Task) -> dict[str, str]:
    """What the last bits depend on besides the config."""
    mesh = ",".join(f"{axis}:{size}" for axis, size in task.mesh.shape.items())
    return environment.versions() | {"mesh": mesh, "processes": str(jax.process_count())}


def _restore_or_init(
    task: Task, run_dir: RunDir, weights: dict[str, Any], fingerprints: dict[str, str]
) -> tuple[State, float]:
    """The state to go on from, and the seconds of training behind it. UsageError when the data have changed."""
    checkpoint.clean(run_dir.checkpoints, warn=say)
    restored = checkpoint.restore(run_dir.checkpoints, task.abstract, warn=say)
    hosts.meet("state restored")
    if restored is None and run_dir.summary.exists():
        raise CheckpointError(
            f"{run_dir.path} holds a finished run without a usable checkpoint; choose another --workdir"
        )
    if restored is None and (lost := read_rows(run_dir.metrics)):
        say(
            f"no checkpoint in {run_dir.checkpoints}: starting at step 0, the {len(lost)} rows of {run_dir.metrics.name} go"
        )
    if restored is None:
        state = task.initial_state()
        return transfer.start(state, weights) if weights else state, 0.0
    state, meta = restored
    changed = {split: old for split, old in meta.data.items() if fingerprints.get(split, old) != old}
    if changed:
        told = "; ".join(f"{split} {old!r} -> {fingerprints[split]!r}" for split, old in changed.items())
        raise UsageError(
            f"workdir={run_dir.path} was trained on other data ({told}); bring them back, or choose another --workdir"
        )
    threads, now = meta.versions.get("NPROC"), environment.versions()["NPROC"]
    if threads != now:
        say(f"the checkpoint was written with NPROC={threads}, now NPROC={now}: the last bits may differ")
    return state, meta.seconds


def _opening(task: Task, num_train: int, num_eval: int, start: int, total: int) -> str:
    config, devices = task.config, task.mesh.devices.flat
    return (
        f"{config.model.name} ({tree.num_elements(task.abstract.params):,} parameters) on {config.data.dataset}: "
        f"{num_train:,} training and {num_eval:,} {config.data.eval_split} images, {total:,} steps of {config.data.batch_size}, "
        f"{len(devices)} x {devices[0].device_kind}{_split(task)}, {config.model.dtype}"
        + (f"; resumed at step {start:,}" if start else "")
    )


def _split(task: Task) -> str:
    """How the devices are used, where there is more to say than their number."""
    processes = jax.process_count()
    text = f" in {processes} processes" if processes > 1 else ""
    shape = task.mesh.shape
    return text + (f" (data:{shape['data']},model:{shape['model']})" if shape["model"] > 1 else "")


def _stopped(step: int, run_dir: RunDir) -> str:
    return f"stopped at step {step} and saved in {run_dir.checkpoints}; the same command goes on from there"


def _summary(task: Task, state: State, last: Row, num_train: int, seconds: float) -> dict[str, Any]:
    config, steps = task.config, int(state.step)
    return {
        "experiment": config.experiment,
        "model": config.model.name,
        "dataset": config.data.dataset,
        "eval_split": config.data.eval_split,
        **{name: value for name, value in last.items() if name.startswith("eval_")},
        "train_loss": last.get("loss"),
        "train_accuracy": last.get("accuracy"),
        "skipped_updates": int(last.get("skipped", 0)),
        "steps": steps,
        "epochs": steps * config.data.batch_size / num_train,
        "seconds": seconds,
        "parameters": tree.num_elements(state.params),
        "seed": config.seed,
        "state_digest": tree.digest(state._asdict()),
        "devices": [device.device_kind for device in task.mesh.devices.flat],
        "versions": environment.versions(),
    }


def _draw(task: Task, state: State, test: Split, run_dir: RunDir, batch_size: int) -> None:
    names = task.dataset.class_names
    found = predictions(task.predict_step(), state.variables(), test, batch_size, len(names))
    kernels = {name: leaf for name, leaf in tree.named_leaves(state.params).items() if name.endswith("/kernel")}
    layers = (layer.name for layer in complexity.layers(task.model, task.image_shape))
    first = next((name for name in layers if f"{name}/kernel" in kernels), "")
    kernel = hosts.fetch(kernels[f"{first}/kernel"]) if first else None
    if not hosts.is_first():
        return
    from jaxcnn import plots  # matplotlib is slow to import, and needed here only

    if rows := read_rows(run_dir.metrics):  # the file may have been lost
        plots.learning_curves(run_dir.plots / "learning_curves.png", rows, task.config.data.eval_split)
    plots.confusion_matrix(run_dir.plots / "confusion_matrix.png", found.labels, found.called, names)
    plots.worst_mistakes(run_dir.plots / "worst_mistakes.png", found, names)
    if kernel is not None:
        if kernel.shape[0] == math.prod(task.image_shape):  # a unit of a dense layer is as large as the image
            kernel = kernel.reshape(*task.image_shape, -1)
        plots.first_layer_filters(run_dir.plots / "first_layer_filters.png", kernel, first)
