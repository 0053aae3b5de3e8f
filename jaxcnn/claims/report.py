"""What a claim leaves behind: ``result.json`` and a picture."""

import datetime
import json
import math
import pathlib
import textwrap
import time
from collections.abc import Mapping
from typing import Any

import jax
import matplotlib.pyplot as plt

from jaxcnn import environment, plots
from jaxcnn.claims.claim import Claim, Size
from jaxcnn.claims.verdict import together
from jaxcnn.rundir import write_text


def run(claim: Claim, size: Size, folder: pathlib.Path) -> dict[str, Any]:
    """Measure the claim, write ``result.json`` and ``figure.png`` into ``folder``; returns what the first holds."""
    begin, device = time.monotonic(), jax.devices()[0]
    measured = claim.measure(size)
    assert set(measured.differences) == set(claim.questions), (claim.name, set(measured.differences))
    answers = {name: question.answer(measured.differences[name]) for name, question in claim.questions.items()}
    result = {
        "claim": claim.name,
        "says": claim.says,
        "where": claim.where,
        "how": claim.how,
        "size": size.name,
        "seeds": size.seeds,
        "verdict": together(answers),
        "answers": answers,
        "shown": measured.shown,
        "seconds": time.monotonic() - begin,
        "on": f"{environment.num_cores()} cores" if device.platform == "cpu" else device.device_kind,
        "date": datetime.date.today().isoformat(),
        "versions": environment.versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    draw(claim, result, folder / "figure.png")
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def draw(claim: Claim, result: Mapping[str, Any], path: pathlib.Path) -> None:
    """The picture of a result: the claim as its title, the verdict below."""
    with plt.rc_context({"font.size": 15, "axes.titlesize": 17, "lines.linewidth": 2.5, "legend.fontsize": 13}):
        figure, axes = plt.subplots(figsize=(10, 6.2), layout="constrained")
        claim.draw(axes, result["shown"])
        axes.spines[["top", "right"]].set_visible(False)
        lines = math.ceil(len(claim.says) / 72)
        axes.set_title("\n".join(textwrap.wrap(claim.says, len(claim.says) // lines + 8)), pad=14)  # of like length
        figure.supxlabel(verdict_line(result), fontsize=13, color="dimgray")
        plots.save(figure, path)


def verdict_line(result: Mapping[str, Any]) -> str:
    """The verdict, and the interval of each of its parts."""
    parts = [f"{answer['what']}: {interval(answer)}" for answer in result["answers"].values()]
    return "\n".join([f"{result['verdict']}  ({result['seeds']} seeds, 95 % intervals)", *parts])


def interval(answer: Mapping[str, Any]) -> str:
    """``+1.20 +- 0.30 percentage points (asked: > 0)``."""
    half = "?" if answer["ci95"] is None else f"{answer['ci95']:.2g}"
    asked = f"> {answer['above']:g}" if "above" in answer else f"within {answer['within']:g}"
    return f"{answer['mean']:+.3g} ± {half} {answer['unit']} (asked: {asked})"
