"""VGG-16 on ImageNet: 25.6 % top-1 and 8.1 % top-5 error at one scale (Simonyan & Zisserman 2015, table 3, D, S in [256, 512]).

./launch.sh train vgg16_imagenet --data_dir=DIR

Training images are random squares of 224 of an image whose shorter side is 256 to 512, flipped, with AlexNet's
noise of colour (scale jittering).

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=74,
    model=ModelConfig("vgg16"),
    data=DataConfig("imagenet2012", eval_split="validation", batch_size=256, image_size=224, fit="crop"),
    augment=AugmentConfig(flip=True, crop="scale", shorter_side=(256.0, 512.0), lighting=0.1),
    optimizer=OptimizerConfig("sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("step", milestones=(0.25, 0.5, 0.75), factor=0.1),
)
