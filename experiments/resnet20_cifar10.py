"""ResNet-20 on CIFAR-10: 8.75 % test error (He et al. 2016a, table 6), by the recipe of their section 4.2.

./launch.sh train resnet20_cifar10 --data_dir=DIR

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, LogConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    steps=64_000,
    model=ModelConfig("resnet20_cifar"),
    data=DataConfig("cifar10", batch_size=128),
    augment=AugmentConfig(pad_crop=4, flip=True),
    optimizer=OptimizerConfig("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig("step", milestones=(0.5, 0.75), factor=0.1),
    log=LogConfig(every=100),
)
