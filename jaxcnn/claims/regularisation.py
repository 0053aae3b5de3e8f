"""What helps where there are few images: dropout, augmentation."""

from typing import Any

import jaxcnn.claims.drawing as drawing
from jaxcnn.claims.claim import Claim, Measured, Size, accuracies, minus, train
from jaxcnn.claims.setting import MNIST, config, small
from jaxcnn.claims.verdict import Question
from jaxcnn.config import AugmentConfig


def _few(size: Size) -> dict[str, Any]:
    """A thirtieth of the training images."""
    return {**small(size, MNIST), "train_split": size.pick("train[:300]", "train[:2000]", "train[:2000]")}


def _dropout(size: Size) -> Measured:
    """So many updates that either way has ended: with dropout a network learns more slowly."""
    steps, hidden = size.pick(100, 3000, 12000), size.pick((256, 256), (1024, 1024), (4096, 4096))
    found = {}
    for name, rate in (("without", 0.0), ("dropout 1/2", 0.5)):
        found[name] = accuracies(train(config("mlp", _few(size), steps, hidden=hidden, dropout_rate=rate), size)[0])
    return Measured({"dropout": minus(found["dropout 1/2"], found["without"])}, {"accuracy": found})


def _augmentation(size: Size) -> Measured:
    steps, found = size.pick(60, 1500, 6000), {}
    for name, augment in (
        ("as they are", AugmentConfig()),
        ("moved at random", AugmentConfig(shift=2, rotate=10, zoom=0.1)),
    ):
        found[name] = accuracies(train(config("lenet5", _few(size), steps, augment=augment), size)[0])
    return Measured({"augmentation": minus(found["moved at random"], found["as they are"])}, {"accuracy": found})


CLAIMS = [
    Claim(
        "dropout",
        "Dropout after the big dense layers makes a network generalise better",
        "More Tricks: 'add a dropout layer after two hidden FFN layers (better robustness / regularization)'",
        "A perceptron of two wide hidden layers, few training images, with and without dropout.",
        {"dropout": Question("test accuracy, with dropout minus without", "percentage points", above=0.0)},
        _dropout,
        drawing.accuracy,
    ),
    Claim(
        "augmentation",
        "Augmented images make a network generalise better",
        "More Tricks: 'data augmentation'",
        "LeNet-5, few training images, as they are and shifted, turned and zoomed at random.",
        {"augmentation": Question("test accuracy, augmented minus not", "percentage points", above=0.0)},
        _augmentation,
        drawing.accuracy,
    ),
]
