"""Activations in deep networks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from jaxcnn.claims.claim import Claim, Measured, Outcome, Size, late, minus, train
from jaxcnn.claims.drawing import curves, thinned
from jaxcnn.claims.setting import MNIST, config, small
from jaxcnn.claims.verdict import Question
from jaxcnn.losses import cross_entropy

_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def _measure(size: Size) -> Measured:
    steps, depth = size.pick(40, 600, 2000), size.pick(4, 8, 12)
    curves_of, final, norms, best = {}, {}, {}, {}
    for name in ("relu", "tanh", "sigmoid"):
        rates = [{"optimizer.learning_rate": rate} for rate in size.pick(_RATES[2:3], _RATES, _RATES)]
        deep = config("mlp", small(size, MNIST), steps, hidden=(128,) * depth, activation=name, schedule="constant")
        found = train(deep, size, rates, test=False)
        # The fifth of the run at the end is the loss that counts; each activation has the rate that is best for it.
        ends = [[late(outcome.loss) for outcome in outcomes] for outcomes in found]
        chosen = min(range(len(ends)), key=lambda i: float(np.nan_to_num(np.mean(ends[i]), nan=np.inf)))
        final[name], best[name] = ends[chosen], rates[chosen]["optimizer.learning_rate"]
        curves_of[f"{name} (rate {best[name]:g})"] = [thinned(outcome.loss) for outcome in found[chosen]]
        norms[name] = [_gradient_norms(outcome) for outcome in found[chosen]]
    points = min(20, steps)
    return Measured(
        {"tanh": minus(final["tanh"], final["relu"]), "sigmoid": minus(final["sigmoid"], final["relu"])},
        {
            "updates": [(i + 0.5) * steps / points for i in range(points)],
            "loss": curves_of,
            "gradient_norms": norms,
            "rates": best,
        },
    )


def _gradient_norms(outcome: Outcome) -> list[float]:
    """Norm of the gradient of each layer's kernel before the first update, input to output."""
    task, seed = outcome.task, outcome.seed
    params = task.init(seed).params
    batch = next(task.load("train", train=True).train_batches(seed, 256, 0))

    def loss(params: Any) -> jax.Array:
        logits = task.model.apply({"params": params}, task.normalise()(batch["image"]))
        return jnp.mean(cross_entropy(logits, batch["label"]))  # type: ignore[arg-type]

    grads = jax.jit(jax.grad(loss))(params)
    names = sorted(grads, key=lambda name: (name == "head", name))
    return [float(jnp.linalg.norm(grads[name]["kernel"])) for name in names]


def _draw(axes: Axes, shown: Mapping[str, Any]) -> None:
    curves(axes, shown["updates"], shown["loss"], "update", "training loss (nats)")
    axes.set_yscale("log")


CLAIMS = [
    Claim(
        "relu",
        "A deep network trains faster with ReLU than with tanh or sigmoid",
        "More Tricks: 'change activation function from sigmoid to ReLU (no more vanishing gradient)'",
        "Dense layers of 128 units in a row, each activation at the best of the same rates; compared is the loss over the last "
        "fifth of the updates.",
        {
            "tanh": Question("training loss, tanh minus ReLU", "nats", above=0.0),
            "sigmoid": Question("training loss, sigmoid minus ReLU", "nats", above=0.0),
        },
        _measure,
        _draw,
    )
]
