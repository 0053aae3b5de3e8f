"""Weight files: what torch and the safetensors library write, as numpy arrays. Nothing in a file is executed."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.errors import DataError, UsageError

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """``{name: float32 array}`` in the file's order.

    ``.safetensors`` needs no torch. ``.pth``, ``.pt`` and ``.bin`` are pickles, read by torch with ``weights_only=True``, which
    builds tensors and plain containers and nothing else; weights may lie under ``state_dict``, ``model`` or ``model_ema``.

    Raises:
      UsageError: no such file, another ending, or torch is needed and not installed.
      DataError: the file is damaged or holds something else than weights.
    """
    file = pathlib.Path(path)
    if file.suffix not in _ENDINGS:
        raise UsageError(f"{path}: must end in one of {', '.join(_ENDINGS)}")
    if not file.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        tensors = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    except (UsageError, DataError):
        raise
    except Exception as error:  # each library has its own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if type(error).__name__ == "UnpicklingError":
            reason = "damaged, or it holds more than weights; write it anew with torch.save(model.state_dict(), ...)"
        raise DataError(f"{path}: not a readable file of weights ({reason})") from None
    if not tensors:
        raise DataError(f"{path}: holds no weights")
    return tensors


def write_state_dict(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ``.safetensors`` file, whole or not at all. UsageError when it cannot be there, or is there already."""
    from safetensors.numpy import save

    file = pathlib.Path(path)
    if file.suffix != ".safetensors":
        raise UsageError(f"{path}: must end in .safetensors")
    if file.exists():
        raise UsageError(f"{path}: is there already; choose another file")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such directory")
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"format": "pt"})
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # comes with jax
    from safetensors import deserialize

    kinds = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64}
    found = {}
    for name, part in deserialize(file.read_bytes()):
        if part["dtype"] not in kinds:
            raise DataError(f"{file}: {name} is {part['dtype']}, must be one of {', '.join(kinds)}")
        array = np.frombuffer(bytes(part["data"]), kinds[part["dtype"]])
        found[name] = array.reshape(part["shape"]).astype(np.float32)
    return found


def _read_pickle(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(f"{file}: reading it needs torch (pip install torch); a .safetensors file does not") from None
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_ema", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise DataError(f"{file}: holds {type(loaded).__name__}, must hold a state dict of tensors")
    return {name.removeprefix("module."): tensor.float().numpy() for name, tensor in loaded.items()}
