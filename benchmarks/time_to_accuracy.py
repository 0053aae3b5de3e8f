"""Train the experiments for real, several seeds each, and write down error and time.

    python benchmarks/time_to_accuracy.py [--tiny] [--data_dir=DIR] [EXPERIMENT...]

DIR holds prepared TFDS datasets. The seconds are those of the training loop with its evaluations and checkpoints,
compilation included.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from results import FOLDER, read, spread, write

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPERIMENTS = ("lenet_digits", "lenet_mnist", "mlp_mnist")


def train(name: str, seed: int, flags: list[str]) -> dict[str, float]:
    """The summary of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxcnn", "train", name, f"--seed={seed}", f"--workdir={folder}/run", *flags]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(pathlib.Path(folder, "run", "summary.json").read_text())


def main() -> None:
    tiny = "--tiny" in sys.argv
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--data_dir")]
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    names = names or (["lenet_digits"] if tiny else list(EXPERIMENTS))
    rows = read("time_to_accuracy")["rows"] if (FOLDER / "time_to_accuracy.json").exists() and not tiny else {}
    for name in names:
        summaries = [train(name, seed, [*flags, *(["--steps=20"] if tiny else [])]) for seed in range(2 if tiny else 3)]
        rows[name] = {
            "split": summaries[0]["eval_split"],
            "dataset": summaries[0]["dataset"],
            "epochs": summaries[0]["epochs"],
            "parameters": summaries[0]["parameters"],
            "error_percent": spread([100 * (1 - summary["eval_accuracy"]) for summary in summaries]),
            "mean_error_percent": sum(100 * (1 - summary["eval_accuracy"]) for summary in summaries) / len(summaries),
            "seconds": spread([summary["seconds"] for summary in summaries]),
            "state_digests": [summary["state_digest"] for summary in summaries],
        }
    write("time_to_accuracy", "the training loop with evaluations and checkpoints", {"rows": rows}, tiny)


if __name__ == "__main__":
    main()
