"""ResNet-18 with a stem for small images on CIFAR-10, by the recipe that is in common use for it.

./launch.sh train resnet18_cifar10 --data_dir=DIR

The usual figure for 200 epochs with this schedule is about 5 % test error; no paper states it.

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, LogConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=200,
    model=ModelConfig("resnet18", overrides={"stem": "small"}),
    data=DataConfig("cifar10", batch_size=128),
    augment=AugmentConfig(pad_crop=4, flip=True),
    optimizer=OptimizerConfig("sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("cosine"),
    log=LogConfig(every=100),
)
