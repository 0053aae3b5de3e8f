"""The reliability protocol in full, as a table: what was tried, how often, and the worst that was seen.

    python benchmarks/reliability.py [TEST_FILE ...] [--tiny]

With files of tests only their rows are measured anew. ``--tiny`` runs two of the tests.
"""

import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from results import read, write

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = {
    "T1": "SIGKILL at random moments and inside saves; started again, the run ends with the same bits",
    "T2": "the same run again, and with other numbers of reading threads",
    "T3": "SIGTERM and Ctrl-C while it starts, trains, evaluates and saves: saved there, exit 75",
    "T4": "SIGTERM to one of two processes: both save at the same step",
    "T5": "each file of the newest checkpoint deleted, cut and with flipped bits: found, or harmless",
    "T6": "all checkpoints damaged: listed, nothing deleted, exit 4",
    "T7": "foreign files, symbolic links and unfinished saves among the checkpoints",
    "T8": "a full disk: training goes on; three failed saves in a row end it, and nothing is lost",
    "T9": "storage that fails once, twice, three times",
    "T10": "images that are truncated, empty, HTML, bombs, NaN; grey, CMYK, transparent, 16 bits, 1 x 1",
    "T11": "readers that are cut off from their file",
    "T12": "NaN and infinity in loss, gradient, parameters and batch statistics; abort and skip",
    "T13": "one of two processes killed, stopped or hanging; the supervisor starts all again",
    "T14": "from 1 to 2, 8, 4 and 1 devices, and to two processes with two each",
    "T15": "a missing peer, a taken port, processes with different configurations",
    "T16": "3,000 updates: memory, threads, files and disk do not grow",
    "T17": "resumed with another seed, network, dataset, batch or learning rate",
    "T18": "a checkpoint of each release",
    "T19": "what listens, and what the package may not contain",
    "T20": "the 35 bad inputs of the protocol: one line, the exit code, nothing written",
    "T21": "random flags, configurations, image files, record files, checkpoints and run directories",
}


def main() -> int:
    tiny, files = "--tiny" in sys.argv, [argument for argument in sys.argv[1:] if argument != "--tiny"]
    chosen = (
        ["tests/reliability/test_damage.py", "-k", "listed or not_ours"] if tiny else [*(files or ["tests"]), "--full"]
    )
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "found.jsonl"
        command = [sys.executable, "-m", "pytest", *chosen, "-m", "protocol", "-n0", "-q", f"--protocol={report}"]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr)
        found = [json.loads(line) for line in report.read_text().splitlines()]
    rows = {row.pop("name"): row for row in found}
    for name, row in rows.items():
        row |= {"about": TESTS[name], "date": datetime.date.today().isoformat()}
    if files:
        measured = read("reliability")["rows"] | rows
        rows = {name: measured[name] for name in TESTS if name in measured}
    write("reliability", "each test by itself, with the starts of its processes", {"rows": rows}, tiny)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
