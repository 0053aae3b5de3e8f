"""Weights of one run as the start of another: all of them, but for a head of another class count."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcnn import checkpoint, tree
from jaxcnn import mesh as meshes
from jaxcnn.errors import CheckpointError
from jaxcnn.rundir import RunDir
from jaxcnn.state import State
from jaxcnn.task import Task, build


def load(task: Task, warn: Callable[[str], None]) -> dict[str, Any]:
    """``{leaf name: array}`` of params and batch_stats from the run in ``model.init_from``, for the task's network.

    The most accurate checkpoint of that run is taken, the latest when none was evaluated; a moving average of the weights,
    if it has one. Leaves whose shape follows from the class count are left out when they do not fit.

    Raises:
      CheckpointError: no run directory, no usable checkpoint, or a network whose other leaves differ; lists them.
    """
    source = RunDir(str(task.config.model.init_from))
    if not source.config.is_file():
        kind = (
            "is a file; `import` makes a run of a file of weights" if source.path.is_file() else "is no run directory"
        )
        raise CheckpointError(f"model.init_from={source.path} {kind}")
    config = source.read_config()
    step = source.best_step()
    step = step if step is not None else max(checkpoint.steps(source.checkpoints), default=None)
    if step is None:
        raise CheckpointError(f"model.init_from={source.path} holds no finished checkpoint")
    meta = checkpoint.read_meta(source.checkpoints / str(step))
    if meta is None:
        raise CheckpointError(f"{source.checkpoints / str(step)}: its description (meta) is missing or altered")
    restored = checkpoint.restore(
        source.checkpoints, _from_manifest(meta.manifest, task), step, warn=warn, set_aside=False
    )
    assert restored is not None  # there is a step, and damage raises
    found = tree.named_leaves(restored[0].variables())
    wanted = _variables(task.abstract)
    head = _head(task)
    misfits = {name: leaf for name, leaf in wanted.items() if name not in found or found[name].shape != leaf.shape}
    problems = [
        f"{name}: there {_shape(found.get(name))}, wanted {leaf.shape}"
        for name, leaf in misfits.items()
        if name not in head
    ]
    problems += [f"{name}: there {leaf.shape}, not wanted" for name, leaf in found.items() if name not in wanted]
    if problems:
        raise CheckpointError(
            f"model.init_from={source.path} holds {config.model.name}, which does not fit {task.config.model.name}: "
            f"{len(problems)} arrays differ: {'; '.join(problems[:5])}"
        )
    if misfits:
        warn(f"{', '.join(misfits)}: made anew, {source.path.name} has another class count")
    return {name: found[name] for name in wanted if name not in misfits}


def start(state: State, weights: dict[str, Any]) -> State:
    """The state with these weights in place of its own; a moving average starts from them too."""
    own = _variables(state)
    new = {
        name: jax.device_put(weights[name], leaf.sharding) if name in weights else leaf for name, leaf in own.items()
    }
    nested = {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(new, sep="/")}
    copied = jax.tree.map(jnp.copy, nested) if state.ema else {}
    return state._replace(params=nested["params"], batch_stats=nested["batch_stats"], ema=copied)


def _variables(state: State) -> dict[str, Any]:
    return tree.named_leaves({"params": state.params, "batch_stats": state.batch_stats})


def _head(task: Task) -> set[str]:
    """The leaves whose shapes change with the class count."""
    model = dataclasses.replace(task.config.model, num_classes=task.num_classes + 1, init_from=None)
    other = build(dataclasses.replace(task.config, model=model), dataset=task.dataset, mesh=task.mesh)
    wider = _variables(other.abstract)
    return {name for name, leaf in _variables(task.abstract).items() if wider[name].shape != leaf.shape}


def _from_manifest(manifest: dict[str, str], task: Task) -> State:
    """A state's shapes from its description: nothing need be known of the network and optimizer that it is of."""
    sharding = meshes.everywhere(task.mesh)

    def abstract(text: str) -> jax.ShapeDtypeStruct:
        kind, _, shape = text.rstrip("]").partition("[")
        return jax.ShapeDtypeStruct(tuple(map(int, filter(None, shape.split(",")))), np.dtype(kind), sharding=sharding)

    nested = traverse_util.unflatten_dict({name: abstract(text) for name, text in manifest.items()}, sep="/")
    return State(**{field: nested.get(field, {}) for field in State._fields})


def _shape(leaf: Any) -> Any:
    return "nothing" if leaf is None else leaf.shape
