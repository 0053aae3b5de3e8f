"""MNIST to 99 % in half an epoch: a narrow network, by the recipe of ``speed_cifar10``.

./launch.sh train speed_mnist --data_dir=DIR

Timed by ``benchmarks/speed.py``.

Measured: not yet.
"""

from jaxcnn import (
    Config,
    DataConfig,
    LogConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)

config = Config(
    epochs=0.5,
    model=ModelConfig("speednet", overrides={"widths": (16, 32, 64)}),
    data=DataConfig("mnist", batch_size=500, eval_batch_size=2000, eval_views="one"),
    loss=LossConfig(label_smoothing=0.1),
    optimizer=OptimizerConfig(
        "muon",
        learning_rate=0.15,
        momentum=0.6,
        nesterov=True,
        relative=True,
        rest="sgd",
        rest_layers=("fc",),
        rates=("*/bias=20",),
    ),
    schedule=ScheduleConfig("linear"),
    log=LogConfig(every=25),
)
