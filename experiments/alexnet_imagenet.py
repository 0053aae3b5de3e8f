"""AlexNet of 2012 on ImageNet: 40.7 % top-1 and 18.2 % top-5 error (Krizhevsky et al. 2012, table 2), by their section 5.

./launch.sh train alexnet_imagenet --data_dir=DIR

Training images are random squares of 227 of an image whose shorter side is 256, flipped, with noise along the principal
components of colour; evaluation averages ten views (section 4.1).

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=90,
    model=ModelConfig("alexnet_2012"),
    data=DataConfig(
        "imagenet2012", eval_split="validation", batch_size=128, image_size=227, fit="crop", eval_views="ten"
    ),
    augment=AugmentConfig(flip=True, crop="scale", shorter_side=(256.0, 256.0), lighting=0.1),
    optimizer=OptimizerConfig("sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("step", milestones=(0.25, 0.5, 0.75), factor=0.1),
)
