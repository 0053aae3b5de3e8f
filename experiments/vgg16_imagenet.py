"""VGG-16 on ImageNet: 27.0 % top-1 and 8.8 % top-5 error at one scale (Simonyan & Zisserman 2015, table 3, D), by section 3.1.

./launch.sh train vgg16_imagenet --data_dir=DIR

The dataset must fit memory as it is: a part of it, e.g. --data.train_split=train[:1%]. Images are centre crops, flipped;
the paper's random crops and changes of colour are not among the augmentations yet.

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=74,
    model=ModelConfig("vgg16"),
    data=DataConfig("imagenet2012", eval_split="validation", batch_size=256, image_size=224, fit="crop"),
    augment=AugmentConfig(flip=True),
    optimizer=OptimizerConfig("sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("step", milestones=(0.25, 0.5, 0.75), factor=0.1),
)
