"""Experiments: Python files that set ``config``, found by name or by path."""

import importlib.util
import pathlib
import sys
import traceback
import types

from jaxcnn.config import Config, replace
from jaxcnn.errors import UsageError, nearest


def directory() -> pathlib.Path:
    """Where the experiments that come with jaxcnn are: beside the package in a checkout, inside it when installed."""
    package = pathlib.Path(__file__).parent
    beside = package.parent / "experiments"
    return beside if (package.parent / "pyproject.toml").is_file() else package / "experiments"


def list_experiments() -> list[str]:
    """Names of the experiments that come with jaxcnn."""
    return sorted(path.stem for path in directory().glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> pathlib.Path:
    """The file of an experiment, which need not exist."""
    return (pathlib.Path(name) if _is_path(name) else directory() / f"{name}.py").resolve()


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def load(name: str) -> Config:
    """The config of an experiment, given by name or by the path of a Python file. The file is executed.

    Raises:
      UsageError: there is no such experiment, the file does not run, or it sets no ``config``.
    """
    path = find(name)
    if not path.is_file():
        if _is_path(name):
            raise UsageError(f"experiment {name!r}: there is no such file")
        known = list_experiments()
        raise UsageError(
            f"experiment {name!r} must be one of {', '.join(known)}, or the path of a .py file{nearest(name, known)}"
        )
    module = _execute(path)
    config = getattr(module, "config", None)
    if not isinstance(config, Config):
        raise UsageError(f"experiment {path}: must set `config = Config(...)`, found {type(config).__name__}")
    return replace(config, {"experiment": str(path) if _is_path(name) else name})


def _execute(path: pathlib.Path) -> types.ModuleType:
    module_name = f"jaxcnn_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up here
    if path.parent != directory().resolve() and str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as Python does: the file may import its neighbours
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ beside the user's file
    try:
        spec.loader.exec_module(module)
    except UsageError as error:
        raise UsageError(f"experiment {path}: {error}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise UsageError(
            f"experiment {path}{f':{lines[-1]}' if lines else ''} does not run: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.dont_write_bytecode = writes_bytecode
    return module
