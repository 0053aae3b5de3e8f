"""WRN-28-10 on CIFAR-10: 4.00 % test error, median of 5 runs (Zagoruyko & Komodakis 2016, table 5), by their section 3.

./launch.sh train wrn28_10_cifar10 --data_dir=DIR

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, LogConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=200,
    model=ModelConfig("wrn28_10_cifar"),
    data=DataConfig("cifar10", batch_size=128),
    augment=AugmentConfig(pad_crop=4, flip=True),
    optimizer=OptimizerConfig("sgd", learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleConfig("step", milestones=(0.3, 0.6, 0.8), factor=0.2),
    log=LogConfig(every=100),
)
