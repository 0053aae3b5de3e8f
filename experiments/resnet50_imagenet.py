"""ResNet-50 on ImageNet: 24.7 % top-1 error, one crop (the authors' repository); 23.9 % for v1.5, as here (torchvision).

./launch.sh train resnet50_imagenet --data_dir=DIR

Measured: not yet.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=90,
    model=ModelConfig("resnet50"),
    data=DataConfig("imagenet2012", eval_split="validation", batch_size=256, image_size=224, fit="crop"),
    augment=AugmentConfig(flip=True, crop="resized"),
    optimizer=OptimizerConfig("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig("step", milestones=(1 / 3, 2 / 3), factor=0.1),
)
