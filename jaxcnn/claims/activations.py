"""Activations in deep networks."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

import jaxcnn.claims.drawing as drawing
from jaxcnn.claims.claim import Claim, Measured, Size, late, minus, task_of, train
from jaxcnn.claims.drawing import thinned
from jaxcnn.claims.setting import MNIST, config, small
from jaxcnn.claims.verdict import Question
from jaxcnn.config import Config
from jaxcnn.losses import cross_entropy
from jaxcnn.task import Task
from jaxcnn.typing import Array, Batch

_LABELS = {"relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}
_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def _deep(size: Size, activation: str, steps: int) -> Config:
    hidden = (128,) * size.pick(4, 8, 12)
    return config("mlp", small(size, MNIST), steps, hidden=hidden, activation=activation, schedule="constant")


def _trains_faster(size: Size) -> Measured:
    steps = size.pick(40, 600, 2000)
    curves_of, final, best = {}, {}, {}
    for name, label in _LABELS.items():
        rates = [{"optimizer.learning_rate": rate} for rate in size.pick(_RATES[2:3], _RATES, _RATES)]
        found = train(_deep(size, name, steps), size, rates, test=False)
        # The fifth of the run at the end is the loss that counts; each activation has the rate that is best for it.
        ends = [[late(outcome.loss) for outcome in outcomes] for outcomes in found]
        chosen = min(range(len(ends)), key=lambda i: float(np.nan_to_num(np.mean(ends[i]), nan=np.inf)))
        final[name], best[name] = ends[chosen], rates[chosen]["optimizer.learning_rate"]
        curves_of[f"{label} (rate {best[name]:g})"] = [thinned(outcome.loss) for outcome in found[chosen]]
    points = min(20, steps)
    return Measured(
        {"tanh": minus(final["tanh"], final["relu"]), "sigmoid": minus(final["sigmoid"], final["relu"])},
        {"updates": [(i + 0.5) * steps / points for i in range(points)], "loss": curves_of, "rates": best},
    )


def _draw_loss(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.curves(axes, shown["updates"], shown["loss"], "update", "training loss (nats)")
    drawing.logarithmic(axes)


def _vanishes(size: Size) -> Measured:
    norms = {}
    for name, label in _LABELS.items():
        norm_of = _gradient_norms(task_of(_deep(size, name, 1), size))
        norms[label] = [norm_of(seed) for seed in range(size.seeds)]
    lost = {label: [float(np.log10(row[-1] / row[0])) for row in rows] for label, rows in norms.items()}
    return Measured(
        {"sigmoid": minus(lost["sigmoid"], lost["ReLU"]), "relu": lost["ReLU"]},
        {"layers": list(range(1, len(norms["ReLU"][0]) + 1)), "norms": norms},
    )


def _gradient_norms(task: Task) -> Callable[[int], list[float]]:
    """``seed ->`` norm of the gradient of each layer's kernel before the first update, input to output."""

    @jax.jit
    def norms(params: Any, batch: Batch) -> dict[str, Array]:
        def loss(params: Any) -> Array:
            logits = task.model.apply({"params": params}, task.normalise()(batch["image"]))
            return jnp.mean(cross_entropy(logits, batch["label"]))  # type: ignore[arg-type]

        return {name: jnp.linalg.norm(grads["kernel"]) for name, grads in jax.grad(loss)(params).items()}

    def of_seed(seed: int) -> list[float]:
        found = norms(task.init(seed).params, next(task.load("train", train=True).train_batches(seed, 256, 0)))
        return [float(found[name]) for name in sorted(found, key=lambda name: (name == "head", name))]

    return of_seed


def _draw_norms(axes: Axes, shown: Mapping[str, Any]) -> None:
    drawing.curves(axes, shown["layers"], shown["norms"], "layer, from the input", "norm of its kernel's gradient")
    axes.set_xticks(shown["layers"])
    axes.set_yscale("log")


CLAIMS = [
    Claim(
        "relu",
        "A deep network trains faster with ReLU than with tanh or sigmoid",
        "More Tricks: 'change activation function from sigmoid to ReLU (no more vanishing gradient)'",
        "Dense layers of 128 units in a row, each activation at the best of the same rates; compared is the loss "
        "over the last fifth of the updates.",
        {
            "tanh": Question("training loss, tanh minus ReLU", "nats", above=0.0),
            "sigmoid": Question("training loss, sigmoid minus ReLU", "nats", above=0.0),
        },
        _trains_faster,
        _draw_loss,
    ),
    Claim(
        "vanishing_gradient",
        "With sigmoid the gradient vanishes towards the input, with ReLU not",
        "More Tricks: 'change activation function from sigmoid to ReLU (no more vanishing gradient)'",
        "The same networks before their first update: the gradient of the loss over 256 images. What is lost is the "
        "norm of the last layer's gradient over that of the first.",
        {
            "sigmoid": Question("lost with sigmoid minus lost with ReLU", "powers of ten", above=1.0),
            "relu": Question("lost with ReLU", "powers of ten", within=1.0),
        },
        _vanishes,
        _draw_norms,
    ),
]
