"""MNIST in half an epoch, aiming at 99 %: a narrow network, by the recipe of ``speed_cifar10``.

./launch.sh train speed_mnist --data_dir=DIR

Timed by ``benchmarks/speed.py``.

Measured: 99.25 % of the test images right (99 % is the aim), mean of 20, 10 s on 2 cores of AMD EPYC, in
float32.
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
        rest_momentum=0.6,
        rest_layers=("fc",),
        rates=("*/bias=20",),
    ),
    schedule=ScheduleConfig("linear"),
    log=LogConfig(every=25),
)
