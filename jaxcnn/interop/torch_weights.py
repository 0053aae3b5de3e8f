"""Weights from torch and for torch: a state dict of numpy arrays is our variables by other names. No torch is needed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, traverse_util

from jaxcnn import rng, tree
from jaxcnn.errors import UsageError
from jaxcnn.interop.torch_names import flattened_side, is_convolution, our_path, rules, takes_centred_pixels, torch_path
from jaxcnn.models.registry import create_model, input_shape

_LEAVES = {  # what torch calls a leaf -> collection and name of ours, for layers with a kernel and for norms
    "bias": [("params", "bias")],
    "weight": [("params", "kernel"), ("params", "scale")],
    "running_mean": [("batch_stats", "mean")],
    "running_var": [("batch_stats", "var")],
    "layer_scale": [("params", "layer_scale")],
    "gamma": [("params", "layer_scale")],
}


def from_torch(name: str, state_dict: Mapping[str, Any], **overrides: Any) -> dict[str, Any]:
    """Variables of the network ``name`` from the weights of its torchvision or timm twin.

    Args:
      name: one of ``list_models()`` of a family that torchvision or timm has.
      state_dict: torch's names to arrays (anything that ``numpy.asarray`` takes).
      **overrides: the network's fields, as in ``create_model``; the class count follows from the head's bias.

    Returns:
      ``{"params": ..., "batch_stats": ...}`` of float32 arrays, for ``model.apply``.

    Raises:
      ValueError: the family has no twin in torch, or entries are missing, superfluous or misshapen: all are listed.
    """
    arrays = {key: np.asarray(value) for key, value in state_dict.items() if not key.endswith("num_batches_tracked")}
    if not has_twin(name, **overrides):
        raise UsageError(f"from_torch: {name!r} has no twin in torchvision or timm")
    model = create_model(name, _count_classes(name, arrays, overrides), **overrides)
    if any(key.startswith("aux") for key in arrays) and "aux" not in overrides:
        arrays = {key: array for key, array in arrays.items() if not key.startswith("aux")}
    wanted = _abstract(model, input_shape(name))
    found: dict[str, np.ndarray] = {}
    problems = []
    for key, array in arrays.items():
        target = _target(model, key, wanted)
        if target is None:
            problems.append(f"{key} {array.shape} is not in the network")
            continue
        shape = wanted[target].shape
        converted = _convert(array, shape, flattened_side(model, target.split("/", 1)[1].rpartition("/")[0]))
        if converted is None:
            problems.append(f"{key} has shape {array.shape}, which does not give {target} {shape}")
        else:
            found[target] = converted
    misshapen = {_target(model, key, wanted) for key in arrays}
    problems += [f"{key} {wanted[key].shape} is missing" for key in wanted if key not in found and key not in misshapen]
    if problems:
        listed = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise UsageError(f"from_torch: {len(problems)} entries do not fit {name}: {listed}")
    variables = traverse_util.unflatten_dict({key: jnp.array(found[key], jnp.float32) for key in wanted}, sep="/")
    return {"batch_stats": {}, **variables}


def is_centred(name: str) -> bool:
    """Whether the published weights of the network take pixels from -1 to 1, not ImageNet's mean and deviation."""
    return takes_centred_pixels(create_model(name, 1))


def has_twin(name: str, **overrides: Any) -> bool:
    """Whether torchvision or timm has the network's family."""
    return bool(rules(create_model(name, 1, **overrides)))


def to_torch(name: str, variables: Mapping[str, Any], **overrides: Any) -> dict[str, np.ndarray]:
    """What ``from_torch`` reads; ``load_state_dict`` of the network's twin takes it: torchvision's, else timm's.

    Args:
      name, overrides: the network, as in ``create_model``.
      variables: ``{"params": ..., "batch_stats": ...}``.

    Raises:
      ValueError: the family has no twin in torch.
    """
    model = create_model(name, num_classes(name, variables), **overrides)
    if not has_twin(name, **overrides):
        raise UsageError(f"to_torch: {name!r} has no twin in torchvision or timm")
    leaves = {pair: leaf for leaf, pairs in reversed(_LEAVES.items()) for pair in pairs}
    found = {}
    for key, array in tree.named_leaves(variables).items():
        collection, _, path = key.partition("/")
        ours, _, leaf = path.rpartition("/")
        theirs = torch_path(model, ours)
        array = _convert_back(np.asarray(array, np.float32), flattened_side(model, ours), is_convolution(model, ours))
        found[f"{theirs}.{leaves[collection, leaf]}"] = array[:, None, None] if leaf == "layer_scale" else array
    return found


def num_classes(name: str, variables: Mapping[str, Any]) -> int:
    """Class count of a network's variables: the length of its head's bias."""
    return tree.named_leaves(variables)[_head_bias(name, {})].shape[0]


def _count_classes(name: str, arrays: Mapping[str, np.ndarray], overrides: Mapping[str, Any]) -> int:
    head = _head_bias(name, overrides)
    model = create_model(name, 1, **overrides)
    wanted = {head: None}
    for key, array in arrays.items():
        if _target(model, key, wanted) == head and array.ndim == 1:
            return len(array)
    raise UsageError(
        f"from_torch: the state dict for {name!r} has no bias of the last layer; expected torch's or timm's names"
    )


def _head_bias(name: str, overrides: Mapping[str, Any]) -> str:
    """The bias whose length is the class count (of several, with auxiliary heads, the last that is called)."""
    one, two = (_abstract(create_model(name, k, **overrides), input_shape(name)) for k in (1, 2))
    names = [key for key in one if one[key].shape != two[key].shape and key.endswith("/bias") and "/aux" not in key]
    return names[-1]


def _abstract(model: linen.Module, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return tree.named_leaves(jax.eval_shape(lambda x: model.init(rng.key(0, "init"), x, train=False), image))


def _target(model: linen.Module, key: str, wanted: Mapping[str, Any]) -> str | None:
    """Our name of a torch entry, or None."""
    path, _, leaf = key.rpartition(".")
    ours = our_path(model, path)
    for collection, name in _LEAVES.get(leaf, []):
        if (target := f"{collection}/{ours}/{name}") in wanted:
            return target
    return None


def _convert(array: np.ndarray, shape: tuple[int, ...], side: int) -> np.ndarray | None:
    """torch's layout to ours, or None: OIHW -> HWIO for convolutions, OI -> IO for dense layers, else as it is.

    A dense layer that flattens a map has its inputs in the order C, H, W there and H, W, C here; timm writes some of
    them, and those of squeeze-excitation, as convolutions.
    """
    if array.ndim == 2 and side > 1 and array.shape[1] % side**2 == 0:
        array = array.reshape(array.shape[0], -1, side, side)
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        array = array.reshape(-1, array.shape[3]) if len(shape) == 2 else array
    elif array.ndim == 2:
        array = array.T
    elif len(shape) == 1:
        array = array.reshape(-1)
    return array if array.shape == shape else None


def _convert_back(array: np.ndarray, side: int, convolution: bool) -> np.ndarray:
    """Our layout to torch's, of kernels: HWIO -> OIHW, IO -> OI, or OI11 where torch has a convolution of one pixel."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and side > 1:
        array = array.reshape(side, side, -1, array.shape[1]).transpose(2, 0, 1, 3).reshape(array.shape)
    if array.ndim != 2:
        return array
    return array.T[:, :, None, None] if convolution else array.T
