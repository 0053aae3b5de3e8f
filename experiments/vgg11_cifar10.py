"""VGG-11 with BatchNorm and small dense layers on CIFAR-10. No paper states a figure for it.

./launch.sh train vgg11_cifar10 --data_dir=DIR

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, LogConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=100,
    model=ModelConfig("vgg11_bn", overrides={"hidden": (512, 512), "pooled": 1}),
    data=DataConfig("cifar10", batch_size=128),
    augment=AugmentConfig(pad_crop=4, flip=True),
    optimizer=OptimizerConfig("sgd", learning_rate=0.05, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("cosine", warmup=0.02),
    log=LogConfig(every=100),
)
