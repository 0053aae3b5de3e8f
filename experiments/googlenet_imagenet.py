"""GoogLeNet of 2014 on ImageNet: 10.07 % top-5 error, one network and one crop (Szegedy et al. 2015, table 3).

./launch.sh train googlenet_imagenet --data_dir=DIR

The rate falls by 4 % every 8 epochs (section 6); the paper states neither its start nor the batch size and the length.

Training images are crops of 8 to 100 % of the area, flipped.

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=240,
    model=ModelConfig("googlenet_2014", overrides={"aux": True}),
    data=DataConfig("imagenet2012", eval_split="validation", batch_size=256, image_size=224, fit="crop"),
    augment=AugmentConfig(flip=True, crop="resized"),
    optimizer=OptimizerConfig("sgd", learning_rate=0.01, momentum=0.9, weight_decay=2e-4),
    schedule=ScheduleConfig("step", milestones=tuple(epoch / 240 for epoch in range(8, 240, 8)), factor=0.96),
)
