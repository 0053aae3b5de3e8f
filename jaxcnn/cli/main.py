"""``jaxcnn VERB ...``: dispatch, and errors turned into one line and an exit code."""

import atexit
import importlib
import keyword
import os
import sys
import traceback

from jaxcnn import environment, streams
from jaxcnn.cli import supervise
from jaxcnn.errors import JaxcnnError, UsageError, nearest
from jaxcnn.preemption import Preemption
from jaxcnn.streams import complain, let_go

VERBS = {
    "prepare": "download a dataset:             prepare DATASET [--data_dir=DIR] [--offline]",
    "train": "train an experiment:            train EXPERIMENT [--flag=value ...]",
    "eval": "evaluate a run's checkpoint:    eval RUN_DIR [--split=test]",
    "predict": "classify image files:           predict RUN_DIR IMAGES...",
    "verify": "check a run's checkpoints:      verify RUN_DIR [--json]",
    "verify-resume": "prove a stop changes nothing:  verify-resume EXPERIMENT [--steps=20]",
    "models": "list the networks:              models [PATTERN]",
    "summary": "describe a network by layer:    summary MODEL",
    "plan": "cost of a run, not run:         plan EXPERIMENT [--memory=GB] [--tflops=X]",
    "preview": "picture of augmented images:    preview EXPERIMENT [--out=preview.png] [--step=0]",
    "claim": "test the lecture's claims:     claim [NAME|all] [--quick]",
    "bench": "speed, and communication:       bench MODEL, bench input EXPERIMENT, bench scaling EXPERIMENT",
    "import": "weights of torchvision or timm: import MODEL FILE --workdir=RUN",
    "export": "weights for torchvision or timm: export RUN_DIR FILE.safetensors",
    "help": "show this",
}

_EXACT_THREADS = 8  # at least one a device, and no run of --elastic_exact has more

_HELP = """\
jaxcnn: convolutional image classifiers as pure functions on JAX

{verbs}

`VERB --help` lists the flags of a verb. Without a verb, `./launch.sh` trains lenet_digits.
Exit codes: 0 done, 2 bad usage, 3 data, 4 checkpoint, 5 NaN or infinity, 6 lost peer,
75 stopped and saved (start again to go on)."""


def main(argv: list[str] | None = None) -> None:
    """Run one verb and exit. The verb's module is imported last, after the environment is set and signals are caught."""
    streams.prepare()
    atexit.register(let_go)
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = {f"--{word}" for word in _given("debug")}
    debug = not asked.isdisjoint(arguments)
    arguments = [argument for argument in arguments if argument not in asked]
    code = 0
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        sys.exit(code)
    except JaxcnnError as error:
        if debug:
            traceback.print_exc()
        complain(f"jaxcnn: {' '.join(str(error).split())}")
        _leave(error.exit_code, argv is None)
    except KeyboardInterrupt:  # train has its own way to stop
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output is gone, e.g. `jaxcnn models | head -1`
        streams.silence(sys.stdout)
        sys.exit(code)
    except OSError as error:
        if debug:
            traceback.print_exc()
        complain(f"jaxcnn: {error.filename or 'standard output or a file'}: {error.strerror or error}")
        _leave(2, argv is None)
    except Exception as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in reason:
            traceback.print_exc()
            _leave(1, argv is None)
        if debug:
            traceback.print_exc()
        complain(f"jaxcnn: out of memory ({reason[:200]}); use a smaller --batch_size, or smaller images")
        _leave(2, argv is None)


def _pretend(arguments: list[str]) -> None:
    """Let the CPU pretend to be the devices that ``bench scaling --devices=N`` compiles for; jax reads it at its import."""
    words = zip(arguments, [*arguments[1:], ""], strict=True)
    given = [
        word.partition("=")[2] or after for word, after in words if word.lstrip("-").partition("=")[0] == "devices"
    ]
    count = given[-1] if given else "8"
    if not count.isdecimal() or not 1 <= int(count) <= 512:
        raise UsageError(f"--devices={count} must be a whole number in [1, 512]")
    os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", count


def _is_exact(arguments: list[str]) -> bool:
    """Whether the run is to give the same bits everywhere: that takes one thread count, known before jax is imported."""
    return any(word.lstrip("-").lower() in _given("elastic_exact") for word in arguments)


def _given(flag: str) -> tuple[str, ...]:
    """The ways to switch a flag on."""
    return flag, *(f"{flag}={word}" for word in ("true", "t", "1"))


def _leave(exit_code: int, ours: bool) -> None:
    """End; where there are other processes, let them know. ``ours``: the process has nothing to do but our command."""
    if "jaxcnn.hosts" in sys.modules:  # not imported for this: it imports jax
        sys.modules["jaxcnn.hosts"].leave(exit_code)
    if ours and "jaxcnn.ahead" in sys.modules and sys.modules["jaxcnn.ahead"].is_compiling():
        let_go()
        os._exit(exit_code)  # who asked us to stop will not wait for a large network to be compiled
    sys.exit(exit_code)


def _dispatch(arguments: list[str]) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if verb in ("help", "--help", "-h"):
        print(_HELP.format(verbs="\n".join(f"  {name:14s}{about}" for name, about in VERBS.items())))
        return 0
    if verb == "--version":
        print("\n".join(f"{name} {version}" for name, version in environment.versions().items()))
        return 0
    if verb not in VERBS:
        raise UsageError(f"{verb!r} must be one of {', '.join(VERBS)}{nearest(verb, VERBS)}")
    if verb == "train" and (several := supervise.wanted(rest)):
        return supervise.supervise(*several)
    preemption = Preemption()
    if verb == "train":
        preemption.install()
        supervise.end_with_supervisor()
    if verb == "bench" and rest[:1] == ["scaling"] and not any(word.startswith("--measure") for word in rest):
        _pretend(rest)
    environment.prepare(_EXACT_THREADS if _is_exact(rest) else None)
    module = f"{verb}_" if keyword.iskeyword(verb) else verb.replace("-", "_")
    return importlib.import_module(f"jaxcnn.cli.{module}").main(rest, preemption.requested)
