"""AlexNet of 2012 on ImageNet: 40.7 % top-1 and 18.2 % top-5 error (Krizhevsky et al. 2012, table 2), by their section 5.

./launch.sh train alexnet_imagenet --data_dir=DIR

The dataset must fit memory as it is: a part of it, e.g. --data.train_split=train[:1%]. Images are centre crops, flipped;
the paper's random crops, its change of colours and its average over ten crops are not among the augmentations yet.

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=90,
    model=ModelConfig("alexnet_2012"),
    data=DataConfig("imagenet2012", eval_split="validation", batch_size=128, image_size=227, fit="crop"),
    augment=AugmentConfig(flip=True),
    optimizer=OptimizerConfig("sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("step", milestones=(0.25, 0.5, 0.75), factor=0.1),
)
