"""Write the measured numbers into README.md and the headers of the experiments.

    python benchmarks/tables.py            write
    python benchmarks/tables.py --check    exit 1 when a file does not say what the results say

A block in Markdown stands between ``<!-- results: NAME -->`` and ``<!-- end -->``; in an experiment it is the paragraph
that begins with ``Measured:``.
"""

import pathlib
import re
import sys
import textwrap

from results import FOLDER, read

ROOT = pathlib.Path(__file__).resolve().parent.parent


def accuracy_table() -> str:
    """Error and time of the experiments."""
    result = read("time_to_accuracy")
    lines = [
        "| experiment | parameters | test error, mean of seeds | seeds (lowest to highest) | training time |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        error, seconds = row["error_percent"], row["seconds"]["median"]
        span = f"{error['n']} ({error['min']:.2f} % to {error['max']:.2f} %)"
        lines.append(
            f"| `{name}` | {row['parameters']:,} | **{row['mean_error_percent']:.2f} %** | {span} | {seconds:.0f} s |"
        )
    return "\n".join([*lines, "", _footnote(result)])


def speed_table() -> str:
    """Images per second beside PyTorch's."""
    result = read("cpu_vs_torch")
    lines = ["| training, images/s | jaxcnn | PyTorch (faster layout) | ratio |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        peer = max(row["torch"]["median"], row["torch channels_last"]["median"])
        ours, theirs = (f"{rate:,.{0 if rate >= 100 else 1}f}" for rate in (row["jaxcnn"]["median"], peer))
        lines.append(f"| {name} | {ours} | {theirs} | {row['ratio']:.2f} |")
    note = _footnote(result).replace(
        ", measured", f", PyTorch {result['torch']} eager, medians of alternating turns, measured"
    )
    return "\n".join([*lines, "", note])


def records_table() -> str:
    """Seconds to a given accuracy."""
    result = read("speed")
    lines = ["| | target | mean accuracy | runs | mean time | on |", "|---|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        lines.append(
            f"| `{name}` | {row['target_percent']:g} % | {row['mean_accuracy_percent']:.2f} % | {row['seconds']['n']} "
            f"| {row['mean_seconds']:,.2f} s{'' if row['reached'] else ' (not reached)'} | {row['on']} |"
        )
    return "\n".join([*lines, "", _footnote(result)])


def startup_table() -> str:
    """Times until something happens."""
    start, data = read("startup"), read("input")["rows"]
    lines = ["| what | median |", "|---|---|"]
    lines.append(
        f"| process start to the first update of `lenet_digits`, warm | {start['first_step_seconds']['median']:.1f} s |"
    )
    adds = round(start["launch_adds_seconds"]["median"], 2) + 0.0  # not -0.00
    lines.append(f"| `launch.sh` over calling Python directly | {adds:.2f} s |")
    compiled = {name: found["median"] for name, found in start["compilation_seconds"].items()}
    lines.append(
        f"| compilation of the update of `resnet18_cifar10`, first start, second start | {compiled['first']:.1f} s, {compiled['second']:.1f} s |"
    )
    lines.append(f"| MNIST ready to train on, first time | {data['mnist']['cold_seconds']['median']:.1f} s |")
    lines.append(f"| MNIST ready to train on, from the cache | {data['mnist']['warm_seconds']['median']:.1f} s |")
    return "\n".join([*lines, "", _footnote(start)])


def photographs_table() -> str:
    """The input pipeline beside torchvision's."""
    result = read("input")
    found = result["photographs"]
    stages = found["stages"]
    lines = ["| photographs of ImageNet, 224 pixels | images/s |", "|---|---|"]
    lines.append(f"| decode, random-resized crop, flip, into a batch; one thread | {stages['decode and crop']:,.0f} |")
    lines.append(
        f"| the same with torchvision {found['torchvision'].partition('+')[0]} and Pillow | {stages['torchvision']:,.0f} |"
    )
    for threads, rate in found["pipeline"].items():
        lines.append(
            f"| all from the files to the device, {threads} thread{'s' if threads != '1' else ''} | {rate:,.0f} |"
        )
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found["ratios"].items())
    note = f"Medians of turns; ratios within a turn: {ratios}. {result['hardware']}, measured {result['date']}."
    return "\n".join([*lines, "", note])


def scaling_table() -> str:
    """Communication of an update, and what it costs."""
    result = read("scaling")
    lines = [
        "| update on 8 devices | operations | must be summed, MB | is communicated, MB | in place |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        sizes = f"{row['optimum_bytes'] / 1e6:.4f} | {row['bytes'] / 1e6:.4f}"
        lines.append(
            f"| {name} | {row['operations']} {', '.join(row['kinds'])} | {sizes} | {row['donated']} of {row['state_leaves']} arrays |"
        )
    first = next(iter(result["rows"].values()))
    counts = [prediction["count"] for prediction in first["predictions"]]
    lines += [
        "",
        "| predicted efficiency | " + " | ".join(f"{count:,}" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for name, row in result["rows"].items():
        if row["optimum_bytes"] > 1e8:  # smaller networks are not trained on hundreds
            cells = " | ".join(f"{100 * p['waiting']:.0f} to {100 * p['hidden']:.0f} %" for p in row["predictions"])
            lines.append(f"| {name} | {cells} |")
    network = first["network"]
    note = (
        f"Read from the compiled program (jax {result['versions']['jax']}, {result['date']}); efficiency computed, not measured, for "
        f"{network['tflops']:g} TFLOP/s an accelerator, {network['inside']:g} GB/s within groups of {network['group']}, "
        f"{network['between']:g} GB/s between them and {network['latency']:g} us a message: without any overlap, and with the "
        "gradients' sum beside the backward pass."
    )
    return "\n".join([*lines, "", note])


def seeds_table() -> str:
    """Eight runs in one program."""
    result = read("seeds")
    ways = list(next(iter(result["rows"].values())))
    lines = ["| an update of each of 8 runs | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for case, row in result["rows"].items():
        cells = [f"{1000 * row[way]['median']:,.0f} ms ({row[way]['ratio']:.2f})" for way in ways]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _footnote(result)])


def reliability_table() -> str:
    """The reliability protocol: cases, and the worst of each."""
    result = read("reliability")
    lines = ["| | what is done to a run | cases passed | worst |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        worst = "; ".join(f"{what}: {value:,.3g}" for what, value in row["worst"].items())
        lines.append(f"| {name} | {row['about']} | {row['passed']:,} of {row['n']:,} | {worst} |")
    skipped = [f"{name}, {reason}" for name, row in result["rows"].items() for reason in row["skipped"]]
    note = _footnote(result) + (f" Skipped: {'; '.join(skipped)}." if skipped else "")
    return "\n".join([*lines, "", note])


def overhead_table() -> str:
    """What the guard and a checkpoint cost."""
    result = read("overhead")
    lines = [
        "| | an update | the guard in it | both updates in turns, guarded against bare | training waits for a save |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        updates, guard = row["updates"], row["guard_ms"]["median"]
        turns = " and ".join(f"{updates[way]['overhead_percent']:+.1f} % ({way})" for way in ("abort", "skip"))
        lines.append(
            f"| {name} | {updates['bare']['ms']['median']:,.1f} ms | {guard:.2f} ms, {row['guard_percent']:.2f} % "
            f"| {turns}, n = {updates['bare']['ms']['n']} | {row['save_ms']['wait']['median']:.0f} ms |"
        )
    return "\n".join([*lines, "", _footnote(result)])


def convolution_table() -> str:
    """Each product of some convolutions in the way that is chosen, and as XLA has it."""
    result = read("convolution")
    lines = ["| product | way | ms | XLA's own, ms |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        chosen, native = (row["ms"][way]["median"] for way in (row["chosen"], "native"))
        lines.append(f"| {name} | {row['chosen']} | {chosen:.2f} | {native:.2f} |")
    return "\n".join([*lines, "", _footnote(result)])


def memory_table() -> str:
    """Training with freed memory kept and given back."""
    result = read("memory")
    lines = ["| training, images/s | memory kept | given back | ratio |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        kept, back = (row[way]["median"] for way in ("kept", "given back"))
        lines.append(f"| {name} | {kept:,.1f} | {back:,.1f} | {kept / back:.2f} |")
    return "\n".join([*lines, "", _footnote(result)])


def scan_table() -> str:
    """Updates in one call beside as many calls."""
    result = read("scan")
    lines = ["| training, images/s | step by step | in `lax.scan` | time in `lax.scan` |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        rates = (row[way]["median"] for way in ("step by step", "in lax.scan"))
        cells = " | ".join(f"{rate:,.{0 if rate >= 100 else 1}f}" for rate in rates)
        lines.append(f"| {name} | {cells} | {row['time_in_scan']:.2f} |")
    return "\n".join([*lines, "", _footnote(result)])


def checkpoint_table() -> str:
    """What a checkpoint takes, and orbax's two formats."""
    result = read("checkpoint")
    whats = list(next(iter(result["rows"].values()))["ms"])
    lines = ["| ms | MB | " + " | ".join(whats) + " |", "|---" * (len(whats) + 2) + "|"]
    for name, row in result["rows"].items():
        cells = " | ".join(f"{row['ms'][what]['median']:,.1f}" for what in whats)
        lines.append(f"| `{name}` | {row['bytes'] / 1e6:,.1f} | {cells} |")
    return "\n".join([*lines, "", _footnote(result)])


def measured(name: str) -> str:
    """The ``Measured:`` paragraph of an experiment."""
    if row := read("speed")["rows"].get(name):
        text = (
            f"Measured: {row['mean_accuracy_percent']:.2f} % of the test images right ({row['target_percent']:g} % is the aim), mean of "
            f"{row['seconds']['n']}, {row['mean_seconds']:,.0f} s on {row['on']}, in {row['dtype']}."
        )
        return textwrap.fill(text, 110)
    result = read("time_to_accuracy")
    if name not in result["rows"]:
        return "Measured: not yet."
    row = result["rows"][name]
    error = row["error_percent"]
    text = (
        f"Measured: {row['mean_error_percent']:.2f} % {row['split']} error after {row['epochs']:.0f} epochs, "
        f"mean of {error['n']} seeds ({error['min']:.2f} to {error['max']:.2f}), {row['seconds']['median']:.0f} s on {result['hardware']}, "
        f"jax {result['versions']['jax']}."
    )
    return textwrap.fill(text, 110)


def _footnote(result: dict) -> str:
    return f"{result['hardware']}, jax {result['versions']['jax']}, measured {result['date']}; the clock: {result['clock']}."


BLOCKS = {
    "accuracy": accuracy_table,
    "speed": speed_table,
    "records": records_table,
    "startup": startup_table,
    "photographs": photographs_table,
    "scaling": scaling_table,
    "seeds": seeds_table,
    "reliability": reliability_table,
    "overhead": overhead_table,
    "convolution": convolution_table,
    "memory": memory_table,
    "scan": scan_table,
    "checkpoint": checkpoint_table,
}


def filled(path: pathlib.Path) -> str:
    """The file's text with its numbers up to date."""
    text = path.read_text()
    if path.suffix == ".md":
        for name in re.findall(r"<!-- results: (\w+) -->", text):
            block = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = block.sub(lambda m, name=name: m[1] + BLOCKS[name]() + "\n" + m[2], text)
        return text
    return re.sub(
        r"^Measured:.*?(?=\n\n|\n?\"\"\")", lambda _: measured(path.stem), text, flags=re.DOTALL | re.MULTILINE
    )


def main() -> int:
    """Write or check all files that hold numbers."""
    if not FOLDER.is_dir():
        print("there are no results")
        return 1
    stale = []
    for path in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "experiments").glob("*.py")),
    ]:
        text = filled(path)
        if text != path.read_text():
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(text)
    if "--check" in sys.argv and stale:
        print(f"not what benchmarks/results say: {', '.join(map(str, stale))}; run python benchmarks/tables.py")
        return 1
    print(f"{len(stale)} files written" if stale else "all numbers are those of benchmarks/results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
